"""Training pairs made from label maps alone: random deformations and random contrasts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import torch
from torch import Tensor

from lightning_reg.data.sampling import SampledPairs
from lightning_reg.data.scans import Scan
from lightning_reg.functional import bounding_box, identity_points, label_values, sample
from lightning_reg.registry import DataError, Range, construct
from lightning_reg.shapes import Motion, RandomContrast, RandomMotion, random_map
from lightning_reg.shapes.noise import chance, log_uniform, smooth_noise, uniform
from lightning_reg.spatial import Displacement, Grid, Image, Pair

MARGIN = 8
"""Voxels of anatomy around the image, which a motion can bring into it."""


class GeneratedPairs(SampledPairs):
    """Pairs painted from label maps, generated ones or those of the scans; no image is used.

    A pair shows two deformed copies of one map, with their true transform, or the maps of two
    subjects, with corresponding labels. The contrasts of the two images are related, as in one
    modality, or independent of each other. Every pair has its own field of view, from the whole
    map to a third of it, mirrored at random.

    Source: Hoffmann et al., IEEE TMI 41(3), 2022 (SynthMorph).

    Args:
        shape: extents of the images, voxels.
        shapes: share of pairs made from generated shapes, 0 to 1; the other ones use the labels of
            the scans.
        across: share of the pairs from the scans' labels that show two subjects.
        related: share of pairs whose two images are of one modality.
        labels: at most this many structures of a pair are given as labels.
        removed: sets of label values, ``[first, last]`` each, that are background in half of the
            pairs, as the skull.
        warm_up: number of pairs over which the task becomes harder: motions grow from a quarter
            to their full size, and contrasts that are not related become as frequent as ``related``
            says, beginning with none. Pairs for validation are as hard as the last ones.
        motion: arguments of :class:`~lightning_reg.shapes.RandomMotion`.
        contrast: arguments of :class:`~lightning_reg.shapes.RandomContrast`.
    """

    generates = True

    def __init__(
        self,
        scans: Sequence[Scan],
        pairs: Sequence[tuple[int, int]],
        seed: int,
        shape: Sequence[int] = (64, 64, 64),
        shapes: float = 0.5,
        across: float = 0.3,
        related: float = 0.5,
        labels: Annotated[int, Range(1)] = 8,
        removed: Sequence[Sequence[int]] = (),
        warm_up: Annotated[int, Range(0)] = 0,
        motion: Mapping[str, Any] | None = None,
        contrast: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(scans, pairs, seed)
        if shapes < 1 and any(scan.labels is None for scan in scans):
            raise DataError(
                "The data have scans without labels, from which no pair can be generated."
            )
        self.shape, self.shapes, self.across = (
            list(shape),
            shapes,
            across if len(scans) > 1 else 0.0,
        )
        self.related, self.labels, self.removed = related, labels, removed
        self.warm_up = warm_up
        self.motion = construct("generated", RandomMotion, motion or {})
        self.contrast = construct("generated", RandomContrast, contrast or {})
        self.smooth = RandomMotion(0, 0, 0, 0, self.motion.amplitude, self.motion.scales, sliding=0)

    def __getitem__(self, item: int) -> Pair:
        rng = np.random.default_rng([self.seed, item])
        return self.draw(rng, 1.0 if item >= self.warm_up else item / self.warm_up)

    def draw(self, rng: np.random.Generator, warm: float = 1.0) -> Pair:
        """Draw a pair; ``warm`` is the part of the warm-up that is over, 0 to 1."""
        generator = torch.Generator().manual_seed(int(rng.integers(2**63)))
        canvas, other = self._canvases(generator)
        same = other is canvas
        size = 0.25 + 0.75 * warm
        one = self.smooth.scaled(size).draw(self.shape, generator)
        two = self.motion.scaled(size).draw(self.shape, generator, canvas if same else None, MARGIN)
        if chance(generator, 0.5):
            one, two = two, one
        fixed, moving = self._pulled(canvas, one.points()), self._pulled(other, two.points())
        painted = self._painted(
            fixed, moving, canvas.shape[2:], one, two, 1 - (1 - self.related) * warm, generator
        )
        kept = self._kept(fixed, moving, generator)
        grid = Grid.regular(self.shape)
        return Pair(
            Image(painted[0], grid),
            Image(painted[1], grid),
            fixed_labels=Image(_only(fixed, kept), grid, discrete=True),
            moving_labels=Image(_only(moving, kept), grid, discrete=True),
            truth=Displacement(_between(one, two), grid) if same else None,
            name=("generated",),
        )

    def _canvases(self, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Draw the maps around both images, ``(1, 1, *canvas)``, structures numbered from 1."""
        canvas = [n + 2 * MARGIN for n in self.shape]
        if chance(generator, self.shapes):
            shapes = random_map(canvas, generator)
            return shapes, shapes
        numbers = torch.randperm(len(self.scans), generator=generator)
        chosen = numbers[:2] if chance(generator, self.across) else numbers[:1]
        maps = []
        for number in chosen.tolist():
            labels = self.scans[number].labels
            assert labels is not None
            maps.append(labels)
        values = sorted(set().union(*(label_values(labels.tensor) for labels in maps)) - {0})
        gone = [chance(generator, 0.5) for _ in self.removed]
        ranges = [limits for limits, is_gone in zip(self.removed, gone, strict=True) if is_gone]
        table = torch.zeros(max(values, default=0) + 1, dtype=torch.int16)
        for number, value in enumerate(values, start=1):
            hidden = any(low <= value <= high for low, high in ranges)
            table[value] = 0 if hidden or chance(generator, 0.03) else number
        view = _View.draw(generator)
        drawn = [view.of(table[labels.tensor.long()], labels.grid, self.shape) for labels in maps]
        return drawn[0], drawn[-1]

    @staticmethod
    def _pulled(canvas: Tensor, points: Tensor) -> Tensor:
        return sample(canvas, points + MARGIN, "nearest")

    def _painted(
        self,
        fixed: Tensor,
        moving: Tensor,
        canvas: Sequence[int],
        one: Motion,
        two: Motion,
        related: float,
        generator: torch.Generator,
    ) -> tuple[Tensor, Tensor]:
        """Paint both images, related ones with a probability; in these the texture moves with the
        tissue.
        """
        count = 1 + int(max(fixed.max(), moving.max()))
        means = self.contrast.means(count, generator)
        if chance(generator, 0.3):  # structures that look alike
            alike = torch.randint(count, (count,), generator=generator)
            means = torch.where(torch.rand(count, generator=generator) < 0.3, means[alike], means)
        texture = smooth_noise(canvas, log_uniform(generator, 1.5, 8), 1, generator)
        here = sample(texture, one.points() + MARGIN, padding="border")
        if chance(generator, related):
            there = sample(texture, two.points() + MARGIN, padding="border")
            others = self.contrast.related(means, generator)
        else:
            there = smooth_noise(self.shape, log_uniform(generator, 1.5, 8), 1, generator)
            others = self.contrast.means(count, generator)
        return (
            self.contrast.paint(fixed, means, here, generator),
            self.contrast.paint(moving, others, there, generator),
        )

    def _kept(self, fixed: Tensor, moving: Tensor, generator: torch.Generator) -> list[int]:
        """Draw the structures that are given as labels, from those that both images show."""
        present = sorted((set(label_values(fixed)) & set(label_values(moving))) - {0})
        order = torch.randperm(len(present), generator=generator).tolist()
        return [present[k] for k in order[: self.labels]]


def _only(index: Tensor, kept: Sequence[int]) -> Tensor:
    """Number the structures ``kept`` from 1; everything else is 0."""
    table = torch.zeros(1 + int(index.max()), dtype=torch.int16)
    for number, value in enumerate(kept, start=1):
        table[value] = number
    return table[index.long()]


def _between(one: Motion, two: Motion) -> Tensor:
    """Displacement from the first to the second of two deformed copies, ``(1, 3, *S)`` voxels."""
    points = two.back_from(one.points())
    return points - identity_points(points.shape[2:], device=points.device)


@dataclass(frozen=True)
class _View:
    """A field of view of a label map, relative to the box around its structures.

    Args:
        zoom: voxel size, as a fraction of that at which the box fills the image.
        place: position of the centre within the box, -1 to 1 along every axis.
        mirrored: whether every axis is mirrored.
    """

    zoom: float
    place: tuple[float, ...]
    mirrored: tuple[bool, ...]

    @staticmethod
    def draw(generator: torch.Generator) -> _View:
        zoom = log_uniform(generator, 0.35, 1.2)
        place = tuple(uniform(generator, -1, 1) for _ in range(3))
        return _View(zoom, place, tuple(chance(generator, 0.5) for _ in range(3)))

    def of(self, labels: Tensor, grid: Grid, shape: Sequence[int]) -> Tensor:
        """Sample a map ``(1, 1, *S)`` on the canvas around an image of extents ``shape``."""
        foreground = labels[0, 0] > 0
        if not bool(foreground.any()):
            return torch.zeros(1, 1, *(n + 2 * MARGIN for n in shape), dtype=labels.dtype)
        start, extent = bounding_box(foreground, [0, 0, 0])
        spacing = grid.spacing[0]
        edge = self.zoom * max(e * s / n for e, s, n in zip(extent, spacing, shape, strict=True))
        view = labels
        for axis in range(3):
            step = edge / spacing[axis]
            room = max(0.0, extent[axis] - shape[axis] * step) / 2
            middle = start[axis] + (extent[axis] - 1) / 2 + self.place[axis] * room
            offsets = torch.arange(shape[axis] + 2 * MARGIN) - (shape[axis] - 1) / 2 - MARGIN
            along = (
                (middle + (offsets.flip(0) if self.mirrored[axis] else offsets) * step)
                .round()
                .long()
            )
            inside = (along >= 0) & (along < labels.shape[2 + axis])
            view = view.index_select(2 + axis, along.clamp(0, labels.shape[2 + axis] - 1))
            sizes = [1] * 5
            sizes[2 + axis] = -1
            view = view * inside.view(sizes)
        return view
