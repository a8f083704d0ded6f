"""Memory and accuracy of the registration of large images, at their own voxels and within
``--memory``.

    python benchmarks/memory.py --root FOLDER [--shapes 192x192x192 256x256x350 512x512x700]
    [--memory 7 8] [key=value ...]

FOLDER receives the generated pairs (once): blobs of 3 to 40 mm in 0.8 x 0.8 x 1 mm voxels. The
fixed image is the moving one under a smooth deformation of up to 8 mm along each axis, known at 300
landmarks. Each pair is registered by ``lightning-reg register`` (with the given options, for
example ``--instance bspline``) in a separate process with one thread, once without a limit and once
for each value of ``--memory``. Prints the process's largest memory as measured by the system, bytes
per voxel, the voxel size of the registration, the landmark error, and the processor time, also
relative to that without a limit.
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
    """Intensities in the moving world, and the map from the fixed world."""

    def __init__(self, size: Tensor) -> None:
        generator = torch.Generator().manual_seed(0)
        self.size, self.octaves = size, []
        for edge in (3.0, 10.0, 40.0):
            shape = [math.ceil(float(extent) / edge) + 2 for extent in size]
            self.octaves.append((edge, torch.rand(1, 1, *shape, generator=generator)))
        self.wave = 2 * math.pi * torch.rand(3, 3, generator=generator)

    def intensity(self, world: Tensor) -> Tensor:
        """Intensities ``(1, 1, *S)``, from 0 to about 1,100, at points ``(1, 3, *S)`` in mm."""
        return (
            torch.stack(
                [
                    edge**0.5 * LF.sample(values, world / edge, padding="border")
                    for edge, values in self.octaves
                ]
            ).sum(0)
            * 100
        )

    def there(self, world: Tensor) -> Tensor:
        """Map points of the fixed world to the moving world."""
        phase = [world[:, a] / self.size[a] * 2 * math.pi for a in range(3)]
        moves = [
            sum((phase[b] + self.wave[a, b]).sin() for b in range(3)) * 8 / 3 for a in range(3)
        ]
        return world + torch.stack(moves, dim=1)


def write_pair(folder: Path, shape: tuple[int, int, int]) -> None:
    grid = Grid.regular(shape, SPACING)
    scene = Scene(torch.tensor(SPACING) * torch.tensor(shape))
    for name in ("fixed", "moving"):

        def seen(slab, fixed: bool = name == "fixed") -> Tensor:
            world = slab.grid.to_world(slab.grid.points())
            return scene.intensity(scene.there(world) if fixed else world).round().short()

        nib.save(
            nib.Nifti1Image(assembled(grid, seen)[0, 0].numpy(), grid.affine[0]),
            folder / f"{name}.nii.gz",
        )
    inside = torch.rand(1, 3, 300, generator=torch.Generator().manual_seed(1)) * 0.8 + 0.1
    landmarks = inside * scene.size.view(1, 3, 1)
    for name, points in (("fixed", landmarks), ("moving", scene.there(landmarks))):
        with (folder / f"{name}.csv").open("w", newline="") as file:
            csv.writer(file).writerows([("x", "y", "z"), *points[0].T.tolist()])


def registered(folder: Path, memory: float | None, overrides: list[str]) -> dict[str, float | str]:
    """Register a pair; returns the largest memory (GiB), processor seconds, voxel size and landmark
    errors, or the error message.
    """
    out = folder / f"result_{memory or 'free'}"
    command = [
        *COMMAND,
        "--out",
        str(out),
        "--overwrite",
        "--no-report",
        "--files",
        "warped,transform,jacobian",
        *overrides,
    ]
    for side in ("fixed", "moving"):
        command += [
            f"--{side}",
            str(folder / f"{side}.nii.gz"),
            f"--{side}-landmarks",
            str(folder / f"{side}.csv"),
        ]
    command += [] if memory is None else ["--memory", str(memory)]
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
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
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument(
        "--shapes", nargs="+", default=["192x192x192", "256x256x350", "512x512x700"]
    )
    parser.add_argument("--memory", nargs="*", type=float, default=[7.0, 8.0])
    parser.add_argument("overrides", nargs="*")
    arguments, more = parser.parse_known_args()
    torch.set_num_threads(1)
    print(
        "| image | --memory | largest, GiB | bytes per voxel | registered at, mm | TRE before |"
        " after | minutes | ratio |"
    )
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
            row = [
                name,
                limit,
                f"{found['peak']:.1f}",
                f"{per_voxel:.0f}",
                found["at"],
                f"{found['before']:.2f}",
                f"{found['after']:.2f}",
            ]
            row.append(f"{float(found['seconds']) / 60:.1f}")
            print(f"| {' | '.join(map(str, [*row, f'{ratio:.2f}']))} |", flush=True)


if __name__ == "__main__":
    main()
