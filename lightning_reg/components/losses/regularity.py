"""Terms of the transform alone.

Lengths are measured in the size of the fixed image (:attr:`~lightning_reg.spatial.Grid.size`): a deformation of a given shape costs the
same on a finer grid, at every level of a pyramid and in a larger body. The weights that the docstrings give are for similarities
in [0, 1] and, like all of them, starting points.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor

from lightning_reg import functional as LF
from lightning_reg.components.interfaces import Level, LossTerm
from lightning_reg.components.losses.region import MaskedTerm, Region
from lightning_reg.discovery import TrainingError
from lightning_reg.spatial import Affine, BSpline, Composition, IntegratedGradient, Pair, Transform, parts

T = TypeVar("T", bound=Transform)


class Diffusion(LossTerm):
    """Mean squared gradient of what the level added, its affine part apart. No unit; weights from 0.1 to 1 (LNCC)."""

    def forward(self, level: Level, pair: Pair) -> Tensor:
        return _roughness(LF.diffusion, level)


class Bending(LossTerm):
    """Bending energy of what the level added: the mean squared second derivatives, times the squared size of the image. No unit; weights
    from 1e-4 to 1e-2. The energy of a single B-spline is taken from its control points.
    """

    def forward(self, level: Level, pair: Pair) -> Tensor:
        return _squared_size(pair, level) * self._energy(level)

    @staticmethod
    def _energy(level: Level) -> Tensor:
        deformable = _deformable(level)
        if len(deformable) == 1 and isinstance(deformable[0], BSpline):
            spline = deformable[0]
            return LF.bspline_bending(spline.control, spline.grid.shape, spline.stride, spline.offset, spline.grid.spacing)
        return _roughness(LF.bending, level)


class Curvature(LossTerm):
    """Curvature energy of what the level added: half the mean squared Laplacian, times the squared size of the image. No unit; weights
    from 1e-4 to 1e-2.
    """

    def forward(self, level: Level, pair: Pair) -> Tensor:
        return _squared_size(pair, level) * _roughness(LF.curvature, level)


class TotalVariation(LossTerm):
    """Mean absolute gradient of what the level added, its affine part apart. No unit; weights from 0.01 to 0.1.

    Args:
        isotropic: the gradient's magnitude, which prefers no axis (:func:`~lightning_reg.functional.isotropic_total_variation`),
            instead of the sum of its absolute components (Li & Fan, 2018).
    """

    def __init__(self, isotropic: bool = False) -> None:
        super().__init__()
        self.isotropic = isotropic

    def forward(self, level: Level, pair: Pair) -> Tensor:
        return _roughness(LF.isotropic_total_variation if self.isotropic else LF.total_variation, level)


def _squared_size(pair: Pair, level: Level) -> Tensor:
    """Of the whole fixed image, also where the level sees a patch of it; ``(B or 1,)`` mm^2."""
    return LF.beside(pair.fixed.grid.size**2, level.fixed.tensor)


def _roughness(measure: Callable[[Tensor, LF.Array], Tensor], level: Level) -> Tensor:
    """A measure of the deformable part of what the level added, on the level's fixed grid; 0 where that is affine."""
    grid, deformable = level.fixed.grid, _deformable(level)
    if not deformable:
        return torch.zeros(level.fixed.tensor.shape[0], device=level.fixed.tensor.device)
    if len(deformable) == 1 and level.transform is deformable[0]:
        return measure(level.displacement, grid.spacing)
    return measure(Composition(deformable).displacement(grid), grid.spacing)


def _deformable(level: Level) -> list[Transform]:
    """The parts of what the level added that are not affine, outermost first."""
    return [part for part in parts(level.increment) if not isinstance(part, Affine)]


class Folding(MaskedTerm):
    """Mean of ``max(0, margin - det J)`` of the whole transform: 0 where nothing folds. No unit; weights from 1 to 10.

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
    """Mean squared distance of the points from where going there and back takes them, mm^2; weights from 1e-3 to 1e-1.

    Both directions are registered for it, each as a whole: not for stages that train on patches.
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
    """``|A - I|_1`` of the affine part's matrix about the fixed image's centre: the mean over its 12 numbers, translations as fractions of
    the image's size. No unit; weights up to 1e-2.

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
    """``|Phi - 1|_1``, the mean over voxels and components, of the integrated gradients ``Phi``. No unit; weights up to 1e-2.

    Source: Christodoulidis et al., 2018, equation 4.
    """

    def forward(self, level: Level, pair: Pair) -> Tensor:
        return (_part(level.increment, IntegratedGradient, "gradient_identity").gradient - 1).abs().flatten(1).mean(1)


def _part(transform: Transform, kind: type[T], term: str) -> T:
    found = [part for part in parts(transform) if isinstance(part, kind)]
    if len(found) != 1:
        raise TrainingError(
            f"The loss term '{term}' needs one {kind.__name__} part in the method's transform, which has {len(found)}; "
            f"add the head that makes it, or remove the term with ~method.loss.terms.{term}."
        )
    return found[0]
