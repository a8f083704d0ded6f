"""Scripts of the page on clusters, run by a stand-in for SLURM: several tasks, time limits, arrays."""

from __future__ import annotations

import csv
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import yaml

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "cluster.md").read_text()
TINY = [
    "method=velocity", "data=phantom", "data.dataset.shape=[20,18,16]", "data.dataset.subjects=3",
    "data.dataset.validation=3",
    "data.dataset.crop=null", "data.workers=0", "budget=null", "callbacks.progress_bar=null",
    "trainer.accelerator=cpu",
    "method.composer.backbone.levels=2", "data.samples_per_epoch=2",
]  # fmt: skip
Submit = Callable[..., subprocess.CompletedProcess[str]]


def script(name: str) -> str:
    found = [
        block for block in re.findall(r"```bash\n(.*?)```", PAGE, re.S) if f"# {name}\n" in block
    ]
    assert len(found) == 1
    return found[0]


@pytest.fixture
def submit(tmp_path: Path) -> Submit:
    """Submits a script of the page, in a folder with SLURM's commands."""
    commands = tmp_path / "bin"
    commands.mkdir()
    for name in ("sbatch", "srun", "scontrol"):
        (commands / name).write_text(
            f"#!{sys.executable}\n" + (Path(__file__).parent / "slurm.py").read_text()
        )
        (commands / name).chmod(0o755)
    (commands / "lightning-reg").write_text(
        f'#!/bin/bash\nexec {sys.executable} -m lightning_reg.cli.main "$@"\n'
    )
    (commands / "lightning-reg").chmod(0o755)

    def call(
        name: str, *words: str, replacing: dict[str, str] | None = None, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        text = script(name)
        for old, new in (replacing or {}).items():
            assert old in text
            text = text.replace(old, new)
        (tmp_path / name).write_text(text)
        path = {
            "PATH": f"{commands}{os.pathsep}{os.environ['PATH']}",
            "OMP_NUM_THREADS": "1",
            "MPLBACKEND": "Agg",
        }
        return subprocess.run(
            ["sbatch", name, *words],
            cwd=tmp_path,
            env=os.environ | path | environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=400,
        )

    return call


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.slow
def test_a_job_whose_time_is_over_goes_back_into_the_queue_and_goes_on(
    submit: Submit, tmp_path: Path
) -> None:
    """Two tasks, SIGUSR1 to both once a checkpoint is there; in the end the record of one run,
    equal to one that was not interrupted.
    """
    two = {"--ntasks-per-node=4": "--ntasks-per-node=2"}
    found = submit(
        "train.sbatch",
        *TINY,
        "trainer.max_steps=60",
        replacing=two,
        STANDIN_SIGNAL="runs/registration/checkpoints/last.ckpt",
    )
    assert found.returncode == 0, found.stdout + found.stderr
    assert (tmp_path / "was-requeued-1000-0").exists()
    assert "The job 1000 is back in the queue" in found.stdout
    assert "Going on after step" in found.stdout
    assert found.stdout.count("Validation, best checkpoint") == 1
    assert [row["step"] for row in rows(tmp_path / "runs/registration/metrics.csv")][-1] == "59"
    assert not list(tmp_path.rglob("hpc_ckpt*"))
    (tmp_path / "runs/registration").rename(tmp_path / "interrupted")
    whole = submit("train.sbatch", *TINY, "trainer.max_steps=60", replacing=two)
    assert whole.returncode == 0, whole.stdout + whole.stderr
    assert rows(tmp_path / "interrupted/metrics.csv") == rows(
        tmp_path / "runs/registration/metrics.csv"
    )


@pytest.mark.slow
def test_an_arrays_tasks_are_the_shares_of_a_cohort(submit: Submit, tmp_path: Path) -> None:
    for number in range(6):
        values = np.random.default_rng(number).normal(size=(12, 13, 14)).astype(np.float32)
        nib.save(nib.Nifti1Image(values, np.diag([2.0, 2, 2, 1])), tmp_path / f"{number}.nii.gz")
    (tmp_path / "pairs.csv").write_text(
        "fixed,moving\n" + "".join(f"{n}.nii.gz,{n + 1}.nii.gz\n" for n in range(5))
    )
    quick = "optimization.stages=[{transform: affine, stride: 2, steps: 3}]"
    found = submit(
        "cohort.sbatch",
        quick,
        replacing={"--array=1-64": "--array=1-2"},
        STANDIN_SIGNAL="cohort/pairs/0__1",
    )
    assert found.returncode == 0, found.stdout + found.stderr
    assert (tmp_path / "was-requeued-1000_1-0").exists()
    assert len(list((tmp_path / "cohort/pairs").glob("*/transform.h5"))) == 5
    assert [len(rows(tmp_path / f"cohort/results-{n}-of-2.csv")) for n in (1, 2)] == [3, 2]


@pytest.mark.slow
def test_a_study_is_requeued_with_its_training(submit: Submit, tmp_path: Path) -> None:
    common = [word for word in TINY if not word.startswith("method=")] + ["trainer.max_steps=30"]
    (tmp_path / "study.yaml").write_text(
        yaml.safe_dump({"common": common, "methods": ["velocity"], "seeds": [1, 2]})
    )
    signalled = "runs/study/velocity_s1/checkpoints/last.ckpt"
    found = submit(
        "study.sbatch", replacing={"--array=1-8": "--array=1-1"}, STANDIN_SIGNAL=signalled
    )
    assert found.returncode == 0, found.stdout + found.stderr
    assert (tmp_path / "was-requeued-1000_1-0").exists()
    assert [row["status"] for row in rows(tmp_path / "runs/study/runs.csv")] == ["done", "done"]
    assert "Going on after step" in (tmp_path / "runs/study/velocity_s1/log.txt").read_text()


def test_example_files_are_what_they_say() -> None:
    job = yaml.safe_load((ROOT / "docs/cluster/job.yaml").read_text())
    assert (job["spec"]["completions"], job["spec"]["completionMode"]) == (16, "Indexed")
    command = job["spec"]["template"]["spec"]["containers"][0]["args"][0]
    assert command.endswith("--shard $((JOB_COMPLETION_INDEX + 1))/16")
    assert yaml.safe_load((ROOT / "docs/cluster/sky.yaml").read_text())["run"].startswith(
        "python train.py run=/runs/registration"
    )
