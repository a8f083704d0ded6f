"""What is minimised for one pair, and in which stages."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

from torch import Tensor, nn

from lightning_reg.components.interfaces import Level, Registration
from lightning_reg.components.losses.bundle import LossBundle
from lightning_reg.components.losses.region import MaskedTerm
from lightning_reg.discovery import ComponentError, DataError, construct
from lightning_reg.spatial import Grid, Image, Pair, Transform

Fitted = Literal["affine", "bspline", "dense", "network"]
TRANSFORMS = get_args(Fitted)
AFFINE_SCALE = (10.0, 10.0, 10.0, 0.3, 0.3, 0.3, 0.2, 0.2, 0.2, 0.2, 0.2, 0.2)
"""What one unit of each affine parameter is for the optimiser: mm, radians, factors."""


@dataclass(frozen=True)
class Stage:
    """One stage of an optimisation.

    Args:
        transform: what is fitted: the ``affine`` part, a cubic ``bspline``, a ``dense`` field, or the ``network``'s weights.
        steps: at most; fewer where the objective no longer falls.
        stride: both images are average-pooled to voxels of about this many times the fixed image's finest voxel edge (small images:
            less, see :class:`Optimization`).
        spacing: of the control points (``dense``: of the field's samples), in the same unit.
        rate: learning rate of Adam, which falls to 0 along a half cosine. Units: ``affine``, see :data:`AFFINE_SCALE`;
            ``bspline`` and ``dense``: finest voxel edges.
        loss: terms of this stage instead of the whole optimisation's.
    """

    transform: Fitted
    steps: int
    stride: float = 1.0
    spacing: float = 4.0
    rate: float = 0.1
    loss: Mapping[str, Mapping[str, Any] | None] | None = None

    def __post_init__(self) -> None:
        if self.transform not in TRANSFORMS:
            raise ValueError(f"transform is '{self.transform}'; use one of {', '.join(TRANSFORMS)}")
        if not isinstance(self.steps, int) or self.steps < 0:
            raise ValueError(f"steps is {self.steps}; give a whole number, 0 or more")
        for name in ("stride", "spacing", "rate"):
            value = getattr(self, name)
            if not isinstance(value, (int, float)) or not 0 < value < math.inf:
                raise ValueError(f"{name} is {value}; give a finite number above 0")


@dataclass(frozen=True)
class Optimization:
    """What is minimised, and in which stages.

    Args:
        loss: terms and weights, see :class:`~lightning_reg.components.losses.bundle.LossBundle`. A term's ``mask: auto`` becomes
            ``fixed`` where the pair has a fixed mask, else ``moving``, else ``overlap``.
        level_weights: of the levels that a network supervises, where one is fitted; see
            :class:`~lightning_reg.components.losses.bundle.LossBundle`.
        optional: leave out terms that need what the pair does not have (a model's own loss was made for its training data).
        stages: arguments of :class:`Stage`, coarse to fine.
        patience: a stage ends when so many steps lowered its objective by less than ``tolerance`` of itself.
        tolerance: see ``patience``.
        mask_margin: masks are widened by this before the terms count in them, mm: an organ's border lies at its mask's.
        small: fixed images of fewer voxels are pooled less: the stages' strides are multiplied by the cube root of the ratio.
    """

    loss: Mapping[str, Mapping[str, Any] | None]
    stages: Sequence[Mapping[str, Any]]
    patience: int = 15
    tolerance: float = 1e-3
    mask_margin: float = 0.0
    small: float = 1.0e6
    level_weights: Sequence[float] | None = None
    optional: bool = False

    def __post_init__(self) -> None:
        for name in ("patience", "tolerance", "mask_margin", "small"):
            value = getattr(self, name)
            if not isinstance(value, (int, float)) or not 0 <= value < math.inf:
                raise ValueError(f"{name} is {value}; give a finite number, 0 or more")
        stages = self.staged()
        if not any(stage.steps for stage in stages) or not isinstance(self.patience, int):
            raise ValueError("stages must not be empty (one needs steps), and patience is a whole number of steps")
        spacing: float | None = None
        for stage in stages:
            construct("loss", LossBundle, {"terms": masked_terms(stage.loss or self.loss, frozenset())})
            if stage.transform == "bspline":
                halvings = 0.0 if spacing is None else math.log2(spacing / stage.spacing)
                if halvings < -1e-3 or abs(halvings - round(halvings)) > 1e-3:
                    raise ValueError(f"a B-spline of spacing {spacing:g} cannot go on with {stage.spacing:g}; halve it from stage to stage")
                spacing = stage.spacing
            elif stage.transform != "affine":
                spacing = None

    def staged(self, steps: int | None = None) -> list[Stage]:
        """The stages; with ``steps`` their lengths are scaled so that they sum to it."""
        if isinstance(self.stages, str) or not isinstance(self.stages, Sequence):
            raise ValueError(f"stages is {self.stages!r}, where a list is meant")
        stages = [construct(f"stages[{number}]", Stage, stage) for number, stage in enumerate(self.stages)]
        if steps is None:
            return stages
        total = sum(stage.steps for stage in stages)
        bounds = [round(steps * sum(s.steps for s in stages[: n + 1]) / total) for n in range(len(stages))]
        return [replace(s, steps=b - a) for s, a, b in zip(stages, [0, *bounds], bounds, strict=False)]


def masked_terms(terms: Mapping[str, Mapping[str, Any] | None], has: frozenset[str]) -> dict[str, dict[str, Any]]:
    """Terms with ``mask: auto`` replaced by what a pair with these fields allows."""
    region = "fixed" if "fixed_mask" in has else "moving" if "moving_mask" in has else "overlap"
    resolved = {name: dict(arguments or {}) for name, arguments in terms.items()}
    for arguments in resolved.values():
        if arguments.get("mask") == "auto":
            arguments["mask"] = region
    return resolved


def with_margin(pair: Pair, margin: float) -> Pair:
    """The pair with masks as memberships, widened by ``margin`` mm."""
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

    def __init__(self, pair: Pair, stage: Stage, optimization: Optimization) -> None:
        terms = masked_terms(stage.loss or optimization.loss, pair.has())
        bundle = construct("loss", LossBundle, {"terms": terms})
        if optimization.optional:
            bundle = bundle.restricted(pair.has())
        if bundle.backward:
            raise ComponentError("Instance optimisation fits one direction; leave out the term 'inverse_consistency'.")
        bundle.require(pair.has())
        self.bundle, self.level_weights, self.edge = bundle, optimization.level_weights, float(pair.fixed.grid.spacing.min())
        self.original = pair
        stride = stage.stride * min(1.0, math.prod(self.original.fixed.grid.shape) / optimization.small) ** (1 / 3)
        regions = [term.mask for term in bundle.terms.values() if isinstance(term, MaskedTerm)]
        if regions and all(region in ("fixed", "intersection") for region in regions):
            pair = _cropped_to_mask(pair, margin=2 * max(stride, 1.0) * self.edge)
        if min(pair.fixed.grid.shape) < 3:
            raise DataError(f"The fixed image is {min(pair.fixed.grid.shape)} voxels thick; an optimisation needs 3.")
        pooled = {name: self._pooled(getattr(pair, name), stride) for name in ("fixed", "moving", "fixed_mask", "moving_mask")}
        self.pair = replace(pair, **pooled)  # type: ignore[arg-type]

    def _pooled(self, image: Image | None, stride: float) -> Image | None:
        if image is None:
            return None
        return image.at_stride([max(1, round(stride * self.edge / s)) for s in image.grid.spacing[0].tolist()])

    @property
    def grid(self) -> Grid:
        return self.pair.fixed.grid

    def __call__(self, found: Transform | Registration) -> Tensor:
        """The loss of a transform at the stage's resolution, or of all levels that a network supervises."""
        if isinstance(found, Transform):
            found = Registration((Level(self.pair.fixed, self.pair.moving, found, found),))
        weights = self.level_weights if self.level_weights and len(self.level_weights) == len(found.levels) else None
        return self.bundle(found, self.pair, weights).total


def _cropped_to_mask(pair: Pair, margin: float) -> Pair:
    """The pair with its fixed side cropped to the mask and ``margin`` mm around it."""
    assert pair.fixed_mask is not None
    grid = pair.fixed.grid
    mask = pair.fixed_mask.on(grid).tensor[0, 0]
    found = mask.nonzero()
    if not len(found):
        return pair
    reach = [round(margin / s) + 1 for s in grid.spacing[0].tolist()]
    start = [max(0, int(found[:, a].min()) - reach[a]) for a in range(3)]
    stop = [min(n, int(found[:, a].max()) + 1 + reach[a]) for a, n in enumerate(grid.shape)]
    shape = [b - a for a, b in zip(start, stop, strict=True)]
    return replace(pair, fixed=pair.fixed.cropped(start, shape), fixed_mask=pair.fixed_mask.on(grid).cropped(start, shape))
