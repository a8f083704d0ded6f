"""Results and seconds of `python train.py method=M data=D`: every method on the phantom, progressive on the hippocampus.

    python benchmarks/first_runs.py [--root CROPS] [--seeds 1] [--runs FOLDER]

Each is the command as it is, with its default settings; one that has been trained into the runs folder is not trained again. Seconds are
wall time with the threads that PyTorch takes here, data included. The best checkpoint counts, as in the command's own table.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path

from hydra import compose, initialize_config_dir

from lightning_reg.cli.hydra import plain, register
from lightning_reg.cli.train import quieten
from lightning_reg.discovery.conf import own_directory
from lightning_reg.training.run import run_training

QUIET = ["callbacks.progress_bar=null", "trainer.enable_progress_bar=false"]


def summary(method: str, data: str, root: str | None, seed: int, runs: Path) -> dict[str, float]:
    """Totals and seconds of one run, trained now where it has not been."""
    folder = runs / f"{method}_{data}" / f"seed_{seed}"
    if not (folder / "summary.json").exists():
        register()
        where = [f"data.root={root}"] if data != "phantom" else []
        with initialize_config_dir(str(own_directory()), version_base="1.3"):
            config = plain(compose("train", overrides=[*QUIET, f"method={method}", f"data={data}", f"seed={seed}", *where]))
        run_training(config, folder)
    found = json.loads((folder / "summary.json").read_text())
    return {**found["totals"], "seconds": found["seconds"]}


def row(method: str, data: str, found: list[dict[str, float]]) -> str:
    """A line of the table; the range over the seeds where there are several."""

    def shown(key: str, digits: int, factor: float = 1.0) -> str:
        values = [factor * totals[key] for totals in found if key in totals]
        if not values:
            return ""
        spread = f" ({min(values):.{digits}f} to {max(values):.{digits}f})" if len(values) > 1 else ""
        return f"{statistics.mean(values):.{digits}f}{spread}"

    quantities = (
        ("tre_before_mm", 1, 1.0),
        ("tre_after_mm", 2, 1.0),
        ("dice_before", 3, 1.0),
        ("dice_after", 3, 1.0),
        ("folding", 2, 100.0),
    )
    cells = [f"`method={method} data={data}`", *(shown(*quantity) for quantity in quantities), shown("seconds", 0)]
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """Parse the command line, train what is missing, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--root", help="folder of the hippocampus crops; without it their line is left out")
    parser.add_argument("--seeds", nargs="+", type=int, default=[1])
    parser.add_argument("--methods", nargs="+", default=sorted(path.stem for path in (own_directory() / "method").glob("*.yaml")))
    parser.add_argument("--runs", type=Path, default=Path("runs/first_runs"))
    arguments = parser.parse_args()
    quieten()
    work = [(method, "phantom") for method in arguments.methods]
    if arguments.root and "progressive" in arguments.methods:
        work.append(("progressive", "hippocampus"))
    print(
        "| | TRE before, mm | after | Dice before | after | folding, % | seconds |\n| --- | --- | --- | --- | --- | --- | --- |", flush=True
    )
    for method, data in work:
        found = [summary(method, data, arguments.root, seed, arguments.runs) for seed in arguments.seeds]
        print(row(method, data, found), flush=True)


if __name__ == "__main__":
    main()
