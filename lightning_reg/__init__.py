"""Learning-based registration of 3D medical images."""

import os
from importlib.metadata import version

# OpenMP threads that wait by spinning take the cores from the data workers and from each other: where cores are shared, a
# training step then takes several times as long (docs/benchmarks.md). Read when torch is first imported; what is set already stays.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

__version__ = version("lightning-reg")
