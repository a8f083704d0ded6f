"""What the five papers claim, checked in direction: both sides of every claim, trained alike for the same number of steps.

    python benchmarks/paper_claims.py [--quick] [--data phantom hippocampus] [--root FOLDER] [--seeds 1 2 3] [--results FILE]

Every training is written to the results file as it ends and is not done again, so the benchmark can be stopped and gone on with. At the end
a table per data set: the paper's figures, ours (mean and standard deviation over the seeds), and in how many seeds the claim holds.
The papers' data cannot be had, so their figures are of other images. ``--quick`` takes some 20 minutes on two cores: one seed, few steps.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from hydra import compose, initialize_config_dir

from lightning_reg.cli.hydra import plain, register
from lightning_reg.cli.train import quieten
from lightning_reg.components import Growable, Staged
from lightning_reg.components.composers.single import SingleComposer
from lightning_reg.components.losses.bundle import LossBundle
from lightning_reg.discovery.conf import own_directory
from lightning_reg.spatial import Displacement, Grid, Image, IntegratedGradient, Pair, evaluate, parts, totals
from lightning_reg.training.module import RegistrationModule
from lightning_reg.training.run import make_data, run_training

RUNS = {
    "conventional": ["method=progressive", "method.composer.head.refine=false", "experiment=conventional"],
    "progressive": ["method=progressive", "method.composer.head.refine=false"],
    "progressive, refining": ["method=progressive"],
    "single level": ["method=multilevel", "method.composer.strides=[1]", "method.stages=[{steps:1200,train:[0]}]"],
    "multilevel": ["method=multilevel"],
    "multilevel, cold": ["method=multilevel", *(f"method.stages.{k}.warm_start=false" for k in (1, 2))],
    "dlir": ["method=dlir"],
    "dlir, no penalty": ["method=dlir", "method.loss.terms.bending.weight=0"],
    "linear and deformable": ["method=linear_deformable"],
    "deformable alone": [
        "method=linear_deformable",
        "method.composer.head=[{name:integrated_gradient,features:[16,16]}]",
        "method.loss.terms.affine_identity.weight=0",
    ],
    "three resolutions": ["method=deep_supervision"],
    "one resolution": ["method=deep_supervision", "method.composer.head.levels=finest", "method.loss.level_weights=[1.0]"],
}
QUIET = ["callbacks.progress_bar=null", "trainer.enable_progress_bar=false", "data.workers=0", "data.synthetic_validation=0"]
QUICK = {"phantom": 0.12, "hippocampus": 0.08}  # factors on the steps


@dataclass(frozen=True)
class Claim:
    """That the measure of one training is better than that of another.

    Args:
        text: in words, with its source.
        paper: the paper's figures, better against worse.
        better, worse: names of trainings, with ``@k`` after stage *k* of it.
        measure: ``accuracy`` (TRE in mm, or Dice where there are no landmarks), or a column of the evaluation.
    """

    text: str
    paper: str
    better: str
    worse: str
    measure: str = "accuracy"


CLAIMS = (
    Claim("progressive below conventional (Eppenhof 2019)", "TRE 3.68 < 4.84 mm", "progressive", "conventional"),
    Claim("the same, levels that refine (not the paper's)", "", "progressive, refining", "conventional"),
    Claim("multilevel above single level (Hering 2019)", "TRE 2.19 < 3.72 mm; Dice 0.921 > 0.883", "multilevel", "single level"),
    Claim("multilevel folds less than single level", "0.3 < 2.1 %", "multilevel", "single level", "folding"),
    Claim("warm start above cold", "Dice about + 0.02", "multilevel", "multilevel, cold"),
    Claim("stage 2 below stage 1 (de Vos 2019)", "TRE 3.40 < 5.12 mm (first two B-spline stages)", "dlir@1", "dlir@0"),
    Claim("stage 3 below stage 2", "TRE 2.64 < 3.40 mm (last two B-spline stages)", "dlir@2", "dlir@1"),
    Claim("stage 4 below stage 3", "Dice 0.31 to 0.75 over four stages", "dlir@3", "dlir@2"),
    Claim("the bending penalty cuts folding", "0.002 < 0.05 of the voxels", "dlir", "dlir, no penalty", "folding"),
    Claim("the affine part helps (Christodoulidis 2018)", "Dice 0.823 > 0.818 on all pairs", "linear and deformable", "deformable alone"),
    Claim("three resolutions above one (Li & Fan 2018)", "higher NCC", "three resolutions", "one resolution"),
)


def composed(overrides: Sequence[str]) -> dict[str, Any]:
    """A configuration as plain values."""
    register()
    with initialize_config_dir(str(own_directory()), version_base="1.3"):
        return plain(compose("train", overrides=[*QUIET, *overrides]))


@torch.no_grad()
def trained(overrides: Sequence[str]) -> dict[str, Any]:
    """The evaluation of the last weights (not the best ones: a budget is a budget), whole and with the first stages alone."""
    config = composed(overrides)
    with tempfile.TemporaryDirectory() as place, torch.enable_grad():
        folder = Path(place) / "run"
        seconds = run_training(config, folder).seconds
        module = RegistrationModule.from_checkpoint(str(folder / "checkpoints" / "last.ckpt"))
    data = make_data(config)
    data.setup()

    def evaluated() -> dict[str, float]:
        return totals([evaluate(pair, module(pair.fixed, pair.moving).transform) for pair in data.validation_pairs])

    final, stages = evaluated(), {}
    if isinstance(module.composer, Staged):
        for stage in range(module.composer.active):
            module.composer.active = stage + 1
            stages[str(stage)] = evaluated()
    return {"final": final, "stages": stages, "seconds": seconds, "smallest_step": smallest_step(module)}


@torch.no_grad()
def smallest_step(module: RegistrationModule) -> float | None:
    """The smallest step between neighbouring coordinates along any axis, where a method integrates gradients; on random images."""
    grid = Grid.regular((40, 32, 40))
    fixed, moving = (Image(torch.rand(1, 1, *grid.shape), grid) for _ in range(2))
    found = [part for part in parts(module(fixed, moving).transform) if isinstance(part, IntegratedGradient)]
    return min((float(part.steps.min()) for part in found), default=None)


def growth_cost(levels: int = 5, features: int = 8, size: int = 64, repeats: int = 7) -> float:
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


def value(results: dict[str, Any], run: str, measure: str) -> float:
    """One figure of a training; larger is worse."""
    name, _, stage = run.partition("@")
    totals = results[name]["stages"][stage] if stage else results[name]["final"]
    if measure == "accuracy":
        return totals["tre_after_mm"] if "tre_after_mm" in totals else -totals["dice_after"]
    return totals[measure]


def row(claim: Claim, per_seed: Sequence[dict[str, Any]]) -> str:
    """A line of the table."""
    better, worse = ([value(results, run, claim.measure) for results in per_seed] for run in (claim.better, claim.worse))
    holds = sum(a < b for a, b in zip(better, worse, strict=True))
    tre = "tre_after_mm" in per_seed[0][claim.better.partition("@")[0]]["final"]
    unit = "%" if claim.measure == "folding" else "mm TRE" if tre else "Dice"
    scale = 100 if claim.measure == "folding" else 1 if tre else -1
    shown = " against ".join(spread([scale * v for v in values]) for values in (better, worse))
    equal = better == worse
    verdict = "equal" if equal else "yes" if holds == len(better) else "no" if holds == 0 else f"in {holds} of {len(better)} seeds"
    return f"| {claim.text} | {claim.paper} | {shown} {unit} | {verdict} |"


def spread(values: Sequence[float]) -> str:
    """Mean, and standard deviation where there is more than one."""
    deviation = f" ± {statistics.stdev(values):.3f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.3f}{deviation}"


def main() -> None:
    """Parse the command line, train what is missing, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--data", nargs="+", default=["phantom"], choices=["phantom", "hippocampus"])
    parser.add_argument("--root", help="folder of the hippocampus crops")
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])
    parser.add_argument("--time-scale", type=float, default=1.0, help="factor on every training's steps and schedule")
    parser.add_argument("--results", type=Path, default=Path("runs/paper_claims.jsonl"))
    parser.add_argument("--quick", action="store_true", help="one seed and few steps")
    arguments = parser.parse_args()
    if "hippocampus" in arguments.data and not arguments.root:
        parser.error("--data hippocampus needs --root, the folder of the crops")
    quieten()

    print(f"a step of the coarsest level alone takes {growth_cost():.2f} of a step of the full network (5 levels, 64^3)\n", flush=True)
    arguments.results.parent.mkdir(parents=True, exist_ok=True)
    done = [json.loads(line) for line in arguments.results.read_text().splitlines()] if arguments.results.exists() else []
    seeds = arguments.seeds[:1] if arguments.quick else arguments.seeds
    for data in arguments.data:
        scale = arguments.time_scale * (QUICK[data] if arguments.quick else 1)
        found: list[dict[str, Any]] = []
        for seed in seeds:
            found.append({})
            for run, overrides in RUNS.items():
                key = {"data": data, "seed": seed, "run": run, "scale": scale}
                known = [entry["result"] for entry in done if entry["key"] == key]
                if not known:
                    where = [f"data.root={arguments.root}"] if data == "hippocampus" else []
                    few = ["data.max_validation_pairs=20"] if data == "hippocampus" else []
                    known = [trained([*overrides, f"data={data}", *where, *few, f"seed={seed}", f"time_scale={scale}"])]
                    with arguments.results.open("a") as file:
                        file.write(json.dumps({"key": key, "result": known[0]}) + "\n")
                found[-1][run] = known[0]
        steps = f"{scale:g} of the steps of conf/experiment/small"
        print(f"## {data}: seeds {', '.join(map(str, seeds))}; {steps}\n\n| claim | paper | here | holds |\n| --- | --- | --- | --- |")
        print("\n".join(row(claim, found) for claim in CLAIMS), flush=True)
        least = min(results["linear and deformable"]["smallest_step"] for results in found)
        verdict = "yes" if least >= 0 else "no"
        print(f"| integrated gradients never fold along an axis | by construction | smallest step {least:.3g} | {verdict} |\n")


if __name__ == "__main__":
    main()
