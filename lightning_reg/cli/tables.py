"""Tables for the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table
from rich.text import Text

from lightning_reg.metrics import Comparison, PairMetrics, totals
from lightning_reg.metrics.table import BY_KEY, COMPARED, RANKING, WHEN


def cases_table(cases: Sequence[PairMetrics]) -> Table:
    """One row per validation case and one for all of them: before and after, folding and
    smoothness.
    """
    rows = [case.row() for case in cases]
    everything: dict[str, str | float] = {"case": f"all {len(rows)}", **totals(list(cases))}
    present = [metric for metric in RANKING if metric.column() in everything]
    present = [
        metric for metric in present if metric.key != "ncc" or len(present) == 1
    ]  # it says least; cases.csv has it
    of_landmarks = any(row.get("tre_after_sd_mm") is not None for row in rows)
    table = Table(
        title="Validation, best checkpoint",
        caption="±: standard deviation over the landmarks of a pair" if of_landmarks else None,
    )
    table.add_column("\ncase", no_wrap=True)
    for metric in present:
        table.add_column(f"{metric.heading}\nbefore", justify="right", no_wrap=True)
        table.add_column("\nafter", justify="right", no_wrap=True)
    table.add_column("folding\n%", justify="right", no_wrap=True)
    table.add_column("\nSDlogJ", justify="right", no_wrap=True)
    for index, row in enumerate([*rows, everything]):
        cells = [str(row["case"])]
        for metric in present:
            for when in WHEN:
                value, spread = row.get(metric.column(when)), row.get(f"{metric.key}_{when}_sd_mm")
                text = "" if value is None else f"{value:.{metric.digits}f}"
                cells.append(text if spread is None else f"{text} ± {spread:.{metric.digits}f}")
        cells += [f"{100 * float(row['folding']):.2f}", f"{float(row['sdlogj']):.3f}"]
        table.add_row(
            *cells, end_section=index == len(rows) - 1, style="bold" if index == len(rows) else None
        )
    return table


def metrics_table(metrics: Mapping[str, Any]) -> Table:
    """Metrics of a registration before and after, a row per metric."""
    table = Table("", "before", "after")
    for column in table.columns[1:]:
        column.justify = "right"
    rows = [(BY_KEY[key].heading, value) for key, value in metrics["similarity"].items()]
    rows += [
        (metric.heading, metrics[metric.stored]) for metric in COMPARED if metric.stored in metrics
    ]
    rows += [("objective", metrics["objective"])] if "objective" in metrics else []
    rows += list(metrics.get("extra", {}).items())
    for title, value in rows:
        table.add_row(title, *(f"{value[when]:.3f}" if when in value else "" for when in WHEN))
    table.add_row("folding, %", "", f"{100 * metrics['folding']:.3f}")
    table.add_row("SDlogJ", "", f"{metrics['sdlogj']:.3f}")
    return table


def totals_table(totals: Mapping[str, Mapping[str, float]]) -> Table:
    """Means with their standard deviations, confidence intervals and numbers of cases."""
    table = Table("", "mean", "SD", "95 % interval", "cases")
    for column in table.columns[1:]:
        column.justify = "right"
    for name, values in totals.items():
        interval = (
            "" if values["low"] != values["low"] else f"{values['low']:.4g} to {values['high']:.4g}"
        )
        table.add_row(
            name, f"{values['mean']:.4g}", f"{values['sd']:.3g}", interval, f"{values['n']:.0f}"
        )
    return table


def comparison_table(comparison: Comparison) -> Table:
    """Methods below each other, the best of each column in bold; :meth:`Comparison.notes` says what
    its marks mean.
    """
    table = Table(*comparison.header())
    for column in table.columns[1:]:
        column.justify = "right"
    for name, cells in comparison.cells().items():
        texts = ["" if cell.mean != cell.mean else cell.text() for cell in cells]
        shown = [
            Text(text, style="bold" if cell.best else "")
            for text, cell in zip(texts, cells, strict=True)
        ]
        table.add_row(Text(name), *shown, end_section=name.startswith("before"))
    return table
