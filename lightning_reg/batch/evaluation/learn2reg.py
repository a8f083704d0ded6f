"""Files of the Learn2Reg challenge, and its variants of metrics.

They allow comparison with the challenge's leaderboards. For any other purpose, report the metrics
of this project where the two differ.
Source: the evaluation code published by the challenge (Hering et al., IEEE TMI 42(3), 2023;
https://github.com/MDL-UzL/L2R, ``evaluation/utils.py``).
"""

from __future__ import annotations

import math
from pathlib import Path

import nibabel as nib
import torch
from torch import Tensor

from lightning_reg.functional import (
    dice,
    jacobian_determinant,
    label_values,
    surface_distances,
    transform_points,
)
from lightning_reg.spatial import Grid, Pair, Transform


def voxel_displacement(transform: Transform, fixed: Grid, moving: Grid) -> Tensor:
    """``moving voxel of phi(x) - x`` at every voxel ``x`` of the fixed grid, (1, 3, I, J, K)."""
    points = fixed.points()
    return (
        transform_points(fixed.voxel_map(moving), points + transform.displacement(fixed)) - points
    )


def file_of(case: str) -> str:
    """Name of the challenge's file for a case, ``disp_FIXED_MOVING.nii.gz``."""
    return f"disp_{'_'.join(case.replace(' ', '-').split('-<-'))}.nii.gz"


def write_displacement(path: Path, displacement: Tensor) -> None:
    """The challenge's file: float32 NIfTI ``(I, J, K, 3)`` in voxels, identity affine."""
    nib.save(
        nib.Nifti1Image(
            displacement[0].permute(1, 2, 3, 0).contiguous().float().numpy(), torch.eye(4).numpy()
        ),
        path,
    )


def sdlogj(displacement: Tensor) -> float:
    """The challenge's SDlogJ: standard deviation of ``log(clip(det J + 3, 1e-9, 1e9))``, without
    two voxels at each border.
    """
    determinant = jacobian_determinant(displacement)[..., 2:-2, 2:-2, 2:-2]
    return float((determinant + 3).clamp(1e-9, 1e9).log().std(correction=0))


def overlap(pair: Pair, transform: Transform) -> tuple[float, float] | None:
    """The challenge's Dice and HD95: means over the labels that both images have.

    Returns:
        Dice, and HD95 in voxels regardless of their size, infinite if a label is lost by warping.
        ``None`` if a label map is missing, or both have no label in common.
    """
    if pair.fixed_labels is None or pair.moving_labels is None:
        return None
    fixed = pair.fixed_labels.resampled(pair.fixed.grid).tensor
    labels = sorted({*label_values(fixed)} & {*label_values(pair.moving_labels.tensor)} - {0})
    if not labels:
        return None
    warped = pair.moving_labels.warped(transform, pair.fixed.grid).tensor
    distances = [d.hd95 for d in surface_distances(fixed[0, 0], warped[0, 0], labels, 1.0)]
    hd95 = torch.tensor(distances).nan_to_num(nan=math.inf).mean()
    return float(dice(fixed, warped, labels).mean()), float(hd95)
