"""``lightning-reg plan``, and trainings that begin with a plan."""

from __future__ import annotations

import shlex
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning_reg.cli.failures import in_place

if TYPE_CHECKING:
    from lightning_reg.planning import Plan

FILE = "plan.yaml"
AUTO = "method=auto"


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument(
        "data", metavar="DIR | TABLE", help="folder of scans, prepared data, or a table of pairs"
    )
    parser.add_argument(
        "--as",
        dest="name",
        metavar="DATASET",
        help="read DATA as this data configuration (raw files: dirlab, acdc, ...)",
    )
    parser.add_argument("--out", help="folder for the plan (default: DATA_plan)")
    parser.add_argument(
        "--minutes", type=float, default=60.0, help="duration of the training (default 60)"
    )
    parser.add_argument(
        "--memory",
        type=float,
        metavar="GIB",
        help="limit of a training step (default: half of the free memory)",
    )
    parser.add_argument(
        "--pairs",
        type=int,
        default=4,
        metavar="N",
        help="sample pairs that are registered to measure the motion (default 4)",
    )
    parser.add_argument("--workers", type=int, default=1, help="processes (default 1)")
    parser.add_argument("--overwrite", action="store_true", help="replace the plan in --out")
    parser.add_argument(
        "overrides", nargs="*", metavar="key=value", help="values that the plan must have"
    )


def run(arguments: Namespace) -> int:
    from lightning_reg.cli.arguments import console, require_files, require_processes
    from lightning_reg.cli.check import kind_of
    from lightning_reg.configuration.composition import require_option
    from lightning_reg.io.folders import refuse_existing
    from lightning_reg.registry import UserError

    require_files(arguments.data)
    require_processes(arguments.workers)
    for name, least in (("minutes", 0.0), ("memory", 0.0), ("pairs", 0)):
        value = getattr(arguments, name)
        if value is not None and value <= least:
            raise UserError(f"--{name} is {value}; give a number above 0.")
    source = Path(arguments.data).expanduser()
    out = Path(arguments.out or f"{source.resolve().stem}_plan").expanduser()
    refuse_existing(out, arguments.overwrite, by="plan")
    name = arguments.name or kind_of(source)
    require_option("data", name)
    terminal = console()
    made = _planned(
        name,
        str(source),
        arguments.overrides,
        lambda line: terminal.print(in_place(line), soft_wrap=True),
        minutes=arguments.minutes,
        memory=arguments.memory,
        pairs=arguments.pairs,
        workers=arguments.workers,
    )
    _print(made)
    from lightning_reg.planning import write_plan

    write_plan(made, out, arguments.overwrite)
    terminal.print(
        f"Wrote {out}: plan.html explains it. Train:\n  lightning-reg train"
        f" {shlex.quote(str(out / FILE))}",
        soft_wrap=True,
        highlight=False,
    )
    return 0


def _planned(
    name: str,
    root: str | None,
    overrides: Sequence[str],
    say: Callable[[str], None],
    **settings: Any,
) -> Plan:
    """Plan the training on a data configuration."""
    from lightning_reg.cli.arguments import loading
    from lightning_reg.configuration.composition import quoted
    from lightning_reg.configuration.datasets import open_configured

    with loading():
        from lightning_reg.planning import plan
    of_data = [word for word in overrides if word.partition("=")[0].startswith("data.")]
    data, _ = open_configured(name, of_data, root)
    words = [f"data={name}", *([] if root is None else [f"data.root={quoted(root)}"]), *overrides]
    return plan(data, words, progress=say, **settings)


def _print(made: Plan) -> None:
    """The decisions as a table."""
    from rich.table import Table

    from lightning_reg.cli.arguments import console

    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("")
    table.add_column("decision")
    for decision in made.decisions:
        table.add_row(decision.subject, decision.reason)
    console().print(table)


def as_stored(words: Sequence[str]) -> list[str]:
    """Replace a plan on the command line of a training by the configuration that it holds.

    A plan is given by its file (``my_plan/plan.yaml``), by its folder as data
    (``data=my_plan``), or made now: ``method=auto`` with any data.

    Raises:
        UserError: the plan cannot be made.
    """
    if AUTO in words:
        return _of_auto([word for word in words if word != AUTO])
    for word in words:
        key, equals, value = word.partition("=")
        path = Path(value if equals else word).expanduser()
        if equals and key == "data" and (path / FILE).is_file():
            path = path / FILE
        elif equals or path.suffix != ".yaml" or not path.is_file():
            continue
        stored = ["--config-path", str(path.parent), "--config-name", path.stem]
        return [*stored, *(other for other in words if other != word)]
    return list(words)


def _of_auto(words: list[str]) -> list[str]:
    """Plan the data of a command line beside the run's folder, unless the plan is there already."""
    import time

    from lightning_reg.cli.arguments import console

    given = dict(word.partition("=")[::2] for word in words if "=" in word)
    name = given.get("data", "phantom")
    run = given.get("run") or f"runs/auto_{name}/{time.strftime('%Y-%m-%d_%H-%M-%S')}"
    folder = Path(f"{run}_plan" if "/" in run else f"runs/{run}_plan").expanduser()
    if not (folder / FILE).is_file():
        terminal = console()
        kept = [word for word in words if word.partition("=")[0] not in ("data", "run", "budget")]
        minutes = float(given.get("budget") or 60)
        made = _planned(
            name,
            None,
            kept,
            lambda line: terminal.print(in_place(line), soft_wrap=True),
            minutes=minutes,
        )
        _print(made)
        from lightning_reg.planning import write_plan

        write_plan(made, folder)
        terminal.print(f"{folder}/plan.html explains the plan.", soft_wrap=True, highlight=False)
    others = [w for w in words if not w.startswith(("data=", "data.root=", "run=", "budget="))]
    return ["--config-path", str(folder), "--config-name", "plan", f"run={run}", *others]
