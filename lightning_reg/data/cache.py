"""Cache of preprocessed scans: in memory up to a limit, the others in memory-mapped files."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
from torch.utils.data import DataLoader, Dataset

from lightning_reg.data.datasets.identity import content
from lightning_reg.data.datasets.interface import Record
from lightning_reg.data.datasets.loading import Lazy
from lightning_reg.data.parallel import start_method, start_worker
from lightning_reg.data.scans import Scan
from lightning_reg.io.folders import reason
from lightning_reg.registry import Checked, DataError, Range
from lightning_reg.spatial import Grid, Image, mapped

VERSION = 2
"""Version of the file format; files of another version are not used."""


@dataclass(frozen=True)
class CacheSettings(Checked):
    """Place of preprocessed scans.

    Args:
        memory: GiB of scans kept in memory by each training process. The other scans are written to
            ``folder`` and stay there for the next run.
        folder: folder for all scans, memory-mapped; useful for repeated runs and for several
            devices, which share them. ``null``: scans that do not fit into memory are written below
            the user's cache folder.
    """

    memory: Annotated[float, Range(0, of="GiB")] = 8.0
    folder: str | None = None

    @property
    def where(self) -> Path:
        usual = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "lightning_reg"
        return Path(self.folder or usual).expanduser()


def fingerprint(record: Record, *settings: Any) -> str:
    """Return a name for a preprocessed scan. It changes if a setting changes, or the content of a
    file.

    Raises:
        DataError: a file cannot be read.
    """
    contents = [content(path) for path in record.files()]
    if None in contents:
        path = record.files()[contents.index(None)]
        raise DataError(
            f"{path} cannot be read; correct the path or its permissions, or make the data set"
            " complete."
        )
    told = [VERSION, record.subject, record.time, record.number, contents, *settings]
    return hashlib.sha256(json.dumps(told, sort_keys=True, default=str).encode()).hexdigest()[:32]


class ScanCache(Lazy[Scan]):
    """Sequence of preprocessed scans, each made once.

    Args:
        new: reads and preprocesses the scan with a given number.
        keys: a :func:`fingerprint` per scan.
        settings: place of the cached scans.
        rank, world: of this process, see :meth:`fill`.
    """

    def __init__(
        self,
        new: Callable[[int], Scan],
        keys: Sequence[str],
        settings: CacheSettings | None = None,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        self.length = len(keys)
        self.new, self.keys, self.settings = new, list(keys), settings or CacheSettings()
        self.rank, self.world = rank, world
        self.scans: dict[int, Scan] = {}
        self.used = 0

    def make(self, number: int) -> Scan:
        """Return a scan from memory or its file, or make it."""
        if number in self.scans:
            return self.scans[number]
        if self.path(number).is_file():
            return _read(self.path(number))
        return self._keep(number, self.new(number))

    def path(self, number: int) -> Path:
        return self.settings.where / f"{self.keys[number]}.pt"

    def fill(self, workers: int = 0) -> None:
        """Read all scans that are not cached yet, with ``workers`` processes.

        Ranks that share a folder start at different scans, and use scans that another rank has
        finished.
        """
        start = self.rank * len(self) // self.world
        order = [(k + start) % len(self) for k in range(len(self))]
        missing = [k for k in order if k not in self.scans and not self.path(k).is_file()]
        if workers == 0 or len(missing) < 4:
            for number in missing:
                _ = self[number]
            return
        # 2: the scans of a subject often come from one source
        loader = DataLoader(
            _Making(self, missing),
            batch_size=2,
            num_workers=workers,
            collate_fn=list,
            worker_init_fn=start_worker,
            multiprocessing_context=start_method(workers),
        )
        for batch in loader:
            for number, scan in batch:
                if isinstance(scan, str):
                    raise DataError(scan)
                if scan is not None:
                    # copied: each tensor shared with another process keeps a file open
                    self._keep(number, mapped(scan, torch.Tensor.clone))

    def _keep(self, number: int, scan: Scan) -> Scan:
        size = sum(
            image.tensor.numel() * image.tensor.element_size()
            for image in (scan.image, scan.mask, scan.labels)
            if image is not None
        )
        if self.settings.folder is None and self.used + size <= self.settings.memory * 2**30:
            self.used += size
            self.scans[number] = scan
            return scan
        path = self.path(number)
        _write(path, scan)
        return _read(path)


class _Making(Dataset[tuple[int, "Scan | str | None"]]):
    """Scans made by worker processes, which also write them if all scans go to files. If a scan
    fails, its item is the error message.
    """

    def __init__(self, cache: ScanCache, numbers: Sequence[int]) -> None:
        self.cache, self.numbers = cache, numbers

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, item: int) -> tuple[int, Scan | str | None]:
        number = self.numbers[item]
        try:
            if self.cache.settings.folder is None:
                return number, self.cache.new(number)
            if not self.cache.path(number).is_file():
                _write(self.cache.path(number), self.cache.new(number))
        except DataError as error:
            return number, str(error)
        return number, None


def _write(path: Path, scan: Scan) -> None:
    """Write a scan atomically, also if another process writes the same file."""
    values = {
        "name": scan.name, "group": scan.group, "landmarks": scan.landmarks,
        "landmark_labels": scan.landmark_labels,
        "affine": torch.from_numpy(scan.image.grid.affine), "padding": scan.image.padding,
        "image": scan.image.tensor,
        "mask": None if scan.mask is None else scan.mask.tensor,
        "labels": None if scan.labels is None else scan.labels.tensor,
    }  # fmt: skip
    partial = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(
            dir=path.parent, prefix=".", suffix=".partial", delete=False
        ) as file:
            partial = Path(file.name)
            torch.save(values, file)
        partial.replace(path)
    except (OSError, RuntimeError) as cause:  # torch reports a full disk as the latter
        if partial is not None:
            partial.unlink(missing_ok=True)
        told = reason(cause) if isinstance(cause, OSError) else "is the disk full?"
        raise DataError(
            f"{path.parent} cannot keep preprocessed scans ({told}); set `folder`, or"
            " raise `memory`."
        ) from cause


def _read(path: Path) -> Scan:
    values = torch.load(path, mmap=True, weights_only=True)
    grid = Grid(tuple(values["image"].shape[2:]), values["affine"].numpy())

    def discrete(key: str) -> Image | None:
        return None if values[key] is None else Image(values[key], grid, discrete=True)

    image = Image(values["image"], grid, values["padding"])
    parts = discrete("mask"), discrete("labels"), values["landmarks"]
    return Scan(values["name"], image, *parts, values["group"], tuple(values["landmark_labels"]))
