"""Disagreement of several registrations, seen in three planes."""

from __future__ import annotations

import torch
from matplotlib.figure import Figure
from torch import Tensor

from lightning_reg.figures.panels import PLANES, finish, letters
from lightning_reg.spatial import Image


def spread_map(fixed: Image, spread: Tensor) -> Figure:
    """The spread in mm over the fixed image, in the axial, coronal and sagittal planes through its largest smooth maximum.

    Args:
        fixed: batch size 1, voxel axes near right, anterior, superior.
        spread: on its grid, ``(1, 1, I, J, K)`` mm.

    The patient's right is on the left of the picture.
    """
    smooth = torch.nn.functional.avg_pool3d(spread, 5, stride=1, padding=2, count_include_pad=False)[0, 0]
    peak = [int(index) for index in torch.unravel_index(smooth.argmax(), smooth.shape)]
    image, values, sizes = fixed.tensor[0, 0], spread[0, 0], fixed.grid.spacing[0].tolist()
    low, high = torch.quantile(image.flatten()[:: max(1, image.numel() // 200_000)].float(), torch.tensor([0.01, 0.997])).tolist()
    top = max(float(values.max()), 1e-3)
    figure = Figure(figsize=(9.0, 3.4), layout="constrained")
    axes = figure.subplots(1, len(PLANES))
    for plot, (plane, normal, vertical, horizontal) in zip(axes, PLANES, strict=True):
        across, up = [axis for axis in range(3) if axis != normal]
        aspect = sizes[up] / sizes[across]
        plot.imshow(image.select(normal, peak[normal]).T, origin="lower", cmap="gray", vmin=low, vmax=max(high, low + 1e-6), aspect=aspect)
        shown = plot.imshow(
            values.select(normal, peak[normal]).T, origin="lower", cmap="inferno", vmin=0, vmax=top, alpha=0.55, aspect=aspect
        )
        finish(plot, None, across == 0)
        letters(plot, vertical, horizontal)
        plot.set_title(plane, fontsize="medium")
    figure.colorbar(shown, ax=axes, label="spread, mm")
    return figure
