"""Folders of results: whole or not there."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lightning_reg.discovery import DataError

MARK = "metrics.json"
"""The file that every folder of results has: what lacks it is nobody's to overwrite."""


def refuse_existing(folder: Path, overwrite: bool) -> None:
    """Refuse an output folder that exists.

    Raises:
        DataError: it exists and ``overwrite`` is false, or it holds something else than results.
    """
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return
    if not overwrite:
        raise DataError(f"{folder} exists; choose another folder, or pass --overwrite.")
    if not folder.is_dir() or not (folder / MARK).is_file():
        raise DataError(
            f"{folder} exists and holds no results of this program (no {MARK}), so it is not overwritten; choose another folder."
        )


@contextmanager
def written_whole(folder: Path, overwrite: bool = False) -> Iterator[Path]:
    """A folder beside ``folder`` to write into; renamed to it at the end, removed where something goes wrong.

    Raises:
        DataError: as :func:`refuse_existing`, or it cannot be written (a full disk, a folder without permission).
    """
    folder = folder.expanduser().resolve()
    refuse_existing(folder, overwrite)
    there = folder.is_dir()  # then its contents are exchanged, for it may be a mount point or somebody's working folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder if there else folder.parent))
    except OSError as cause:
        raise DataError(f"{folder} cannot be made ({reason(cause)}); choose another folder.") from cause
    try:
        partial.chmod(0o777 & ~_umask())
        yield partial
        if there:
            _exchange(folder, partial)
        else:
            os.replace(partial, folder)
    except OSError as cause:
        raise DataError(f"{folder} could not be written ({reason(cause)}); nothing was left behind.") from cause
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _exchange(folder: Path, partial: Path) -> None:
    """What lies in ``folder`` gives way to what lies in ``partial`` inside it, or comes back where that fails."""
    old = Path(tempfile.mkdtemp(prefix=".old.", dir=folder))
    moved: list[tuple[Path, Path]] = []
    try:
        for path in [p for p in folder.iterdir() if p not in (old, partial)]:
            os.replace(path, old / path.name)
            moved.append((old / path.name, path))
        for path in list(partial.iterdir()):
            os.replace(path, folder / path.name)
            moved.append((folder / path.name, path))
    except OSError:
        for now, before in reversed(moved):
            os.replace(now, before)
        raise
    finally:
        shutil.rmtree(old, ignore_errors=True)


@contextmanager
def written_file(path: Path, overwrite: bool = False) -> Iterator[Path]:
    """As :func:`written_whole`, for a single file: a path with the same ending in a folder beside it."""
    path = path.expanduser()
    if path.exists() and not overwrite:
        raise DataError(f"{path} exists; choose another file, or pass --overwrite.")
    if not path.parent.is_dir():
        raise DataError(f"There is no folder {path.parent}; make it, or choose another file.")
    try:
        with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as partial:
            yield Path(partial) / path.name
            os.replace(Path(partial) / path.name, path)
    except OSError as cause:
        raise DataError(f"{path} could not be written ({reason(cause)}); nothing was left behind.") from cause


def reason(error: OSError) -> str:
    """Why something could not be written, in words."""
    return "the disk is full" if error.errno == errno.ENOSPC else (error.strerror or str(error))


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
