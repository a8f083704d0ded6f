"""``lightning-reg register`` of many pairs."""

from __future__ import annotations

import shlex
from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, TextColumn
from rich.progress import Progress as Bar

from lightning_reg.cli.arguments import Lines, console, loading
from lightning_reg.cli.methods import registrar_of
from lightning_reg.io.names import duration
from lightning_reg.registry import UserError

if TYPE_CHECKING:
    from lightning_reg.batch.cohort.ledger import Ledger
    from lightning_reg.batch.cohort.pairs import CohortPair
    from lightning_reg.batch.cohort.register import Progress

SHOWN = 8
"""Failed pairs that are printed."""


def register_many(arguments: Namespace, files: Sequence[str]) -> int:
    """Register many pairs; 1 where some of this process's failed."""
    terminal, out = console(), arguments.out
    if arguments.overwrite:
        raise UserError(
            "Many pairs go on in a folder that is there, and --only PAIR registers one again; leave"
            " out --overwrite."
        )
    if arguments.no_report or arguments.section:
        raise UserError(
            "Of many pairs no reports are written; leave out --no-report and --section"
            " (lightning-reg report PAIR_FOLDER)."
        )
    with loading():
        from lightning_reg.batch.cohort.ledger import Ledger
        from lightning_reg.batch.cohort.register import register_cohort
    pairs, ledger = _pairs(arguments), Ledger(out)
    only = _chosen(arguments, ledger) if arguments.only else None
    if only is not None and not only:
        terminal.print("No pair has failed.")
        return 0
    registrar, refine = registrar_of(arguments)
    with _shown(terminal) as progress:
        counts = register_cohort(
            registrar, pairs, out, refine=refine, shard=arguments.shard, only=only,
            inverse=arguments.inverse, report=arguments.report, files=files, progress=progress,
        )  # fmt: skip
    before = f", {counts.earlier:,} had been before" if counts.earlier else ""
    text = f"{counts.done:,} pairs registered, {counts.failed:,} failed{before}."
    terminal.print(f"{text} Everything is in {out}")
    if counts.failed:
        for name in Ledger(out).failed({})[:SHOWN]:
            message = (Ledger(out).row(name) or {}).get("message")
            terminal.print(f"  {name}: {message}")
    line = f"lightning-reg collect {shlex.quote(str(out))}"
    terminal.print(f"Look at all of them: {line}")
    return 1 if counts.failed else 0


def _chosen(arguments: Namespace, ledger: Ledger) -> set[str]:
    """Pairs that ``--only`` names."""
    verdicts = ledger.verdicts(arguments.verdicts)
    failed = ledger.failed(verdicts) if "failed" in arguments.only else ()
    return {*arguments.only, *failed} - {"failed"}


def _pairs(arguments: Namespace) -> list[CohortPair]:
    from lightning_reg.batch.cohort.pairs import (
        pairs_from_folder,
        pairs_from_series,
        pairs_from_table,
    )

    to = arguments.to
    if arguments.consecutive and (arguments.folder is None or to is not None):
        raise UserError("--consecutive is of --folder, without --to; leave it out.")
    if arguments.pairs is not None:
        if to is not None:
            raise UserError(
                "--to is of --folder or --series; a table names each pair's fixed image."
            )
        return pairs_from_table(arguments.pairs)
    if arguments.folder is not None:
        return pairs_from_folder(arguments.folder, to, arguments.consecutive)
    return pairs_from_series(arguments.series, to or "0", arguments.out / "mean.nii.gz")


@contextmanager
def _shown(terminal: Console) -> Iterator[Callable[[Progress], None]]:
    """Show pairs, pairs per minute and the rest of the time: a bar in a terminal, else a line every
    half minute.
    """
    columns = TextColumn("{task.completed:,} of {task.total:,} pairs"), BarColumn()
    speed, lines = TextColumn("{task.fields[speed]}"), Lines(terminal)
    quiet = not terminal.is_terminal
    with Bar(*columns, speed, console=terminal, transient=True, disable=quiet) as bar:
        task = bar.add_task("", total=0, speed="")

        def show(now: Progress) -> None:
            finished = now.earlier + now.done + now.failed
            rest = "" if now.remaining != now.remaining else f", {duration(now.remaining)} left"
            failed = f", {now.failed:,} failed" if now.failed else ""
            text = f"{now.per_minute:.1f} pairs a minute{rest}{failed}"
            bar.update(task, total=now.total, completed=finished, speed=text)
            if finished:
                lines(f"{finished:,} of {now.total:,}: {text}")

        yield show
