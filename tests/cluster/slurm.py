"""Stand-in for ``sbatch``, ``srun`` and ``scontrol``: run under one of these names, this file
executes jobs locally, one at a time.

``sbatch`` refuses options in a script's header that SLURM does not know, and runs the script for
every task of its array, and again after a call of ``scontrol requeue``. ``srun`` starts the tasks
with SLURM's variables. If ``STANDIN_SIGNAL`` is a pattern of a file, SIGUSR1 is sent to the tasks
of the first run (in an array: of task 1) as soon as the file exists, as SLURM does before the end
of a job.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

KNOWN = {
    "job-name", "nodes", "ntasks-per-node", "gpus-per-node", "gpus", "cpus-per-task", "time",
    "signal", "requeue", "open-mode", "array",
}  # fmt: skip


def sbatch(script: Path, *arguments: str) -> int:
    options = dict(re.findall(r"^#SBATCH --([\w-]+)(?:=(\S+))?", script.read_text(), re.M))
    unknown = set(options) - KNOWN
    if unknown:
        sys.exit(f"sbatch: unrecognized option '--{unknown.pop()}'")
    nodes, tasks = int(options.get("nodes", 1)), int(options.get("ntasks-per-node", 1))
    job = os.environ.get("STANDIN_JOB", "1000")
    common = {
        "SLURM_JOB_NAME": options["job-name"], "SLURM_NNODES": str(nodes),
        "SLURM_NTASKS": str(nodes * tasks),
        "SLURM_NTASKS_PER_NODE": str(tasks), "SLURM_NODELIST": "localhost",
        "SLURM_JOB_NODELIST": "localhost",
    }  # fmt: skip
    first, _, last = options.get("array", "").partition("-")
    array = list(range(int(first), int(last) + 1)) if first else [None]
    codes = []
    for number, task in enumerate(array):
        own = {"SLURM_JOB_ID": str(int(job) + number)}
        if task is not None:
            own |= {
                "SLURM_ARRAY_JOB_ID": job,
                "SLURM_ARRAY_TASK_ID": str(task),
                "SLURM_ARRAY_TASK_COUNT": str(len(array)),
            }
        for start in range(5):
            environment = os.environ | common | own | {"SLURM_RESTART_COUNT": str(start)}
            code = subprocess.run(
                ["bash", str(script), *arguments], env=environment, check=False
            ).returncode
            name = job if task is None else f"{job}_{task}"
            ticket = Path(f"requeued-{name}")
            if not ticket.exists():
                break
            ticket.rename(f"was-requeued-{name}-{start}")
        codes.append(code)
    return max(codes)


def srun(*command: str) -> int:
    tasks = int(os.environ["SLURM_NTASKS"])
    first = (
        os.environ["SLURM_RESTART_COUNT"] == "0"
        and os.environ.get("SLURM_ARRAY_TASK_ID", "1") == "1"
    )
    signalled = os.environ.get("STANDIN_SIGNAL") if first else None
    processes = []
    for number in range(tasks):
        own = {
            "SLURM_PROCID": str(number),
            "SLURM_LOCALID": str(number),
            "SLURM_NODEID": "0",
            "SLURM_STEP_ID": "0",
        }
        processes.append(subprocess.Popen(command, env=os.environ | own))
    while any(process.poll() is None for process in processes):
        if signalled and list(Path().glob(signalled)):
            signalled = None
            for process in processes:
                process.send_signal(signal.SIGUSR1)
        time.sleep(0.02)
    return max(abs(process.returncode) for process in processes)


def scontrol(action: str, job: str) -> int:
    assert action == "requeue"
    Path(f"requeued-{job}").touch()
    return 0


if __name__ == "__main__":
    name, words = Path(sys.argv[0]).name, sys.argv[1:]
    sys.exit(
        sbatch(Path(words[0]), *words[1:])
        if name == "sbatch"
        else srun(*words)
        if name == "srun"
        else scontrol(*words)
    )
