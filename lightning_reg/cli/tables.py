"""Tables for the terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table

from lightning_reg.spatial import Case, totals

_QUANTITIES = (
    ("tre", "TRE, mm", "_mm", "{:.2f}"),
    ("dice", "Dice", "", "{:.3f}"),
    ("field_error", "field error, mm", "_mm", "{:.2f}"),
)


def cases_table(cases: Sequence[Case]) -> Table:
    """One row per validation case and one for all of them: before and after, folding and smoothness."""
    rows = [case.row() for case in cases]
    everything: dict[str, str | float] = {"case": f"all {len(rows)}", **totals(list(cases))}
    present = [q for q in _QUANTITIES if f"{q[0]}_after{q[2]}" in everything]
    table = Table(title="Validation, best checkpoint")
    table.add_column("\ncase", no_wrap=True)
    for _, title, _, _ in present:
        table.add_column(f"{title}\nbefore", justify="right", no_wrap=True)
        table.add_column("\nafter", justify="right", no_wrap=True)
    table.add_column("folding\n%", justify="right", no_wrap=True)
    table.add_column("\nSDlogJ", justify="right", no_wrap=True)
    for index, row in enumerate([*rows, everything]):
        cells = [str(row["case"])]
        for name, _, unit, form in present:
            for when in ("before", "after"):
                value, spread = row.get(f"{name}_{when}{unit}"), row.get(f"{name}_{when}_sd{unit}")
                text = "" if value is None else form.format(value)
                cells.append(text if spread is None else f"{text} ± {form.format(spread)}")
        cells += [f"{100 * float(row['folding']):.2f}", f"{float(row['sdlogj']):.3f}"]
        table.add_row(*cells, end_section=index == len(rows) - 1, style="bold" if index == len(rows) else None)
    return table
