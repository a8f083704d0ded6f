"""Removal of the last folded voxels of a B-spline."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_reg.functional import jacobian_determinant
from lightning_reg.spatial import BSpline, slabs

ROUNDS = 40


@torch.no_grad()
def unfolded(spline: BSpline) -> BSpline:
    """The spline, its control points near folded voxels (det J <= 0 on its grid) averaged with their neighbours until none is folded.

    A penalty sees an optimisation's coarse grid; between its points a few voxels of the whole grid may fold all the same. Elsewhere
    nothing changes. After 40 rounds what is left is left.

    Args:
        spline: of batch size 1.
    """
    for _ in range(ROUNDS):
        folded = _folded(spline)
        if folded.shape[0] == 0:
            break
        stride, offset = (folded.new_tensor(values) for values in (spline.stride, spline.offset))
        near = ((folded - offset) / stride).round().long()
        touched = torch.zeros_like(spline.control[:, :1])
        touched[0, 0, near[:, 0], near[:, 1], near[:, 2]] = 1
        mean = F.avg_pool3d(spline.control, 3, 1, 1, count_include_pad=False)
        spline = BSpline(torch.where(F.max_pool3d(touched, 3, 1, 1) > 0, mean, spline.control), spline.grid, spline.stride, spline.offset)
    return spline


def _folded(spline: BSpline) -> Tensor:
    """Voxels ``(N, 3)`` whose determinant is 0 or less."""
    found = []
    for slab in slabs(spline.grid, halo=1):
        determinant = slab.inner(jacobian_determinant(spline.displacement(slab.wide)))
        found.append((determinant[0, 0] <= 0).nonzero().to(spline.control.dtype) + spline.control.new_tensor([slab.first, 0, 0]))
    return torch.cat(found)
