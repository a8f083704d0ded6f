"""Components of a registration method. They are looked up by their entry-point names, see
:mod:`lightning_reg.registry`.
"""

from lightning_reg.components.interfaces import (
    Backbone,
    Composer,
    Features,
    Growable,
    Head,
    Level,
    LossTerm,
    Registration,
    Staged,
    Stride,
)

__all__ = [
    "Backbone",
    "Composer",
    "Features",
    "Growable",
    "Head",
    "Level",
    "LossTerm",
    "Registration",
    "Staged",
    "Stride",
]
