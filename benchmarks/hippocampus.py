"""Comparison of every experiment on the hippocampus crops with ANTs SyN, on the same validation
pairs.

    python benchmarks/hippocampus.py --root FOLDER [--experiments hippocampus_velocity ...] [--runs
    FOLDER]

Experiments that are already in the runs folder are not trained again. Dice is the mean over two
labels and 40 pairs of subjects not used for training; folding is the percentage of all voxels.
Registration times are medians on the CPU, in the same run. The line of ANTs needs antspyx (extra
``benchmarks``).
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from lightning_reg.cli.training import quieten
from lightning_reg.configuration.composition import compose
from lightning_reg.configuration.folders import own_directory
from lightning_reg.data.datamodule import RegistrationData
from lightning_reg.functional import dice
from lightning_reg.metrics import evaluate, totals
from lightning_reg.spatial import Image, Pair
from lightning_reg.training.building import build_data
from lightning_reg.training.module import RegistrationModule
from lightning_reg.training.run import train

QUIET = ["callbacks.progress_bar=null", "trainer.enable_progress_bar=false"]


def names() -> list[str]:
    """The experiments of ``conf/experiment`` on these data."""
    return sorted(path.stem for path in (own_directory() / "experiment").glob("hippocampus_*.yaml"))


def trained(
    experiment: str, root: str, runs: Path
) -> tuple[RegistrationModule, RegistrationData, float]:
    """Best checkpoint of an experiment, its data, and the training time in minutes; it is trained
    if necessary.
    """
    config = compose([*QUIET, f"experiment={experiment}", f"data.root={root}"])
    folder = runs / experiment
    if not (folder / "summary.json").exists():
        train(config, folder)
    seconds = json.loads((folder / "summary.json").read_text())["seconds"]
    return (
        RegistrationModule.load_from_checkpoint(folder / "checkpoints" / "best.ckpt").eval(),
        build_data(config),
        seconds / 60,
    )


@torch.no_grad()
def line(experiment: str, module: RegistrationModule, pairs: Sequence[Pair], minutes: float) -> str:
    """A row of the table."""
    cases, seconds = [], []
    for pair in pairs:
        started = time.perf_counter()
        transform = module(pair.fixed, pair.moving).transform
        transform.displacement(pair.fixed.grid)
        seconds.append(time.perf_counter() - started)
        cases.append(evaluate(pair, transform))
    found = totals(cases)
    worst = max(case.folding for case in cases)
    folding = f"{100 * found['folding']:.2f} (worst {100 * worst:.2f})"
    return (
        f"| {experiment} | {minutes:.1f} | {found['dice_after']:.3f} | {folding} |"
        f" {statistics.median(seconds):.3f} |"
    )


def syn() -> Callable[[Pair], Tensor]:
    """ANTs' SyN with its defaults: the warped moving labels of a pair, ``(1, 1, I, J, K)``."""
    import ants

    def there(image: Image):
        lps = np.diag([-1.0, -1, 1, 1]) @ image.grid.affine[0]
        spacing = np.linalg.norm(lps[:3, :3], axis=0)
        array = image.tensor[0, 0].numpy().astype(np.float32)
        return ants.from_numpy(
            array, origin=list(lps[:3, 3]), spacing=list(spacing), direction=lps[:3, :3] / spacing
        )

    def register_pair(pair: Pair) -> Tensor:
        assert pair.moving_labels is not None
        fixed = there(pair.fixed)
        result = ants.registration(fixed, there(pair.moving), "SyN")
        warped = ants.apply_transforms(
            fixed,
            there(pair.moving_labels),
            result["fwdtransforms"],
            interpolator="nearestNeighbor",
        )
        return torch.from_numpy(warped.numpy()).round().to(torch.int16)[None, None]

    return register_pair


def overlap(pair: Pair, warped: Tensor) -> float:
    """Mean Dice over the labels of a pair."""
    assert pair.fixed_labels is not None
    return float(dice(pair.fixed_labels.tensor, warped, pair.labels())[0].nanmean())


def main() -> None:
    """Parse the command line, train what is missing, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument(
        "--root", required=True, help="folder of the crops, with images/ and labels/"
    )
    parser.add_argument("--experiments", nargs="+", default=names(), choices=names())
    parser.add_argument("--runs", type=Path, default=Path("runs/hippocampus"))
    arguments = parser.parse_args()
    quieten()

    print(
        "| | training, minutes | Dice | folding, % | seconds a pair |\n| --- | --- | --- | --- |"
        " --- |",
        flush=True,
    )
    pairs: list[Pair] = []
    for experiment in arguments.experiments:
        module, data, minutes = trained(experiment, arguments.root, arguments.runs)
        if not pairs:
            data.setup()
            pairs = [pair for pair in data.validation_pairs if pair.fixed_labels is not None]
            before = statistics.mean(
                overlap(p, p.moving_labels.resampled(p.fixed.grid).tensor)
                for p in pairs
                if p.moving_labels is not None
            )
            print(f"| before | | {before:.3f} | | |", flush=True)
        print(line(experiment, module, pairs, minutes), flush=True)
    if find_spec("ants") is None:
        print("\nANTs is not installed (pip install antspyx), so its line is missing.")
        return
    warp, seconds, scores = syn(), [], []
    for pair in pairs:
        started = time.perf_counter()
        warped = warp(pair)
        seconds.append(time.perf_counter() - started)
        scores.append(overlap(pair, warped))
    print(f"| ANTs SyN | | {statistics.mean(scores):.3f} | | {statistics.median(seconds):.3f} |")


if __name__ == "__main__":
    main()
