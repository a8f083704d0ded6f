"""Folder of a cohort: its pairs, those that are finished, and those that failed with the reason."""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from filelock import FileLock

from lightning_reg.batch.cohort.pairs import CohortPair
from lightning_reg.data.datasets.manifest import read_table
from lightning_reg.io.folders import LISTING, MARK, inside, refuse_links, write_whole, written_file
from lightning_reg.io.names import file_name
from lightning_reg.io.reading import read_json
from lightning_reg.registry import DataError, did_you_mean

COHORT, RESULTS, QUALITY = "cohort.json", "results.csv", "quality.csv"
Row = dict[str, Any]


@dataclass(frozen=True)
class Ledger:
    """State of a cohort's pairs, stored in its folder.

    A finished pair has the folder ``pairs/NAME``, which is written only if everything succeeds. A
    failed pair has ``failed/NAME.json``; a pair in progress, or whose process was killed, has
    ``failed/NAME.begun``. No other state is kept, so that any number of processes and machines can
    share the folder.
    """

    folder: Path

    def place(self, name: str) -> Path:
        """Folder of a pair's results."""
        return inside(self.folder, f"pairs/{name}")

    def done(self, name: str) -> bool:
        return (self.place(name) / LISTING).is_file()

    def result(self, name: str) -> str:
        """Identity of a finished pair's result, from the content of its record; empty if there is
        none.
        """
        try:
            return (
                hashlib.sha256((self.place(name) / MARK).read_bytes()).hexdigest()[:16]
                if self.done(name)
                else ""
            )
        except OSError:
            return ""

    def fail(self, name: str, message: str, details: str = "") -> None:
        """Record a failure, with the result that the pair already has; ``details``, a traceback, is
        written to a separate file.
        """
        record = {
            "pair": name,
            "message": message,
            "at": datetime.now().isoformat(sep=" ", timespec="seconds"),
        }
        record["result"] = self.result(name)
        self.succeed(name)
        write_whole(self._failure(name), (json.dumps(record) + "\n").encode())
        if details:
            write_whole(self._failure(name).with_suffix(".txt"), details.encode())

    def succeed(self, name: str) -> None:
        """Delete the records of earlier failures and attempts."""
        for ending in (".json", ".txt", ".begun"):
            self._failure(name).with_suffix(ending).unlink(missing_ok=True)

    def note_begun(self, name: str, times: int) -> None:
        """Record the number of attempts at a pair; :meth:`succeed` and :meth:`fail` delete it."""
        path = self._failure(name).with_suffix(".begun")
        if times:
            path.parent.mkdir(exist_ok=True)
            path.write_text(str(times))
        else:
            path.unlink(missing_ok=True)

    def begun(self, name: str) -> int:
        """Number of times that a process was killed while it worked on a pair."""
        try:
            return int(self._failure(name).with_suffix(".begun").read_text())
        except (OSError, ValueError):
            return 0

    def _failure(self, name: str) -> Path:
        return self.folder / "failed" / f"{name}.json"

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
        try:
            return {
                "pair": name,
                "status": "failed",
                "message": read_json(self._failure(name))["message"],
            }
        except (OSError, DataError, KeyError):
            return None

    def _failed_again(self, name: str) -> bool:
        """Whether a finished pair failed later, when it was registered again: its failure names the
        result that is there.
        """
        try:
            failure = read_json(self._failure(name))
            return bool(failure.get("result", self.result(name)) == self.result(name))
        except (OSError, DataError, AttributeError):
            return False

    def damage(self, name: str) -> str | None:
        """Damage of a finished pair as a sentence: one of its files is missing or empty; ``None``
        if there is none.
        """
        place = self.place(name)
        try:
            listed = read_json(place / LISTING)["files"]
            lacking = [
                file
                for file in listed
                if not inside(place, file).is_file() or not (place / file).stat().st_size
            ]
        except (OSError, DataError, KeyError, TypeError) as cause:
            return f"{place / LISTING} cannot be read ({cause})"
        return f"{place / lacking[0]} is gone or empty" if lacking else None

    def pairs(self) -> list[str]:
        """Names of all pairs of the cohort, in its order.

        Raises:
            DataError: the folder is not that of a cohort.
        """
        return list(self._stored()["pairs"])

    def _stored(self) -> dict[str, Any]:
        path = self.folder / COHORT
        try:
            found = read_json(path, "register into another folder")
        except FileNotFoundError as cause:
            raise DataError(
                f"{self.folder} holds no cohort (no {COHORT}); give the folder that lightning-reg"
                " register --pairs wrote."
            ) from cause
        if not isinstance(found, dict) or not all(
            isinstance(found.get(key), dict) for key in ("pairs", "settings")
        ):
            raise DataError(
                f"{path} cannot be read (it has no pairs or settings); register into another"
                " folder."
            )
        strange = next((name for name in found["pairs"] if name != file_name(name)), None)
        if strange is not None:
            raise DataError(
                f"{path} has a pair '{strange}', which is not the name of a folder; register into"
                " another folder."
            )
        return found

    def begin(
        self, pairs: Sequence[CohortPair], settings: Mapping[str, Any], otherwise: bool = False
    ) -> None:
        """Record the cohort in its folder. An existing folder must belong to the same cohort; new
        pairs are added.

        Args:
            otherwise: allow other settings, to register some pairs again.

        Raises:
            DataError: the folder belongs to another cohort, was registered with other settings, has
                other content or symbolic links, or cannot be written.
        """
        sources = {pair.name: pair.described() for pair in pairs}
        path = self.folder / COHORT
        refuse_links(self.folder, (COHORT, ".cohort.lock", ".shards", "pairs", "failed"))
        if (
            self.folder.exists()
            and not path.exists()
            and any(p for p in self.folder.iterdir() if not p.name.startswith("."))
        ):
            raise DataError(f"{self.folder} exists and holds no cohort; choose another folder.")
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with FileLock(self.folder / ".cohort.lock", timeout=60):
                if path.exists():
                    stored = self._stored()
                    _require_same(self.folder, stored, sources, None if otherwise else settings)
                    if sources.keys() <= stored["pairs"].keys():
                        return
                    sources, settings = {**stored["pairs"], **sources}, stored["settings"]
                with written_file(path, overwrite=True) as partial:
                    partial.write_text(
                        json.dumps({"settings": settings, "pairs": sources}, indent=1, default=str)
                        + "\n"
                    )
        except OSError as cause:
            raise DataError(
                f"{self.folder} cannot be written ({cause.strerror or cause}); choose another"
                " folder."
            ) from cause

    def write_results(self, names: Iterable[str], file: str = RESULTS) -> list[Row]:
        """Write a table with a row for each finished or failed pair; returns the rows."""
        sources = self._stored()["pairs"]
        rows = []
        for name in names:
            row = self.row(name)
            if row is not None:
                rows.append(
                    {
                        **row,
                        **{
                            side: sources.get(name, {}).get(side, "")
                            for side in ("fixed", "moving")
                        },
                    }
                )
        columns = list(
            dict.fromkeys(
                [
                    "pair",
                    "status",
                    "message",
                    "fixed",
                    "moving",
                    *(key for row in rows for key in row),
                ]
            )
        )
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, columns)
        writer.writeheader()
        writer.writerows(rows)
        write_whole(self.folder / file, text.getvalue().encode(errors="backslashreplace"))
        return rows

    def failed(self, verdicts: Mapping[str, Mapping[str, str]]) -> list[str]:
        """Pairs that failed, or that were judged as failed and have not been registered again
        since.

        Args:
            verdicts: see :meth:`verdicts`.

        Raises:
            DataError: a verdict names a pair that is not in the cohort.
        """
        names = self.pairs()
        strange = sorted(set(verdicts) - set(names))
        if strange:
            raise DataError(
                f"The verdicts name the pair '{strange[0]}'{did_you_mean(strange[0], names)} The"
                " cohort does not have it."
            )
        found = []
        for name in names:
            judged = verdicts.get(name, {}).get("verdict") == "fail" and self.counts(
                name, verdicts[name]
            )
            if (
                self._failed_again(name) or judged
                if self.done(name)
                else self._failure(name).is_file()
            ):
                found.append(name)
        return found

    def counts(self, name: str, verdict: Mapping[str, str]) -> bool:
        """Whether a verdict is about the pair's present result, or does not say which one it is
        about.
        """
        return not verdict.get("result") or verdict["result"] == self.result(name)

    def verdicts(self, path: Path | None = None) -> dict[str, dict[str, str]]:
        """Verdicts on the pairs, ``{name: {verdict, note, result}}``, from the file saved by the
        page of all pairs.

        ``result`` is the :meth:`result` that was judged; a table may lack it.

        Args:
            path: default ``quality.csv`` in the folder; without that file the result is empty.

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
    values = {
        key: value for key, value in record["row"].items() if key != "case" and value is not None
    }
    return {
        "pair": name,
        "status": "done",
        "message": " ".join(record["warnings"]),
        "by": registered_by(record["settings"]),
        **values,
        "seconds": round(sum(record["seconds"].values()), 3),
    }


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


def _require_same(
    folder: Path,
    stored: Mapping[str, Any],
    sources: Mapping[str, Mapping[str, str]],
    settings: Mapping[str, Any] | None,
) -> None:
    remedy = "choose another folder"
    for name, files in sources.items():
        there = stored["pairs"].get(name)
        if there is not None and there != files:
            key = next(key for key in {**there, **files} if there.get(key) != files.get(key))
            raise DataError(
                f"{folder} holds another cohort (pair {name}: {key} is {there.get(key)} there and"
                f" {files.get(key)} here); {remedy}, or give the pairs names of their own in a"
                " column 'pair'."
            )
    if settings is None:
        return
    ours, theirs = (
        json.loads(json.dumps(one, default=str)) for one in (stored["settings"], settings)
    )
    for key in {**ours, **theirs}:
        if key != "version" and ours.get(key) != theirs.get(key):
            there, here = _short(ours.get(key)), _short(theirs.get(key))
            raise DataError(
                f"{folder} was registered with other settings ({key} is {there} there and {here}"
                f" here); {remedy}, or register single pairs again (--only)."
            )


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
