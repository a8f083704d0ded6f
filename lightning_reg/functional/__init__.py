"""Stateless functions on tensors.

Conventions: tensors ``(B, C, I, J, K)`` in the voxel axes of the file, displacements in voxels,
``warped(x) = moving(x + u(x))``; see ``docs/geometry.md``.
"""

from lightning_reg.functional.affine import (
    affine_matrix,
    affine_parameters,
    in_plane_parameters,
    rotation_matrix,
)
from lightning_reg.functional.box import box_mean
from lightning_reg.functional.bspline import (
    basis_matrix,
    bspline,
    bspline_at,
    lattice_shape,
    subdivide,
)
from lightning_reg.functional.correlation import lncc
from lightning_reg.functional.displacement import Inverse, compose, exponentiate, invert
from lightning_reg.functional.folding import folding_penalty
from lightning_reg.functional.jacobian import (
    folded_volume,
    folding_fraction,
    gradient,
    jacobian,
    jacobian_determinant,
    log_determinant,
    non_diffeomorphic_volume,
    sdlogj,
)
from lightning_reg.functional.landmarks import target_registration_error
from lightning_reg.functional.matching import correlation_volume
from lightning_reg.functional.overlap import (
    dice,
    dice_of_counts,
    label_values,
    of_label,
    one_hot,
    overlap_counts,
    soft_dice,
)
from lightning_reg.functional.points import (
    Array,
    beside,
    identity_points,
    in_plane,
    to_grid_sample,
    transform_points,
    transform_vectors,
)
from lightning_reg.functional.reduce import bounding_box, masked_mean
from lightning_reg.functional.regularity import (
    bending,
    bspline_bending,
    curvature,
    diffusion,
    isotropic_total_variation,
    total_variation,
)
from lightning_reg.functional.similarity import (
    mean_gradient,
    mind_ssc,
    mutual_information,
    ncc,
    ngf,
    ssd,
    ssim,
)
from lightning_reg.functional.surface import SurfaceDistance, surface_distance, surface_distances
from lightning_reg.functional.warp import pool, resize, resize_displacement, sample, splat, warp

__all__ = [
    "Inverse",
    "SurfaceDistance",
    "affine_matrix",
    "affine_parameters",
    "basis_matrix",
    "bending",
    "beside",
    "bounding_box",
    "box_mean",
    "bspline",
    "bspline_at",
    "bspline_bending",
    "compose",
    "correlation_volume",
    "curvature",
    "dice",
    "dice_of_counts",
    "diffusion",
    "exponentiate",
    "folded_volume",
    "folding_fraction",
    "folding_penalty",
    "gradient",
    "Array",
    "identity_points",
    "in_plane",
    "in_plane_parameters",
    "invert",
    "isotropic_total_variation",
    "jacobian",
    "jacobian_determinant",
    "label_values",
    "lattice_shape",
    "lncc",
    "log_determinant",
    "masked_mean",
    "mean_gradient",
    "mind_ssc",
    "mutual_information",
    "ncc",
    "ngf",
    "non_diffeomorphic_volume",
    "of_label",
    "one_hot",
    "overlap_counts",
    "pool",
    "resize",
    "resize_displacement",
    "rotation_matrix",
    "sample",
    "sdlogj",
    "soft_dice",
    "splat",
    "ssd",
    "ssim",
    "subdivide",
    "surface_distance",
    "surface_distances",
    "target_registration_error",
    "to_grid_sample",
    "total_variation",
    "transform_points",
    "transform_vectors",
    "warp",
]
