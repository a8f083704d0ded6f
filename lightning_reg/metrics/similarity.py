"""Similarity of a pair before and after registration, for reports."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lightning_reg.functional import lncc, mutual_information
from lightning_reg.metrics.sums import Correlation
from lightning_reg.metrics.table import WHEN
from lightning_reg.spatial import Image, Pair, Transform, slabs, warped_slab

WINDOW = 9
"""Edge of the windows of local correlation, voxels."""
COUNTED = 32_000_000
"""Approximate number of voxels of a local correlation; larger images are sampled."""
DRAWN = 200_000
"""Approximate number of voxels of a joint histogram, which needs no more."""


@torch.no_grad()
def similarities(pair: Pair, start: Transform, transform: Transform) -> dict[str, dict[str, float]]:
    """Compute NCC, LNCC and mutual information (nats) before and after registration.

    Only voxels where the warped image has data are used, inside the fixed mask if there is one; for
    LNCC at most about 32 million, for mutual information about 200,000.

    Args:
        pair: preprocessed, on its working grids.
    """
    found = {
        when: _similarity(pair, phi) for when, phi in zip(WHEN, (start, transform), strict=True)
    }
    return {name: {when: found[when][name] for when in WHEN} for name in ("ncc", "lncc", "mi")}


def _similarity(pair: Pair, transform: Transform) -> dict[str, float]:
    grid = pair.fixed.grid
    mask = None if pair.fixed_mask is None else pair.fixed_mask.resampled(grid).tensor > 0
    everywhere = Image(
        torch.ones(1, 1, 1, 1, 1).to(pair.moving.tensor).expand_as(pair.moving.tensor),
        pair.moving.grid,
    )
    correlation, local, weights = Correlation(), 0.0, 0.0
    drawn: list[Tensor] = []
    size, plane = math.prod(grid.shape), math.prod(grid.shape[1:])
    step, every = max(1, size // DRAWN), max(1, round(size / COUNTED))
    for number, slab in enumerate(slabs(grid, halo=WINDOW // 2)):
        displacement = transform.displacement(slab.wide).float()  # the dtype of the images
        fixed, warped = (
            slab.wide_of(pair.fixed.tensor),
            warped_slab(pair.moving, displacement, slab.wide).tensor,
        )
        inside = warped_slab(everywhere, displacement, slab.wide).tensor
        if mask is not None:
            inside = inside * slab.wide_of(mask)
        correlation.add(slab.inner(fixed), slab.inner(warped), slab.inner(inside))
        if number % every == 0:
            counted = torch.zeros_like(inside)
            slab.inner(counted).copy_(slab.inner(inside))
            weight = float(counted.double().sum())
            local, weights = (
                local + weight * float(lncc(fixed, warped, WINDOW, counted)),
                weights + weight,
            )
        first = -slab.first * plane % step  # every n-th voxel of the whole image
        drawn.append(
            torch.stack([slab.inner(t).flatten()[first::step] for t in (fixed, warped, inside)])
        )
    some = torch.cat(drawn, dim=1).unsqueeze(1)
    return {
        "ncc": correlation.value,
        "lncc": local / max(weights, 1e-6),
        "mi": float(mutual_information(some[:1], some[1:2], mask=some[2:])),
    }
