"""Several processes that train together: the rank of a process, and decisions of the first process
for all.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning_utilities.core.rank_zero import rank_zero_only

from lightning_reg.io.folders import write_whole
from lightning_reg.io.reading import read_json
from lightning_reg.registry import DataError, TrainingError
from lightning_reg.training.run_folder import DECIDED

PATIENCE = 1800.0
"""Seconds for which the other processes wait for the first one to read the data."""


def is_first() -> bool:
    """Return whether this is the first process, which alone writes to the run's folder and prints
    messages.
    """
    rank = getattr(rank_zero_only, "rank", None)  # set when Lightning is imported
    if rank is None:
        rank = next(
            (
                os.environ[key]
                for key in ("RANK", "LOCAL_RANK", "SLURM_PROCID")
                if key in os.environ
            ),
            0,
        )
    return int(rank) == 0


def is_started_from_outside() -> bool:
    """Return whether this process was started by torchrun or SLURM, together with others."""
    return "TORCHELASTIC_RUN_ID" in os.environ or int(os.environ.get("SLURM_NTASKS", "1")) > 1


def launch() -> str:
    """Return an identifier that is common to all processes of one start, and different for every
    start.
    """
    if is_started_from_outside():
        keys = (
            "TORCHELASTIC_RUN_ID",
            "TORCHELASTIC_RESTART_COUNT",
            "MASTER_PORT",
            "SLURM_JOB_ID",
            "SLURM_RESTART_COUNT",
            "SLURM_STEP_ID",
        )
        return " ".join(os.environ.get(key, "-") for key in keys)
    return str(os.getpid() if is_first() else os.getppid())


def decide(folder: Path, config: Mapping[str, Any], resume: Path | None) -> None:
    """Write the final configuration (after budget and initialisation) and the checkpoint to resume
    from, for the other processes.
    """
    decided = {
        "launch": launch(),
        "config": config,
        "resume": None if resume is None else str(resume),
    }
    write_whole(folder / DECIDED, json.dumps(decided).encode())


def decided(folder: Path, patience: float = PATIENCE) -> tuple[dict[str, Any], Path | None]:
    """Wait for :func:`decide` of the first process and return its configuration and checkpoint.

    Raises:
        TrainingError: nothing was written in time.
    """
    until = time.monotonic() + patience
    while time.monotonic() < until:
        try:
            found = read_json(folder / DECIDED)
            if found["launch"] == launch():
                return found["config"], None if found["resume"] is None else Path(found["resume"])
        except (OSError, DataError, KeyError, TypeError):
            pass
        time.sleep(0.1)
    raise TrainingError(
        f"The first process of this training has not written {folder / DECIDED}; do all processes"
        " share that folder?"
    )
