"""Checkpoints of small untrained networks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from lightning_reg.data.preprocessing import Preprocessing
from lightning_reg.training.module import RegistrationModule

VELOCITY: dict[str, Any] = {
    "composer": {
        "name": "single",
        "backbone": {
            "name": "unet",
            "levels": 2,
            "features": 4,
            "output_stride": 2,
            "norm": "none",
        },
        "head": {"name": "velocity", "steps": 4},
    },
    "loss": {"terms": {"lncc": {"window": 5}, "diffusion": {"weight": 1.0}}},
    "optimizer": {"name": "adam", "lr": 1.0e-4},
    "schedule": {},
}


def checkpoint(
    path: Path,
    method: dict[str, Any] = VELOCITY,
    preprocessing: dict[str, Any] | None = None,
    seed: int = 2,
    **statistics: Any,
) -> Path:
    """Write the checkpoint of an untrained network that deforms visibly."""
    torch.manual_seed(seed)
    module = RegistrationModule.from_configuration(method)
    module.preprocessing = Preprocessing(**(preprocessing or {"percentiles": [0, 100]}))
    for name, parameter in module.named_parameters():
        if "head" in name:
            parameter.data = 0.3 * torch.randn_like(parameter)
    module.statistics = statistics
    saved: dict[str, Any] = {"state_dict": module.state_dict()}
    module.on_save_checkpoint(saved)
    torch.save(saved, path)
    return path
