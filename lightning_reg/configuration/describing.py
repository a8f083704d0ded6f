"""Specifications of objects, from which :mod:`lightning_reg.configuration.building` builds them
again: what a checkpoint stores.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from torch import nn

from lightning_reg.components.composers import Member
from lightning_reg.components.interfaces import Head, LossTerm
from lightning_reg.components.losses.bundle import LossBundle
from lightning_reg.components.network import Network
from lightning_reg.configuration.groups import GROUPS, group_of_component
from lightning_reg.registry import (
    ComponentError,
    Described,
    arguments_of,
    registered_name,
    registration,
)
from lightning_reg.registry.provenance import entry


def describe(component: Described) -> Any:
    """Return the specification of a component: plain values from which the functions above build it
    again.

    Raises:
        ComponentError: a class that no installed distribution registers, or an argument that is
            neither a component nor a plain value.
    """
    if isinstance(component, Network):
        arguments = arguments_of(component)
        heads = [describe(head) for head in component.heads]  # type: ignore[arg-type]
        described = {
            "backbone": describe(component.backbone),
            "head": heads[0] if len(heads) == 1 else heads,
        }
        return described | {"init": arguments["init"]}
    if isinstance(component, Member):
        placed = {key: value for key, value in arguments_of(component).items() if key != "network"}
        return describe(component.network) | plain(placed, "a member of a composer")
    if isinstance(component, LossBundle):
        terms = {}
        for name, term in component.terms.items():
            assert isinstance(term, LossTerm)
            made = describe(term)
            own = made.pop("name")
            terms[name] = (
                {"weight": component.weights[name]} | ({} if own == name else {"name": own}) | made
            )
        weights = component.level_weights
        return {"terms": terms} | (
            {} if weights is None else {"level_weights": [float(w) for w in weights]}
        )
    group = group_of_component(type(component))
    assert group is not None
    return {"name": registered_name(type(component), group.name)} | _arguments(component)


def describe_optimizer(optimizer: Callable[..., Any]) -> dict[str, Any]:
    """Return the specification of a function that makes an optimiser.

    Raises:
        ComponentError: it is neither a registered class nor ``functools.partial`` of one with
            keywords.
    """
    made = optimizer if isinstance(optimizer, functools.partial) else functools.partial(optimizer)
    if made.args or not isinstance(made.func, type):
        raise ComponentError(
            "The optimizer of the module is not a class that a checkpoint can name; give"
            " functools.partial(torch.optim.Adam, lr=...)."
        )
    return {"name": registered_name(made.func, "optimizers")} | plain(made.keywords, "optimizer")


def provenance(*modules: nn.Module) -> list[dict[str, str]]:
    """Return ``{group, name, distribution, version}`` of every component in these modules, each
    class once.

    Raises:
        ComponentError: a class that no installed distribution registers.
    """
    classes = dict.fromkeys(type(part) for module in modules for part in module.modules())
    return [
        entry(group.name, registration(cls, group.name))
        for cls in classes
        if (group := group_of_component(cls)) is not None
    ]


def _arguments(component: Described) -> dict[str, Any]:
    arguments: dict[str, Any] = {}
    for key, value in arguments_of(component).items():
        if isinstance(component, Head) and key in GROUPS["heads"].supplied:
            continue
        if key == "members":
            made = [member if isinstance(member, Member) else Member(member) for member in value]
            arguments["stages"] = [describe(member) for member in made]
        else:
            arguments[key] = plain(value, type(component).__name__)
    return arguments


def without_numpy(value: Any) -> Any:
    """Convert NumPy values to Python numbers and lists, also inside lists and mappings."""
    if isinstance(value, (np.generic, np.ndarray)):
        return value.tolist()
    if isinstance(value, Mapping):
        return {key: without_numpy(inner) for key, inner in value.items()}
    return (
        type(value)(without_numpy(inner) for inner in value)
        if type(value) in (list, tuple)
        else value
    )


def plain(value: Any, owner: str) -> Any:
    """Convert a value to plain values; components become their specifications.

    Args:
        owner: name of the value's owner, for the message.

    Raises:
        ComponentError: the value is neither plain nor a component.
    """
    value = without_numpy(value)
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, Described):
        return describe(value)
    if isinstance(value, Mapping):
        return {str(key): plain(inner, owner) for key, inner in value.items()}
    if isinstance(value, (Sequence, nn.ModuleList)):
        return [plain(inner, owner) for inner in value]
    raise ComponentError(
        f"{owner} was made from {type(value).__name__}, which a checkpoint cannot hold; give its"
        " constructor numbers, words, lists of them, or components."
    )
