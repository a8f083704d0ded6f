"""Figures of landmarks: errors, and predicted against true motion."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from matplotlib.figure import Figure

from lightning_reg.metrics import PairMetrics


def tre_boxes(cases: Sequence[PairMetrics]) -> Figure | None:
    """Box plots of the target registration error per case, before and after; ``None`` without
    landmarks.
    """
    scored = [case for case in cases if case.tre_before is not None]
    if not scored:
        return None
    figure = Figure(figsize=(max(4.5, 1.3 * len(scored) + 1.5), 4), layout="constrained")
    axes = figure.subplots()
    for offset, when, color in ((-0.18, "before", "C7"), (0.18, "after", "C0")):
        boxes = axes.boxplot(
            [getattr(case, f"tre_{when}").numpy() for case in scored],
            positions=[k + offset for k in range(len(scored))], widths=0.3, patch_artist=True,
            flierprops={"markersize": 2},
        )  # fmt: skip
        for box in boxes["boxes"]:
            box.set(facecolor=color, alpha=0.7, label=when if box is boxes["boxes"][0] else None)
        for median in boxes["medians"]:
            median.set_color("black")
    names = [case.name for case in scored]
    axes.set_xticks(range(len(scored)), names, rotation=20, ha="right", fontsize="small")
    axes.set(ylabel="target registration error, mm", ylim=(0, None))
    axes.legend(frameon=False)
    return figure


def motion_correlation(cases: Sequence[PairMetrics]) -> Figure | None:
    """Predicted against true landmark displacement per world axis, as Figure 5 of Eppenhof et al.,
    2019; ``None`` without landmarks.
    """
    scored = [case for case in cases if case.motion_true is not None]
    if not scored:
        return None
    true = torch.cat([case.motion_true for case in scored if case.motion_true is not None])
    predicted = torch.cat(
        [case.motion_predicted for case in scored if case.motion_predicted is not None]
    )
    figure = Figure(figsize=(10, 3.9), layout="constrained")
    for axis, (plot, name) in enumerate(
        zip(figure.subplots(1, 3), ("right", "anterior", "superior"), strict=True)
    ):
        t, p = true[:, axis], predicted[:, axis]
        low, high = float(torch.minimum(t, p).min()) - 1, float(torch.maximum(t, p).max()) + 1
        plot.plot([low, high], [low, high], color="0.7", lw=1)
        plot.scatter(t, p, s=5, alpha=0.5)
        r = float(torch.corrcoef(torch.stack([t, p]))[0, 1])
        plot.set(
            xlabel="true, mm",
            ylabel="predicted, mm" if axis == 0 else None,
            title=f"{name}  (r = {r:.2f})",
        )
        plot.set(xlim=(low, high), ylim=(low, high))
        plot.set_aspect("equal")
    return figure
