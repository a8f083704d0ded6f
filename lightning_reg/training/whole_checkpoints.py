"""Checkpoint files, written whole."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins.io import TorchCheckpointIO

from lightning_reg.io.folders import write_whole


class WholeCheckpoints(TorchCheckpointIO):
    """Lightning's checkpoints, each written beside its final name, flushed to the disk, and renamed: a file is the old or the new one."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | os.PathLike[str], storage_options: Any = None) -> None:
        content = io.BytesIO()
        torch.save(checkpoint, content)
        write_whole(Path(path), content.getbuffer())
