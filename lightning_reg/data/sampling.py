"""Sampling of training pairs."""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset, Sampler

from lightning_reg.data.scans import Scan, make_pair
from lightning_reg.data.synthetic import SyntheticDeformation
from lightning_reg.registry import Checked, DataError
from lightning_reg.spatial import Pair


class ItemSampler(Sampler[int]):
    """Item numbers over all epochs: epoch *e* of length *n* yields ``e n, ..., e n + n - 1``,
    distributed over the ranks.

    Args:
        length: items per epoch and rank.
        resume_at: number of the first item that the resumed run has not used yet.
        epoch: first epoch; workers prefetch items before :meth:`set_epoch` is first called.
        rank, world: rank of this process, and number of processes.
    """

    def __init__(
        self, length: int, resume_at: int = 0, epoch: int = 0, rank: int = 0, world: int = 1
    ) -> None:
        self.length, self.resume_at, self.epoch = length, resume_at, epoch
        self.rank, self.world = rank, world

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[int]:
        first = self.epoch * self.length
        for item in range(max(first, self.resume_at), first + self.length):
            yield item * self.world + self.rank


class SampledPairs(Checked, Dataset[Pair], ABC):
    """An endless sequence of training pairs drawn from scans, registered under
    ``lightning_reg.samplers``.

    Every item has its own seed, so that an epoch does not depend on the number of workers.

    Args:
        scans: preprocessed scans.
        pairs: pairs of the data set, indices ``(fixed, moving)`` into ``scans``.
        seed: base seed of all items.

    Constructors raise :class:`~lightning_reg.registry.DataError` if the data are not suitable for
    the sampler.

    Attributes:
        generates: whether the pairs are generated, with a true transform; validation then draws
            from the sampler, too.
    """

    generates: bool = False

    def __init__(self, scans: Sequence[Scan], pairs: Sequence[tuple[int, int]], seed: int) -> None:
        self.scans, self.pairs, self.seed = scans, pairs, seed

    @abstractmethod
    def draw(self, rng: np.random.Generator) -> Pair:
        """Draw a pair."""

    def __getitem__(self, item: int) -> Pair:
        return self.draw(np.random.default_rng([self.seed, item]))


class SyntheticPairs(SampledPairs):
    """Random synthetic deformations of single scans.

    Args:
        deformation: distribution of the deformations; a configuration gives its arguments next to
            the sampler's name.
    """

    def __init__(
        self,
        scans: Sequence[Scan],
        pairs: Sequence[tuple[int, int]],
        seed: int,
        deformation: SyntheticDeformation | None = None,
    ) -> None:
        super().__init__(scans, pairs, seed)
        self.deformation = deformation or SyntheticDeformation()

    def draw(self, rng: np.random.Generator) -> Pair:
        return self.deformation.draw(self.scans[int(rng.integers(len(self.scans)))], rng)


class InterSubjectPairs(SampledPairs):
    """Random pairs of scans of different groups (subjects)."""

    def __init__(self, scans: Sequence[Scan], pairs: Sequence[tuple[int, int]], seed: int) -> None:
        super().__init__(scans, pairs, seed)
        self.groups = _groups(scans)
        if len(self.groups) < 2:
            raise DataError(
                "There is one subject only, so there are no pairs of subjects to train on; use the"
                " sampler 'groups'."
            )

    def draw(self, rng: np.random.Generator) -> Pair:
        fixed, moving = (
            rng.choice(self.groups[g]) for g in rng.choice(len(self.groups), size=2, replace=False)
        )
        return make_pair(self.scans[int(fixed)], self.scans[int(moving)])


class GroupPairs(SampledPairs):
    """Random pairs of scans of one group: time points of a subject, in both directions."""

    def __init__(self, scans: Sequence[Scan], pairs: Sequence[tuple[int, int]], seed: int) -> None:
        super().__init__(scans, pairs, seed)
        self.groups = [group for group in _groups(scans) if len(group) > 1]
        if not self.groups:
            raise DataError(
                "The data have one scan per subject, so there are no time points to pair; use the"
                " sampler 'inter_subject'."
            )

    def draw(self, rng: np.random.Generator) -> Pair:
        group = self.groups[int(rng.integers(len(self.groups)))]
        fixed, moving = rng.choice(group, size=2, replace=False)
        return make_pair(self.scans[int(fixed)], self.scans[int(moving)])


def _groups(scans: Sequence[Scan]) -> list[list[int]]:
    """Return the indices of the scans of every group."""
    members: dict[str | int, list[int]] = {}
    for index, scan in enumerate(scans):
        members.setdefault(index if scan.group is None else scan.group, []).append(index)
    return list(members.values())


class ListedPairs(SampledPairs):
    """The data set's own pairs in random order.

    Args:
        both_directions: exchange fixed and moving at random.
    """

    def __init__(
        self,
        scans: Sequence[Scan],
        pairs: Sequence[tuple[int, int]],
        seed: int,
        both_directions: bool = True,
    ) -> None:
        if not pairs:
            raise DataError(
                "The data have no pairs to train on; use the sampler 'inter_subject' or"
                " 'synthetic'."
            )
        super().__init__(scans, pairs, seed)
        self.both_directions = both_directions

    def draw(self, rng: np.random.Generator) -> Pair:
        fixed, moving = self.pairs[int(rng.integers(len(self.pairs)))]
        if self.both_directions and rng.random() < 0.5:
            fixed, moving = moving, fixed
        return make_pair(self.scans[fixed], self.scans[moving])


class PatchPairs(Dataset[Pair]):
    """The pairs of another data set, cropped to random patches: that of the moving image is at the
    same world position.

    Landmarks are left out, because corresponding landmarks need not be in both patches.

    Args:
        patch: voxels per axis, the same for both images; a smaller image is not cropped.
    """

    def __init__(self, pairs: Dataset[Pair], patch: Sequence[int], seed: int) -> None:
        if len(patch) != 3 or min(patch) < 1:
            raise DataError(f"`patch` is {list(patch)}; give three numbers of voxels.")
        self.pairs, self.patch, self.seed = pairs, patch, seed

    def __getitem__(self, item: int) -> Pair:
        pair, rng = self.pairs[item], np.random.default_rng([self.seed, 3, item])
        grids = (pair.fixed.grid, pair.moving.grid)
        shapes = [
            [min(p, n) for p, n in zip(self.patch, grid.shape, strict=True)] for grid in grids
        ]
        start = [
            int(rng.integers(n - s + 1)) for n, s in zip(grids[0].shape, shapes[0], strict=True)
        ]
        middle = grids[0].cropped(start, shapes[0]).center
        around = grids[1].to_voxel(torch.from_numpy(middle).unsqueeze(2))[0, :, 0].tolist()
        there = [
            min(max(round(m - (s - 1) / 2), 0), n - s) for m, s,
            n in zip(around, shapes[1], grids[1].shape, strict=True)
        ]  # fmt: skip
        return pair.cropped((start, shapes[0]), (there, shapes[1]))


SamplerFactory = Callable[[Sequence[Scan], Sequence[tuple[int, int]], int], Dataset[Pair]]
"""A function of scans, pairs and seed that makes a sampler: a class, or a partial function."""


@dataclass(frozen=True)
class Patched:
    """A sampler factory whose pairs are cropped to random patches, see :class:`PatchPairs`."""

    sampler: SamplerFactory
    patch: Sequence[int]

    def __call__(
        self, scans: Sequence[Scan], pairs: Sequence[tuple[int, int]], seed: int
    ) -> PatchPairs:
        return PatchPairs(self.sampler(scans, pairs, seed), self.patch, seed)


def synthetic_pairs(
    sampler: SamplerFactory, scans: Sequence[Scan], seed: int, count: int
) -> list[Pair]:
    """Draw pairs with a true transform for validation.

    They are the sampler's own pairs if it :attr:`~SampledPairs.generates` them, and synthetic
    deformations of the scans otherwise: the sampler's, or the default one.
    """
    while isinstance(sampler, Patched):
        sampler = sampler.sampler
    made: Any = sampler.func if isinstance(sampler, functools.partial) else sampler
    keywords = sampler.keywords if isinstance(sampler, functools.partial) else {}
    generated = isinstance(made, type) and issubclass(made, SampledPairs) and made.generates
    source: Any = sampler(scans, [], seed) if generated else None
    deformation = keywords.get("deformation") or SyntheticDeformation()
    pairs = []
    for number in range(count):
        rng = np.random.default_rng([seed, 1, number])
        scan = scans[number % len(scans)]
        pairs.append(source.draw(rng) if source else deformation.draw(scan, rng))
    return pairs
