"""Specifications of optimisers and of learning rate schedules, and the objects made from them."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from lightning_reg.configuration.building import plain
from lightning_reg.registry import ComponentError, arguments_of, construct, load, registered_name
from lightning_reg.training.schedules import Schedule

OptimizerFactory = Callable[[Iterable[nn.Parameter]], Optimizer]
"""A function of the parameters that makes an optimiser:
``functools.partial(torch.optim.Adam, lr=1e-3)``, or the class.
"""


def build_optimizer(spec: Mapping[str, Any]) -> OptimizerFactory:
    """Build an optimiser factory from ``{name, **arguments}``; ``None`` stands for the class's own
    default.

    Raises:
        ComponentError: the optimiser is unknown, or refuses an argument.
    """
    arguments = {key: value for key, value in spec.items() if value is not None}
    name = arguments.pop("name", None)
    cls = load("optimizers", str(name), torch.optim.Optimizer)
    # refuses invalid arguments
    construct(str(name), cls, arguments, params=[nn.Parameter(torch.zeros(1))])
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
