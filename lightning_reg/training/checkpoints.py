"""Reading and checking of checkpoint files."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from lightning_reg.registry import TrainingError

PARTS = ("composer", "loss", "optimizer")
"""Required parts of a method."""
KEPT = {"group", "name", "distribution", "version"}
"""Required entries of a component, see :mod:`lightning_reg.registry.provenance`."""


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read tensors and plain values of a checkpoint file. No code from the file is executed.

    Raises:
        TrainingError: the file does not exist, is truncated or damaged (wrong checksum), or was not
            written by lightning_reg.
    """
    path = Path(path)
    if path.is_dir():
        raise TrainingError(f"{path} is a folder; give the file checkpoints/best.ckpt of a run.")
    if not path.exists():
        raise TrainingError(f"There is no checkpoint {path}; correct the path.")
    damage = damaged(path)
    if damage:
        whole = whole_checkpoint(path.parent)
        instead = (
            f"use {whole}"
            if whole
            else "use another one, fetch or install it again, or train again"
        )
        raise TrainingError(f"{path} cannot be read as a checkpoint ({damage}); {instead}.")
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except (
        Exception
    ) as cause:  # pickle and torch raise different errors for files of other programs
        raise TrainingError(
            f"{path} cannot be read as a checkpoint: it is a file of PyTorch with other things than"
            " tensors and plain values; give a checkpoint that lightning_reg wrote."
        ) from cause
    made = checkpoint.get("lightning_reg") if isinstance(checkpoint, dict) else None
    if isinstance(made, dict) and "model" not in made and "method" in made:
        raise TrainingError(
            f"{path} was written by lightning_reg {made.get('version', 'of an earlier version')} in"
            " a form that this one does not read; install that version to apply the model, or"
            " train it again."
        )
    if not isinstance(checkpoint, dict) or not _written_here(checkpoint):
        raise TrainingError(
            f"{path} was not written by lightning_reg, or was changed; give a checkpoint of one of"
            " its runs."
        )
    return checkpoint


def _written_here(checkpoint: dict[str, Any]) -> bool:
    made = checkpoint.get("lightning_reg")
    if not isinstance(made, dict) or not isinstance(checkpoint.get("state_dict"), dict):
        return False
    data = made.get("data", {})
    known = data.get("trained", {}) if isinstance(data, dict) else None
    mappings = (
        made.get("model"),
        made.get("preprocessing"),
        made.get("statistics", {}),
        data,
        known,
    )
    components = made.get("components", [])
    if not isinstance(components, list) or not all(
        isinstance(one, dict) and one.keys() >= KEPT for one in components
    ):
        return False
    return all(isinstance(part, dict) for part in mappings) and all(
        isinstance(made["model"].get(key), dict) for key in PARTS
    )


def damaged(path: Path) -> str | None:
    """Describe the damage of a checkpoint file (not an archive, or a wrong checksum); ``None`` if
    it is intact.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            broken = archive.testzip()
    except zipfile.BadZipFile:
        return "it is empty" if path.stat().st_size == 0 else "it is truncated or of another kind"
    except (OSError, EOFError, RuntimeError, NotImplementedError, ValueError) as cause:
        return f"it is damaged: {cause}"
    return f"it is damaged: the checksum of {broken} does not fit" if broken else None


def whole_checkpoint(folder: Path) -> Path | None:
    """Return an intact checkpoint of a folder: ``last.ckpt``, else ``best.ckpt``, else any."""
    found = sorted(folder.glob("*.ckpt"), key=lambda path: (path.name != "last.ckpt", path.name))
    return next((path for path in found if path.is_file() and not damaged(path)), None)


@dataclass(frozen=True)
class Before:
    """Progress of a resumed run: steps made, steps logged, seconds; and the identity of its data,
    if it is known.
    """

    checkpoint: Path | None = None
    steps: int = 0
    logged: int = 0
    seconds: float = 0.0
    data: Mapping[str, Any] = field(default_factory=dict)

    @staticmethod
    def read(path: Path | None) -> Before:
        """Raises: TrainingError: the checkpoint is damaged, or of a version from which runs cannot
        be resumed.
        """
        if path is None:
            return Before()
        checkpoint = read_checkpoint(path)
        position = checkpoint.get("lightning_reg_position")
        lacking = [
            key
            for key in ("loops", "optimizer_states", "lr_schedulers", "callbacks")
            if key not in checkpoint
        ]
        if lacking:
            raise TrainingError(
                f"{path} lacks {', '.join(lacking)}, which are needed to resume a run; give another"
                " checkpoint."
            )
        if position is None:
            raise TrainingError(
                f"{path} was written by an earlier version, or by a Trainer in Python (resume it"
                " there with fit(..., ckpt_path=...)); start a new run. The model can still be"
                " applied."
            )
        known = checkpoint["lightning_reg"].get("data", {})
        return Before(
            path, checkpoint["global_step"], position["logged"], position["seconds"], known
        )

    def told(self) -> list[str]:
        return (
            []
            if self.checkpoint is None
            else [f"Going on after step {self.steps:,} ({self.checkpoint})."]
        )
