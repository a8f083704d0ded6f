"""Instance optimisation: the parameters of one pair's transform are fitted to that pair, from coarse to fine."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import takewhile

import numpy as np
import torch
from torch import Tensor

from lightning_reg.components.interfaces import Composer
from lightning_reg.discovery import load
from lightning_reg.inference.optimization.objective import LINEAR, FitStage, Objective, Optimization, with_margin
from lightning_reg.inference.optimization.parameters import Fit, State
from lightning_reg.inference.optimization.unfolding import unfolded
from lightning_reg.spatial import Affine, Composition, Pair, Transform


@dataclass
class Optimized:
    """Result of an optimisation.

    Args:
        transform: fixed world to moving world. The one it was given, where nothing better was found.
        before, after: the objective of the last stage, at the start and for :attr:`transform`; the second is never larger.
        history: per stage its kind and the objective at every step.
        apart: where the start was returned because registrations from several starts disagreed: by how much, mm.
        unlike: where the images were taken for two modalities: their correlation.
    """

    transform: Transform
    before: float
    after: float
    history: list[tuple[str, list[float]]] = field(default_factory=list)
    apart: float | None = None
    unlike: float | None = None


def optimize(
    pair: Pair,
    start: Transform,
    optimization: Optimization,
    *,
    steps: int | None = None,
    network: Composer | None = None,
    progress: Callable[[str], None] | None = None,
) -> Optimized:
    """Fit a transform to a pair.

    Args:
        pair: of batch size 1. Masks, landmarks and labels are there for terms that ask for them.
        start: where to begin. Its leading affine part is kept apart; what follows is held as a displacement on the fixed grid.
        optimization: objective and stages.
        steps: of all stages together; default their own.
        network: for stages that fit the network's weights; left as it was found.
        progress: called with a line per stage.

    Raises:
        ComponentError: a term or a stage is not what it can be.
        TrainingError: a term needs what the pair does not have.
    """
    pair = with_margin(pair, optimization.mask_margin)
    stages = optimization.scaled(steps)
    if not stages:
        return Optimized(start, float("nan"), float("nan"))
    with torch.enable_grad():
        apart = _disagreement(pair, start, stages, optimization)
        if apart is None:
            try:
                state, history = run_stages(pair, State.of(start, pair.fixed.grid), stages, optimization, network, progress)
            except _Unlike as unlike:
                assert optimization.unlike is not None
                if progress is not None:
                    progress(f"two modalities, by a correlation of {unlike.correlation:.2f}: measures that do not compare intensities")
                instead = optimize(pair, start, optimization.unlike, steps=steps, network=network, progress=progress)
                return replace(instead, unlike=unlike.correlation)
            if state.spline is not None and state.field is None:
                state = replace(state, spline=unfolded(state.spline))
            found = state.transform()
        else:
            found, history = start, []
    objective = Objective(pair, stages[-1], optimization)
    with torch.no_grad():
        before, after = (float(objective(t)) for t in (start, found))
    return Optimized(found, before, after, history) if after < before else Optimized(start, before, before, history, apart)


def run_stages(
    pair: Pair,
    state: State,
    stages: Sequence[FitStage],
    optimization: Optimization,
    network: Composer | None = None,
    progress: Callable[[str], None] | None = None,
) -> tuple[State, list[tuple[str, list[float]]]]:
    """The state after the stages, and the objective at every step of each.

    Raises:
        _Unlike: the images correlate less after the linear stages than the optimisation is for.
    """
    history: list[tuple[str, list[float]]] = []
    linear = len(_linear(stages))
    objective: Objective | None = None
    for number, stage in enumerate(stages):
        if objective is not None and number == linear and optimization.unlike is not None:
            correlation = objective.likeness(state.transform())
            if correlation < optimization.likeness:
                raise _Unlike(correlation)
        objective = Objective(pair, stage, optimization)
        fitted = load("fits", stage.transform, Fit)(state, stage, objective, network)
        values = _descend(fitted, stage, objective, optimization)
        state = fitted.state()
        history.append((stage.transform, values))
        if progress is not None:
            which = f"stage {number + 1} of {len(stages)} ({stage.transform})"
            progress(f"{which}: {values[0]:.4f} -> {min(values):.4f} in {len(values) - 1} steps")
    return state, history


def _disagreement(pair: Pair, start: Transform, stages: Sequence[FitStage], optimization: Optimization) -> float | None:
    """Distance in mm of the transforms that the leading rigid and affine stages find from several starts: mean over the image of that of
    each from the median, and the median of these. ``None``: near enough to each other, or not asked for."""
    linear = _linear(stages)
    if optimization.starts == 1 or not linear:
        return None
    grid, random = pair.fixed.grid, np.random.default_rng(0)
    points = grid.to_world(grid.scattered(1000).to(pair.fixed.tensor.device).double())
    ends = []
    for number in range(optimization.starts):
        move = random.standard_normal(3) * (number > 0)
        matrix = torch.eye(4, dtype=torch.float64, device=points.device).unsqueeze(0)
        matrix[0, :3, 3] = torch.as_tensor(0.1 * float(grid.size[0]) * move / max(float(np.linalg.norm(move)), 1e-6))
        state, _ = run_stages(pair, State.of(Composition([Affine(matrix, grid), start]), grid), linear, optimization)
        ends.append(state.transform().map_world(points)[0])
    found = torch.stack(ends)
    apart = float((found - found.median(0).values).norm(dim=1).mean(1).median())
    return apart if apart > 0.02 * float(grid.size[0]) else None


def _linear(stages: Sequence[FitStage]) -> list[FitStage]:
    """The rigid and affine stages at the beginning."""
    return list(takewhile(lambda stage: stage.transform in LINEAR, stages))


class _Unlike(Exception):
    """The images are of two modalities."""

    def __init__(self, correlation: float) -> None:
        self.correlation = correlation


class _Settled(Exception):
    """The objective no longer falls, or is not a number."""


@dataclass
class _Track:
    """The objective's values, and the parameters where it was smallest."""

    fitted: Fit
    objective: Objective
    optimization: Optimization
    values: list[float] = field(default_factory=list)
    best: list[Tensor] = field(init=False)

    def __post_init__(self) -> None:
        self._keep()

    def _keep(self) -> None:
        self.best = [parameter.detach().clone() for parameter in self.fitted.parameters]

    def evaluate(self) -> Tensor:
        """The objective, in the graph.

        Raises:
            _Settled: after the value has been noted.
        """
        value = self.objective(self.fitted.found(self.objective.grid))
        self.values.append(float(value.detach()))
        if self.values[-1] <= min(self.values):
            self._keep()
        waited = len(self.values) - self.optimization.patience
        settled = waited > 0 and min(self.values[:waited]) - min(self.values) < self.optimization.tolerance * abs(min(self.values))
        if settled or not math.isfinite(self.values[-1]):
            raise _Settled
        return value


def _descend(fitted: Fit, stage: FitStage, objective: Objective, optimization: Optimization) -> list[float]:
    """Minimise the objective; the parameters end as the best of all steps. Returns the objective's values."""
    track = _Track(fitted, objective, optimization)
    with suppress(_Settled):
        (_adam if stage.optimizer == "adam" else _lbfgs)(track, stage)
    with torch.no_grad():
        for parameter, kept in zip(fitted.parameters, track.best, strict=True):
            parameter.copy_(kept)
    return track.values


def _adam(track: _Track, stage: FitStage) -> None:
    """With a rate that falls along a half cosine."""
    optimizer = torch.optim.Adam(track.fitted.parameters, stage.lr, betas=(0.9, 0.99))
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, stage.steps)
    for step in range(stage.steps + 1):
        optimizer.zero_grad()
        value = track.evaluate()
        if step == stage.steps:
            break
        value.backward()
        optimizer.step()
        schedule.step()


def _lbfgs(track: _Track, stage: FitStage) -> None:
    optimizer = torch.optim.LBFGS(
        track.fitted.parameters, stage.lr, stage.steps, stage.steps + 1, 1e-9, 1e-12, history_size=10, line_search_fn="strong_wolfe"
    )

    def closure() -> float:
        optimizer.zero_grad()
        value = track.evaluate()
        if len(track.values) > stage.steps:
            raise _Settled
        value.backward()
        return float(value.detach())

    optimizer.step(closure)
