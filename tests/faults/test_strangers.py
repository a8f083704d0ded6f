"""Folders made by strangers: nothing is written or read through their links, and their names lead
nowhere else.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from lightning_reg import compose
from lightning_reg.batch.cohort.collect import collect
from lightning_reg.batch.cohort.ledger import Ledger
from lightning_reg.batch.studies.definition import Definition
from lightning_reg.batch.studies.study import begin
from lightning_reg.curation.prepare import Preparation, prepare
from lightning_reg.data.datasets.dataset_json import from_dataset_json
from lightning_reg.data.datasets.manifest import read_rows
from lightning_reg.data.datasets.splits import open_dataset
from lightning_reg.inference.report.again import report_again
from lightning_reg.io.folders import LISTING, MARK
from lightning_reg.registry import DataError
from lightning_reg.training.run import train

PHANTOM = {"name": "phantom", "subjects": 1, "validation": 0, "shape": [16, 16, 16]}
RECORD = {
    "row": {"case": "a"},
    "warnings": [],
    "settings": {"instance": "rigid"},
    "seconds": {"all": 1.0},
}


def training(folder: Path) -> None:
    train(compose(["method=velocity", "data=phantom"]), folder)


def preparing(folder: Path) -> None:
    prepare(open_dataset(PHANTOM), folder, Preparation())


def registering(folder: Path) -> None:
    Ledger(folder).begin({}, {})


def studying(folder: Path) -> None:
    begin(folder, Definition({"a": ("method=velocity",)}))


def cohort(folder: Path, name: str = "a") -> None:
    (folder / "pairs" / "a").mkdir(parents=True)
    (folder / "cohort.json").write_text(json.dumps({"pairs": {name: {}}, "settings": {}}))
    (folder / "pairs" / "a" / LISTING).write_text(json.dumps({"by": "register", "files": [MARK]}))
    (folder / "pairs" / "a" / MARK).write_text(json.dumps(RECORD))


@pytest.mark.parametrize(
    ("link", "used"),
    [
        *[(name, training) for name in ("cases.csv", "figures", "figures/case_0.png", "metrics.csv", "checkpoints", "wandb/id.txt", "wandb", ".lock")],
        *[(name, report_again) for name in ("cases.csv", "figures", "figures/case_0.png", "config.yaml", MARK)],
        *[(name, preparing) for name in ("images", "images/a.nii.gz", ".prepared", ".prepared/source")],
        *[(name, registering) for name in ("pairs", "failed", "failed/a.begun", ".shards", ".cohort.lock")],
        *[(name, collect) for name in ("pairs/a/thumbnail.jpg",)],
        *[(name, studying) for name in ("a_s1", "a_s1/log.txt", ".study.lock")],
    ],
)  # fmt: skip
def test_no_link_in_a_folder_is_followed(
    tmp_path: Path, link: str, used: Callable[[Path], object]
) -> None:
    folder, victim = tmp_path / "folder", tmp_path / "victim"
    folder.mkdir()
    if used is collect:
        cohort(folder)
    elif used in (preparing, registering):
        (folder / ".prepared").mkdir() if not link.startswith(".prep") else None
        (folder / "cohort.json").write_text(json.dumps({"pairs": {}, "settings": {}}))
    elif used is studying:
        (folder / "study.json").write_text(json.dumps({"jobs": {}, "search": None}))
    (folder / link).parent.mkdir(parents=True, exist_ok=True)
    victim.mkdir() if "." not in link.lstrip(".") else victim.write_text("years")
    (folder / link).symlink_to(victim)
    with pytest.raises(DataError, match=f"{link} is a symbolic link"):
        used(folder)
    assert list(victim.iterdir()) == [] if victim.is_dir() else victim.read_text() == "years"
    assert (folder / link).is_symlink()


def test_the_pairs_of_a_cohort_are_in_its_folder(tmp_path: Path) -> None:
    (tmp_path / "result").mkdir()
    cohort(tmp_path / "cohort", "../../result")
    with pytest.raises(
        DataError, match=r"has a pair '\.\./\.\./result', which is not the name of a folder"
    ):
        collect(tmp_path / "cohort")
    cohort(tmp_path / "other")
    (tmp_path / "other" / "pairs" / "a" / MARK).unlink()
    (tmp_path / "other" / "pairs" / "a" / MARK).symlink_to(tmp_path / "secret.json")
    (tmp_path / "secret.json").write_text(json.dumps(RECORD))
    assert "is a symbolic link" in collect(tmp_path / "other").failed[0]["message"]


@pytest.mark.parametrize("path", ["../secret.nii.gz", "images/../../secret.nii.gz", "SECRET"])
def test_images_of_a_data_set_are_in_its_folder(tmp_path: Path, path: str) -> None:
    (tmp_path / "secret.nii.gz").touch()
    (tmp_path / "data" / "images").mkdir(parents=True)
    path = path.replace("SECRET", str(tmp_path / "secret.nii.gz"))
    (tmp_path / "data" / "manifest.csv").write_text(f"subject,split,image\na,train,{path}\n")
    with pytest.raises(DataError, match="is no path inside"):
        read_rows(tmp_path / "data" / "manifest.csv")
    for described in (
        {"training": [{"image": path}]},
        {"training": [{"image": "a.nii.gz", "label": path}]},
        {"training_paired_images": [{"fixed": path, "moving": path}]},
        {"channel_names": {}, "dataset": {"a": {"images": [path]}}},
        {"channel_names": {}, "file_ending": f"/../../{path}"},
    ):
        (tmp_path / "data" / "dataset.json").write_text(json.dumps(described))
        with pytest.raises(DataError, match="is no path inside"):
            from_dataset_json(tmp_path / "data" / "dataset.json")
