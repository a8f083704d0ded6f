"""Estimate of a step's memory, measured on small images, against the memory on large ones."""

from __future__ import annotations

from typing import Any

import pytest

from lightning_reg.discovery import DataError
from lightning_reg.discovery.composition import compose
from lightning_reg.training import memory
from lightning_reg.training.module import RegistrationModule


def own(method: str) -> dict[str, Any]:
    """A method as its paper has it."""
    return compose([f"method={method}", "~method_data"])["method"]


@pytest.mark.parametrize("method", ["velocity", "progressive"])
def test_the_estimate_is_what_large_images_keep(method: str, monkeypatch) -> None:
    settings = own(method)
    estimated = memory.step_memory(settings, (80, 64, 72))
    monkeypatch.setattr(memory, "SMALL", 80)
    assert estimated == pytest.approx(memory.step_memory(settings, (80, 64, 72)), rel=0.15)


def test_it_grows_with_the_batch_and_the_images() -> None:
    settings = own("velocity")
    one = memory.step_memory(settings, (64, 64, 64))
    for grown in (memory.step_memory(settings | {"batch_size": 2}, (64, 64, 64)), memory.step_memory(settings, (128, 64, 64))):
        assert 1.5 * one < grown <= 2 * one  # the parameters stay


def test_parameters_count_four_times() -> None:
    """Themselves, their gradients and two moments; images of 8^3 add next to nothing to those of a wide network."""
    method = {
        "composer": {"name": "single", "backbone": {"name": "unet", "levels": 2, "features": 64}, "head": "dense"},
        "loss": {"terms": {"ssd": {}}},
        "optimizer": {"name": "adam"},
    }
    count = sum(p.numel() for p in RegistrationModule.from_configuration(method).parameters())
    assert memory.step_memory(method, (8, 8, 8)) == pytest.approx(4 * 4 * count / 2**30, rel=0.2)


def test_pyramids_that_need_larger_images_get_them_and_too_small_ones_are_refused() -> None:
    assert memory.step_memory(own("multilevel"), (64, 64, 64)) > 0
    with pytest.raises(DataError, match="too small for a backbone"):
        memory.step_memory(own("multilevel"), (32, 32, 32))
