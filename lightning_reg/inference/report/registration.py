"""Report of one registered pair: a viewer with three linked planes, tables and figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from lightning_reg import figures as drawing
from lightning_reg.inference.report.page import Picture, ReportSection, Row, Section, number, render
from lightning_reg.inference.report.viewer import display_grid, volumes
from lightning_reg.inference.weights import Weights
from lightning_reg.metrics import evaluate
from lightning_reg.metrics.table import BY_KEY, COMPARED, WHEN
from lightning_reg.registry import blaming
from lightning_reg.spatial import Image, Pair

if TYPE_CHECKING:
    from lightning_reg.inference.result import Result


def write_report(
    path: Path, result: Result, record: Mapping[str, Any], more: Sequence[ReportSection] = ()
) -> None:
    """Write the report of a pair.

    Args:
        path: of the HTML file.
        record: content of ``metrics.json``.
        more: sections of other distributions, shown before the section on time.
    """
    pair, transform, metrics = result.pair, result.transform, record["metrics"]
    shown, figures = volumes(result), []
    if record.get("history"):
        figures.append(Picture.of("objective", drawing.objective_curves(record["history"])))
    columns, note = ("", "before", "after"), _smoothness(metrics)
    sections = [Section("Before and after", columns, _summary(metrics), note, figures)]
    if "tre_mm" in metrics:
        sections.append(_landmarks(metrics["tre_mm"]["landmarks"], shown))
    if "dice" in metrics:
        sections.append(_labels(metrics))
    if result.spread is not None:
        sections.append(_spread(pair.fixed, result.spread, metrics["spread_mm"]))
    if result.weights is not None:
        sections.append(_by_weight(pair, result.weights))
    for extra in more:
        with blaming(extra, f"writing its section on {record['case']}"):
            sections.append(extra(pair, transform, record))
    seconds = [Row((name, number(value, ".2f"))) for name, value in record["seconds"].items()]
    seconds.append(Row(("all", number(sum(record["seconds"].values()), ".2f")), True))
    sections.append(Section("Time", ("part", "seconds"), seconds))
    settings = {"inputs": record["inputs"], **record["settings"]}
    fixed, _, moving = record["case"].partition(" < ")
    subtitle = f"{moving} (moving) is brought onto {fixed} (fixed)." if moving else ""
    title = f"Registration of {record['case']}"
    page = render(title, sections, settings, subtitle, record["warnings"], shown)
    path.write_text(page, encoding="utf-8")


def _summary(metrics: Mapping[str, Any]) -> list[Row]:
    rows = [
        (BY_KEY[key].heading, value, f".{BY_KEY[key].digits}f")
        for key, value in metrics["similarity"].items()
    ]
    rows += [
        (metric.heading, metrics[metric.stored], f".{metric.digits}f")
        for metric in COMPARED
        if metric.stored in metrics
    ]
    if "objective" in metrics:
        rows.append(("objective of the optimisation", metrics["objective"], ".4f"))
    rows += [(title, value, ".3f") for title, value in metrics.get("extra", {}).items()]
    return [
        Row((title, *(number(value.get(when), form) for when in WHEN)))
        for title, value, form in rows
    ]


def _smoothness(metrics: Mapping[str, Any]) -> str:
    text = (
        f"Folding: {100 * metrics['folding']:.3f} % of the voxels. SDlogJ: {metrics['sdlogj']:.3f}."
    )
    if percentiles := metrics.get("jacobian_percentiles"):
        low, few, most, high = (f"{value:.2f}" for value in percentiles.values())
        text += (
            f" Local volumes change by factors (det J) of {few} to {most} in 90 %, and of {low} to"
            f" {high} in 98 % of the voxels."
        )
    if "inverse_residual_mm" in metrics:
        residual = metrics["inverse_residual_mm"]
        text += (
            f" The inverse misses by {residual['mean']:.3f} mm on average, at 95 % of the points by"
            f" less than {residual['p95']:.3f} mm."
        )
    return text


def _spread(fixed: Image, spread: Tensor, metrics: Mapping[str, float]) -> Section:
    """The map of an ensemble's disagreement."""
    grid = display_grid(fixed.grid)
    values = Image(spread, fixed.grid).resampled(grid).tensor
    drawn = drawing.spread_map(fixed.resampled(grid), values)
    note = (
        "Root mean square distance of the registrations from their mean, which is the transform."
        " Small values mean that the registrations agree, not that they are correct. Mean"
        f" {metrics['mean']:.2f} mm, 95 % of the voxels below {metrics['p95']:.2f} mm, largest"
        f" {metrics['largest']:.2f} mm."
    )
    return Section("Spread", note=note, figures=[Picture.of("spread", drawn)])


def _by_weight(pair: Pair, weights: Weights) -> Section:
    """Results for several weights, with one figure per weight."""
    grid = display_grid(pair.fixed.grid)
    seen = Pair(pair.fixed.resampled(grid), pair.moving, name=pair.name)
    rows, slides = [], []
    measured = [metric for metric in COMPARED if metric.stored in ("dice", "tre_mm")]
    for weight in weights.offered:
        transform = weights.register(weight)
        case = evaluate(pair, transform)
        found = case.as_dict()
        values = [
            number(found[metric.stored]["after"], f".{metric.digits}f")
            for metric in measured
            if metric.stored in found
        ]
        cells = (f"{weight:.3g}", *values, f"{100 * case.folding:.3f}", f"{case.sdlogj:.3f}")
        rows.append(Row(cells, emphasis=weight == weights.chosen))
        panel = drawing.registration_panel(seen, transform)
        slides.append(Picture.of(f"weight {weight:.3g}", panel))
    headings = [metric.heading for metric in measured if metric.stored in found]
    columns = ["weight", *headings, "folding, %", "SDlogJ"]
    note = (
        "Registrations by the same model with other weights of the smoothness term. The result is"
        " the row in bold."
    )
    first, title = weights.offered.index(weights.chosen), "Weight of the smoothness"
    return Section(title, columns, rows, note, slides=slides, slide=first)


def _landmarks(errors: Mapping[str, list[float]], shown: Mapping[str, Any]) -> Section:
    order = sorted(range(len(errors["after"])), key=lambda n: -errors["after"][n])
    rows = []
    for n in order:
        cells = [number(errors[when][n], ".2f") for when in WHEN]
        rows.append(Row((f"landmark {n + 1}", *cells), at=_at(shown, n)))
    columns = ("", "before, mm", "after, mm")
    return Section("Landmarks, worst first", columns, rows, "A click on a row shows the landmark.")


def _at(shown: Mapping[str, Any], number: int) -> str | None:
    marks = shown["landmarks"]
    return ",".join(map(str, marks[number]["fixed"])) if number < len(marks) else None


def _labels(metrics: Mapping[str, Any]) -> Section:
    columns = ["label", "Dice before", "after"]
    keys = [("dice", ".3f")]
    if "hd95_mm" in metrics:
        columns += ["HD95 before, mm", "after", "ASSD before, mm", "after"]
        keys += [("hd95_mm", ".2f"), ("assd_mm", ".2f")]
    scores = {
        label: -1.0 if score["after"] is None else score["after"]
        for label, score in metrics["dice"]["labels"].items()
    }
    rows = []
    for label in sorted(scores, key=lambda label: scores[label]):
        values = [(metrics[key]["labels"][label], form) for key, form in keys]
        cells = [number(value[when], form) for value, form in values for when in WHEN]
        rows.append(Row((label, *cells)))
    return Section("Labels, worst first", columns, rows)
