"""Run of a study's remaining jobs, some at the same time; several machines may share its folder."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Annotated

from lightning_reg.batch.studies.definition import Definition, Job
from lightning_reg.batch.studies.jobs import State, Training, state_of
from lightning_reg.io.worklist import Worklist
from lightning_reg.registry import Range
from lightning_reg.training.run_folder import FAILURE, SUMMARY

POLL = 0.5
"""Seconds between checks of the running jobs."""
ATTEMPTS = 2
"""Number of starts of a job in one run of a study: a killed process is resumed once."""
Tell = Callable[[Job, State], None]


class StudyFolder(Worklist):
    """Jobs of a study. Every job has the folder of its run, which is finished when it has a
    summary, see :func:`~lightning_reg.batch.studies.jobs.state_of`.
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
