"""Walk over the parts of pairs, images, transforms, and dataclasses made of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, is_dataclass, replace
from typing import Any, TypeVar

from torch import Tensor

from lightning_reg.spatial.grid import Grid
from lightning_reg.spatial.transforms import Transform

Value = TypeVar("Value")


def mapped(value: Value, change: Callable[[Any], Any], part: type = Tensor) -> Value:
    """Return a value with every part of a class replaced by ``change(part)``: of the value itself,
    of the tensors of transforms, of the items of tuples and of the fields of dataclasses.
    """
    if isinstance(value, part):
        return change(value)
    if isinstance(value, Transform) and part is Tensor:
        return value.mapped(change)
    if isinstance(value, tuple):
        return tuple(mapped(item, change, part) for item in value)  # type: ignore[return-value]
    if is_dataclass(value) and not isinstance(value, Grid):
        parts = {f.name: mapped(getattr(value, f.name), change, part) for f in fields(value)}
        return replace(value, **parts)  # type: ignore[type-var]
    return value
