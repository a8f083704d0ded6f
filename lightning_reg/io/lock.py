"""One writer per folder."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from lightning_reg.io.folders import refuse_links, reported
from lightning_reg.io.reading import read_json
from lightning_reg.registry import DataError

ORPHANS = 20.0
"""Seconds to wait until the workers of a killed process, which share its lock, have ended."""


@contextmanager
def one_writer(folder: Path) -> Iterator[None]:
    """Lock a folder, created if needed, against writing by other processes.

    The lock is the operating system's (:class:`filelock.FileLock`): it is released whenever its
    process ends, for any reason.

    Raises:
        DataError: another process holds the lock (the message gives its host, number and start),
            the folder cannot be written, or the lock is a symbolic link.
    """
    refuse_links(folder, (".lock", ".writer.json"))
    holder = folder / ".writer.json"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / ".lock")
        lock.acquire(timeout=0 if _alive(holder) else ORPHANS)
    except Timeout as cause:
        raise DataError(
            f"{folder} is being written by {_described(holder)}; wait for it, stop it, or choose"
            " another folder."
        ) from cause
    except OSError as cause:
        raise DataError(
            f"{folder} cannot be written ({cause.strerror or cause}); choose another folder."
        ) from cause
    try:
        started = datetime.now().isoformat(sep=" ", timespec="seconds")
        own = {"host": socket.gethostname(), "process": os.getpid(), "since": started}
        with reported(f"{folder} cannot be written", "make room, or choose another folder"):
            holder.write_text(json.dumps(own))
        yield
    finally:
        holder.unlink(missing_ok=True)
        lock.release()


def is_written(folder: Path, lock: str = ".lock") -> bool:
    """Whether a process on any machine holds the lock of a folder, see :func:`one_writer`."""
    if not (folder / lock).exists():
        return False
    try:
        with FileLock(folder / lock, timeout=0):
            return False
    except (Timeout, OSError):
        return True


def _holder(path: Path) -> dict[str, Any]:
    try:
        found = read_json(path)
    except (OSError, DataError):
        return {}
    return found if isinstance(found, dict) else {}


def _described(path: Path) -> str:
    try:
        return "process {process} on {host} since {since}".format_map(_holder(path))
    except KeyError:
        return "another process"


def _alive(path: Path) -> bool:
    """Whether the recorded process may be running: assumed on another machine."""
    found = _holder(path)
    if found.get("host") != socket.gethostname():
        return bool(found)
    try:
        os.kill(int(found["process"]), 0)
    except ProcessLookupError:
        return False
    except (OSError, ValueError, KeyError, TypeError):
        return True
    return True
