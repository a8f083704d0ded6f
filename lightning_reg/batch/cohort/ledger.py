"""Folder of a cohort: rows of its pairs, damage, and verdicts on the results."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from lightning_reg.io.folders import LISTING, MARK, inside, refuse_links
from lightning_reg.io.reading import read_json
from lightning_reg.io.tables import read_table, write_table
from lightning_reg.io.worklist import Worklist
from lightning_reg.registry import DataError, did_you_mean

RESULTS, QUALITY = "results.csv", "quality.csv"
Row = dict[str, Any]


class Ledger(Worklist):
    """Pairs of a cohort. A finished pair has the folder ``pairs/NAME``, which is written whole."""

    name, item, by, items = "cohort", "pair", "register", "pairs"
    free = ("version",)
    mark = f"pairs/{{}}/{LISTING}"
    folders = ("pairs", "failed")

    def place(self, name: str) -> Path:
        """Folder of a pair's results."""
        return inside(self.folder, f"pairs/{name}")

    def result(self, name: str) -> str:
        """Digest of the record of a finished pair's result; empty if there is none."""
        try:
            return _digest(self.place(name) / MARK) if self.done(name) else ""
        except OSError:
            return ""

    def row(self, name: str) -> Row | None:
        """A pair's row of ``results.csv``; ``None`` if it has neither finished nor failed."""
        if self.done(name) and not self._failed_again(name):
            path = self.place(name) / MARK
            try:
                refuse_links(path.parent, (MARK, LISTING))
                return _row(name, read_json(path, "remove its folder"))
            except DataError as cause:
                message = str(cause)
            except (OSError, KeyError, TypeError, AttributeError) as cause:
                message = f"{path} cannot be read ({cause}); remove its folder."
            return {"pair": name, "status": "failed", "message": message}
        failure = self.failure_of(name)
        return failure and {"pair": name, "status": "failed", "message": failure["message"]}

    def _failed_again(self, name: str) -> bool:
        """Whether a finished pair failed later: its failure names the result that is there."""
        failure = self.failure_of(name)
        if failure is None:
            return False
        result = self.result(name)
        return bool(failure.get("result", result) == result)

    def damage(self, name: str) -> str | None:
        """A sentence about a missing or empty file of a finished pair; ``None``: there is none."""
        place = self.place(name)
        try:
            for file in read_json(place / LISTING)["files"]:
                if not inside(place, file).is_file() or not (place / file).stat().st_size:
                    return f"{place / file} is gone or empty"
        except (OSError, DataError, KeyError, TypeError) as cause:
            return f"{place / LISTING} cannot be read ({cause})"
        return None

    def write_results(self, names: Iterable[str], file: str = RESULTS) -> list[Row]:
        """Write a table with a row for each finished or failed pair; returns the rows."""
        sources = self.stored()["items"]
        rows = []
        for name in names:
            row = self.row(name)
            if row is not None:
                files = {side: sources.get(name, {}).get(side, "") for side in ("fixed", "moving")}
                rows.append({**row, **files})
        columns = ("pair", "status", "message", "fixed", "moving")
        write_table(self.folder / file, rows, columns)
        return rows

    def failed(self, verdicts: Mapping[str, Mapping[str, str]]) -> list[str]:
        """Pairs that failed, or that were judged as failed and have not been registered again
        since.

        Args:
            verdicts: see :meth:`verdicts`.

        Raises:
            DataError: a verdict names a pair that is not in the cohort.
        """
        names = self.names()
        strange = sorted(set(verdicts) - set(names))
        if strange:
            raise DataError(
                f"The verdicts name the pair '{strange[0]}'{did_you_mean(strange[0], names)} The"
                " cohort does not have it."
            )

        def has_failed(name: str) -> bool:
            if not self.done(name):
                return self.failed_at(name).is_file()
            verdict = verdicts.get(name, {})
            judged = verdict.get("verdict") == "fail" and self.counts(name, verdict)
            return judged or self._failed_again(name)

        return [name for name in names if has_failed(name)]

    def counts(self, name: str, verdict: Mapping[str, str]) -> bool:
        """Whether a verdict is about the pair's present result, or names no result."""
        return not verdict.get("result") or verdict["result"] == self.result(name)

    def verdicts(self, path: Path | None = None) -> dict[str, dict[str, str]]:
        """Verdicts on the pairs, ``{name: {verdict, note, result}}``, from the file saved by the
        page of all pairs.

        ``result`` is the :meth:`result` that was judged; a table may lack it.

        Args:
            path: file of the verdicts; default: ``quality.csv`` in the folder of the results.
                Without that file the result is empty.

        Raises:
            DataError: the file at ``path`` does not exist, or a file is not such a table.
        """
        place = path or inside(self.folder, QUALITY)
        if path is None and not place.is_file():
            return {}
        lines = read_table(place, ("pair", "verdict"))
        for line, cells in lines:
            if cells["verdict"] not in ("pass", "fail", ""):
                raise DataError(
                    f"Line {line} of {place} has the verdict '{cells['verdict']}'; give pass, fail,"
                    " or nothing."
                )
        return {
            cells["pair"]: {key: cells.get(key, "") for key in ("verdict", "note", "result")}
            for _, cells in lines
        }


def _row(name: str, record: Mapping[str, Any]) -> Row:
    """The columns of a pair from its ``metrics.json``."""
    known = {key: value for key, value in record["row"].items() if value is not None}
    known.pop("case", None)
    return {
        "pair": name,
        "status": "done",
        "message": " ".join(record["warnings"]),
        "by": registered_by(record["settings"]),
        **known,
        "seconds": round(sum(record["seconds"].values()), 3),
    }


def with_weights(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings with a digest of the model's file, which may be trained again under its path."""
    inner = {k: with_weights(v) if isinstance(v, Mapping) else v for k, v in settings.items()}
    path = Path(str(settings.get("model") or ""))
    return inner | ({"weights": _digest(path)} if path.is_file() else {})


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]


def registered_by(settings: Mapping[str, Any]) -> str:
    """The method of a registration in a few words, from its record."""
    if "members" in settings:
        return " and ".join(dict.fromkeys(registered_by(member) for member in settings["members"]))
    name = str(settings.get("model") or settings.get("instance") or "unnamed")
    return (
        f"{name} and {settings['refine_steps']} steps"
        if settings.get("model") and settings.get("refine_steps")
        else name
    )
