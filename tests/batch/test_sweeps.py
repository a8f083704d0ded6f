"""Hydra sweeps: record of failures, resumption by the same command, and other launchers, really
installed.
"""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SMALL = [
    "data=phantom", "data.dataset.shape=[20,18,16]", "data.dataset.subjects=2",
    "data.dataset.validation=2", "data.dataset.crop=null",
    "data.samples_per_epoch=2", "trainer.max_steps=4", "budget=null", "callbacks.progress_bar=null",
    "trainer.accelerator=cpu",
    "method=velocity", "method.composer.backbone.levels=2", "method.composer.backbone.features=4",
]  # fmt: skip
PACKAGES = ["hydra-joblib-launcher", "joblib", "hydra-submitit-launcher", "submitit", "cloudpickle"]


def sweep(folder: Path, *words: str, site: Path | None = None) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "MPLBACKEND": "Agg", "OMP_NUM_THREADS": "1"}
    if site is not None:
        environment["PYTHONPATH"] = os.pathsep.join(
            [str(site), *filter(None, [os.environ.get("PYTHONPATH")])]
        )
    call = [sys.executable, str(ROOT / "train.py"), "-m", *SMALL, *words]
    return subprocess.run(
        call, cwd=folder, env=environment, capture_output=True, text=True, check=False
    )


def runs(folder: Path) -> dict[str, str]:
    with (folder / "runs.csv").open(newline="") as file:
        return {row["run"]: row["status"] for row in csv.DictReader(file)}


def written(folder: Path) -> dict[str, int]:
    return {path.parent.name: path.stat().st_mtime_ns for path in folder.glob("*/summary.json")}


@pytest.mark.slow
def test_a_run_that_fails_is_recorded_and_the_same_command_goes_on(tmp_path: Path) -> None:
    """A user's mistake in one run, and a loss that becomes NaN in another; the exit code says that
    some failed.
    """
    words = ["run=rates", "method.optimizer.lr=1e-4,1e30", "seed=1,2", "data.workers=0"]
    first = sweep(tmp_path, *words)
    folder = tmp_path / "runs" / "rates"
    expected = {
        "0_velocity_s1": "done",
        "1_velocity_s2": "done",
        "2_velocity_s1": "failed",
        "3_velocity_s2": "failed",
    }
    assert first.returncode == 1, first.stderr
    assert runs(folder) == expected
    assert "Failed: 2_velocity_s1: The loss term" in first.stdout
    assert "means over 2 seeds" in first.stdout
    assert "lightning-reg train data=phantom" in first.stdout
    assert {"study.html", "study.png", "table.md", "table.tex", "table.csv", "cases.csv"} <= {
        path.name for path in folder.iterdir()
    }
    before = written(folder)
    again = sweep(tmp_path, *words)
    assert again.returncode == 1
    assert "0_velocity_s1 is done." in again.stdout
    assert written(folder) == before
    mistake = sweep(tmp_path, "run=mistake", "data.window=1,2", "data.workers=0")
    assert mistake.returncode == 2
    assert "There is no option 'data.window'" in mistake.stderr


@pytest.fixture(scope="module")
def launchers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    site = tmp_path_factory.mktemp("site")
    line = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-deps",
        "--target",
        str(site),
        *PACKAGES,
    ]
    found = subprocess.run(line, capture_output=True, text=True, check=False)
    if found.returncode:
        pytest.skip("Hydra's launchers cannot be installed here (no package registry)")
    return site


@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    [["launcher=joblib"], ["hydra/launcher=submitit_local", "hydra.launcher.timeout_min=10"]],
    ids=["joblib", "submitit"],
)
def test_launchers_train_with_the_default_data_workers(
    words: list[str], launchers: Path, tmp_path: Path
) -> None:
    found = sweep(tmp_path, "run=x", *words, "method.optimizer.lr=1e-4,1e30", site=launchers)
    assert found.returncode == 1, found.stderr[-2000:]
    assert runs(tmp_path / "runs" / "x") == {"0_velocity_s1": "done", "1_velocity_s1": "failed"}
    assert "The winner, 0_velocity_s1" in found.stdout
