"""Curves of logged values over the iterations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any

from matplotlib.figure import Figure

from lightning_reg.figures.cases import dotted_boxes
from lightning_reg.metrics.table import RANKING, ranking

Rows = Sequence[Mapping[str, str]]
TITLES = {metric.column(): metric.heading for metric in RANKING}
"""Axis titles of the validation metrics, in the order of drawing."""
SMOOTH = 5
"""Logged values on either side in the moving average that is the thick line of a loss."""


def series(rows: Rows, name: str) -> tuple[list[int], list[float]]:
    """Steps and values of one logged quantity, from the rows of ``metrics.csv``."""
    found = [(int(row["step"]), float(row[name])) for row in rows if row.get(name)]
    return [step for step, _ in found], [value for _, value in found]


def learning_curve(rows: Rows) -> Figure:
    """Training loss, its terms (thin: logged, thick: averaged), and validation metrics."""
    logged = {key for row in rows for key in row if key.startswith("train/")}
    names = sorted(logged - {"train/loss"})
    panels = [("Training loss", ["train/loss"])]
    if len(names) > 1:
        panels.append(("Loss terms, unweighted (lower is better)", names))
    figure = Figure(figsize=(4.5 * (len(panels) + 1), 3.6), layout="constrained")
    *left, right = figure.subplots(1, len(panels) + 1)
    for plot, (title, drawn) in zip(left, panels, strict=True):
        for name in drawn:
            steps, values = series(rows, name)
            (line,) = plot.plot(steps, values, lw=0.8, alpha=0.35)
            near = [values[max(0, k - SMOOTH) : k + SMOOTH + 1] for k in range(len(values))]
            smooth = [sum(window) / len(window) for window in near]
            label = name.removeprefix("train/")
            plot.plot(steps, smooth, label=label, color=line.get_color(), lw=1.5)
        positive = drawn == names and all(v > 0 for line in plot.lines for v in line.get_ydata())
        plot.set(xlabel="iteration", title=title, yscale="log" if positive else "linear")
    if len(left) > 1:
        left[1].legend(frameon=False, fontsize="small")
    shown = [name for name in TITLES if any(row.get(f"validation/{name}") for row in rows)]
    axes = right
    for index, name in enumerate(shown):
        axes = right if index == 0 else right.twinx()
        points = series(rows, f"validation/{name}")
        (line,) = axes.plot(*points, marker="o", ms=3, color=f"C{index}")
        axes.set_ylabel(TITLES[name], color=line.get_color())
        if index > 1:
            axes.spines["right"].set_position(("outward", 45))
    right.set(xlabel="iteration", title="Validation")
    return figure


def growth_weights(rows: Rows) -> Figure | None:
    """Weights of the levels' outputs and inputs, as Figure 2 of Eppenhof et al., 2019."""
    names = [key for row in rows[-1:] for key in row if key.startswith("alpha/")]
    curves = [series(rows, name) for name in sorted(names, key=lambda n: int(n.split("/")[1]))]
    if not curves or not curves[0][0]:
        return None
    figure = Figure(figsize=(7, 4), layout="constrained")
    top, bottom = figure.subplots(2, 1, sharex=True)
    alphas = [values for _, values in curves]
    betas = accumulate(alphas, lambda a, b: [x + y for x, y in zip(a, b, strict=True)])
    for level, ((steps, alpha), beta) in enumerate(zip(curves, betas, strict=True)):
        top.plot(steps, alpha, label=f"level {level}")
        bottom.plot(steps, beta)
    top.set(ylabel=r"$\alpha_i$ (outputs)", ylim=(-0.05, 1.05), title="Growth of the network")
    bottom.set(xlabel="iteration", ylabel=r"$\beta_i$ (inputs)", ylim=(-0.05, 1.05))
    place = {"loc": "upper center", "bbox_to_anchor": (0.5, 0.86)}
    top.legend(ncols=len(names), frameon=False, fontsize="small", **place)
    return figure


def objective_curves(history: Sequence[tuple[str, Sequence[float]]]) -> Figure:
    """The objective of an instance optimisation at every step, one panel per stage (each has its
    own resolution and terms).

    Args:
        history: per stage the kind of fit, and the objective at every step.
    """
    figure = Figure(figsize=(2.2 * len(history) + 0.6, 2.4), layout="constrained")
    for axes, (number, (kind, values)) in zip(
        figure.subplots(1, len(history), squeeze=False)[0], enumerate(history, 1), strict=True
    ):
        axes.plot(values, lw=1)
        axes.set(title=f"{number}: {kind}", xlabel="step")
    figure.axes[0].set_ylabel("objective")
    return figure


def study_figure(
    curves: Mapping[str, Sequence[Sequence[tuple[int, float]]]],
    rows: Mapping[str, Sequence[Mapping[str, Any]]],
) -> Figure:
    """Validation errors over the iterations (thin: each run, thick: the mean of a method's runs),
    and the cases of every method.

    Args:
        curves: per method and run ``(step, validation error)``.
        rows: per method the rows of its cases; the ranking metric is drawn.
    """
    figure = Figure(figsize=(5.2 + max(3.0, 0.9 * (len(rows) + 1)), 3.8), layout="constrained")
    left, right = figure.subplots(1, 2)
    for number, (method, runs) in enumerate(curves.items()):
        color = f"C{number % 10}"
        for run in runs:
            left.plot(*zip(*run, strict=True), color=color, lw=0.7, alpha=0.5)
        steps = sorted({step for run in runs for step, _ in run})
        common = [step for step in steps if all(step in dict(run) for run in runs)]
        means = [sum(dict(run)[step] for run in runs) / len(runs) for step in common]
        left.plot(common, means, color=color, lw=1.8, label=method, marker="o", ms=2.5)
    left.set(xlabel="iteration", ylabel="validation error", title="Training")
    if curves:
        left.legend(frameon=False, fontsize="small")
    first = next(iter(rows.values()), [])
    metric = ranking({key for row in first for key in row})
    if metric is None:
        right.set_axis_off()
        return figure
    columns = [("before", first, metric.column("before"))] if metric.compared else []
    columns += [(method, of, metric.column()) for method, of in rows.items()]
    series = [(name, [float(r[c]) for r in of if r.get(c) is not None]) for name, of, c in columns]
    dotted_boxes(right, series)
    better = "lower" if metric.better == "lower" else "higher"
    right.set(title=f"{metric.heading}, {better} is better")
    if len(series) > 3:
        right.tick_params(axis="x", labelrotation=60)
    return figure


def trials_figure(
    objectives: Sequence[str], values: Sequence[Sequence[float]], best: Sequence[Sequence[float]]
) -> Figure:
    """Trials of a search: the first two objectives against each other with the best ones joined, or
    one objective by trial.

    Args:
        values: objectives of the finished trials.
        best: objectives of the Pareto-optimal trials.
    """
    figure = Figure(figsize=(5.5, 4), layout="constrained")
    axes = figure.subplots()
    if len(objectives) == 1:
        axes.plot([value[0] for value in values], "o", ms=4)
        axes.plot(list(accumulate((value[0] for value in values), min)), "-", lw=1.2, color="C1")
        axes.set(xlabel="trial", ylabel=objectives[0])
        return figure
    axes.plot([v[0] for v in values], [v[1] for v in values], "o", ms=4, color="0.6")
    front = sorted((value[0], value[1]) for value in best)
    axes.plot([a for a, _ in front], [b for _, b in front], "o-", ms=6, color="C1")
    axes.set(xlabel=objectives[0], ylabel=objectives[1])
    return figure
