"""Collection of the results of a cohort's processes: their check, and the page to judge them on."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from lightning_reg.batch.cohort.ledger import QUALITY, Ledger, Row
from lightning_reg.inference.outputs import OUTPUTS
from lightning_reg.io.folders import inside, write_whole
from lightning_reg.metrics.table import METRICS

PAGE = "quality.html"


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

    Args:
        folder: result folder of many registered pairs.

    Raises:
        DataError: the folder is not that of a cohort.
    """
    ledger = Ledger(Path(folder).expanduser())
    names = ledger.names()
    rows = ledger.write_results(names)
    known = {row["pair"] for row in rows}
    missing = [name for name in names if name not in known]
    damaged = [damage for name in names if ledger.done(name) and (damage := ledger.damage(name))]
    write_quality_page(ledger, rows)
    return Collected(rows, missing, damaged, ledger.folder / PAGE)


def write_quality_page(ledger: Ledger, rows: Sequence[Row]) -> None:
    """Write ``quality.html`` into a cohort's folder: a card for every finished or failed pair, with
    its thumbnail if it has one.

    Args:
        rows: of the results; verdicts in the folder (``quality.csv``) are shown.
    """
    verdicts = ledger.verdicts()
    quality = ledger.folder / QUALITY
    data = {
        "key": str(ledger.folder.resolve()),
        "saved": hashlib.sha256(quality.read_bytes()).hexdigest() if quality.is_file() else "",
        "metrics": _metrics(rows),
        "pairs": [_pair(ledger, row, verdicts.get(row["pair"], {})) for row in rows],
    }
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string((files(__package__) / PAGE).read_text(encoding="utf-8"))
    content = Markup(json.dumps(data).replace("<", "\\u003c"))
    page = template.render(title=f"Quality of {len(rows)} registrations", data=content)
    write_whole(ledger.folder / PAGE, page.encode())


def _metrics(rows: Sequence[Row]) -> list[dict[str, str]]:
    """Metrics in the rows, ``{column, title, better}``; those used for ranking come first."""
    there = {key for row in rows for key in row}
    present = [metric for metric in METRICS if metric.column() in there]
    present.sort(key=lambda metric: not metric.ranks)
    return [{"column": m.column(), "title": m.heading, "better": m.better} for m in present]


def _pair(ledger: Ledger, row: Row, verdict: Mapping[str, str]) -> dict[str, Any]:
    path = inside(ledger.place(row["pair"]), OUTPUTS["thumbnail"].file)
    picture = base64.b64encode(path.read_bytes()).decode() if path.is_file() else ""
    return {
        "name": row["pair"],
        "message": row.get("message", ""),
        "values": {key: value for key, value in row.items() if isinstance(value, (int, float))},
        "image": picture and f"data:image/jpeg;base64,{picture}",
        **(verdict if ledger.counts(row["pair"], verdict) else {}),
        "result": ledger.result(row["pair"]),
    }
