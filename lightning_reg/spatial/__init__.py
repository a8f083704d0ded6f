"""Grids, images, pairs and transforms: tensors with a position in the world."""

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
from lightning_reg.spatial.transforms import (
    Affine,
    BSpline,
    Composition,
    Displacement,
    Identity,
    IntegratedGradient,
    Transform,
    Velocity,
    parts,
    split_affine,
)

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
    "Slab",
    "Transform",
    "Velocity",
    "assembled",
    "determinant_on",
    "known_on",
    "parts",
    "resampled",
    "slabs",
    "split_affine",
    "warped_slab",
]
