"""A data set by split: what is trained on, what is held out, and scans that are read when they are asked for."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import copy
from dataclasses import replace
from pathlib import Path
from typing import Any, Generic, TypeVar, overload

import torchio as tio

from lightning_reg.data.interface import Record, RegistrationDataset, Split, usual_pairs
from lightning_reg.data.manifest import MANIFEST, STATE, PreparedDataset
from lightning_reg.data.preprocessing import Geometry
from lightning_reg.discovery import ComponentError, DataError, build, nearest

T = TypeVar("T")


class Lazy(Sequence[T], Generic[T]):
    """A sequence whose items are made when they are asked for, every time."""

    def __init__(self, count: int, make: Callable[[int], T]) -> None:
        self.length, self.make = count, make

    def __len__(self) -> int:
        return self.length

    @overload
    def __getitem__(self, item: int) -> T: ...
    @overload
    def __getitem__(self, item: slice) -> Sequence[T]: ...
    def __getitem__(self, item: int | slice) -> T | Sequence[T]:
        if isinstance(item, slice):
            return [self.make(k) for k in range(self.length)[item]]
        return self.make(range(self.length)[item])


class Splits:
    """The scans and pairs of a data set by split. ``geometry`` is what has been done to the scans' grids; nothing, where they are as the
    provider gave them.

    Args:
        dataset: where they come from.
        held_out: subjects to validate on, instead of the data set's own choice: how many (the last ones), or their names. All others train.
        limit: use at most this many training subjects.
        settings: what the data set was made from, as plain values.

    Raises:
        DataError: a subject that is held out is not there, or nobody is left.
    """

    def __init__(
        self,
        dataset: RegistrationDataset,
        held_out: int | Sequence[str] | None = None,
        limit: int | None = None,
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        self.dataset, self.settings = dataset, dict(settings or {})
        self.geometry = dataset.geometry if isinstance(dataset, PreparedDataset) else Geometry()
        self._records = list(dataset.records())
        self._pairs = list(dataset.pairs())
        if held_out is not None:
            self._hold_out(held_out)
        if limit is not None:
            kept = list(dict.fromkeys(r.subject for r in self._records if r.split == "train"))[:limit]
            self._records = [r for r in self._records if r.split != "train" or r.subject in kept]
            self._pairs = [(f, m) for f, m in self._pairs if f in self._records and m in self._records]

    def _hold_out(self, held_out: int | Sequence[str]) -> None:
        subjects = list(dict.fromkeys(record.subject for record in self._records))
        if isinstance(held_out, int):
            if not 1 <= held_out < len(subjects):
                raise DataError(f"data.held_out is {held_out} of {len(subjects)} subjects; leave 1 or more on either side.")
            chosen = subjects[-held_out:]
        else:
            chosen = [str(name) for name in held_out]
            for name in chosen:
                if name not in subjects:
                    shown = ", ".join(subjects[:12]) + (", ..." if len(subjects) > 12 else "")
                    raise DataError(
                        f"data.held_out names the subject '{name}', which is not there{nearest(name, subjects)} There are {shown}."
                    )
        new = {r: replace(r, split="validation" if r.subject in chosen else "train") for r in self._records}
        within = all(fixed.subject == moving.subject for fixed, moving in self._pairs)
        self._records = list(new.values())
        self._pairs = [(new[f], new[m]) for f, m in self._pairs] if within else usual_pairs(self._records)

    def records(self, split: Split | None = None) -> list[Record]:
        """The scans of a split, or all."""
        return [record for record in self._records if split in (None, record.split)]

    def subjects(self, split: Split | None = None) -> Lazy[tio.Subject]:
        """The scans of :meth:`records`, each read when it is asked for."""
        records = self.records(split)
        return Lazy(len(records), lambda k: self.dataset.load(records[k]))

    def pairs(self, split: Split | None = None) -> list[tuple[int, int]]:
        """Indices ``(fixed, moving)`` into :meth:`records` of the pairs of a split; empty where there are none."""
        at = {record: k for k, record in enumerate(self.records(split))}
        return [(at[fixed], at[moving]) for fixed, moving in self._pairs if fixed in at and moving in at]

    def using(self, dataset: RegistrationDataset) -> Splits:
        """The same scans and pairs, read by another data set that knows the records."""
        other = copy(self)
        other.dataset = dataset
        return other


def open_dataset(spec: Mapping[str, Any] | str, held_out: int | Sequence[str] | None = None, limit: int | None = None) -> Splits:
    """The data set that a configuration names; the prepared one where its ``root`` has been prepared.

    Args:
        spec: ``{name, root, ...}``.
        held_out, limit: see :class:`Splits`.

    Raises:
        UserError: it cannot be had; the message says what to do.
    """
    arguments = {"name": spec} if isinstance(spec, str) else {key: value for key, value in spec.items() if value is not None}
    root = Path(str(arguments["root"])).expanduser() if "root" in arguments else None
    if root is not None and (root / STATE).is_dir() and not (root / MANIFEST).is_file():
        raise DataError(f"{root} has not been prepared to the end; run the same lightning-reg prepare again, it goes on from there.")
    if root is not None and (root / MANIFEST).is_file():
        extra = sorted(set(arguments) - {"name", "root"})
        if extra:
            raise ComponentError(
                f"data.dataset.{extra[0]} is about the provider's files, and {root} has been prepared already; leave it out, or give it to "
                f"lightning-reg prepare {arguments.get('name')}."
            )
        arguments = {"name": "prepared", "root": str(root)}
    return Splits(build("datasets", arguments, RegistrationDataset), held_out, limit, arguments)
