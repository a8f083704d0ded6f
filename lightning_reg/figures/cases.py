"""Box plots of metrics over the cases of an evaluation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

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
        names = [name for name, _ in series]
        axes.boxplot([values for _, values in series], tick_labels=names, widths=0.6)
        for position, (_, values) in enumerate(series, 1):
            axes.plot([position] * len(values), values, ".", ms=3, alpha=0.5, color="C0")
        axes.set_title(title, fontsize="medium")
        if len(rows) > 2:
            axes.tick_params(axis="x", labelrotation=60)
    return figure


def _starts(
    rows: Mapping[str, Sequence[Mapping[str, Any]]], column: str
) -> list[tuple[str, list[float]]]:
    """Values before registration, with the methods that start so where these differ."""
    groups: list[tuple[list[str], list[float]]] = []
    for name, of in rows.items():
        values = _values(of, column)
        alike = [
            names
            for names, known in groups
            if len(known) == len(values) and np.allclose(known, values, rtol=1e-5, atol=1e-6)
        ]
        if alike:
            alike[0].append(name)
        else:
            groups.append(([name], values))
    return [
        ("before" if len(groups) == 1 else f"before ({', '.join(names)})", values)
        for names, values in groups
    ]


def _values(rows: Sequence[Mapping[str, Any]], column: str) -> list[float]:
    found = [float(row[column]) for row in rows if row.get(column) not in (None, "")]
    return [value for value in found if value == value]
