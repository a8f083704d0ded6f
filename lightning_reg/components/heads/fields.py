"""Heads of convolutions: a displacement or a velocity per voxel, or control points."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Literal

from torch import Tensor, nn

from lightning_reg.components.blocks import Convolution, fast_layout, small_output
from lightning_reg.components.interfaces import Features, Growable, Head, Stride
from lightning_reg.components.resolution import between, kernel_at, required_aspect, stride_at
from lightning_reg.functional import beside, in_plane, pool, resize
from lightning_reg.registry import ArgumentError, Range
from lightning_reg.spatial import BSpline, Displacement, Grid, Velocity


class DenseHead(Head, Growable):
    """Convolutions that compute a displacement from the features of one level, or of every level.

    If levels are summed, the values of every level are in voxels of the fixed grid, and coarser
    fields are interpolated to it.

    Args:
        channels, strides: of the backbone's levels, coarsest first (supplied).
        levels: ``finest`` uses the last level; ``weighted`` sums the fields of all levels, weighted
            by ``alpha`` (Eppenhof et al., 2019), and does not compute levels of weight 0; ``all``
            returns the field of every level on that level's own grid, in its voxels, for
            supervision at its resolution (Li & Fan, 2018).
        equalized: divide the convolutions' outputs by the square root of their fan-in (the
            equalised learning rate of Karras et al., 2018). Without it, plain SGD at the paper's
            rate diverges, because these layers have no normalisation.
        refine: add the output of a level's convolution to the field of the next coarser level,
            instead of predicting a whole field per level: a new level then starts from the field
            learned so far. (Not in the paper.)
        kernel: size of the convolutions, voxels, odd.
        aspect: of the backbone (supplied).
    """

    def __init__(
        self,
        channels: Sequence[int],
        strides: Sequence[Stride],
        levels: Literal["finest", "weighted", "all"] = "finest",
        equalized: bool = False,
        refine: bool = False,
        kernel: Annotated[int, Range(1, odd=True)] = 3,
        aspect: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        first = len(channels) - 1 if levels == "finest" else 0
        self.first, self.strides = first, tuple(strides)
        self.refine, self.each = refine, levels == "all"
        self.alpha = (0.0,) * (len(channels) - 1 - first) + (1.0,)
        axes = required_aspect(aspect)
        kernels = [kernel_at(stride, axes, kernel) for stride in strides[first:]]
        sizes = list(zip(channels[first:], kernels, strict=True))
        fields = [Convolution(n, 3, edges) for n, edges in sizes]
        for field in fields:
            small_output(field)
        self.fields = nn.ModuleList(fields)
        self.gains = [(math.prod(edges) * n) ** -0.5 if equalized else 1.0 for n, edges in sizes]
        fast_layout(self)

    def forward(self, features: Features, grid: Grid) -> list[Displacement]:
        if self.each:
            return [self._on_own_grid(n, features[n], grid) for n in range(len(self.fields))]
        finest = max(i for i, weight in enumerate(self.alpha) if weight > 0)
        total: Tensor | None = None
        coarser: Tensor | None = None
        for index, weight in enumerate(self.alpha[: finest + 1]):
            if weight == 0 and not self.refine:
                continue
            field = self._field(index, features[self.first + index], grid)
            if self.refine:
                if coarser is not None:
                    field = field + resize(coarser, field.shape[2:])
                coarser = field
            if weight > 0:
                stride = self.strides[self.first + index]
                weighted = weight * resize(
                    field, [n * s for n, s in zip(field.shape[2:], stride, strict=True)]
                )
                total = weighted if total is None else total + weighted
        assert total is not None
        i, j, k = grid.shape
        return [Displacement(total[:, :, :i, :j, :k], grid)]

    def _on_own_grid(self, index: int, features: Tensor, grid: Grid) -> Displacement:
        """Return the displacement of one level on its own grid; that of the finest level on the
        fixed grid.
        """
        field = self._field(index, features, grid)
        if all(s == 1 for s in self.strides[index]):
            i, j, k = grid.shape
            return Displacement(field[:, :, :i, :j, :k], grid)
        return Displacement(field, grid.at_stride(self.strides[index], field.shape[2:]))

    def _field(self, index: int, features: Tensor, grid: Grid) -> Tensor:
        """Predict the displacement from the features of one level, ``(B, 3, ...)`` at that level's
        resolution.
        """
        return in_plane(self.gains[index] * self.fields[index](features).float(), grid.shape)


class VelocityHead(Head):
    """The flow of a stationary velocity predicted from the finest features; the inverse is the flow
    of minus that velocity.

    Args:
        channels, strides: of the backbone's levels, coarsest first (supplied).
        steps: number of squarings, see :func:`lightning_reg.functional.exponentiate`.
        reduce: factor by which the velocity is average-pooled along every axis before it is
            integrated (2 in VoxelMorph), as far as ``aspect`` pools the axis.
        aspect: of the backbone (supplied).
    """

    def __init__(
        self,
        channels: Sequence[int],
        strides: Sequence[Stride],
        steps: Annotated[int, Range(0)] = 7,
        reduce: Annotated[int, Range(1)] = 1,
        aspect: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        axes, finest = required_aspect(aspect), max(strides[-1])
        self.reduce = between(stride_at(reduce * finest, axes), stride_at(finest, axes))
        self.stride = tuple(r * n for r, n in zip(self.reduce, strides[-1], strict=True))
        self.steps = steps
        self.velocity = Convolution(channels[-1], 3, kernel_at(strides[-1], axes))
        small_output(self.velocity)
        fast_layout(self)

    def forward(self, features: Features, grid: Grid) -> list[Velocity]:
        velocity = pool(self.velocity(features[-1]).float(), self.reduce)
        velocity = in_plane(velocity / beside(self.reduce, velocity).view(3, 1, 1, 1), grid.shape)
        return [Velocity(velocity, grid.at_stride(self.stride, velocity.shape[2:]), self.steps)]


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
        spacing = strides[-1] if spacing is None else spacing
        wanted = (spacing,) * 3 if isinstance(spacing, int) else tuple(spacing)
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
        control = in_plane(self.control(features[self.level]), grid.shape)
        return [BSpline(control, grid, self.stride, [(s - 1) / 2 for s in self.stride])]
