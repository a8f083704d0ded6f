"""``lightning-reg prepare``."""

from __future__ import annotations

import shlex
from argparse import ArgumentParser, Namespace
from pathlib import Path


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument(
        "dataset", help="data configuration: dirlab, creatis, ..., folder, pairs, phantom"
    )
    parser.add_argument(
        "--source", help="folder with the provider's files (pairs: the CSV file); only read"
    )
    parser.add_argument("--out", required=True, help="folder for the prepared data")
    parser.add_argument(
        "--shape", nargs=3, type=int, metavar=("I", "J", "K"), help="resize to these voxels"
    )
    parser.add_argument(
        "--spacing",
        nargs="+",
        type=float,
        metavar="MM",
        help="resample to this voxel size: one number or three",
    )
    parser.add_argument(
        "--crop", choices=("lungs", "mask", "none"), help="cut to the lungs or to the mask"
    )
    parser.add_argument(
        "--lungs",
        metavar="NAME",
        help="make missing lung masks: segmented, threshold, none, or by a plugin",
    )
    parser.add_argument("--workers", type=int, default=1, help="processes (default 1)")
    parser.add_argument(
        "overrides",
        nargs="*",
        metavar="data.key=value",
        help="values of the data configuration, as data.dataset.offset=0",
    )


def run(arguments: Namespace) -> int:
    from rich.progress import Progress

    from lightning_reg.cli.arguments import console, loading, require_processes
    from lightning_reg.configuration.composition import require_option
    from lightning_reg.configuration.overrides import as_word
    from lightning_reg.registry import UserError, construct

    terminal, out = console(), Path(arguments.out)
    require_processes(arguments.workers)
    if arguments.spacing and len(arguments.spacing) not in (1, 3):
        raise UserError(f"--spacing has {len(arguments.spacing)} numbers; give one or three.")
    if arguments.spacing and arguments.shape:
        raise UserError("--spacing and --shape are both given; give one of them.")
    require_option("data", arguments.dataset)
    with loading():
        from lightning_reg.configuration.datasets import open_configured
        from lightning_reg.curation.prepare import Preparation, prepare
    data, config = open_configured(arguments.dataset, arguments.overrides, arguments.source)
    settings = dict(config["prepare"])
    if arguments.spacing:
        spacing = arguments.spacing[0] if len(arguments.spacing) == 1 else arguments.spacing
        settings |= {"spacing": spacing, "shape": None}
    if arguments.shape:
        settings |= {"shape": arguments.shape, "spacing": None}
    for name in ("crop", "lungs"):
        if getattr(arguments, name) is not None:
            settings[name] = (
                None if getattr(arguments, name) == "none" else getattr(arguments, name)
            )
    preparation = construct("prepare", Preparation, settings)
    with Progress(console=terminal, transient=True, disable=not terminal.is_terminal) as progress:
        bar = progress.add_task("scans", total=len(data.records()))
        try:
            done = prepare(
                data,
                out,
                preparation,
                arguments.workers,
                lambda number, count: progress.update(bar, completed=number, total=count),
            )
        except KeyboardInterrupt:
            progress.stop()
            terminal.print(
                f"\nStopped; the same command goes on from there. What is done is in {out}",
                soft_wrap=True,
            )
            return 130
    for problem in done.problems:
        terminal.print(problem, style="red", soft_wrap=True)
    splits = [row.record.split for row in done.rows]
    name = arguments.dataset if "root" in config else "prepared"
    root = as_word("data.root", arguments.out)
    counts = ", ".join(f"{splits.count(split)} {split}" for split in dict.fromkeys(splits))
    terminal.print(
        f"{len(done.rows)} scans ({counts}); {done.reused} of them were there already,"
        f" {len(done.problems)} could not be prepared. Next:\n  lightning-reg check"
        f" {shlex.quote(arguments.out)}\n  lightning-reg train data={name} {root}",
        soft_wrap=True,
    )
    return 1 if done.problems else 0
