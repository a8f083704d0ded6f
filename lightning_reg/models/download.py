"""Downloads into the user's cache, resumed if interrupted, and verified before use."""

from __future__ import annotations

import hashlib
import http.client
import os
import re
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

from filelock import FileLock
from platformdirs import user_cache_path

from lightning_reg.discovery import UserError

Progress = Callable[[int, int | None], None]
"""Callback with the number of received bytes and of all bytes (``None``: unknown)."""
TIMEOUT = 30.0
"""Seconds without data after which a connection is given up."""
ATTEMPTS = 5
"""Maximum number of consecutive attempts without new data."""
CHUNK = 1 << 16


def cache() -> Path:
    """Folder of downloaded files: ``LIGHTNING_REG_CACHE``, else the user's cache."""
    named = os.environ.get("LIGHTNING_REG_CACHE")
    return Path(named).expanduser() if named else user_cache_path("lightning_reg") / "models"


def from_server(address: str, progress: Progress | None = None) -> Path:
    """Fetch the file at ``https://...#sha256=...``, or take it from the cache.

    Raises:
        UserError: the address has no checksum, the server cannot be reached or has no such file, the connection is interrupted repeatedly,
            or the file does not match its checksum.
    """
    url, _, fragment = address.partition("#")
    match = re.fullmatch(r"sha256=([0-9a-fA-F]{64})", fragment)
    if match is None:
        raise UserError(f"{address} names no checksum; append #sha256= and the 64 digits that the model's author gives (sha256sum FILE).")
    if url.startswith("http://") and not re.match(r"http://(localhost|127\.0\.0\.1|\[::1\])[:/]", url):
        raise UserError(f"{address} is not encrypted; use https://.")
    wanted = match[1].lower()
    target = cache() / wanted[:16] / (re.sub(r"[^\w.-]", "_", url.rpartition("/")[2].partition("?")[0]) or "model.ckpt")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(target.with_name(".lock")):  # another process may be fetching the file
            if target.is_file() and checksum(target) == wanted:
                return target
            partial = target.with_name(f"{target.name}.part")
            _fetch(url, partial, progress)
            found = checksum(partial)
            if found != wanted:
                partial.unlink()
                raise UserError(f"{url} does not match its checksum (sha256 {found}); nothing was kept. Ask the author of the address.")
            partial.replace(target)
    except OSError as cause:
        raise UserError(f"{target.parent} cannot be written ({cause.strerror or cause}); make room, or set LIGHTNING_REG_CACHE.") from cause
    return target


def checksum(path: Path) -> str:
    """SHA-256 of a file."""
    found = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            found.update(chunk)
    return found.hexdigest()


def _fetch(url: str, partial: Path, progress: Progress | None) -> None:
    """Fetch into a file, continuing at its current end; interrupted connections are resumed."""
    attempts = 0
    while True:
        before = partial.stat().st_size if partial.exists() else 0
        try:
            if _transfer(url, partial, before, progress):
                return
            cause: Exception | None = None
        except urllib.error.HTTPError as error:
            if error.code == 416 and before:  # already complete, or too long; the checksum decides
                return
            if error.code < 500:
                raise UserError(f"{url} answers {error.code} {error.reason}; correct the address.") from error
            cause = error
        except (http.client.InvalidURL, UnicodeError, ValueError) as error:
            raise UserError(f"{url} is not a valid address ({error}); correct it.") from error
        except (urllib.error.URLError, http.client.HTTPException, TimeoutError, ConnectionError) as error:
            cause = error
        now = partial.stat().st_size if partial.exists() else 0
        unreachable = isinstance(cause, urllib.error.URLError) and not isinstance(cause, urllib.error.HTTPError)
        attempts = 0 if now > before else attempts + 1
        if attempts >= ATTEMPTS or (unreachable and now == 0):
            why = getattr(cause, "reason", None) or cause or "the connection was cut"
            state = (
                f"{now / 1e6:.1f} MB of it are kept, and the same command goes on from there" if now else "nothing of it is in the cache"
            )
            raise UserError(f"{url} cannot be fetched ({why}); {state}. Without a network, give a file or an installed model.") from cause
        time.sleep(min(0.2 * 2**attempts, 3.0) if attempts else 0.0)


def _transfer(url: str, partial: Path, start: int, progress: Progress | None) -> bool:
    """Transfer over one connection; return whether the file is complete."""
    request = urllib.request.Request(url, headers={"User-Agent": "lightning-reg", **({"Range": f"bytes={start}-"} if start else {})})
    with urllib.request.urlopen(request, timeout=TIMEOUT) as answer:
        resumed = answer.status == 206
        length = answer.headers.get("Content-Length") or ""
        total = int(length) + (start if resumed else 0) if length.isdecimal() else None
        done = start if resumed else 0
        with partial.open("ab" if resumed else "wb") as file:
            while chunk := answer.read(CHUNK):
                file.write(chunk)
                done += len(chunk)
                if progress is not None:
                    progress(done, total)
    return total is None or done >= total


def from_hub(address: str) -> Path:
    """Fetch the file at ``hf://owner/repo/file@revision`` with huggingface_hub, or take it from its cache.

    Raises:
        UserError: the address is invalid, huggingface_hub is not installed, or the file cannot be downloaded.
    """
    match = re.fullmatch(r"hf://([\w.-]+/[\w.-]+)/([^@]+)@([\w.-]+)", address)
    if match is None:
        raise UserError(f"{address} is no address of a model; write hf://owner/repo/file@revision, with a commit or a tag as its revision.")
    try:
        from huggingface_hub import hf_hub_download
    except ImportError as cause:
        raise UserError(f"{address} needs huggingface_hub: pip install 'lightning-reg[hub]'") from cause
    repository, file, revision = match.groups()
    try:
        return Path(hf_hub_download(repository, file, revision=revision))
    except Exception as cause:  # errors of several libraries, with long texts
        first = " ".join(str(cause).split())[:200]
        raise UserError(
            f"{address} cannot be downloaded ({type(cause).__name__}: {first}); correct it, or fetch it once with a network."
        ) from cause
