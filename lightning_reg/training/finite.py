"""Check for NaN and infinite losses, which end a training before a checkpoint is saved."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from lightning_reg.registry import TrainingError


class NotFiniteError(TrainingError):
    """A loss or a validation became NaN or infinite; earlier checkpoints are good."""


class _Seen(NamedTuple):
    names: tuple[str, ...]
    finite: Tensor
    ready: torch.cuda.Event | None
    step: int
    pairs: tuple[str, ...]


class FiniteLoss:
    """Finiteness of the last step's loss terms, checked later: on a GPU, an immediate check would
    wait for the step to finish.
    """

    def __init__(self) -> None:
        self._seen: _Seen | None = None

    def watch(self, terms: Mapping[str, Tensor], step: int, pairs: Sequence[str]) -> None:
        """Record whether the terms are finite."""
        finite = torch.stack([torch.isfinite(term.detach()) for term in terms.values()])
        ready = None
        if finite.is_cuda:
            finite = finite.to("cpu", non_blocking=True)  # into page-locked memory
            ready = torch.cuda.Event()
            ready.record()
        self._seen = _Seen(tuple(terms), finite, ready, step, tuple(pairs))

    def require(self, of_any: Callable[[bool], bool] = bool) -> None:
        """Raise an error if the terms of the last :meth:`watch` were not finite. They are checked
        once.

        Args:
            of_any: function that tells whether a condition holds in any of several processes.

        Raises:
            NotFiniteError: a term was NaN or infinite.
        """
        if self._seen is None:
            return
        seen, self._seen = self._seen, None
        if seen.ready is not None:
            seen.ready.synchronize()
        broken = [
            name
            for name, finite in zip(seen.names, seen.finite.tolist(), strict=True)
            if not finite
        ]
        if of_any(bool(broken)):
            raise NotFiniteError(
                f"The loss term {' and '.join(broken or ['of another process'])} became NaN or"
                f" infinite at step {seen.step} on {', '.join(seen.pairs)}; lower `lr`,"
                " set `gradient_clip_val=1`, or train in `precision='32-true'`."
            )
