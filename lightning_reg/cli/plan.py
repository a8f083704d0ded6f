"""``lightning-reg plan``, and trainings that begin with a plan."""

from __future__ import annotations

import shlex
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightning_reg.cli.arguments import console, loading, require_files
from lightning_reg.cli.failures import in_place
from lightning_reg.cli.signatures import add_options, path

FILE = "plan.yaml"
AUTO = "method=auto"


def add_arguments(parser: ArgumentParser) -> None:
    plan = "planning.plan:plan"
    add_options(
        parser, "configuration.datasets:open_configured", "data DIR|TABLE", "[--as DATASET]",
        data="root", **{"as": "name"},
    )  # fmt: skip
    add_options(
        parser,
        plan,
        "[overrides key=value ...]",
        "--minutes",
        "--memory GIB",
        "--pairs N",
        "--workers",
    )
    parser.add_argument("--out", type=path, help="folder for the plan (default: DATA_plan)")
    add_options(parser, "planning.plan:write_plan", "--overwrite")


def run(arguments: Namespace) -> int:
    from lightning_reg.cli.check import kind_of
    from lightning_reg.configuration.composition import require_option
    from lightning_reg.io.folders import refuse_existing

    require_files(arguments.data)
    source = path(arguments.data)
    out = arguments.out or Path(f"{source.resolve().stem}_plan")
    refuse_existing(out, arguments.overwrite, by="plan")
    name = arguments.name or kind_of(source)
    require_option("data", name)
    settings = {key: getattr(arguments, key) for key in ("minutes", "memory", "pairs", "workers")}
    _write(name, str(source), arguments.overrides, out, arguments.overwrite, **settings)
    console().print(f"Train:\n  lightning-reg train {shlex.quote(str(out / FILE))}")
    return 0


def _write(
    name: str,
    root: str | None,
    overrides: Sequence[str],
    out: Path,
    overwrite: bool = False,
    **settings: Any,
) -> None:
    """Plan the training on a data configuration, print its decisions and write it."""
    from rich.table import Table

    from lightning_reg.configuration.datasets import open_configured
    from lightning_reg.configuration.overrides import quoted

    with loading():
        from lightning_reg.planning import plan, write_plan
    terminal = console()
    of_data = [word for word in overrides if word.startswith("data.")]
    data, _ = open_configured(name, of_data, root)
    words = [f"data={name}", *([] if root is None else [f"data.root={quoted(root)}"]), *overrides]
    made = plan(data, words, progress=lambda line: terminal.print(in_place(line)), **settings)
    table = Table("", "decision", box=None, padding=(0, 2, 0, 0))
    for decision in made.decisions:
        table.add_row(decision.subject, decision.reason)
    terminal.print(table)
    write_plan(made, out, overwrite)
    terminal.print(f"Wrote {out}; {out / 'plan.html'} explains the plan.")


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
        if key == "data":
            file = path(value) / FILE
        elif word.endswith(".yaml") and not equals:
            file = path(word)
        else:
            continue
        if not file.is_file():
            continue
        stored = ["--config-path", str(file.parent), "--config-name", file.stem]
        return [*stored, *(other for other in words if other != word)]
    return list(words)


def _of_auto(words: Sequence[str]) -> list[str]:
    """Plan the data of a command line beside the run's folder, unless the plan is there already.

    Raises:
        UserError: the plan that is there is of another folder.
    """
    from lightning_reg.registry import UserError
    from lightning_reg.training.run_folder import read_settings

    given = dict(word.partition("=")[::2] for word in words if "=" in word)
    name = given.get("data", "phantom")
    run = given.get("run") or f"runs/auto_{name}/{time.strftime('%Y-%m-%d_%H-%M-%S')}"
    folder = path(f"{run}_plan" if "/" in run else f"runs/{run}_plan")
    if not (folder / FILE).is_file():
        values = [word for word in words if word.partition("=")[0] not in ("data", "run", "budget")]
        settings: dict[str, Any] = {"minutes": float(given["budget"])} if "budget" in given else {}
        _write(name, None, values, folder, **settings)
    root = read_settings(folder / FILE)["data"].get("root")
    if "data.root" in given and str(root) != given["data.root"]:
        raise UserError(f"{folder} has the plan of {root}; give this run another name, run=NAME.")
    planned = ("data=", "data.root=", "run=")
    others = [word for word in words if not word.startswith(planned)]
    return ["--config-path", str(folder), "--config-name", Path(FILE).stem, f"run={run}", *others]
