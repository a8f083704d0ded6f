"""The world of ITK and DICOM: LPS mm, where this project has RAS mm."""

from __future__ import annotations

import numpy as np
import SimpleITK as sitk

from lightning_reg.registry import DataError
from lightning_reg.spatial import Grid

FLIP = np.diag([-1.0, -1.0, 1.0, 1.0])
"""From RAS to LPS, and back."""


def require_perpendicular(grid: Grid) -> None:
    """Refuse a grid that ITK cannot represent.

    Raises:
        DataError: its axes are not perpendicular.
    """
    lps_geometry(grid)


def place_lps(image: sitk.Image, grid: Grid) -> None:
    """Set origin, spacing and direction of an image of a grid's voxels."""
    origin, spacing, direction = lps_geometry(grid)
    image.SetOrigin(origin)
    image.SetSpacing(spacing)
    image.SetDirection(direction)


def lps_geometry(grid: Grid) -> tuple[list[float], list[float], list[float]]:
    """Origin, spacing and direction in LPS."""
    affine, spacing = FLIP @ grid.affine[0], grid.spacing[0]
    direction = affine[:3, :3] / spacing
    if not np.allclose(direction.T @ direction, np.eye(3), atol=1e-3):
        raise DataError(
            f"The axes of {grid} are not perpendicular, which ITK cannot represent; resample the"
            " fixed image to a regular grid."
        )
    return affine[:3, 3].tolist(), spacing.tolist(), direction.flatten().tolist()
