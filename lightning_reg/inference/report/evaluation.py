"""The reports of an evaluation and of a training run: tables sorted worst first, box plots, figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from lightning_reg.figures import metric_boxes
from lightning_reg.inference.report.page import Picture, Row, Section, number, render
from lightning_reg.metrics.table import heading, ranking


def write_report(
    path: Path, rows: Sequence[Mapping[str, Any]], against: Sequence[Mapping[str, Any]] | None, record: Mapping[str, Any]
) -> None:
    """Write the report of an evaluation.

    Args:
        path: of the HTML file.
        rows, against: as in ``cases.csv`` and ``cases_against.csv``.
        record: what ``metrics.json`` holds.
    """
    sections = [totals_section(record["totals"]), boxes_section(rows, against)]
    if record["comparison"]:
        sections += [replace(totals_section(record["against"]), title="All cases, second model"), _comparison(record["comparison"])]
    sections.append(cases_section(rows))
    if against:
        sections.append(cases_section(against, "Cases of the second model, worst first"))
    path.write_text(render(f"Evaluation of {len(rows)} pairs", sections, record["settings"]), encoding="utf-8")


def write_run_report(
    path: Path, run: str, rows: Sequence[Mapping[str, Any]], figures: Sequence[Path], totals: Mapping[str, Any], settings: Any
) -> None:
    """Write the report of a training run.

    Args:
        path: of the HTML file.
        run: its name.
        rows: of ``cases.csv``.
        figures: PNG files.
        totals: as :func:`lightning_reg.metrics.statistics.summaries` gives them.
        settings: the run's configuration.
    """
    sections = [totals_section(totals), boxes_section(rows, None), cases_section(rows)]
    sections.append(Section("Figures", figures=[Picture.read(figure) for figure in figures]))
    path.write_text(render(f"Run {run}", sections, settings, "Validation with the best checkpoint."), encoding="utf-8")


def totals_section(totals: Mapping[str, Mapping[str, float]]) -> Section:
    rows = [Row((heading(name), number(v["mean"], ".4g"), number(v["sd"], ".3g"), _interval(v), str(v["n"]))) for name, v in totals.items()]
    return Section("All cases", ("", "mean", "SD", "95 % interval of the mean", "cases"), rows)


def boxes_section(rows: Sequence[Mapping[str, Any]], against: Sequence[Mapping[str, Any]] | None) -> Section:
    return Section("Distribution over the cases", figures=[Picture.of("box plots", metric_boxes(rows, against))])


def cases_section(rows: Sequence[Mapping[str, Any]], title: str = "Cases, worst first") -> Section:
    columns = list(dict.fromkeys(key for row in rows for key in row))
    metric = ranking(columns)
    key, largest = (metric.column(), metric.better == "lower") if metric else (columns[-1], True)
    order = sorted(rows, key=lambda row: _badness(row.get(key), largest), reverse=True)
    cells = [Row([str(row["case"]), *(_cell(row.get(column)) for column in columns[1:])]) for row in order]
    return Section(title, [heading(c) for c in columns], cells)


def _badness(value: Any, largest: bool) -> float:
    """A value that is larger for a worse case; one without a value is the worst."""
    number = float("nan") if value in (None, "") else float(value)
    return float("inf") if number != number else number if largest else -number


def _comparison(comparison: Mapping[str, Mapping[str, float]]) -> Section:
    rows = [Row((heading(name), number(v["mean"], ".3g"), _interval(v), number(v["p"], ".2g"))) for name, v in comparison.items()]
    note = "Second model minus first, over the same cases; p of the paired two-sided Wilcoxon test, not corrected for the number of rows."
    return Section("Against the second model", ("", "mean difference", "95 % interval", "p"), rows, note)


def _cell(value: Any) -> str:
    return "" if value in (None, "") else number(float(value), ".4g")


def _interval(values: Mapping[str, float]) -> str:
    low, high = values.get("low"), values.get("high")
    return "" if low is None or low != low else f"{low:.4g} to {number(high, '.4g')}"
