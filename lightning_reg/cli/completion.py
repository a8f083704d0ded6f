"""``lightning-reg completion``: tab completion for ``lightning-reg`` and, in bash,
``python train.py``.
"""

from __future__ import annotations

import os
import sys
from argparse import ArgumentParser, Namespace
from pathlib import Path

import argcomplete

from lightning_reg.registry import DataError

SHELLS = {"bash": ".bashrc", "zsh": ".zshrc"}
"""Shells, and the file in the home folder that each reads when it starts."""


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("shell", nargs="?", choices=tuple(SHELLS), help="default: that of $SHELL")
    parser.add_argument(
        "--install",
        action="store_true",
        help="add it to the file that the shell reads when it starts, instead of printing it",
    )


FOR_PYTHON = """
_lightning_reg_train_py() {
    case "${COMP_WORDS[1]}" in
        train.py|*/train.py)
            local COMP_LINE="lightning-reg train${COMP_LINE#*train.py}"
            local COMP_POINT=${#COMP_LINE}
            _python_argcomplete lightning-reg;;
    esac
}
complete -o bashdefault -o default -o nospace -F _lightning_reg_train_py python python3
"""
"""Bash: ``python train.py`` is completed as ``lightning-reg train``, other scripts as without this.
"""


def run(arguments: Namespace) -> int:
    shell = arguments.shell or Path(os.environ.get("SHELL", "bash")).name
    if shell not in SHELLS:
        raise DataError(f"There is no completion for {shell}; give one of {', '.join(SHELLS)}.")
    if arguments.install:
        return _install(shell)
    code = argcomplete.shellcode(["lightning-reg"], shell=shell)
    sys.stdout.write(code + (FOR_PYTHON if shell == "bash" else ""))
    return 0


def _install(shell: str) -> int:
    path = Path.home() / SHELLS[shell]
    line = f'eval "$(lightning-reg completion {shell})"'
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    if line not in text.splitlines():
        with path.open("a", encoding="utf-8") as file:
            file.write(("" if text.endswith("\n") or not text else "\n") + line + "\n")
    sys.stdout.write(
        f"{path} has the line\n  {line}\nIt counts in new shells; in this one, run the line"
        " itself.\n"
    )
    return 0
