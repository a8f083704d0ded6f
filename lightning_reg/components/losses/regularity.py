"""Regularity terms, which depend on the transform alone.

Lengths are measured relative to the size of the fixed image
(:attr:`~lightning_reg.spatial.Grid.size`): a deformation of a given shape has the same value on a
finer grid, at every level of a pyramid and in a larger body. The weights in the docstrings are
starting points for similarities in [0, 1].
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor

from lightning_reg import functional as LF
from lightning_reg.components.interfaces import Level, LossTerm
from lightning_reg.components.losses.region import MaskedTerm, Region
from lightning_reg.registry import TrainingError
from lightning_reg.spatial import (
    Affine,
    BSpline,
    Composition,
    IntegratedGradient,
    Pair,
    Transform,
    parts,
)

T = TypeVar("T", bound=Transform)


class Diffusion(LossTerm):
    """Mean squared gradient of the level's increment, without its affine part. No unit; weights
    from 0.1 to 1 (LNCC).
    """

    def forward(self, level: Level, pair: Pair) -> Tensor:
        return _roughness(LF.diffusion, level)


class Bending(LossTerm):
    """Bending energy of the level's increment: mean squared second derivatives, times the squared
    size of the image.

    No unit; weights from 1e-4 to 1e-2. The energy of a single B-spline is computed from its control
    points.
    """

    def forward(self, level: Level, pair: Pair) -> Tensor:
        return _squared_size(pair, level) * self._energy(level)

    @staticmethod
    def _energy(level: Level) -> Tensor:
        deformable = _deformable(level)
        if len(deformable) == 1 and isinstance(deformable[0], BSpline):
            spline = deformable[0]
            return LF.bspline_bending(
                spline.control, spline.grid.shape, spline.stride, spline.offset, spline.grid.spacing
            )
        return _roughness(LF.bending, level)


class Curvature(LossTerm):
    """Curvature energy of the level's increment: half the mean squared Laplacian, times the squared
    size of the image.

    No unit; weights from 1e-4 to 1e-2.
    """

    def forward(self, level: Level, pair: Pair) -> Tensor:
        return _squared_size(pair, level) * _roughness(LF.curvature, level)


class TotalVariation(LossTerm):
    """Mean absolute gradient of the level's increment, without its affine part. No unit; weights
    from 0.01 to 0.1.

    Args:
        isotropic: use the gradient's magnitude, which prefers no axis
            (:func:`~lightning_reg.functional.isotropic_total_variation`), instead of the sum of its
            absolute components (Li & Fan, 2018).
    """

    def __init__(self, isotropic: bool = False) -> None:
        super().__init__()
        self.isotropic = isotropic

    def forward(self, level: Level, pair: Pair) -> Tensor:
        measure = LF.isotropic_total_variation if self.isotropic else LF.total_variation
        return _roughness(measure, level)


def _squared_size(pair: Pair, level: Level) -> Tensor:
    """Return the squared size of the whole fixed image, even if the level uses a patch;
    ``(B or 1,)`` mm^2.
    """
    return LF.beside(pair.fixed.grid.size**2, level.fixed.tensor)


def _roughness(measure: Callable[[Tensor, LF.Array], Tensor], level: Level) -> Tensor:
    """Apply a measure to the deformable part of the level's increment, on the level's fixed grid; 0
    if it is affine.
    """
    grid, deformable = level.fixed.grid, _deformable(level)
    if not deformable:
        return torch.zeros(level.fixed.tensor.shape[0], device=level.fixed.tensor.device)
    if len(deformable) == 1 and level.transform is deformable[0]:
        return measure(level.displacement, grid.spacing)
    return measure(Composition(deformable).displacement(grid), grid.spacing)


def _deformable(level: Level) -> list[Transform]:
    """Return the non-affine parts of the level's increment, outermost first."""
    return [part for part in parts(level.increment) if not isinstance(part, Affine)]


class Folding(MaskedTerm):
    """Mean of ``max(0, margin - det J)`` of the whole transform; 0 without folding. No unit;
    weights from 1 to 10.

    Args:
        margin: determinants below this are penalised.
        mask: see :class:`~lightning_reg.components.losses.region.MaskedTerm`.
    """

    def __init__(self, margin: float = 0.0, mask: Region = "none") -> None:
        super().__init__(mask)
        self.margin = margin

    def forward(self, level: Level, pair: Pair) -> Tensor:
        return LF.folding_penalty(level.displacement, self.margin, self.region(level, pair))


class InverseConsistency(MaskedTerm):
    """Mean squared distance of points from their position after mapping forward and back, mm^2;
    weights from 1e-3 to 1e-1.

    Both directions are registered for this term, each on whole images: do not use it in stages that
    train on patches.
    Source: Christensen & Johnson, IEEE TMI 20(7), 2001.
    """

    reverse = True

    def forward(self, level: Level, pair: Pair) -> Tensor:
        assert level.reverse is not None
        grid = level.fixed.grid
        round_trip = Composition([level.reverse.transform, level.transform]).displacement(grid)
        square = (round_trip * LF.beside(grid.spacing, round_trip).view(-1, 3, 1, 1, 1)) ** 2
        return LF.masked_mean(square.sum(1, keepdim=True), self.region(level, pair))


class AffineIdentity(LossTerm):
    """``|A - I|_1`` of the affine part's matrix about the fixed image's centre. No unit; weights up
    to 1e-2.

    It is the mean over the 12 numbers of the matrix, with translations as fractions of the image's
    size.

    Source: Christodoulidis et al., 2018, equation 4.
    """

    def forward(self, level: Level, pair: Pair) -> Tensor:
        matrix = _part(level.increment, Affine, "affine_identity").matrix
        center = LF.beside(level.fixed.grid.center, matrix).unsqueeze(2)
        identity = torch.eye(3, dtype=matrix.dtype, device=matrix.device)
        linear = matrix[:, :3, :3] - identity
        shift = (linear @ center).squeeze(2) + matrix[:, :3, 3]
        size = LF.beside(pair.fixed.grid.size, matrix)
        return (linear.abs().sum((1, 2)) + shift.abs().sum(1) / size) / 12


class GradientIdentity(LossTerm):
    """``|Phi - 1|_1``, the mean over voxels and components, of the integrated gradients ``Phi``. No
    unit; weights up to 1e-2.

    Source: Christodoulidis et al., 2018, equation 4.
    """

    def forward(self, level: Level, pair: Pair) -> Tensor:
        gradient = _part(level.increment, IntegratedGradient, "gradient_identity").gradient
        return (gradient - 1).abs().flatten(1).mean(1)


def _part(transform: Transform, kind: type[T], term: str) -> T:
    found = [part for part in parts(transform) if isinstance(part, kind)]
    if len(found) != 1:
        raise TrainingError(
            f"The loss term '{term}' needs one {kind.__name__} part in the method's transform,"
            f" which has {len(found)}; add the head that makes it, or leave the term out."
        )
    return found[0]
