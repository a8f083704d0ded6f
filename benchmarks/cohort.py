"""Reliability and speed of a cohort of 10,000 pairs, 1 % of them broken, with two processes that
are killed repeatedly.

    python benchmarks/cohort.py --root FOLDER [--pairs 10000] [--kills 12] [--single 10]

FOLDER receives the images (once), the table and the results of this run. Two processes share the
table (``--shard 1/2``, ``2/2``). After random times one of them is killed (SIGKILL) and started
again, ``--kills`` times in total. After each kill the modification times of all results are
compared, to count pairs that were written twice. Then ``lightning-reg collect`` joins the results.
Prints the counts, pairs per minute, the memory of each process in the second and the last tenth of
its longest uninterrupted run, and the time per pair relative to separate calls of
``lightning-reg register``. One thread per process.
"""

from __future__ import annotations

import argparse
import csv
import os
import random
import shutil
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path

import nibabel as nib
import numpy as np
import torch
from scipy.ndimage import gaussian_filter, map_coordinates

from lightning_reg.data.preprocessing import Preprocessing
from lightning_reg.training.module import RegistrationModule

SHAPE = (20, 24, 22)
METHOD = {
    "composer": {
        "name": "single",
        "backbone": {
            "name": "unet",
            "levels": 2,
            "features": 4,
            "output_stride": 2,
            "norm": "none",
        },
        "head": {"name": "velocity"},
    },
    "loss": {"terms": {"lncc": {}, "diffusion": {"weight": 1.0}}},
    "optimizer": {"name": "adam", "lr": 1.0e-4},
}
BREAKS = ("missing", "cut", "nan", "text")
COMMAND = [sys.executable, "-m", "lightning_reg.cli.main"]


def write_model(path: Path) -> None:
    torch.manual_seed(0)
    module = RegistrationModule.from_configuration(METHOD)
    module.preprocessing = Preprocessing()
    saved = {"state_dict": module.state_dict()}
    module.on_save_checkpoint(saved)
    torch.save(saved, path)


def write_pairs(root: Path, count: int) -> Path:
    """Write images ``(20, 24, 22)`` of 2 mm and a smooth deformation of each; every hundredth pair
    is broken in one of four ways.
    """
    rng, affine = np.random.default_rng(0), np.diag([2.0, 2, 2, 1])
    folder = root / "images"
    folder.mkdir(parents=True, exist_ok=True)
    points = np.stack(np.meshgrid(*map(np.arange, SHAPE), indexing="ij")).astype(float)
    lines = []
    for number in range(count):
        names = [f"images/{number:05d}_{side}.nii.gz" for side in ("fixed", "moving")]
        lines.append((f"pair{number:05d}", *names))
        broken = BREAKS[number // 100 % 4] if number % 100 == 37 else None
        if (root / names[0]).exists() or (broken == "missing" and (root / names[1]).exists()):
            continue
        image = gaussian_filter(rng.normal(size=SHAPE), 2).astype(np.float32)
        field = gaussian_filter(rng.normal(size=(3, *SHAPE)), (0, 4, 4, 4)) * 40
        moved = map_coordinates(image, points + field, order=1, mode="nearest")
        for name, values in zip(names[::-1], (moved, image), strict=True):
            nib.save(nib.Nifti1Image(values, affine), root / name)
        path = root / names[0]
        if broken == "missing":
            path.unlink()
        elif broken == "cut":
            path.write_bytes(path.read_bytes()[:200])
        elif broken == "nan":
            nib.save(nib.Nifti1Image(np.full(SHAPE, np.nan, np.float32), affine), path)
        elif broken == "text":
            path.write_text("no image")
    table = root / "pairs.csv"
    with table.open("w", newline="") as file:
        csv.writer(file).writerows([("pair", "fixed", "moving"), *lines])
    return table


class Worker:
    """One process for one share of the pairs, restarted after every kill."""

    def __init__(self, root: Path, share: str) -> None:
        self.words = [
            *COMMAND,
            "register",
            "--pairs",
            str(root / "pairs.csv"),
            "--out",
            str(root / "out"),
            "--shard",
            share,
        ]
        self.words += ["--model", str(root / "model.ckpt")]
        self.log = root / f"log-{share.replace('/', '-of-')}.txt"
        self.memory: list[list[float]] = []
        self.start()

    def start(self) -> None:
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        with self.log.open("a") as log:
            self.process = subprocess.Popen(
                self.words, stdout=log, stderr=log, env=environment, start_new_session=True
            )
        self.memory.append([])

    def sample(self) -> None:
        try:
            status = Path(f"/proc/{self.process.pid}/status").read_text()
            self.memory[-1].append(int(status.partition("VmRSS:")[2].split()[0]) / 1024)
        except (OSError, IndexError, ValueError):
            return

    def kill(self) -> None:
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


def written(out: Path) -> dict[str, float]:
    """Modification time of the results of each finished pair."""
    return {
        path.parent.name: path.stat().st_mtime
        for path in (out / "pairs").glob("[!.]*/.written.json")
    }


def single(root: Path, count: int) -> float:
    """Median time in seconds of a call for one pair."""
    times = []
    for number in range(count):
        began = time.perf_counter()
        words = [
            *COMMAND,
            "register",
            "--fixed",
            str(root / f"images/{number:05d}_fixed.nii.gz"),
            "--model",
            str(root / "model.ckpt"),
        ]
        words += [
            "--moving",
            str(root / f"images/{number:05d}_moving.nii.gz"),
            "--out",
            str(root / f"single/{number}"),
            "--no-report",
        ]
        subprocess.run(
            words, check=True, capture_output=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
        )
        times.append(time.perf_counter() - began)
    return statistics.median(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--pairs", type=int, default=10_000)
    parser.add_argument("--kills", type=int, default=12)
    parser.add_argument("--single", type=int, default=10)
    arguments = parser.parse_args()
    root, out = arguments.root.resolve(), arguments.root.resolve() / "out"
    for old in (out, root / "single"):
        shutil.rmtree(old, ignore_errors=True)
    table = write_pairs(root, arguments.pairs)
    write_model(root / "model.ckpt")
    alone = single(root, arguments.single) if arguments.single else float("nan")

    rng = random.Random(0)
    began, known, twice, kills = time.perf_counter(), {}, set(), 0
    workers = [Worker(root, "1/2"), Worker(root, "2/2")]
    next_kill = time.perf_counter() + 20
    while any(worker.process.poll() is None for worker in workers):
        time.sleep(1)
        for worker in workers:
            worker.sample()
        if kills < arguments.kills and time.perf_counter() > next_kill:
            victim = rng.choice([worker for worker in workers if worker.process.poll() is None])
            victim.kill()
            kills += 1
            now = written(out)
            twice |= {name for name, at in known.items() if now.get(name) != at}
            known = now
            victim.start()
            next_kill = time.perf_counter() + rng.uniform(8, 25)
    seconds = time.perf_counter() - began
    now = written(out)
    twice |= {name for name, at in known.items() if now.get(name) != at}
    collected = subprocess.run(
        [*COMMAND, "collect", str(out)], capture_output=True, text=True, check=False
    )
    with (out / "results.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    expected = {f"pair{n:05d}" for n in range(arguments.pairs) if n % 100 == 37}
    done, failed = (
        {row["pair"] for row in rows if row["status"] == status} for status in ("done", "failed")
    )
    with table.open() as file:
        total = sum(1 for _ in file) - 1
    print(next(line for line in collected.stdout.splitlines() if "are done" in line))
    lost, silent = (
        total - len(done | failed),
        sum(not row["message"] for row in rows if row["status"] == "failed"),
    )
    print(
        f"{total:,} pairs, {kills} kills: {len(done):,} done, {len(failed):,} failed, {lost:,}"
        f" lost, {len(twice):,} written twice"
    )
    print(f"failed are the broken ones: {failed == expected}; without a sentence: {silent}")
    left = [p.name for p in (out / "pairs").iterdir() if p.name.startswith(".")]
    print(
        f"{len(left)} partial folders left; page"
        f" {(out / 'quality.html').stat().st_size / 2**20:.0f} MiB"
    )
    ratio = alone / (2 * seconds / total)
    print(
        f"{60 * total / seconds:,.0f} pairs a minute by two processes, starts included; per pair"
        f" 1/{ratio:.0f} of a call of its own"
    )
    for worker in workers:
        longest = max(worker.memory, key=len)
        tenth = max(1, len(longest) // 10)
        first, last = (
            statistics.median(part) for part in (longest[tenth : 2 * tenth], longest[-tenth:])
        )
        print(f"memory, MiB: second tenth {first:.0f}, last tenth {last:.0f} (of {len(longest)} s)")


if __name__ == "__main__":
    main()
