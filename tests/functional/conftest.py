"""Fields and images that differ along every axis."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from lightning_reg import functional as LF

SHAPES = {2: (11, 14), 3: (9, 11, 13)}


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(20)


@pytest.fixture
def noise(generator: torch.Generator) -> Callable[..., Tensor]:
    def make(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=dtype)

    return make


@pytest.fixture
def smooth(generator: torch.Generator) -> Callable[..., Tensor]:
    """A smooth field ``(batch, channels, *shape)`` whose largest value is ``size``."""

    def make(
        shape: tuple[int, ...], size: float = 1.0, channels: int | None = None, batch: int = 1
    ) -> Tensor:
        coarse = torch.randn(
            batch,
            channels or len(shape),
            *[4] * len(shape),
            generator=generator,
            dtype=torch.float64,
        )
        field = LF.bspline(coarse, shape, [(n - 1) / 3 for n in shape], [0.0] * len(shape))
        return field * (size / field.abs().max())

    return make


def linear_field(matrix: Tensor, shape: tuple[int, ...], center: Tensor | None = None) -> Tensor:
    """``u(x) = matrix (x - center)`` on a grid, in voxels."""
    points = LF.identity_points(shape, dtype=matrix.dtype)
    middle = (
        torch.tensor([(n - 1) / 2 for n in shape], dtype=matrix.dtype) if center is None else center
    )
    return torch.einsum("ab,zb...->za...", matrix, points - middle.view(1, -1, *[1] * len(shape)))


@pytest.fixture(name="linear_field")
def _linear_field() -> Callable[..., Tensor]:
    return linear_field


@pytest.fixture
def interior() -> Callable[..., Tensor]:
    """Cuts ``margin`` voxels off both ends of every spatial axis."""

    def cut(tensor: Tensor, margin: int) -> Tensor:
        for axis in range(2, tensor.dim()):
            tensor = tensor.narrow(axis, margin, tensor.shape[axis] - 2 * margin)
        return tensor

    return cut
