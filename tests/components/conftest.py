"""Registrations with a given displacement."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from lightning_reg.components.interfaces import Level
from lightning_reg.spatial import Displacement, Pair


@pytest.fixture
def level(pair: Pair) -> Callable[..., Level]:
    """The level that a displacement ``(B, 3, I, J, K)`` makes of a pair, by default of the
    fixture's.
    """

    def make(field: Tensor, of: Pair = pair) -> Level:
        found = Displacement(field, of.fixed.grid)
        return Level(of.fixed, of.moving, found, found)

    return make


@pytest.fixture
def shifted(pair: Pair) -> Callable[[float], Tensor]:
    """A displacement along the first axis; 1.5 voxels undo the shift between the fixture's images."""

    def make(voxels: float) -> Tensor:
        field = torch.zeros(1, 3, *pair.fixed.grid.shape)
        field[:, 0] = voxels
        return field

    return make
