"""Training in two real processes (gloo) against one process with twice the batch, and the failure
of one of the two.
"""

from __future__ import annotations

import csv
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from lightning_reg.configuration.composition import compose
from lightning_reg.registry import TrainingError
from lightning_reg.training import ranks, run
from lightning_reg.training.checkpoints import read_checkpoint

ROOT = Path(__file__).parents[2]
DATA = [
    "data=phantom", "data.dataset.shape=[20,18,16]", "data.dataset.subjects=3",
    "data.dataset.validation=3", "data.dataset.crop=null",
    "data.workers=0", "budget=null", "callbacks.progress_bar=null", "trainer.accelerator=cpu",
    "trainer.log_every_n_steps=1",
]  # fmt: skip
METHODS = {
    "velocity": ["method=velocity", "method.composer.backbone.levels=2"],
    "progressive": [
        "method=progressive",
        "method.composer.backbone.levels=2",
        "method.callbacks.alpha_growth={start: -2, ramp: 2, duration: 4, time_scale: 1.0}",
    ],
    "multilevel": [
        "method=multilevel",
        "method.composer.strides=[2,1]",
        "method.composer.backbone.levels=2",
        (
            "method.stages=[{steps:4,train:[0],patience:1,optimizer:{lr:"
            " 1e-12}},{steps:1,train:[1],warm_start:true},{steps:1,train:all}]"
        ),
        "method.optimizer={name: sgd, lr: 0.3}",
    ],
}
"""One that is plain, one that grows, one in stages of which the first ends early;
benchmarks/processes.py has all six.
"""
TRAIN = {
    "train.py": [str(ROOT / "train.py")],
    "lightning-reg": ["-m", "lightning_reg.cli.main", "train"],
}


def start(
    folder: Path, *words: str, by: str = "train.py", **environment: str
) -> subprocess.Popen[str]:
    clean = {**os.environ, "OMP_NUM_THREADS": "1", "MPLBACKEND": "Agg", **environment}
    call = [sys.executable, *TRAIN[by], *DATA, *words]
    return subprocess.Popen(
        call,
        cwd=folder,
        env=clean,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def train(folder: Path, *words: str, by: str = "train.py") -> str:
    process = start(folder, *words, by=by)
    out, _ = process.communicate(timeout=300)
    assert process.returncode == 0, out
    return out


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


ONE = ["data.batch_size=2", "data.samples_per_epoch=4"]
TWO = ["run=./two", "data.batch_size=1", "data.samples_per_epoch=2", "trainer.devices=2"]


@pytest.mark.slow
@pytest.mark.parametrize("name", list(METHODS))
def test_two_processes_are_one_with_twice_the_batch(name: str, tmp_path: Path) -> None:
    """Losses, level weights and stages of every step, validations, weights; pairs of one size,
    which collate without padding.
    """
    by = "lightning-reg" if name == "velocity" else "train.py"
    run.train(compose([*DATA, *METHODS[name], *ONE, "trainer.max_steps=12"]), tmp_path / "one")
    out = train(tmp_path, *METHODS[name], *TWO, "trainer.max_steps=12", by=by)
    assert out.count("Validation, best checkpoint") == 1
    assert out.count("Everything is in") == 1
    one, two = (rows(tmp_path / folder / "metrics.csv") for folder in ("one", "two"))
    assert len(one) == len(two) >= 4
    for ours, theirs in zip(two, one, strict=True):
        for key, value in theirs.items():
            expected = pytest.approx(float(value), rel=2e-3, abs=1e-4) if value else value
            assert (float(ours[key]) if ours[key] else ours[key]) == expected, (key, ours["step"])
    for ours, theirs in zip(
        rows(tmp_path / "two/cases.csv"), rows(tmp_path / "one/cases.csv"), strict=True
    ):
        assert ours["case"] == theirs["case"]
        assert float(ours["tre_after_mm"]) == pytest.approx(float(theirs["tre_after_mm"]), abs=0.01)
    weights = [
        read_checkpoint(tmp_path / folder / "checkpoints/last.ckpt")["state_dict"]
        for folder in ("one", "two")
    ]
    tensors = {key: value for key, value in weights[0].items() if isinstance(value, torch.Tensor)}
    assert (
        max(float((value - weights[1][key]).abs().max()) for key, value in tensors.items()) < 2e-3
    )
    if name == "multilevel":
        assert 0 < sum(row["stage"] == "0.0" for row in one) < 8  # patience ended it


@pytest.mark.slow
def test_a_run_of_two_processes_is_stopped_and_goes_on_as_if_it_had_not_been(
    tmp_path: Path,
) -> None:
    method = METHODS["multilevel"]
    train(tmp_path, *method, *TWO, "run=./whole", "trainer.max_steps=9")
    process = start(tmp_path, *method, *TWO, "run=./stopped", "trainer.max_steps=9")
    began = time.monotonic()
    while len(rows_so_far(tmp_path / "stopped")) < 2 and time.monotonic() - began < 120:
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=120)
    assert process.returncode == 130, out
    assert out.count("Stopped; saved") == 1
    train(tmp_path, *method, *TWO, "run=./stopped", "trainer.max_steps=9")
    assert rows(tmp_path / "stopped/metrics.csv") == rows(tmp_path / "whole/metrics.csv")


def rows_so_far(run: Path) -> list[str]:
    try:
        return (run / "metrics.csv").read_text().splitlines()[1:]
    except OSError:
        return []


def children(process: subprocess.Popen[str]) -> list[int]:
    found = subprocess.run(
        ["pgrep", "-P", str(process.pid)], capture_output=True, text=True, check=False
    ).stdout.split()
    return [int(number) for number in found]


@pytest.mark.slow
def test_a_process_that_is_killed_ends_the_run_with_a_sentence_and_a_checkpoint(
    tmp_path: Path,
) -> None:
    process = start(tmp_path, *METHODS["velocity"], *TWO, "trainer.max_steps=2000")
    began = time.monotonic()
    while not (tmp_path / "two/checkpoints/last.ckpt").exists() and time.monotonic() - began < 120:
        time.sleep(0.01)
    for child in children(process):
        os.kill(child, signal.SIGKILL)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 2, out
    assert "Another process of this training ended" in out
    assert f"last.ckpt is whole: go on with resume={tmp_path / 'two'}" in out
    step = read_checkpoint(tmp_path / "two/checkpoints/last.ckpt")["global_step"]
    call = [
        sys.executable,
        *TRAIN["train.py"],
        "resume=two",
        f"trainer.max_steps={step + 2}",
        "trainer.devices=2",
    ]
    subprocess.run(call, cwd=tmp_path, check=True, capture_output=True)
    assert read_checkpoint(tmp_path / "two/checkpoints/last.ckpt")["global_step"] == step + 2


@pytest.mark.slow
def test_a_loss_that_is_no_number_ends_all_processes_with_one_sentence_each(tmp_path: Path) -> None:
    process = start(
        tmp_path, *METHODS["velocity"], *TWO, "trainer.max_steps=20", "method.optimizer.lr=1e30"
    )
    out, _ = process.communicate(timeout=120)
    assert process.returncode == 2, out
    assert "became NaN or infinite at step" in out
    assert "Traceback" not in out


@pytest.mark.slow
def test_torchruns_processes_agree_on_the_budgets_steps(tmp_path: Path) -> None:
    """Each would measure another number; without a name they would have two folders."""
    clean = {**os.environ, "OMP_NUM_THREADS": "1", "MPLBACKEND": "Agg"}
    call = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node=2",
        str(ROOT / "train.py"),
        *DATA,
        *METHODS["velocity"],
    ]
    call += ["data.batch_size=1", "data.samples_per_epoch=2", "trainer.devices=2", "budget=0.05"]
    refused = subprocess.run(
        call, cwd=tmp_path, env=clean, capture_output=True, text=True, check=False
    )
    assert refused.returncode != 0
    assert "give it a name, run=NAME" in refused.stderr
    found = subprocess.run(
        [*call, "run=x"], cwd=tmp_path, env=clean, capture_output=True, text=True, check=False
    )
    assert found.returncode == 0, found.stdout + found.stderr
    assert found.stdout.count("as many as fit into budget=0.05 minutes") == 1
    assert len(rows(tmp_path / "runs/x/cases.csv")) == 3


def test_what_the_first_process_decides_is_for_those_of_its_start(
    tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.setattr(ranks, "is_first", lambda: True)
    ranks.decide(tmp_path, {"trainer": {"max_steps": 7}}, tmp_path / "last.ckpt")
    monkeypatch.setattr(ranks, "is_first", lambda: False)
    with pytest.raises(TrainingError, match="do all processes share that folder"):
        ranks.decided(tmp_path, patience=0.3)
    monkeypatch.setattr(os, "getppid", os.getpid)
    assert ranks.decided(tmp_path) == ({"trainer": {"max_steps": 7}}, tmp_path / "last.ckpt")


@pytest.mark.parametrize(
    ("pairs", "world", "dealt"), [(5, 2, True), (2, 2, True), (1, 2, False), (3, 1, False)]
)
def test_validation_pairs_are_dealt_out_without_overlap(
    pairs: int, world: int, dealt: bool
) -> None:
    from types import SimpleNamespace

    from making import data_of

    seen: list[list[str]] = []
    for rank in range(world):
        data = data_of(
            {"name": "phantom", "subjects": 2, "validation": pairs, "shape": [16, 16, 16]},
            {"name": "groups"},
            workers=0,
        )
        data.setup()
        data.trainer = SimpleNamespace(world_size=world, global_rank=rank)  # type: ignore[assignment]
        seen.append([pair.name[0] for pair in data.val_dataloader()])
        assert data.deals_out_validation == dealt
    everything = [name for names in seen for name in names]
    assert len(set(everything)) == pairs
    assert len(everything) == (pairs if dealt else pairs * world)
    assert torch.utils.data.get_worker_info() is None
