"""Supervised pairs from single scans by two smooth transforms: augmenting, and learned."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from scipy.ndimage import gaussian_filter, spline_filter
from torch import Tensor

from lightning_reg.data.scans import Scan
from lightning_reg.functional import (
    bspline,
    compose,
    identity_points,
    jacobian_determinant,
    resize,
    resize_displacement,
    sample,
    warp,
)
from lightning_reg.functional.warp import Padding
from lightning_reg.registry import Checked, Length, Range, construct
from lightning_reg.spatial import Displacement, Image, Pair

VOLUMES = (0.3, 3.0)
"""Range of volume changes that are applied to a lung's density."""
Points = Annotated[int, Range(2, of="points")]


@dataclass(frozen=True)
class RandomBSpline(Checked):
    """A random cubic B-spline displacement: values drawn uniformly on a lattice.

    Args:
        lattice: lattice points per axis, from the first to the last voxel; one number for all axes,
            or one per axis.
        amplitude: values are within plus and minus this fraction of the image's extent; one number,
            or one per component.
        spline: ``approximating``: the values are control points, which the spline does not reach
            (for a 4^3 lattice, its root mean square is about 0.4 of theirs); ``interpolating``: the
            spline has these values at the lattice points (SciPy's prefilter).
    """

    lattice: Points | Annotated[Sequence[Points], Length(3)]
    amplitude: float | Sequence[float]
    spline: Literal["approximating", "interpolating"] = "approximating"

    def _lattice(self) -> list[int]:
        return [self.lattice] * 3 if isinstance(self.lattice, int) else list(self.lattice)

    def draw(self, shape: Sequence[int], rng: np.random.Generator) -> Tensor:
        """Draw a displacement ``(1, 3, *shape)`` in voxels; 0 along an axis of one voxel."""
        lattice = self._lattice()
        amplitude = (
            [self.amplitude] * 3
            if isinstance(self.amplitude, (int, float))
            else list(self.amplitude)
        )
        reach = np.array(
            [a * s if s > 1 else 0 for a, s in zip(amplitude, shape, strict=True)], dtype=np.float32
        ).reshape(3, 1, 1, 1)
        values = rng.uniform(-1, 1, size=(3, *lattice)).astype(np.float32) * reach
        stride = [max(s - 1, 1) / (n - 1) for s, n in zip(shape, lattice, strict=True)]
        if self.spline == "approximating":
            return bspline(torch.from_numpy(values)[None], shape, stride, [0.0, 0.0, 0.0])
        control = [spline_filter(v, order=3, mode="mirror", output=np.float32) for v in values]
        mirrored = F.pad(torch.from_numpy(np.stack(control))[None], [1] * 6, mode="reflect")
        return bspline(mirrored, shape, stride, [-s for s in stride])


@dataclass(frozen=True)
class SyntheticDeformation(Checked):
    """The transforms of method 1 (Eppenhof et al., 2019, Section 2.5). Amplitudes are fractions of
    the extent (128 voxels in the paper).

    With ``T_augment`` and ``T_learned``, the moving image is ``I[T_augment(x)]``, the fixed one
    ``I[T_augment(T_learned(x))]``, and the true transform is ``T_learned``.

    Args:
        augment: the parts of ``T_augment``, each given by arguments of :class:`RandomBSpline`; the
            first part acts first.
        learned: the parts of ``T_learned``, likewise.
        working_stride: the fields are drawn and composed on a grid coarser by this factor, then
            interpolated. The interpolated field is returned as the true one.
        outside: values used where the transforms reach beyond the scan: ``padding`` (air) or the
            repeated ``border``. If the body extends beyond the field of view, use ``border``: the
            edge of padded air would move with the field, which no real pair shows.
        sliding: simulate organs that slide along the body wall: the third component of
            ``T_learned`` falls to 0 over about this many mm across the outline of the mask
            projected along the third axis (the lungs of a canonical CT, seen from above). ``null``:
            no sliding. (Not in the paper, like ``density``.)
        density: multiply the fixed image's intensities (0 in air) inside the mask by the Jacobian
            determinant of ``T_learned``: the density of a lung falls as it takes in air.

    ``sliding`` and ``density`` have an effect only if the scan has a mask.
    """

    augment: Sequence[Mapping[str, Any]] = ({"lattice": 2, "amplitude": 0.1},)
    learned: Sequence[Mapping[str, Any]] = (
        {"lattice": 4, "amplitude": 0.2},
        {"lattice": 8, "amplitude": 0.05},
    )
    working_stride: int = 2
    outside: Literal["padding", "border"] = "padding"
    sliding: Annotated[float, Range(above=0, of="mm")] | None = None
    density: bool = False

    def draw(self, scan: Scan, rng: np.random.Generator) -> Pair:
        """Draw a pair on the scan's grid, with its true transform."""
        shape = scan.image.grid.shape
        coarse = [n if n == 1 else max(-(-n // self.working_stride), 2) for n in shape]
        augment = self._sequence(self.augment, coarse, rng)
        learned = self._sequence(self.learned, coarse, rng)
        if self.sliding is not None and scan.mask is not None:
            inside = warp(
                resize(_seen_from_above(scan.mask, self.sliding), coarse), augment, padding="border"
            )
            learned = torch.cat([learned[:, :2], learned[:, 2:] * inside], dim=1)
        moving_field = resize_displacement(augment, shape)
        fixed_field = resize_displacement(compose(augment, learned), shape)
        truth = Displacement(resize_displacement(learned, shape), scan.image.grid)
        fixed, moving = self._deform(scan, fixed_field), self._deform(scan, moving_field)
        image = self._thinned(fixed, truth) if self.density else fixed.image
        return Pair(
            image,
            moving.image,
            fixed.mask,
            moving.mask,
            fixed.labels,
            moving.labels,
            truth=truth,
            name=(f"{scan.name} (synthetic)",),
        )

    @staticmethod
    def _sequence(
        parts: Sequence[Mapping[str, Any]], shape: Sequence[int], rng: np.random.Generator
    ) -> Tensor:
        total: Tensor | None = None
        for part in parts:
            drawn = construct("synthetic", RandomBSpline, part).draw(shape, rng)
            total = drawn if total is None else compose(drawn, total)
        return torch.zeros(1, 3, *shape) if total is None else total

    def _deform(self, scan: Scan, displacement: Tensor) -> Scan:
        """Warp a scan by a displacement in its voxels; mask and labels are sampled together."""
        points = displacement + identity_points(displacement.shape[2:])
        outside: Padding = scan.image.padding if self.outside == "padding" else "border"
        image = replace(scan.image, tensor=sample(scan.image.tensor, points, padding=outside))
        discrete = [part for part in (scan.mask, scan.labels) if part is not None]
        if not discrete:
            return Scan(scan.name, image)
        pulled = sample(
            torch.cat([part.tensor for part in discrete], dim=1), points, "nearest"
        ).split(1, dim=1)
        parts = iter(
            [replace(part, tensor=tensor) for part, tensor in zip(discrete, pulled, strict=True)]
        )
        mask = None if scan.mask is None else next(parts)
        return Scan(scan.name, image, mask, None if scan.labels is None else next(parts))

    @staticmethod
    def _thinned(fixed: Scan, truth: Displacement) -> Image:
        """Multiply intensities in the mask by the change of volume from fixed to moving image."""
        if fixed.mask is None:
            return fixed.image
        volume = jacobian_determinant(truth.field).clamp(*VOLUMES)
        return replace(
            fixed.image, tensor=fixed.image.tensor * volume.where(fixed.mask.tensor > 0, 1.0)
        )


def _seen_from_above(mask: Image, softness: float) -> Tensor:
    """Project a mask along the third axis, ``(1, 1, I, J, K)``; softened by ``softness`` mm."""
    outline = (mask.tensor[0, 0] > 0).float().amax(2)
    widths = [softness / s for s in mask.grid.spacing[0, :2].tolist()]
    smooth = torch.from_numpy(gaussian_filter(outline.numpy(), widths, mode="nearest"))
    inside = (1.25 * smooth).clamp(0, 1)  # a smoothed mask does not reach 1 inside a lung
    return inside[None, None, :, :, None].expand(1, 1, *mask.grid.shape)
