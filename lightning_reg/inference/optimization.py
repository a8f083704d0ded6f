"""Instance optimisation: the parameters of one pair's transform are fitted to that pair, from coarse to fine."""

from __future__ import annotations

import copy
import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from lightning_reg.components.interfaces import Composer, Level, Registration
from lightning_reg.components.losses.bundle import LossBundle
from lightning_reg.components.losses.region import MaskedTerm
from lightning_reg.discovery import ComponentError, DataError, construct
from lightning_reg.functional import affine_matrix, lattice_shape, subdivide
from lightning_reg.spatial import Affine, BSpline, Composition, Displacement, Grid, Image, Pair, Transform, split_affine

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

    transform: Literal["affine", "bspline", "dense", "network"]
    steps: int
    stride: float = 1.0
    spacing: float = 4.0
    rate: float = 0.1
    loss: Mapping[str, Mapping[str, Any] | None] | None = None

    def __post_init__(self) -> None:
        if self.transform not in _FITTED:
            raise ValueError(f"transform is '{self.transform}'; use one of {', '.join(_FITTED)}")
        if self.steps < 0 or self.stride <= 0 or self.spacing <= 0:
            raise ValueError("steps, stride and spacing have to be positive")


@dataclass(frozen=True)
class Optimization:
    """What is minimised, and in which stages.

    Args:
        loss: terms and weights, see :class:`~lightning_reg.components.losses.bundle.LossBundle`. A term's ``mask: auto`` becomes
            ``fixed`` where the pair has a fixed mask, else ``moving``, else ``overlap``.
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

    def __post_init__(self) -> None:
        if not self.stages or not isinstance(self.patience, int):
            raise ValueError("stages must not be empty, and patience is a whole number of steps")
        spacing: float | None = None
        for stage in self.staged():
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
        stages = [construct(f"stage {number}", Stage, stage) for number, stage in enumerate(self.stages)]
        if steps is None:
            return stages
        total = sum(stage.steps for stage in stages)
        bounds = [round(steps * sum(s.steps for s in stages[: n + 1]) / total) for n in range(len(stages))]
        return [replace(s, steps=b - a) for s, a, b in zip(stages, [0, *bounds], bounds, strict=False)]


@dataclass
class Optimized:
    """What an optimisation found.

    Args:
        transform: fixed world to moving world. The one it was given, where nothing better was found.
        before, after: the objective of the last stage, at the start and for :attr:`transform`; the second is never larger.
        history: per stage its kind and the objective at every step.
        seconds: spent.
    """

    transform: Transform
    before: float
    after: float
    history: list[tuple[str, list[float]]] = field(default_factory=list)
    seconds: float = 0.0


def optimize(
    pair: Pair,
    start: Transform,
    optimization: Optimization,
    *,
    steps: int | None = None,
    network: Composer | None = None,
    report: Callable[[str], None] | None = None,
) -> Optimized:
    """Fit a transform to a pair.

    Args:
        pair: of batch size 1. Masks, landmarks and labels are there for terms that ask for them.
        start: where to begin. Its leading affine part is kept apart; what follows is held as a displacement on the fixed grid.
        optimization: objective and stages.
        steps: of all stages together; default their own.
        network: for stages that fit the network's weights; left as it was found.
        report: told what goes on, a line per stage.

    Raises:
        ComponentError: a term or a stage is not what it can be.
        TrainingError: a term needs what the pair does not have.
    """
    started = time.perf_counter()
    pair = with_margin(pair, optimization.mask_margin)
    state = _State.of(start, pair.fixed.grid)
    stages = [stage for stage in optimization.staged(steps) if stage.steps > 0]
    history: list[tuple[str, list[float]]] = []
    objective: Objective | None = None
    with torch.enable_grad():
        for number, stage in enumerate(stages):
            objective = Objective(pair, stage, optimization)
            fitted = _FITTED[stage.transform](state, stage, objective, network)
            values = _descend(fitted, stage, objective, optimization)
            state = fitted.state()
            history.append((stage.transform, values))
            if report is not None:
                report(
                    f"stage {number + 1} of {len(stages)} ({stage.transform}): {values[0]:.4f} -> {min(values):.4f} in {len(values)} steps"
                )
    if objective is None:
        return Optimized(start, float("nan"), float("nan"))
    found = state.transform()
    with torch.no_grad():
        before, after = (float(objective(t)) for t in (start, found))
    seconds = time.perf_counter() - started
    if not after < before:
        return Optimized(start, before, before, history, seconds)
    return Optimized(found, before, after, history, seconds)


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
        bundle = construct("loss", LossBundle, {"terms": masked_terms(stage.loss or optimization.loss, pair.has())})
        if bundle.backward:
            raise ComponentError("Instance optimisation fits one direction; leave out the term 'inverse_consistency'.")
        bundle.require(pair.has())
        self.bundle, self.edge = bundle, float(pair.fixed.grid.spacing.min())
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

    def __call__(self, transform: Transform) -> Tensor:
        level = Level(self.pair.fixed, self.pair.moving, transform, transform)
        return self.bundle(Registration((level,)), self.pair).total


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


def _descend(fitted: _Fitted, stage: Stage, objective: Objective, optimization: Optimization) -> list[float]:
    """Adam with a rate that falls along a half cosine; the parameters end as the best of all steps. Returns the objective's values."""
    optimizer = torch.optim.Adam(fitted.parameters, stage.rate, betas=(0.9, 0.99))
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, stage.steps)
    values: list[float] = []
    best = [parameter.detach().clone() for parameter in fitted.parameters]
    for step in range(stage.steps + 1):
        optimizer.zero_grad()
        value = objective(fitted.transform(objective.grid))
        values.append(float(value.detach()))
        if values[-1] <= min(values):
            best = [parameter.detach().clone() for parameter in fitted.parameters]
        waited = len(values) - optimization.patience
        settled = waited > 0 and min(values[:waited]) - min(values) < optimization.tolerance * abs(min(values))
        if step == stage.steps or settled or not torch.isfinite(value):
            break
        value.backward()
        optimizer.step()
        schedule.step()
    with torch.no_grad():
        for parameter, kept in zip(fitted.parameters, best, strict=True):
            parameter.copy_(kept)
    return values


@dataclass(frozen=True)
class _State:
    """``phi = affine o (x + field(x) + spline(x))`` on the fixed grid; what is ``None`` is not there."""

    grid: Grid
    affine: Tensor
    spline: BSpline | None = None
    field: Transform | None = None
    spacing: float | None = None

    @staticmethod
    def of(transform: Transform, grid: Grid) -> _State:
        affine, rest = split_affine(transform, grid)
        return _State(grid, affine.detach(), field=rest)

    def increment(self, grid: Grid) -> Tensor | None:
        """Displacement of what the affine part is applied to, on a grid, ``(1, 3, *S)``; ``None`` where there is nothing."""
        shares = [part.displacement(grid) for part in (self.spline, self.field) if part is not None]
        return torch.stack(shares).sum(0) if shares else None

    def transform(self) -> Transform:
        """The transform: a B-spline stays one where nothing else moves."""
        affine = Affine(self.affine, self.grid)
        inner = self.spline or self.field
        if self.spline is not None and self.field is not None:
            shift = self.increment(self.grid)
            assert shift is not None
            inner = Displacement(shift, self.grid)
        moves = not torch.equal(self.affine[0], torch.eye(4, dtype=self.affine.dtype, device=self.affine.device))
        if inner is None:
            return affine
        return Composition([affine, inner]) if moves else inner


class _Fitted(ABC):
    """The parameters of one stage, and the transform they make."""

    parameters: list[Tensor]

    @abstractmethod
    def __init__(self, state: _State, stage: Stage, objective: Objective, network: Composer | None) -> None: ...

    @abstractmethod
    def transform(self, grid: Grid) -> Transform:
        """The whole transform, its displacement given on the ``grid`` of the stage's images."""

    @abstractmethod
    def state(self) -> _State:
        """What was found."""


class _FittedAffine(_Fitted):
    def __init__(self, state: _State, stage: Stage, objective: Objective, network: Composer | None) -> None:
        self.before = state
        self.shift = state.increment(objective.grid)
        like = state.affine.float()
        self.identity = torch.tensor([[0.0] * 6 + [1.0] * 3 + [0.0] * 3], device=like.device)
        self.scale = torch.tensor([AFFINE_SCALE], device=like.device)
        self.center = objective.grid.center[0].to(like)
        self.parameters = [torch.zeros(1, 12, device=like.device, requires_grad=True)]

    def _matrix(self) -> Tensor:
        return self.before.affine @ affine_matrix(self.identity + self.parameters[0] * self.scale, self.center).double()

    def transform(self, grid: Grid) -> Transform:
        affine = Affine(self._matrix(), grid)
        return affine if self.shift is None else Composition([affine, Displacement(self.shift, grid)])

    def state(self) -> _State:
        return replace(self.before, affine=self._matrix().detach())


class _FittedBSpline(_Fitted):
    def __init__(self, state: _State, stage: Stage, objective: Objective, network: Composer | None) -> None:
        grid, edge, spacing = state.grid, objective.edge, stage.spacing
        self.spacing = spacing
        like = state.affine.float()

        def stride(spacing: float) -> list[float]:
            return [spacing * edge / s for s in grid.spacing[0].tolist()]

        control = torch.zeros(1, 3, *lattice_shape(grid.shape, stride(spacing)), device=like.device)
        fixed = state.field
        if state.spline is not None and state.spacing is not None:
            control = state.spline.control
            between = state.spacing
            while between > spacing * 1.001:
                between /= 2
                control = subdivide(control, lattice_shape(grid.shape, stride(between)))
        self.before = replace(state, spline=None, field=fixed)
        self.stride = stride(spacing)
        self.parameters = [control.detach().clone().requires_grad_()]
        self.constant = self.before.increment(objective.grid)
        voxels = torch.tensor([edge / s for s in grid.spacing[0].tolist()], device=like.device)
        self.unit = voxels.view(1, 3, 1, 1, 1)  # one finest voxel edge along every axis, in voxels
        self.parameters[0].data /= self.unit

    def _spline(self) -> BSpline:
        return BSpline(self.parameters[0] * self.unit, self.before.grid, self.stride)

    def transform(self, grid: Grid) -> Transform:
        spline = self._spline()
        inner = spline if self.constant is None else Displacement(spline.displacement(grid) + self.constant, grid)
        return Composition([Affine(self.before.affine, grid), inner])

    def state(self) -> _State:
        spline = self._spline()
        return replace(self.before, spline=BSpline(spline.control.detach(), spline.grid, spline.stride), spacing=self.spacing)


class _FittedDense(_Fitted):
    def __init__(self, state: _State, stage: Stage, objective: Objective, network: Composer | None) -> None:
        self.before, grid = state, state.grid
        stride = [max(1, round(stage.spacing * objective.edge / s)) for s in grid.spacing[0].tolist()]
        self.coarse = grid.at_stride(stride, [-(-n // s) for n, s in zip(grid.shape, stride, strict=True)])
        like = state.affine.float()
        self.unit = torch.tensor([objective.edge / s for s in self.coarse.spacing[0].tolist()], device=like.device).view(1, 3, 1, 1, 1)
        self.parameters = [torch.zeros(1, 3, *self.coarse.shape, device=like.device, requires_grad=True)]
        self.constant = state.increment(objective.grid)

    def _field(self) -> Displacement:
        return Displacement(self.parameters[0] * self.unit, self.coarse)

    def transform(self, grid: Grid) -> Transform:
        shift = self._field().displacement(grid)
        inner = Displacement(shift if self.constant is None else shift + self.constant, grid)
        return Composition([Affine(self.before.affine, grid), inner])

    def state(self) -> _State:
        shift = self._field().displacement(self.before.grid).detach()
        constant = self.before.increment(self.before.grid)
        total = shift if constant is None else shift + constant
        return replace(self.before, spline=None, spacing=None, field=Displacement(total, self.before.grid))


class _FittedNetwork(_Fitted):
    """The network's weights. Whatever was found before is left behind: the network starts from the images."""

    def __init__(self, state: _State, stage: Stage, objective: Objective, network: Composer | None) -> None:
        if network is None:
            raise ComponentError("A stage that fits the network's weights needs a model; give --model, or another method.")
        self.network, self.grid, self.pair = copy.deepcopy(network).eval().requires_grad_(), state.grid, objective.original
        self.parameters = list(self.network.parameters())

    def _found(self) -> Transform:
        return self.network(self.pair.fixed, self.pair.moving).transform

    def transform(self, grid: Grid) -> Transform:
        return self._found()

    def state(self) -> _State:
        with torch.no_grad():
            return _State.of(self._found(), self.grid)


_FITTED: dict[str, type[_Fitted]] = {
    "affine": _FittedAffine,
    "bspline": _FittedBSpline,
    "dense": _FittedDense,
    "network": _FittedNetwork,
}
