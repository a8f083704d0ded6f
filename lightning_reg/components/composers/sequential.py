"""Networks applied one after the other, each to the moving image warped by the previous ones."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from contextlib import nullcontext

import torch
from torch import nn

from lightning_reg.components.interfaces import Composer, Level, Registration, Staged
from lightning_reg.components.network import Network
from lightning_reg.registry import ArgumentError, Described, require_kind
from lightning_reg.spatial import Composition, Image, Transform


class Member(Described):
    """One network of several that run one after the other.

    Args:
        network: the network.
        stride: factor by which both images are average-pooled for this network, voxels.
        patch: size in voxels of a random patch of the pooled images on which the network trains
            (for the moving image, the part that the previous members map there); ``None``: the
            whole images.
    """

    def __init__(
        self, network: Network, stride: int | Sequence[int] = 1, patch: Sequence[int] | None = None
    ) -> None:
        require_kind(network, Network, "network", "give Network(backbone, head)")
        self.network, self.patch = network, patch
        self.strides = (stride,) * 3 if isinstance(stride, int) else tuple(stride)
        for name, values in (
            ("stride", self.strides),
            ("patch", (1, 1, 1) if patch is None else patch),
        ):
            if (
                not isinstance(values, Sequence)
                or len(values) != 3
                or any(not isinstance(v, int) or v < 1 for v in values)
            ):
                raise ArgumentError(
                    f"{name} is {values}; give three whole numbers of voxels, 1 or more"
                )


class SequentialComposer(Composer, Staged):
    """Abstract class of composers that run networks one after the other.

    Member *l* registers the fixed image to the moving image warped by the previous members. The
    result is the composition
    ``phi = phi_1 o phi_2 o ... o phi_L``: the last member acts on the fixed points first.

    Args:
        members: first to last.
    """

    @abstractmethod
    def __init__(self, members: Sequence[Member]) -> None:
        super().__init__()
        self.members = tuple(members)
        if not self.members:
            raise ArgumentError("a composer without networks; give one or more")
        self.networks = nn.ModuleList(member.network for member in members)
        self.active, self.trained = len(self.members), tuple(range(len(self.members)))

    def forward(self, fixed: Image, moving: Image) -> Registration:
        levels: list[Level] = []
        before: Transform | None = None
        for index, member in enumerate(self.members[: self.active]):
            trained = self.training and index in self.trained
            self.networks[index].train(trained)  # a frozen network keeps its batch statistics
            last = index == self.active - 1
            with nullcontext() if trained or not self.training else torch.no_grad():
                level = self._level(
                    index,
                    fixed.at_stride(member.strides),
                    moving.at_stride(member.strides),
                    before,
                    trained,
                )
            before = level.transform
            if trained or last:
                levels.append(level)
        whole = levels[-1]
        if not self.training:
            levels[-1] = Level(fixed, moving, whole.transform, whole.increment)
        return Registration(tuple(levels))

    def _level(
        self, index: int, fixed: Image, moving: Image, before: Transform | None, trained: bool
    ) -> Level:
        patch = self.members[index].patch
        if trained and patch is not None:
            fixed = _random_patch(fixed, patch)
            moving = moving if before is not None else moving.resampled(fixed.grid)
        seen = moving if before is None else moving.warped(before, fixed.grid)
        increment = self.networks[index](fixed, seen)[-1]
        transform = increment if before is None else Composition([before, increment])
        return Level(fixed, moving, transform, increment)


def _random_patch(image: Image, patch: Sequence[int]) -> Image:
    """Cut out at most ``patch`` voxels at a random place (global random generator)."""
    shape = [min(p, n) for p, n in zip(patch, image.grid.shape, strict=True)]
    start = [
        int(torch.randint(n - s + 1, (1,))) for n, s in zip(image.grid.shape, shape, strict=True)
    ]
    return image.cropped(start, shape)
