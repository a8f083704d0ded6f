"""Panel of one registration in three planes."""

from __future__ import annotations

from typing import Any

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from lightning_reg.functional import jacobian_determinant, ncc
from lightning_reg.spatial import Pair, Transform

PLANES = (("axial", 2, "PA", "RL"), ("coronal", 1, "IS", "RL"), ("sagittal", 0, "IS", "PA"))
"""Plane, its normal axis, and the letters at its bottom and top, left and right."""
COLUMNS = ("fixed", "moving", "warped", "difference before", "difference after", "deformed grid", "Jacobian determinant")
DIM = 0.3
"""Opacity outside the region of interest."""


def registration_panel(pair: Pair, transform: Transform, masked: bool = False) -> Figure:
    """Fixed, moving, warped, differences before and after, deformed grid and Jacobian, in axial, coronal and sagittal planes.

    Args:
        pair: batch size 1, voxel axes near right, anterior, superior. Slices go through the middle of the fixed mask or image.
        transform: fixed world to moving world.
        masked: the method learns only inside the fixed mask. The outside is then dimmed, without deformed grid and Jacobian, because
            the method was not trained there.

    The patient's right is on the left of the picture. The contour is the fixed mask's. Lines of the deformed grid are where the mapped
    position is a multiple of a whole number of voxels of the fixed grid; folding (determinant <= 0) is red.
    """
    grid = pair.fixed.grid
    fixed = pair.fixed.tensor[0, 0].cpu()
    before = pair.moving.resampled(grid).tensor[0, 0].cpu()
    after = pair.moving.warped(transform, grid).tensor[0, 0].cpu()
    mask = None if pair.fixed_mask is None else pair.fixed_mask.resampled(grid).tensor[0, 0].cpu() > 0
    judged = mask if masked and mask is not None else torch.ones_like(fixed, dtype=torch.bool)
    displacement = transform.displacement(grid).detach().cpu()
    reached = (displacement + grid.points())[0]
    determinant = jacobian_determinant(displacement)[0, 0].where(judged, torch.nan)
    middle = _middle(pair)
    spacing = grid.spacing[0].tolist()
    low, high = float(fixed.min()), float(fixed.max())
    reach = 0.5 * (high - low)

    figure = Figure(figsize=(2.1 * len(COLUMNS), 6.4), layout="constrained")
    axes = figure.subplots(len(PLANES), len(COLUMNS), squeeze=False)
    for row, (plane, normal, vertical, horizontal) in zip(axes, PLANES, strict=True):
        across, up = [a for a in range(3) if a != normal]
        aspect = spacing[up] / spacing[across]

        def cut(volume: Tensor, normal: int = normal) -> Tensor:
            return volume.select(normal, middle[normal]).T

        opacity = cut(torch.where(judged, 1.0, DIM)).numpy()
        gray = {"cmap": "gray", "vmin": low, "vmax": high}
        signed = {"cmap": "RdBu_r", "vmin": -reach, "vmax": reach, "alpha": opacity}
        shown = [(fixed, gray), (before, gray), (after, gray | {"alpha": opacity}), (before - fixed, signed), (after - fixed, signed)]
        for plot, (volume, style) in zip(row, [*shown, (after, gray | {"alpha": opacity})], strict=False):
            plot.set_facecolor("black" if style["cmap"] == "gray" else "white")
            plot.imshow(cut(volume), origin="lower", aspect=aspect, **style)
        for axis in (across, up):
            step = max(round(grid.shape[axis] / 18), 2)
            lines = cut(reached[axis].where(judged, torch.nan))
            if bool(torch.isfinite(lines).any()):
                levels = range(-step, grid.shape[axis] + step, step)
                row[5].contour(lines, levels=levels, colors="#ffb000", linewidths=0.5)
        volumes = row[6].imshow(cut(determinant), origin="lower", aspect=aspect, cmap="PRGn", vmin=0, vmax=2)
        folded = torch.where(cut(determinant) <= 0, 1.0, torch.nan)
        row[6].imshow(folded, origin="lower", aspect=aspect, cmap="autumn", vmin=1, vmax=2)
        for plot in row:
            finish(plot, None if mask is None else cut(mask.float()), across == 0)
        row[0].set_ylabel(plane)
        letters(row[0], vertical, horizontal)
        figure.colorbar(row[4].images[0], ax=row[4], shrink=0.8)
        figure.colorbar(volumes, ax=row[6], shrink=0.8)
    for plot, title in zip(axes[0], COLUMNS, strict=True):
        plot.set_title(title, fontsize="medium")
    region = judged[None, None].float()
    alike = [float(ncc(fixed[None, None], other[None, None], region)) for other in (before, after)]
    where = "inside the contour" if masked and mask is not None else "of the images"
    figure.suptitle(f"{pair.name[0]}: correlation {where} {alike[0]:.2f} before, {alike[1]:.2f} after", fontsize="medium")
    return figure


def finish(plot: Axes, mask: Tensor | None, mirrored: bool) -> None:
    """Remove ticks, draw the mask's contour, and put the patient's right on the left."""
    plot.set_xticks([])
    plot.set_yticks([])
    if mask is not None and 0 < float(mask.mean()) < 1:
        plot.contour(mask, levels=[0.5], colors="#00a0ff", linewidths=0.8)
    if mirrored:
        plot.invert_xaxis()


def letters(plot: Axes, vertical: str, horizontal: str) -> None:
    """Draw the letters of the patient's sides."""
    style: dict[str, Any] = {"transform": plot.transAxes, "color": "#ffd000", "fontsize": "small"}
    plot.text(0.5, 0.03, vertical[0], ha="center", va="bottom", **style)
    plot.text(0.5, 0.97, vertical[1], ha="center", va="top", **style)
    plot.text(0.03, 0.5, horizontal[0], ha="left", va="center", **style)
    plot.text(0.97, 0.5, horizontal[1], ha="right", va="center", **style)


def _middle(pair: Pair) -> list[int]:
    """Voxel of the slices: the centre of the fixed mask, shifted by one standard deviation along axis 0, or of the image."""
    shape = pair.fixed.grid.shape
    if pair.fixed_mask is None or not bool(pair.fixed_mask.tensor.any()):
        return [n // 2 for n in shape]
    inside = pair.fixed_mask.tensor[0, 0].nonzero().float()
    center, spread = inside.mean(0), inside.std(0)
    center[0] = center[0] + spread[0]  # through one lung rather than between the two
    return [min(max(int(c), 0), n - 1) for c, n in zip(center.tolist(), shape, strict=True)]
