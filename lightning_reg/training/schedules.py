"""Schedules as pure functions of the iteration, and those of the learning rate as components."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from itertools import accumulate
from typing import Annotated, Any

from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, ReduceLROnPlateau

from lightning_reg.registry import ArgumentError, Described, Range

OptimizerFactory = Callable[[Iterable[nn.Parameter]], Optimizer]
"""A function of the parameters that makes an optimiser:
``functools.partial(torch.optim.Adam, lr=1e-3)``, or the class.
"""


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


class Schedule(Described, ABC):
    """Learning rate over a training, or over one stage of it.

    Attributes:
        counts_steps: whether the rate depends on the total number of steps, which is unknown if the
            trainer only limits the time.
    """

    counts_steps: bool = True

    @abstractmethod
    def scheduler(self, optimizer: Optimizer, steps: int, validation_epochs: int) -> dict[str, Any]:
        """Return the entry ``lr_scheduler`` for Lightning's ``configure_optimizers``.

        Args:
            optimizer: optimiser whose rate follows the schedule.
            steps: number of steps of the whole training, or of the stage.
            validation_epochs: epochs from one validation to the next.
        """


class DecaySchedule(Schedule):
    """Inverse-time decay, ``1 / (1 + decay * t)``, with a linear fall to 0 at the end.

    Args:
        decay: per step, see :func:`~lightning_reg.training.schedules.inverse_time`.
        cooldown: fraction of the steps over which the rate falls to 0, see
            :func:`~lightning_reg.training.schedules.cooldown`.
    """

    def __init__(
        self, decay: Annotated[float, Range(0)] = 0.0, cooldown: Annotated[float, Range(0, 1)] = 0.0
    ) -> None:
        self.decay, self.cooldown = float(decay), float(cooldown)
        self.counts_steps = self.cooldown > 0

    def factor(self, step: int, steps: int) -> float:
        """Return the factor of the learning rate at step ``step`` of ``steps``."""
        return inverse_time(step, self.decay) * cooldown(step, steps, self.cooldown)

    def scheduler(self, optimizer: Optimizer, steps: int, validation_epochs: int) -> dict[str, Any]:
        # a function, because the state of an object, with the old number of steps, would be stored
        # in the checkpoint
        return {
            "scheduler": LambdaLR(optimizer, lambda step: self.factor(step, steps)),
            "interval": "step",
        }


class PlateauSchedule(Schedule):
    """Reduction by a factor when the validation error stops falling (PyTorch's
    ``ReduceLROnPlateau``).

    Args:
        factor: factor of each reduction.
        patience: validations without a smaller error before a reduction.
        threshold: relative decrease that counts as a smaller error.
        min_lr: the rate does not fall below this.
    """

    counts_steps = False

    def __init__(
        self,
        factor: Annotated[float, Range(above=0, below=1)] = 0.1,
        patience: int = 10,
        threshold: float = 1e-4,
        min_lr: float = 0.0,
    ) -> None:
        self.factor, self.patience, self.threshold, self.min_lr = (
            float(factor),
            patience,
            float(threshold),
            float(min_lr),
        )

    def scheduler(self, optimizer: Optimizer, steps: int, validation_epochs: int) -> dict[str, Any]:
        falling = ReduceLROnPlateau(
            optimizer,
            factor=self.factor,
            patience=self.patience,
            threshold=self.threshold,
            min_lr=self.min_lr,
        )
        return {
            "scheduler": falling,
            "interval": "epoch",
            "frequency": validation_epochs,
            "monitor": "validation/error",
        }
