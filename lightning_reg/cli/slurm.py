"""SLURM: a job that is told that its time is over goes back into the queue, and the same command
goes on.
"""

from __future__ import annotations

import os
import shutil
import subprocess


def requeue() -> str | None:
    """Put this job back into the queue; a sentence about it, ``None`` outside of SLURM or in a
    process that is not the first one.
    """
    job = os.environ.get("SLURM_JOB_ID")
    if job is None or os.environ.get("SLURM_PROCID", "0") != "0":
        return None
    if "SLURM_ARRAY_JOB_ID" in os.environ:
        job = f"{os.environ['SLURM_ARRAY_JOB_ID']}_{os.environ['SLURM_ARRAY_TASK_ID']}"
    if shutil.which("scontrol") is None:
        return (
            f"The job {job} cannot be put back into the queue: there is no scontrol here; submit it"
            " again."
        )
    found = subprocess.run(
        ["scontrol", "requeue", job], capture_output=True, text=True, check=False
    )
    if found.returncode:
        return (
            f"The job {job} could not be put back into the queue"
            f" ({found.stderr.strip() or 'no reason given'}); submit it again."
        )
    return f"The job {job} is back in the queue, and goes on when it starts again."
