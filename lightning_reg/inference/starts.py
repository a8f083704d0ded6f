"""Starts of a registration: initial alignments of the two images."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch

from lightning_reg.inference.alignment import best_translation
from lightning_reg.io.transform_files import TRANSFORM_ENDINGS
from lightning_reg.optimization.objective import Optimization
from lightning_reg.registry import UserError, build
from lightning_reg.spatial import Affine, Pair, Transform


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
    """The best of a few translations, see
    :func:`~lightning_reg.inference.alignment.best_translation`.
    """

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
