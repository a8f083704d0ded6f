"""Motion between scans, measured by registering sample pairs with instance optimisation."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
import torchio as tio

from lightning_reg.data.preprocessing import Geometry
from lightning_reg.functional import gradient
from lightning_reg.inference.loading import conventional
from lightning_reg.inference.result import Result
from lightning_reg.spatial import Grid

VOXELS = 200_000
"""Voxels of the images on which the motion is measured."""
FOREGROUND = 0.02
"""Foreground: above this, of the range between the percentiles 0.5 and 99.5."""
LIKE = 0.5
"""Correlation after registration from which two images are of one contrast."""
STEEPEST = 0.05
"""Share of the voxels that count as the steepest, see :attr:`Motion.sliding`."""
Relation = Literal["one contrast", "two contrasts", "unrelated"]


@dataclass(frozen=True)
class Motion:
    """Motion between the images of sample pairs, medians over the pairs, inside the foreground of
    the fixed image.

    Args:
        pairs: number of registered pairs.
        seconds: of one registration here.
        median_mm, large_mm: median and 95th percentile of the displacement from the alignment with
            which a training starts (headers or centres).
        affine: share of the squared displacement that an affine map explains, 0 to 1.
        residual_mm: 95th percentile of what is left.
        length_mm: distance over which the rest changes: its root mean square over that of its
            gradient.
        sliding: share of the rest's squared gradient in the steepest 5 % of the voxels: the more,
            the more organs slide along each other.
        relation: of the intensities: ``one contrast`` if the images correlate after registration,
            ``unrelated`` if they do not determine their alignment, else ``two contrasts``.
        correlation: of the images before and after registration.
        reference: mean metrics of the registrations, ``{name: {before, after}}``: what a network
            has to exceed.
    """

    pairs: int
    seconds: float
    median_mm: float
    large_mm: float
    affine: float
    residual_mm: float
    length_mm: float
    sliding: float
    relation: Relation
    correlation: Mapping[str, float] = field(default_factory=dict)
    reference: Mapping[str, Mapping[str, float]] = field(default_factory=dict)


def measure_motion(
    pairs: Iterable[tuple[tio.Subject, tio.Subject]],
    centered: bool,
    progress: Callable[[str], None] | None = None,
) -> Motion | None:
    """Register pairs of subjects at coarse voxels and describe their motion.

    Args:
        pairs: ``(fixed, moving)``.
        centered: whether the displacement is counted from aligned centres of the grids.
        progress: called with a line of text for each pair.

    Returns:
        ``None`` without a pair.
    """
    rows: list[dict[str, Any]] = []
    registrar = conventional("auto")
    for number, subjects in enumerate(pairs, 1):
        if progress is not None:
            progress(f"registering sample pair {number}")
        started = time.perf_counter()
        fixed, moving = (Geometry(canonical=True)(one, VOXELS) for one in subjects)
        result = registrar.register(fixed=fixed, moving=moving)
        rows.append(_described(result, centered) | {"seconds": time.perf_counter() - started})
    if not rows:
        return None
    correlation = {
        when: float(np.mean([row["correlation"][when] for row in rows]))
        for when in ("before", "after")
    }
    unsettled = 2 * sum(row["unsettled"] for row in rows) > len(rows)
    names = set.intersection(*(set(row["reference"]) for row in rows))
    middle = {
        key: float(np.median([row[key] for row in rows]))
        for key in ("seconds", "median_mm", "large_mm", "affine", "residual_mm", "length_mm",
                    "sliding")
    }  # fmt: skip
    return Motion(
        pairs=len(rows),
        relation=(
            "unrelated"
            if unsettled
            else "one contrast"
            if correlation["after"] >= LIKE
            else "two contrasts"
        ),
        correlation=correlation,
        reference={
            name: {
                when: float(np.mean([row["reference"][name][when] for row in rows]))
                for when in ("before", "after")
            }
            for name in sorted(names)
        },
        **middle,
    )


def _described(result: Result, centered: bool) -> dict[str, Any]:
    """Measurements of one registration."""
    pair = result.pair
    grid = pair.fixed.grid
    field = result.displacement_mm("ras").astype(np.float64)
    if centered:
        field = field - (pair.moving.grid.center - grid.center)[0]
    image = pair.fixed.tensor[0, 0].numpy()
    inside = foreground(image)
    rest = field - _affine(grid, field, inside)
    size, left = (np.linalg.norm(values, axis=3)[inside] for values in (field, rest))
    channels = torch.from_numpy(np.moveaxis(rest, 3, 0)).unsqueeze(0)
    slopes = gradient(channels, grid.spacing)[0].square().sum((0, 1)).numpy()[inside]
    steepest = np.sort(slopes)[-max(1, int(STEEPEST * len(slopes))) :]
    alike = result.similarity["ncc"]
    case = result.case
    scores = {
        key: {when: case.value(key, when) for when in ("before", "after")}
        for key in ("dice", "tre")
    }
    return {
        "median_mm": float(np.median(size)),
        "large_mm": float(np.quantile(size, 0.95)),
        "affine": 1 - float((left**2).sum() / max(1e-12, (size**2).sum())),
        "residual_mm": float(np.quantile(left, 0.95)),
        "length_mm": float(np.sqrt((left**2).mean() / max(1e-12, slopes.mean()))),
        "sliding": float(steepest.sum() / max(1e-12, slopes.sum())),
        "unsettled": result.optimized is not None and result.optimized.apart is not None,
        "correlation": {when: alike[when] for when in ("before", "after")},
        "reference": {key: both for key, both in scores.items() if None not in both.values()},
    }


def foreground(image: np.ndarray) -> np.ndarray:
    """Mask of the voxels of an image ``(I, J, K)`` that are brighter than its background."""
    some = image.ravel()[:: max(1, image.size // 200_000)]
    low, high = np.quantile(some, [0.005, 0.995])
    return image > low + FOREGROUND * (high - low)


def _affine(grid: Grid, field: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """The affine map ``(I, J, K, 3)`` mm that is nearest to a displacement inside a mask."""
    axes = np.meshgrid(*(np.arange(n) for n in grid.shape), indexing="ij")
    points = np.stack([*axes, np.ones(grid.shape)], axis=3)
    fitted = np.linalg.lstsq(points[inside], field[inside], rcond=None)[0]
    return points @ fitted
