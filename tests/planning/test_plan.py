"""Fingerprint and plan of small folders, and the training of a plan."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import yaml

from lightning_reg.cli.main import main as lightning_reg
from lightning_reg.cli.train import main as train
from lightning_reg.configuration.datasets import open_configured
from lightning_reg.data.generated import GeneratedPairs
from lightning_reg.planning import fingerprint
from lightning_reg.spatial import Image

MOVED = {"rotation": 0, "scale": 0, "shear": 0, "shift": 0.15, "amplitude": 0.01, "sliding": 0}
SPACING = (2.0, 2.0, 3.0)


def write(image: Image, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(image.tensor[0, 0].numpy(), np.diag([*SPACING, 1.0])), path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Five subjects with two time points each, which a shift separates."""
    pairs = GeneratedPairs([], [], 5, (28, 24, 20), shapes=1.0, related=1.0, motion=MOVED)
    root = tmp_path / "scans"
    for number in range(5):
        pair = pairs[number]
        for time, image in (("a", pair.fixed), ("b", pair.moving)):
            name = f"sub-{number}_ses-{time}_T1w.nii.gz"
            write(image, root / f"sub-{number}" / f"ses-{time}" / "anat" / name)
    return root


@pytest.mark.slow
def test_a_fingerprint_measures_the_scans_and_their_motion(folder: Path) -> None:
    data, _ = open_configured("folder", (), str(folder))
    known = fingerprint(data, pairs=2)
    assert known.subjects == len({record.subject for record in data.records("train")})
    assert known.time_points == 2
    assert known.pairing == "groups"
    assert known.spacing.median == SPACING
    assert known.voxels.most == (28, 24, 20)
    assert known.motion is not None
    assert known.motion.pairs == 2
    assert 0.5 < known.motion.large_mm < 20
    assert json.loads(json.dumps(known.as_dict()))["units"] == known.units


@pytest.mark.slow
def test_a_folder_is_planned_and_trained(
    folder: Path, command: Callable[..., Any], tmp_path: Path
) -> None:
    code, told, failed = command(
        lightning_reg, "lightning-reg", "plan", folder, "--minutes", 1, "--pairs", 1,
        "method.optimizer.lr=0.002",
    )  # fmt: skip
    assert code == 0, failed
    assert "lightning-reg train scans_plan/plan.yaml" in told
    config = yaml.safe_load((tmp_path / "scans_plan" / "plan.yaml").read_text())
    assert config["method"]["optimizer"]["lr"] == 0.002
    assert config["data"]["pairing"] == config["method"]["sampling"]["name"] == "groups"
    page = (tmp_path / "scans_plan" / "plan.html").read_text()
    for word in ("voxel size", "levels", "Measured"):
        assert word in page
    code, told, failed = command(
        train, "train.py", "data=scans_plan", "trainer.max_steps=2", "run=first"
    )
    assert code == 0, failed
    stored = yaml.safe_load((tmp_path / "runs" / "first" / "config.yaml").read_text())
    assert stored["method"]["composer"] == config["method"]["composer"]
    again = command(lightning_reg, "lightning-reg", "plan", folder)
    assert again[0] != 0
    assert "--overwrite" in again[2]


@pytest.mark.slow
def test_the_method_auto_plans_and_trains(
    folder: Path, command: Callable[..., Any], tmp_path: Path
) -> None:
    words = ("method=auto", "data=folder", f"data.root={folder}", "budget=1", "run=auto")
    code, _, failed = command(train, "train.py", *words, "trainer.max_steps=2")
    assert code == 0, failed
    assert (tmp_path / "runs" / "auto_plan" / "plan.html").is_file()
    assert (tmp_path / "runs" / "auto" / "checkpoints").is_dir()


@pytest.mark.parametrize("count", [1, 2])
def test_a_folder_from_which_nothing_can_be_learned_is_refused(
    count: int, command: Callable[..., Any], tmp_path: Path
) -> None:
    pairs = GeneratedPairs([], [], 5, (16, 16, 16), shapes=1.0)
    for number in range(count):
        write(pairs[number].fixed, tmp_path / "few" / f"s{number}.nii.gz")
    code, _, failed = command(lightning_reg, "lightning-reg", "plan", tmp_path / "few")
    assert code != 0
    assert "register" in failed
    assert not (tmp_path / "few_plan").exists()
