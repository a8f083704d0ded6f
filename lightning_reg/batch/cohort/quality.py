"""Quality page of a cohort: thumbnails of all pairs, to pass or fail each and save the verdicts."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import Any

import jinja2
from markupsafe import Markup

from lightning_reg.batch.cohort.ledger import QUALITY, Ledger, Row
from lightning_reg.inference.outputs import OUTPUTS
from lightning_reg.io.folders import inside, write_whole
from lightning_reg.metrics.table import METRICS

PAGE = "quality.html"


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
    write_whole(
        ledger.folder / PAGE,
        template.render(title=f"Quality of {len(rows)} registrations", data=content).encode(),
    )


def _metrics(rows: Sequence[Row]) -> list[dict[str, str]]:
    """Metrics in the rows, ``{column, title, better}``; those used for ranking come first."""
    there = {key for row in rows for key in row}
    present = [metric for metric in METRICS if metric.column() in there]
    present.sort(key=lambda metric: not metric.ranks)
    return [{"column": m.column(), "title": m.heading, "better": m.better} for m in present]


def _pair(ledger: Ledger, row: Row, verdict: Mapping[str, str]) -> dict[str, Any]:
    path = inside(ledger.place(row["pair"]), OUTPUTS["thumbnail"].file)
    image = (
        f"data:image/jpeg;base64,{base64.b64encode(path.read_bytes()).decode()}"
        if path.is_file()
        else ""
    )
    values = {key: value for key, value in row.items() if isinstance(value, (int, float))}
    shown = verdict if ledger.counts(row["pair"], verdict) else {}
    known = {
        "name": row["pair"],
        "message": row.get("message", ""),
        "values": values,
        "image": image,
    }
    return {**known, **shown, "result": ledger.result(row["pair"])}
