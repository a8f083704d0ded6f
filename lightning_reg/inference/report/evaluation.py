"""Reports of an evaluation and of a training run: tables, worst cases first, and figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from lightning_reg.figures import metric_boxes
from lightning_reg.inference.report.page import Picture, Row, Section, number, render
from lightning_reg.metrics import Comparison
from lightning_reg.metrics.comparison import CHOICES
from lightning_reg.metrics.table import heading, ranking


def write_report(
    path: Path,
    rows: Mapping[str, Sequence[Mapping[str, Any]]],
    record: Mapping[str, Any],
    comparison: Comparison | None = None,
) -> None:
    """Write the report of an evaluation.

    Args:
        path: of the HTML file.
        rows: of ``cases.csv``, by method.
        record: content of ``metrics.json``.
        comparison: table of the methods; ``None``: that of the rows.
    """
    several, count = len(rows) > 1, max(map(len, rows.values()))
    good = {name: [row for row in of if not row.get("error")] for name, of in rows.items()}
    sections = [comparison_section(comparison or Comparison(rows))] if several else []
    for name, of in record["totals"].items():
        title = f"All cases, {name}" if several else "All cases"
        sections.append(replace(totals_section(of), title=title))
    if record["differences"]:
        sections.append(_differences(record["differences"]))
    sections.append(boxes_section(good))
    for name, of in rows.items():
        failed = [Row((str(row["case"]), str(row["error"]))) for row in of if row.get("error")]
        if failed:
            title = f"Failed, {name}" if several else "Failed"
            sections.append(Section(title, ("case", ""), failed))
        if good[name]:
            title = f"Cases of {name}, worst first" if several else "Cases, worst first"
            sections.append(cases_section(good[name], title))
    title = f"Evaluation of {count} pairs{f' by {len(rows)} methods' if several else ''}"
    settings = record["settings"]
    page = render(title, sections, settings, "", settings.get("warnings", ()))
    path.write_text(page, encoding="utf-8")


def comparison_section(comparison: Comparison) -> Section:
    """The table of methods; the best value of a column is marked by a word, for print."""
    rows = []
    for name, cells in comparison.cells().items():
        rows.append(Row([name, *(cell.text() + " (best)" * cell.best for cell in cells)]))
    notes = " ".join(comparison.notes()).replace("Bold: the best mean.", "(best): the best mean.")
    return Section("Methods", comparison.header(), rows, notes)


def write_run_report(
    path: Path,
    run: str,
    rows: Sequence[Mapping[str, Any]],
    figures: Sequence[Path],
    totals: Mapping[str, Any],
    settings: Any,
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
    sections = [totals_section(totals), boxes_section({run: rows}), cases_section(rows)]
    sections.append(Section("Figures", figures=[Picture.read(figure) for figure in figures]))
    subtitle = "Validation with the best checkpoint."
    path.write_text(render(f"Run {run}", sections, settings, subtitle), encoding="utf-8")


def totals_section(totals: Mapping[str, Mapping[str, float]]) -> Section:
    rows = []
    for name, v in totals.items():
        mean, sd = number(v["mean"], ".4g"), number(v["sd"], ".3g")
        rows.append(Row((heading(name), mean, sd, _interval(v), str(v["n"]))))
    return Section("All cases", ("", "mean", "SD", "95 % interval of the mean", "cases"), rows)


def boxes_section(rows: Mapping[str, Sequence[Mapping[str, Any]]]) -> Section:
    return Section(
        "Distribution over the cases", figures=[Picture.of("box plots", metric_boxes(rows))]
    )


def cases_section(rows: Sequence[Mapping[str, Any]], title: str = "Cases, worst first") -> Section:
    columns = list(dict.fromkeys(key for row in rows for key in row))
    metric = ranking(columns)
    key, largest = (metric.column(), metric.better == "lower") if metric else (columns[-1], True)
    order = sorted(rows, key=lambda row: _badness(row.get(key), largest), reverse=True)
    cells = [Row([str(row["case"]), *(_cell(row.get(c)) for c in columns[1:])]) for row in order]
    return Section(title, [heading(c) for c in columns], cells)


def _badness(value: Any, largest: bool) -> float:
    """Sort key that is larger for worse cases; a case without a value is the worst."""
    number = float("nan") if value in (None, "") else float(value)
    return float("inf") if number != number else number if largest else -number


def _differences(differences: Sequence[Mapping[str, Any]]) -> Section:
    rows = [
        Row((
            CHOICES[d["metric"]].heading, d["method"], d["best"], number(d["mean"], ".3g"),
            _interval(d), number(d["p"], ".2g"),
            number(d["corrected"], ".2g"), str(d["n"]),
        ))
        for d in differences
    ]  # fmt: skip
    note = (
        "Method minus the best method, over the cases that both have; p value of the paired"
        " two-sided Wilcoxon test, without and with correction for the number of methods compared"
        " in the metric (Holm)."
    )
    columns = ["", "method", "best", "mean difference", "95 % interval"]
    columns += ["p", "p, corrected", "cases"]
    return Section("Differences from the best", columns, rows, note)


def _cell(value: Any) -> str:
    return "" if value in (None, "") else number(float(value), ".4g")


def _interval(values: Mapping[str, float]) -> str:
    low, high = values.get("low"), values.get("high")
    return "" if low is None or low != low else f"{low:.4g} to {number(high, '.4g')}"
