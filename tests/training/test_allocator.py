"""Allocator: freed memory is retained for the next step."""

from __future__ import annotations

import subprocess
import sys

import pytest

FAULTS = """
import resource, sys, torch
from lightning_reg.training.allocator import keep_freed_memory
kept = sys.argv[1] == "kept" and keep_freed_memory({"accelerator": "cpu"})
def step():
    return float((torch.ones(6_000_000) + 1).sum())
for _ in range(3):
    step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    step()
print(kept, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(how: str) -> tuple[bool, int]:
    done = subprocess.run(
        [sys.executable, "-c", FAULTS, how], capture_output=True, text=True, check=True
    )
    kept, count = done.stdout.split()
    return kept == "True", int(count)


@pytest.mark.skipif(sys.platform != "linux", reason="of glibc")
def test_pages_are_not_cleared_again_at_every_step() -> None:
    """24 MB twice, five times, in pages of 4 KiB. Without it all are; with it one of the two blocks
    may still be, by the heap's layout.
    """
    kept, count = faults("kept")
    if not kept:
        pytest.skip("the C library has no mallopt")
    every = 5 * 2 * 24_000_000 / 4096
    assert count < 0.6 * every
