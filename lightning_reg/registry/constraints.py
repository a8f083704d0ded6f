"""Constraints of arguments as data: in the annotations of a constructor.

    class Smoothing(Checked):
        def __init__(self, width: Annotated[int, Range(1, 8)], mode: Literal["box", "gauss"]): ...

refuses ``Smoothing(0, "box")`` with ``width is 0; give a whole number from 1 to 8``. Annotations
without :class:`Range`, :class:`Length`, :class:`Instance` or ``Literal`` restrict nothing.
"""

from __future__ import annotations

import inspect
import math
import types
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from numbers import Integral, Real
from typing import TYPE_CHECKING, Annotated, Any, Literal, Union, get_args, get_origin

from lightning_reg.registry.errors import ArgumentError

if TYPE_CHECKING:
    from typing_extensions import Self

WORDS = {1: "one", 2: "two", 3: "three", 4: "four"}


@dataclass(frozen=True)
class Range:
    """Numbers from ``low`` to ``high``, in ``Annotated[int, Range(1, 8)]``.

    Args:
        low, high: the limits, which are allowed values.
        above, below: limits that are not.
        of: unit of the number, for the message.
        odd: allow only odd numbers.
    """

    low: float = -math.inf
    high: float = math.inf
    above: float = -math.inf
    below: float = math.inf
    of: str = ""
    odd: bool = False

    def __contains__(self, number: float) -> bool:
        return (
            math.isfinite(number)
            and self.low <= number <= self.high
            and self.above < number < self.below
            and (not self.odd or number % 2 == 1)
        )

    def limits(self) -> str:
        """The limits in words, after the noun."""
        if math.isfinite(self.low) and math.isfinite(self.high):
            return f" from {self.low:g} to {self.high:g}"
        if math.isfinite(self.above) and math.isfinite(self.below):
            return f" between {self.above:g} and {self.below:g}"
        if math.isfinite(self.above) and math.isfinite(self.high):
            return f" above {self.above:g}, at most {self.high:g}"
        if math.isfinite(self.above):
            return f" above {self.above:g}"
        return f", {self.low:g} or more" if math.isfinite(self.low) else ""


@dataclass(frozen=True)
class Length:
    """Number of values of a sequence, in ``Annotated[Sequence[int], Length(3)]``."""

    count: int

    def limits(self) -> str:
        """The length in words, after the noun."""
        return f" of {self.count}"


@dataclass(frozen=True)
class Instance:
    """Objects of the annotated class, in ``Annotated[Grid, Instance("Grid(shape, affine)")]``.

    Args:
        example: such an object, for the message.
    """

    example: str


class _Signature:
    """Signature of a class's constructor, read on access: ``__new__`` below would hide it."""

    def __get__(self, instance: object, owner: type) -> inspect.Signature:
        if instance is not None:
            raise AttributeError("__signature__")
        signature = inspect.signature(owner.__init__)  # type: ignore[misc]
        return signature.replace(parameters=list(signature.parameters.values())[1:])


class Checked:
    """Mix-in: the constructor refuses arguments outside the constraints of its annotations.

    Raises:
        ArgumentError: with the argument's name, its value and the allowed ones.
    """

    __signature__ = _Signature()

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        try:
            bound = inspect.signature(cls.__init__).bind_partial(None, *args, **kwargs)
        except TypeError:  # the constructor itself says which argument is wrong
            return super().__new__(cls)
        check_arguments(cls, bound.arguments)
        return super().__new__(cls)


def check_arguments(cls: type, arguments: Mapping[str, Any]) -> None:
    """Compare arguments with the constraints of a class's constructor.

    Raises:
        ArgumentError: with the first argument's name, its value and the allowed ones.
    """
    allowed = constraints(cls)
    for name, value in arguments.items():
        if name in allowed and not fits(value, allowed[name]):
            raise ArgumentError(f"{name} is {_shown(value)}; give {in_words(allowed[name])}")


@cache
def constraints(cls: type) -> dict[str, Any]:
    """Annotations of a class's constructor that restrict the values of an argument, by name."""
    return {name: hint for name, hint in annotations_of(cls).items() if _restricts(hint)}


@cache
def annotations_of(cls: type) -> dict[str, Any]:
    """Annotations of a class's constructor by argument, but for those that cannot be evaluated, as
    names that are imported for type checkers alone.
    """
    found: dict[str, Any] = {}
    own: Any = cls.__init__  # type: ignore[misc]
    sources = [(getattr(own, "__annotations__", {}), getattr(own, "__globals__", {}))]
    if "__dataclass_fields__" in vars(cls):  # each field is written in a module of its own class
        sources = [
            (vars(base).get("__annotations__", {}), vars(inspect.getmodule(base)))
            for base in reversed(cls.__mro__[:-1])
        ]
    for written, names in sources:
        for name, hint in written.items():
            with suppress(NameError, AttributeError, TypeError):
                found[name] = eval(hint, names) if isinstance(hint, str) else hint
    return found


def _restricts(hint: Any) -> bool:
    if get_origin(hint) is Literal or isinstance(hint, (Range, Length, Instance)):
        return True
    return any(_restricts(one) for one in get_args(hint))


def fits(value: Any, hint: Any) -> bool:
    """Whether a value is one that an annotation allows."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return any(fits(value, one) for one in inner)
    if origin is Annotated:
        if isinstance(inner[1], Instance):
            return isinstance(value, inner[0])
        ranges = [one for one in inner[1:] if isinstance(one, Range)]
        lengths = [one for one in inner[1:] if isinstance(one, Length)]
        return (
            fits(value, inner[0])
            and all(value in one for one in ranges)
            and all(len(value) == one.count for one in lengths)
        )
    if origin is Literal:
        return any(type(value) is type(one) and value == one for one in inner)
    if isinstance(origin, type) and issubclass(origin, Sequence):
        return (
            isinstance(value, Sequence)
            and not isinstance(value, str)
            and all(fits(one, inner[0]) for one in value)
        )
    if hint in (int, float):
        kind = Integral if hint is int else Real
        return isinstance(value, kind) and not isinstance(value, bool)
    if hint in (None, type(None)):
        return value is None
    return isinstance(value, hint) if hint in (bool, str) else True


def in_words(hint: Any, count: int = 1) -> str:
    """Allowed values of an annotation, as ``three whole numbers of voxels, 2 or more``."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return ", or ".join(in_words(one, count) for one in inner if one is not type(None))
    if origin is Literal:
        words = [str(one).lower() if one in (True, False) else str(one) for one in inner]
        return " or ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)
    if origin is Annotated:
        if isinstance(inner[1], Instance):
            return inner[1].example
        length = next((one.count for one in inner[1:] if isinstance(one, Length)), None)
        if length is not None:
            return f"{WORDS.get(length, str(length))} {in_words(inner[0], length)}"
        limits = next((one for one in inner[1:] if isinstance(one, Range)), Range())
        noun = ("odd " if limits.odd else "whole " if inner[0] is int else "") + "number"
        unit = f" of {limits.of}" if limits.of else ""
        article = "" if count > 1 else "an " if limits.odd else "a "
        return f"{article}{noun}{'s' * (count > 1)}{unit}{limits.limits()}"
    if isinstance(origin, type) and issubclass(origin, Sequence):
        if get_origin(inner[0]) is Literal:
            return f"some of {', '.join(map(str, get_args(inner[0])))}"
        return in_words(inner[0], max(count, 2))
    if hint in (int, float):
        return in_words(Annotated[hint, Range()], count)
    return "true or false" if hint is bool else getattr(hint, "__name__", str(hint))


def _shown(value: Any) -> str:
    if isinstance(value, tuple):
        return repr(list(value))
    if isinstance(value, type):
        return f"the class {value.__name__}"
    plain = isinstance(value, (str, int, float, list, dict, type(None)))
    return repr(value) if plain else f"an object of {type(value).__name__}"
