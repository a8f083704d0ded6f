"""Starts of a registration: how the two images lie to each other before anything is fitted."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch

from lightning_reg.inference.alignment import best_translation
from lightning_reg.inference.optimization.objective import Optimization
from lightning_reg.spatial import Affine, Pair, Transform


def identity(pair: Pair) -> Affine:
    """The map of the world onto itself, on the fixed grid."""
    return Affine(torch.eye(4, device=pair.fixed.tensor.device).unsqueeze(0), pair.fixed.grid)


class Start(ABC):
    """A first alignment, registered under ``lightning_reg.starts``.

    Attributes:
        centered: the centres of the two grids are put on each other first.
        searches: it looks at the images, which only registration without a network allows.
    """

    centered: bool = False
    searches: bool = True

    @abstractmethod
    def __call__(self, pair: Pair, optimization: Optimization) -> Transform:
        """The transform, fixed world to moving world, that instance optimisation starts from.

        Args:
            pair: preprocessed, of batch size 1; where ``centered``, both centres lie at the world's origin.
            optimization: whose objective says how good an alignment is.
        """


class HeadersStart(Start):
    """As the images' headers relate them."""

    searches = False

    def __call__(self, pair: Pair, optimization: Optimization) -> Transform:
        return identity(pair)


class CentersStart(HeadersStart):
    """With the centres of the two grids on each other."""

    centered = True


class AutoStart(Start):
    """The best of a few translations, see :func:`~lightning_reg.inference.alignment.best_translation`."""

    def __call__(self, pair: Pair, optimization: Optimization) -> Transform:
        return best_translation(pair, optimization)
