"""Views of images in a notebook: three planes through the middle, and a table."""

from __future__ import annotations

import base64
import html
import io
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import PIL.Image
import torch
from torch import Tensor

from lightning_reg.spatial.grid import Grid

if TYPE_CHECKING:
    from lightning_reg.spatial.image import Image

SIDE = 88
"""Voxels along the longest axis of the drawn grid."""
AXES = (2, 1, 0)
"""Axes that axial, coronal and sagittal planes are normal to, on a grid with axes right, anterior
and superior.
"""


def small_grid(grid: Grid, side: int = SIDE) -> Grid:
    """Coarse grid over the same part of the world, with axes right, anterior and superior."""
    corners = torch.tensor(
        list(itertools.product(*((-0.5, n - 0.5) for n in grid.shape))), dtype=torch.float64
    )
    world = grid.to_world(corners.T.unsqueeze(0))[0]
    low, high = world.amin(1), world.amax(1)
    spacing = float((high - low).max()) / side
    shape = [max(1, min(side, round(float(extent) / spacing))) for extent in high - low]
    return Grid.regular(
        (shape[0], shape[1], shape[2]), (spacing,) * 3, (low + spacing / 2).tolist()
    )


def middle(mask: Image | None, grid: Grid) -> list[int]:
    """Voxel of ``grid`` at the mask's centre of mass, or in the middle of ``grid``."""
    if mask is None:
        return [n // 2 for n in grid.shape]
    inside = replace(mask, tensor=mask.tensor > 0)
    point = grid.to_voxel(torch.from_numpy(inside.center_of_mass()).view(1, 3, 1))[0, :, 0].tolist()
    return [min(max(round(v), 0), n - 1) for v, n in zip(point, grid.shape, strict=True)]


def plane(grid: Grid, axis: int, index: int) -> Grid:
    """The slice ``index`` of a grid along ``axis``."""
    start, shape = [0, 0, 0], list(grid.shape)
    start[axis], shape[axis] = index, 1
    return grid.cropped(start, shape)


def upright(image: Image, axis: int) -> Tensor:
    """A plane as rows and columns, anterior or superior up; the patient's right is in column 0
    after :func:`mirrored`.
    """
    return image.tensor[0, 0].float().select(axis, 0).T.flip(0)


def mirrored(panel: np.ndarray, axis: int) -> np.ndarray:
    """A panel with the patient's right on the left; sagittal planes have no right."""
    return panel if axis == 0 else panel[:, ::-1]


def window(slices: Sequence[Tensor]) -> tuple[float, float]:
    """1st and 99th percentile of the slices together."""
    values = torch.cat([each.flatten() for each in slices])
    low, high = (float(values.quantile(q)) for q in (0.01, 0.99))
    return low, max(high, low + 1e-6)


def padded(panel: np.ndarray, side: int) -> np.ndarray:
    """Centre a panel ``(H, W, 3)`` in a black square."""
    found = np.zeros((side, side, 3))
    top, left = (side - panel.shape[0]) // 2, (side - panel.shape[1]) // 2
    found[top : top + panel.shape[0], left : left + panel.shape[1]] = panel
    return found


@torch.no_grad()
def picture(images: Sequence[Image], grid: Grid | None = None) -> PIL.Image.Image:
    """Axial, coronal and sagittal planes through the middle side by side, a row per image; the
    first of each batch and its first channel.

    Args:
        grid: part of the world that is drawn; default that of the first image.
    """
    small = small_grid(grid or images[0].grid, 2 * SIDE)
    at = middle(None, small)
    rows = []
    for image in images:
        slices = [upright(image.resampled(plane(small, axis, at[axis])), axis) for axis in AXES]
        low, high = window(slices)
        panels = [
            255 * ((each - low) / (high - low)).clamp(0, 1).numpy()[..., None].repeat(3, 2)
            for each in slices
        ]
        rows.append(
            np.concatenate(
                [
                    padded(mirrored(panel, axis), 2 * SIDE)
                    for axis, panel in zip(AXES, panels, strict=True)
                ],
                axis=1,
            )
        )
    return PIL.Image.fromarray(np.concatenate(rows).clip(0, 255).astype(np.uint8))


def card(title: str, rows: Mapping[str, str], shown: PIL.Image.Image | None = None) -> str:
    """HTML with a title, a table of two columns, and a picture."""
    cells = "".join(
        f"<tr><th style='text-align:left'>{html.escape(name)}</th><td"
        f" style='text-align:left'>{html.escape(value)}</td></tr>"
        for name, value in rows.items()
    )
    drawn = ""
    if shown is not None:
        buffer = io.BytesIO()
        shown.save(buffer, "png")
        drawn = (
            f"<img alt='{html.escape(title)}'"
            f" src='data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}'>"
        )
    return f"<div><b>{html.escape(title)}</b><table>{cells}</table>{drawn}</div>"
