"""Finding components: entry points, listed without importing, loaded one at a time, checked when they are loaded."""

from lightning_reg.discovery.blame import blaming, origin
from lightning_reg.discovery.errors import ComponentError, DataError, TrainingError, UserError, nearest
from lightning_reg.discovery.registry import GROUPS, Provider, build, check, construct, load, providers

__all__ = [
    "GROUPS",
    "ComponentError",
    "DataError",
    "Provider",
    "TrainingError",
    "UserError",
    "blaming",
    "build",
    "check",
    "construct",
    "load",
    "nearest",
    "origin",
    "providers",
]
