"""Splits of a data set: training, validation and test scans, loaded on access."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from copy import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import torchio as tio

from lightning_reg.data.datasets.interface import Record, RegistrationDataset, Split, usual_pairs
from lightning_reg.data.datasets.layouts import STATE
from lightning_reg.data.datasets.loading import Lazy, load_record
from lightning_reg.data.datasets.manifest import MANIFEST, PreparedDataset
from lightning_reg.data.preprocessing import Geometry
from lightning_reg.registry import (
    ArgumentError,
    ComponentError,
    DataError,
    arguments_of,
    blaming,
    build,
    did_you_mean,
    require_kind,
)


class Splits:
    """The scans and pairs of a data set by split.

    The attribute ``geometry`` describes changes already applied to the scans' grids; for the
    provider's original scans there are none.

    Args:
        dataset: source of the scans and pairs.
        held_out: validation subjects, instead of the data set's own choice: their number (the last
            ones are taken) or their names. All other subjects are used for training, except those
            in the data set's split ``test``.
        limit: use at most this many training subjects.
        fold: ``k/n``, for cross-validation: validate on the k-th of n parts of the subjects (every
            n-th from the k-th, counted from 1) and train on the others.
        test: subjects kept for the split ``test``, instead of the data set's own: their number (the
            last training subjects are taken) or their names. They are never used for training or
            validation.

    Raises:
        DataError: a chosen subject does not exist or is chosen twice, no training subject is left,
            or there is no such fold.
    """

    def __init__(
        self,
        dataset: RegistrationDataset,
        held_out: int | str | Sequence[str] | None = None,
        limit: int | None = None,
        fold: str | None = None,
        test: int | str | Sequence[str] | None = None,
    ) -> None:
        require_kind(
            dataset, RegistrationDataset, "dataset", "give a data set, as FolderDataset('scans')"
        )
        for name, value in (("held_out", held_out), ("test", test)):
            if isinstance(value, float):
                raise ArgumentError(f"{name} is {value}; give a number of subjects, or their names")
        self.dataset = dataset
        self.settings = {
            "class": f"{type(dataset).__module__}.{type(dataset).__qualname__}",
            **arguments_of(dataset),
        }
        self.geometry = dataset.geometry if isinstance(dataset, PreparedDataset) else Geometry()
        with blaming(dataset, "listing its scans and pairs"):
            self._records = list(dataset.records())
            self._pairs = list(dataset.pairs())
        kept: list[str] = []
        if test is not None:
            kept = self._chosen("test", test, self._subjects("train"))
            self._move(kept, "test")
        if fold is not None:
            if held_out is not None:
                raise DataError(
                    f"`held_out` is {held_out} and `fold` {fold}: both choose the validation"
                    " subjects; remove one."
                )
            held_out = self._fold(fold)
        if held_out is not None:
            chosen = self._chosen("held_out", held_out, self._subjects("train", "validation"))
            both = [name for name in chosen if name in kept]
            if both:
                raise DataError(
                    f"`held_out` and `test` both name the subject '{both[0]}'; leave it in one"
                    " of them."
                )
            self._move(chosen, "validation")
        if limit is not None:
            if limit < 1:
                raise DataError(
                    f"`limit` is {limit}; give a number of training subjects, 1 or more."
                )
            first = self._subjects("train")[:limit]
            self._records = [r for r in self._records if r.split != "train" or r.subject in first]
            left = set(self._records)
            self._pairs = [pair for pair in self._pairs if left.issuperset(pair)]

    def _subjects(self, *splits: Split) -> list[str]:
        """Return the subjects of some splits, in order of first appearance."""
        return list(dict.fromkeys(r.subject for r in self._records if r.split in splits))

    def _fold(self, fold: str) -> list[str]:
        """Return the validation subjects of a fold."""
        subjects = self._subjects("train", "validation")
        number, of = read_fold(fold)
        if of > len(subjects):
            raise DataError(
                f"`fold` is {fold}, and there are {len(subjects)} subjects; give as many folds"
                " or fewer."
            )
        return subjects[number - 1 :: of]

    def _move(self, chosen: Sequence[str], split: Split) -> None:
        """Move subjects to a split; all others in it go to the training."""

        def new(record: Record) -> Split:
            if record.subject in chosen:
                return split
            return "train" if record.split == split else record.split

        self._assign(new)

    def _chosen(
        self, key: str, given: int | str | Sequence[str], subjects: Sequence[str]
    ) -> list[str]:
        """Return the subjects with these names, or the last ones of ``subjects``.

        Raises:
            DataError: there is no such subject, or none is left.
        """
        if isinstance(given, int):
            if not 1 <= given < len(subjects):
                raise DataError(
                    f"`{key}` is {given} of {len(subjects)} subjects; leave 1 or more on either"
                    " side."
                )
            return list(subjects[-given:])
        chosen = [given] if isinstance(given, str) else [str(name) for name in given]
        everybody = self._subjects("train", "validation", "test")
        for name in chosen:
            if name not in everybody:
                shown = ", ".join(everybody[:12]) + (", ..." if len(everybody) > 12 else "")
                text = (
                    f"`{key}` names the subject '{name}', which is not"
                    f" there{did_you_mean(name, everybody)}"
                )
                raise DataError(f"{text} There are {shown}.")
        if not set(subjects) - set(chosen):
            raise DataError(
                f"`{key}` names all {len(subjects)} subjects; leave 1 or more for the training."
            )
        return chosen

    def assign(self, splits: Mapping[str, Split]) -> dict[str, Split]:
        """Move all scans of some subjects to other splits; returns the splits of those subjects
        that were in another one.
        """
        moved = {
            r.subject: splits[r.subject]
            for r in self._records
            if splits.get(r.subject, r.split) != r.split
        }
        if moved:
            self._assign(lambda record: moved.get(record.subject, record.split))
        return moved

    def _assign(self, split_of: Callable[[Record], Split]) -> None:
        """Change the split of every scan, and make the pairs again."""
        usual = self._pairs == usual_pairs(self._records)
        new = {record: replace(record, split=split_of(record)) for record in self._records}
        self._records = list(new.values())
        self._pairs = (
            usual_pairs(self._records)
            if usual
            else self._within([(new[fixed], new[moving]) for fixed, moving in self._pairs])
        )

    def _within(self, pairs: Sequence[tuple[Record, Record]]) -> list[tuple[Record, Record]]:
        """Return pairs that are each within one split; a scan of several pairs (an atlas) is copied
        to every split that uses it.
        """
        uses = Counter(record for pair in pairs for record in pair)
        found = []
        for fixed, moving in pairs:
            if fixed.split != moving.split:
                shared, other = (fixed, moving) if uses[fixed] > uses[moving] else (moving, fixed)
                copied = replace(
                    shared, time=f"{shared.time}-{other.split}".strip("-"), split=other.split
                )
                if copied not in self._records:
                    self._records.append(copied)
                fixed, moving = (
                    copied if record is shared else record for record in (fixed, moving)
                )
            found.append((fixed, moving))
        return found

    def records(self, split: Split | None = None) -> list[Record]:
        """Return the scans of a split, or all scans."""
        return [record for record in self._records if split in (None, record.split)]

    def subjects(self, split: Split | None = None) -> Lazy[tio.Subject]:
        """Return the scans of :meth:`records`, loaded on access."""
        records = self.records(split)
        return Lazy(len(records), lambda k: load_record(self.dataset, records[k]))

    def pairs(self, split: Split | None = None) -> list[tuple[int, int]]:
        """Return the pairs of a split as indices ``(fixed, moving)`` into :meth:`records`."""
        at = {record: k for k, record in enumerate(self.records(split))}
        return [
            (at[fixed], at[moving]) for fixed, moving in self._pairs if fixed in at and moving in at
        ]

    def named_pairs(self) -> list[tuple[Record, Record]]:
        """Return the ``(fixed, moving)`` scans of all pairs."""
        return list(self._pairs)

    def using(self, dataset: RegistrationDataset) -> Splits:
        """Return the same scans and pairs, loaded by another data set with the same records."""
        other = copy(self)
        other.dataset = dataset
        return other


def read_fold(text: str) -> tuple[int, int]:
    """Parse ``k/n`` into two numbers.

    Raises:
        DataError: the text does not have this form, or there is no such fold.
    """
    found = re.fullmatch("([0-9]+)/([0-9]+)", str(text))
    if found is None or not 1 <= int(found[1]) <= int(found[2]) or int(found[2]) < 2:
        raise DataError(f"`fold` is '{text}'; give k/n, as 1/5 to 5/5.")
    return int(found[1]), int(found[2])


CHOICES = ("held_out", "limit", "fold", "test")
"""Values of ``data`` that choose the subjects of the splits: arguments of :class:`Splits`."""


def open_dataset(spec: Mapping[str, Any] | str, **choices: Any) -> Splits:
    """Open the data set of a configuration; if its ``root`` has been prepared, the prepared data.

    Args:
        spec: ``{name, root, ...}``.
        choices: ``held_out``, ``limit``, ``fold`` and ``test`` of :class:`Splits`.

    Raises:
        UserError: the data set cannot be opened; the message says what to do.
    """
    arguments = (
        {"name": spec}
        if isinstance(spec, str)
        else {key: value for key, value in spec.items() if value is not None}
    )
    root = Path(str(arguments["root"])).expanduser() if "root" in arguments else None
    if root is not None and (root / STATE).is_dir() and not (root / MANIFEST).is_file():
        raise DataError(
            f"{root} has not been prepared to the end; run the same lightning-reg prepare again, it"
            " goes on from there."
        )
    if root is not None and (root / MANIFEST).is_file():
        extra = sorted(set(arguments) - {"name", "root"})
        if extra:
            raise ComponentError(
                f"`{extra[0]}` is about the provider's files, and {root} has been"
                " prepared already; leave it out, or give it to lightning-reg prepare"
                f" {arguments.get('name')}."
            )
        arguments = {"name": "prepared", "root": str(root)}
    return Splits(build("datasets", arguments, RegistrationDataset), **choices)
