"""Abstract classes of components."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from lightning_reg.registry import ArgumentError, Described
from lightning_reg.spatial import Grid, Image, Pair, Transform, mapped

Stride = tuple[int, int, int]


@dataclass(frozen=True, eq=False)
class Features(Sequence[Tensor]):
    """Features of two images: a sequence of one tensor per level, coarsest first. To read a level
    that the backbone has not computed raises :class:`~lightning_reg.ArgumentError`.

    Args:
        maps: see :meth:`Backbone.forward`.
        labels: values of the labels that the backbone predicts for each image, without the
            background.
        logits: of the fixed and of the moving image, ``(B, 1 + len(labels), ...)`` before the
            softmax, background first; ``None`` if no labels are predicted.
        stride: input voxels per voxel of the logits, along every axis.
    """

    maps: Sequence[Tensor | None]
    labels: Sequence[int] = ()
    logits: tuple[Tensor, Tensor] | None = None
    stride: Stride = (1, 1, 1)

    def __getitem__(self, level: Any) -> Any:
        read = self.maps[level]
        if read is None or (isinstance(level, slice) and any(maps is None for maps in read)):
            missing = [str(n) for n, maps in enumerate(self.maps) if maps is None]
            raise ArgumentError(
                f"the head reads a level of the features that the backbone did not compute (of"
                f" levels 0 to {len(self) - 1}, coarsest first, these: {', '.join(missing)})"
            )
        return read

    def __len__(self) -> int:
        return len(self.maps)

    def predicted(self, grid: Grid) -> Prediction | None:
        """The predicted labels of images on a grid; ``None`` if there are none."""
        if self.logits is None:
            return None
        fixed, moving = (
            Image(logits, grid.at_stride(self.stride, logits.shape[2:])) for logits in self.logits
        )
        return Prediction(tuple(self.labels), fixed, moving)


LabelledFeatures = Features  # name in version 1.0 of the plugin contract


class Backbone(Described, nn.Module, ABC):
    """Features of two images.

    Attributes:
        channels: feature maps of each output level, coarsest first.
        strides: per output level, coarsest first, the number of input voxels per voxel of the
            level, along every axis.
        multiple: the input extents have to be multiples of this along every axis; the network pads
            to it.
        aspect: relative voxel sizes for which strides and kernels were chosen, see
            :func:`lightning_reg.components.resolution.aspect_of`.
        separate: each image is passed on its own grid, and the two may differ in size; otherwise
            the moving image is first resampled to the fixed image's grid.
    """

    channels: tuple[int, ...]
    strides: tuple[Stride, ...]
    multiple: Stride
    aspect: Stride = (1, 1, 1)
    separate: bool = False

    @abstractmethod
    def forward(self, fixed: Tensor, moving: Tensor) -> Sequence[Tensor | None]:
        """Args:
        fixed, moving: ``(B, C, I, J, K)``, extents multiples of :attr:`multiple`.

        Returns:
            One ``(B, channels[l], I / strides[l][0], J / strides[l][1], K / strides[l][2])`` per
            level, coarsest first; ``None`` for a level that is not computed in the present state of
            growth. A backbone that predicts labels returns :class:`Features`, any other a list.
        """


class Head(Described, nn.Module, ABC):
    """Transforms from features. If its constructor declares ``channels``, ``strides`` or
    ``aspect``, they are taken from the backbone.
    """

    @abstractmethod
    def forward(self, features: Features, grid: Grid) -> Sequence[Transform]:
        """Args:
            features: output of the backbone; because of padding, they may extend beyond the last
                voxel of ``grid``.
            grid: the fixed image's grid. Nothing moves along an axis of one voxel, see
                :func:`lightning_reg.functional.in_plane`.

        Returns:
            Transforms, coarsest first. The last one is the result; the others are supervised as
            well, each at the resolution of its own grid.
        """


class Growable(nn.Module):
    """Mix-in for components whose resolution levels are switched on one after the other during
    training.

    The level weights are part of the state dict: a loaded model gives the same output as the saved
    one.
    """

    alpha: tuple[float, ...]

    def grow(self, alpha: Sequence[float]) -> None:
        """Set the weight of every level, coarsest first; they sum to 1."""
        if len(alpha) != len(self.alpha) or abs(sum(alpha) - 1) > 1e-6 or min(alpha) < 0:
            raise ArgumentError(
                f"{type(self).__name__}.grow: expected {len(self.alpha)} weights in [0, 1] that sum"
                f" to 1, got {list(alpha)}"
            )
        self.alpha = tuple(float(a) for a in alpha)

    def get_extra_state(self) -> dict[str, Any]:
        return {"alpha": list(self.alpha)}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        self.grow(state["alpha"])


class Staged(nn.Module):
    """Mix-in for composers whose networks train one after the other, first to last.

    The number of active networks is part of the state dict: a loaded model gives the same output as
    the saved one.
    """

    networks: nn.ModuleList
    active: int
    trained: tuple[int, ...]

    def activate(self, trained: Sequence[int]) -> None:
        """Train these networks, freeze the others, and skip those after the last trained one."""
        if not trained or not set(trained) <= set(range(len(self.networks))):
            raise ArgumentError(
                f"{type(self).__name__}.activate: expected some of 0 to {len(self.networks) - 1},"
                f" got {list(trained)}"
            )
        self.trained, self.active = tuple(sorted(trained)), max(trained) + 1
        for index, network in enumerate(self.networks):
            network.requires_grad_(index in self.trained)

    def inherit(self, index: int) -> None:
        """Copy the weights of the previous network to network ``index``.

        Raises:
            ValueError: the two have different architectures.
        """
        before, after = self.networks[index - 1].state_dict(), self.networks[index].state_dict()
        if before.keys() != after.keys() or any(
            isinstance(v, Tensor) and v.shape != after[k].shape for k, v in before.items()
        ):
            raise ArgumentError(
                f"{type(self).__name__}.inherit: network {index} is of another architecture than"
                f" network {index - 1}"
            )
        self.networks[index].load_state_dict(before)

    def get_extra_state(self) -> dict[str, Any]:
        return {"active": self.active}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        self.active = int(state["active"])


@dataclass(frozen=True)
class Prediction:
    """Labels that a network predicts for each of the two images.

    Args:
        labels: their values, without the background.
        fixed, moving: logits before the softmax, background first. Both are on the fixed image's
        grid, where the network sees the images.
    """

    labels: tuple[int, ...]
    fixed: Image
    moving: Image


@dataclass(frozen=True)
class Level:
    """One stage or resolution level of a registration.

    Args:
        fixed, moving: the images that were registered; their grids may differ.
        transform: ``phi`` up to and including this level, fixed world to moving world.
        increment: the transform that this level adds to the previous one (``transform`` itself at
            the first level).
        reverse: the level of the registration with fixed and moving exchanged, for terms that
            compare the two directions.
        predicted: labels that the network predicts for the two images, if it predicts any.
    """

    fixed: Image
    moving: Image
    transform: Transform
    increment: Transform
    reverse: Level | None = None
    predicted: Prediction | None = None

    def to(self, device: torch.device | str) -> Level:
        """The level on a device."""
        return mapped(self, lambda tensor: tensor.to(device))

    @cached_property
    def warped(self) -> Image:
        """The moving image on the fixed grid, sampled once."""
        return self.moving.warped_by(self.displacement, self.fixed.grid)

    @cached_property
    def displacement(self) -> Tensor:
        """``(B, 3, I, J, K)`` voxels of the fixed image's grid."""
        return self.transform.displacement(self.fixed.grid)


@dataclass(frozen=True)
class Registration:
    """Result of a composer: its levels, coarsest (or first) to last. The last one's transform is
    the whole transform.
    """

    levels: tuple[Level, ...]

    @property
    def transform(self) -> Transform:
        return self.levels[-1].transform

    def to(self, device: torch.device | str) -> Registration:
        """The registration on a device."""
        return mapped(self, lambda tensor: tensor.to(device))

    def with_reverse(self, reverse: Registration) -> Registration:
        """Return this registration with ``reverse`` (images exchanged) set in its levels."""
        pairs = zip(self.levels, reverse.levels, strict=True)
        return Registration(tuple(replace(there, reverse=back) for there, back in pairs))


class Composer(Described, nn.Module, ABC):
    """One registration from one or several networks.

    In a configuration, the constructor's arguments ``network``, ``networks`` and ``members`` are
    given by the ``backbone`` and ``head`` of each network, see
    :mod:`lightning_reg.configuration.building`.
    """

    def __call__(self, fixed: Image, moving: Image) -> Registration:
        """:meth:`forward`, with images of any dtype: they are converted to that of the weights."""
        dtype = next((weight.dtype for weight in self.parameters()), None)
        if dtype is not None and {fixed.tensor.dtype, moving.tensor.dtype} != {dtype}:
            fixed, moving = (
                replace(image, tensor=image.tensor.to(dtype)) for image in (fixed, moving)
            )
        registration: Registration = super().__call__(fixed, moving)
        return registration

    @abstractmethod
    def forward(self, fixed: Image, moving: Image) -> Registration:
        """Register two images. Their sizes, spacings and directions may differ; masks, labels and
        landmarks are not used.

        Returns:
            In training mode, the levels to be supervised. The transform of the last level is always
            the whole transform.
        """


class LossTerm(Described, nn.Module, ABC):
    """One named term of the loss.

    Attributes:
        needs: fields of :class:`~lightning_reg.spatial.Pair` that the term uses. Data without them
            are refused before training.
        reverse: whether the term uses :attr:`Level.reverse`; if so, both directions are registered.
    """

    needs: frozenset[str] = frozenset()
    reverse: bool = False

    def __init__(self) -> None:
        super().__init__()

    @abstractmethod
    def forward(self, level: Level, pair: Pair) -> Tensor:
        """Return one value per batch element, ``(B,)``; smaller is better."""
