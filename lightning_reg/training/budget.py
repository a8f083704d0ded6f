"""Estimate of the duration of a training on this machine, and of the number of steps in a time
budget.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from lightning_reg.components.interfaces import Growable, Staged
from lightning_reg.metrics import evaluate
from lightning_reg.spatial import Pair
from lightning_reg.training.module import RegistrationModule
from lightning_reg.training.schedules import growth, stage_bounds

MOMENTS = 8
"""Number of points of a training at which the time of a step is measured."""


def step_seconds(
    module: RegistrationModule,
    method: Mapping[str, Any],
    steps: int,
    batch: Pair,
    validation: Sequence[Pair],
    every: int = 100,
    accumulated: int = 1,
) -> float:
    """Measure the mean time of a training step on this machine, including its share of the
    validations, in seconds.

    A copy of the module makes two steps in every state of the training (stages, growing levels);
    the faster one is used.

    Args:
        method: the method's configuration, for its ``stages`` and growth.
        steps: number of steps of the whole training.
        batch: batch of a step.
        validation: pairs of a validation.
        every: steps from one validation to the next.
        accumulated: batches per step.
    """
    trial = copy.deepcopy(module).train()
    known: dict[tuple[Any, ...], float] = {}
    total = 0.0
    with torch.random.fork_rng(devices=[]):
        for moment in range(MOMENTS):
            state = _bring_to(trial, method, steps, (moment + 0.5) / MOMENTS)
            if state not in known:
                known[state] = min(_timed(trial, batch) for _ in range(2))
            total += known[state]
        started = time.perf_counter()
        if validation:
            with torch.no_grad():
                evaluate(
                    validation[0], trial.eval()(validation[0].fixed, validation[0].moving).transform
                )
    return accumulated * total / MOMENTS + len(validation) * (time.perf_counter() - started) / every


def _bring_to(
    module: RegistrationModule, method: Mapping[str, Any], steps: int, fraction: float
) -> tuple[Any, ...]:
    """Bring the module to its state after a fraction of the training; return what determines the
    time of a step in that state.
    """
    stage = 0
    alive: tuple[bool, ...] = ()
    stages = method.get("stages")
    if stages and isinstance(module.composer, Staged):
        bounds = stage_bounds([float(stage["steps"]) for stage in stages], steps)
        stage = max(k for k in range(len(stages)) if bounds[k] <= fraction * steps)
        trained = stages[stage]["train"]
        module.composer.activate(
            range(len(module.composer.networks)) if trained == "all" else trained
        )
    growing = (method.get("callbacks") or {}).get("alpha_growth")
    for part in module.modules():
        if growing is not None and isinstance(part, Growable) and len(part.alpha) > 1:
            scale = growing.get("time_scale", 1.0)
            schedule = {
                key: growing[key] * scale for key in ("start", "ramp", "duration") if key in growing
            }
            alpha = growth(fraction * steps, len(part.alpha), **schedule)
            part.grow(alpha)
            alive = tuple(a > 0 for a in alpha)
    return stage, alive


def _timed(module: RegistrationModule, batch: Pair) -> float:
    """Measure the seconds of a forward and a backward pass."""
    started = time.perf_counter()
    module.training_loss(batch).total.backward()
    module.zero_grad(set_to_none=True)
    return time.perf_counter() - started
