"""Run of a study's remaining jobs, some at the same time; several machines may share its folder."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from filelock import FileLock

from lightning_reg.batch.studies.definition import Definition, Job
from lightning_reg.batch.studies.jobs import State, Training, state_of
from lightning_reg.io.folders import refuse_links, write_whole
from lightning_reg.io.reading import read_json
from lightning_reg.registry import DataError

STUDY = "study.json"
POLL = 0.5
"""Seconds between checks of the running jobs."""
ATTEMPTS = 2
"""Number of starts of a job in one run of a study: a killed process is resumed once."""
Tell = Callable[[Job, State], None]


def begin(folder: Path, definition: Definition) -> list[Job]:
    """Record the study in its folder; returns the study's jobs.

    An existing folder must belong to the same study, to which methods, seeds or data may have been
    added.

    Raises:
        DataError: the folder belongs to another study, or has other content or symbolic links.
    """
    jobs = definition.jobs()
    overrides = {job.name: list(job.overrides) for job in jobs}
    search = None if definition.search is None else vars(definition.search)
    if (
        folder.exists()
        and not (folder / STUDY).exists()
        and any(p for p in folder.iterdir() if not p.name.startswith("."))
    ):
        raise DataError(f"{folder} exists and holds no study; choose another folder (--out).")
    refuse_links(folder, (STUDY, ".study.lock", *overrides))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / ".study.lock", timeout=60):
            stored: dict[str, Any] = (
                stored_study(folder)
                if (folder / STUDY).exists()
                else {"jobs": {}, "search": search}
            )
            for name, words in overrides.items():
                there = stored["jobs"].get(name)
                if there is not None and there["overrides"] != words:
                    new, old = (
                        sorted(set(a) - set(b))
                        for a, b in ((words, there["overrides"]), (there["overrides"], words))
                    )
                    raise DataError(
                        f"{folder} holds another study: {name} was made with"
                        f" {' '.join(old) or 'less'}, and is to be made with"
                        f" {' '.join(new) or 'less'}; choose another folder (--out), or give the"
                        " method another name."
                    )
            ours, theirs = (
                json.dumps(None if one is None else {**one, "trials": 0})
                for one in (search, stored["search"])
            )
            if ours != theirs:
                raise DataError(
                    f"{folder} holds a search in another space; choose another folder (--out)."
                )
            described = {job.name: {**vars(job), "overrides": list(job.overrides)} for job in jobs}
            record = {"jobs": {**stored["jobs"], **described}, "search": search}
            write_whole(folder / STUDY, (json.dumps(record, indent=1) + "\n").encode())
    except OSError as cause:
        raise DataError(
            f"{folder} cannot be written ({cause.strerror or cause}); choose another folder."
        ) from cause
    return jobs


def stored_study(folder: Path) -> dict[str, Any]:
    """Read ``study.json`` of a study's folder.

    Raises:
        DataError: it does not exist, or is damaged.
    """
    try:
        found = read_json(folder / STUDY, "study into another folder")
    except FileNotFoundError as cause:
        raise DataError(
            f"{folder} holds no study (no {STUDY}); give the folder that lightning-reg study wrote."
        ) from cause
    if (
        not isinstance(found, dict)
        or not isinstance(found.get("jobs"), dict)
        or "search" not in found
    ):
        raise DataError(
            f"{folder / STUDY} cannot be read (it has no jobs or search); study into another"
            " folder."
        )
    return {"jobs": found["jobs"], "search": found["search"]}


def run_jobs(
    jobs: Sequence[Job],
    folder: Path,
    at_once: int = 1,
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
        at_once: number of jobs that run at the same time on this machine; they share the cores.
        retry: repeat jobs that failed in an earlier run.
        tell: called when a job begins (``waiting``) and ends.
        wait: for jobs of other processes.

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
            training.process.wait()
            training.ended()
        raise
    return states
