"""Figures over cases: box plots of metrics and landmark errors, predicted against true motion."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lightning_reg.metrics import PairMetrics
from lightning_reg.metrics.statistics import alike
from lightning_reg.metrics.table import METRICS


def metric_boxes(rows: Mapping[str, Sequence[Mapping[str, Any]]]) -> Figure:
    """Box plots over the cases, before and after, one panel per metric in the rows.

    Args:
        rows: rows of ``cases.csv`` per method: columns ``<metric>_before<unit>`` and
            ``<metric>_after<unit>``, ``folding`` and ``sdlogj``. There is a *before* for every
            start: methods whose values before registration agree share one. A single method is
            labelled *after*.
    """
    first = next(iter(rows.values()))
    columns = {key for row in first for key in row}
    labels = ["after"] if len(rows) == 1 else list(rows)
    panels: list[tuple[str, list[tuple[str, list[float]]]]] = []
    for metric in METRICS:
        column = metric.column()
        if metric.compared and {column, metric.column("before")} <= columns:
            before = _starts(rows, metric.column("before"))
        elif metric.key in ("folding", "sdlogj"):
            before = []
        else:
            continue
        after = [_values(of, column) for of in rows.values()]
        panels.append((metric.heading, [*before, *zip(labels, after, strict=True)]))
    width = max(2.1, 0.55 * max(len(series) for _, series in panels)) if panels else 2.1
    size = (width * len(panels) + 0.4, 3.2 if len(rows) < 3 else 3.8)
    figure = Figure(figsize=size, layout="constrained")
    plots = figure.subplots(1, len(panels), squeeze=False)[0]
    for axes, (title, series) in zip(plots, panels, strict=True):
        dotted_boxes(axes, series)
        axes.set_title(title, fontsize="medium")
        if len(rows) > 2:
            axes.tick_params(axis="x", labelrotation=60)
    return figure


def _starts(
    rows: Mapping[str, Sequence[Mapping[str, Any]]], column: str
) -> list[tuple[str, list[float]]]:
    """Values before registration, with the methods that start so where these differ."""
    values = {name: _values(of, column) for name, of in rows.items()}
    groups = alike(values)
    titles = ["before"] if len(groups) == 1 else [f"before ({', '.join(of)})" for of in groups]
    return [(title, values[of[0]]) for title, of in zip(titles, groups, strict=True)]


def _values(rows: Sequence[Mapping[str, Any]], column: str) -> list[float]:
    found = [float(row[column]) for row in rows if row.get(column) not in (None, "")]
    return [value for value in found if value == value]


def dotted_boxes(axes: Axes, series: Sequence[tuple[str, Sequence[float]]]) -> None:
    """Draw box plots of named values, with a dot per value."""
    axes.boxplot([of for _, of in series], tick_labels=[name for name, _ in series], widths=0.6)
    for position, (_, of) in enumerate(series, 1):
        axes.plot([position] * len(of), of, ".", ms=3, alpha=0.5, color="C0")


def tre_boxes(cases: Sequence[PairMetrics]) -> Figure | None:
    """Box plots of TRE per case, before and after; ``None`` without landmarks."""
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
