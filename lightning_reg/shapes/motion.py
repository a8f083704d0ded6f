"""Random invertible maps: affine, smooth at several scales, sliding along boundaries."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from scipy.ndimage import distance_transform_edt
from torch import Tensor

from lightning_reg.functional import (
    affine_matrix,
    box_mean,
    exponentiate,
    identity_points,
    resize_displacement,
    sample,
    transform_points,
)
from lightning_reg.shapes.noise import chance, smooth_noise, uniform


@dataclass(frozen=True)
class Motion:
    """An invertible map of points in voxels, ``x -> slide(A(x + u(x)))``.

    Args:
        matrix: ``(1, 4, 4)``, the affine map ``A`` of voxel coordinates.
        there, back: displacements ``(1, 3, *S)`` of the smooth map and of its inverse, voxels.
        slide, unslide: displacements ``(1, 3, *C)`` on the canvas of the sliding map and of its
            inverse, voxels; ``None``: no sliding.
        offset: voxel of the canvas that lies at the origin of the coordinates, the same on all
            axes.
    """

    matrix: Tensor
    there: Tensor
    back: Tensor
    slide: Tensor | None = None
    unslide: Tensor | None = None
    offset: int = 0

    def points(self) -> Tensor:
        """Mapped positions of all voxels, ``(1, 3, *S)``."""
        identity = identity_points(self.there.shape[2:], device=self.there.device)
        points = transform_points(self.matrix, identity + self.there)
        return points if self.slide is None else points + self._on_canvas(self.slide, points)

    def back_from(self, points: Tensor) -> Tensor:
        """The inverse map at any points, ``(1, 3, *any)``."""
        if self.unslide is not None:
            points = points + self._on_canvas(self.unslide, points)
        points = transform_points(torch.linalg.inv(self.matrix), points)
        return points + sample(self.back, points, padding="border")

    def _on_canvas(self, displacement: Tensor, points: Tensor) -> Tensor:
        return sample(displacement, points + self.offset, padding="border")


@dataclass(frozen=True)
class RandomMotion:
    """Distribution of maps. Every draw is scaled by a factor of its own between 0 and 1.

    Args:
        rotation: largest angle, degrees, about a random axis through the centre.
        scale: largest change of size along an axis, fraction.
        shear: largest shear, fraction.
        shift: largest translation along an axis, fraction of the extent.
        amplitude: largest root mean square of the smooth displacement, fraction of the extent.
        scales: distances of the velocity's control points, fractions of the extent, coarse to fine;
            the amplitude falls in proportion.
        sliding: probability that tissue slides along the boundary of a random set of structures.
        slip: largest root mean square of the sliding displacement, fraction of the extent.
    """

    rotation: float = 25.0
    scale: float = 0.15
    shear: float = 0.1
    shift: float = 0.2
    amplitude: float = 0.04
    scales: Sequence[float] = (0.3, 0.15, 0.08)
    sliding: float = 0.2
    slip: float = 0.03

    def scaled(self, factor: float) -> RandomMotion:
        """Return the distribution of motions that are this many times as large."""
        sizes = ("rotation", "scale", "shear", "shift", "amplitude", "slip")
        return replace(self, **{name: factor * getattr(self, name) for name in sizes})

    def draw(
        self,
        shape: Sequence[int],
        generator: torch.Generator,
        canvas: Tensor | None = None,
        offset: int = 0,
    ) -> Motion:
        """Draw a map.

        Args:
            shape: extents of the image, voxels.
            canvas: label map ``(1, 1, *C)`` around the image, along whose boundaries tissue slides;
                ``None``: no sliding.
            offset: voxel of the canvas that lies at the image's first voxel, on all axes.
        """
        there, back = self._smooth(shape, generator)
        matrix = self._affine(shape, generator)
        if canvas is None or not chance(generator, self.sliding):
            return Motion(matrix, there, back)
        return Motion(matrix, there, back, *self._slide(canvas, generator), offset)

    def _affine(self, shape: Sequence[int], generator: torch.Generator) -> Tensor:
        strength = uniform(generator, 0, 1)
        extent = torch.tensor([float(n) for n in shape])
        axis = F.normalize(
            torch.randn(3, generator=generator, device=generator.device).cpu(), dim=0
        )

        def three(largest: float) -> Tensor:
            values = [uniform(generator, -largest, largest) for _ in range(3)]
            return strength * torch.tensor(values)

        angle = strength * math.radians(uniform(generator, 0, self.rotation))
        translation, scale, shear = three(self.shift) * extent, three(self.scale), three(self.shear)
        parameters = torch.cat([translation, angle * axis, scale.exp(), shear])
        return affine_matrix(parameters[None], (extent - 1)[None] / 2).to(generator.device)

    def _smooth(self, shape: Sequence[int], generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Draw a velocity on a grid of half the extents; return its flow and the inverse flow."""
        half = [-(-n // 2) for n in shape]
        size = min(half)
        parts = [s * smooth_noise(half, s * size, 3, generator) for s in self.scales]
        velocity = torch.stack(parts).sum(0)
        amplitude = uniform(generator, 0, 1) * self.amplitude * size
        velocity = velocity * (amplitude / _spread(velocity))
        flows = (exponentiate(sign * velocity, 5) for sign in (1, -1))
        there, back = (resize_displacement(flow, shape) for flow in flows)
        return there, back

    def _slide(self, canvas: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Draw a flow along the boundary of a random set of structures, inside it, and its inverse.

        The velocity is the cross product of two gradients, of the distance from the boundary and of
        a random function: tangential to the boundary, and free of divergence inside.
        """
        shape = canvas.shape[2:]
        half = [-(-n // 2) for n in shape]
        values = canvas.unique()
        drawn = torch.rand(len(values), generator=generator, device=generator.device) < 0.5
        chosen = values[drawn & (values > 0)]
        inside = F.interpolate(torch.isin(canvas, chosen).float(), half, mode="trilinear") > 0.5
        depth = torch.from_numpy(distance_transform_edt(inside[0, 0].cpu().numpy())).float()
        level = box_mean(depth.to(canvas.device)[None, None], 3)
        other = smooth_noise(half, uniform(generator, 0.3, 0.6) * min(half), 1, generator)
        first, second = (torch.cat(torch.gradient(f, dim=(2, 3, 4)), dim=1) for f in (level, other))
        velocity = torch.linalg.cross(first, second, dim=1) * inside
        amplitude = uniform(generator, 0, 1) * self.slip * min(half)
        velocity = velocity * (amplitude / _spread(velocity)) if bool(inside.any()) else velocity
        velocity = velocity.clamp(-0.25 * min(half), 0.25 * min(half))
        flows = (exponentiate(sign * velocity, 6) for sign in (1, -1))
        there, back = (resize_displacement(flow, shape) for flow in flows)
        return there, back


def _spread(velocity: Tensor) -> float:
    """Root mean square of the vectors' length, at least 1e-6."""
    return max(1e-6, float(velocity.square().sum(1).mean().sqrt()))
