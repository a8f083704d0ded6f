"""Argument parser of the subcommands: it suggests, and answers mistakes with one sentence."""

from __future__ import annotations

import argparse
import math
import re
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, NoReturn

from rich.console import Console
from rich.progress import Progress
from rich.text import Text

from lightning_reg.cli.failures import refuse
from lightning_reg.registry import DataError, did_you_mean


class _Formatter(argparse.HelpFormatter):
    """Keeps the lines of the examples below the options."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return text if text.startswith("Example") else super()._fill_text(text, width, indent)


class Parser(argparse.ArgumentParser):
    """Long options in full only; an unknown one is answered with the nearest known."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs, allow_abbrev=False, formatter_class=_Formatter)

    def options(self) -> list[str]:
        return [option for action in self._actions for option in action.option_strings]

    def parse_known_args(self, *args: Any, **kwargs: Any) -> Any:
        self._given = list(args[0]) if args and args[0] is not None else sys.argv[1:]
        namespace, rest = super().parse_known_args(*args, **kwargs)
        # argparse takes positional arguments from one place of the line only
        if hasattr(namespace, "overrides"):
            namespace.overrides += [word for word in rest if re.match(r"\+?[a-z]+[.\w]*=", word)]
            rest = [word for word in rest if word not in namespace.overrides]
        self._require_known(rest)
        return namespace, rest

    def _require_known(self, words: Sequence[str]) -> None:
        unknown = next((word.partition("=")[0] for word in words if word.startswith("-")), None)
        if unknown is not None and self.get_default("strict"):
            self.error(
                f"There is no option '{unknown}'{did_you_mean(unknown, self.options())} See"
                f" {self.prog} --help."
            )

    def error(self, message: str) -> NoReturn:
        if "are required" in message:  # one that is misspelt comes first
            words = [word for word in self._given if word.startswith("--")]
            self._require_known([w for w in words if w.partition("=")[0] not in self.options()])
        if match := re.search(r"invalid choice: '([^']*)' \(choose from (.*)\)", message):
            near = did_you_mean(match[1], re.findall(r"[a-z_]+", match[2])).rstrip(".")
            message = message.replace(" (choose", f"{near} (choose")
        if not message.startswith("There is"):
            message = f"{self.prog}: {message}; see {self.prog} --help."
        refuse(message)


class Terminal(Console):
    """The terminal, which shows text as it is (rich would take ``[b]`` in a path for markup), on
    one line; a file or a pipe is taken to be 120 wide for tables.
    """

    def __init__(self) -> None:
        super().__init__(markup=False, emoji=False)
        if not self.is_terminal:
            self.width = 120

    def print(self, *objects: Any, **settings: Any) -> None:
        text = all(isinstance(one, (str, Text)) for one in objects)
        super().print(*objects, soft_wrap=text, **settings)


def console() -> Terminal:
    """The terminal of this process."""
    return Terminal()


@contextmanager
def loading() -> Iterator[None]:
    """Say on a terminal that PyTorch is being imported, which takes some seconds."""
    terminal = Console(stderr=True)
    with terminal.status("Loading PyTorch ...") if terminal.is_terminal else nullcontext():
        yield


@contextmanager
def counting(terminal: Console, items: str) -> Iterator[Callable[[int, int], None]]:
    """Show a progress bar on a terminal; gives a function of the finished number and the count."""
    with Progress(console=terminal, transient=True, disable=not terminal.is_terminal) as progress:
        task = progress.add_task(items, total=None)
        yield lambda number, count: progress.update(task, completed=number, total=count)


def require_files(*paths: str | Path | None) -> None:
    """Refuse paths that lead nowhere, before anything slow is imported; ``None``: not given."""
    for path in paths:
        if path is not None and not Path(path).expanduser().exists():
            raise DataError(f"There is no file {path}; correct the path.")


class Lines:
    """Progress where no bar can be shown (a pipe, a cluster's log): the first line, and one every
    half minute.
    """

    EVERY = 30.0

    def __init__(self, terminal: Console) -> None:
        self.terminal, self.last = terminal, -math.inf

    def __call__(self, text: str) -> None:
        if not self.terminal.is_terminal and time.monotonic() - self.last > self.EVERY:
            self.last = time.monotonic()
            self.terminal.print(text)
