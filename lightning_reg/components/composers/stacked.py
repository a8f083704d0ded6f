"""Networks one after the other, each on what the ones before left."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from lightning_reg.components.interfaces import Composer, Level, Registration, Staged
from lightning_reg.components.network import Network, Spec
from lightning_reg.discovery import construct
from lightning_reg.spatial import Composition, Image, Transform


@dataclass(frozen=True)
class Stage:
    """One member of a stack.

    Args:
        backbone, head: of its network.
        stride: it sees both images average-pooled by this.
        patch: while it trains, it sees a random part of this many voxels of the pooled images (those of the moving one that the
            stages before put there); ``null``: the whole.
    """

    backbone: Spec
    head: Spec | Sequence[Spec]
    stride: int | Sequence[int] = 1
    patch: Sequence[int] | None = None

    @property
    def strides(self) -> tuple[int, ...]:
        return (self.stride,) * 3 if isinstance(self.stride, int) else tuple(self.stride)


class StackedComposer(Composer, Staged):
    """Stages of different kind, image resolution and control-point distance (de Vos et al., 2019, Section 2.3).

    Stage *l* registers the fixed image to the moving one pulled through all that was found before, and the result is the composition:
    ``phi = phi_1 o phi_2 o ... o phi_L``, the last stage acting on the fixed points first.

    Args:
        stages: ``{backbone, head, stride, patch}`` each, see :class:`Stage`.
        init: of the backbones' weights, see :class:`~lightning_reg.components.network.Network`.
    """

    def __init__(self, stages: Sequence[Mapping[str, Any]], init: str = "default") -> None:
        super().__init__()
        self.stages = [construct(f"stage {number}", Stage, stage) for number, stage in enumerate(stages)]
        self.networks = nn.ModuleList(Network(stage.backbone, stage.head, init) for stage in self.stages)
        self.active, self.trained = len(self.stages), tuple(range(len(self.stages)))

    def forward(self, fixed: Image, moving: Image) -> Registration:
        levels: list[Level] = []
        before: Transform | None = None
        for index, stage in enumerate(self.stages[: self.active]):
            trained = self.training and index in self.trained
            self.networks[index].train(trained)  # batch normalisation of a frozen network stays as it is
            last = index == self.active - 1
            with nullcontext() if trained or not self.training else torch.no_grad():
                level = self._level(index, fixed.at_stride(stage.strides), moving.at_stride(stage.strides), before, trained)
            before = level.transform
            if trained or last:
                levels.append(level)
        whole = levels[-1]
        if not self.training:
            levels[-1] = Level(fixed, moving, whole.transform, whole.increment)
        return Registration(tuple(levels))

    def _level(self, index: int, fixed: Image, moving: Image, before: Transform | None, trained: bool) -> Level:
        patch = self.stages[index].patch
        if trained and patch is not None:
            fixed = _random_patch(fixed, patch)
            moving = moving if before is not None else moving.on(fixed.grid)
        seen = moving if before is None else moving.warped(before, fixed.grid)
        increment = self.networks[index](fixed, seen)[-1]
        transform = increment if before is None else Composition([before, increment])
        return Level(fixed, moving, transform, increment)


def _random_patch(image: Image, patch: Sequence[int]) -> Image:
    """A part of at most ``patch`` voxels, at a place that the global random generator chooses."""
    shape = [min(p, n) for p, n in zip(patch, image.grid.shape, strict=True)]
    start = [int(torch.randint(n - s + 1, (1,))) for n, s in zip(image.grid.shape, shape, strict=True)]
    return image.cropped(start, shape)
