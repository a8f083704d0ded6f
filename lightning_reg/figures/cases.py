"""Metrics over the cases of an evaluation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure

from lightning_reg.metrics.table import METRICS


def metric_boxes(rows: Sequence[Mapping[str, Any]], against: Sequence[Mapping[str, Any]] | None = None) -> Figure:
    """Box plots over the cases, before and after, a panel per metric that the rows have.

    Args:
        rows: of ``cases.csv``: columns ``<metric>_before<unit>`` and ``<metric>_after<unit>``, and ``folding``.
        against: the same cases by a second model.
    """
    columns = {key for row in rows for key in row}
    panels: list[tuple[str, list[tuple[str, list[float]]]]] = []
    for metric in METRICS:
        column = metric.column()
        if metric.compared and {column, metric.column("before")} <= columns:
            series = [("before", _values(rows, metric.column("before"))), ("after", _values(rows, column))]
        elif metric.key in ("folding", "sdlogj"):
            series = [("first" if against else "after", _values(rows, column))]
        else:
            continue
        panels.append((metric.heading, series + ([("second", _values(against, column))] if against else [])))
    figure = Figure(figsize=(2.1 * len(panels) + 0.4, 3.2), layout="constrained")
    for axes, (title, series) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        axes.boxplot([values for _, values in series], tick_labels=[name for name, _ in series], widths=0.6)
        for position, (_, values) in enumerate(series, 1):
            axes.plot([position] * len(values), values, ".", ms=3, alpha=0.5, color="C0")
        axes.set_title(title, fontsize="medium")
    return figure


def _values(rows: Sequence[Mapping[str, Any]], column: str) -> list[float]:
    found = [float(row[column]) for row in rows if row.get(column) not in (None, "")]
    return [value for value in found if value == value]
