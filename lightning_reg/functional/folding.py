"""Folding penalty, with its gradient."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lightning_reg.functional.derivative import first_only
from lightning_reg.functional.jacobian import jacobian_determinant
from lightning_reg.functional.reduce import masked_mean


def folding_penalty(
    displacement: Tensor, margin: float = 0.0, mask: Tensor | None = None
) -> Tensor:
    """Mean of ``max(0, margin - det J)`` of ``phi(x) = x + u(x)``, ``(B,)``: 0 where every
    determinant is at least ``margin``.

    Args:
        displacement: ``(B, 3, I, J, K)`` in voxels; not of two axes.
        margin: determinants below this are penalised.
        mask: ``(B, 1, I, J, K)``, weights in [0, 1]; it receives no gradient.

    The gradient is computed only at the few voxels whose determinant is below ``margin``.

    Raises:
        ValueError: a displacement of two axes.
    """
    if displacement.dim() != 5:
        raise ValueError(
            f"folding_penalty: displacement is {tuple(displacement.shape)}; give (B, 3, I, J, K)"
        )
    value: Tensor = _Folding.apply(displacement, margin, mask)
    return value


class _Folding(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, displacement: Tensor, margin: float, mask: Tensor | None) -> Tensor:
        excess = (margin - jacobian_determinant(displacement)).clamp_min_(0)
        ctx.save_for_backward(displacement, mask)
        ctx.where = excess.nonzero(as_tuple=True)
        return masked_mean(excess, mask)

    @staticmethod
    @first_only("folding_penalty")
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, None, None]:
        displacement, mask = ctx.saved_tensors
        batch, _, *place = ctx.where
        if mask is None:
            share = upstream[batch] / displacement[0, 0].numel()
        else:
            weight = mask.to(displacement.dtype).expand(displacement.shape[0], -1, -1, -1, -1)
            share = (
                upstream[batch]
                * weight[batch, 0, place[0], place[1], place[2]]
                / weight.flatten(1).sum(1).clamp_min(1e-6)[batch]
            )
        gradient = torch.zeros_like(displacement)
        ends, columns = [], []
        for axis, n in enumerate(displacement.shape[2:]):
            low, high = list(place), list(place)
            low[axis], high[axis] = (
                (place[axis] - 1).clamp_min(0),
                (place[axis] + 1).clamp_max(n - 1),
            )
            # 1 along an axis of one voxel, where both ends are the same voxel
            step = (high[axis] - low[axis]).clamp_min(1).to(displacement.dtype).unsqueeze(1)
            ends.append((low, high, step))
            column = (
                displacement[batch, :, high[0], high[1], high[2]]
                - displacement[batch, :, low[0], low[1], low[2]]
            ) / step
            column[:, axis] += 1
            columns.append(column)
        # d det / d column: cross product of the other two
        for axis, (low, high, step) in enumerate(ends):
            change = torch.linalg.cross(columns[(axis + 1) % 3], columns[(axis + 2) % 3]) * (
                -share.unsqueeze(1) / step
            )
            for component in range(3):
                gradient[:, component].index_put_(
                    (batch, *high), change[:, component], accumulate=True
                )
                gradient[:, component].index_put_(
                    (batch, *low), -change[:, component], accumulate=True
                )
        return gradient, None, None
