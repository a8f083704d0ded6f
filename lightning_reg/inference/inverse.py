"""Inverse of a transform, with its residual."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lightning_reg.spatial import Grid, Transform


@dataclass(frozen=True)
class Inverted:
    """Inverse of a transform, with its residual.

    Args:
        transform: moving world to fixed world.
        domain: part of the moving grid that contains the mapped voxels of the fixed image, with a
            margin of some voxels.
        residual: ``mean, p95, largest`` of ``|phi(phi^-1(y)) - y|`` at the mapped voxels, mm.
    """

    transform: Transform
    domain: Grid
    residual: dict[str, float]


@torch.no_grad()
def invert(transform: Transform, grid: Grid, moving: Grid) -> Inverted:
    """Invert a transform, and measure the residual at the mapped voxels of the fixed ``grid``.

    Args:
        transform: fixed world to moving world.
        grid, moving: of the two images.
    """
    inverse = transform.inverse()
    landed = transform.map_world(grid.to_world(grid.scattered(200_000)))
    distance = (transform.map_world(inverse.map_world(landed)) - landed).norm(dim=1)[0]
    voxels = moving.to_voxel(landed)[0]
    low = [
        min(max(int(v) - 8, 0), n - 2) for v, n in zip(voxels.amin(1), moving.shape, strict=True)
    ]
    high = [
        max(min(int(v) + 9, n), a + 2)
        for v, n, a in zip(voxels.amax(1), moving.shape, low, strict=True)
    ]
    domain = moving.cropped(low, [b - a for a, b in zip(low, high, strict=True)])
    return Inverted(inverse, domain, spread_of(distance))


def spread_of(distances: Tensor) -> dict[str, float]:
    """Mean, 95th percentile and maximum."""
    p95 = float(distances.quantile(0.95))
    return {"mean": float(distances.mean()), "p95": p95, "largest": float(distances.max())}
