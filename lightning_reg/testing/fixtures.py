"""Test images and grids without symmetry: extents, spacings and directions differ between axes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from scipy.spatial.transform import Rotation
from torch import Tensor, nn

from lightning_reg import functional as LF
from lightning_reg.spatial import Displacement, Grid, Image, Pair, Transform

SHAPE = (28, 24, 21)
SPACING = (1.4, 1.1, 2.0)


def grid(
    shape: Sequence[int] = SHAPE,
    spacing: Sequence[float] = SPACING,
    turn: Sequence[float] = (0.3, -0.2, 0.4),
    flip: int = 0,
) -> Grid:
    """A grid turned about its centre (radians), away from the origin, one axis mirrored."""
    linear = Rotation.from_rotvec(turn).as_matrix() @ np.diag(spacing)
    linear[:, flip] *= -1
    affine = np.eye(4)
    affine[:3, :3] = linear
    affine[:3, 3] = np.array((-210.0, 133.0, 410.0)) - linear @ ((np.array(shape) - 1) / 2)
    i, j, k = shape
    return Grid((i, j, k), affine)


def moved(grid: Grid, world: np.ndarray) -> Grid:
    """The grid after the whole world has been moved by a matrix ``(4, 4)``."""
    return Grid(grid.shape, world @ grid.affine)


def turned_world() -> np.ndarray:
    """A rotation with a mirror: distances stay, directions do not."""
    world = np.eye(4)
    world[:3, :3] = Rotation.from_rotvec((0.5, 0.9, -0.7)).as_matrix() @ np.diag((1.0, -1.0, 1.0))
    world[:3, 3] = (40.0, -25.0, 12.0)
    return world


def truth(grid: Grid, batch: int = 1) -> Displacement:
    """A smooth field of 1.6 voxels at most on a grid of :data:`SHAPE`, one per element."""
    generator = torch.Generator().manual_seed(5)
    coarse = torch.randn(batch, 3, 4, 4, 4, generator=generator, dtype=torch.float64)
    field = LF.bspline(coarse, grid.shape, [(n - 1) / 3 for n in grid.shape], [0.0] * 3).float()
    voxels = torch.tensor([1.6 * n / m for n, m in zip(grid.shape, SHAPE, strict=True)]).view(
        1, 3, 1, 1, 1
    )
    return Displacement(field / field.abs().amax((1, 2, 3, 4), keepdim=True) * voxels, grid)


def texture(points: Tensor) -> Tensor:
    """A smooth intensity in [0, 1] at points ``(B, 3, ...)`` mm: waves of 7 to 19 mm."""
    x, y, z = points.unbind(1)
    waves = (
        torch.sin(x / 1.3 + y / 3.1) + torch.sin(y / 1.7 - z / 2.9) + torch.cos(z / 2.3 + x / 2.7)
    )
    return (0.5 + waves / 6).unsqueeze(1)


def pair(
    shape: Sequence[int] = SHAPE, batch: int = 1, everything: bool = True, same_grid: bool = True
) -> Pair:
    """A pair whose true displacement is known: ``fixed(x) = moving(phi(x))`` by construction.

    Args:
        everything: include masks, labels, landmarks and the truth.
        same_grid: if false, the moving image has its own shape, spacing and directions.
    """
    spacing = [s * a / b for s, a, b in zip(SPACING, SHAPE, shape, strict=True)]
    fixed_grid = moving_grid = grid(shape, spacing)
    if not same_grid:
        moving_grid = grid(
            [n - 3 for n in shape], [s * 1.25 for s in spacing], (-0.2, 0.35, 0.1), flip=1
        )
    field = truth(fixed_grid, batch)
    center = torch.tensor((-210.0, 133.0, 410.0), dtype=torch.float64).view(1, 3, 1)

    def image(world: Tensor, grid: Grid) -> Image:
        values = texture(world - center).float().unflatten(2, grid.shape)
        return Image(values.expand(batch, -1, -1, -1, -1).clone(), grid)

    there = moving_grid.to_world(moving_grid.points(dtype=torch.float64).flatten(2))
    mapped = field.map_world(
        fixed_grid.to_world(fixed_grid.points(dtype=torch.float64).flatten(2)).expand(batch, -1, -1)
    )
    fixed, moving = image(mapped, fixed_grid), image(there, moving_grid)
    names = tuple(f"pair {b}" for b in range(batch))
    if not everything:
        return Pair(fixed, moving, name=names)

    def above(image: Image, *limits: float) -> Image:
        values = sum((image.tensor > limit).to(torch.int16) for limit in limits)
        return Image(torch.as_tensor(values), image.grid, discrete=True)

    inside = torch.tensor(shape, dtype=torch.float64).view(1, 3, 1) - 9
    inner = 4 + inside * torch.rand(
        batch, 3, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(6)
    )
    points = fixed_grid.to_world(inner)
    return Pair(
        fixed, moving, above(fixed, 0.55), above(moving, 0.55),
        above(fixed, 0.4, 0.6), above(moving, 0.4, 0.6),
        tuple(p.T for p in points), tuple(p.T for p in field.map_world(points)), field, names,
    )  # fmt: skip


def only(pair: Pair, names: frozenset[str]) -> Pair:
    """The pair with only its images and these fields."""
    rest: dict[str, Any] = dict.fromkeys(pair.has() - names - {"fixed", "moving", "name"})
    return replace(pair, **rest)


def disturbed(module: nn.Module, size: float = 0.02) -> None:
    """Add noise to every parameter, so that parameters that start at zero have an effect."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=size)


def without_gradient(
    make: Callable[[], nn.Module], output: Callable[[Any], list[Tensor]]
) -> list[str]:
    """Names of parameters without a gradient in three modules: one may be off by chance."""
    unused: list[set[str]] = []
    for seed in range(3):
        torch.manual_seed(seed)
        module = make()
        disturbed(module)
        torch.stack(
            [(found * torch.randn_like(found)).sum() for found in output(module)]
        ).sum().backward()
        gradients = {name: p.grad for name, p in module.named_parameters() if p.requires_grad}
        none = {n for n, g in gradients.items() if g is None or not bool(g.abs().sum() > 0)}
        unused.append(none)
    return sorted(set.intersection(*unused))


def difference(one: Transform, other: Transform, on: Grid, and_on: Grid | None = None) -> float:
    """Largest difference of two displacements, voxels of their grids."""
    return float(
        (one.displacement(on) - other.displacement(on if and_on is None else and_on)).abs().max()
    )
