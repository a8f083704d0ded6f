"""Collection and check of the results of a cohort's processes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from lightning_reg.batch.cohort.ledger import Ledger, Row
from lightning_reg.batch.cohort.quality import PAGE, write_quality_page


@dataclass(frozen=True)
class Collected:
    """State of a cohort.

    Args:
        rows: of the finished and failed pairs, in the cohort's order.
        missing: names of pairs that have not been registered yet.
        damaged: a sentence for each pair with a missing or empty file.
        page: path of the page of all pairs, ``quality.html``.
    """

    rows: list[Row]
    missing: list[str]
    damaged: list[str]
    page: Path

    @property
    def failed(self) -> list[Row]:
        return [row for row in self.rows if row["status"] == "failed"]

    @property
    def complete(self) -> bool:
        return not (self.missing or self.damaged or self.failed)


def collect(folder: str | Path) -> Collected:
    """Write ``results.csv`` of all pairs and ``quality.html``, and check that every pair of the
    cohort has all its files.

    Raises:
        DataError: the folder is not that of a cohort.
    """
    ledger = Ledger(Path(folder).expanduser())
    names = ledger.pairs()
    rows = ledger.write_results(names)
    known = {row["pair"] for row in rows}
    damaged = [damage for name in names if ledger.done(name) and (damage := ledger.damage(name))]
    write_quality_page(ledger, rows)
    return Collected(
        rows, [name for name in names if name not in known], damaged, ledger.folder / PAGE
    )
