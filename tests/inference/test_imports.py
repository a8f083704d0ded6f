"""Start-up: applying a model does not import the trainer, statistics or plotting."""

from __future__ import annotations

import subprocess
import sys


def test_registering_imports_neither_a_trainer_nor_statistics_nor_pictures() -> None:
    """Each of them is half a second or more, at every call of ``lightning-reg register``."""
    heavy = "('lightning', 'scipy.stats', 'kornia', 'matplotlib.figure', 'wandb')"
    code = (
        f"import sys, lightning_reg.inference.loading; print([name for name in {heavy} if name in"
        " sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
