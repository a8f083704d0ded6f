"""Files of the Learn2Reg challenge, and its variants of two metrics.

They allow comparison with the challenge's leaderboards. For any other purpose, report the metrics of this project where the two differ.
Source: the evaluation code published by the challenge (Hering et al., IEEE TMI 42(3), 2023).
"""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import torch
from torch import Tensor

from lightning_reg.functional import SurfaceDistance, jacobian_determinant, surface_distances, transform_points
from lightning_reg.spatial import Grid, Pair, Transform


def voxel_displacement(transform: Transform, fixed: Grid, moving: Grid) -> Tensor:
    """``moving voxel of phi(x) - x`` for every voxel ``x`` of the fixed grid, ``(1, 3, I, J, K)``."""
    points = fixed.points()
    return transform_points(fixed.voxel_map(moving), points + transform.displacement(fixed)) - points


def write_displacement(path: Path, displacement: Tensor) -> None:
    """The challenge's file: float32 NIfTI ``(I, J, K, 3)`` in voxels, identity affine."""
    nib.save(nib.Nifti1Image(displacement[0].permute(1, 2, 3, 0).contiguous().float().numpy(), torch.eye(4).numpy()), path)


def sdlogj(displacement: Tensor) -> float:
    """The challenge's SDlogJ: standard deviation of ``log(clip(det J + 3, 1e-9, 1e9))``, without two voxels at each border."""
    determinant = jacobian_determinant(displacement)[..., 2:-2, 2:-2, 2:-2]
    return float((determinant + 3).clamp(1e-9, 1e9).log().std(correction=0))


def hd95(pair: Pair, transform: Transform) -> float | None:
    """The challenge's HD95: mean over the labels, in voxels regardless of their size."""
    labels = pair.labels()
    if not labels or pair.fixed_labels is None or pair.moving_labels is None:
        return None
    grid = pair.fixed.grid
    warped = pair.moving_labels.warped(transform, grid).tensor
    found: list[SurfaceDistance] = surface_distances(pair.fixed_labels.resampled(grid).tensor[0, 0], warped[0, 0], labels, 1.0)
    return float(torch.tensor([distance.hd95 for distance in found]).nanmean())
