"""Estimate of a step's memory, measured on small images, against the memory on large ones."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import pytest

from lightning_reg.configuration.composition import compose
from lightning_reg.registry import DataError
from lightning_reg.training import memory, peak
from lightning_reg.training.module import RegistrationModule


def own(method: str) -> dict[str, Any]:
    """A method as its paper has it."""
    return compose([f"method={method}", "size=paper"])["method"]


@pytest.mark.parametrize("method", ["velocity", "progressive"])
def test_the_estimate_is_what_large_images_keep(method: str, monkeypatch) -> None:
    settings = own(method)
    estimated = memory.step_memory(settings, (80, 64, 72))
    monkeypatch.setattr(peak, "SMALL", 80)
    assert estimated == pytest.approx(memory.step_memory(settings, (80, 64, 72)), rel=0.15)


GROWTH = """
import sys
import torch
from lightning_reg.components.interfaces import Growable
from lightning_reg.configuration.composition import compose
from lightning_reg.training.memory import step_memory
from lightning_reg.training.module import RegistrationModule
from lightning_reg.training.peak import noise_pair

def memory(kind):
    return int(next(line for line in open("/proc/self/status") if line.startswith(kind)).split()[1]) / 2**20

settings = compose([f"method={sys.argv[1]}", "size=paper"])["method"]
module = RegistrationModule.from_configuration(settings)
for part in module.modules():
    if isinstance(part, Growable):
        part.grow([*[0.0] * (len(part.alpha) - 1), 1.0])
optimizer = torch.optim.Adam(module.parameters(), lr=1e-4)
for extent in (32, 96):  # the first one loads libraries
    before = memory("VmRSS")
    pair = noise_pair((extent,) * 3)
    optimizer.zero_grad()
    module.loss_of(pair).total.backward()
    optimizer.step()
parameters = 4 * sum(p.numel() * p.element_size() for p in module.parameters()) / 2**30
print(memory("VmHWM") - before, step_memory(settings, (96, 96, 96)) - parameters)
"""


@pytest.mark.slow
@pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="reads the process' memory from /proc"
)
@pytest.mark.parametrize("method", ["velocity", "progressive", "voxelmorph"])
def test_a_process_grows_by_the_estimate_if_freed_memory_is_returned_at_once(method: str) -> None:
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", GROWTH, method],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    growth, estimate = map(float, done.stdout.split())
    assert estimate == pytest.approx(growth, rel=0.15)


def test_it_grows_with_the_batch_and_the_images() -> None:
    settings = own("velocity")
    one = memory.step_memory(settings, (64, 64, 64))
    for grown in (
        memory.step_memory(settings | {"batch_size": 2}, (64, 64, 64)),
        memory.step_memory(settings, (128, 64, 64)),
    ):
        assert 1.5 * one < grown <= 2 * one  # the parameters stay


def test_parameters_count_four_times() -> None:
    """Themselves, their gradients and two moments; images of 8^3 add next to nothing to those of a
    wide network.
    """
    method = {
        "composer": {
            "name": "single",
            "backbone": {"name": "unet", "levels": 2, "features": 64},
            "head": "dense",
        },
        "loss": {"terms": {"ssd": {}}},
        "optimizer": {"name": "adam"},
    }
    count = sum(p.numel() for p in RegistrationModule.from_configuration(method).parameters())
    assert memory.step_memory(method, (8, 8, 8)) == pytest.approx(4 * 4 * count / 2**30, rel=0.2)


def test_pyramids_that_need_larger_images_get_them_and_too_small_ones_are_refused() -> None:
    assert memory.step_memory(own("multilevel"), (64, 64, 64)) > 0
    with pytest.raises(DataError, match="too small for a backbone"):
        memory.step_memory(own("multilevel"), (32, 32, 32))
