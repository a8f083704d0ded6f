"""One registration, seen in three planes."""

from __future__ import annotations

import torch
from matplotlib.figure import Figure
from torch import Tensor

from lightning_reg.functional import jacobian_determinant
from lightning_reg.spatial import Pair, Transform

PLANES = (("axial", 2), ("coronal", 1), ("sagittal", 0))
COLUMNS = ("fixed", "moving", "warped", "difference before", "difference after", "deformed grid", "Jacobian determinant")


def registration_panel(pair: Pair, transform: Transform) -> Figure:
    """Fixed, moving, warped, differences before and after, deformed grid and Jacobian, in axial, coronal and sagittal planes.

    Args:
        pair: batch size 1, voxel axes near right, anterior, superior. Slices go through the middle of the fixed mask or image.
        transform: fixed world to moving world.

    The patient's right is on the left of the picture. Deformed-grid lines are where the transform reaches whole multiples of
    some moving voxels; folding (determinant <= 0) is red.
    """
    grid = pair.fixed.grid
    fixed = pair.fixed.tensor[0, 0].cpu()
    before = pair.moving.on(grid).tensor[0, 0].cpu()
    after = pair.moving.warped(transform, grid).tensor[0, 0].cpu()
    displacement = transform.displacement(grid).detach().cpu()
    reached = (displacement + grid.points())[0]
    determinant = jacobian_determinant(displacement)[0, 0]
    middle = _middle(pair)
    spacing = grid.spacing[0].tolist()
    low, high = float(fixed.min()), float(fixed.max())
    reach = 0.5 * (high - low)

    figure = Figure(figsize=(2.1 * len(COLUMNS), 6.4), layout="constrained")
    axes = figure.subplots(len(PLANES), len(COLUMNS), squeeze=False)
    for row, (plane, normal) in zip(axes, PLANES, strict=True):
        across, up = [a for a in range(3) if a != normal]

        def cut(volume: Tensor, normal: int = normal) -> Tensor:
            return volume.select(normal, middle[normal]).T

        gray = {"cmap": "gray", "vmin": low, "vmax": high}
        signed = {"cmap": "RdBu_r", "vmin": -reach, "vmax": reach}
        shown = [(fixed, gray), (before, gray), (after, gray), (before - fixed, signed), (after - fixed, signed), (after, gray)]
        for plot, (volume, style) in zip(row, shown, strict=False):
            plot.imshow(cut(volume), origin="lower", aspect=spacing[up] / spacing[across], **style)
        for axis in (across, up):
            step = max(round(grid.shape[axis] / 18), 2)
            row[5].contour(cut(reached[axis]), levels=range(-step, grid.shape[axis] + step, step), colors="#ffb000", linewidths=0.5)
        jacobian = row[6].imshow(cut(determinant), origin="lower", aspect=spacing[up] / spacing[across], cmap="PRGn", vmin=0, vmax=2)
        folded = torch.where(cut(determinant) <= 0, 1.0, torch.nan)
        row[6].imshow(folded, origin="lower", aspect=spacing[up] / spacing[across], cmap="autumn", vmin=1, vmax=2)
        for plot in row:
            plot.set_xticks([])
            plot.set_yticks([])
            if across == 0:
                plot.invert_xaxis()
        row[0].set_ylabel(plane)
        figure.colorbar(jacobian, ax=row[6], shrink=0.8)
    for plot, title in zip(axes[0], COLUMNS, strict=True):
        plot.set_title(title, fontsize="medium")
    figure.suptitle(pair.name[0])
    return figure


def _middle(pair: Pair) -> list[int]:
    """Voxel through which the slices go: the centre of the fixed mask, moved a little off it to the right, or of the image."""
    shape = pair.fixed.grid.shape
    if pair.fixed_mask is None or not bool(pair.fixed_mask.tensor.any()):
        return [n // 2 for n in shape]
    inside = pair.fixed_mask.tensor[0, 0].nonzero().float()
    center, spread = inside.mean(0), inside.std(0)
    center[0] = center[0] + spread[0]  # through one lung rather than between the two
    return [min(max(int(c), 0), n - 1) for c, n in zip(center.tolist(), shape, strict=True)]
