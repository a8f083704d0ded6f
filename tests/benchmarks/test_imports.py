"""Benchmarks can be run: their imports from the package exist. Peers are imported only where they
are used.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.mark.slow
@pytest.mark.parametrize(
    "script",
    sorted(path.name for path in BENCHMARKS.glob("*.py") if "argparse" in path.read_text()),
)
def test_its_help_is_printed(script: str) -> None:
    done = subprocess.run(
        [sys.executable, BENCHMARKS / script, "--help"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "usage" in done.stdout
