"""Comparison of two implementations of one operation: difference of their values, and ratio of
their times.
"""

from __future__ import annotations

import importlib
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

Function = Callable[..., Tensor]
TOLERANCES = {torch.float64: 1e-6, torch.float32: 1e-3}
HEADER = ("operator", "peer", "checked", "deviation", "forward", "backward")


@dataclass(frozen=True)
class Comparison:
    """One of our operators and that of a peer.

    Attributes:
        ours: function of ``inputs``.
        theirs: makes the peer's function for given converted inputs; the peer must be imported only
            here (:func:`imported`).
        inputs: gradients are computed for those that require them.
        convert, restore: from our inputs to the peer's, and from the peer's result to ours;
        differentiable, not timed.
        region: weight of the result, a function of ``inputs``, if only a part can be compared;
            ``checked`` describes the part.
        differentiable: whether the peer has a gradient.
    """

    operator: str
    peer: str
    ours: Function
    theirs: Callable[..., Function]
    inputs: tuple[Tensor, ...]
    convert: Callable[..., tuple[Tensor, ...]] = lambda *inputs: inputs
    restore: Function = lambda result: result
    region: Function | None = None
    checked: str = "all"
    differentiable: bool = True


def imported(module: str, name: str) -> Any:
    """An attribute of a module that may not be installed."""
    return getattr(importlib.import_module(module), name)


def generator(seed: int, device: torch.device) -> torch.Generator:
    """A new random generator."""
    return torch.Generator(device).manual_seed(seed)


def row(case: Comparison, repeat: int) -> tuple[str, ...]:
    """The line of the table; without ratios if the peer is missing or its values differ."""
    try:
        exact, single = deviation(case, torch.float64), deviation(case, torch.float32)
    except ModuleNotFoundError:
        return case.operator, case.peer, "not installed", "", "", ""
    if not (exact <= TOLERANCES[torch.float64] and single <= TOLERANCES[torch.float32]):
        return case.operator, case.peer, "DIFFERS", f"{exact:.0e} (float32: {single:.0e})", "", ""
    forward, backward = ratios(case, repeat)
    return (
        case.operator,
        case.peer,
        case.checked,
        f"{exact:.0e}",
        f"{forward:.2f}",
        f"{backward:.2f}" if case.differentiable else "none",
    )


def deviation(case: Comparison, dtype: torch.dtype) -> float:
    """Largest relative difference of the results and, in float64 only, of the gradients (rounding
    may move samples across voxels).
    """
    inputs = leaves(case.inputs, dtype)
    weight = (
        case.region(*inputs).to(dtype)
        if case.region
        else torch.ones((), dtype=dtype, device=inputs[0].device)
    )
    ours = case.ours(*inputs) * weight
    converted = case.convert(*inputs)
    theirs = case.restore(case.theirs(*converted)(*converted)) * weight
    if ours.shape != theirs.shape:
        raise ValueError(
            f"{case.operator}, {case.peer}: shapes {tuple(ours.shape)} and {tuple(theirs.shape)}"
        )
    differences = [relative(ours.detach(), theirs.detach())]
    if dtype == torch.float64 and case.differentiable:
        wanted = [t for t in inputs if t.requires_grad]
        gradients = [
            torch.autograd.grad(result, wanted, cotangent(ours)) for result in (ours, theirs)
        ]
        differences += [relative(a, b) for a, b in zip(*gradients, strict=True)]
    return max(differences)


def leaves(tensors: Sequence[Tensor], dtype: torch.dtype) -> list[Tensor]:
    """The tensors as leaves of a new graph, each in its memory layout."""
    return [t.detach().to(dtype).requires_grad_(t.requires_grad) for t in tensors]


def relative(ours: Tensor, theirs: Tensor) -> float:
    """Largest difference over the largest value."""
    return float((ours - theirs).abs().max() / ours.abs().max().clamp_min(1e-30))


def cotangent(result: Tensor) -> Tensor:
    """Fixed random numbers with the shape of a result."""
    return torch.randn(
        result.shape,
        dtype=result.dtype,
        device=result.device,
        generator=generator(0, result.device),
    )


def ratios(case: Comparison, repeat: int) -> tuple[float, float]:
    """The peer's median time divided by ours, forward and backward, measured alternately after two
    warm-up rounds.
    """
    inputs = leaves(case.inputs, torch.float32)
    converted = leaves(case.convert(*inputs), torch.float32)
    theirs = case.theirs(*converted)
    ours, peer = [], []
    for _ in range(repeat + 2):
        ours.append(measured(case.ours, inputs, True))
        peer.append(measured(theirs, converted, case.differentiable))
    forward, backward = (
        statistics.median(t[i] for t in peer[2:]) / statistics.median(t[i] for t in ours[2:])
        for i in (0, 1)
    )
    return forward, backward


def measured(
    function: Function, inputs: Sequence[Tensor], differentiable: bool
) -> tuple[float, float]:
    """Seconds of one forward and one backward."""
    device = inputs[0].device
    started = clock(device)
    result = function(*inputs)
    forward = clock(device) - started
    if not differentiable:
        return forward, float("nan")
    direction, wanted = cotangent(result), [t for t in inputs if t.requires_grad]
    started = clock(device)
    torch.autograd.grad(result, wanted, direction)
    return forward, clock(device) - started


def clock(device: torch.device) -> float:
    """Time in seconds, after all work on the device is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def device_name(device: torch.device) -> str:
    """The name of the processor."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def version(package: str) -> str:
    """Name and version of a package."""
    try:
        return f"{package} {metadata.version(package)}"
    except metadata.PackageNotFoundError:
        return f"{package} not installed"


def table(rows: Sequence[Sequence[str]], markdown: bool) -> str:
    """Header and rows as Markdown, or with aligned columns."""
    if markdown:
        return "\n".join(
            "| " + " | ".join(r) + " |" for r in [HEADER, ["---"] * len(HEADER), *rows]
        )
    widths = [max(len(r[i]) for r in [HEADER, *rows]) for i in range(len(HEADER))]
    return "\n".join(
        "  ".join(cell.ljust(w) for cell, w in zip(r, widths, strict=True)).rstrip()
        for r in [HEADER, *rows]
    )
