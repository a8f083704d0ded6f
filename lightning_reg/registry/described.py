"""Record of an object's constructor arguments, so that a checkpoint describes itself."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from lightning_reg.registry.constraints import Checked

if TYPE_CHECKING:
    from typing_extensions import Self


class Described(Checked):
    """Mix-in of objects that remember the arguments of their constructor, defaults included."""

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        self = super().__new__(cls, *args, **kwargs)
        signature = inspect.signature(cls.__init__)
        try:
            bound = signature.bind_partial(self, *args, **kwargs)
        except TypeError:  # the constructor itself says which argument is wrong
            bound = signature.bind_partial(self)
        bound.apply_defaults()
        arguments = dict(list(bound.arguments.items())[1:])
        for name, parameter in signature.parameters.items():
            if parameter.kind is parameter.VAR_KEYWORD:
                arguments |= arguments.pop(name)
            elif parameter.kind is parameter.VAR_POSITIONAL and not arguments[name]:
                del arguments[name]
        self.__dict__["_arguments"] = arguments  # before torch.nn.Module is set up
        return self


def arguments_of(described: Described) -> Mapping[str, Any]:
    """Constructor arguments of an object, by name, defaults included."""
    return described.__dict__["_arguments"]
