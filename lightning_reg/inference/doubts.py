"""Warnings about a registration, one sentence each for the user."""

from __future__ import annotations

import torch

from lightning_reg.inference.optimization import Optimized
from lightning_reg.spatial import Pair, Transform


@torch.no_grad()
def missed(pair: Pair, transform: Transform) -> str | None:
    """Warn if less than a quarter of the fixed image (of its mask, if it has one) is mapped into the moving image."""
    grid = pair.fixed.grid
    points = grid.scattered(2_000_000)
    if pair.fixed_mask is not None:
        i, j, k = points[0].long()
        points = points[:, :, pair.fixed_mask.tensor[0, 0, i, j, k] > 0]
    if points.shape[2] == 0:  # the mask has only a few voxels of a large image
        return None
    points = points[:, :, :: max(1, points.shape[2] // 20_000)]
    inside = float(pair.moving.grid.contains(transform.map_world(grid.to_world(points))).double().mean())
    if inside >= 0.25:
        return None
    return (
        f"Only {100 * inside:.0f} % of the fixed image lands inside the moving one: do not trust this registration; try another start "
        "(--start), a mask, or a fixed image cropped to what both show."
    )


def two_modalities(optimized: Optimized | None) -> str | None:
    """Warn if the images were registered as two modalities."""
    if optimized is None or optimized.unlike is None:
        return None
    return (
        f"The images are registered as two modalities, because their intensities correlate by {optimized.unlike:.2f} once an affine map "
        "has brought them together; if they are of one, give --instance bspline."
    )


def undetermined(optimized: Optimized | None) -> str | None:
    """Warn if registrations from several starts disagreed."""
    if optimized is None or optimized.apart is None:
        return None
    return (
        f"These images do not determine their alignment: registrations from several starts ended {optimized.apart:.1f} mm apart. The "
        "start is returned as it is; train a network on labelled pairs, or give another start (--start), masks, or a fixed image cropped "
        "to what both show."
    )


def nothing_common(pair: Pair) -> str | None:
    """Warn if the two label maps share no label, so that every Dice is 0."""
    if pair.fixed_labels is None or pair.moving_labels is None:
        return None
    fixed, moving = (set(labels.tensor.unique().tolist()) - {0} for labels in (pair.fixed_labels, pair.moving_labels))
    if fixed & moving:
        return None
    theirs, ours = (", ".join(str(int(n)) for n in sorted(labels)[:8]) for labels in (fixed, moving))
    return f"The label maps have no label in common (fixed: {theirs}; moving: {ours}), so every Dice is 0; are they of the same protocol?"
