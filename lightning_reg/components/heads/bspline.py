"""A B-spline free-form deformation."""

from __future__ import annotations

from collections.abc import Sequence

from lightning_reg.components.blocks import Convolution, small_output
from lightning_reg.components.interfaces import Features, Head, Stride
from lightning_reg.registry import ArgumentError
from lightning_reg.spatial import BSpline, Grid


class BSplineHead(Head):
    """One B-spline control point per voxel of a feature level; their distance is its stride (de Vos
    et al., 2019, Section 2.2).

    Args:
        channels, strides: of the backbone's levels, coarsest first (supplied).
        spacing: control-point distance in voxels, equal to the stride of one of the levels; default
            that of the finest level.
    """

    def __init__(
        self,
        channels: Sequence[int],
        strides: Sequence[Stride],
        spacing: int | Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        wanted: tuple[int, ...] = (
            strides[-1]
            if spacing is None
            else (spacing,) * 3
            if isinstance(spacing, int)
            else tuple(spacing)
        )
        levels = [level for level, stride in enumerate(strides) if stride == wanted]
        if not levels:
            offered = ", ".join(" x ".join(map(str, s)) for s in strides)
            raise ArgumentError(
                f"spacing is {spacing}, but the backbone has features at strides of {offered}"
                " voxels"
            )
        self.level = levels[0]
        self.stride = strides[self.level]
        self.control = Convolution(channels[self.level], 3, kernel=1)
        small_output(self.control)

    def forward(self, features: Features, grid: Grid) -> list[BSpline]:
        at_points = features[self.level]
        if at_points is None:
            raise ArgumentError(
                "BSplineHead: the backbone did not compute the level that the control points are"
                " read from"
            )
        return [
            BSpline(self.control(at_points), grid, self.stride, [(s - 1) / 2 for s in self.stride])
        ]
