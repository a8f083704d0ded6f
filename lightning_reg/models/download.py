"""Downloads into the user's cache, resumed if interrupted, and verified before use."""

from __future__ import annotations

import errno
import hashlib
import http.client
import os
import re
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

from filelock import FileLock
from platformdirs import user_cache_path

from lightning_reg.registry import UserError

Progress = Callable[[int, int | None], None]
"""Callback with the number of received bytes and of all bytes (``None``: unknown)."""
TIMEOUT = 30.0
"""Seconds without data after which a connection is given up."""
ATTEMPTS = 5
"""Maximum number of consecutive attempts without new data."""
LARGEST = 4 << 30
"""Largest size of a file, bytes."""
LONGEST = 3600.0
"""Seconds after which a download is stopped; the next one continues it."""
CHUNK = 1 << 16
LOOPBACK = re.compile(r"http://(localhost|127\.0\.0\.1|\[::1\])(:\d+)?/")
"""Addresses on this machine, which need no encryption."""


class _Encrypted(urllib.request.HTTPRedirectHandler):
    """Follows redirects to encrypted addresses only, and within this machine."""

    def redirect_request(
        self, req: urllib.request.Request, fp: Any, code: int, msg: str, headers: Any, newurl: str
    ) -> Any:
        if not newurl.startswith("https://") and not (
            LOOPBACK.match(req.full_url) and LOOPBACK.match(newurl)
        ):
            raise UserError(
                f"{req.full_url} leads to {newurl}, which is not encrypted; ask the author for"
                " another address."
            )
        return super().redirect_request(req, fp, code, msg, headers, newurl)


OPENER = urllib.request.build_opener(_Encrypted)


def cache() -> Path:
    """Folder of downloaded files: ``LIGHTNING_REG_CACHE``, else the user's cache."""
    named = os.environ.get("LIGHTNING_REG_CACHE")
    return Path(named).expanduser() if named else user_cache_path("lightning_reg") / "models"


def from_server(address: str, progress: Progress | None = None) -> Path:
    """Fetch the file at ``https://...#sha256=...``, or take it from the cache.

    Raises:
        UserError: the address has no checksum or is not encrypted, the server cannot be reached or
            has no such file, the connection is interrupted repeatedly, the file is larger than
            :data:`LARGEST`, takes longer than :data:`LONGEST`, or does not match its checksum.
    """
    url, _, fragment = address.partition("#")
    match = re.fullmatch(r"sha256=([0-9a-fA-F]{64})", fragment)
    if match is None:
        raise UserError(
            f"{address} names no checksum; append #sha256= and the 64 digits that the model's"
            " author gives (sha256sum FILE)."
        )
    if url.startswith("http://") and not LOOPBACK.match(url):
        raise UserError(f"{address} is not encrypted; use https://.")
    wanted = match[1].lower()
    target = (
        cache()
        / wanted[:16]
        / (re.sub(r"[^\w.-]", "_", url.rpartition("/")[2].partition("?")[0]) or "model.ckpt")
    )
    partial = target.with_name(f"{target.name}.part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(target.with_name(".lock")):  # another process may be fetching the file
            if target.is_file() and checksum(target) == wanted:
                return target
            for resumed in (partial.exists(), False):
                _fetch(url, partial, progress)
                found = checksum(partial)
                if found == wanted:
                    partial.replace(target)
                    return target
                partial.unlink()
                if not resumed:  # else the beginning may be that of another file
                    break
            raise UserError(
                f"{url} does not match its checksum (sha256 {found}); nothing was kept. Ask the"
                " author of the address."
            )
    except OSError as cause:
        if cause.errno in (errno.ENOSPC, errno.EDQUOT):
            partial.unlink(missing_ok=True)
        raise UserError(
            f"{target.parent} cannot be written ({cause.strerror or cause}); make room, or set"
            " LIGHTNING_REG_CACHE."
        ) from cause


def checksum(path: Path) -> str:
    """SHA-256 of a file."""
    found = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            found.update(chunk)
    return found.hexdigest()


def _fetch(url: str, partial: Path, progress: Progress | None) -> None:
    """Fetch into a file, continuing at its current end; interrupted connections are resumed."""
    attempts, until = 0, time.monotonic() + LONGEST
    while True:
        before = partial.stat().st_size if partial.exists() else 0
        try:
            if _transfer(url, partial, before, until, progress):
                return
            cause: Exception | None = None
        except urllib.error.HTTPError as error:
            if error.code == 416 and before:  # already complete, or too long; the checksum decides
                return
            if error.code < 500:
                raise UserError(
                    f"{url} answers {error.code} {error.reason}; correct the address."
                ) from error
            cause = error
        except (http.client.InvalidURL, UnicodeError, ValueError) as error:
            raise UserError(f"{url} is not a valid address ({error}); correct it.") from error
        except (
            urllib.error.URLError,
            http.client.HTTPException,
            TimeoutError,
            ConnectionError,
        ) as error:
            cause = error
        now = partial.stat().st_size if partial.exists() else 0
        unreachable = isinstance(cause, urllib.error.URLError) and not isinstance(
            cause, urllib.error.HTTPError
        )
        attempts = 0 if now > before else attempts + 1
        if attempts >= ATTEMPTS or (unreachable and now == 0):
            why = getattr(cause, "reason", None) or cause or "the connection was cut"
            state = (
                f"{now / 1e6:.1f} MB of it are kept, and the same command goes on from there"
                if now
                else "nothing of it is in the cache"
            )
            raise UserError(
                f"{url} cannot be fetched ({why}); {state}. Without a network, give a file or an"
                " installed model."
            ) from cause
        time.sleep(min(0.2 * 2**attempts, 3.0) if attempts else 0.0)


def _transfer(url: str, partial: Path, start: int, until: float, progress: Progress | None) -> bool:
    """Transfer over one connection; return whether the file is complete."""
    request = urllib.request.Request(
        url,
        headers={"User-Agent": "lightning-reg", **({"Range": f"bytes={start}-"} if start else {})},
    )
    with OPENER.open(request, timeout=TIMEOUT) as answer:
        resumed = answer.status == 206
        length = answer.headers.get("Content-Length") or ""
        total = int(length) + (start if resumed else 0) if length.isdecimal() else None
        done = start if resumed else 0
        with partial.open("ab" if resumed else "wb") as file:
            while chunk := answer.read1(CHUNK):
                file.write(chunk)
                done += len(chunk)
                if max(done, total or 0) > LARGEST:
                    partial.unlink()
                    raise UserError(
                        f"{url} is larger than {LARGEST >> 30} GiB, so it is no model; nothing was"
                        " kept. Correct the address."
                    )
                if time.monotonic() > until:
                    raise UserError(
                        f"{url} takes longer than {LONGEST / 60:.0f} minutes; {done / 1e6:.1f} MB"
                        " of it are kept, and the same command goes on from there."
                    )
                if progress is not None:
                    progress(done, total)
    return total is None or done >= total


def from_hub(address: str) -> Path:
    """Fetch the file at ``hf://owner/repo/file@revision`` with huggingface_hub, or take it from its
    cache.

    Raises:
        UserError: the address is invalid, huggingface_hub is not installed, or the file cannot be
            downloaded.
    """
    match = re.fullmatch(r"hf://([\w.-]+/[\w.-]+)/([^@]+)@([\w.-]+)", address)
    if match is None:
        raise UserError(
            f"{address} is no address of a model; write hf://owner/repo/file@revision, with a"
            " commit or a tag as its revision."
        )
    try:
        from huggingface_hub import hf_hub_download
    except ImportError as cause:
        raise UserError(
            f"{address} needs huggingface_hub: pip install 'lightning-reg[hub]'"
        ) from cause
    repository, file, revision = match.groups()
    try:
        return Path(hf_hub_download(repository, file, revision=revision))
    except Exception as cause:  # errors of several libraries, with long texts
        first = " ".join(str(cause).split())[:200]
        raise UserError(
            f"{address} cannot be downloaded ({type(cause).__name__}: {first}); correct it, or"
            " fetch it once with a network."
        ) from cause
