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
from lightning_reg.data.datamodule import RegistrationData
from lightning_reg.io.names import duration
from lightning_reg.metrics import evaluate
from lightning_reg.spatial import Pair
from lightning_reg.training.module import RegistrationModule
from lightning_reg.training.run_folder import with_steps
from lightning_reg.training.schedules import growth, stage_bounds

FEW = 300
"""Number of steps below which no network learns to register."""
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


def planned(
    config: Mapping[str, Any], module: RegistrationModule, data: RegistrationData, resumed: bool
) -> tuple[Mapping[str, Any], str]:
    """Set the number of steps that the budget allows; return the configuration and a sentence with
    the number of steps.

    The budget is used only if ``trainer.max_steps`` is the method's own number of steps: a value on
    the command line has priority.
    """
    method, steps, budget = config["method"], config["trainer"]["max_steps"], config.get("budget")
    own = steps == max(1, round(method.get("steps", steps) * config.get("time_scale", 1.0)))
    if not budget or not own or resumed or data.train_pairs is None:
        return config, f"{steps:,} steps."
    pairs = [data.train_pairs[k] for k in range(data.batch_size)]
    accumulated = config["trainer"].get("accumulate_grad_batches") or 1
    epochs = config["trainer"].get("check_val_every_n_epoch") or 1
    every = max(1, data.samples_per_epoch * epochs // (data.batch_size * accumulated))
    seconds = step_seconds(
        module,
        method,
        max(steps, 1),
        Pair.collate(pairs),
        data.validation_pairs,
        every,
        accumulated,
    )
    steps = max(1, round(60 * budget / seconds))
    sentence = (
        f"{steps:,} steps, about {duration(steps * seconds)} here: as many as fit into"
        f" `budget={budget:g}` minutes. The paper's own settings: `size='paper'`."
    )
    if steps < FEW:
        sentence += (
            f" These are few: raise `budget`, or make the images ({_size(pairs[0])} voxels)"
            " smaller by `spacing`."
        )
    return with_steps(config, steps), sentence


def _size(pair: Pair) -> str:
    return " x ".join(map(str, pair.fixed.grid.shape))
