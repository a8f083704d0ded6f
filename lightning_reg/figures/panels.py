"""Panels in three planes: one registration, and the disagreement between several."""

from __future__ import annotations

from typing import Any

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from torch import Tensor

from lightning_reg.figures.slices import label_maps, landmark_errors, middle, planes
from lightning_reg.functional import jacobian_determinant, ncc
from lightning_reg.spatial import Identity, Image, Pair, Transform

COLUMNS = (
    "fixed",
    "moving",
    "warped",
    "difference before",
    "difference after",
    "deformed grid",
    "Jacobian determinant",
)
DIM = 0.3
"""Opacity outside the region of interest."""
FIXED, MOVING = "#56b4e9", "#e69f00"
"""Colours of the fixed and of the moving image's contours and landmarks (Okabe and Ito, 2008)."""
NEAR = 2.0
"""Distance from a slice at which landmarks are drawn, voxels."""
OUTLINED = [withStroke(linewidth=2, foreground="black")]


def registration_panel(
    pair: Pair, transform: Transform, masked: bool = False, aside: float = 1.0
) -> Figure:
    """Fixed, moving, warped, differences before and after, deformed grid and Jacobian, in axial,
    coronal and sagittal planes.

    Args:
        pair: batch size 1, voxel axes near right, anterior, superior. Slices go through the middle
            of the fixed mask or image.
        transform: fixed world to moving world.
        masked: the method learns only inside the fixed mask. The outside is then dimmed, without
            deformed grid and Jacobian, because the method was not trained there.
        aside: see :func:`~lightning_reg.figures.slices.middle`; by default, sagittal slices go
            through one lung.

    The patient's right is on the left of the picture. The blue contours are those of the fixed
    labels, or of the fixed mask; on the moving and the warped image the moving labels' are orange
    and dashed. Landmarks near a slice are circles at the fixed position, with a line to the moving
    landmark. Lines of the deformed grid are where the mapped position is a multiple of a whole
    number of voxels of the fixed grid; folding (determinant <= 0) is black.
    """
    grid = pair.fixed.grid
    fixed = pair.fixed.tensor[0, 0].cpu()
    before = pair.moving.resampled(grid).tensor[0, 0].cpu()
    after = pair.moving.warped(transform, grid).tensor[0, 0].cpu()
    mask = None
    if pair.fixed_mask is not None:
        mask = pair.fixed_mask.resampled(grid).tensor[0, 0].cpu() > 0
    judged = mask if masked and mask is not None else torch.ones_like(fixed, dtype=torch.bool)
    displacement = transform.displacement(grid).detach().cpu()
    reached = (displacement + grid.points())[0]
    determinant = jacobian_determinant(displacement)[0, 0].where(judged, torch.nan)
    at = middle(pair.fixed, pair.fixed_mask, grid, aside)
    spacing = grid.spacing[0].tolist()
    transforms = {"before": Identity(grid, pair.moving.tensor), "after": transform}
    outlines = label_maps(pair.fixed_labels, pair.moving_labels, transforms, grid)
    landmarks, errors = landmark_errors(pair, transforms)
    marks = grid.to_voxel(landmarks)[0].T.tolist()
    ends = {name: grid.to_voxel(landmarks + e)[0].T.tolist() for name, e in errors.items()}
    low, high = float(fixed.min()), float(fixed.max())
    reach = 0.5 * (high - low)

    drawn = planes(grid)
    height = 6.4 - 1.8 * (3 - len(drawn))
    figure = Figure(figsize=(2.1 * len(COLUMNS), height), layout="constrained")
    axes = figure.subplots(len(drawn), len(COLUMNS), squeeze=False)
    for row, (plane, normal, vertical, horizontal) in zip(axes, drawn, strict=True):
        across, up = [a for a in range(3) if a != normal]
        aspect = spacing[up] / spacing[across]

        def cut(volume: Tensor, normal: int = normal) -> Tensor:
            return volume.select(normal, at[normal]).T

        opacity = cut(torch.where(judged, 1.0, DIM)).numpy()
        gray = {"cmap": "gray", "vmin": low, "vmax": high}
        signed = {"cmap": "RdBu_r", "vmin": -reach, "vmax": reach, "alpha": opacity}
        shown = [
            (fixed, gray),
            (before, gray),
            (after, gray | {"alpha": opacity}),
            (before - fixed, signed),
            (after - fixed, signed),
        ]
        for plot, (volume, style) in zip(row, [*shown, shown[2]], strict=False):
            plot.set_facecolor("black" if style["cmap"] == "gray" else "white")
            plot.imshow(cut(volume), origin="lower", aspect=aspect, **style)
        for axis in (across, up):
            step = max(round(grid.shape[axis] / 18), 2)
            lines = cut(reached[axis].where(judged, torch.nan))
            if bool(torch.isfinite(lines).any()):
                levels = range(-step, grid.shape[axis] + step, step)
                row[5].contour(lines, levels=levels, colors="#ffb000", linewidths=0.5)
        placed = {"origin": "lower", "aspect": aspect}
        volumes = row[6].imshow(cut(determinant), cmap="PuOr_r", vmin=0, vmax=2, **placed)
        folded = torch.where(cut(determinant) <= 0, 1.0, torch.nan)
        row[6].imshow(folded, cmap="gray", vmin=1, vmax=2, **placed)
        for plot in row:
            finish(plot, None if mask is None else cut(mask.float()), across == 0)
        for column, name in ((0, "fixed"), (1, "before"), (2, "fixed"), (2, "after")):
            if name in outlines:
                color = FIXED if name == "fixed" else MOVING
                contours(row[column], cut(outlines[name]), color)
        for plot, when in ((row[1], "before"), (row[2], "after")):
            for start, end in zip(marks, ends[when], strict=True):
                if abs(start[normal] - at[normal]) <= NEAR:
                    line = [start[across], end[across]], [start[up], end[up]]
                    plot.plot(*line, color=MOVING, lw=1)
                    plot.plot(start[across], start[up], "o", ms=4, mfc="none", color=FIXED)
        row[0].set_ylabel(plane)
        letters(row[0], vertical, horizontal)
        scale(row[0], spacing[across], grid.shape[across], across == 0)
        figure.colorbar(row[4].images[0], ax=row[4], shrink=0.8)
        figure.colorbar(volumes, ax=row[6], shrink=0.8)
    for plot, title in zip(axes[0], COLUMNS, strict=True):
        plot.set_title(title, fontsize="medium")
    region = judged[None, None].float()
    alike = [float(ncc(fixed[None, None], other[None, None], region)) for other in (before, after)]
    where = "inside the contour" if masked and mask is not None else "of the images"
    title = f"{pair.name[0]}: correlation {where} {alike[0]:.2f} before, {alike[1]:.2f} after"
    figure.suptitle(title, fontsize="medium")
    legend = ["differences: image minus fixed image, intensities in [0, 1]"]
    legend += ["blue: fixed labels, orange and dashed: moving labels"] if outlines else []
    legend += ["circles: fixed landmarks, lines: to the moving landmarks"] if marks else []
    figure.supxlabel("; ".join(legend), fontsize="small")
    return figure


def finish(plot: Axes, mask: Tensor | None, mirrored: bool) -> None:
    """Remove ticks, draw the mask's contour, and put the patient's right on the left."""
    plot.set_xticks([])
    plot.set_yticks([])
    if mask is not None and 0 < float(mask.mean()) < 1:
        plot.contour(mask, levels=[0.5], colors=FIXED, linewidths=0.8)
    if mirrored:
        plot.invert_xaxis()


def letters(plot: Axes, vertical: str, horizontal: str) -> None:
    """Draw the letters of the patient's sides."""
    style: dict[str, Any] = {
        "transform": plot.transAxes,
        "color": "white",
        "fontsize": "small",
        "path_effects": OUTLINED,
    }
    plot.text(0.5, 0.03, vertical[0], ha="center", va="bottom", **style)
    plot.text(0.5, 0.97, vertical[1], ha="center", va="top", **style)
    plot.text(0.03, 0.5, horizontal[0], ha="left", va="center", **style)
    plot.text(0.97, 0.5, horizontal[1], ha="right", va="center", **style)


def scale(plot: Axes, spacing: float, voxels: int, mirrored: bool) -> None:
    """Draw a scale bar of a round length, up to a third of the width, in the lower left corner."""
    length = next((mm for mm in (200, 100, 50, 20, 10, 5, 2, 1) if mm <= spacing * voxels / 3), 1)
    ends = [0.05 * voxels, 0.05 * voxels + length / spacing]
    across = [voxels - 1 - end for end in ends] if mirrored else ends
    bottom, top = plot.get_ylim()
    height = bottom + 0.06 * (top - bottom)
    plot.plot(across, [height, height], color="white", lw=1.5, path_effects=OUTLINED)
    style: dict[str, Any] = {"color": "white", "fontsize": "x-small", "path_effects": OUTLINED}
    plot.text(across[0], height + 0.03 * (top - bottom), f"{length} mm", **style)


def contours(plot: Axes, labels: Tensor, color: str) -> None:
    """Draw the contours of all labels of a slice."""
    for label in labels.unique().tolist():
        inside = (labels == label).float()
        if label != 0 and 0 < float(inside.mean()) < 1:
            style = "solid" if color == FIXED else "dashed"
            plot.contour(inside, levels=[0.5], colors=color, linewidths=0.8, linestyles=style)


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
