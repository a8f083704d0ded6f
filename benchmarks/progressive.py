"""Progressive against conventional training: the same initial weights, pairs, steps and rates; only the growth differs.

    python benchmarks/progressive.py [--data phantom hippocampus] [--root FOLDER] [--seeds 1 2 3] [--time-scale 0.33]

First the cost of a step while only the coarsest level has weight, as a ratio to one of the full network; then, per data set and
seed, the validation error before and after, and the wall time of both trainings as a ratio. Losses stay in the table.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from hydra import compose, initialize_config_dir

from lightning_reg.cli.hydra import plain, register
from lightning_reg.cli.train import quieten
from lightning_reg.components import Growable
from lightning_reg.components.composers.single import SingleComposer
from lightning_reg.components.losses.bundle import LossBundle
from lightning_reg.discovery.conf import own_directory
from lightning_reg.spatial import Displacement, Grid, Image, Pair
from lightning_reg.training.run import Outcome, run_training

VARIANTS = {
    "conventional": ["experiment=conventional"],
    "progressive": ["method.composer.head.refine=false"],
    "progressive, refining": ["method.composer.head.refine=true"],
}
QUIET = ["callbacks.progress_bar=null", "trainer.enable_progress_bar=false"]


def composed(overrides: list[str]) -> dict[str, Any]:
    """A configuration as plain values."""
    register()
    with initialize_config_dir(str(own_directory()), version_base="1.3"):
        return plain(compose("train", overrides=[*QUIET, *overrides]))


def step_ratio(levels: int = 5, features: int = 8, size: int = 64, repeats: int = 7) -> float:
    """Median time of a training step of the coarsest level alone, over that of the full network, measured alternately."""
    backbone = {"name": "progressive_unet", "levels": levels, "features": features}
    net = SingleComposer(backbone, {"name": "dense", "levels": "weighted", "equalized": True})
    bundle = LossBundle({"field_error": None})
    grid = Grid.regular((size, size, size))
    fixed, moving = (Image(torch.rand(1, 1, size, size, size), grid) for _ in range(2))
    pair = Pair(fixed, moving, truth=Displacement(torch.randn(1, 3, size, size, size), grid))
    states = {"coarsest": [1.0] + [0.0] * (levels - 1), "full": [0.0] * (levels - 1) + [1.0]}
    seconds: dict[str, list[float]] = {name: [] for name in states}
    for _ in range(repeats):
        for name, alpha in states.items():
            for component in net.modules():
                if isinstance(component, Growable):
                    component.grow(alpha)
            started = time.perf_counter()
            net.zero_grad()
            bundle(net(fixed, moving), pair).total.backward()
            seconds[name].append(time.perf_counter() - started)
    return statistics.median(seconds["coarsest"][1:]) / statistics.median(seconds["full"][1:])


def train(data: list[str], variant: str, seed: int, time_scale: float) -> Outcome:
    """One training run in a folder that is thrown away."""
    with tempfile.TemporaryDirectory() as folder:
        return run_training(composed([*data, *VARIANTS[variant], f"seed={seed}", f"time_scale={time_scale}"]), Path(folder) / "run")


def main() -> None:
    """Parse the command line, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--data", nargs="+", default=["phantom"], choices=["phantom", "hippocampus"])
    parser.add_argument("--root", help="folder of the hippocampus crops")
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])
    parser.add_argument("--time-scale", type=float, default=1.0, help="factor on the configuration's steps and growth schedule")
    arguments = parser.parse_args()
    quieten()

    ratio = step_ratio()
    print(f"a step of the coarsest level alone takes {ratio:.2f} of a step of the full network (5 levels, 64^3)\n", flush=True)
    print("| data | seed | training | before | after | field error, mm | wall time / conventional |")
    print("| --- | --- | --- | --- | --- | --- | --- |", flush=True)
    for name in arguments.data:
        data = [f"data={name}"] + ([f"data.root={arguments.root}"] if name == "hippocampus" else [])
        for seed in arguments.seeds:
            reference = 0.0
            for variant in VARIANTS:
                outcome = train(data, variant, seed, arguments.time_scale)
                totals = outcome.totals()
                reference = reference or outcome.seconds
                tre = "tre_after_mm" in totals
                before, after = (totals[f"tre_{w}_mm" if tre else f"dice_{w}"] for w in ("before", "after"))
                shown = f"TRE {before:.2f} mm | {after:.2f} mm" if tre else f"Dice {before:.3f} | {after:.3f}"
                field = f"{totals['field_error_after_mm']:.2f}" if "field_error_after_mm" in totals else ""
                print(f"| {name} | {seed} | {variant} | {shown} | {field} | {outcome.seconds / reference:.2f} |", flush=True)


if __name__ == "__main__":
    main()
