"""Starts of a registration: initial alignments, and the worlds of translated images."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from lightning_reg.io.transform_files import TRANSFORM_ENDINGS
from lightning_reg.optimization.objective import Objective, Optimization, with_margin
from lightning_reg.registry import UserError, build
from lightning_reg.spatial import (
    Affine,
    BSpline,
    Composition,
    Displacement,
    Grid,
    Image,
    Pair,
    Transform,
    split_affine,
)

Array = NDArray[np.floating]


def identity(pair: Pair) -> Affine:
    """The map of the world onto itself, on the fixed grid."""
    return Affine(torch.eye(4, device=pair.fixed.tensor.device).unsqueeze(0), pair.fixed.grid)


class Start(ABC):
    """Initial alignment, registered under ``lightning_reg.starts``.

    Attributes:
        centered: whether the centres of the two grids are aligned first.
        searches: whether the start depends on the images' content; not allowed with a network.
    """

    centered: bool = False
    searches: bool = True

    @abstractmethod
    def __call__(self, pair: Pair, optimization: Optimization) -> Transform:
        """Compute the transform, fixed world to moving world, from which instance optimisation
        starts.

        Args:
            pair: preprocessed, of batch size 1; with ``centered``, both centres are at the world's
                origin.
            optimization: its objective measures the quality of an alignment.
        """


class HeadersStart(Start):
    """Alignment by the images' headers."""

    searches = False

    def __call__(self, pair: Pair, optimization: Optimization) -> Transform:
        return identity(pair)


class CentersStart(HeadersStart):
    """Alignment of the centres of the two grids."""

    centered = True


class AutoStart(Start):
    """The best of a few translations, see :func:`best_translation`."""

    def __call__(self, pair: Pair, optimization: Optimization) -> Transform:
        return best_translation(pair, optimization)


def build_start(name: str, network: bool) -> Start:
    """Build a start.

    Raises:
        UserError: no such start, or a start that searches is combined with a network.
    """
    if name.endswith(TRANSFORM_ENDINGS):
        raise UserError(
            f"start is {name}, and a registration does not start from a file: give headers, centers"
            " or auto. To continue from a transform, apply it to the moving image first, and"
            " register the result."
        )
    start = build("starts", name, Start)
    if network and start.searches:
        raise UserError(
            f"A model starts from the headers or from the centers; {name} is for methods without a"
            " model."
        )
    return start


def best_translation(pair: Pair, optimization: Optimization) -> Affine:
    """Choose the translation with the smallest objective of the first stage.

    Candidates are no translation and the translations that align the centres of the grids, of the
    intensities, and of the masks. Those with too little overlap are skipped.
    """
    stage = optimization.scaled()[0]
    objective = Objective(with_margin(pair, optimization.mask_margin), stage, optimization)
    moves = [np.zeros(3), (pair.moving.grid.center - pair.fixed.grid.center)[0]]
    moves.append(pair.moving.center_of_mass() - pair.fixed.center_of_mass())
    if pair.fixed_mask is not None and pair.moving_mask is not None:
        moves.append(pair.moving_mask.center_of_mass() - pair.fixed_mask.center_of_mass())
    tried: list[tuple[float, Affine]] = []
    for move in moves:
        matrix = translation(move)
        there = Grid(pair.fixed.grid.shape, matrix @ pair.fixed.grid.affine)
        if max(there.overlap(pair.moving.grid), pair.moving.grid.overlap(there)) < 0.25 and tried:
            continue
        on_device = torch.as_tensor(matrix, device=pair.fixed.tensor.device)
        transform = Affine(on_device, pair.fixed.grid)
        with torch.no_grad():
            tried.append((float(objective(transform)), transform))
    return min(tried, key=lambda candidate: candidate[0])[1]


def translation(move: Array) -> Array:
    """The matrix ``(1, 4, 4)`` that moves points by ``move`` ``(3,)`` mm."""
    matrix = np.eye(4)
    matrix[:3, 3] = move
    return matrix[None]


def shifted(pair: Pair, fixed_by: Array, moving_by: Array) -> Pair:
    """The pair with both images translated in the world.

    Args:
        fixed_by, moving_by: mm, ``(3,)``.
    """
    moves = {"fixed": fixed_by, "moving": moving_by}

    def image(side: str, image: Image) -> Image:
        grid = Grid(image.grid.shape, translation(moves[side]) @ image.grid.affine)
        return replace(image, grid=grid)

    return pair.changed(
        image, lambda side, points: points + torch.as_tensor(moves[side]).to(points)
    )


def between_worlds(
    transform: Transform, found_on: Grid, grid: Grid, fixed_origin: Array, moving_origin: Array
) -> Transform:
    """Convert a transform between two translated images to one between the original images.

    Args:
        transform: between the translated images, on the grid ``found_on``.
        grid: the same voxels in the fixed image's original world.
        fixed_origin, moving_origin: points ``(3,)`` of the original worlds that were moved to the
        origin, mm.
    """
    affine, rest = split_affine(transform, found_on)
    there, back = (torch.from_numpy(translation(m)) for m in (moving_origin, -fixed_origin))
    affine = there @ affine.cpu() @ back
    inner: Transform | None = None
    if isinstance(rest, BSpline):
        inner = BSpline(rest.control.cpu(), grid, rest.stride, rest.offset)
    elif rest is not None:
        inner = Displacement(rest.displacement(found_on).cpu(), grid)
    outer = Affine(affine, grid)
    if inner is None:
        return outer
    moves = not torch.allclose(affine[0], torch.eye(4, dtype=affine.dtype), atol=1e-12)
    return Composition([outer, inner]) if moves else inner
