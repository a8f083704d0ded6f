"""Results and seconds of `python train.py method=M data=D`: every method on the phantom,
progressive on the hippocampus.

    python benchmarks/first_runs.py [--root CROPS] [--seeds 1] [--runs FOLDER] [--unseen]

Each run has the command's default settings; runs that are already in the runs folder are not
repeated. Seconds are wall time with PyTorch's default number of threads, including data. Results
are those of the best checkpoint, as in the command's table. ``--unseen`` also evaluates these
checkpoints on forty subjects that were not used to select them or any setting.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

import torch

from lightning_reg.cli.training import quieten
from lightning_reg.configuration.composition import compose
from lightning_reg.configuration.folders import own_directory
from lightning_reg.metrics import PairMetrics, evaluate, totals
from lightning_reg.spatial import Pair
from lightning_reg.training.building import build_data
from lightning_reg.training.module import RegistrationModule
from lightning_reg.training.run import train

QUIET = ["callbacks.progress_bar=null", "trainer.enable_progress_bar=false"]


def composed(*overrides: str) -> dict[str, Any]:
    """The configuration of `python train.py OVERRIDES`."""
    return compose(list(overrides))


def summary(method: str, data: str, root: str | None, seed: int, runs: Path) -> dict[str, float]:
    """Totals and seconds of one run; it is trained if necessary."""
    folder = runs / f"{method}_{data}" / f"seed_{seed}"
    if not (folder / "summary.json").exists():
        where = [f"data.root={root}"] if data != "phantom" else []
        train(composed(*QUIET, f"method={method}", f"data={data}", f"seed={seed}", *where), folder)
    found = json.loads((folder / "summary.json").read_text())
    return {**found["totals"], "seconds": found["seconds"]}


def row(method: str, data: str, found: list[dict[str, float]]) -> str:
    """A line of the table, with the range over the seeds if there are several."""

    def shown(key: str, digits: int, factor: float = 1.0) -> str:
        values = [factor * totals[key] for totals in found if key in totals]
        if not values:
            return ""
        spread = (
            f" ({min(values):.{digits}f} to {max(values):.{digits}f})" if len(values) > 1 else ""
        )
        return f"{statistics.mean(values):.{digits}f}{spread}"

    quantities = (
        ("tre_before_mm", 1, 1.0),
        ("tre_after_mm", 2, 1.0),
        ("dice_before", 3, 1.0),
        ("dice_after", 3, 1.0),
        ("folding", 2, 100.0),
    )
    cells = [
        f"`method={method} data={data}`",
        *(shown(*quantity) for quantity in quantities),
        shown("seconds", 0),
    ]
    return f"| {' | '.join(cells)} |"


def unseen_pairs() -> list[Pair]:
    """Forty phantoms that were not used for training, validation or the choice of settings."""
    data = build_data(composed("data.dataset.subjects=2", "data.dataset.validation=80"))
    data.setup()
    return data.validation_pairs[40:]


@torch.no_grad()
def unseen_row(name: str, checkpoint: Path, pairs: list[Pair]) -> str:
    """A line of the table of unseen subjects."""
    module = RegistrationModule.load_from_checkpoint(checkpoint).eval()
    cases: list[PairMetrics] = [
        evaluate(pair, module(pair.fixed, pair.moving).transform) for pair in pairs
    ]
    found = totals(cases)
    true = torch.cat([case.motion_true for case in cases if case.motion_true is not None])
    predicted = torch.cat(
        [case.motion_predicted for case in cases if case.motion_predicted is not None]
    )
    motion = ", ".join(
        f"{torch.corrcoef(torch.stack([true[:, k], predicted[:, k]]))[0, 1]:.2f}" for k in range(3)
    )
    return (
        f"| {name} | {found['tre_after_mm']:.2f} | {found['dice_after']:.3f} | {motion} |"
        f" {100 * found['folding']:.2f} |"
    )


def main() -> None:
    """Parse the command line, train what is missing, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument(
        "--root", help="folder of the hippocampus crops; without it their line is left out"
    )
    parser.add_argument("--seeds", nargs="+", type=int, default=[1])
    parser.add_argument(
        "--methods",
        nargs="+",
        default=sorted(path.stem for path in (own_directory() / "method").glob("*.yaml")),
    )
    parser.add_argument("--runs", type=Path, default=Path("runs/first_runs"))
    parser.add_argument(
        "--unseen",
        action="store_true",
        help="evaluate on forty more subjects, not used for any selection",
    )
    arguments = parser.parse_args()
    quieten()
    work = [(method, "phantom") for method in arguments.methods]
    if arguments.root and "progressive" in arguments.methods:
        work.append(("progressive", "hippocampus"))
    print(
        "| | TRE before, mm | after | Dice before | after | folding, % | seconds |\n| --- | --- |"
        " --- | --- | --- | --- | --- |",
        flush=True,
    )
    for method, data in work:
        found = [
            summary(method, data, arguments.root, seed, arguments.runs) for seed in arguments.seeds
        ]
        print(row(method, data, found), flush=True)
    if arguments.unseen:
        pairs = unseen_pairs()
        print(
            "\n| unseen subjects | TRE, mm | Dice | correlation of motion to the right, front, top"
            " | folding, % |\n" + 5 * "| --- " + "|"
        )
        for method in arguments.methods:
            for seed in arguments.seeds:
                checkpoint = (
                    arguments.runs
                    / f"{method}_phantom"
                    / f"seed_{seed}"
                    / "checkpoints"
                    / "best.ckpt"
                )
                print(unseen_row(f"`{method}`, {seed}", checkpoint, pairs), flush=True)


if __name__ == "__main__":
    main()
