"""Where an optimisation without a network begins."""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_reg.inference.optimization import Objective, Optimization, with_margin
from lightning_reg.spatial import Affine, Grid, Image, Pair


def best_translation(pair: Pair, optimization: Optimization) -> Affine:
    """The translation among a few that makes the first stage's objective smallest: none, and those that put the centres of the grids,
    of the intensities, and of the masks on each other."""
    stage = next(s for s in optimization.staged() if s.steps > 0)
    objective = Objective(with_margin(pair, optimization.mask_margin), stage, optimization)
    moves = [torch.zeros(3, dtype=torch.float64), (pair.moving.grid.center - pair.fixed.grid.center)[0]]
    moves.append(_center_of_mass(pair.moving) - _center_of_mass(pair.fixed))
    if pair.fixed_mask is not None and pair.moving_mask is not None:
        moves.append(_center_of_mass(pair.moving_mask) - _center_of_mass(pair.fixed_mask))
    tried: list[tuple[float, Affine]] = []
    for move in moves:
        matrix = translation(move)
        there = Grid(pair.fixed.grid.shape, matrix @ pair.fixed.grid.affine)
        if max(there.overlap(pair.moving.grid), pair.moving.grid.overlap(there)) < 0.25 and tried:
            continue
        transform = Affine(matrix.to(pair.fixed.tensor.device), pair.fixed.grid)
        with torch.no_grad():
            tried.append((float(objective(transform)), transform))
    return min(tried, key=lambda candidate: candidate[0])[1]


def _center_of_mass(image: Image) -> Tensor:
    """World position ``(3,)``; intensities are weights."""
    weight = image.tensor[0, 0].double().cpu()
    total = weight.sum().clamp_min(1e-12)
    axes = [weight.sum([b for b in range(3) if b != a]) for a in range(3)]
    voxel = torch.stack([(w * torch.arange(len(w), dtype=torch.float64)).sum() / total for w in axes])
    return image.grid.to_world(voxel.view(1, 3, 1))[0, :, 0]


def translation(move: Tensor) -> Tensor:
    """The matrix ``(1, 4, 4)`` in float64 that moves points by ``move`` ``(3,)`` mm."""
    matrix = torch.eye(4, dtype=torch.float64)
    matrix[:3, 3] = move
    return matrix.unsqueeze(0)
