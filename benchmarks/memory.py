"""Memory and accuracy of registering large images, at their own voxels and within ``--memory``.

    python benchmarks/memory.py --root FOLDER [--shapes 192x192x192 256x256x350 512x512x700] [--memory 7 8] [key=value ...]

FOLDER gets the generated pairs (once): blobs of 3 to 40 mm in 0.8 x 0.8 x 1 mm voxels, the fixed image seen through a smooth deformation of
up to 8 mm that is known at 300 landmarks. Each is registered by ``lightning-reg register`` (``--instance bspline``, with the given
overrides) in a process of its own, once without a limit and once with each, one thread each. Prints the process's largest memory as the
system measured it, bytes per voxel, the voxels it registered at, the error at the landmarks, and the processor time, as a ratio to that
without a limit too.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import torch
from torch import Tensor

from lightning_reg import functional as LF
from lightning_reg.spatial import Grid, assembled

SPACING = (0.8, 0.8, 1.0)
COMMAND = [sys.executable, "-m", "lightning_reg.cli.main", "register"]


class Scene:
    """Intensities of the moving world, and the map from the fixed one."""

    def __init__(self, size: Tensor) -> None:
        generator = torch.Generator().manual_seed(0)
        self.size, self.octaves = size, []
        for edge in (3.0, 10.0, 40.0):
            shape = [math.ceil(float(extent) / edge) + 2 for extent in size]
            self.octaves.append((edge, torch.rand(1, 1, *shape, generator=generator)))
        self.wave = 2 * math.pi * torch.rand(3, 3, generator=generator)

    def intensity(self, world: Tensor) -> Tensor:
        """Of points ``(1, 3, *S)``, mm, ``(1, 1, *S)`` from 0 to some 1,000."""
        return torch.stack([edge**0.5 * LF.sample(values, world / edge, padding="border") for edge, values in self.octaves]).sum(0) * 100

    def there(self, world: Tensor) -> Tensor:
        """Points of the fixed world in the moving one."""
        phase = [world[:, a] / self.size[a] * 2 * math.pi for a in range(3)]
        moves = [sum((phase[b] + self.wave[a, b]).sin() for b in range(3)) * 8 / 3 for a in range(3)]
        return world + torch.stack(moves, dim=1)


def write_pair(folder: Path, shape: tuple[int, int, int]) -> None:
    grid = Grid.regular(shape, SPACING)
    scene = Scene(torch.tensor(SPACING) * torch.tensor(shape))
    for name in ("fixed", "moving"):

        def seen(slab, fixed: bool = name == "fixed") -> Tensor:
            world = slab.grid.to_world(slab.grid.points())
            return scene.intensity(scene.there(world) if fixed else world).round().short()

        nib.save(nib.Nifti1Image(assembled(grid, seen)[0, 0].numpy(), grid.affine[0]), folder / f"{name}.nii.gz")
    inside = torch.rand(1, 3, 300, generator=torch.Generator().manual_seed(1)) * 0.8 + 0.1
    landmarks = inside * scene.size.view(1, 3, 1)
    for name, points in (("fixed", landmarks), ("moving", scene.there(landmarks))):
        with (folder / f"{name}.csv").open("w", newline="") as file:
            csv.writer(file).writerows([("x", "y", "z"), *points[0].T.tolist()])


def registered(folder: Path, memory: float | None, overrides: list[str]) -> dict[str, float | str]:
    """Largest memory (GiB), seconds of the processor, and what came of it."""
    out = folder / f"result_{memory or 'free'}"
    command = [*COMMAND, "--out", str(out), "--overwrite", "--no-report", "--files", "warped,transform,jacobian", *overrides]
    for side in ("fixed", "moving"):
        command += [f"--{side}", str(folder / f"{side}.nii.gz"), f"--{side}-landmarks", str(folder / f"{side}.csv")]
    command += [] if memory is None else ["--memory", str(memory)]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    assert process.stdout is not None
    lines = process.stdout.read().splitlines()
    _, status, used = os.wait4(process.pid, 0)
    if os.waitstatus_to_exitcode(status) != 0:
        return {"told": lines[-1] if lines else "ended by the system"}
    tre = json.loads((out / "metrics.json").read_text())["metrics"]["tre_mm"]
    coarser = [line for line in lines if line.startswith("coarser")]
    at = coarser[0].split("voxels of ")[1].split(" mm")[0] if coarser else "its own"
    return {
        "peak": used.ru_maxrss / 2**20,
        "seconds": used.ru_utime + used.ru_stime,
        "at": at,
        "before": tre["before"],
        "after": tre["after"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--shapes", nargs="+", default=["192x192x192", "256x256x350", "512x512x700"])
    parser.add_argument("--memory", nargs="*", type=float, default=[7.0, 8.0])
    parser.add_argument("overrides", nargs="*")
    arguments, more = parser.parse_known_args()
    torch.set_num_threads(1)
    print("| image | --memory | largest, GiB | bytes per voxel | registered at, mm | TRE before | after | minutes | ratio |")
    print("| --- | ---: | ---: | ---: | --- | ---: | ---: | ---: | ---: |")
    for name in arguments.shapes:
        i, j, k = (int(n) for n in name.split("x"))
        folder = arguments.root / name
        if not (folder / "moving.csv").exists():
            folder.mkdir(parents=True, exist_ok=True)
            write_pair(folder, (i, j, k))
        first: float | None = None
        for memory in (None, *arguments.memory):
            found = registered(folder, memory, [*arguments.overrides, *more])
            limit = "none" if memory is None else f"{memory:g}"
            if "told" in found:
                print(f"| {name} | {limit} | {found['told']} |", flush=True)
                continue
            first = first or float(found["seconds"])
            per_voxel = float(found["peak"]) * 2**30 / np.prod((i, j, k))
            ratio = float(found["seconds"]) / first
            row = [name, limit, f"{found['peak']:.1f}", f"{per_voxel:.0f}", found["at"], f"{found['before']:.2f}", f"{found['after']:.2f}"]
            row.append(f"{float(found['seconds']) / 60:.1f}")
            print(f"| {' | '.join(map(str, [*row, f'{ratio:.2f}']))} |", flush=True)


if __name__ == "__main__":
    main()
