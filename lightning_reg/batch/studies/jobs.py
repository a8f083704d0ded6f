"""A training in its own process: start, stop, and result."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from lightning_reg.configuration.overrides import quoted
from lightning_reg.io.lock import is_written
from lightning_reg.io.reading import read_json
from lightning_reg.training.run_folder import SUMMARY, Failure, failure, note_failure

LOG = "log.txt"
STOPPED = 130
"""Exit code of a training that was stopped by a signal and can be resumed."""
Status = Literal["done", "failed", "stopped", "elsewhere", "waiting"]


@dataclass(frozen=True)
class State:
    """State of a run, read from its folder; ``passing``: a failure that may not occur again, see
    :class:`~lightning_reg.training.run_folder.Failure`."""

    status: Status
    message: str = ""
    passing: bool = False


def state_of(folder: Path) -> State:
    """State of a run; ``waiting``: it has not ended, and no process works on it."""
    if (folder / SUMMARY).is_file():
        return State("done")
    if is_written(folder):
        return State("elsewhere")
    told = failure(folder)
    return State("waiting") if told is None else State("failed", told.message, told.passing)


class Training:
    """A running training.

    Args:
        overrides: of the command line.
        folder: of the run; an interrupted training is resumed by the same command.
        threads: number of threads of the training; ``None``: default.
    """

    def __init__(self, overrides: Sequence[str], folder: Path, threads: int | None = None) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        environment = dict(os.environ)
        if threads is not None:
            environment.setdefault("OMP_NUM_THREADS", str(threads))
        environment.setdefault("WANDB_RUN_GROUP", folder.resolve().parent.name)
        place = f"run={quoted(str(folder.resolve()))}"
        words = [sys.executable, "-m", "lightning_reg.cli.main", "train", *overrides, place]
        self.log = (folder / LOG).open("ab")
        self.began = self.log.tell()
        self.process = subprocess.Popen(
            words, stdout=self.log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
            env=environment,
        )  # fmt: skip

    def stop(self) -> None:
        """Ask the training to save a checkpoint and end; it can be resumed."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)

    def join(self) -> None:
        """Wait until a stopped training has ended."""
        self.process.wait()
        self.ended()

    def ended(self) -> State | None:
        """Result of the training; ``None`` while it runs. A failure is recorded in the folder."""
        code = self.process.poll()
        if code is None:
            return None
        self.log.close()
        if code == 0:
            return State("done")
        if code == STOPPED or code == -signal.SIGINT:
            return State("stopped")
        if is_written(self.folder):
            return State("elsewhere")
        failed = Failure(self._killed(code) if code < 0 else self._last_words(), passing=code < 0)
        note_failure(self.folder, failed)
        return State("failed", failed.message, failed.passing)

    @staticmethod
    def _killed(code: int) -> str:
        known = {number.value: number.name for number in signal.Signals}
        name = known.get(-code, str(-code))
        hint = ", as happens where memory runs out" if name == "SIGKILL" else ""
        return f"The process was ended by {name}{hint}; send the same command again to go on."

    def _last_words(self) -> str:
        """Last paragraph of the training's output."""
        with (self.folder / LOG).open("rb") as file:
            file.seek(self.began)
            text = file.read().decode(errors="replace")
        paragraphs = [" ".join(part.split()) for part in text.split("\n\n") if part.strip()]
        silent = f"It ended with the code {self.process.returncode} and no output."
        return paragraphs[-1][-600:] if paragraphs else silent


def summary(folder: Path) -> dict[str, Any]:
    """Read ``summary.json`` of a finished run."""
    return dict(read_json(folder / SUMMARY))
