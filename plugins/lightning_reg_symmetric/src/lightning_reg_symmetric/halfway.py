"""Registration by symmetric updates in a halfway space."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lightning_reg import (
    ArgumentError,
    Composer,
    Composition,
    Grid,
    Image,
    Level,
    Registration,
    Transform,
)
from lightning_reg.components.blocks import ConvBlock, Convolution, small_output
from lightning_reg_symmetric.flows import Flow


class HalfwayComposer(Composer):
    """Inverse-consistent composer: exchanging the images gives the inverse transform, by
    construction.

    One encoder extracts features from each image separately, at every level of a pyramid. From
    coarse to fine, the features of both images are warped into a space halfway between the images
    by the flows found so far, and compared. The update is a stationary velocity
    ``v = (g(a, b) - g(b, a)) / 2``, which changes its sign when the images are exchanged. With
    ``F_k`` the flow of the update ``v_k`` (``F_1`` the coarsest) and ``G_k`` the flow of ``-v_k``,
    the transform is

        ``phi = F_1 o ... o F_K o G_K^-1 o ... o G_1^-1``:

    from the fixed image to the halfway space, and from there to the moving image. Exchanging the
    images exchanges ``F`` and ``G``, which gives ``phi^-1`` for any flows. The inverses are solved
    point by point, see :class:`~lightning_reg_symmetric.flows.Solved`.

    Source: SITReg (Honkamaa & Marttinen, MELBA 2024). Deviation: updates are flows of antisymmetric
    velocities; the paper composes a deformation with the inverse of the deformation for exchanged
    images.

    Images on different grids are compared on the larger grid (in mm), whether it is the fixed
    image's or not, with the alignment of their headers.

    Args:
        levels: of the pyramid.
        features: maps of the finest level; they double with every level, up to ``most``.
        most: see ``features``.
        output_stride: of the finest level, voxels, a power of two.
        steps: squarings of each flow.
    """

    def __init__(
        self,
        levels: int = 3,
        features: int = 16,
        most: int = 64,
        output_stride: int = 1,
        steps: int = 5,
    ) -> None:
        super().__init__()
        if levels < 1 or features < 1 or most < features or steps < 0:
            raise ArgumentError(
                f"levels is {levels}, features {features}, most {most} and steps {steps}; give"
                " positive numbers, most the largest"
            )
        if output_stride < 1 or output_stride & (output_stride - 1):
            raise ArgumentError(f"output_stride is {output_stride}; give a power of two")
        widths = [min(features << level, most) for level in range(levels)]  # finest first
        self.strides = [output_stride << level for level in range(levels)]
        self.steps = steps
        self.encoder = nn.ModuleList(
            ConvBlock(before, width, norm="instance", slope=0.2)
            for before, width in zip([1, *widths], widths, strict=False)
        )
        self.updates = nn.ModuleList(
            nn.Sequential(
                ConvBlock(2 * width, width, norm="instance", slope=0.2),
                ConvBlock(width, width, norm="none", slope=0.2),
                Convolution(width, 3, bias=False),
            )
            for width in widths
        )
        for update in self.updates:
            small_output(update[-1])  # type: ignore[index]

    def forward(self, fixed: Image, moving: Image) -> Registration:
        grid = _shared(fixed.grid, moving.grid)
        one, other = (self._features(image.resampled(grid)) for image in (fixed, moving))
        flows: list[
            Flow
            # from the halfway space towards the moving image, and with the other sign towards the
            # fixed one
        ] = []
        backwards: list[Flow] = []
        for level in reversed(range(len(self.strides))):
            here, there = self._warped(one[level], backwards), self._warped(other[level], flows)
            update = self.updates[level]
            velocity = (
                update(torch.cat([here, there], dim=1)) - update(torch.cat([there, here], dim=1))
            ).float() / 2
            flows.append(Flow(velocity, one[level].grid, self.steps))
            backwards.append(Flow(-velocity, one[level].grid, self.steps))
        transform = Composition([*flows, *(flow.inverse() for flow in reversed(backwards))])
        return Registration((Level(fixed, moving, transform, transform),))

    def _features(self, image: Image) -> list[Image]:
        """Features of one image, finest first, each on its own grid."""
        found, stride = [], 1
        current = image
        for wanted, block in zip(self.strides, self.encoder, strict=True):
            current = current.at_stride([wanted // stride] * 3)
            current = Image(block(current.tensor), current.grid)
            stride = wanted
            found.append(current)
        return found

    @staticmethod
    def _warped(features: Image, flows: Sequence[Transform]) -> Tensor:
        """Features warped into the halfway space by the flows found so far, the first one
        outermost.
        """
        return (
            features.warped(Composition(flows), features.grid).tensor if flows else features.tensor
        )


def _shared(fixed: Grid, moving: Grid) -> Grid:
    """Grid on which both images are compared: the larger one; for equal sizes, the choice does not
    depend on their order.
    """
    if fixed.matches(moving):
        return fixed
    return max(
        (fixed, moving), key=lambda grid: (float(grid.size.sum()), *grid.affine.ravel().tolist())
    )
