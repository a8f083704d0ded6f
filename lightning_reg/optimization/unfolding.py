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
    """Remove folded voxels (det J <= 0 on the spline's grid) by averaging nearby control points
    with their neighbours.

    A penalty is evaluated on the coarse grid of an optimisation; a few voxels of the full grid may
    fold nevertheless. Other control points are not changed. Folding that remains after 40 rounds is
    kept.

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
        control = torch.where(F.max_pool3d(touched, 3, 1, 1) > 0, mean, spline.control)
        spline = BSpline(control, spline.grid, spline.stride, spline.offset)
    return spline


def _folded(spline: BSpline) -> Tensor:
    """Voxels ``(N, 3)`` whose determinant is 0 or less."""
    found = []
    for slab in slabs(spline.grid, halo=1):
        determinant = slab.inner(jacobian_determinant(spline.displacement(slab.wide)))
        found.append(
            (determinant[0, 0] <= 0).nonzero().to(spline.control.dtype)
            + spline.control.new_tensor([slab.first, 0, 0])
        )
    return torch.cat(found)
