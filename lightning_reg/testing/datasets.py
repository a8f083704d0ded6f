"""Checks of data sets. Factory: no arguments; it returns the data set for some of its files."""

from __future__ import annotations

import inspect
import pickle
from collections.abc import Iterator

import torch
import torchio as tio

from lightning_reg.data.datasets.interface import SPLITS, Record, RegistrationDataset
from lightning_reg.data.datasets.loading import load_record
from lightning_reg.data.datasets.splits import Splits
from lightning_reg.data.scans import check_subject
from lightning_reg.registry import DataError, arguments_of
from lightning_reg.testing.checks import ConformanceError, Factory, check, made, require
from lightning_reg.testing.modules import require_described

FEW = 4
"""Number of scans that are loaded."""


def _made(factory: Factory) -> RegistrationDataset:
    return made(factory, RegistrationDataset)


def _loaded(dataset: RegistrationDataset) -> Iterator[tuple[Record, tio.Subject]]:
    for record in list(dataset.records())[:FEW]:
        yield record, load_record(dataset, record)


@check("dataset")
def lists_records(factory: Factory) -> None:
    """Records have a fixed order, unique names and a known split; all scans of a subject are in one
    split.
    """
    dataset = _made(factory)
    records = list(dataset.records())
    require(records, "it has no records")
    require(all(isinstance(r, Record) for r in records), "records are not all of the class Record")
    require(
        records == list(dataset.records()) == list(_made(factory).records()),
        "the order of the records changes from call to call",
    )
    names = [record.name for record in records]
    require(
        len(set(names)) == len(names),
        f"{next((n for n in names if names.count(n) > 1), '')} is there twice",
    )
    splits: dict[str, set[str]] = {}
    for record in records:
        require(
            record.split in SPLITS,
            f"{record.name} has the split '{record.split}'; use one of {', '.join(SPLITS)}",
        )
        splits.setdefault(record.subject, set()).add(record.split)
    shared = [subject for subject, found in splits.items() if len(found) > 1]
    require(not shared, f"the scans of {', '.join(shared[:3])} are in several splits")


@check("dataset")
def files_are_there(factory: Factory) -> None:
    """Files that records name exist."""
    for record in _made(factory).records():
        missing = [path for path in record.files() if not path.exists()]
        require(
            not missing, f"{record.name} names {missing[0] if missing else ''}, which is not there"
        )


@check("dataset")
def lists_pairs(factory: Factory) -> None:
    """Pairs consist of two records of one split, and some are in the split ``validation``."""
    dataset = _made(factory)
    records, pairs = list(dataset.records()), list(dataset.pairs())
    for fixed, moving in pairs:
        require(
            fixed in records and moving in records,
            f"a pair names {fixed.name} or {moving.name}, which is no record",
        )
        require(fixed != moving, f"{fixed.name} is paired with itself")
        require(
            fixed.split == moving.split,
            f"{fixed.name} ({fixed.split}) is paired with {moving.name} ({moving.split})",
        )
    require(
        any(fixed.split == "validation" for fixed, _ in pairs),
        "no pair is in the split 'validation', by which a training is judged",
    )
    Splits(dataset)


@check("dataset")
def loads_subjects(factory: Factory) -> None:
    """A record's subject has a 3D image, finite, with masks and labels on its grid and landmarks
    ``(N, 3)`` in mm.
    """
    dataset = _made(factory)
    for record, subject in _loaded(dataset):
        check_subject(subject)
        require(
            torch.isfinite(subject["image"].data.float()).all(),
            f"{record.name} has NaN or infinite intensities",
        )
        require(
            sum(n > 1 for n in subject["image"].spatial_shape) > 1,
            f"{record.name} is {tuple(subject['image'].spatial_shape)} voxels: one line",
        )
        for part in ("mask", "labels"):
            if part in subject:
                require(
                    isinstance(subject[part], tio.LabelMap),
                    f"the {part} of {record.name} is no torchio.LabelMap",
                )


@check("dataset")
def loads_the_same_twice(factory: Factory) -> None:
    """Loading a record again gives the same image, even if the first one has been changed."""
    dataset = _made(factory)
    for record, subject in _loaded(dataset):
        before = subject["image"].data.clone()
        subject["image"].data.fill_(0)
        require(
            torch.equal(load_record(dataset, record)["image"].data, before),
            f"{record.name} is another image the second time",
        )


@check("dataset")
def groups_are_subjects(factory: Factory) -> None:
    """The loaded scan has the record's subject as its ``group``, by which sampling separates
    subjects.
    """
    for record, subject in _loaded(_made(factory)):
        require(
            subject["group"] == record.subject,
            f"{record.name} is loaded as of '{subject['group']}'",
        )


@check("dataset")
def arguments_are_kept(factory: Factory) -> None:
    """Constructor arguments are paths, numbers, words, or lists of them, so that the record of a
    run can store them.
    """
    dataset = _made(factory)
    paths = tuple(
        name
        for name, value in arguments_of(dataset).items()
        if name == "root" or hasattr(value, "__fspath__")
    )
    require_described(dataset, paths)


@check("dataset")
def goes_to_other_processes(factory: Factory) -> None:
    """It can be pickled, for the processes that load scans."""
    dataset = _made(factory)
    copy = pickle.loads(pickle.dumps(dataset))
    require(
        [r.name for r in copy.records()] == [r.name for r in dataset.records()],
        "its copy has other records",
    )


@check("dataset")
def says_what_is_missing(factory: Factory) -> None:
    """A missing folder raises a DataError that names it (data sets with an argument ``root``)."""
    dataset = _made(factory)
    if "root" not in inspect.signature(type(dataset)).parameters:
        return
    nowhere = "/nowhere/at/all"
    others = {key: value for key, value in arguments_of(dataset).items() if key != "root"}
    try:
        list(type(dataset)(root=nowhere, **others).records())
    except DataError as error:
        require(nowhere in str(error), f"the message does not name the folder: {error}")
        return
    raise ConformanceError("a folder that is not there is accepted")
