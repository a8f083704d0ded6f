"""Supervised pairs from single scans: two random smooth transforms, one to augment, one to be learned."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lightning_reg.data.scans import Scan
from lightning_reg.functional import bspline, compose, identity_points, resize_displacement, sample
from lightning_reg.spatial import Displacement, Pair


@dataclass(frozen=True)
class RandomBSpline:
    """A random cubic B-spline displacement.

    Args:
        lattice: control points per axis, from the first to the last voxel.
        amplitude: control points move uniformly within plus and minus this fraction of the extent, along every axis.
    """

    lattice: int
    amplitude: float

    def draw(self, shape: Sequence[int], rng: np.random.Generator) -> Tensor:
        """One displacement ``(1, 3, *shape)`` in voxels."""
        n = self.lattice
        reach = torch.tensor([self.amplitude * s for s in shape], dtype=torch.float32).view(1, 3, 1, 1, 1)
        control = torch.from_numpy(rng.uniform(-1, 1, size=(1, 3, n, n, n)).astype(np.float32)) * reach
        stride = [(s - 1) / (n - 1) for s in shape]
        return bspline(control, shape, stride, [0.0, 0.0, 0.0])


@dataclass(frozen=True)
class SyntheticDeformation:
    """The transforms of method 1 (Eppenhof et al., 2019, Section 2.5), as fractions of the extent: there, of 128 voxels.

    With ``T_augment`` and ``T_learned``, the moving image is ``I[T_augment(x)]``, the fixed one ``I[T_augment(T_learned(x))]``,
    and the true transform ``T_learned``.

    Args:
        augment: the parts of ``T_augment``, each ``{lattice, amplitude}``, the first acting first.
        learned: the parts of ``T_learned``.
        working_stride: the fields are drawn and composed on a grid this much coarser, then interpolated; they are smooth,
            and the interpolated field is the truth that is returned.
    """

    augment: Sequence[Mapping[str, Any]] = ({"lattice": 2, "amplitude": 0.1},)
    learned: Sequence[Mapping[str, Any]] = ({"lattice": 4, "amplitude": 0.2}, {"lattice": 8, "amplitude": 0.05})
    working_stride: int = 2

    def draw(self, scan: Scan, rng: np.random.Generator) -> Pair:
        """A pair on the scan's grid, with its true transform."""
        shape = scan.image.grid.shape
        coarse = [max(-(-n // self.working_stride), 2) for n in shape]
        augment = self._sequence(self.augment, coarse, rng)
        learned = self._sequence(self.learned, coarse, rng)
        moving_field = resize_displacement(augment, shape)
        fixed_field = resize_displacement(compose(augment, learned), shape)
        truth = Displacement(resize_displacement(learned, shape), scan.image.grid)
        fixed, moving = _deform(scan, fixed_field), _deform(scan, moving_field)
        return Pair(
            fixed.image, moving.image, fixed.mask, moving.mask, fixed.labels, moving.labels, truth=truth, name=(f"{scan.name} (synthetic)",)
        )

    @staticmethod
    def _sequence(parts: Sequence[Mapping[str, Any]], shape: Sequence[int], rng: np.random.Generator) -> Tensor:
        total: Tensor | None = None
        for part in parts:
            drawn = RandomBSpline(**part).draw(shape, rng)
            total = drawn if total is None else compose(drawn, total)
        return torch.zeros(1, 3, *shape) if total is None else total


def _deform(scan: Scan, displacement: Tensor) -> Scan:
    """The scan pulled through a displacement in voxels of its grid; mask and labels in one sampling."""
    points = displacement + identity_points(displacement.shape[2:])
    image = replace(scan.image, tensor=sample(scan.image.tensor, points, padding=scan.image.padding))
    discrete = [part for part in (scan.mask, scan.labels) if part is not None]
    if not discrete:
        return Scan(scan.name, image)
    pulled = sample(torch.cat([part.tensor for part in discrete], dim=1), points, "nearest").split(1, dim=1)
    parts = iter([replace(part, tensor=tensor) for part, tensor in zip(discrete, pulled, strict=True)])
    mask = None if scan.mask is None else next(parts)
    return Scan(scan.name, image, mask, None if scan.labels is None else next(parts))
