"""Results on disk: written completely or not at all, without touching other files."""

from __future__ import annotations

import ctypes
import errno
import glob
import json
import os
import secrets
import shutil
import socket
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from lightning_reg.io.names import require_unicode
from lightning_reg.io.reading import read_json
from lightning_reg.registry import DataError

MARK = "metrics.json"
"""Record in every folder of results."""
LISTING = ".written.json"
"""Listing in a folder of results: the command that wrote it and the names of its files. Other files
in the folder are kept.
"""


def inside(folder: Path, name: str, links: bool = False) -> Path:
    """Path in ``folder`` by a name that was read from a file.

    Args:
        name: path of a file or a folder, relative to ``folder``.
        links: allow symbolic links, as data sets have them.

    Raises:
        DataError: the name leads out of the folder, or it or a folder on its way is a symbolic
            link.
    """
    parts = (
        (folder / name).relative_to(folder).parts if (folder / name).is_relative_to(folder) else ()
    )
    if not parts or ".." in parts or "\0" in name:
        raise DataError(
            f"'{name}' is no path inside {folder}; correct the file that gives it, or choose"
            " another folder."
        )
    path = folder
    for part in parts:
        path = path / part
        if not links and path.is_symlink():
            raise DataError(
                f"{path} is a symbolic link, which is neither followed nor replaced; put the file"
                " or folder itself there."
            )
    return path


def refuse_links(folder: Path, names: Iterable[str]) -> None:
    """Refuse a folder in which something that is written or read is a symbolic link.

    Args:
        folder: may be a link itself.
        names: of files, and of folders whose content is checked, too.

    Raises:
        DataError: the message names the link.
    """
    for name in names:
        path = inside(folder, name)
        for entry in path.iterdir() if path.is_dir() else ():
            inside(path, entry.name)


def refuse_existing(folder: Path, overwrite: bool, by: str, space: int = 0) -> None:
    """Refuse an unusable output folder before anything is computed.

    Args:
        by: the command that would write it.
        space: bytes to be written, as far as known.

    Raises:
        DataError: the folder exists, ``overwrite`` is false, and it does not hold unfinished
            results of this command (see :func:`note_unfinished`); it holds no results of this
            command; its name is invalid; it cannot be written; or the disk has less than ``space``.
    """
    if _exists(folder) and (not folder.is_dir() or any(folder.iterdir())):
        writer, names = _listing(folder)
        if not overwrite and not (writer == by and _is_unfinished(names)):
            raise DataError(f"{folder} exists; choose another folder, or pass `overwrite=True`.")
        if writer is None:
            raise DataError(
                f"{folder} exists and holds no results of this program, so it is not overwritten;"
                " choose another folder."
            )
        if writer != by:
            raise DataError(
                f"{folder} holds results of lightning-reg {writer}, so it is not overwritten;"
                " choose another folder."
            )
    _try(folder if folder.is_dir() else folder.parent, folder, space)


def refuse_file(path: Path, overwrite: bool, space: int = 0) -> None:
    """As :func:`refuse_existing`, for a single file in an existing folder.

    Raises:
        DataError: the file exists and ``overwrite`` is false; its folder is missing or cannot be
            written; the disk has less than ``space``.
    """
    if _exists(path):
        if path.is_dir():
            raise DataError(f"{path} is a folder; give the name of a file.")
        if not overwrite:
            raise DataError(f"{path} exists; choose another file, or pass `overwrite=True`.")
    if not path.parent.is_dir():
        raise DataError(f"There is no folder {path.parent}; make it, or choose another file.")
    _try(path.parent, path, space)


def _exists(path: Path) -> bool:
    require_unicode(path.absolute())
    with reported(f"{path} cannot be used", "choose another path"):
        return os.path.lexists(path) or path.exists()


def _try(place: Path, wanted: Path, space: int) -> None:
    """Check that the nearest existing folder can be written and has enough space."""
    while not _exists(place) and place != place.parent:
        place = place.parent
    with reported(f"{wanted} cannot be made", "choose another path"):
        if wanted.name and place.is_dir():
            with suppress(FileNotFoundError):
                os.lstat(place / wanted.name)  # fails for too long a name
    in_place = reported(f"{wanted} cannot be made in {place}", "choose another path")
    with in_place, tempfile.TemporaryFile(dir=place):
        free = shutil.disk_usage(place).free
    if free < space:
        raise DataError(
            f"{wanted} needs about {space / 2**20:,.0f} MiB, and {place} has {free / 2**20:,.0f}"
            " MiB free; free some space, or choose another path."
        )


class Beside:
    """Background thread that runs calls one after the other, for example compression, which
    releases the interpreter lock.

    Args:
        enabled: if false, each call runs immediately, for example to save memory.

    Raises:
        Exception: the first exception of a call, on exit or in :meth:`wait`.
    """

    def __init__(self, enabled: bool = True) -> None:
        self._pool = ThreadPoolExecutor(max_workers=1) if enabled else None
        self._calls: list[Future[Any]] = []

    def __enter__(self) -> Beside:
        return self

    def __call__(self, function: Callable[..., Any], *arguments: Any) -> None:
        if self._pool is None:
            function(*arguments)
        else:
            self._calls.append(self._pool.submit(function, *arguments))

    def wait(self) -> None:
        """Wait until all calls so far are done."""
        calls, self._calls = self._calls, []
        for call in calls:
            call.result()

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=kind is not None)
        if kind is None:
            self.wait()


@contextmanager
def written_whole(folder: Path, overwrite: bool = False, by: str = "register") -> Iterator[Path]:
    """Temporary folder to write into; renamed to ``folder`` at the end, removed after an error.

    Existing results are replaced in one step where the file system supports it (Linux): a killed
    process leaves either the old or the new results, complete. Files that the command did not write
    are kept.

    Args:
        by: the command that writes.

    Raises:
        DataError: as :func:`refuse_existing`, or the folder cannot be written (a full disk, a
            folder without permission).
    """
    folder = folder.expanduser().resolve()
    refuse_existing(folder, overwrite, by)
    there, inside = folder.is_dir(), folder.is_dir() and _has_to_stay(folder)
    with reported(f"{folder} cannot be made", "choose another folder"):
        folder.parent.mkdir(parents=True, exist_ok=True)
        partial = _partial(folder, folder if inside else folder.parent)
        partial.mkdir()
    try:
        with reported(f"{folder} could not be written", "nothing was left behind"):
            yield partial
            written = sorted(path.name for path in partial.iterdir())
            (partial / LISTING).write_text(json.dumps({"by": by, "files": written}) + "\n")
            if inside:
                _replace_inside(folder, partial)
            elif there:
                _replace(folder, partial)
            else:
                os.replace(partial, folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _listing(folder: Path) -> tuple[str | None, Sequence[str]]:
    """The command that wrote a folder and the names of its files; ``None`` without a listing.

    Raises:
        DataError: a name leads out of the folder.
    """
    try:
        known = read_json(inside(folder, LISTING))
        by, names = str(known["by"]), [str(name) for name in known["files"]]
    except (OSError, DataError, KeyError, TypeError):
        return None, []
    return by, [str(inside(folder, name, links=True).relative_to(folder)) for name in names]


def note_unfinished(folder: Path, name: str, by: str) -> None:
    """List a hidden folder of unfinished results, which the finished results replace.

    Args:
        name: of the hidden folder inside ``folder``.
        by: the command that writes.
    """
    _, names = _listing(folder)
    content = {"by": by, "files": sorted({*names, name})}
    write_whole(folder / LISTING, (json.dumps(content) + "\n").encode())


def _is_unfinished(names: Sequence[str]) -> bool:
    """Whether a listing has hidden entries only."""
    return bool(names) and all(name.startswith(".") for name in names)


def _has_to_stay(folder: Path) -> bool:
    """Whether the folder is a mount, holds the working directory, or is in a read-only one."""
    here = Path.cwd().resolve()
    return (
        folder.is_mount()
        or folder == here
        or folder in here.parents
        or not os.access(folder.parent, os.W_OK)
    )


def _partial(wanted: Path, place: Path) -> Path:
    """A new temporary path of this process; those of killed processes here are removed."""
    prefix = f".{wanted.name[:100]}.partial-{socket.gethostname()}-"
    for path in place.glob(f"{glob.escape(prefix)}*"):
        number = path.name.removeprefix(prefix).partition("-")[0]
        if (
            number.isdigit()
            and not Path(f"/proc/{number}").exists()
            and Path("/proc/self").exists()
        ):
            shutil.rmtree(path, ignore_errors=True)  # fails for a file
            with suppress(OSError):
                path.unlink()
    return place / f"{prefix}{os.getpid()}-{secrets.token_hex(4)}"


def _kept(folder: Path, partial: Path) -> list[Path]:
    """Files of a folder that no command wrote.

    Raises:
        FileExistsError: ``partial``, which may be in the folder, would replace one of them.
    """
    _, ours = _listing(folder)
    kept = [path for path in folder.iterdir() if path.name not in (*ours, LISTING, partial.name)]
    for path in kept:
        if (partial / path.name).exists():
            problem = "it was not written by this command and would be replaced"
            raise FileExistsError(errno.EEXIST, problem, str(path))
    return kept


def _replace(folder: Path, partial: Path) -> None:
    """Replace ``folder`` by ``partial``, and keep the files in it that no command wrote."""
    for path in _kept(folder, partial):
        linked(path, partial / path.name)
    shutil.copymode(folder, partial)
    if not _exchanged(folder, partial):
        old = partial.with_name(f"{partial.name}-old")
        os.replace(folder, old)
        try:
            os.replace(partial, folder)
        except OSError:
            os.replace(old, folder)
            raise
        shutil.rmtree(old, ignore_errors=True)


def linked(path: Path, new: Path) -> None:
    """Link a file, or all files of a folder, under a second name; copy without hard links."""

    def link(source: str, target: str) -> None:
        try:
            os.link(source, target, follow_symlinks=False)
        except OSError:
            shutil.copy2(source, target, follow_symlinks=False)

    if path.is_dir() and not path.is_symlink():
        shutil.copytree(path, new, symlinks=True, copy_function=link)
    else:
        link(str(path), str(new))


def _exchanged(one: Path, other: Path) -> bool:
    """Exchange two folders in one step; ``False`` where the system or the file system cannot."""
    rename = (
        getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
        if os.name == "posix"
        else None
    )
    if rename is None:
        return False
    here, exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    return bool(rename(here, os.fsencode(one), here, os.fsencode(other), exchange) == 0)


def _replace_inside(folder: Path, partial: Path) -> None:
    """Replace the command's files in ``folder`` by those of ``partial``; restore on failure."""
    _kept(folder, partial)
    _, ours = _listing(folder)
    old = Path(tempfile.mkdtemp(prefix=".old.", dir=folder))
    moved: list[tuple[Path, Path]] = []
    try:
        for name in (*ours, LISTING):
            if os.path.lexists(folder / name):
                os.replace(folder / name, old / name)
                moved.append((old / name, folder / name))
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
    """As :func:`written_whole`, for a file: yields a path of its name in a temporary folder."""
    path = path.expanduser()
    refuse_file(path, overwrite)
    partial = _partial(path, path.parent)
    try:
        with reported(f"{path} could not be written", "nothing was left behind"):
            partial.mkdir()
            yield partial / path.name
            os.replace(partial / path.name, path)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def write_whole(path: Path, content: bytes | memoryview) -> None:
    """Write a file so that a process killed at any moment leaves the old content or the new one.

    Of several processes that write it at the same time, the last one counts; a reader finds a
    complete content at any moment.

    Raises:
        OSError: the file, which the exception names, cannot be written; the old content is kept.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = _partial(path, path.parent)
    try:
        with partial.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except BaseException as error:
        partial.unlink(missing_ok=True)
        if isinstance(error, OSError):  # writing itself names no file
            error.filename = str(path)
        raise


@contextmanager
def reported(what: str, remedy: str, kind: type[DataError] = DataError) -> Iterator[None]:
    """Report what cannot be written in a sentence, with the reason and a remedy.

    Raises:
        DataError: of this kind, instead of an ``OSError``.
    """
    try:
        yield
    except OSError as cause:
        raise kind(f"{what} ({reason(cause)}); {remedy}.") from cause


def reason(error: OSError) -> str:
    """Reason of a failed write, in words."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "the disk is full"
    return error.strerror or str(error)
