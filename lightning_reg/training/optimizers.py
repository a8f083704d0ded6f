"""Optimisers and learning rate schedules, and their specifications."""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from typing import Annotated, Any

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, ReduceLROnPlateau

from lightning_reg.configuration.building import plain
from lightning_reg.registry import (
    ComponentError,
    Described,
    Range,
    arguments_of,
    construct,
    load,
    registered_name,
)
from lightning_reg.training.schedules import cooldown, inverse_time

OptimizerFactory = Callable[[Iterable[nn.Parameter]], Optimizer]
"""A function of the parameters that makes an optimiser:
``functools.partial(torch.optim.Adam, lr=1e-3)``, or the class.
"""


class Schedule(Described, ABC):
    """Learning rate over a training, or over one stage of it.

    Attributes:
        counts_steps: whether the rate depends on the total number of steps, which is unknown if the
            trainer only limits the time.
    """

    counts_steps: bool = True

    @abstractmethod
    def scheduler(self, optimizer: Optimizer, steps: int, validation_epochs: int) -> dict[str, Any]:
        """Return the entry ``lr_scheduler`` for Lightning's ``configure_optimizers``.

        Args:
            optimizer: optimiser whose rate follows the schedule.
            steps: number of steps of the whole training, or of the stage.
            validation_epochs: epochs from one validation to the next.
        """


class DecaySchedule(Schedule):
    """Inverse-time decay, ``1 / (1 + decay * t)``, with a linear fall to 0 at the end.

    Args:
        decay: per step, see :func:`~lightning_reg.training.schedules.inverse_time`.
        cooldown: fraction of the steps over which the rate falls to 0, see
            :func:`~lightning_reg.training.schedules.cooldown`.
    """

    def __init__(
        self,
        decay: Annotated[float, Range(0)] = 0.0,
        cooldown: Annotated[float, Range(0, 1)] = 0.0,
    ) -> None:
        self.decay, self.cooldown = float(decay), float(cooldown)
        self.counts_steps = self.cooldown > 0

    def factor(self, step: int, steps: int) -> float:
        """Return the factor of the learning rate at step ``step`` of ``steps``."""
        return inverse_time(step, self.decay) * cooldown(step, steps, self.cooldown)

    def scheduler(self, optimizer: Optimizer, steps: int, validation_epochs: int) -> dict[str, Any]:
        # a function, because the state of an object, with the old number of steps, would be stored
        # in the checkpoint
        return {
            "scheduler": LambdaLR(optimizer, lambda step: self.factor(step, steps)),
            "interval": "step",
        }


class PlateauSchedule(Schedule):
    """Reduction by a factor when the validation error stops falling (PyTorch's
    ``ReduceLROnPlateau``).

    Args:
        factor: factor of each reduction.
        patience: validations without a smaller error before a reduction.
        threshold: relative decrease that counts as a smaller error.
        min_lr: the rate does not fall below this.
    """

    counts_steps = False

    def __init__(
        self,
        factor: Annotated[float, Range(above=0, below=1)] = 0.1,
        patience: int = 10,
        threshold: float = 1e-4,
        min_lr: float = 0.0,
    ) -> None:
        self.factor, self.patience, self.threshold, self.min_lr = (
            float(factor),
            patience,
            float(threshold),
            float(min_lr),
        )

    def scheduler(self, optimizer: Optimizer, steps: int, validation_epochs: int) -> dict[str, Any]:
        falling = ReduceLROnPlateau(
            optimizer,
            factor=self.factor,
            patience=self.patience,
            threshold=self.threshold,
            min_lr=self.min_lr,
        )
        return {
            "scheduler": falling,
            "interval": "epoch",
            "frequency": validation_epochs,
            "monitor": "validation/error",
        }


def build_optimizer(spec: Mapping[str, Any]) -> OptimizerFactory:
    """Build an optimiser factory from ``{name, **arguments}``; ``None`` stands for the class's own
    default.

    Raises:
        ComponentError: the optimiser is unknown, or refuses an argument.
    """
    arguments = {key: value for key, value in spec.items() if value is not None}
    name = arguments.pop("name", None)
    cls = load("optimizers", str(name), torch.optim.Optimizer)
    construct(
        str(name), cls, arguments, params=[nn.Parameter(torch.zeros(1))]
    )  # refuses invalid arguments
    return functools.partial(cls, **arguments)


def describe_optimizer(optimizer: OptimizerFactory) -> dict[str, Any]:
    """Return the specification of an optimiser factory.

    Raises:
        ComponentError: the factory is neither a registered class nor ``functools.partial`` of one
            with keywords.
    """
    made = optimizer if isinstance(optimizer, functools.partial) else functools.partial(optimizer)
    if made.args or not isinstance(made.func, type):
        raise ComponentError(
            "The optimizer of the module is not a class that a checkpoint can name; give"
            " functools.partial(torch.optim.Adam, lr=...)."
        )
    return {"name": registered_name(made.func, "optimizers")} | plain(made.keywords, "optimizer")


def build_schedule(spec: Mapping[str, Any]) -> Schedule:
    """Build a schedule from ``{name, **arguments}``.

    The default name is ``decay``; ``{plateau: {...}}`` is short for ``{name: plateau, ...}``.

    Raises:
        ComponentError: the schedule is unknown, or refuses an argument.
    """
    arguments = {key: value for key, value in spec.items() if value is not None}
    plateau = arguments.pop("plateau", None)
    if plateau is not None:
        if arguments:
            raise ComponentError(
                "method.schedule has plateau and something else; keep one of them."
            )
        arguments = {"name": "plateau", **plateau}
    name = arguments.pop("name", "decay")
    cls = load("schedules", str(name), Schedule)
    return construct("method.schedule" if name == "decay" else str(name), cls, arguments)


def describe_schedule(schedule: Schedule) -> dict[str, Any]:
    """Return the specification of a schedule."""
    return {"name": registered_name(type(schedule), "schedules")} | plain(
        arguments_of(schedule), type(schedule).__name__
    )
