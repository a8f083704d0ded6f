"""Tests of the claims of the five papers: trainings of both sides with equal steps or equal
seconds, and paired intervals over cases.

    python benchmarks/paper_claims.py [--claims NAME ...] [--seeds 1 2 3] [--root CROPS] [--minutes
    M] [--full] [--table] [--json F]
                                    [--curves PICTURE]

Every training has its own folder below --runs; a finished one is not repeated, an interrupted one
is resumed, and several commands can share the work. --json F stores the findings and the scores of
all trainings per case. Trainings in this file count as done, even if their folders have been
deleted, so that the table can be completed in parts.

Images are generated thoraxes (48 subjects for training; 40 others and 100 fixed synthetic pairs for
scoring) and, with --root, public hippocampus crops (160 and 40). The last weights are scored, not
the best. A claim *holds* if the paired 95 % interval over the cases (means over the seeds) excludes
0 in its favour and every seed agrees; it *does not hold* if both contradict it. Otherwise, or with
fewer than three seeds, it is *undecided*. Seconds are processor time with one thread, so that other
work on the machine does not count. --full trains with the papers' sizes and numbers of steps (for a
GPU). For equal seconds, the cheaper side gets more steps, so that both take the same time.
"""

from __future__ import annotations

import argparse
import csv
import fcntl
import json
import os
import shutil
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from matplotlib.figure import Figure
from scipy import stats

from lightning_reg.cli.training import quieten
from lightning_reg.components import Staged
from lightning_reg.configuration.composition import compose
from lightning_reg.figures.curves import series
from lightning_reg.functional import ncc
from lightning_reg.metrics import evaluate
from lightning_reg.optimization.descent import FitStage, Optimization, optimize
from lightning_reg.spatial import IntegratedGradient, Pair, Transform, parts
from lightning_reg.training.building import build_data
from lightning_reg.training.module import RegistrationModule
from lightning_reg.training.run import train

QUIET = [
    "callbacks.progress_bar=null",
    "trainer.enable_progress_bar=false",
    "data.workers=0",
    "data.max_validation_pairs=1",
]
PAPERS_KIND = [
    "method.sampling.outside=padding",
    "method.sampling.sliding=null",
    "method.sampling.density=false",
]
ISOTROPIC = [
    "method.sampling.learned=[{lattice:4,amplitude:0.2},{lattice:8,amplitude:0.05}]",
    *PAPERS_KIND,
]
INTERPOLATING = [
    "method.sampling.learned=[{lattice:4,amplitude:0.2,spline:interpolating},{lattice:8,amplitude:0.05,spline:interpolating}]",
    *PAPERS_KIND,
]
PAPER_RATE = [
    # the paper: 0.1 for images of 128 voxels; here about 40
    "method.optimizer={name:sgd,lr:0.01,momentum:0.5}",
    "method.composer.backbone.norm=batch",
    "method.composer.head.equalized=true",
    "++method.composer.head.refine=false",
    "++method.loss.terms.field_error.root=false",
]
OWN_FIELDS = ["++method.composer.head.refine=false"]
WHOLE = ["experiment=conventional"]
NO_PENALTY = ["method.loss.terms.bending.weight=0"]


@dataclass(frozen=True)
class Training:
    """One side of a claim.

    Args:
        overrides: of the configuration, without seed and steps.
        scale: factor of the configuration's number of steps.
        tests: data for scoring: ``phantom`` (two phases of 40 subjects), ``subjects`` (40 pairs of
            them), ``synthetic`` (100 fixed pairs generated as in the training), ``crops`` (40
            pairs), ``refined`` (the same pairs, after fitting the network's weights to each).
    """

    overrides: tuple[str, ...]
    scale: float = 1.0
    tests: tuple[str, ...] = ("phantom",)


BOTH = ("phantom", "synthetic")
SHORT = 0.3
"""Fraction of a method's default number of steps on small data."""


def trainings(full: bool) -> dict[str, Training]:
    """Every side of every claim, by name; ``full``: with the papers' sizes and numbers of steps."""
    size = ["data.dataset.shape=[128,128,128]", "size=paper"] if full else []
    phantom = ["data=phantom", "data.dataset.validation=1", *size]
    crops = ["data=hippocampus", *size[1:]]

    def on(
        data: Sequence[str],
        *changes: Sequence[str],
        scale: float = SHORT,
        tests: tuple[str, ...] = ("phantom",),
    ) -> Training:
        return Training(
            (*data, *(o for change in changes for o in change)), 1.0 if full else scale, tests
        )

    def levels(strides: str, *steps: int) -> list[str]:
        warm = [
            f"{{steps:{n},train:[{k}],warm_start:{str(k > 0).lower()}}}"
            for k, n in enumerate(steps)
        ]
        return [
            "method=multilevel",
            f"method.composer.strides={strides}",
            f"method.stages=[{','.join(warm)}]",
        ]

    def lattices(*places: tuple[int, int]) -> list[str]:
        stages = [
            f"{{stride:{a},backbone:{{name:lattice,spacing:{b},features:32,norm:instance}},head:bspline}}"
            for a, b in places
        ]
        shares = [
            f"{{steps:{(40000 if full else 1200) // len(places)},train:[{k}]}}"
            for k in range(len(places))
        ]
        return [
            "method=dlir",
            f"method.composer.stages=[{','.join(stages)}]",
            f"method.stages=[{','.join(shares)}]",
        ]

    several = lattices((4, 8), (2, 8), (1, 8)) if full else lattices((2, 8), (2, 4), (1, 4))
    one = lattices((1, 8)) if full else lattices((1, 4))
    narrow = [] if full else ["method.composer.head=[{name:integrated_gradient,features:[16,16]}]"]
    pair = [] if full else ["method.batch_size=2"]
    all_pairs = ["data.pairing=inter_subject", "data.preprocessing.center=true"]
    grown = (
        ["method=progressive"]
        if full
        else ["method=progressive", "method.steps=1400", "method.composer.symmetric=false"]
    )
    conditions: dict[str, list[list[str]]] = {
        "": [], ", isotropic": [ISOTROPIC], ", interpolating": [INTERPOLATING],
        ", SGD": [PAPER_RATE],
    }  # fmt: skip
    found = {
        f"{name}{suffix}": on(phantom, grown, whole, *changes, scale=0.4, tests=BOTH)
        for suffix, changes in conditions.items()
        for name, whole in (("progressive", []), ("conventional", WHOLE))
    }
    found |= {
        "progressive, own fields": on(phantom, grown, OWN_FIELDS, scale=0.4, tests=BOTH),
        "progressive, long": on(phantom, grown, scale=1.0, tests=BOTH),
        "conventional, long": on(phantom, grown, WHOLE, scale=1.0, tests=BOTH),
        "one level": on(phantom, levels("[2]", 37500) if full else levels("[1]", 1200)),
        "two levels": on(
            phantom, levels("[4,2]", 18750, 18750) if full else levels("[2,1]", 600, 600)
        ),
        "three levels": on(phantom, ["method=multilevel"]),
        "three levels, cold": on(
            phantom, ["method=multilevel", *(f"method.stages.{k}.warm_start=false" for k in (1, 2))]
        ),
        "dlir": on(phantom, several),
        "dlir, no penalty": on(phantom, several, NO_PENALTY),
        "dlir, one stage": on(phantom, one),
        "dlir, one stage, no penalty": on(phantom, one, NO_PENALTY),
        "dlir, patches": on(
            phantom, several, ["+method.sampling.patch=" + ("[64,64,64]" if full else "[32,24,32]")]
        ),
    }
    for suffix, changes, tests in (
        ("", [], ("phantom",)),
        (", all pairs", all_pairs, ("subjects",)),
    ):
        found |= {
            f"linear{suffix}": on(
                phantom,
                ["method=linear_deformable", "experiment=linear_only"],
                changes,
                tests=tests,
            ),
            f"deformable{suffix}": on(
                phantom,
                ["method=linear_deformable", "experiment=deformable_only"],
                narrow,
                changes,
                tests=tests,
            ),
            f"both{suffix}": on(phantom, ["method=linear_deformable"], changes, tests=tests),
        }
    return found | {
        "three resolutions": on(crops, ["method=deep_supervision"], tests=("crops", "refined")),
        "no pooling": on(
            crops,
            ["method=deep_supervision", "experiment=deep_supervision_no_pooling"],
            pair,
            tests=("crops",),
        ),
        "interpolated": on(
            crops,
            ["method=deep_supervision", "experiment=deep_supervision_interpolated"],
            pair,
            tests=("crops",),
        ),
    }


@dataclass(frozen=True)
class Claim:
    """Claim that the measure of one training is better than that of another.

    Args:
        group: the paper.
        text: the claim in words.
        paper: the paper's figures.
        better, worse: ``training/test``; a test of one stage includes its number: ``phantom@1``.
        measure: a column of the scores.
        seconds: compare with equal seconds as well.
    """

    group: str
    text: str
    paper: str
    better: str
    worse: str
    measure: str
    seconds: bool = False


SEEDS = 3
"""Smallest number of seeds to decide a claim."""
LARGER_IS_BETTER = ("dice", "ncc")
UNITS = {
    "tre": "mm",
    "tre95": "mm",
    "field": "mm",
    "dice": "",
    "ncc": "",
    "folding": "%",
    "sd_j": "",
}


def _growth(name: str, condition: str, paper: str = "") -> list[Claim]:
    suffix = f", {name}" if name else ""
    better, worse = f"progressive{suffix}", f"conventional{suffix}"
    return [
        Claim(
            "eppenhof",
            f"progressive below conventional, TRE: {condition}",
            paper,
            f"{better}/phantom",
            f"{worse}/phantom",
            "tre",
            True,
        ),
        Claim(
            "eppenhof",
            f"the same, field error: {condition}",
            "",
            f"{better}/synthetic",
            f"{worse}/synthetic",
            "field",
            True,
        ),
    ]


def _own() -> list[Claim]:
    better, text = "progressive, own fields", "levels with fields of their own (the paper's)"
    return [
        Claim(
            "eppenhof",
            f"progressive below conventional, TRE: {text}",
            "",
            f"{better}/phantom",
            "conventional/phantom",
            "tre",
            True,
        ),
        Claim(
            "eppenhof",
            f"the same, field error: {text}",
            "",
            f"{better}/synthetic",
            "conventional/synthetic",
            "field",
            True,
        ),
    ]


CLAIMS: tuple[Claim, ...] = (
    *_growth("", "560 steps, Adam, instance normalisation, refining levels", "TRE 3.68 < 4.84 mm"),
    *_own(),
    *_growth("long", "1,400 steps"),
    *_growth("isotropic", "the paper's ranges along all axes"),
    *_growth("interpolating", "interpolating splines"),
    *_growth("SGD", "SGD, batch normalisation, fields of their own (the paper's)"),
    Claim("hering", "two levels below one, TRE", "", "two levels/phantom", "one level/phantom", "tre"),
    Claim("hering", "three levels below two, TRE", "", "three levels/phantom", "two levels/phantom", "tre"),
    Claim("hering", "three levels below one, TRE", "2.19 < 3.72 mm", "three levels/phantom", "one level/phantom", "tre", True),
    Claim("hering", "three levels below one, 95th percentile of TRE", "", "three levels/phantom", "one level/phantom", "tre95", True),
    Claim("hering", "three levels above one, Dice", "0.921 > 0.883", "three levels/phantom", "one level/phantom", "dice", True),
    Claim("hering", "three levels fold less than one", "0.3 < 2.1 %", "three levels/phantom", "one level/phantom", "folding", True),
    Claim("hering", "warm start above cold, Dice", "about + 0.02", "three levels/phantom", "three levels, cold/phantom", "dice"),
    Claim("devos", "stage 2 below stage 1, TRE", "3.40 < 5.12 mm", "dlir/phantom@1", "dlir/phantom@0", "tre"),
    Claim("devos", "stage 3 below stage 2, TRE", "2.64 < 3.40 mm", "dlir/phantom@2", "dlir/phantom@1", "tre"),
    Claim("devos", "several stages above one, Dice", "0.88 > 0.86", "dlir/phantom", "dlir, one stage/phantom", "dice", True),
    Claim("devos", "the penalty cuts folding (several stages)", "0.002 < 0.05", "dlir/phantom", "dlir, no penalty/phantom", "folding"),
    Claim("devos", "the penalty lowers sd of J (several stages)", "lower", "dlir/phantom", "dlir, no penalty/phantom", "sd_j"),
    Claim(
        "devos", "the penalty lowers sd of J (one stage)", "lower",
        "dlir, one stage/phantom", "dlir, one stage, no penalty/phantom", "sd_j",
    ),
    Claim("devos", "whole images below patches, TRE", "not compared", "dlir/phantom", "dlir, patches/phantom", "tre"),
    Claim("christodoulidis", "deformable above linear, Dice", "0.913", "deformable/phantom", "linear/phantom", "dice"),
    Claim("christodoulidis", "both above deformable, Dice", "0.915 > 0.913", "both/phantom", "deformable/phantom", "dice"),
    Claim(
        "christodoulidis", "deformable above linear on all pairs, Dice", "0.818",
        "deformable, all pairs/subjects",
        "linear, all pairs/subjects", "dice",
    ),
    Claim(
        "christodoulidis", "both above deformable on all pairs, Dice", "0.823 > 0.818",
        "both, all pairs/subjects",
        "deformable, all pairs/subjects", "dice",
    ),
    Claim("lifan", "three resolutions above no pooling, NCC", "above", "three resolutions/crops", "no pooling/crops", "ncc", True),
    Claim("lifan", "no pooling above pooling and interpolation, NCC", "above", "no pooling/crops", "interpolated/crops", "ncc", True),
    Claim("lifan", "three resolutions above no pooling, Dice", "", "three resolutions/crops", "no pooling/crops", "dice", True),
    Claim("lifan", "three resolutions above interpolation, Dice", "", "three resolutions/crops", "interpolated/crops", "dice", True),
    Claim("lifan", "refinement on one pair above the network, NCC", "above", "three resolutions/refined", "three resolutions/crops", "ncc"),
    Claim("lifan", "refinement on one pair above the network, Dice", "", "three resolutions/refined", "three resolutions/crops", "dice"),
)  # fmt: skip


def composed(overrides: Sequence[str]) -> dict[str, Any]:
    """A configuration as plain values."""
    return compose([*QUIET, *overrides])


Scores = dict[str, dict[str, list[float]]]


@dataclass(frozen=True)
class Work:
    """Folders of trainings, and their data."""

    runs: Path
    root: str | None
    full: bool
    kept: Mapping[str, Any]

    def result(self, name: str, seed: int, factor: float = 1.0) -> dict[str, Any] | None:
        """Result of a training, ``{seconds, steps, scores}``, trained if necessary; ``None`` if
        another process is training it.
        """
        training = trainings(self.full)[name]
        known = self.known(name, seed, factor)
        if known is not None:
            return known
        folder = self.folder(name, seed, factor)
        file = folder / "result.json"
        folder.mkdir(parents=True, exist_ok=True)
        with locked(folder / "lock") as mine:
            if not mine:
                return None
            where = [f"data.root={self.root}"] if "data=hippocampus" in training.overrides else []
            kept = f"data.cache.folder={self.runs.parent / 'scans'}"
            config = composed(
                [
                    *training.overrides,
                    *where,
                    kept,
                    f"seed={seed}",
                    f"time_scale={training.scale * factor}",
                ]
            )
            found = self._train(config, folder) | {"scores": scores(config, folder, training.tests)}
            partial = file.with_suffix(".part")
            partial.write_text(json.dumps(found))
            partial.replace(file)
        return found

    def known(self, name: str, seed: int, factor: float = 1.0) -> dict[str, Any] | None:
        """Result of a finished training; ``None`` if it is not finished."""
        file = self.folder(name, seed, factor) / "result.json"
        return (
            json.loads(file.read_text())
            if file.exists()
            else self.kept.get(self.key(name, seed, factor))
        )

    @staticmethod
    def key(name: str, seed: int, factor: float) -> str:
        """Name of a training in the JSON file: ``progressive x1.2 seed 3``."""
        return f"{name} x{factor:g} seed {seed}"

    def finished(self) -> dict[str, Any]:
        """Results of all finished trainings, from the JSON file and the folders, rounded to four
        digits.
        """
        found = dict(self.kept)
        for name in trainings(self.full):
            for file in self.runs.glob(f"{_filed(name)}*/seed_*/result.json"):
                longer, seed = (
                    file.parts[-3].removeprefix(_filed(name)).removeprefix("_x"),
                    int(file.parts[-2].removeprefix("seed_")),
                )
                if longer == "" or longer.replace(".", "").isdigit():
                    found[self.key(name, seed, float(longer or 1))] = _short(
                        _used(json.loads(file.read_text()))
                    )
        return dict(sorted(found.items()))

    def columns(
        self, name: str, seeds: Sequence[int], test: str, measure: str
    ) -> list[list[float]]:
        """One measure of a training per case, for each finished seed."""
        results = [result for seed in seeds if (result := self.known(name, seed)) is not None]
        return [
            result["scores"][test][measure]
            for result in results
            if measure in result["scores"].get(test, {})
        ]

    def folder(self, name: str, seed: int, factor: float = 1.0) -> Path:
        longer = f"_x{factor:g}" if factor != 1 else ""
        return self.runs / f"{_filed(name)}{longer}" / f"seed_{seed}"

    @staticmethod
    def _train(config: dict[str, Any], folder: Path) -> dict[str, Any]:
        last, clock = folder / "run" / "checkpoints" / "last.ckpt", folder / "seconds.json"
        before = json.loads(clock.read_text()) if clock.exists() else 0.0
        started = time.process_time()
        if not (folder / "trained").exists():
            running = folder / "running"
            if running.exists():  # killed: its time is unknown, so it starts from scratch
                shutil.rmtree(folder / "run", ignore_errors=True)
                before = 0.0
            running.touch()
            try:
                train(config, folder / "run", last if last.exists() else None)
            finally:  # also on interruption, after which it resumes from its last checkpoint
                clock.write_text(json.dumps(before + time.process_time() - started))
                running.unlink()
            (folder / "trained").touch()
        return {"seconds": json.loads(clock.read_text()), "steps": config["trainer"]["max_steps"]}


def _filed(name: str) -> str:
    return name.replace(", ", "_").replace(" ", "_")


def _used(result: dict[str, Any]) -> dict[str, Any]:
    """A training's result, reduced to the columns used by claims or pages."""
    wanted = {
        (place.partition("/")[2], claim.measure)
        for claim in CLAIMS
        for place in (claim.better, claim.worse)
    }
    scores = {
        test: {
            name: values
            for name, values in columns.items()
            if (test, name) in wanted or name.startswith(("slope_", "step"))
        }
        for test, columns in result["scores"].items()
    }
    return {**result, "scores": {test: columns for test, columns in scores.items() if columns}}


def _short(value: Any) -> Any:
    """Round numbers in nested values to four digits."""
    if isinstance(value, dict):
        return {key: _short(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_short(inner) for inner in value]
    return float(f"{value:.4g}") if isinstance(value, float) else value


@contextmanager
def locked(path: Path) -> Iterator[bool]:
    """Context that tells whether the lock was acquired; the kernel releases it whenever the process
    ends.
    """
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True


def scores(config: dict[str, Any], folder: Path, tests: Sequence[str]) -> Scores:
    """Scores of a run's last weights on every test; for a staged network, also after each of its
    stages.
    """
    checkpoint = folder / "run" / "checkpoints" / "last.ckpt"
    found: Scores = {}
    for test in tests:
        module = RegistrationModule.load_from_checkpoint(checkpoint).eval()
        pairs = test_pairs(config, "crops" if test == "refined" else test)
        if test == "refined":
            refinement = Optimization(
                [FitStage("network", 20, lr=1e-4)], module.loss, optional=True
            )

            def refined(
                pair: Pair, net: RegistrationModule = module, how: Optimization = refinement
            ) -> Transform:
                return optimize(
                    pair, net(pair.fixed, pair.moving).transform, how, network=net.composer
                ).transform

            found[test] = scored(pairs, refined)
            continue
        if isinstance(module.composer, Staged):
            for stage in range(len(module.composer.networks)):
                module.composer.active = stage + 1
                found[f"{test}@{stage}"] = scored(
                    pairs, lambda pair, net=module: net(pair.fixed, pair.moving).transform
                )
            found[test] = found[f"{test}@{len(module.composer.networks) - 1}"]
        else:
            found[test] = scored(
                pairs, lambda pair, net=module: net(pair.fixed, pair.moving).transform
            )
    return found


def test_pairs(config: dict[str, Any], test: str) -> list[Pair]:
    """Pairs of a test, identical for all trainings on the same data."""
    data = config["data"] | {
        "max_validation_pairs": None,
        "synthetic_validation": 100 if test == "synthetic" else 0,
    }
    data["preprocessing"] = dict(data["preprocessing"])
    if data["dataset"]["name"] == "phantom":
        data["dataset"] = data["dataset"] | {"subjects": 1, "validation": 40}
    else:
        data["limit"] = 2
    method = config["method"]
    if method["sampling"]["name"] != "synthetic":
        method = method | {
            "sampling": {"name": "groups" if test in ("phantom", "subjects") else "inter_subject"}
        }
    source = build_data(config | {"data": data, "method": method, "seed": 1})
    source.setup()
    if test == "synthetic":
        return [pair for pair in source.validation_pairs if pair.truth is not None][:100]
    if test != "subjects":
        return list(source.validation_pairs)
    chosen = source.validation_pairs
    return [
        replace(
            a,
            moving=b.fixed,
            moving_mask=b.fixed_mask,
            moving_labels=b.fixed_labels,
            fixed_landmarks=None,
            moving_landmarks=None,
        )
        for a, b in zip(chosen, [*chosen[1:], chosen[0]], strict=True)
    ]


@torch.no_grad()
def scored(
    pairs: Sequence[Pair], transform_of: Callable[[Pair], Transform]
) -> dict[str, list[float]]:
    """Measure every pair, as far as its data allow.

    Columns: ``tre, tre95, field`` (mm), ``slope_*`` of predicted against true motion, ``dice``,
    ``ncc``, ``folding`` (%), ``sd_j``, and ``step``, the smallest distance of neighbouring
    coordinates of integrated gradients.
    """
    columns: dict[str, list[float]] = {}

    def note(name: str, value: float) -> None:
        columns.setdefault(name, []).append(float(value))

    for pair in pairs:
        transform = transform_of(pair)
        case = evaluate(pair, transform)
        mask = None if pair.fixed_mask is None else pair.fixed_mask.tensor
        note("folding", 100 * case.folding)
        note("sd_j", case.sd_j or 0.0)
        note(
            "ncc",
            ncc(pair.fixed.tensor, pair.moving.warped(transform, pair.fixed.grid).tensor, mask),
        )
        if (
            case.tre_after is not None
            and case.motion_true is not None
            and case.motion_predicted is not None
        ):
            note("tre", case.tre_after.mean())
            note("tre95", case.tre_after.quantile(0.95))
            for axis, way in enumerate(("right", "front", "top")):
                true, predicted = (
                    case.motion_true[:, axis].numpy(),
                    case.motion_predicted[:, axis].numpy(),
                )
                note(f"slope_{way}", np.polyfit(true, predicted, 1)[0])
        if case.dice_after:
            note("dice", float(np.nanmean(list(case.dice_after.values()))))
        if case.field_after is not None:
            note("field", case.field_after)
        for part in parts(transform):
            if isinstance(part, IntegratedGradient):
                note("step", part.steps.min())
    return columns


@dataclass(frozen=True)
class Finding:
    """Outcome of a claim; ``effect``: mean advantage of the better side over cases and seeds, in
    the measure's unit.
    """

    claim: Claim
    budget: str
    better: float
    worse: float
    effect: float
    low: float
    high: float
    seeds: tuple[float, ...]
    cases: int
    seconds: tuple[float, float]
    verdict: str

    def row(self) -> str:
        unit = UNITS[self.claim.measure]
        digits = 3 if self.claim.measure in ("dice", "ncc", "sd_j") else 2
        shown = f"{self.better:.{digits}f} against {self.worse:.{digits}f} {unit}".strip()
        interval = f"{self.effect:+.{digits}f} ({self.low:+.{digits}f} to {self.high:+.{digits}f})"
        ratio, seeds = f"{self.seconds[0] / self.seconds[1]:.2f}", len(self.seeds)
        cells = (
            self.claim.text,
            self.claim.paper,
            self.budget,
            shown,
            interval,
            seeds,
            ratio,
            self.verdict,
        )
        return f"| {' | '.join(map(str, cells))} |"


HEADER = (
    "| claim | paper | equal | here | better by (95 % interval) | seeds | seconds, ratio | verdict"
    " |\n| --- | --- | --- | --- | --- | --- | --- | --- |"
)


def judged(
    claim: Claim, budget: str, sides: Sequence[tuple[dict[str, Any], dict[str, Any]]]
) -> Finding:
    """Judge a claim from its finished trainings, a pair of results per seed."""
    sign = -1.0 if claim.measure in LARGER_IS_BETTER else 1.0
    better, worse = (
        np.array([side[k]["scores"][place.partition("/")[2]][claim.measure] for side in sides])
        for k, place in enumerate((claim.better, claim.worse))
    )
    difference = sign * (worse - better)
    per_case = difference.mean(0)
    if np.ptp(per_case) == 0:
        low = high = float(per_case[0])
    else:
        interval = stats.bootstrap(
            (per_case,), np.mean, method="BCa", random_state=0
        ).confidence_interval
        low, high = float(interval.low), float(interval.high)
    seeds = difference.mean(1)
    enough = len(seeds) >= SEEDS
    holds, fails = (
        enough and low > 0 and bool((seeds > 0).all()),
        enough and high < 0 and bool((seeds < 0).all()),
    )
    verdict = "holds" if holds else "does not hold" if fails else "undecided"
    seconds = tuple(statistics.mean(side[k]["seconds"] for side in sides) for k in (0, 1))
    return Finding(
        claim, budget, float(better.mean()), float(worse.mean()), float(per_case.mean()), low, high,
        tuple(float(s) for s in seeds),
        difference.shape[1], (seconds[0], seconds[1]), verdict,
    )  # fmt: skip


def findings(
    work: Work, claims: Sequence[Claim], seeds: Sequence[int], until: float, only_read: bool
) -> Iterator[Finding]:
    """Train the missing sides, claim by claim, and judge each claim from the seeds for which both
    sides are finished.
    """
    for claim in claims:
        names = [place.partition("/")[0] for place in (claim.better, claim.worse)]
        equal = [
            tuple(_result(work, name, seed, 1.0, until, only_read) for name in names)
            for seed in seeds
        ]
        done = [(a, b) for a, b in equal if a is not None and b is not None]
        if done:
            yield judged(claim, "steps", done)
        if not claim.seconds or not done:
            continue
        ratio = statistics.mean(a["seconds"] for a, _ in done) / statistics.mean(
            b["seconds"] for _, b in done
        )
        if 0.9 < ratio < 1.1:
            yield judged(claim, "seconds", done)
            continue
        factors = (max(round(1 / ratio, 1), 1.0), max(round(ratio, 1), 1.0))
        equal = [
            tuple(
                _result(work, n, seed, f, until, only_read)
                for n, f in zip(names, factors, strict=True)
            )
            for seed in seeds
        ]
        done = [(a, b) for a, b in equal if a is not None and b is not None]
        if done:
            yield judged(claim, "seconds", done)


def _result(
    work: Work, name: str, seed: int, factor: float, until: float, only_read: bool
) -> dict[str, Any] | None:
    if not only_read and time.monotonic() < until:
        found = work.result(name, seed, factor)
        print(
            f"{name} x{factor:g}, seed {seed}:"
            f" {'another process is at it' if found is None else 'done'}",
            flush=True,
        )
        return found
    return work.known(name, seed, factor)


CURVES = {
    "560 steps": "",
    "levels with fields of their own": ", own fields",
    "1,400 steps": ", long",
    "the paper's SGD": ", SGD",
}


def curves(work: Work, seeds: Sequence[int]) -> Figure:
    """Figure of the training error on synthetic pairs, each used once, for growing and whole
    networks.

    Curves are moving means over 21 logged values: of each seed (thin), and their mean over all
    seeds (thick).
    """
    figure = Figure(figsize=(11, 2.9), layout="constrained")
    for axes, (title, suffix) in zip(figure.subplots(1, len(CURVES)), CURVES.items(), strict=True):
        whole = "conventional" if suffix == ", own fields" else f"conventional{suffix}"
        for name, colour in ((f"progressive{suffix}", "C1"), (whole, "C0")):
            files = [work.folder(name, seed) / "run" / "metrics.csv" for seed in seeds]
            found = [
                series(list(csv.DictReader(file.open())), "train/loss")
                for file in files
                if file.exists()
            ]
            smooth = [
                (steps, np.convolve(np.pad(values, 10, "edge"), np.full(21, 1 / 21), "valid"))
                for steps, values in found
            ]
            for steps, values in smooth:
                axes.plot(steps, values, color=colour, lw=0.6, alpha=0.5)
            if smooth:
                common = smooth[0][0]
                mean = np.mean(
                    [np.interp(common, steps, values) for steps, values in smooth], axis=0
                )
                axes.plot(common, mean, color=colour, lw=1.8, label=name.partition(",")[0])
        axes.set(title=title, xlabel="step")
        axes.set_ylabel(
            "training loss (field error)" if axes.get_subplotspec().is_first_col() else ""
        )
        if axes.lines:
            axes.legend(frameon=False, fontsize="small")
    return figure


def main() -> None:
    """Parse the command line, train what is missing, print."""
    groups = list(dict.fromkeys(claim.group for claim in CLAIMS))
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--claims", nargs="+", default=groups, choices=groups)
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])
    parser.add_argument(
        "--root",
        help="folder of the hippocampus crops; without it the claims of Li & Fan are left out",
    )
    parser.add_argument("--runs", type=Path, default=Path("runs/claims"))
    parser.add_argument(
        "--minutes",
        type=float,
        default=float("inf"),
        help="begin no training after this number of minutes",
    )
    parser.add_argument(
        "--full", action="store_true", help="the papers' sizes and numbers of steps"
    )
    parser.add_argument("--table", action="store_true", help="train nothing, print what is there")
    parser.add_argument(
        "--curves", type=Path, help="picture of the training losses of growing and whole networks"
    )
    parser.add_argument(
        "--json", type=Path, help="scores and findings so far; read first, then written"
    )
    arguments = parser.parse_args()
    quieten()
    torch.set_num_threads(1)
    kept = (
        json.loads(arguments.json.read_text())["trainings"]
        if arguments.json and arguments.json.exists()
        else {}
    )
    work = Work(
        arguments.runs / ("full" if arguments.full else "small"),
        arguments.root,
        arguments.full,
        kept,
    )
    claims = [
        claim
        for claim in CLAIMS
        if claim.group in arguments.claims and (arguments.root or claim.group != "lifan")
    ]
    until = time.monotonic() + 60 * arguments.minutes
    found = list(findings(work, claims, arguments.seeds, until, arguments.table))
    print(HEADER)
    for finding in found:
        print(finding.row())
    least = [min(step) for step in work.columns("both", arguments.seeds, "phantom", "step")]
    if least:
        print(
            "\nIntegrated gradients: the smallest step between neighbouring coordinates is"
            f" {min(least):.3f} voxels (below 0 they cross)."
        )
    if arguments.curves:
        curves(work, arguments.seeds).savefig(arguments.curves, dpi=110)
    if arguments.json:
        told = {
            "findings": [_short(asdict(finding)) for finding in found],
            "trainings": work.finished(),
        }
        lines = [
            f"{json.dumps(key)}: {json.dumps(_short(value))}"
            for key, value in told["trainings"].items()
        ]
        text = json.dumps(told["findings"], indent=1)
        arguments.json.write_text(
            '{"findings": ' + text + ',\n"trainings": {\n' + ",\n".join(lines) + "\n}}\n"
        )


if __name__ == "__main__":
    main()
