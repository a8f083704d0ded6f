"""What a method is put together from: the abstract classes that components implement."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from torch import Tensor, nn

from lightning_reg.spatial import Grid, Image, Pair, Transform

Features = Sequence[Tensor | None]


class Backbone(nn.Module, ABC):
    """Features of two images on one grid.

    Attributes:
        channels: feature maps of each output level, coarsest first.
        strides: voxels of the input per voxel of each output level, coarsest first.
        multiple: the input extents have to be multiples of this; the network pads to it.
    """

    channels: tuple[int, ...]
    strides: tuple[int, ...]
    multiple: int

    @abstractmethod
    def forward(self, fixed: Tensor, moving: Tensor) -> Features:
        """Args:
        fixed, moving: ``(B, C, I, J, K)``, extents multiples of :attr:`multiple`.

        Returns:
            One ``(B, channels[l], I / strides[l], J / strides[l], K / strides[l])`` per level, coarsest first; ``None``
            for a level that the present state of growth does not compute.
        """


class Head(nn.Module, ABC):
    """Turns features into transforms. The constructor is given ``channels`` and ``strides`` of the backbone if it declares them."""

    @abstractmethod
    def forward(self, features: Features, grid: Grid) -> Sequence[Transform]:
        """Args:
            features: what the backbone returned; they may reach beyond ``grid`` behind its last voxel (padding).
            grid: the fixed image's grid.

        Returns:
            Transforms on ``grid`` or coarser grids of the same extent, coarsest first. The last one is the result; the
            others are supervised beside it.
        """


class Growable(nn.Module):
    """Mix-in of components that have resolution levels which training switches on one after the other.

    The weights are part of the state dict: a loaded model gives the output it was saved with.
    """

    alpha: tuple[float, ...]

    def grow(self, alpha: Sequence[float]) -> None:
        """Set the weight of every level, coarsest first; they sum to 1."""
        if len(alpha) != len(self.alpha) or abs(sum(alpha) - 1) > 1e-6 or min(alpha) < 0:
            raise ValueError(f"{type(self).__name__}.grow: expected {len(self.alpha)} weights in [0, 1] that sum to 1, got {list(alpha)}")
        self.alpha = tuple(float(a) for a in alpha)

    def get_extra_state(self) -> dict[str, Any]:
        return {"alpha": list(self.alpha)}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        self.grow(state["alpha"])


@dataclass(frozen=True)
class Level:
    """One stage or resolution level of a registration.

    Args:
        fixed, moving: the images it was found on; their grids may differ.
        transform: ``phi`` up to and including this level, fixed world to moving world.
        increment: what this level added by itself (the transform itself where nothing came before it).
    """

    fixed: Image
    moving: Image
    transform: Transform
    increment: Transform

    @cached_property
    def warped(self) -> Image:
        """The moving image on the fixed grid, sampled once."""
        return self.moving.warped(self.transform, self.fixed.grid)

    @cached_property
    def displacement(self) -> Tensor:
        """``(B, 3, I, J, K)`` voxels of the fixed image's grid."""
        return self.transform.displacement(self.fixed.grid)


@dataclass(frozen=True)
class Registration:
    """What a composer found: its levels, coarsest (or first) to last. The last one's transform is the whole transform."""

    levels: tuple[Level, ...]

    @property
    def transform(self) -> Transform:
        return self.levels[-1].transform


class Composer(nn.Module, ABC):
    """Makes one registration from one or several networks."""

    @abstractmethod
    def forward(self, fixed: Image, moving: Image) -> Registration:
        """Register two images; their sizes, spacings and directions may differ. Sees no mask, label or landmark."""


class LossTerm(nn.Module, ABC):
    """One named term of the loss.

    Attributes:
        needs: fields of :class:`~lightning_reg.spatial.Pair` that it reads. Data without them is refused before training.
    """

    needs: frozenset[str] = frozenset()

    @abstractmethod
    def forward(self, level: Level, pair: Pair) -> Tensor:
        """One value per batch element, ``(B,)``; smaller is better."""
