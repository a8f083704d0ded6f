"""Atomic writing of checkpoint files."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins.io import TorchCheckpointIO

from lightning_reg.io.folders import write_whole


class WholeCheckpoints(TorchCheckpointIO):
    """Lightning's checkpoint writer, made atomic: a file is written under another name, flushed to
    the disk, and renamed.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | os.PathLike[str], storage_options: Any = None
    ) -> None:
        content = io.BytesIO()
        torch.save(checkpoint, content)
        write_whole(Path(path), content.getbuffer())
