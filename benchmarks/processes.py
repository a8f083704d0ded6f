"""Differences between training in two processes and in one process with twice the batch, for all
six methods.

    python benchmarks/processes.py --root FOLDER [--steps 12]

Trains each method twice on the same pairs of small phantoms (CPU, gloo): in one process with
batches of two, and in two processes with batches of one. Prints a table for docs/benchmarks.md with
the largest differences: of the training loss over all steps (relative), of the landmark error after
training over all cases (mm), and of a weight, relative to the largest change of a weight by the
training.
"""

from __future__ import annotations

import argparse
import csv
import os
import shutil
import subprocess
import sys
from pathlib import Path

import torch

from lightning_reg.training.checkpoints import read_checkpoint

ROOT = Path(__file__).parents[1]
DATA = [
    "data=phantom", "data.dataset.shape=[24,20,24]", "data.dataset.subjects=3",
    "data.dataset.validation=3", "data.dataset.crop=null",
    "data.workers=0", "budget=null", "callbacks.progress_bar=null", "trainer.accelerator=cpu",
    "trainer.log_every_n_steps=1",
]  # fmt: skip
METHODS = {
    "velocity": ["method.composer.backbone.levels=2"],
    "progressive": [
        "method.composer.backbone.levels=2",
        "method.callbacks.alpha_growth={start: -4, ramp: 3, duration: 8, time_scale: 1.0}",
    ],
    "multilevel": [
        "method.composer.strides=[2,1]", "method.composer.backbone.levels=2",
        "method.stages=[{steps:1,train:[0]},{steps:1,train:[1],warm_start:true},{steps:1,train:all}]",
    ],
    "dlir": [
        "method.composer.stages=[{backbone:{name:siamese,levels:2,features:2},head:affine},"
        "{backbone:{name:lattice,spacing:4,features:2},head:bspline}]",
        "method.stages=[{steps:1,train:[0]},{steps:1,train:[1]}]",
    ],
    "linear_deformable": ["method.composer.backbone.features=[2,2,2,2,2]"],
    "deep_supervision": ["method.composer.backbone.features=2"],
}  # fmt: skip


def train(folder: Path, run: str, *words: str) -> None:
    call = [sys.executable, str(ROOT / "train.py"), *DATA, f"run=./{run}", *words]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MPLBACKEND": "Agg"}
    subprocess.run(call, cwd=folder, env=environment, check=True, capture_output=True)


def column(path: Path, name: str) -> list[float]:
    with path.open(newline="") as file:
        return [float(row[name]) for row in csv.DictReader(file) if row.get(name)]


def weights(path: Path) -> dict[str, torch.Tensor]:
    return {
        key: value
        for key, value in read_checkpoint(path)["state_dict"].items()
        if isinstance(value, torch.Tensor)
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=12)
    arguments = parser.parse_args()
    print(
        "| method | training loss, relative | TRE, mm | weights, of their largest change |\n| --- |"
        " ---: | ---: | ---: |"
    )
    for method, words in METHODS.items():
        folder = arguments.root.resolve() / method
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        common = [f"method={method}", *words]
        one, two = (
            ["data.batch_size=2", "data.samples_per_epoch=8"],
            ["data.batch_size=1", "data.samples_per_epoch=4", "trainer.devices=2"],
        )
        train(folder, "start", *common, *one, "trainer.max_steps=1", "method.optimizer.lr=1e-20")
        train(folder, "one", *common, *one, f"trainer.max_steps={arguments.steps}")
        train(folder, "two", *common, *two, f"trainer.max_steps={arguments.steps}")
        losses = [column(folder / run / "metrics.csv", "train/loss") for run in ("one", "two")]
        errors = [column(folder / run / "cases.csv", "tre_after_mm") for run in ("one", "two")]
        loss = max(abs(a - b) / abs(a) for a, b in zip(*losses, strict=True))
        error = max(abs(a - b) for a, b in zip(*errors, strict=True))
        first, a, b = (
            weights(folder / run / "checkpoints" / "last.ckpt") for run in ("start", "one", "two")
        )
        change = max(float((a[key] - first[key]).abs().max()) for key in a)
        apart = max(float((a[key] - b[key]).abs().max()) for key in a)
        print(f"| {method} | {loss:.1e} | {error:.1e} | {apart / change:.1e} |", flush=True)


if __name__ == "__main__":
    main()
