"""Check for NaN and infinite losses whose values arrive late, as from a GPU."""

from __future__ import annotations

import pytest
import torch

from lightning_reg.registry import TrainingError
from lightning_reg.training.finite import FiniteLoss


def test_what_was_seen_is_refused_once_and_by_name() -> None:
    watch = FiniteLoss()
    watch.require()
    watch.watch({"lncc": torch.tensor(1.0), "bending": torch.tensor(float("nan"))}, 7, ["a", "b"])
    with pytest.raises(
        TrainingError, match=r"loss term bending became NaN or infinite at step 7 on a, b"
    ):
        watch.require()
    watch.require()


def test_another_process_is_heard() -> None:
    watch = FiniteLoss()
    watch.watch({"lncc": torch.tensor(1.0)}, 3, ["a"])
    with pytest.raises(TrainingError, match="of another process"):
        watch.require(lambda broken: True)
