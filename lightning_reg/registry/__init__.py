"""Discovery of components by entry points, which are listed without importing, loaded one at a
time, and checked on loading.
"""

from lightning_reg.registry.blame import blaming, origin, within_memory
from lightning_reg.registry.constraints import Checked, Instance, Length, Range, annotations_of
from lightning_reg.registry.contract import CONTRACT
from lightning_reg.registry.described import Described, arguments_of
from lightning_reg.registry.entries import (
    Provider,
    chosen,
    name_of,
    providers,
    registered_name,
    registration,
)
from lightning_reg.registry.errors import (
    ArgumentError,
    ComponentError,
    DataError,
    TrainingError,
    UserError,
    did_you_mean,
    in_words,
    require_count,
    require_kind,
    require_known_arguments,
)
from lightning_reg.registry.loading import build, check, construct, load

__all__ = [
    "CONTRACT",
    "ArgumentError",
    "Checked",
    "Instance",
    "Length",
    "Range",
    "annotations_of",
    "ComponentError",
    "DataError",
    "Described",
    "Provider",
    "TrainingError",
    "UserError",
    "arguments_of",
    "blaming",
    "build",
    "check",
    "chosen",
    "construct",
    "load",
    "name_of",
    "did_you_mean",
    "in_words",
    "origin",
    "providers",
    "registered_name",
    "registration",
    "require_count",
    "require_kind",
    "require_known_arguments",
    "within_memory",
]
