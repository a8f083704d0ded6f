"""Image similarity terms, each a call of a function in ``lightning_reg.functional``. Smaller values
mean more similar images.
"""

from __future__ import annotations

from typing import Annotated

from torch import Tensor

from lightning_reg import functional as LF
from lightning_reg.components.interfaces import Level
from lightning_reg.components.losses.region import MaskedTerm, Region
from lightning_reg.registry import Range
from lightning_reg.spatial import Pair


class SSD(MaskedTerm):
    """Mean squared intensity difference."""

    def forward(self, level: Level, pair: Pair) -> Tensor:
        return LF.ssd(level.fixed.tensor, level.warped.tensor, self.region(level, pair))


class NCC(MaskedTerm):
    """One minus the global normalised cross-correlation."""

    def forward(self, level: Level, pair: Pair) -> Tensor:
        return 1 - LF.ncc(level.fixed.tensor, level.warped.tensor, self.region(level, pair))


Window = Annotated[int, Range(1, odd=True, of="voxels")]


class LNCC(MaskedTerm):
    """One minus the mean squared local cross-correlation.

    Args:
        window: edge of the local window, voxels, odd.
        mask: see :class:`~lightning_reg.components.losses.region.MaskedTerm`.
    """

    def __init__(self, window: Window = 9, mask: Region = "none") -> None:
        super().__init__(mask)
        self.window = window

    def forward(self, level: Level, pair: Pair) -> Tensor:
        region = self.region(level, pair)
        return 1 - LF.lncc(level.fixed.tensor, level.warped.tensor, self.window, region)


class SSIM(MaskedTerm):
    """One minus the mean structural similarity.

    Args:
        window: edge of the Gaussian window, voxels, odd.
        mask: see :class:`~lightning_reg.components.losses.region.MaskedTerm`.
    """

    def __init__(self, window: Window = 7, mask: Region = "none") -> None:
        super().__init__(mask)
        self.window = window

    def forward(self, level: Level, pair: Pair) -> Tensor:
        region = self.region(level, pair)
        return 1 - LF.ssim(level.fixed.tensor, level.warped.tensor, self.window, region)


class NGF(MaskedTerm):
    """Normalised gradient fields, for images whose edges have the same positions but different
    contrast.

    Args:
        edge: edge parameter, as a multiple of the image's mean gradient; much smaller gradients are
            treated as noise. The mean is computed per image at the level's resolution, because
            pooling reduces gradients: with a fixed value, edges would be treated as noise at coarse
            levels.
        mask: see :class:`~lightning_reg.components.losses.region.MaskedTerm`.
    """

    def __init__(self, edge: float = 1.0, mask: Region = "none") -> None:
        super().__init__(mask)
        self.edge = edge

    def forward(self, level: Level, pair: Pair) -> Tensor:
        images = (level.fixed, level.moving)
        edges = [
            self.edge * LF.mean_gradient(image.tensor, image.grid.spacing).clamp_min(1e-8)
            for image in images
        ]
        fixed, warped, region = level.fixed.tensor, level.warped.tensor, self.region(level, pair)
        return LF.ngf(fixed, warped, (edges[0], edges[1]), level.fixed.grid.spacing, region)


class MutualInformation(MaskedTerm):
    """Negative mutual information, nats.

    Args:
        bins: number of bins per image in the joint histogram.
        mask: see :class:`~lightning_reg.components.losses.region.MaskedTerm`.
    """

    def __init__(self, bins: int = 32, mask: Region = "none") -> None:
        super().__init__(mask)
        self.bins = bins

    def forward(self, level: Level, pair: Pair) -> Tensor:
        region = self.region(level, pair)
        return -LF.mutual_information(level.fixed.tensor, level.warped.tensor, self.bins, region)


class MIND(MaskedTerm):
    """Mean squared difference of self-similarity contexts (MIND-SSC), for images of different
    modalities.

    Args:
        radius, dilation: see :func:`lightning_reg.functional.mind_ssc`.
        mask: see :class:`~lightning_reg.components.losses.region.MaskedTerm`.
    """

    def __init__(self, radius: int = 1, dilation: int = 2, mask: Region = "none") -> None:
        super().__init__(mask)
        self.radius, self.dilation = radius, dilation

    def forward(self, level: Level, pair: Pair) -> Tensor:
        fixed, warped = (
            LF.mind_ssc(image.tensor, self.radius, self.dilation)
            for image in (level.fixed, level.warped)
        )
        return LF.ssd(fixed, warped, self.region(level, pair))
