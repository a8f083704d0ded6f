"""Work on many items by any number of processes and machines; the folder is the state."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from filelock import FileLock

from lightning_reg.io.folders import inside, refuse_links, reported, write_whole
from lightning_reg.io.lock import one_writer
from lightning_reg.io.names import is_file_name
from lightning_reg.io.reading import read_json
from lightning_reg.registry import DataError

Item = TypeVar("Item")
Record = dict[str, Any]


@dataclass(frozen=True)
class Worklist:
    """Items to be worked on, and their state in a folder.

    - The folder is the state. There is no other, so that any number of processes and machines that
      share the folder see the same.
    - An item is done when its mark exists. The mark, or the folder that holds it, is written last
      and renamed whole: a killed process leaves the items that it has finished, and no item that
      is half done counts.
    - A failure is a file with its message. The other items go on, and the next call tries the
      failed item again.
    - An item in progress, or whose process was killed, has a file with the number of attempts.
    - The same command continues. Items can be added; other items under the same names, or other
      settings, are refused.

    Attributes, which a subclass sets:
        name: of the whole; its record is ``NAME.json``.
        item, by: of an item, and of the command that writes the folder, in messages.
        items, settings: keys of the record.
        free: entries of items and settings that may change.
        mark, failure: files of an item, relative to the folder; ``{}`` is the item's name.
        folders: that hold all items; without them, every item has a folder of its name.
    """

    folder: Path

    name: ClassVar[str]
    item: ClassVar[str]
    by: ClassVar[str]
    items: ClassVar[str]
    settings: ClassVar[str] = "settings"
    free: ClassVar[tuple[str, ...]] = ()
    mark: ClassVar[str]
    failure: ClassVar[str] = "failed/{}.json"
    folders: ClassVar[tuple[str, ...]] = ()

    @property
    def record(self) -> Path:
        """File with the items and the settings."""
        return self.folder / f"{self.name}.json"

    def lock(self) -> FileLock:
        """Lock for a change that concerns all items."""
        return FileLock(self.folder / f".{self.name}.lock", timeout=60)

    def begin(self, items: Mapping[str, Any], settings: Any, otherwise: bool = False) -> None:
        """Record the items in the folder, which is created if needed, and the settings.

        Args:
            items: description of each item by its name, as plain values.
            otherwise: allow other settings than those of an existing folder, which are kept.

        Raises:
            DataError: the folder holds other items, settings or content, or symbolic links, or
                cannot be written.
        """
        own = (self.record.name, f".{self.name}.lock", ".shards", *(self.folders or items))
        refuse_links(self.folder, own)
        new = json.loads(json.dumps({"items": items, "settings": settings}, default=str))
        with reported(f"{self.folder} cannot be written", "choose another folder"):
            self.folder.mkdir(parents=True, exist_ok=True)
            content = (path for path in self.folder.iterdir() if not path.name.startswith("."))
            if not self.record.exists() and any(content):
                raise DataError(
                    f"{self.folder} exists and holds no {self.name}; choose another folder."
                )
            with self.lock():
                known = self.stored() if self.record.exists() else None
                if known is not None:
                    new = self._agreed(known, new, otherwise)
                if new != known:
                    keyed = {self.settings: new["settings"], self.items: new["items"]}
                    write_whole(self.record, (json.dumps(keyed, indent=1) + "\n").encode())

    def _agreed(self, known: Record, new: Record, otherwise: bool) -> Record:
        """The record of an existing folder with new items."""
        for name, described in new["items"].items():
            differs = difference(known["items"].get(name, described), described, self.free)
            if differs:
                raise DataError(
                    f"{self.folder} holds another {self.name} ({self.item} {name}: {differs});"
                    f" choose another folder, or give the {self.item} another name."
                )
        differs = difference(known["settings"] or {}, new["settings"] or {}, self.free)
        if differs and not otherwise:
            raise DataError(
                f"{self.folder} was made with other settings ({differs}); choose another folder."
            )
        settings = known["settings"] if differs else new["settings"]
        return {"items": {**known["items"], **new["items"]}, "settings": settings}

    def stored(self) -> Record:
        """The record of the folder: ``items`` by name, and ``settings``.

        Raises:
            DataError: the folder holds no such worklist, or its record is damaged.
        """
        remedy = f"{self.by} into another folder"
        try:
            found = read_json(self.record, remedy)
        except FileNotFoundError as cause:
            raise DataError(
                f"{self.folder} holds no {self.name} (no {self.record.name}); give the folder that"
                f" lightning-reg {self.by} wrote."
            ) from cause
        record = found if isinstance(found, dict) else {}
        items, settings = record.get(self.items), record.get(self.settings, "")
        if not isinstance(items, dict) or not isinstance(settings, (dict, type(None))):
            problem = f"cannot be read (it has no {self.items} or {self.settings})"
            raise DataError(f"{self.record} {problem}; {remedy}.")
        strange = next((name for name in items if not is_file_name(name)), None)
        if strange is not None:
            problem = f"has a {self.item} '{strange}', which is not the name of a folder"
            raise DataError(f"{self.record} {problem}; {remedy}.")
        return {"items": items, "settings": settings}

    def names(self) -> list[str]:
        """Names of all items, in order.

        Raises:
            DataError: see :meth:`stored`.
        """
        return list(self.stored()["items"])

    def marked(self, name: str) -> Path:
        """Path of an item's mark."""
        place, _, file = self.mark.format(name).rpartition("/")
        return inside(self.folder, place) / file

    def done(self, name: str) -> bool:
        """Whether an item is finished."""
        return self.marked(name).is_file()

    def remaining(self, names: Iterable[str]) -> list[str]:
        """The items that are not finished."""
        return [name for name in names if not self.done(name)]

    def finish(self, name: str, content: Mapping[str, Any]) -> None:
        """Write the mark of an item whose result is the mark itself."""
        write_whole(self.marked(name), (json.dumps(content, default=float) + "\n").encode())
        self.clear(name)

    def failed_at(self, name: str) -> Path:
        """Path of the file about an item's failure."""
        return self.folder / self.failure.format(name)

    def fail(self, name: str, message: str, details: str = "", **more: Any) -> None:
        """Record a failure.

        Args:
            details: a traceback, written to a separate file.
            more: further entries of the record.
        """
        now = datetime.now().isoformat(sep=" ", timespec="seconds")
        record = {self.item: name, "message": message, "at": now, **more}
        self.clear(name)
        write_whole(self.failed_at(name), (json.dumps(record, default=float) + "\n").encode())
        if details:
            write_whole(self.failed_at(name).with_suffix(".txt"), details.encode())

    def failure_of(self, name: str) -> Record | None:
        """The record of an item's failure; ``None`` if there is none that can be read."""
        try:
            found = read_json(self.failed_at(name))
        except (OSError, DataError):
            return None
        return found if isinstance(found, dict) and "message" in found else None

    def clear(self, name: str) -> None:
        """Delete the records of failures and attempts."""
        for ending in (".json", ".txt", ".begun"):
            self.failed_at(name).with_suffix(ending).unlink(missing_ok=True)

    def note_begun(self, name: str, times: int) -> None:
        """Record the number of attempts at an item; :meth:`clear` and :meth:`fail` delete it."""
        path = self.failed_at(name).with_suffix(".begun")
        if times:
            path.parent.mkdir(exist_ok=True)
            path.write_text(str(times))
        else:
            path.unlink(missing_ok=True)

    def begun(self, name: str) -> int:
        """Number of times that a process was killed while it worked on an item."""
        try:
            return int(self.failed_at(name).with_suffix(".begun").read_text())
        except (OSError, ValueError):
            return 0

    def writer(self, number: int = 1, of: int = 1) -> AbstractContextManager[None]:
        """Lock a share of the items, see :func:`share`, against other processes.

        Raises:
            DataError: see :func:`~lightning_reg.io.lock.one_writer`.
        """
        return one_writer(self.folder / ".shards" / f"{number}-of-{of}")


def share(items: Sequence[Item], number: int, of: int) -> list[Item]:
    """Every ``of``-th item, beginning with the ``number``-th, counted from 1.

    Raises:
        DataError: no such share.
    """
    if of < 1 or not 1 <= number <= of:
        raise DataError(
            f"There is no share {number}/{of}; give 1/{max(of, 1)} to {max(of, 1)}/{max(of, 1)}."
        )
    return list(items[number - 1 :: of])


def difference(
    stored: Mapping[str, Any], new: Mapping[str, Any], free: Collection[str] = ()
) -> str | None:
    """The first entry in which two records differ, in words; ``None`` if there is none.

    Args:
        free: entries that may differ.
    """
    for key in {**stored, **new}:
        old, now = stored.get(key), new.get(key)
        if old != now and key not in free:
            return f"{key} is {_words(old, now)} there and {_words(now, old)} here"
    return None


def _words(value: Any, other: Any) -> str:
    """A value in short; of two lists, what the other one lacks."""
    if isinstance(value, list) and isinstance(other, list):
        return " ".join(str(one) for one in value if one not in other) or "less"
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
