"""Cache of preprocessed scans: one decoding, identical values in memory and files, safety with
several processes.
"""

from __future__ import annotations

import os
import pickle
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from making import data_of
from torch.multiprocessing import get_context

from lightning_reg.data.cache import CacheSettings, ScanCache, fingerprint
from lightning_reg.data.datasets.interface import Record
from lightning_reg.data.scans import Scan
from lightning_reg.registry import DataError
from lightning_reg.spatial import Grid, Image

SHAPE = (10, 9, 8)
BYTES = 10 * 9 * 8 * (4 + 2)


def make(number: int) -> Scan:
    generator = torch.Generator().manual_seed(number)
    grid = Grid.regular(SHAPE, (1.0, 2.0, 3.0), (number, 0, 0))
    image = Image(torch.rand(1, 1, *SHAPE, generator=generator), grid, padding=-0.5)
    mask = Image((image.tensor > 0.5).short(), grid, discrete=True)
    return Scan(
        f"s{number} a",
        image,
        mask,
        landmarks=torch.rand(4, 3, generator=generator),
        group=f"s{number}",
    )


class Counted:
    """Counts how often each scan is made."""

    def __init__(self) -> None:
        self.made: list[int] = []

    def __call__(self, number: int) -> Scan:
        self.made.append(number)
        return make(number)


def cache(settings: CacheSettings, count: int = 6, **more) -> tuple[ScanCache, Counted]:
    counted = Counted()
    return ScanCache(counted, [f"key{n}" for n in range(count)], settings, **more), counted


def require_same(scan: Scan, other: Scan) -> None:
    assert (scan.name, scan.group, scan.image.padding, scan.mask.discrete) == (
        other.name,
        other.group,
        other.image.padding,
        True,
    )
    assert torch.equal(scan.image.tensor, other.image.tensor)
    assert torch.equal(scan.mask.tensor, other.mask.tensor)
    assert torch.equal(scan.landmarks, other.landmarks)
    assert scan.labels is None
    assert scan.image.grid.matches(other.image.grid)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("kept", ["memory", "files", "both"])
def test_scans_are_made_once_and_are_the_same_wherever_they_are_kept(
    tmp_path: Path, monkeypatch, kept: str, workers: int
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    memory = 2.5 * BYTES / 2**30 if kept == "both" else 8
    settings = CacheSettings(memory, str(tmp_path / "cache") if kept == "files" else None)
    scans, counted = cache(settings)
    scans.fill(workers)
    for _ in range(3):
        for number, scan in enumerate(scans):
            require_same(scan, make(number))
    if workers == 0:
        assert sorted(counted.made) == list(range(6))
    files = {"memory": 0, "files": 6, "both": 4}[kept]
    assert len(list(settings.where.glob("*.pt"))) == files
    assert len(scans.scans) == 6 - files
    assert not list(settings.where.glob(".*partial"))
    if kept == "files":
        again, counted = cache(settings)
        again.fill()
        require_same(again[2], make(2))
        assert counted.made == []


def test_ranks_begin_at_different_places_and_take_what_is_finished(tmp_path: Path) -> None:
    settings = CacheSettings(folder=str(tmp_path))
    second, counted = cache(settings, rank=1, world=2)
    second.fill()
    assert counted.made == [3, 4, 5, 0, 1, 2]
    (tmp_path / "key4.pt").unlink()
    first, counted = cache(settings, rank=0, world=2)
    first.fill()
    assert counted.made == [4]


def _fill(folder: str) -> None:
    ScanCache(make, [f"key{n}" for n in range(6)], CacheSettings(folder=folder)).fill()


@pytest.mark.slow
def test_processes_that_fill_one_folder_at_once(tmp_path: Path) -> None:
    context = get_context("spawn")
    processes = [context.Process(target=_fill, args=(str(tmp_path),)) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        assert process.exitcode == 0
    assert sorted(p.name for p in tmp_path.iterdir()) == [f"key{n}.pt" for n in range(6)]
    for number, scan in enumerate(cache(CacheSettings(folder=str(tmp_path)))[0]):
        require_same(scan, make(number))


def test_another_file_or_setting_is_another_scan(tmp_path: Path) -> None:
    path = tmp_path / "a.nii"
    path.write_bytes(b"1")
    record = Record("s", image=path)
    key = fingerprint(record, {"window": [0, 1]})
    assert key == fingerprint(record, {"window": [0, 1]})
    assert key != fingerprint(record, {"window": [0, 2]})
    assert key != fingerprint(replace(record, time="b"), {"window": [0, 1]})
    assert key == fingerprint(replace(record, split="validation"), {"window": [0, 1]})
    path.write_bytes(b"12")
    assert key != fingerprint(record, {"window": [0, 1]})


def test_a_file_of_other_content_is_another_scan(tmp_path: Path) -> None:
    """Also where size and time are the same; and another frame of one file is another scan."""
    path = tmp_path / "a.nii"
    path.write_bytes(b"1")
    record = Record("s", image=path)
    os.utime(path, ns=(10**18, 10**18))
    before = fingerprint(record)
    os.utime(path, ns=(1, 1))
    assert fingerprint(record) == before
    path.write_bytes(b"2")
    os.utime(path, ns=(10**18, 10**18))
    assert fingerprint(record) != before
    assert fingerprint(replace(record, number=0)) != fingerprint(replace(record, number=1))


@pytest.mark.parametrize("workers", [0, 2])
def test_what_has_been_read_is_not_read_again(tmp_path: Path, monkeypatch, workers: int) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    scans, counted = cache(CacheSettings(6.5 * BYTES / 2**30))
    _ = scans[2], scans[2]
    assert counted.made == [2]
    scans.fill(workers)
    assert scans.used == 6 * BYTES
    assert not list(scans.settings.where.glob("*.pt"))
    files, counted = cache(CacheSettings(folder=str(tmp_path / "files")))
    _ = files[3], files[3]
    assert counted.made == [3]


def test_a_folder_that_cannot_be_written() -> None:
    scans, _ = cache(CacheSettings(folder="/proc/nowhere"))
    with pytest.raises(DataError, match=r"cannot keep preprocessed scans .*set `folder`"):
        _ = scans[0]
    with pytest.raises(ValueError, match="memory is -1; give a number of GiB"):
        CacheSettings(-1)


def test_build_sampler_are_the_same_from_memory_and_from_files(tmp_path: Path) -> None:
    """Also with workers, for which files are mapped in each process."""
    pairs = []
    for settings, workers in (
        ({"memory": 8}, 0),
        ({"folder": str(tmp_path)}, 0),
        ({"folder": str(tmp_path)}, 2),
        ({"memory": 8}, 2),
    ):
        dataset = {"name": "phantom", "subjects": 2, "validation": 1, "shape": [16, 12, 12]}
        data = data_of(
            dataset,
            {"name": "groups"},
            {"window": [-1000, 500]},
            cache=settings,
            workers=workers,
            samples_per_epoch=4,
            seed=3,
        )
        data.setup()
        pairs.append(
            [
                (pair.name, pair.fixed.tensor.clone(), pair.fixed_mask.tensor.clone())
                for pair in data.train_dataloader()
            ]
        )
    for other in pairs[1:]:
        for a, b in zip(pairs[0], other, strict=True):
            assert a[0] == b[0]
            assert torch.equal(a[1], b[1])
            assert torch.equal(a[2], b[2])
    assert len(list(tmp_path.glob("*.pt"))) == 6


def test_what_workers_need_travels_to_processes_that_are_started_afresh() -> None:
    """As on macOS and Windows, where nothing is inherited."""
    dataset = {"name": "phantom", "subjects": 1, "validation": 1, "shape": [12, 12, 12]}
    data = data_of(
        dataset, {"name": "groups"}, {"window": [-1000, 500]}, samples_per_epoch=2, workers=0
    )
    data.setup()
    travelled = pickle.loads(pickle.dumps(data.train_pairs))
    assert torch.equal(travelled[1].fixed.tensor, data.train_pairs[1].fixed.tensor)


def test_the_data_beside_a_header_count_too(tmp_path: Path) -> None:
    header = tmp_path / "a.mhd"
    header.write_text("ElementDataFile = a.raw")
    (tmp_path / "a.raw").write_bytes(b"1")
    (tmp_path / "b.raw").write_bytes(b"1")
    key = fingerprint(Record("s", image=header))
    (tmp_path / "b.raw").write_bytes(b"12")
    assert key == fingerprint(Record("s", image=header))
    (tmp_path / "a.raw").write_bytes(b"12")
    assert key != fingerprint(Record("s", image=header))
    with pytest.raises(
        DataError, match=r"nowhere\.nii cannot be read; .* make the data set complete"
    ):
        fingerprint(Record("s", image=tmp_path / "nowhere.nii"))


def _refuses(number: int) -> Scan:
    raise DataError(f"scan {number} is broken; replace it.")


def test_a_broken_scan_is_one_sentence_with_workers_too(tmp_path: Path) -> None:
    for settings in (CacheSettings(), CacheSettings(folder=str(tmp_path))):
        with pytest.raises(DataError) as caught:
            ScanCache(_refuses, [f"broken{n}" for n in range(6)], settings).fill(workers=1)
        assert str(caught.value) == "scan 0 is broken; replace it."
