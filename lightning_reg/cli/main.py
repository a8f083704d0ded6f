"""The command ``lightning-reg``."""

from __future__ import annotations

import os
import sys
from importlib import import_module
from typing import Any

from lightning_reg.cli.arguments import Parser
from lightning_reg.cli.failures import guarded
from lightning_reg.discovery import providers

COMMANDS = {
    "train": "train a network; options as for train.py, see lightning-reg train --help",
    "study": "train methods over data, seeds and folds, or search for settings: one table in the end",
    "prepare": "turn a data set's files, as their provider delivers them, into what training reads",
    "check": "look through data before they are trained on: one table, one verdict",
    "register": "register two images or many pairs: a transform, the warped image, metrics and a report",
    "collect": "join the results of many pairs, check that all are there, and write a page to judge them by",
    "apply": "apply a transform to an image, a label map or points",
    "evaluate": "evaluate a model on a data set, case by case, and compare it with another",
    "report": "write the HTML report of a run, a registration or an evaluation again",
    "export": "write a model's network as an ONNX file",
    "plugins": "list every installed component, describe one, check all, or start a package of your own",
    "completion": "tab completion of commands, options and values in bash or zsh",
    "models": "list trained models, describe, fetch or pack one",
}


TRAINS = "LIGHTNING_REG_TRAINS"
"""In the environment of the processes that Lightning starts beside a training; their command line lacks the word *train*."""


def main() -> None:
    """Entry: one command, guarded."""
    guarded(_main)


def _main() -> int:
    """Dispatches to ``lightning_reg.cli.<command>``, or another distribution's; each is imported when it is used."""
    if sys.argv[1:2] == ["train"] or (TRAINS in os.environ and "LOCAL_RANK" in os.environ):
        sys.argv = [sys.argv[0], *sys.argv[1 + (sys.argv[1:2] == ["train"]) :]]
        os.environ[TRAINS] = "1"
        from lightning_reg.cli.train import train

        return train()
    completing = "_ARGCOMPLETE" in os.environ
    words = os.environ.get("COMP_LINE", "").split() if completing else sys.argv
    parser = Parser(prog="lightning-reg", description="Learning-based registration of 3D medical images.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=Parser)
    known = COMMANDS | installed()
    chosen = next((word for word in words[1:] if word in known), None)
    for name, text in known.items():
        subparser = commands.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.")
        if name == chosen and name != "train":
            subparser.set_defaults(strict=True, module=command(name))
            subparser.get_default("module").add_arguments(subparser)
    if completing:
        _complete(parser, commands.choices["train"])
    arguments = parser.parse_args()
    return int(arguments.module.run(arguments))


def _complete(parser: Parser, train: Parser) -> None:
    """Answer the shell that asks for completions, and end."""
    import argcomplete

    from lightning_reg.cli.completion import overrides

    train.add_argument("overrides", nargs="*").completer = overrides  # type: ignore[attr-defined]
    argcomplete.autocomplete(parser)


def installed() -> dict[str, str]:
    """Commands of other distributions with a line of help each; nothing is imported."""
    found = providers("commands")
    return {name: f"of {' and '.join(p.origin for p in offered)}" for name, offered in sorted(found.items()) if name not in COMMANDS}


def command(name: str) -> Any:
    """A command, imported: an object with ``add_arguments(parser)`` and ``run(arguments)``.

    Raises:
        ComponentError: another distribution's that cannot be had.
    """
    if name in COMMANDS:
        return import_module(f"lightning_reg.cli.{name}")
    from lightning_reg.cli.command import Command
    from lightning_reg.discovery import build

    return build("commands", name, Command)


if __name__ == "__main__":
    main()
