"""Data of the report's viewer: images, contours, displacement and landmarks on one grid."""

from __future__ import annotations

import base64
import gzip
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from lightning_reg.figures.slices import label_maps, landmark_errors, middle, world_grid
from lightning_reg.spatial import Displacement, Grid, Image, Pair, Transform

if TYPE_CHECKING:
    from lightning_reg.inference.result import Result

Volumes = dict[str, Any]
"""Data of the viewer, by name."""
EXTENT = 144
"""Voxels along the longest edge of the images in the page."""
ALIKE = 0.8
"""Common part of two windows from which on both images are shown in one."""
COARSE = 4
"""Spacing of the displacement's samples in the page, in voxels of its images."""


def volumes(result: Result) -> Volumes:
    """Data of the viewer, on one isotropic grid with axes right, anterior and superior."""
    pair, start, field = result.pair, result.start, result.field
    grid = display_grid(pair.fixed.grid)
    size = float(grid.spacing[0, 0])
    transforms = {"before": start, "after": field}
    with torch.no_grad():
        determinant = Image(result.determinant, pair.fixed.grid, padding=1.0)
        smaller, stride = (
            [max(1, round(size / s)) for s in image.grid.spacing[0].tolist()]
            for image in (pair.fixed, pair.moving)
        )
        moving = pair.moving.at_stride(stride)
        images = {when: moving.warped(t, grid).tensor for when, t in transforms.items()}
        images["fixed"] = pair.fixed.at_stride(smaller).resampled(grid).tensor
        world = grid.to_world(grid.points(dtype=torch.float64))
        inside = pair.fixed.grid.contains(world).unsqueeze(1)
        folding = Image((determinant.tensor <= 0).float(), determinant.grid)
        folded = folding.at_stride(smaller).resampled(grid).tensor > 0
        quantised = (determinant.resampled(grid).tensor.clamp(0, 2.54) * 100).round()
        coarse = grid.resized([-(-n // COARSE) for n in grid.shape])
        reach = {when: _in_voxels_of(t, coarse, grid) for when, t in transforms.items()}
        labels = pair.fixed_labels, pair.moving_labels
        masks = pair.fixed_mask, pair.moving_mask
        labelled = None not in labels
        outlines = label_maps(*(labels if labelled else masks), transforms, grid)
    sides = {"fixed": pair.fixed, "other": pair.moving}
    ranges = {side: _quantiles(image, 0.0005, 0.9995) for side, image in sides.items()}
    packed = {
        name: _pack(_bytes(tensor, *ranges["fixed" if name == "fixed" else "other"]))
        for name, tensor in images.items()
    }
    shown = quantised.where(inside, 100).masked_fill(folded & inside, 255)
    return {
        "shape": grid.shape,
        "coarse": coarse.shape,
        "spacing": size,
        "origin": grid.affine[0, :3, 3].tolist(),
        "start": middle(pair.fixed, pair.fixed_mask, grid),
        "range": ranges,
        "window": _windows({side: _quantiles(image, 0.01, 0.997) for side, image in sides.items()}),
        "resampled": _resampled(pair.fixed.grid, grid),
        **packed,
        "contoured": f"contours of {'labels' if labelled else 'masks'}" if outlines else "",
        "contours": {name: _pack(_indices(labels)) for name, labels in outlines.items()},
        "jacobian": _pack(shown[0, 0].to(torch.uint8).numpy()),
        "reach": {when: _pack(far[0].float().numpy()) for when, far in reach.items()},
        "landmarks": _marks(pair, transforms | {"after": result.transform}, grid),
    }


def display_grid(grid: Grid) -> Grid:
    """The viewer's grid: with the finest spacing of a grid, or larger, so that the longest axis has
    at most :data:`EXTENT` voxels.
    """
    return world_grid(grid, EXTENT, float(grid.spacing.min()), fewest=2)


def _in_voxels_of(transform: Transform, coarse: Grid, grid: Grid) -> Tensor:
    """Displacement at the points of ``coarse``, in voxels of ``grid``."""
    return Displacement(transform.displacement(coarse), coarse).field * torch.tensor(
        [g / c for g, c in zip(grid.shape, coarse.shape, strict=True)], dtype=torch.float32
    ).view(1, 3, 1, 1, 1)


def _windows(own: Mapping[str, tuple[float, float]]) -> dict[str, tuple[float, float]]:
    """One window for both images if theirs are nearly the same, as for two images in Hounsfield
    units; otherwise each its own.
    """
    (a, b), (c, d) = own.values()
    if min(b, d) - max(a, c) < ALIKE * (max(b, d) - min(a, c)):
        return dict(own)
    return dict.fromkeys(own, (min(a, c), max(b, d)))


def _resampled(fixed: Grid, grid: Grid) -> str:
    """Note on the voxels of the page's images."""
    sizes = fixed.spacing[0]
    if np.allclose(sizes, grid.spacing[0], rtol=0.01):
        return ""
    size = " x ".join(f"{s:.3g}" for s in sizes)
    return (
        f"Images are resampled to {grid.spacing[0, 0]:.3g} mm for this page; the fixed image has"
        f" voxels of {size} mm."
    )


def _quantiles(image: Image, lowest: float, highest: float) -> tuple[float, float]:
    """Quantiles of the values above the image's padding value."""
    values = image.tensor.flatten()
    values = values[:: max(1, values.numel() // 200_000)].float()
    above = values[values > image.padding]
    low, high = (
        (above if len(above) > 100 else values)
        .quantile(torch.tensor([lowest, highest], dtype=torch.float32))
        .tolist()
    )
    return low, max(high, low + 1e-6)


def _bytes(tensor: Tensor, low: float, high: float) -> np.ndarray:
    return ((tensor[0, 0] - low) / (high - low) * 255).clamp(0, 255).round().to(torch.uint8).numpy()


def _pack(values: np.ndarray) -> str:
    return base64.b64encode(
        gzip.compress(np.ascontiguousarray(values).tobytes(), 6, mtime=0)
    ).decode()


def _indices(labels: Tensor) -> np.ndarray:
    return (labels.round().long() % 256).to(torch.uint8).numpy()


def _marks(pair: Pair, transforms: Mapping[str, Transform], grid: Grid) -> list[dict[str, Any]]:
    """Position of each landmark in voxels of ``grid``, and its errors in voxels and mm."""
    fixed, errors = landmark_errors(pair, transforms)
    size = float(grid.spacing[0, 0])

    def rounded(vectors: Tensor, number: int) -> list[float]:
        return [round(v, 2) for v in vectors[0, :, number].tolist()]

    return [
        {
            "fixed": rounded(grid.to_voxel(fixed), n),
            **{when: rounded(error / size, n) for when, error in errors.items()},
            "mm": {when: round(float(error[0, :, n].norm()), 3) for when, error in errors.items()},
        }
        for n in range(fixed.shape[2])
    ]
