"""Grids, images, pairs and transforms: tensors with a position in the world."""

from lightning_reg.spatial.fields import (
    BSpline,
    Displacement,
    IntegratedGradient,
    SampledTransform,
    Velocity,
    split_affine,
)
from lightning_reg.spatial.grid import Grid
from lightning_reg.spatial.image import Image
from lightning_reg.spatial.pair import Pair
from lightning_reg.spatial.slabs import (
    LARGE,
    Slab,
    assembled,
    determinant_on,
    known_on,
    resampled,
    slabs,
    warped_slab,
)
from lightning_reg.spatial.transforms import Affine, Composition, Identity, Transform, parts
from lightning_reg.spatial.tree import mapped

__all__ = [
    "LARGE",
    "Affine",
    "BSpline",
    "Composition",
    "Displacement",
    "Grid",
    "Identity",
    "Image",
    "IntegratedGradient",
    "Pair",
    "SampledTransform",
    "Slab",
    "Transform",
    "Velocity",
    "assembled",
    "determinant_on",
    "known_on",
    "mapped",
    "parts",
    "resampled",
    "slabs",
    "split_affine",
    "warped_slab",
]
