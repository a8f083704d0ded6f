"""Views of images and pairs in a notebook: a table, and three planes through the middle.

Importing this module makes notebooks show them; ``lightning_reg`` does so with its first name.
"""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Mapping, Sequence

import PIL.Image
import torch

from lightning_reg.figures.slices import (
    middle,
    mosaic,
    plane,
    planes,
    upright,
    windowed,
    world_grid,
)
from lightning_reg.spatial import Image, Pair

SIDE = 176
"""Voxels along the longest axis of the drawn grid."""


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
