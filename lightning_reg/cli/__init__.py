"""The commands: thin, each one a call into the rooms below."""

from __future__ import annotations

import os

# Threads of GNU OpenMP wait by spinning for a few microseconds and then sleep. Spinning on takes
# the cores from data workers and other processes, and not spinning costs a sixth of a step
# (docs/benchmarks.md). Read when torch is first
# imported; what is set already stays.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
