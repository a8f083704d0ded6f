"""Watch over the loss: a training whose loss is no number ends before anything of it is saved."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from lightning_reg.discovery import TrainingError


class _Seen(NamedTuple):
    names: tuple[str, ...]
    finite: Tensor
    ready: torch.cuda.Event | None
    step: int
    pairs: tuple[str, ...]


class FiniteLoss:
    """Whether the terms of the last step were numbers, kept until somebody asks: on a GPU the answer takes as long as the step."""

    def __init__(self) -> None:
        self._seen: _Seen | None = None

    def watch(self, terms: Mapping[str, Tensor], step: int, pairs: Sequence[str]) -> None:
        """Remember whether the terms are numbers."""
        finite = torch.stack([torch.isfinite(term.detach()) for term in terms.values()])
        ready = None
        if finite.is_cuda:
            finite = finite.to("cpu", non_blocking=True)  # into page-locked memory
            ready = torch.cuda.Event()
            ready.record()
        self._seen = _Seen(tuple(terms), finite, ready, step, tuple(pairs))

    def require(self, of_any: Callable[[bool], bool] = bool) -> None:
        """Refuse what :meth:`watch` saw last, once.

        Args:
            of_any: whether something holds in any of several processes.

        Raises:
            TrainingError: one of them was no finite number.
        """
        if self._seen is None:
            return
        seen, self._seen = self._seen, None
        if seen.ready is not None:
            seen.ready.synchronize()
        broken = [name for name, finite in zip(seen.names, seen.finite.tolist(), strict=True) if not finite]
        if of_any(bool(broken)):
            raise TrainingError(
                f"The loss term {' and '.join(broken or ['of another process'])} became NaN or infinite at step {seen.step} on "
                f"{', '.join(seen.pairs)}; lower method.optimizer.lr, set trainer.gradient_clip_val=1, or train in "
                "trainer.precision=32-true. The last good checkpoint is kept."
            )
