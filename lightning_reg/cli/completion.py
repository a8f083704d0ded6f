"""``lightning-reg completion``: tab completion for ``lightning-reg`` and ``python train.py``."""

from __future__ import annotations

import os
import sys
from argparse import ArgumentParser, Namespace
from pathlib import Path

import argcomplete

from lightning_reg.discovery import DataError

SHELLS = {"bash": ".bashrc", "zsh": ".zshrc"}
"""Shells, and the file in the home folder that each reads when it starts."""


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("shell", nargs="?", choices=tuple(SHELLS), help="default: that of $SHELL")
    parser.add_argument(
        "--install", action="store_true", help="add it to the file that the shell reads when it starts, instead of printing it"
    )


def run(arguments: Namespace) -> int:
    shell = arguments.shell or Path(os.environ.get("SHELL", "bash")).name
    if shell not in SHELLS:
        raise DataError(f"There is no completion for {shell}; give one of {', '.join(SHELLS)}.")
    if arguments.install:
        return _install(shell)
    sys.stdout.write(argcomplete.shellcode(["lightning-reg"], shell=shell))
    sys.stdout.flush()
    from lightning_reg.cli.train import train

    sys.argv = ["train.py", "-sc", f"install={shell}"]  # Hydra's own, for "python train.py"
    return train()


def _install(shell: str) -> int:
    path = Path.home() / SHELLS[shell]
    line = f'eval "$(lightning-reg completion {shell})"'
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    if line not in text.splitlines():
        with path.open("a", encoding="utf-8") as file:
            file.write(("" if text.endswith("\n") or not text else "\n") + line + "\n")
    sys.stdout.write(f"{path} has the line\n  {line}\nIt counts in new shells; in this one, run the line itself.\n")
    return 0
