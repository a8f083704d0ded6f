"""Schedules as pure functions of the iteration."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

from lightning_reg.registry import ArgumentError


def growth(
    step: float, levels: int, start: float = -300, ramp: float = 200, duration: float = 600
) -> list[float]:
    """Compute the weights ``alpha`` of the resolution levels, coarsest first, at an iteration. They
    always sum to 1.

    Level *i* fades in linearly over ``[tau_i, tau_i + ramp]`` and fades out over the last ``ramp``
    iterations before ``tau_i + duration``, where ``tau_i = start + (duration - ramp) i``. The first
    level has its full weight from the beginning, and the last level does not fade out.

    Args:
        step: iteration ``t``, from 0.
        levels: number of levels.
        start, ramp, duration: ``tau_0``, ``delta`` and ``Delta`` of the paper, iterations.

    Source: Eppenhof et al., 2019, Section 2.3 and Figure 2.
    """
    interval = duration - ramp
    if ramp <= 0 or interval < ramp:
        raise ArgumentError(
            f"growth: duration ({duration:g}) has to be at least twice ramp ({ramp:g}), and ramp"
            " positive"
        )
    entered = (
        [1.0]
        + [min(max((step - start - interval * i) / ramp, 0.0), 1.0) for i in range(1, levels)]
        + [0.0]
    )
    return [entered[i] - entered[i + 1] for i in range(levels)]


def cooldown(step: int, steps: int, fraction: float) -> float:
    """Compute a factor of the learning rate that falls linearly from 1 to 0 over the last
    ``fraction`` of ``steps`` iterations.
    """
    if fraction <= 0 or steps <= 0:
        return 1.0
    return min(1.0, max(0.0, (steps - step) / (fraction * steps)))


def inverse_time(step: int, decay: float) -> float:
    """Compute the factor ``1 / (1 + decay * t)`` of the learning rate (Eppenhof et al., 2019,
    equation 5).
    """
    return 1 / (1 + decay * step)


def stage_bounds(shares: Sequence[float], steps: int) -> list[int]:
    """Divide ``steps`` iterations in the proportion of ``shares``: the first iteration of every
    stage, and the end.

    Returns:
        ``len(shares) + 1`` iterations from 0 to ``steps``, in ascending order.
    """
    if not shares or min(shares) <= 0:
        raise ArgumentError(f"stage_bounds: shares are {list(shares)}; give each stage more than 0")
    total = sum(shares)
    return [0, *(round(steps * done / total) for done in accumulate(shares))]
