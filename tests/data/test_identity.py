"""Identity of a training's data: content of files, changes, and splits that are kept."""

from __future__ import annotations

import gzip
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from lightning_reg.data.datasets.identity import (
    BLOCK,
    BLOCKS,
    changes,
    content,
    identify,
    joined,
    keep_splits,
    trained_images,
)
from lightning_reg.data.datasets.own import FolderDataset, PairsDataset
from lightning_reg.data.datasets.splits import Splits


def scans(root: Path, subjects: int = 5) -> Path:
    """``P1, P2, ...`` with two time points each."""
    for number in range(1, subjects + 1):
        for time in ("a", "b"):
            write(root / f"P{number}" / f"{time}.nii.gz", seed=10 * number + ord(time))
    return root


def write(path: Path, seed: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = np.random.default_rng(seed).normal(size=(16, 12, 14)).astype(np.float32)
    nib.save(nib.Nifti1Image(image, np.diag([2.0, 2, 2, 1])), path)
    return path


def splits(data: Splits) -> dict[str, str]:
    return {record.subject: record.split for record in data.records()}


def test_content_is_that_of_the_bytes_and_not_of_the_name(tmp_path: Path) -> None:
    one, other = write(tmp_path / "a.nii.gz", 1), write(tmp_path / "b.nii.gz", 2)
    assert content(one) != content(other)
    assert content(shutil.copy(one, tmp_path / "c.nii.gz")) == content(one)
    assert content(one, 3) not in (content(one), content(one, 4))
    assert content(tmp_path / "nothing.nii.gz") is None
    for name, files in (("series", ("1.dcm", "2.dcm")), ("renamed", ("y.dcm", "x.dcm"))):
        (tmp_path / name).mkdir()
        for file, seed in zip(files, (1, 2), strict=True):
            (tmp_path / name / file).write_bytes(bytes([seed]) * 100)
    assert content(tmp_path / "series") == content(tmp_path / "renamed")
    (tmp_path / "renamed" / "x.dcm").write_bytes(b"3" * 100)
    assert content(tmp_path / "series") != content(tmp_path / "renamed")


@pytest.mark.parametrize("at", [0, BLOCK - 1, -1, -BLOCK])
def test_a_large_file_is_known_by_its_size_and_its_beginning_and_end(
    at: int, tmp_path: Path
) -> None:
    values = bytearray(np.random.default_rng(0).bytes(3 * BLOCK * BLOCKS))
    (tmp_path / "a").write_bytes(values)
    (tmp_path / "longer").write_bytes(values + b"\0")
    values[at] ^= 1
    (tmp_path / "b").write_bytes(values)
    assert len({content(tmp_path / name) for name in ("a", "b", "longer")}) == 3


def test_one_voxel_in_a_large_compressed_file_is_noticed(tmp_path: Path) -> None:
    """Its checksum stands at its end."""
    values = bytearray(np.random.default_rng(0).bytes(3 * BLOCK * BLOCKS))
    for name in ("a.gz", "b.gz"):
        (tmp_path / name).write_bytes(gzip.compress(values, 1, mtime=0))
        values[5 * BLOCK // 2 + 7] ^= 1  # between the first blocks
    assert content(tmp_path / "a.gz") != content(tmp_path / "b.gz")


def test_data_that_moved_are_the_same(tmp_path: Path) -> None:
    known = identify(Splits(FolderDataset(scans(tmp_path / "here"))))
    row = known["scans"][0]
    assert (row["scan"], row["split"], row["files"]["image"]["file"]) == (
        "P1 a",
        "train",
        "P1/a.nii.gz",
    )
    assert row["files"]["image"]["bytes"] == (tmp_path / "here" / "P1" / "a.nii.gz").stat().st_size
    shutil.move(tmp_path / "here", tmp_path / "there")
    assert changes(known, identify(Splits(FolderDataset(tmp_path / "there")))) is None


def removed(root: Path) -> None:
    shutil.rmtree(root / "P2")


def added(root: Path) -> None:
    write(root / "P6" / "a.nii.gz", 99)


def replaced(root: Path) -> None:
    write(root / "P2" / "a.nii.gz", 99)


def renamed(root: Path) -> None:
    shutil.move(root / "P1", root / "P9")


@pytest.mark.parametrize(
    ("change", "told", "after"),
    [
        (
            removed,
            "missing: P2 a, P2 b",
            {"P1": "train", "P3": "train", "P4": "train", "P5": "validation"},
        ),
        (added, "new: P6 a; P5 would change from validation to train", None),
        (replaced, "changed: P2 a", None),
        (
            renamed,
            "missing: P1 a, P1 b; new: P9 a, P9 b; P5 would change from validation to train",
            {"P9": "train", "P5": "validation"},
        ),
    ],
)
def test_changes_are_named_and_known_subjects_keep_their_split(
    change, told: str, after: dict | None, tmp_path: Path
) -> None:
    known = joined({}, identify(Splits(FolderDataset(scans(tmp_path / "x")))))
    change(tmp_path / "x")
    data = Splits(FolderDataset(tmp_path / "x"))
    assert changes(known, identify(data)) == told
    moved = keep_splits(data, known)
    now = splits(data)
    assert {row["subject"] for row in known["scans"] if row["split"] == "train"} & {
        s for s in now if now[s] != "train"
    } == set()
    assert after is None or after.items() <= now.items()
    assert all(fixed.split == moving.split for fixed, moving in data.named_pairs())
    # the next time, the accepted state is the known one
    again = Splits(FolderDataset(tmp_path / "x"))
    later = joined(known, identify(data), moved)
    again.assign(later["moved"])
    assert changes(later, identify(again)) is None
    assert set(known["trained"]["images"]) <= trained_images(later)


def test_what_was_trained_on_and_comes_back_is_not_held_out(tmp_path: Path) -> None:
    first = joined({}, identify(Splits(FolderDataset(scans(tmp_path / "x")))))
    (tmp_path / "x" / "P1").rename(tmp_path / "P1")
    without = joined(first, identify(Splits(FolderDataset(tmp_path / "x"))))
    (tmp_path / "P1").rename(tmp_path / "x" / "Q1")
    data = Splits(FolderDataset(tmp_path / "x"))
    assert splits(data)["Q1"] == "validation"
    assert keep_splits(data, without) == {"Q1": "train", "P5": "validation"}


def test_an_image_of_both_splits_is_not_counted_as_trained_on(tmp_path: Path) -> None:
    names = [write(tmp_path / f"{n}.nii.gz", n).name for n in range(5)]
    lines = [
        "fixed,moving,split",
        *(
            f"{names[0]},{name},{'validation' if name == names[4] else 'train'}"
            for name in names[1:]
        ),
    ]
    (tmp_path / "pairs.csv").write_text("\n".join(lines) + "\n")
    data = Splits(PairsDataset(tmp_path / "pairs.csv"))
    known = joined({}, identify(data))
    assert trained_images(known) == {content(tmp_path / name) for name in names[1:4]}
    assert keep_splits(data, known) == {}
    assert trained_images({}) == frozenset()
