"""Objective of an instance optimisation, and its stages."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise
from typing import Annotated, Literal

import torch
from torch import Tensor, nn

from lightning_reg.components.interfaces import Level, Registration
from lightning_reg.components.losses.bundle import LossBundle
from lightning_reg.components.losses.region import MaskedTerm
from lightning_reg.functional import bounding_box
from lightning_reg.registry import (
    ArgumentError,
    Checked,
    ComponentError,
    DataError,
    Instance,
    Range,
    chosen,
)
from lightning_reg.spatial import Grid, Image, Pair, Transform

SHOWN = 0.02
"""Intensity of preprocessed images above which a voxel is foreground."""
Loss = Annotated[LossBundle, Instance("LossBundle({name: (weight, term)})")]
LINEAR = ("rigid", "affine")
"""Kinds of transform that are linear maps."""


@dataclass(frozen=True)
class FitStage(Checked):
    """One stage of an optimisation.

    Args:
        transform: kind of transform that is fitted: the ``affine`` part, a ``rigid`` motion, a
            cubic ``bspline``, a ``dense`` field, the ``network``'s weights, or one of another
            distribution (entry points ``lightning_reg.fits``).
        steps: largest number; fewer if the objective no longer decreases.
        stride: both images are average-pooled to voxels of about this many times the fixed image's
            finest voxel edge (small images: less, see :class:`Optimization`).
        spacing: of the control points (``dense``: of the field's samples), in the same unit.
        lr: learning rate of Adam, which decreases to 0 along a half cosine. Units: ``rigid`` and
            ``affine``, see :data:`~lightning_reg.optimization.parameters.AFFINE_SCALE`; ``bspline``
            and ``dense``: finest voxel edges.
        loss: of this stage; default that of the optimisation.
        optimizer: ``adam``; or ``lbfgs``, which converges to the minimum of a smooth objective with
            few parameters (an affine map), while Adam oscillates around it. A step of ``lbfgs`` is
            one evaluation of the objective; ``lr`` scales the first trial step of its line search.

    Raises:
        ValueError: a number is out of range.
        ComponentError: no such kind of transform.
    """

    transform: str
    steps: Annotated[int, Range(0)]
    stride: Annotated[float, Range(above=0)] = 1.0
    spacing: Annotated[float, Range(above=0)] = 4.0
    lr: Annotated[float, Range(above=0)] = 0.1
    loss: Loss | None = None
    optimizer: Literal["adam", "lbfgs"] = "adam"

    def __post_init__(self) -> None:
        chosen("fits", self.transform)


@dataclass(frozen=True)
class Optimization(Checked):
    """Instance optimisation: its stages and the loss that they minimise.

    Args:
        stages: coarse to fine.
        loss: of the stages without a loss of their own.
        patience: a stage ends when this many steps reduced its objective by less than the fraction
            ``tolerance``.
        tolerance: see ``patience``.
        mask_margin: masks are dilated by this distance, mm, before the terms use them, because the
            border of an organ is the border of its mask.
        small: fixed images of fewer voxels are pooled less: the stages' strides are multiplied by
            the cube root of the ratio. The pixels of one slice count as those of a cube of that
            width.
        fine: the stages' spacings are halved for fixed images whose finest voxel edge is at most
            this, mm, because they show finer anatomy.
        starts: number of starts of the leading rigid and affine stages: the given start, and others
            translated by a tenth of the image's size. If the results differ by more than a fiftieth
            of the size, the images do not determine the alignment, and the given start is returned.
        unlike: the optimisation for two modalities, used instead if the images correlate less than
            ``likeness`` after the leading rigid and affine stages.
        likeness: from -1 to 1, see ``unlike``.
        optional: leave out terms that need data that the pair does not have (a model's loss was
            made for its training data).

    Raises:
        ValueError: a number is out of range, no stage has steps, a stage has no loss, or the
            spacings of successive B-splines are not halved.
    """

    stages: Sequence[Annotated[FitStage, Instance("objects, as FitStage(transform, steps)")]]
    loss: Loss | None = None
    patience: Annotated[int, Range(0)] = 15
    tolerance: Annotated[float, Range(0)] = 1e-3
    mask_margin: Annotated[float, Range(0)] = 0.0
    small: Annotated[float, Range(above=0)] = 1.0e6
    fine: Annotated[float, Range(0)] = 0.0
    starts: Annotated[int, Range(1)] = 1
    unlike: Annotated[Optimization, Instance("another Optimization")] | None = None
    likeness: Annotated[float, Range(-1, 1)] = 0.5
    optional: bool = False

    def __post_init__(self) -> None:
        if not any(stage.steps for stage in self.stages):
            raise ArgumentError("stages has none with steps; give one or more with steps")
        spacing: float | None = None
        for number, stage in enumerate(self.stages):
            if stage.loss is None and self.loss is None:
                raise ArgumentError(f"stage {number} has no loss; give it one, or the optimisation")
            if stage.transform == "bspline":
                halvings = 0.0 if spacing is None else math.log2(spacing / stage.spacing)
                if halvings < -1e-3 or abs(halvings - round(halvings)) > 1e-3:
                    raise ArgumentError(
                        f"a B-spline of spacing {spacing:g} cannot go on with {stage.spacing:g};"
                        " halve it from stage to stage"
                    )
                spacing = stage.spacing
            elif stage.transform not in LINEAR:
                spacing = None

    def scaled(self, steps: int | None = None) -> list[FitStage]:
        """The stages that have steps; with ``steps``, their numbers of steps are scaled to this
        sum.
        """
        stages = list(self.stages)
        if steps is not None:
            total = sum(stage.steps for stage in stages)
            sums = accumulate((stage.steps for stage in stages), initial=0)
            bounds = [round(steps * upto / total) for upto in sums]
            counts = (end - begin for begin, end in pairwise(bounds))
            stages = [replace(s, steps=count) for s, count in zip(stages, counts, strict=True)]
        return [stage for stage in stages if stage.steps > 0]


def with_margin(pair: Pair, margin: float) -> Pair:
    """The pair with floating-point masks, dilated by ``margin`` mm along each axis."""
    masks: dict[str, Image] = {}
    for name in ("fixed_mask", "moving_mask"):
        mask: Image | None = getattr(pair, name)
        if mask is not None:
            voxels = [round(margin / s) for s in mask.grid.spacing[0].tolist()]
            inside = (mask.tensor > 0).float()
            for axis, reach in enumerate(voxels):
                kernel = [2 * reach + 1 if a == axis else 1 for a in range(3)]
                inside = nn.functional.max_pool3d(inside, kernel, 1, [k // 2 for k in kernel])
            masks[name] = Image(inside, mask.grid)
    return replace(pair, **masks)  # type: ignore[arg-type]


class Objective:
    """The loss of a transform at one stage's resolution."""

    def __init__(self, pair: Pair, stage: FitStage, optimization: Optimization) -> None:
        bundle = stage.loss if stage.loss is not None else optimization.loss
        assert bundle is not None
        if optimization.optional:
            bundle = bundle.restricted(pair.has())
        if bundle.reverse:
            raise ComponentError(
                "Instance optimisation fits one direction; leave out the term"
                " 'inverse_consistency'."
            )
        bundle.require(pair.has())
        self.bundle = bundle.to(pair.fixed.tensor.device)
        self.original, self.edge = pair, pair.fixed.grid.edge
        extended = [n for n in pair.fixed.grid.shape if n > 1] or [1]
        share = min(1.0, math.prod(extended) / optimization.small ** (len(extended) / 3))
        stride = stage.stride * share ** (1 / len(extended))
        self.spacing = stage.spacing / (2 if self.edge <= optimization.fine else 1)
        regions = [
            term.region_of(pair) for term in bundle.terms.values() if isinstance(term, MaskedTerm)
        ]
        if regions and all(region in ("fixed", "intersection") for region in regions):
            pair = _cropped_to_mask(pair, margin=2 * max(stride, 1.0) * self.edge)
        extended = [n for n in pair.fixed.grid.shape if n > 1]
        if len(extended) < 2 or min(extended) < 3:
            raise DataError(
                f"The fixed image is {min(extended, default=1)} voxels thick; an optimisation needs"
                " 3, or one slice."
            )
        pooled = {
            name: self._pooled(getattr(pair, name), stride)
            for name in ("fixed", "moving", "fixed_mask", "moving_mask")
        }
        self.pair = replace(pair, **pooled)  # type: ignore[arg-type]

    def _pooled(self, image: Image | None, stride: float) -> Image | None:
        if image is None:
            return None
        size = stride * self.edge
        return image.at_stride([max(1, round(size / s)) for s in image.grid.spacing[0].tolist()])

    @property
    def grid(self) -> Grid:
        return self.pair.fixed.grid

    def __call__(self, found: Transform | Registration) -> Tensor:
        """The loss of a transform at the stage's resolution, or of all supervised levels of a
        network.
        """
        if isinstance(found, Transform):
            if found.like.dtype == torch.float64:  # which would convert coordinates and images
                found = found.to(dtype=torch.float32)
            found = Registration((Level(self.pair.fixed, self.pair.moving, found, found),))
        count, weights = len(found.levels), self.bundle.level_weights
        if weights is None or len(weights) != count:
            weights = [1.0] * count
        return self.bundle(found, self.pair, weights).total

    def likeness(self, found: Transform) -> float:
        """Correlation of the foreground intensities of both images at the stage's resolution, -1 to
        1; 1 below 100 common voxels.
        """
        warped = self.pair.moving.warped(found.to(dtype=torch.float32), self.grid).tensor
        both = (self.pair.fixed.tensor > SHOWN) & (warped > SHOWN)
        if self.pair.fixed_mask is not None:
            both = both & (self.pair.fixed_mask.resampled(self.grid).tensor > 0.5)
        if int(both.sum()) < 100:
            return 1.0
        values = torch.stack([self.pair.fixed.tensor[both], warped[both]]).double()
        return float(torch.corrcoef(values)[0, 1])


def _cropped_to_mask(pair: Pair, margin: float) -> Pair:
    """The pair with the fixed image and its mask cropped to the mask's bounding box, with a margin
    of ``margin`` mm.
    """
    assert pair.fixed_mask is not None
    grid = pair.fixed.grid
    mask = pair.fixed_mask.resampled(grid).tensor[0, 0]
    if not bool(mask.any()):
        return pair
    box = bounding_box(mask, [round(margin / s) + 1 for s in grid.spacing[0].tolist()])
    return replace(
        pair,
        fixed=pair.fixed.cropped(*box),
        fixed_mask=pair.fixed_mask.resampled(grid).cropped(*box),
    )
