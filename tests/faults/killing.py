"""Repeatedly killed runs, for comparison with an uninterrupted one."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from lightning_reg.training.callbacks.saving import Interrupted
from lightning_reg.training.checkpoints import damaged, read_checkpoint
from lightning_reg.training.run import train

STOPPED = 130
# forks a process that has imported everything and computed nothing
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["faults.killing"])


def started(config: Mapping[str, Any], folder: Path) -> Any:
    """A process that trains; what it prints is in a log beside the folder."""
    process = PROCESSES.Process(target=_train, args=(config, folder))
    process.start()
    return process


def _train(config: Mapping[str, Any], folder: Path) -> None:
    log = os.open(folder.with_suffix(".log"), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    torch.set_num_threads(1)
    try:
        train(config, folder, progress=print)
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # what comes now is for a process that is done
    except (Interrupted, KeyboardInterrupt):
        sys.exit(STOPPED)


def log_of(folder: Path) -> str:
    """The end of what a process printed."""
    path = folder.with_suffix(".log")
    return path.read_text()[-1500:] if path.exists() else ""


def uninterrupted(config: Mapping[str, Any], folder: Path) -> float:
    """Train in a process of its own; seconds."""
    begun = time.perf_counter()
    process = started(config, folder)
    process.join()
    assert process.exitcode == 0, log_of(folder)
    return time.perf_counter() - begun


def killed_until_done(
    config: Mapping[str, Any],
    folder: Path,
    seconds: float,
    rng: random.Random,
    kills: int,
    signals: tuple[int, ...] = (signal.SIGKILL,),
) -> list[str]:
    """Send the same command again and again, killed ``kills`` times at random moments; what went
    wrong.

    After each kill every checkpoint has to be whole.
    """
    wrong: list[str] = []
    for attempt in range(kills + 1):
        process, sent = started(config, folder), None
        if attempt < kills:
            process.join(rng.uniform(0.0, 1.0) * seconds)
            if process.is_alive():
                sent = rng.choice(signals)
                os.kill(process.pid, sent)
        process.join()
        # before it listened
        unborn = (
            sent == signal.SIGINT and process.exitcode == 1 and "Traceback" not in log_of(folder)
        )
        if (
            process.exitcode not in (0, STOPPED)
            and not (sent and process.exitcode == -sent)
            and not unborn
        ):
            wrong.append(
                f"attempt {attempt} after signal {sent} ended with {process.exitcode}:"
                f" {log_of(folder)}"
            )
            break
        for path in (folder / "checkpoints").glob("*.ckpt"):
            damage = damaged(path)
            if damage:
                wrong.append(f"{path.name}: {damage}")
    return wrong


def differences(whole: Path, parts: Path) -> list[str]:
    """In what two runs differ: checkpoints (weights, optimiser, schedules, loops, random state) and
    every logged value.
    """
    wrong = []
    for name in ("best.ckpt", "last.ckpt"):
        ours, theirs = (read_checkpoint(folder / "checkpoints" / name) for folder in (whole, parts))
        for state in (ours, theirs):
            state["lightning_reg_position"].pop("seconds")
        wrong += [f"{name}: {key}" for key in unlike(ours, theirs)]
    for name in ("metrics.csv", "cases.csv"):
        if (whole / name).read_text() != (parts / name).read_text():
            wrong.append(f"{name} differs")
    return wrong


def unlike(ours: Any, theirs: Any, key: str = "") -> list[str]:
    """Keys of nested values at which the two are not equal."""
    if isinstance(ours, Mapping) and isinstance(theirs, Mapping):
        return [
            found
            for k in {**ours, **theirs}
            for found in unlike(ours.get(k), theirs.get(k), f"{key}/{k}")
        ]
    if (
        isinstance(ours, (list, tuple))
        and isinstance(theirs, (list, tuple))
        and len(ours) == len(theirs)
    ):
        return [
            found
            for k, (a, b) in enumerate(zip(ours, theirs, strict=True))
            for found in unlike(a, b, f"{key}/{k}")
        ]
    if isinstance(ours, torch.Tensor) and isinstance(theirs, torch.Tensor):
        return [] if ours.shape == theirs.shape and torch.equal(ours, theirs) else [key]
    return (
        []
        if ours == theirs or (ours != ours and theirs != theirs)
        else [f"{key}: {str(ours)[:40]} and {str(theirs)[:40]}"]
    )
