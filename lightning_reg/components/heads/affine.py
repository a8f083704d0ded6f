"""An affine transform."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lightning_reg.components.blocks import small_output
from lightning_reg.components.interfaces import Features, Head, Stride
from lightning_reg.functional import affine_matrix, beside, in_plane_parameters
from lightning_reg.spatial import Affine, Grid


class AffineHead(Head):
    """Twelve affine parameters from the average of the coarsest features (de Vos et al., 2019,
    Sections 2.1 and 5.1).

    Translation is unbounded, rotation and shear lie within plus and minus pi, scales in [0.5, 1.5].
    They are defined along the fixed image's own axes and about its centre, in mm. For every
    parameter, an output of one moves the image's faces by about one voxel. The transform is close
    to the identity at initialisation. Of an image of one slice, it moves points in the plane only.

    Args:
        channels, strides: of the backbone's levels, coarsest first (supplied); all levels of the
        coarsest stride are used.
        hidden: widths of fully connected layers (ReLU, Glorot uniform) before the last one.
    """

    def __init__(
        self, channels: Sequence[int], strides: Sequence[Stride], hidden: Sequence[int] = ()
    ) -> None:
        super().__init__()
        self.read = sum(stride == strides[0] for stride in strides)
        sizes = [sum(channels[: self.read]), *hidden]
        self.hidden = nn.Sequential(
            *(nn.Sequential(nn.Linear(a, b), nn.ReLU()) for a, b in itertools.pairwise(sizes))
        )
        for layer in self.hidden:
            nn.init.xavier_uniform_(layer[0].weight)  # type: ignore[index]
        self.last = nn.Linear(sizes[-1], 12)
        small_output(self.last)

    def forward(self, features: Features, grid: Grid) -> list[Affine]:
        means = [level.mean((2, 3, 4)) for level in features[: self.read]]
        raw = self.last(self.hidden(torch.cat(means, dim=1))).float()
        local = affine_matrix(self.constrained(raw, grid))
        frame, back = (beside(matrix, raw, torch.float64) for matrix in grid.frame())
        return [Affine((frame @ local.double() @ back).to(raw.dtype), grid)]

    @staticmethod
    def constrained(raw: Tensor, grid: Grid) -> Tensor:
        """Map any ``(B, 12)`` numbers to bounded parameters of
        :func:`~lightning_reg.functional.affine_matrix`.
        """
        extended = [n for n in grid.shape if n > 1]
        half = sum(extended) / (2 * max(len(extended), 1))
        raw = in_plane_parameters(raw, grid.shape)
        translation, rotation, scale, shear = raw.split(3, dim=1)
        return torch.cat(
            [
                translation * beside(grid.spacing, raw),
                math.pi * torch.tanh(rotation / half / math.pi),
                1 + 0.5 * torch.tanh(2 * scale / half),
                math.pi * torch.tanh(shear / half / math.pi),
            ],
            dim=1,
        )
