"""Instance optimisation: fit of a transform's parameters to one pair, from coarse to fine."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import takewhile

import numpy as np
import torch
from torch import Tensor

from lightning_reg.components.interfaces import Composer
from lightning_reg.optimization.objective import (
    LINEAR,
    FitStage,
    Objective,
    Optimization,
    with_margin,
)
from lightning_reg.optimization.parameters import Fit, State
from lightning_reg.optimization.unfolding import unfolded
from lightning_reg.registry import load
from lightning_reg.spatial import Affine, Composition, Pair, Transform

AGREEING = 0.02
"""Disagreement of registrations from several starts up to which they agree, as a fraction of the
image's size.
"""


@dataclass
class Optimized:
    """Result of an optimisation.

    Args:
        transform: fixed world to moving world; the start, if no better transform was found.
        before, after: the last stage's objective for the start and for :attr:`transform`; ``after``
        is never larger.
        history: per stage, the kind of transform and the objective at every step.
        apart: disagreement of registrations from several starts, mm, if the start was returned
            because of it.
        unlike: correlation of the images, if they were registered as two modalities.
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
        pair: of batch size 1. Masks, landmarks and labels are used by the terms that need them.
        start: initial transform. Its leading affine part is stored separately, the rest as a
            displacement on the fixed grid.
        optimization: objective and stages.
        steps: of all stages together; default those of the stages.
        network: for stages that fit the network's weights; it is not changed.
        progress: called with a line per stage.

    Raises:
        ComponentError: a term or a stage is not valid.
        TrainingError: a term needs data that the pair does not have.
    """
    pair = with_margin(pair, optimization.mask_margin)
    stages = optimization.scaled(steps)
    if not stages:
        return Optimized(start, float("nan"), float("nan"))
    found, history = start, []
    with torch.enable_grad():
        apart = _disagreement(pair, start, stages, optimization)
        if apart is None:
            state, linear = State.of(start, pair.fixed.grid), len(_linear(stages))
            fitted = run_stages(pair, state, stages, optimization, network, progress)
            for stage, (state, values) in zip(stages, fitted, strict=True):
                history.append((stage.transform, values))
                if len(history) == linear < len(stages) and optimization.unlike is not None:
                    correlation = Objective(pair, stage, optimization).likeness(state.transform())
                    if correlation < optimization.likeness:
                        if progress is not None:
                            progress(
                                f"two modalities (correlation {correlation:.2f}): using measures"
                                " that do not compare intensities"
                            )
                        instead = optimization.unlike
                        other = optimize(
                            pair, start, instead, steps=steps, network=network, progress=progress
                        )
                        return replace(other, unlike=correlation)
            if state.spline is not None and state.field is None:
                state = replace(state, spline=unfolded(state.spline))
            found = state.transform()
    objective = Objective(pair, stages[-1], optimization)
    with torch.no_grad():
        before, after = (float(objective(t)) for t in (start, found))
    return (
        Optimized(found, before, after, history)
        if after < before
        else Optimized(start, before, before, history, apart)
    )


def run_stages(
    pair: Pair,
    state: State,
    stages: Sequence[FitStage],
    optimization: Optimization,
    network: Composer | None = None,
    progress: Callable[[str], None] | None = None,
) -> Iterator[tuple[State, list[float]]]:
    """Run the stages one after the other; yields the state after each, and its objective at every
    step.
    """
    for number, stage in enumerate(stages, 1):
        objective = Objective(pair, stage, optimization)
        fitted = load("fits", stage.transform, Fit)(state, stage, objective, network)
        values = _descend(fitted, stage, objective, optimization)
        state = fitted.state()
        if progress is not None:
            which = f"stage {number} of {len(stages)} ({stage.transform})"
            progress(f"{which}: {values[0]:.4f} -> {min(values):.4f} in {len(values) - 1} steps")
        yield state, values


def _disagreement(
    pair: Pair, start: Transform, stages: Sequence[FitStage], optimization: Optimization
) -> float | None:
    """Disagreement, mm, of the transforms fitted by the leading rigid and affine stages from
    several starts.

    For each start, the distance of the mapped points from their median over the starts is averaged
    over the image; the disagreement is the median of these averages. ``None``: it is small, or
    there is only one start.
    """
    linear = _linear(stages)
    if optimization.starts == 1 or not linear:
        return None
    grid, random = pair.fixed.grid, np.random.default_rng(0)
    points = grid.to_world(grid.scattered(1000).to(pair.fixed.tensor.device).double())
    ends = []
    for number in range(optimization.starts):
        move = random.standard_normal(3) * (number > 0)
        matrix = torch.eye(4, dtype=torch.float64, device=points.device).unsqueeze(0)
        shift = torch.as_tensor(
            0.1 * float(grid.size[0]) * move / max(float(np.linalg.norm(move)), 1e-6)
        )
        matrix[0, :3, 3] = grid.in_plane(shift.view(1, 3, 1)).flatten()
        state = State.of(Composition([Affine(matrix, grid), start]), grid)
        *_, (state, _) = run_stages(pair, state, linear, optimization)
        ends.append(state.transform().map_world(points)[0])
    found = torch.stack(ends)
    apart = float((found - found.median(0).values).norm(dim=1).mean(1).median())
    return apart if apart > AGREEING * float(grid.size[0]) else None


def _linear(stages: Sequence[FitStage]) -> list[FitStage]:
    """The leading rigid and affine stages."""
    return list(takewhile(lambda stage: stage.transform in LINEAR, stages))


class _Settled(Exception):
    """Signal that the objective no longer decreases, or is not finite."""


@dataclass
class _Track:
    """Values of the objective, and the parameters of the smallest one."""

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
        """Evaluate the objective, with its graph for gradients.

        Raises:
            _Settled: the descent is to end; the value has been recorded.
        """
        value = self.objective(self.fitted.found(self.objective.grid))
        self.values.append(float(value.detach()))
        if self.values[-1] <= min(self.values):
            self._keep()
        waited = len(self.values) - self.optimization.patience
        settled = waited > 0 and min(self.values[:waited]) - min(
            self.values
        ) < self.optimization.tolerance * abs(min(self.values))
        if settled or not math.isfinite(self.values[-1]):
            raise _Settled
        return value


def _descend(
    fitted: Fit, stage: FitStage, objective: Objective, optimization: Optimization
) -> list[float]:
    """Minimise the objective, and set the parameters to the best ones of all steps; returns the
    objective's values.
    """
    track = _Track(fitted, objective, optimization)
    with suppress(_Settled):
        (_adam if stage.optimizer == "adam" else _lbfgs)(track, stage)
    with torch.no_grad():
        for parameter, kept in zip(fitted.parameters, track.best, strict=True):
            parameter.copy_(kept)
    return track.values


def _adam(track: _Track, stage: FitStage) -> None:
    """Minimise with Adam; the learning rate decreases to 0 along a half cosine."""
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
        track.fitted.parameters,
        stage.lr,
        stage.steps,
        stage.steps + 1,
        1e-9,
        1e-12,
        history_size=10,
        line_search_fn="strong_wolfe",
    )

    def closure() -> float:
        optimizer.zero_grad()
        value = track.evaluate()
        if len(track.values) > stage.steps:
            raise _Settled
        value.backward()
        return float(value.detach())

    optimizer.step(closure)
