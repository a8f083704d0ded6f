"""Which pairs training sees. Every item is drawn from a seed of its own, so an epoch is the same with any number of workers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from torch.utils.data import Dataset, Sampler

from lightning_reg.data.scans import Scan, make_pair
from lightning_reg.data.synthetic import SyntheticDeformation
from lightning_reg.discovery import DataError, construct, nearest
from lightning_reg.spatial import Pair


class ItemSampler(Sampler[int]):
    """Numbers the items of all epochs: epoch *e* of length *n* yields ``e n, ..., e n + n - 1``, dealt out over the ranks.

    Args:
        length: items per epoch and rank.
        resume_at: number of the first item that has not been seen by the run that is resumed.
        epoch: the epoch it starts in; workers fetch ahead before :meth:`set_epoch` is first called.
        rank, world: this process among how many.
    """

    def __init__(self, length: int, resume_at: int = 0, epoch: int = 0, rank: int = 0, world: int = 1) -> None:
        self.length, self.resume_at, self.epoch, self.rank, self.world = length, resume_at, epoch, rank, world

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[int]:
        first = self.epoch * self.length
        for item in range(max(first, self.resume_at), first + self.length):
            yield item * self.world + self.rank


class SyntheticPairs(Dataset[Pair]):
    """Random synthetic deformations of single scans, see :class:`~lightning_reg.data.synthetic.SyntheticDeformation`."""

    def __init__(self, scans: Sequence[Scan], deformation: SyntheticDeformation, seed: int) -> None:
        self.scans, self.deformation, self.seed = scans, deformation, seed

    def __getitem__(self, item: int) -> Pair:
        rng = np.random.default_rng([self.seed, item])
        return self.deformation.draw(self.scans[int(rng.integers(len(self.scans)))], rng)


class InterSubjectPairs(Dataset[Pair]):
    """Two different scans drawn at random."""

    def __init__(self, scans: Sequence[Scan], seed: int) -> None:
        if len(scans) < 2:
            raise DataError(f"Inter-subject sampling needs at least two scans to train on; the data have {len(scans)}.")
        self.scans, self.seed = scans, seed

    def __getitem__(self, item: int) -> Pair:
        rng = np.random.default_rng([self.seed, item])
        fixed, moving = rng.choice(len(self.scans), size=2, replace=False)
        return make_pair(self.scans[int(fixed)], self.scans[int(moving)])


class GivenPairs(Dataset[Pair]):
    """The data set's own pairs, in random order and direction (``both_directions``) when trained on.

    Args:
        pairs: indices ``(fixed, moving)`` into ``scans``.
    """

    def __init__(self, scans: Sequence[Scan], pairs: Sequence[tuple[int, int]], seed: int, both_directions: bool = True) -> None:
        if not pairs:
            raise DataError("The data have no pairs to train on; use method.sampling.name=inter_subject or synthetic.")
        self.scans, self.pairs, self.seed, self.both_directions = scans, pairs, seed, both_directions

    def __getitem__(self, item: int) -> Pair:
        rng = np.random.default_rng([self.seed, item])
        fixed, moving = self.pairs[int(rng.integers(len(self.pairs)))]
        if self.both_directions and rng.random() < 0.5:
            fixed, moving = moving, fixed
        return make_pair(self.scans[fixed], self.scans[moving])


def training_pairs(spec: Mapping[str, Any], scans: Sequence[Scan], pairs: Sequence[tuple[int, int]], seed: int) -> Dataset[Pair]:
    """The sampling that a configuration names: ``synthetic`` (arguments of :class:`SyntheticDeformation`), ``inter_subject``, ``pairs``."""
    arguments = dict(spec)
    name = arguments.pop("name", "synthetic")
    if name == "synthetic":
        return SyntheticPairs(scans, construct("synthetic", SyntheticDeformation, arguments), seed)
    kinds: dict[str, type[Dataset[Pair]]] = {"inter_subject": InterSubjectPairs, "pairs": GivenPairs}
    if name not in kinds:
        known = ["synthetic", *kinds]
        raise DataError(f"There is no sampling named '{name}'{nearest(name, known)} Available: {', '.join(known)}.")
    context = {"scans": scans, "seed": seed} | ({"pairs": pairs} if name == "pairs" else {})
    return construct(name, kinds[name], arguments, **context)
