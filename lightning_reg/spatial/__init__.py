"""Grids, images, pairs and transforms: tensors that know where they lie."""

from lightning_reg.spatial.evaluation import Case, evaluate, totals
from lightning_reg.spatial.grid import Grid
from lightning_reg.spatial.image import Image
from lightning_reg.spatial.pair import Pair
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
    "Affine",
    "BSpline",
    "Case",
    "Composition",
    "Displacement",
    "Grid",
    "Identity",
    "Image",
    "IntegratedGradient",
    "Pair",
    "Transform",
    "Velocity",
    "evaluate",
    "parts",
    "split_affine",
    "totals",
]
