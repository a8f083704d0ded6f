"""``lightning-reg collect``."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections import Counter

from lightning_reg.cli.arguments import console, require_files
from lightning_reg.cli.signatures import add_options

SHOWN = 8
"""Names of pairs that are printed."""


def add_arguments(parser: ArgumentParser) -> None:
    add_options(parser, "batch.cohort.collect:collect", "folder")


def run(arguments: Namespace) -> int:
    """0 where every pair is there, else 1."""
    require_files(arguments.folder)
    from lightning_reg.batch.cohort.collect import collect
    from lightning_reg.cli.tables import totals_table
    from lightning_reg.metrics import summaries

    terminal, found = console(), collect(arguments.folder)
    done = [row for row in found.rows if row["status"] == "done"]
    numbers = [
        {key: value for key, value in row.items() if isinstance(value, (int, float))}
        for row in done
    ]
    if numbers:
        terminal.print(totals_table(summaries(numbers)))
    terminal.print(
        f"{len(done):,} pairs are done, {len(found.failed):,} failed, {len(found.missing):,} are"
        " missing."
    )
    by = Counter(row["by"] for row in done)
    if len(by) > 1:
        told = ", ".join(f"{count:,} by {name}" for name, count in by.most_common())
        terminal.print(f"Not all by the same method: {told} (column 'by').", style="yellow")
    for row in found.failed[:SHOWN]:
        terminal.print(f"  {row['pair']}: {row['message']}")
    for sentence in found.damaged[:SHOWN]:
        terminal.print(f"Damaged: {sentence}; remove its folder and register again.")
    if found.missing:
        some = ", ".join(found.missing[:SHOWN])
        terminal.print(
            f"Missing: {some}{', ...' if len(found.missing) > SHOWN else ''}; send the same"
            " register again."
        )
    terminal.print(f"The table is {found.page.with_name('results.csv')}; look at {found.page}")
    return 0 if found.complete else 1
