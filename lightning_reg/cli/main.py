"""The command ``lightning-reg``."""

from __future__ import annotations

import os
import sys
from collections.abc import Collection, Mapping
from importlib import import_module
from typing import Any

from lightning_reg.cli import failures
from lightning_reg.cli.arguments import Parser
from lightning_reg.cli.failures import guarded
from lightning_reg.registry import providers

COMMANDS = {
    "train": "train a network; options as for train.py, see lightning-reg train --help",
    "study": "train methods over data, seeds and folds, or search for settings; write one table",
    "plan": "measure a data set and plan its training: one configuration, every value explained",
    "prepare": "prepare a public data set for training: lung masks, crop, resolution",
    "check": "check data before training: one table, one verdict",
    "register": (
        "register two images or many pairs; write transform, warped image, metrics and report"
    ),
    "collect": (
        "collect the results of many pairs, check that none is missing, write a page to judge them"
    ),
    "apply": "apply a transform to an image, a label map or points",
    "evaluate": "evaluate methods on the same pairs, case by case, and compare them",
    "report": "write the HTML report of a run, a registration or an evaluation again",
    "export": "write a model's network as an ONNX file",
    "plugins": "list installed components, describe one, check all, or start a package of your own",
    "models": "list trained models, describe, fetch or pack one",
    "completion": "tab completion of commands, options and values in bash or zsh",
}
_EXAMPLES = """\
lightning-reg train method=velocity data=folder data.root=my_scans budget=20
lightning-reg study comparison.yaml --jobs 2
lightning-reg study comparison.yaml --list
lightning-reg plan my_scans
lightning-reg train my_scans_plan/plan.yaml
lightning-reg prepare dirlab --source DIRLAB --out data/dirlab --workers 2
lightning-reg check my_scans
lightning-reg check pairs.csv --method velocity
lightning-reg register --fixed fixed.nii.gz --moving moving.nii.gz --out result
lightning-reg register --fixed fixed.nii.gz --moving moving.nii.gz --model best.ckpt\
 --refine 60 --out result
lightning-reg register --pairs pairs.csv --instance lung_ct --out cohort
lightning-reg collect cohort
lightning-reg apply --transform result/transform.h5 --points landmarks.csv --out mapped.csv
lightning-reg apply --transform result/transform.h5 --input organs.nii.gz --labels\
 --reference fixed.nii.gz --out warped.nii.gz
lightning-reg evaluate --model best.ckpt --instance bspline --data hippocampus data.root=FOLDER\
 --out compared
lightning-reg evaluate --model best.ckpt --transforms ants=ants_results --pairs pairs.csv\
 --out compared
lightning-reg report result
lightning-reg export --model best.ckpt --shape 64 64 64 --onnx network.onnx
lightning-reg plugins describe head bspline
lightning-reg plugins new my_method --head --loss
lightning-reg models
lightning-reg models describe NAME
lightning-reg completion --install
"""
EXAMPLES = {
    name: [line for line in _EXAMPLES.splitlines() if line.split()[1] == name] for name in COMMANDS
}
"""Examples at the end of each command's help."""

TRAINS = "LIGHTNING_REG_TRAINS"
"""In the environment of the processes that Lightning starts beside a training; their command line
lacks the word *train*.
"""


def main() -> None:
    """Entry: one command, guarded."""
    guarded(_main)


def _main() -> int:
    """Dispatches to ``lightning_reg.cli.<command>``, or another distribution's; each is imported
    when it is used.
    """
    if sys.argv[1:2] == ["train"] or (TRAINS in os.environ and "LOCAL_RANK" in os.environ):
        sys.argv = [sys.argv[0], *sys.argv[1 + (sys.argv[1:2] == ["train"]) :]]
        os.environ[TRAINS] = "1"
        from lightning_reg.cli.train import train

        return train()
    completing = "_ARGCOMPLETE" in os.environ
    words = os.environ.get("COMP_LINE", "").split() if completing else sys.argv
    known = COMMANDS | installed()
    parser = _parser(known, [word for word in words[1:] if word in known][:1])
    if completing:
        import argcomplete

        argcomplete.autocomplete(parser)
    arguments = parser.parse_args()
    return int(arguments.module.run(arguments))


def whole_parser() -> Parser:
    """The parser of all built-in commands with all their options, for the documentation: its
    examples are literal blocks.
    """
    parser = _parser(COMMANDS, COMMANDS)
    commands = next(a.choices for a in parser._actions if isinstance(a.choices, dict))
    for subparser in commands.values():
        subparser.epilog = subparser.epilog and subparser.epilog.replace(":\n", "::\n\n", 1)
    return parser


def _parser(known: Mapping[str, str], filled: Collection[str]) -> Parser:
    """Parser of the known commands; those to be filled are imported."""
    parser = Parser(
        prog="lightning-reg", description="Learning-based registration of 3D medical images."
    )
    commands = parser.add_subparsers(
        dest="command", required=True, metavar="COMMAND", parser_class=Parser
    )
    for name, text in known.items():
        examples = EXAMPLES.get(name, ())
        title = "Example:" if len(examples) == 1 else "Examples:"
        subparser = commands.add_parser(
            name,
            help=text,
            description=f"{text[0].upper()}{text[1:]}.",
            epilog="\n  ".join([title, *examples]) if examples else None,
        )
        if name == "train" and name in filled:
            from lightning_reg.cli.options import overrides

            keys = subparser.add_argument("overrides", nargs="*", metavar="key=value")
            keys.completer = overrides  # type: ignore[attr-defined]
        elif name in filled:
            subparser.set_defaults(strict=True, module=command(name))
            subparser.get_default("module").add_arguments(subparser)
            failures.options = frozenset(subparser._option_string_actions)
    return parser


def installed() -> dict[str, str]:
    """Commands of other distributions with a line of help each; nothing is imported."""
    return {
        name: f"of {' and '.join(provider.origin for provider in offered)}"
        for name, offered in sorted(providers("commands").items())
        if name not in COMMANDS
    }


def command(name: str) -> Any:
    """A command, imported: an object with ``add_arguments(parser)`` and ``run(arguments)``.

    Raises:
        ComponentError: another distribution's that cannot be had.
    """
    if name in COMMANDS:
        return import_module(f"lightning_reg.cli.{name}")
    from lightning_reg.cli.command import Command
    from lightning_reg.registry import build

    return build("commands", name, Command)


if __name__ == "__main__":
    main()
