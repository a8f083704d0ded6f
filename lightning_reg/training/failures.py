"""Failures of a run as sentences, with the checkpoint from which it can go on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import torch

from lightning_reg.io.folders import reason
from lightning_reg.registry import TrainingError
from lightning_reg.registry.blame import OUT_OF_MEMORY
from lightning_reg.training.callbacks.saving import Interrupted
from lightning_reg.training.checkpoints import whole_checkpoint
from lightning_reg.training.finite import NotFiniteError
from lightning_reg.training.run_folder import clear

GONE = ("connection closed by peer", "connection reset by peer", "socket closed", "gloo", "nccl")
"""Words in PyTorch's messages if another training process has ended."""


@contextmanager
def without_litter(folder: Path) -> Iterator[None]:
    """Remove the files of a run that ends before its first step, if its folder was new or empty."""
    empty = not folder.exists() or not any(folder.iterdir())
    try:
        yield
    except BaseException:
        if (
            empty
            and not (folder / "metrics.csv").exists()
            and not (folder / "checkpoints").exists()
        ):
            clear(folder)
            (folder / ".lock").unlink(missing_ok=True)
            here = Path.cwd()
            with suppress(OSError):  # the folder is not empty
                for place in (folder, folder.parent, folder.parent.parent):
                    if place.resolve() in (here, *here.parents):
                        break
                    place.rmdir()
        raise


@contextmanager
def explained(folder: Path) -> Iterator[None]:
    """Name the checkpoint to resume from after a failure: NaN, out of memory, a full disk or a
    killed process.
    """

    def resumable() -> str:
        kept = whole_checkpoint(folder / "checkpoints")
        return (
            f"{kept} is whole: go on with `resume={str(kept)!r}`."
            if kept
            else "No checkpoint was written yet."
        )

    try:
        yield
    except NotFiniteError as error:
        raise TrainingError(f"{error} {resumable()}") from error
    except KeyboardInterrupt as error:  # before the first step or after the last one
        last = folder / "checkpoints" / "last.ckpt"
        raise Interrupted(last if last.exists() else None) from error
    except (OSError, RuntimeError, MemoryError) as error:
        text = str(error).lower()
        if isinstance(error, (MemoryError, torch.OutOfMemoryError)) or any(
            words in text for words in OUT_OF_MEMORY
        ):
            what = (
                "Out of memory: lower `batch_size`, `features` or the image size (`shape`), or set"
                " `precision='bf16-mixed'`; `accumulate_grad_batches` keeps the effective batch."
            )
        elif isinstance(error, OSError):
            what = (
                f"{error.filename or folder}: {reason(error)}; make room, or correct the path or"
                " its permissions."
            )
        elif any(words in text for words in GONE):
            what = (
                "Another process of this training ended, or could not be reached; its own message,"
                " if there is one, says why."
            )
        elif "dataloader worker" in text:
            what = (
                "A process that draws training pairs was ended from outside, as happens where"
                " memory runs out; set `workers=0`."
            )
        else:
            raise
        raise TrainingError(f"{what} {resumable()}") from error
