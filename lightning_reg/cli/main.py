"""The command ``lightning-reg``."""

from __future__ import annotations

import sys
from importlib import import_module

from lightning_reg.cli.arguments import Parser
from lightning_reg.cli.failures import guarded

COMMANDS = {
    "train": "train a network; options as for train.py, see lightning-reg train --help",
    "prepare": "turn a data set's files, as their provider delivers them, into what training reads",
    "check": "look through data before they are trained on: one table, one verdict",
    "register": "register two images: a transform, the warped image, metrics and a report",
    "apply": "apply a transform to an image, a label map or points",
    "evaluate": "evaluate a model on a data set, case by case, and compare it with another",
    "report": "write the HTML report of a run, a registration or an evaluation again",
    "export": "write a model's network as an ONNX file",
    "plugins": "list every installed component, and what is wrong with those that cannot be used",
}


def main() -> None:
    """Entry: one command, guarded."""
    guarded(_main)


def _main() -> int:
    """Dispatches to ``lightning_reg.cli.<command>``: ``add_arguments(parser)`` and ``run(arguments)``, imported when used."""
    if sys.argv[1:2] == ["train"]:
        sys.argv = [sys.argv[0], *sys.argv[2:]]
        from lightning_reg.cli.train import train

        return train()
    parser = Parser(prog="lightning-reg", description="Learning-based registration of 3D medical images.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=Parser)
    chosen = next((word for word in sys.argv[1:] if word in COMMANDS), None)
    for name, text in COMMANDS.items():
        subparser = commands.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.")
        if name == chosen and name != "train":
            subparser.set_defaults(strict=True)
            import_module(f"lightning_reg.cli.{name}").add_arguments(subparser)
    arguments = parser.parse_args()
    return int(import_module(f"lightning_reg.cli.{arguments.command}").run(arguments))


if __name__ == "__main__":
    main()
