"""Constraints of arguments: every one in this project refuses a value outside, in words."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, get_args, get_origin

import pytest

import lightning_reg
from lightning_reg.registry import ArgumentError, Checked, Instance, Length, Range
from lightning_reg.registry.constraints import constraints, fits, in_words


@dataclass(frozen=True)
class Example(Checked):
    number: Annotated[int, Range(1, 8)] = 1
    share: Annotated[float, Range(above=0, high=1)] | None = None
    shape: Annotated[Sequence[Annotated[int, Range(2, of="voxels")]], Length(3)] | None = None
    mode: Literal["box", "gauss", "none"] = "box"
    workers: Annotated[int, Range(0)] | Literal["auto"] = 0
    flag: bool | Literal["auto"] = False
    axes: Sequence[Literal[0, 1, 2]] = ()
    free: float = 0.0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"number": 0}, "number is 0; give a whole number from 1 to 8"),
        ({"number": True}, "number is True; give a whole number from 1 to 8"),
        ({"number": 2.0}, "number is 2.0; give a whole number from 1 to 8"),
        ({"number": "3"}, "number is '3'; give a whole number from 1 to 8"),
        ({"share": 0}, "share is 0; give a number above 0, at most 1"),
        ({"share": float("nan")}, "share is nan; give a number above 0, at most 1"),
        ({"shape": (2, 2)}, r"shape is \[2, 2\]; give three whole numbers of voxels, 2 or more"),
        ({"shape": 3}, "shape is 3; give three whole numbers of voxels, 2 or more"),
        ({"shape": [2, 2, 1]}, "give three whole numbers of voxels, 2 or more"),
        ({"mode": "gaus"}, "mode is 'gaus'; give box, gauss or none"),
        ({"workers": "all"}, "workers is 'all'; give a whole number, 0 or more, or auto"),
        ({"flag": 1}, "flag is 1; give true or false, or auto"),
        ({"axes": [0, 3]}, r"axes is \[0, 3\]; give some of 0, 1, 2"),
        ({"mode": object()}, "mode is an object of object; give box, gauss or none"),
    ],
)
def test_a_value_outside_is_refused_with_what_is_allowed(
    arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(ArgumentError, match=f"^.*{message}$"):
        Example(**arguments)


class Holder(Checked):
    def __init__(self, held: Annotated[Example, Instance("Example(2)")] | None = None) -> None:
        self.held = held


@pytest.mark.parametrize(
    ("held", "given"),
    [(3, "3"), (object(), "an object of object"), (Example, "the class Example")],
)
def test_an_object_of_another_class_is_refused_with_an_example(held: Any, given: str) -> None:
    with pytest.raises(ArgumentError, match=rf"^held is {given}; give Example\(2\)$"):
        Holder(held)
    assert Holder().held is None
    assert isinstance(Holder(Example(2)).held, Example)


def test_values_inside_and_free_ones_pass() -> None:
    assert Example(8, 1.0, [2, 3, 4], "none", "auto", "auto", (2, 0), float("nan")).number == 8
    with pytest.raises(TypeError, match="unexpected"):
        Example(nothing=1)  # type: ignore[call-arg]


def checked() -> Iterator[type]:
    """Every class of the project whose constructor is checked."""
    for module in pkgutil.walk_packages(lightning_reg.__path__, "lightning_reg."):
        importlib.import_module(module.name)
    waiting = [Checked]
    while waiting:
        for cls in waiting.pop().__subclasses__():
            waiting.append(cls)
            if cls.__module__.startswith("lightning_reg."):
                yield cls


def outside(hint: Any) -> Iterator[Any]:
    """Values next to the limits of an annotation, but outside of it."""
    if isinstance(hint, Range):
        yield from (hint.low - 1, hint.high + 1, hint.above, hint.below)
    if isinstance(hint, Instance):
        yield object()
    if isinstance(hint, Length):
        yield [1] * (hint.count + 1)
    if get_origin(hint) is Literal:
        yield "no such word"
    for inner in get_args(hint):
        for value in outside(inner):
            yield from (value, [value] * 3)


def test_every_constraint_of_the_project_refuses_a_value() -> None:
    count = 0
    for cls in dict.fromkeys(checked()):
        for name, hint in constraints(cls).items():
            values = [value for value in outside(hint) if not fits(value, hint)]
            assert values, f"{cls.__name__}.{name} restricts nothing"
            for value in values:
                with pytest.raises(ArgumentError) as error:
                    cls.__new__(cls, **{name: value})
                assert str(error.value).startswith(f"{name} is ")
                assert str(error.value).endswith(f"; give {in_words(hint)}")
            count += 1
    assert count > 60
