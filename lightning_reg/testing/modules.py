"""Requirements shared by components with parameters."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn

from lightning_reg.components.interfaces import Growable, Staged
from lightning_reg.configuration.describing import plain
from lightning_reg.registry import ArgumentError, Described, UserError, arguments_of
from lightning_reg.testing.checks import ConformanceError, require
from lightning_reg.testing.fixtures import disturbed


@contextmanager
def meta_device() -> Iterator[None]:
    """Skip autocast on the ``meta`` device, on which PyTorch refuses it."""

    def tolerant(*args: Any, **kwargs: Any) -> Any:
        kind = kwargs.get("device_type", args[0] if args else "cpu")
        return nullcontext() if str(kind) == "meta" else autocast(*args, **kwargs)

    autocast = torch.autocast
    with (
        mock.patch.object(torch, "autocast", tolerant),
        mock.patch.object(torch.amp, "autocast", tolerant),
    ):
        yield


def require_described(component: object, supplied: tuple[str, ...] = ()) -> None:
    """Refuse a component whose arguments a checkpoint could not store.

    Args:
        supplied: arguments from the framework, which no checkpoint stores.
    """
    require(
        isinstance(component, Described),
        f"{type(component).__name__} does not remember its arguments; derive it from its interface",
    )
    assert isinstance(component, Described)
    for name, value in arguments_of(component).items():
        if name not in supplied and not isinstance(value, (Described, list, tuple)):
            try:
                plain(value, type(component).__name__)
            except UserError as cause:
                raise ConformanceError(f"its argument '{name}' cannot be kept ({cause})") from cause


def require_kept(make: Callable[[], nn.Module], output: Callable[[Any], list[Tensor]]) -> None:
    """Refuse a module whose outputs a second one with its state does not reproduce."""
    torch.manual_seed(1)
    first = make()
    disturbed(first)
    first.train()
    output(first)  # updates the statistics of a normalisation, if any
    first.eval()
    torch.manual_seed(2)
    second = make().eval()
    second.load_state_dict(first.state_dict())
    with torch.no_grad():
        for number, (a, b) in enumerate(zip(output(first), output(second), strict=True)):
            require(
                torch.equal(a, b),
                f"output {number} of a module with the same weights differs by"
                f" {float((a - b).abs().max()):.3g}",
            )


def require_finite(tensors: list[Tensor], when: str) -> None:
    """Refuse NaN and infinity."""
    for number, tensor in enumerate(tensors):
        require(torch.isfinite(tensor).all(), f"output {number} {when} is NaN or infinite")


def grown(module: nn.Module) -> nn.Module:
    """Give all levels of parts that grow an equal weight; returns the module."""
    for part in module.modules():
        if isinstance(part, Growable):
            part.grow([1.0 / len(part.alpha)] * len(part.alpha))
    return module


def require_growth(module: nn.Module, output: Callable[[Any], list[Tensor]]) -> None:
    """Refuse parts that grow and break the rules of :class:`Growable`; other parts are ignored."""
    for part in module.modules():
        if not isinstance(part, Growable):
            continue
        levels = len(part.alpha)
        for level in range(levels):
            part.grow([1.0 if k == level else 0.0 for k in range(levels)])
            require_finite(output(module), f"with level {level} alone")
        part.grow([1.0 / levels] * levels)
        require_finite(output(module), "with all levels")
        state = module.state_dict()
        part.grow([1.0] + [0.0] * (levels - 1))
        module.load_state_dict(state)
        require(
            abs(part.alpha[0] - 1.0 / levels) < 1e-6,
            "the state dict does not keep the growth (alpha)",
        )
        for wrong in ([1.0] * levels if levels > 1 else [0.5], [1.0] * (levels + 1)):
            try:
                part.grow(wrong)
            except ArgumentError:
                continue
            raise ConformanceError(f"grow({wrong}) of {levels} levels is accepted")


def require_stages(module: nn.Module) -> None:
    """Refuse parts that train in stages and break the rules of :class:`Staged`."""
    for part in module.modules():
        if not isinstance(part, Staged):
            continue
        for index in range(len(part.networks)):
            part.activate([index])
            for number, network in enumerate(part.networks):
                trains = [p.requires_grad for p in network.parameters()]
                require(
                    all(trains) == (number == index) or not trains,
                    f"activate([{index}]) leaves network {number} as it was",
                )
            require(part.active == index + 1, f"activate([{index}]) sets active to {part.active}")
        state = module.state_dict()
        part.activate([0])
        module.load_state_dict(state)
        require(
            part.active == len(part.networks),
            "the state dict does not keep how many networks run (active)",
        )
        part.activate(list(range(len(part.networks))))
