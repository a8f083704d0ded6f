"""Hand-written gradients."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch

Backward = Callable[..., Any]


def first_only(name: str) -> Callable[[Backward], Backward]:
    """Decorator of a ``backward`` whose result has no gradient of its own; ``name``: of the
    function.

    PyTorch's ``once_differentiable`` refuses a second derivative only in a part of the cases; in
    the others the function's share of it is silently zero.

    Raises:
        RuntimeError: the gradient is computed with ``create_graph=True``.
    """

    def decorate(backward: Backward) -> Backward:
        @functools.wraps(backward)
        def checked(ctx: Any, *upstream: Any) -> Any:
            if torch.is_grad_enabled():
                raise RuntimeError(
                    f"{name} has no second derivative, and create_graph=True asks for one; "
                    "leave it out, or use a loss that is made of PyTorch's own operations."
                )
            return backward(ctx, *upstream)

        return checked

    return decorate
