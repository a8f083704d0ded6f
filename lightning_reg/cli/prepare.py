"""``lightning-reg prepare``."""

from __future__ import annotations

import shlex
from argparse import ArgumentParser, Namespace

from lightning_reg.cli.arguments import console, counting, loading
from lightning_reg.cli.failures import STOPPED
from lightning_reg.cli.signatures import add_options


def add_arguments(parser: ArgumentParser) -> None:
    add_options(
        parser, "configuration.datasets:open_configured", "dataset", "[--source]",
        "[overrides data.key=value ...]", dataset="name", source="root",
    )  # fmt: skip
    add_options(parser, "curation.prepare:prepare", "--out", "--workers")
    geometry = "data.preprocessing:Geometry"
    add_options(parser, geometry, "[--shape I J K]", "[--spacing MM ...]", "[--crop]")
    add_options(parser, "curation.prepare:Preparation", "[--lungs NAME]")


def run(arguments: Namespace) -> int:
    from lightning_reg.configuration.composition import require_option
    from lightning_reg.configuration.overrides import as_word
    from lightning_reg.registry import UserError, construct

    terminal, out = console(), arguments.out
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
        if (word := getattr(arguments, name)) is not None:
            settings[name] = None if word == "none" else word
    preparation = construct("prepare", Preparation, settings)
    try:
        with counting(terminal, "scans") as seen:
            done = prepare(data, out, preparation, arguments.workers, seen)
    except KeyboardInterrupt:
        text = f"\nStopped; the same command goes on from there. What is done is in {out}"
        terminal.print(text)
        return STOPPED
    for problem in done.problems:
        terminal.print(problem, style="red")
    splits = [row.record.split for row in done.rows]
    name = arguments.dataset if "root" in config else "prepared"
    root = as_word("data.root", str(out))
    counts = ", ".join(f"{splits.count(split)} {split}" for split in dict.fromkeys(splits))
    terminal.print(
        f"{len(done.rows)} scans ({counts}); {done.reused} of them were there already,"
        f" {len(done.problems)} could not be prepared. Next:\n  lightning-reg check"
        f" {shlex.quote(str(out))}\n  lightning-reg train data={name} {root}"
    )
    return 1 if done.problems else 0
