"""A displacement per voxel."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from lightning_reg.components.blocks import Convolution, fast_layout
from lightning_reg.components.interfaces import Features, Growable, Head
from lightning_reg.functional import resize
from lightning_reg.spatial import Displacement, Grid


class DenseHead(Head, Growable):
    """Convolutions that read a displacement off one level's features, or off every level's.

    Values are voxels of the fixed grid at every level, and coarser fields are interpolated to it.

    Args:
        channels, strides: of the backbone's levels, coarsest first (supplied).
        levels: ``finest`` reads the last level; ``weighted`` sums the fields of all levels, weighted by ``alpha``
            (Eppenhof et al., 2019), and does not compute those without weight.
        equalized: divide the convolutions' outputs by the square root of their fan-in (the equalised learning rate of
            Karras et al., 2018), without which plain SGD at the paper's rate diverges on a layer without normalisation.
    """

    def __init__(self, channels: Sequence[int], strides: Sequence[int], levels: str = "finest", equalized: bool = False) -> None:
        super().__init__()
        if levels not in ("finest", "weighted"):
            raise ValueError(f"levels is '{levels}'; use finest or weighted")
        first = len(channels) - 1 if levels == "finest" else 0
        self.first, self.strides = first, tuple(strides)
        self.alpha = (0.0,) * (len(channels) - 1 - first) + (1.0,)
        fields = [Convolution(n, 3) for n in channels[first:]]
        for field in fields:
            nn.init.normal_(field.weight, std=1e-3)
            nn.init.constant_(field.get_parameter("bias"), 0.0)
        self.fields = nn.ModuleList(fields)
        self.gains = [(27 * n) ** -0.5 if equalized else 1.0 for n in channels[first:]]
        fast_layout(self)

    def forward(self, features: Features, grid: Grid) -> list[Displacement]:
        total: Tensor | None = None
        for index, (weight, convolution) in enumerate(zip(self.alpha, self.fields, strict=True)):
            if weight == 0:
                continue
            level = features[self.first + index]
            if level is None:
                raise ValueError(f"DenseHead: level {index} has the weight {weight}, but the backbone did not compute it")
            stride = self.strides[self.first + index]
            field = self.gains[index] * convolution(level).float()
            field = resize(field, [n * stride for n in field.shape[2:]])
            total = weight * field if total is None else total + weight * field
        assert total is not None
        i, j, k = grid.shape
        return [Displacement(total[:, :, :i, :j, :k], grid)]
