"""Preparation of a provider's files in the common form: masks, crop, resolution."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import torchio as tio

from lightning_reg.data.cache import fingerprint
from lightning_reg.data.datasets.interface import PARTS, Record, RegistrationDataset
from lightning_reg.data.datasets.layouts import STATE
from lightning_reg.data.datasets.loading import load_record
from lightning_reg.data.datasets.manifest import MANIFEST, Row, row_from_cells, write_tables
from lightning_reg.data.datasets.splits import Splits
from lightning_reg.data.lungs import LungSegmentation, segmented
from lightning_reg.data.parallel import each
from lightning_reg.data.preprocessing import Geometry
from lightning_reg.data.scans import check_subject, grid_of
from lightning_reg.io.folders import inside, refuse_links, reported, write_whole
from lightning_reg.io.images import write_image
from lightning_reg.io.lock import one_writer
from lightning_reg.io.names import unique
from lightning_reg.io.points import write_points
from lightning_reg.io.reading import read_json
from lightning_reg.registry import DataError, Range, load, name_of

FOLDERS = {"image": "images", "mask": "masks", "labels": "labels"}
SOURCE = "source"
"""File in the state folder that names the source data set."""


@dataclass(frozen=True)
class Preparation:
    """Steps of preparation, applied to every scan.

    Args:
        lungs: how to make missing masks: ``segmented``
            (:func:`~lightning_reg.data.lungs.lung_mask`), or ``threshold``, every voxel below -250
            HU (Eppenhof et al., 2019), or another distribution's; ``null``: no masks are made.
        crop, margin, spacing, shape: see :class:`~lightning_reg.data.preprocessing.Geometry`; axes
        are made canonical.
    """

    lungs: str | None = None
    crop: Literal["lungs", "mask"] | None = None
    margin: float = 5.0
    spacing: float | Sequence[float] | None = None
    shape: Sequence[int] | None = None

    def __post_init__(self) -> None:
        if self.lungs is not None:
            load("lung_segmentations", self.lungs, LungSegmentation)
        if self.spacing is not None and self.shape is not None:
            raise ValueError("spacing and shape are both given; give one of them")
        _ = self.geometry  # refuses invalid values

    @property
    def geometry(self) -> Geometry:
        return Geometry(True, self.crop, self.margin, self.spacing, self.shape)

    def __call__(self, subject: tio.Subject) -> tio.Subject:
        """Prepare a loaded subject: add a mask, and crop and resample.

        Raises:
            DataError: no lungs are found, or there is nothing to crop to.
        """
        if self.lungs is None or "mask" in subject:
            return self.geometry(subject)
        if load("lung_segmentations", self.lungs, LungSegmentation).lungs_alone:
            # the lungs need not be found again
            crop = "mask" if self.crop == "lungs" else self.crop
            return replace(self.geometry, crop=crop)(self._masked(subject))
        # cut before the mask, which includes the air around the body
        subject = replace(self.geometry, spacing=None, shape=None)(subject)
        return replace(self.geometry, canonical=False, crop=None)(self._masked(subject))

    def _masked(self, subject: tio.Subject) -> tio.Subject:
        """The subject with a mask of its lungs."""
        mask = segmented(str(self.lungs), subject["image"], subject["name"]).unsqueeze(0)
        label_map = tio.LabelMap(tensor=mask.to(torch.uint8), affine=subject["image"].affine)
        subject.add_image(label_map, "mask")
        return subject


@dataclass(frozen=True)
class Prepared:
    """Outcome: rows of the manifest, the number of reused ones, a sentence per failed scan."""

    rows: list[Row]
    reused: int
    problems: list[str]


def prepare(
    data: Splits,
    out: Path,
    preparation: Preparation,
    workers: Annotated[int, Range(1, of="processes")] = 1,
    seen: Callable[[int, int], None] | None = None,
) -> Prepared:
    """Write a data set in the form of
    :class:`~lightning_reg.data.datasets.manifest.PreparedDataset`.

    After an interruption the next call continues. Scans with unchanged files and settings are kept,
    scans that are no longer in the data set are removed, and every file is written completely or
    not at all. The source is only read.

    Args:
        out: folder for the prepared data; new, empty, or prepared before.
        workers: number of processes.
        seen: callback with the number of finished scans and of all scans.

    Raises:
        DataError: the folder holds other data or cannot be written, or no scan could be prepared.
    """
    out = out.expanduser().resolve()
    _make_folders(out, data)
    with one_writer(out / STATE):
        return _prepare(data, out, preparation, workers, seen)


def _prepare(
    data: Splits,
    out: Path,
    preparation: Preparation,
    workers: int,
    seen: Callable[[int, int], None] | None,
) -> Prepared:
    records = data.records()
    names = _file_names(records)
    task = _Task(data.dataset, out, preparation, data.settings)
    rows = {record.name: task.finished(record, names[record.name]) for record in records}
    finished = {name: row for name, row in rows.items() if row is not None}
    reused, problems = len(finished), []
    todo = [(record, names[record.name]) for record in records if record.name not in finished]
    _remove_others(out, set(names.values()))
    for number, outcome in each(_outcome, task, todo, workers):
        if isinstance(outcome, str):
            problems.append(outcome)
        else:
            finished[todo[number][0].name] = outcome
        if seen is not None:
            seen(len(finished) + len(problems), len(records))
    if not finished:
        raise DataError("\n".join([*problems[:20], "No scan could be prepared."]))
    made = {
        r.name: row_from_cells(finished[r.name] | {"split": r.split}, out, r.name)
        for r in records
        if r.name in finished
    }
    named = ((records[fixed].name, records[moving].name) for fixed, moving in data.pairs())
    pairs = [
        (made[fixed].record, made[moving].record)
        for fixed, moving in named
        if fixed in made and moving in made
    ]
    with _writing(out):
        write_tables(out, [*made.values()], pairs, preparation.geometry.after(data.geometry))
    return Prepared([*made.values()], reused, problems)


@dataclass(frozen=True)
class _Task:
    """Preparation of single scans, in any process."""

    dataset: RegistrationDataset
    out: Path
    preparation: Preparation
    settings: dict[str, Any]

    def key(self, record: Record) -> str:
        own = {key: value for key, value in self.settings.items() if key != "root"}
        return fingerprint(record, type(self.dataset).__qualname__, own, asdict(self.preparation))

    def finished(self, record: Record, name: str) -> dict[str, str] | None:
        """Row of a scan already prepared from the same files with these settings; else ``None``."""
        path = self.out / STATE / f"{name}.json"
        try:
            known = read_json(path)
            complete = known["key"] == self.key(record) and all(
                inside(self.out, known["row"][part]).is_file()
                for part in PARTS
                if known["row"][part]
            )
        except (OSError, DataError, KeyError, TypeError):
            return None  # not prepared, or by another version: prepare it again
        return {**known["row"], "source": str(record.image or "")} if complete else None

    def __call__(self, record: Record, name: str) -> dict[str, str]:
        """Prepare a scan; return its row in the manifest, without the split."""
        key = self.key(record)
        subject = load_record(self.dataset, record)
        check_subject(subject)
        grid = grid_of(subject["image"])
        whole = not subject["image"].data.is_floating_point()
        subject = self.preparation(subject)
        there = grid_of(subject["image"])
        files: dict[str, Path | None] = dict.fromkeys(PARTS)
        with _writing(self.out):
            (self.out / STATE / f"{name}.json").unlink(missing_ok=True)  # no longer valid
            for part, folder in FOLDERS.items():
                if part in subject:
                    values, discrete = subject[part].data, part != "image" or whole
                    values = values.round().to(torch.int32) if discrete else values.float()
                    path = files[part] = self.out / folder / f"{name}.nii.gz"
                    with _replacing(path) as partial:
                        write_image(partial, values.unsqueeze(0), there)
            if "landmarks" in subject:
                path = files["landmarks"] = self.out / "landmarks" / f"{name}.csv"
                with _replacing(path) as partial:
                    labels = subject.get("landmark_labels", ())
                    write_points(partial, subject["landmarks"], labels=labels)
            written = replace(record, number=None).holding(files)
            row = Row(written, str(record.image or ""), grid).cells(self.out)
            write_whole(
                self.out / STATE / f"{name}.json", json.dumps({"key": key, "row": row}).encode()
            )
        return row


def _outcome(task: _Task, job: tuple[Record, str]) -> dict[str, str] | str:
    """Row of a scan, or a sentence about its failure."""
    record, name = job
    try:
        return task(record, name)
    except _Unwritable:
        raise
    except DataError as error:
        return str(error)
    except Exception as error:  # a reader may raise anything; the other scans go on
        return (
            f"{record.name} cannot be prepared ({type(error).__name__}: {error}); look at"
            f" {record.image}."
        )


class _Unwritable(DataError):
    """The output cannot be written, so all other scans would fail, too."""


def _writing(out: Path) -> AbstractContextManager[None]:
    remedy = "finished scans are kept, and the same command continues"
    return reported(f"{out} cannot be written", remedy, _Unwritable)


@contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path in the state folder, and move it to ``path`` once complete."""
    partial = path.parent.parent / STATE / f"partial-{path.parent.name}-{path.name}"
    try:
        yield partial
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _make_folders(out: Path, data: Splits) -> None:
    """Refuse a folder with other data, and make the subfolders."""
    root = Path(data.settings["root"]).expanduser().resolve() if "root" in data.settings else None
    source = f"{name_of(type(data.dataset), 'datasets')} {root or ''}".strip()
    _refuse(out, data.records(), root, source)
    with reported(f"{out} cannot be made", "choose another folder"):
        for folder in (STATE, *FOLDERS.values(), "landmarks"):
            (out / folder).mkdir(parents=True, exist_ok=True)
        (out / STATE / SOURCE).write_text(source, encoding="utf-8")


def _refuse(out: Path, records: Sequence[Record], root: Path | None, source: str) -> None:
    """Refuse a folder of other files, links or data, or one inside the source."""
    if out.exists() and not out.is_dir():
        raise DataError(f"{out} is a file; give a folder.")
    refuse_links(out, (STATE, *FOLDERS.values(), "landmarks"))
    if out.is_dir() and not (out / STATE).is_dir() and any(out.iterdir()):
        raise DataError(
            f"{out} exists and was not written by lightning-reg prepare; choose another folder."
        )
    known = out / STATE / SOURCE
    if known.is_file() and known.read_text(encoding="utf-8") != source:
        raise DataError(
            f"{out} holds data prepared from another source ({known.read_text(encoding='utf-8')});"
            " choose another folder."
        )
    if root is not None and root.is_dir() and (out == root or root in out.parents):
        raise DataError(
            f"{out} lies in the source ({root}), which is never written to; choose another folder."
        )
    for record in records:
        for path in record.files():
            if out in path.resolve().parents or out == path.resolve():
                raise DataError(
                    f"{out} holds the source ({path}), which is never written to; choose another"
                    " folder."
                )


def _file_names(records: Sequence[Record]) -> dict[str, str]:
    """File name per scan that is valid in every file system, and close to its name."""
    texts = ("_".join(filter(None, (record.subject, record.time))) for record in records)
    names = (re.sub(r"[^\w.+-]+", "-", text).strip(".-") or "scan" for text in texts)
    named = zip(records, unique(names, key=str.lower), strict=True)
    return {record.name: name for record, name in named}


def _remove_others(out: Path, names: set[str]) -> None:
    """Remove files of scans that left the data set, and partial files of a killed call."""
    with _writing(out):
        # written again at the end: until then the folder is not complete
        (out / MANIFEST).unlink(missing_ok=True)
        for path in (out / STATE).glob("*partial-*"):
            path.unlink(missing_ok=True)
        for path in (out / STATE).glob("[!.]*.json"):
            if path.stem not in names:
                for folder in (*FOLDERS.values(), "landmarks"):
                    for ending in (".nii.gz", ".csv"):
                        (out / folder / f"{path.stem}{ending}").unlink(missing_ok=True)
                path.unlink(missing_ok=True)
