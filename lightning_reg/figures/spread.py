"""Disagreement between several registrations in three planes."""

from __future__ import annotations

from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor

from lightning_reg.figures.panels import finish, letters
from lightning_reg.figures.slices import planes
from lightning_reg.spatial import Image


def spread_map(fixed: Image, spread: Tensor) -> Figure:
    """The fixed image, and below it the spread in mm, in the axial, coronal and sagittal planes
    through the maximum of the smoothed spread.

    Args:
        fixed: batch size 1, voxel axes near right, anterior, superior.
        spread: on its grid, ``(1, 1, I, J, K)`` mm.

    The patient's right is on the left of the picture.
    """
    smooth = torch.nn.functional.avg_pool3d(
        spread, 5, stride=1, padding=2, count_include_pad=False
    )[0, 0]
    peak = [int(index) for index in torch.unravel_index(smooth.argmax(), smooth.shape)]
    image, values, sizes = fixed.tensor[0, 0], spread[0, 0], fixed.grid.spacing[0].tolist()
    low, high = torch.quantile(
        image.flatten()[:: max(1, image.numel() // 200_000)].float(), torch.tensor([0.01, 0.997])
    ).tolist()
    top = max(float(values.max()), 1e-3)
    figure = Figure(figsize=(8.4, 5.6), layout="constrained")
    drawn = planes(fixed.grid)
    above, below = figure.subplots(2, len(drawn), squeeze=False)
    for first, second, (plane, normal, vertical, horizontal) in zip(
        above, below, drawn, strict=True
    ):
        across, up = [axis for axis in range(3) if axis != normal]
        placed: dict[str, Any] = {"origin": "lower", "aspect": sizes[up] / sizes[across]}
        gray, hot = (volume.select(normal, peak[normal]).T for volume in (image, values))
        first.imshow(gray, cmap="gray", vmin=low, vmax=max(high, low + 1e-6), **placed)
        shown = second.imshow(hot, cmap="inferno", vmin=0, vmax=top, **placed)
        for plot in (first, second):
            finish(plot, None, across == 0)
        letters(first, vertical, horizontal)
        first.set_title(plane, fontsize="medium")
    above[0].set_ylabel("fixed image")
    below[0].set_ylabel("spread")
    figure.colorbar(shown, ax=list(below), label="mm")
    return figure
