"""Loading time of training data: this project's loader and a plain TorchIO pipeline, relative to a
training step.

    python benchmarks/loading.py --folder FOLDER [--scans 200] [--shape 128 128 128] [--pairs 40]

FOLDER receives the prepared phantom (some minutes the first time) and the mapped files. Prints a
table for docs/benchmarks.md. All pipelines return the same kind of item: two time points of a
subject with intensities in [0, 1], masks and labels.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchio as tio

from lightning_reg.configuration.composition import compose
from lightning_reg.curation.prepare import Preparation, prepare
from lightning_reg.data.augmentation import Augmentation
from lightning_reg.data.cache import CacheSettings
from lightning_reg.data.datamodule import RegistrationData
from lightning_reg.data.datasets.adapters.generated import PhantomDataset
from lightning_reg.data.datasets.splits import Splits, open_dataset
from lightning_reg.data.preprocessing import Preprocessing
from lightning_reg.data.sampling import GroupPairs
from lightning_reg.training.module import RegistrationModule

WINDOW = (-1000, 500)


def prepared(folder: Path, scans: int, shape: list[int]) -> Path:
    subjects = scans // 2
    held_out = max(1, subjects // 20)
    data = Splits(PhantomDataset(subjects - held_out, held_out, shape))
    prepare(data, folder, Preparation(), workers=2)
    return folder


def ours(
    root: Path,
    workers: int,
    pairs: int,
    cache: dict[str, Any],
    augmentation: dict[str, Any] | None = None,
) -> tuple[float, float]:
    """Seconds until the first epoch can begin, and seconds per pair."""
    started = time.perf_counter()
    data = RegistrationData(
        open_dataset({"name": "prepared", "root": str(root)}), GroupPairs,
        Preprocessing(window=WINDOW),
        Augmentation(**(augmentation or {})), CacheSettings(**cache), workers=workers,
        samples_per_epoch=pairs,
    )  # fmt: skip
    data.setup()
    ready = time.perf_counter() - started
    return ready, per_item(iter(data.train_dataloader()), pairs)


def torchio(root: Path, workers: int, pairs: int) -> float:
    """Seconds per pair with the pipeline of TorchIO's tutorials: subjects from paths, transforms, a
    loader.
    """
    data = open_dataset({"name": "prepared", "root": str(root)})
    records = data.records("train")
    subjects = []
    for fixed, moving in data.pairs("train"):
        images = {}
        for side, record in (("fixed", records[fixed]), ("moving", records[moving])):
            images |= {
                side: tio.ScalarImage(record.image),
                f"{side}_mask": tio.LabelMap(record.mask),
                f"{side}_labels": tio.LabelMap(record.labels),
            }
        subjects.append(tio.Subject(images))
    transform = tio.Compose([tio.RescaleIntensity((0, 1), in_min_max=WINDOW), tio.Clamp(0, 1)])
    dataset = tio.SubjectsDataset(subjects, transform=transform)
    order = torch.Generator().manual_seed(0)
    sampler = torch.utils.data.RandomSampler(
        dataset, replacement=True, num_samples=pairs, generator=order
    )
    return per_item(
        iter(tio.SubjectsLoader(dataset, batch_size=1, sampler=sampler, num_workers=workers)), pairs
    )


def per_item(items: Iterator[Any], count: int) -> float:
    """Seconds per item, without the first items, during which the workers start."""
    skipped = 4
    for _ in range(skipped):
        next(items)
    started = time.perf_counter()
    for _ in range(count - skipped):
        next(items)
    return (time.perf_counter() - started) / (count - skipped)


def step(root: Path, method: str, steps: int = 2) -> float:
    """Seconds per training step, without loading of data."""
    dataset = open_dataset({"name": "prepared", "root": str(root)}, held_out=1, limit=2)
    data = RegistrationData(dataset, GroupPairs, Preprocessing(window=WINDOW), workers=0)
    pair = data.first_pair()
    module = RegistrationModule.from_configuration(
        compose([f"method={method}", "size=paper"])["method"]
    )
    optimizer = torch.optim.Adam(module.parameters(), lr=1e-4)
    seconds = []
    for _ in range(steps + 1):
        started = time.perf_counter()
        loss = module.loss(module(pair.fixed, pair.moving), pair).total
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        seconds.append(time.perf_counter() - started)
    return float(np.median(seconds[1:]))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--scans", type=int, default=200)
    parser.add_argument("--shape", type=int, nargs=3, default=[128, 128, 128])
    parser.add_argument("--pairs", type=int, default=40, help="per epoch that is timed")
    parser.add_argument("--method", default="velocity")
    arguments = parser.parse_args()
    root = prepared(arguments.folder / "data", arguments.scans, arguments.shape)
    training = step(root, arguments.method)
    size = " x ".join(map(str, arguments.shape))
    print(
        f"{arguments.scans} scans of {size}; a step of method={arguments.method}:"
        f" {training:.2f} s\n"
    )
    print(
        "| pipeline | workers | until the first pair, steps | per pair / step | per pair /"
        " TorchIO's |"
    )
    print("| --- | ---: | ---: | ---: | ---: |")
    mapped = {"folder": str(arguments.folder / "cache")}
    for workers in (0, 1, 2):
        plain = torchio(root, workers, arguments.pairs)
        print(f"| TorchIO | {workers} | 0 | {plain / training:.3f} | 1 |", flush=True)
        deformed = {
            "affine": {"degrees": 5},
            "elastic": {"num_control_points": 7, "max_displacement": 5},
        }
        for name, cache, augmentation in (
            ("memory", {"memory": 16}, None),
            ("mapped files", mapped, None),
            ("mapped files, again", mapped, None),
            ("mapped files, affine and elastic", mapped, deformed),
        ):
            if workers > 0 and name == "mapped files":
                continue  # the files exist since the first row
            ready, each = ours(root, workers, arguments.pairs, cache, augmentation)
            print(
                f"| {name} | {workers} | {ready / training:.1f} | {each / training:.4f} |"
                f" {each / plain:.3f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
