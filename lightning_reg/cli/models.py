"""``lightning-reg models``: trained models, listed, described, fetched and packed."""

from __future__ import annotations

import json
import shlex
import sys
from argparse import SUPPRESS, ArgumentParser, Namespace
from dataclasses import asdict

from rich.console import Console
from rich.markdown import Markdown
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn
from rich.table import Table

from lightning_reg.cli.arguments import console
from lightning_reg.cli.signatures import add_options
from lightning_reg.configuration.folders import own_directory
from lightning_reg.models import installed, locate
from lightning_reg.models.download import cache
from lightning_reg.registry.errors import UserError


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print JSON")
    actions = parser.add_subparsers(dest="action", metavar="ACTION", help="instead of the list:")
    for name, text in (
        ("describe", "show the card of a model"),
        ("fetch", "download a model into the cache, and print its path"),
    ):
        action = actions.add_parser(name, help=text)
        add_options(action, "models.locate:locate", "model", model="name")
        action.add_argument("--json", action="store_true", default=SUPPRESS, help="print JSON")
    pack = actions.add_parser("pack", help="make an installable package of a run's model")
    add_options(
        pack, "inference.packing:pack", "run", "--out", "--name", "[--licence]", "--checkpoint",
        "--title", "--data", "--not-for", "--training", "--cite", cite="citation",
    )  # fmt: skip


def run(arguments: Namespace) -> int:
    if arguments.action == "describe":
        return _describe(arguments)
    if arguments.action == "fetch":
        print(fetched(arguments.model, console(), always=True))
        return 0
    if arguments.action == "pack":
        return _pack(arguments)
    return _list(arguments)


def _how_to_install() -> str:
    """Commands that install the model packages of a clone of this project; without a clone, where
    they are.
    """
    groups = '[project.entry-points."lightning_reg.models"]'
    files = sorted((own_directory().parent / "plugins").glob("*/pyproject.toml"))
    packages = [path.parent for path in files if groups in path.read_text(encoding="utf-8")]
    if packages:
        lines = [f"pip install {shlex.quote(str(package))}" for package in packages]
        return f"install one of this clone: {', '.join(lines)}"
    return (
        "install a package of one with pip (the folder plugins/ of the project's repository has"
        " some)"
    )


def fetched(model: str, terminal: Console, always: bool = False) -> str:
    """The model's name, or the path of an address that has been downloaded, with a progress bar
    while it lasts.

    Args:
        always: the path of every model.
    """
    if "://" not in model and not always:
        return model
    columns = BarColumn(), DownloadColumn(), TransferSpeedColumn()
    name, quiet = TextColumn("{task.description}", markup=False), not terminal.is_terminal
    with Progress(name, *columns, console=terminal, transient=True, disable=quiet) as bar:
        task = bar.add_task(model.partition("#")[0].rpartition("/")[2], total=None)
        located = locate(model, lambda done, total: bar.update(task, completed=done, total=total))
    if not located.path.is_file():
        raise UserError(f"There is no file {located.path}; correct the path.")
    return str(located.path)


def _list(arguments: Namespace) -> int:
    rows, problems = [], []
    for provider, located in installed():
        if isinstance(located, UserError):
            problems.append(str(located))
            continue
        assert located.card is not None
        names = {"name": provider.name, "qualified": provider.qualified}
        names["distribution"] = provider.origin
        rows.append({**names, "bytes": located.path.stat().st_size, **asdict(located.card)})
    fetched_files = sorted(
        str(path)
        for path in cache().glob("*/*")
        if path.is_file() and not path.name.endswith((".lock", ".part"))
    )
    if arguments.json:
        whole = {"installed": rows, "fetched": fetched_files, "problems": problems}
        print(json.dumps(whole, indent=2))
        return 1 if problems else 0
    terminal = console()
    if rows:
        table = Table("name", "what", "licence", "size", "distribution")
        for row in rows:
            size = f"{row['bytes'] / 1e6:.1f} MB"
            table.add_row(row["name"], row["title"], row["licence"], size, row["distribution"])
        terminal.print(table)
    else:
        terminal.print(
            f"No models are installed; {_how_to_install()}, or give --model a file or an address.",
            markup=False,
        )
    for path in fetched_files:
        terminal.print(f"Fetched: {path}")
    for problem in problems:
        terminal.print(problem, style="red")
    return 1 if problems else 0


def _describe(arguments: Namespace) -> int:
    located = locate(arguments.model)
    if located.card is not None:
        if arguments.json:
            print(json.dumps(asdict(located.card) | {"path": str(located.path)}, indent=2))
        else:
            console().print(Markdown(located.card.text()))
        return 0
    from lightning_reg.training.checkpoints import read_checkpoint

    checkpoint = read_checkpoint(located.path)
    stored, state = checkpoint["lightning_reg"], checkpoint["state_dict"].values()
    plain = {
        "path": str(located.path),
        "version": stored.get("version"),
        "parameters": sum(value.numel() for value in state if hasattr(value, "numel")),
        "components": stored.get("components", []),
        "preprocessing": stored["preprocessing"],
    }
    if arguments.json:
        print(json.dumps(plain, indent=2))
        return 0
    terminal = console()
    terminal.print(
        f"{located.path}: a checkpoint without a card, {plain['parameters']:,} parameters."
    )
    for one in plain["components"]:
        terminal.print(f"  {one['group']} {one['name']} of {one['distribution']} {one['version']}")
    terminal.print(f"  images: {stored['preprocessing']}")
    return 0


def _pack(arguments: Namespace) -> int:
    licence = arguments.licence
    if not licence and sys.stdin.isatty():
        licence = input(
            "Licence of the weights (SPDX, as CC-BY-4.0; the data's licence may ask for one): "
        ).strip()
    if not licence:
        raise UserError(
            "A model needs a licence, or nobody may use it: add --licence, as --licence CC-BY-4.0."
        )
    from lightning_reg.inference.packing import pack

    terminal, out = console(), arguments.out
    same = ("checkpoint", "title", "data", "not_for", "training", "name")
    settings = {name: getattr(arguments, name) for name in same}
    packed = pack(arguments.run, out, licence=licence, citation=arguments.cite, **settings)
    terminal.print(f"Wrote {out} ({packed.bytes / 1e6:.1f} MB of weights, {packed.card.weights}).")
    for name in packed.missing:
        terminal.print(
            f"The card's entry '{name}' waits to be written: {packed.path}", style="yellow"
        )
    terminal.print(
        f"Next:\n  pip install {shlex.quote(str(out))}\n  lightning-reg models describe"
        f" {packed.name}"
    )
    return 0
