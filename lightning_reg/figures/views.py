"""Views of images and pairs in a notebook, a table and three planes through the middle; thumbnails.

Importing this module makes notebooks show them; ``lightning_reg`` does so with its first name.
"""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np
import PIL.Image
import torch
from torch import Tensor

from lightning_reg.figures.slices import (
    middle,
    mosaic,
    plane,
    planes,
    upright,
    windowed,
    world_grid,
)
from lightning_reg.spatial import Image, Pair, Transform

SIDE = 176
"""Voxels along the longest axis of the drawn grid."""
THUMBNAIL = 88
"""Voxels along the longest axis of the drawn grid."""
FOLDED, LESS, MORE = np.array([230, 30, 30]), np.array([40, 90, 220]), np.array([220, 120, 20])
"""Colours of folded voxels, and of a warped image that is darker or brighter than the fixed one."""


@torch.no_grad()
def picture(images: Sequence[Image]) -> PIL.Image.Image | None:
    """Axial, coronal and sagittal planes through the middle of the first image side by side, a row
    per image; the first of each batch and its first channel. ``None`` without values.
    """
    if any(image.tensor.is_meta for image in images):
        return None
    grid = world_grid(images[0].grid, SIDE)
    at, axes, rows = middle(images[0], None, grid), [axis for _, axis, *_ in planes(grid)], []
    for image in images:
        slices = [upright(image.resampled(plane(grid, axis, at[axis])), axis) for axis in axes]
        panels = [255 * panel for panel in windowed(slices)]
        rows.append(list(zip(axes, panels, strict=True)))
    return mosaic(rows, SIDE)


@torch.no_grad()
def thumbnail(pair: Pair, field: Transform, determinant: Tensor) -> PIL.Image.Image:
    """Axial, coronal and sagittal slices through the middle, below each other: fixed, warped, their
    difference, and folding in red.

    The middle is that of the fixed mask, or of the image. The patient's right is on the left,
    anterior and superior are up. Each image is windowed from its 1st to its 99th percentile.

    Args:
        field: fixed world to moving world.
        determinant: determinant of its Jacobian, ``(1, 1, I, J, K)``.
    """
    grid = world_grid(pair.fixed.grid, THUMBNAIL)
    jacobian = Image(determinant, pair.fixed.grid, padding=1.0)
    at = middle(pair.fixed, pair.fixed_mask, grid)
    axes = [axis for _, axis, *_ in planes(grid)]
    shown = [plane(grid, axis, at[axis]) for axis in axes]
    cuts = (pair.fixed.resampled, partial(pair.moving.warped, field), jacobian.resampled)
    fixed, warped, determinants = (
        [upright(cut(grid), axis) for axis, grid in zip(axes, shown, strict=True)] for cut in cuts
    )
    rows = []
    for axis, a, b, det in zip(axes, windowed(fixed), windowed(warped), determinants, strict=True):
        signed = 255 - np.abs(b - a) * (255 - np.where(b > a, MORE, LESS))
        folded = np.where(det.numpy()[..., None] <= 0, FOLDED, 255 * 0.6 * b)
        rows.append([(axis, panel) for panel in (255 * a, 255 * b, signed, folded)])
    return mosaic(rows, THUMBNAIL)


def card(title: str, rows: Mapping[str, str], shown: PIL.Image.Image | None = None) -> str:
    """HTML with a title, a table of two columns, and a picture."""
    title = html.escape(title)
    left = "style='text-align:left'"
    cells = "".join(
        f"<tr><th {left}>{html.escape(name)}</th><td {left}>{html.escape(value)}</td></tr>"
        for name, value in rows.items()
    )
    drawn = ""
    if shown is not None:
        buffer = io.BytesIO()
        shown.save(buffer, "png")
        code = base64.b64encode(buffer.getvalue()).decode()
        drawn = f"<img alt='{title}' src='data:image/png;base64,{code}'>"
    return f"<div><b>{title}</b><table>{cells}</table>{drawn}</div>"


def _image(image: Image) -> str:
    return card("Image", image.described(), picture([image]))


def _pair(pair: Pair) -> str:
    return card("Pair: fixed above moving", pair.described(), picture([pair.fixed, pair.moving]))


Image._repr_html_ = _image  # type: ignore[attr-defined]
Pair._repr_html_ = _pair  # type: ignore[attr-defined]
