"""Generated anatomy of no organ: random label maps, random deformations, and random contrasts of
label maps.

Everything is drawn from a ``torch.Generator`` and computed on its device.
"""

from lightning_reg.shapes.contrast import RandomContrast
from lightning_reg.shapes.maps import random_map
from lightning_reg.shapes.motion import Motion, RandomMotion

__all__ = ["Motion", "RandomContrast", "RandomMotion", "random_map"]
