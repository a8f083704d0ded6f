"""Composers: one network, or networks one after the other, each applied to the moving image warped
by the previous ones.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Annotated

import torch
from torch import nn

from lightning_reg.components.interfaces import Composer, Level, Registration, Staged
from lightning_reg.components.network import Network
from lightning_reg.registry import ArgumentError, Described, Instance, Length, Range
from lightning_reg.spatial import Composition, Displacement, Grid, Image, Transform

OneNetwork = Annotated[Network, Instance("Network(backbone, head)")]
Voxels = Annotated[int, Range(1, of="voxels")]


class SingleComposer(Composer):
    """The registration by one network.

    Args:
        network: the network.
        symmetric: in evaluation mode, register both directions and apply :func:`symmetrized`. This
            takes twice the time and removes errors that keep their sign when the images are
            exchanged. Training uses one direction in any case.
    """

    def __init__(self, network: OneNetwork, symmetric: bool = False) -> None:
        super().__init__()
        self.network = network
        self.symmetric = symmetric

    def forward(self, fixed: Image, moving: Image) -> Registration:
        features = self.network.features(fixed, moving)
        *coarser, result = self.network.transforms(features, fixed.grid)
        predicted = features.predicted(fixed.grid)
        if self.symmetric and not self.training:
            result = symmetrized(result, self.network(moving, fixed)[-1], fixed.grid)
        levels = []
        for t in coarser:
            images = fixed.at_resolution(t.grid), moving.at_stride(fixed.grid.stride_to(t.grid))
            levels.append(Level(*images, t, t, predicted=predicted))
        return Registration((*levels, Level(fixed, moving, result, result, predicted=predicted)))


def symmetrized(forward: Transform, backward: Transform, grid: Grid) -> Displacement:
    """Subtract half of the inverse consistency error ``r(x) = backward(forward(x)) - x`` from
    ``forward``.

    To first order, the result is the mean of ``forward`` and the inverse of ``backward``. If these
    two are equal, it is ``forward``.

    Args:
        forward: fixed world to moving world.
        backward: moving world to fixed world.
        grid: the fixed image's grid, on which the result is defined.

    Source of the error: Christensen & Johnson, IEEE Trans. Med. Imaging 20(7), 2001.
    """
    error = Composition([backward, forward]).displacement(grid)
    return Displacement(forward.displacement(grid) - 0.5 * error, grid)


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
        self,
        network: OneNetwork,
        stride: Voxels | Annotated[Sequence[Voxels], Length(3)] = 1,
        patch: Annotated[Sequence[Voxels], Length(3)] | None = None,
    ) -> None:
        self.network, self.patch = network, patch
        self.strides = (stride,) * 3 if isinstance(stride, int) else tuple(stride)


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
                images = fixed.at_stride(member.strides), moving.at_stride(member.strides)
                level = self._level(index, *images, before, trained)
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


class MultilevelComposer(SequentialComposer):
    """Networks of one architecture from coarse to fine (Hering et al., 2019, Algorithm 1).

    The input of level *l* is the fixed image and the moving image warped by all coarser results,
    both average-pooled by ``strides[l]``. Transforms are composed, displacements are not added. As
    the networks have the same architecture, a finer one can start from the weights of the next
    coarser one.

    Args:
        networks: one per level, coarsest first.
        strides: of the images, coarsest first; each one number, or one per axis.

    Raises:
        ValueError: the numbers of networks and strides differ.
    """

    def __init__(
        self, networks: Sequence[Network], strides: Sequence[int | Sequence[int]] = (8, 4, 2)
    ) -> None:
        if len(networks) != len(strides):
            raise ArgumentError(
                f"{len(networks)} networks for strides {list(strides)}; give one per stride"
            )
        super().__init__(
            [Member(network, stride) for network, stride in zip(networks, strides, strict=True)]
        )


class StackedComposer(SequentialComposer):
    """Members of different kinds, image resolutions and control-point distances (de Vos et al.,
    2019, Section 2.3).

    Args:
        members: first to last; a network without :class:`Member` takes the whole images at full
            resolution.
    """

    def __init__(self, members: Sequence[Member | Network]) -> None:
        super().__init__(
            [member if isinstance(member, Member) else Member(member) for member in members]
        )


def _random_patch(image: Image, patch: Sequence[int]) -> Image:
    """Cut out at most ``patch`` voxels at a random place (global random generator)."""
    shape = [min(p, n) for p, n in zip(patch, image.grid.shape, strict=True)]
    start = [
        int(torch.randint(n - s + 1, (1,))) for n, s in zip(image.grid.shape, shape, strict=True)
    ]
    return image.cropped(start, shape)
