"""Trainings of a study in processes of their own; several machines may share its folder."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, Literal

from lightning_reg.batch.studies.definition import Definition, Job
from lightning_reg.configuration.overrides import quoted
from lightning_reg.io.lock import is_written
from lightning_reg.io.reading import read_json
from lightning_reg.io.worklist import Worklist
from lightning_reg.registry import Range
from lightning_reg.training.run_folder import FAILURE, SUMMARY, Failure, failure, note_failure

LOG = "log.txt"
STOPPED = 130
"""Exit code of a training that was stopped by a signal and can be resumed."""
Status = Literal["done", "failed", "stopped", "elsewhere", "waiting"]
POLL = 0.5
"""Seconds between checks of the running jobs."""
ATTEMPTS = 2
"""Number of starts of a job in one run of a study: a killed process is resumed once."""


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


Tell = Callable[[Job, State], None]


class StudyFolder(Worklist):
    """Jobs of a study. Every job has the folder of its run, which is finished when it has a
    summary, see :func:`state_of`.
    """

    name, item, by, items, settings = "study", "job", "study", "jobs", "search"
    free = ("method", "data", "seed", "fold", "trials")
    mark, failure = f"{{}}/{SUMMARY}", f"{{}}/{FAILURE}"


def begin(folder: Path, definition: Definition) -> list[Job]:
    """Record the study in its folder; returns the study's jobs.

    An existing folder must belong to the same study, to which methods, seeds or data may have been
    added.

    Raises:
        DataError: the folder belongs to another study, or has other content or symbolic links.
    """
    jobs = definition.jobs()
    search = None if definition.search is None else vars(definition.search)
    StudyFolder(folder).begin({job.name: vars(job) for job in jobs}, search)
    return jobs


def run_jobs(
    jobs: Sequence[Job],
    folder: Path,
    at_once: Annotated[int, Range(1, of="trainings")] = 1,
    retry: bool = False,
    tell: Tell | None = None,
    wait: bool = True,
) -> Mapping[str, State]:
    """Train the remaining jobs, each in its own process.

    A failed job is recorded, and the others continue. A job whose process is killed is started once
    more, and resumes from its last checkpoint. A job in progress in another process is left to that
    process.

    Args:
        folder: of the study, with one folder per job inside.
        at_once: number of trainings that run at the same time on this machine; they share the
            cores.
        retry: repeat failed trainings.
        tell: called when a job begins (``waiting``) and ends.
        wait: wait for trainings of other processes and machines.

    Returns:
        The state of every job, by name.

    Raises:
        KeyboardInterrupt: the study was interrupted; running trainings have saved a checkpoint.
    """
    states = {job.name: state_of(folder / job.name) for job in jobs}
    threads = (
        max(1, len(os.sched_getaffinity(0)) // at_once)
        if at_once > 1 and hasattr(os, "sched_getaffinity")
        else None
    )
    left = [
        job
        for job in jobs
        if states[job.name].status in ("waiting", "elsewhere") or states[job.name].passing
    ]
    left += [
        job for job in jobs if retry and states[job.name].status == "failed" and job not in left
    ]
    attempts = dict.fromkeys(states, 0)
    running: dict[str, tuple[Job, Training]] = {}
    try:
        while left or running:
            free = (job for job in left if state_of(folder / job.name).status != "elsewhere")
            ready = list(islice(free, at_once - len(running)))  # checks no more jobs than can start
            if left and not ready and not running and not wait:
                break
            for job in ready:
                left.remove(job)
                if state_of(folder / job.name).status == "done":  # by another process
                    states[job.name] = State("done")
                    continue
                attempts[job.name] += 1
                running[job.name] = (job, Training(job.overrides, folder / job.name, threads))
                if tell is not None:
                    tell(job, State("waiting"))
            for name, (job, training) in list(running.items()):
                state = training.ended()
                if state is None:
                    continue
                del running[name]
                states[name] = state
                again = state.status == "elsewhere" or (
                    (state.status == "stopped" or state.passing) and attempts[name] < ATTEMPTS
                )
                if again:
                    left.append(job)
                elif tell is not None:
                    tell(job, state)
            time.sleep(POLL)
    except BaseException:
        for _, training in running.values():
            training.stop()
        for _, training in running.values():
            training.join()
        raise
    return states
