"""Identity of a training's data: names, splits and file contents of its scans, and changes."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from lightning_reg.data.datasets.interface import PARTS, Record, Split
from lightning_reg.data.datasets.splits import Splits

BLOCK, BLOCKS = 2**16, 16
"""Bytes per block, and blocks read of a file that is larger than all of them together."""
SHOWN = 4
"""Names listed in a message."""
Known = Mapping[str, Any]


def belonging(path: Path) -> list[Path]:
    """Files of a path: itself, all files in a folder, or a header and its data file, sorted.

    Raises:
        OSError: there is no such path.
    """
    if path.is_dir():
        return sorted(path.iterdir())
    if path.suffix.lower() in (".mhd", ".nhdr"):
        return sorted(
            p for p in path.parent.iterdir() if p.name.split(".")[0] == path.name.split(".")[0]
        )
    return [path]


def content(path: Path, number: int | None = None) -> str | None:
    """Digest of a file's (or folder's) size and bytes, which does not depend on names; ``None`` if
    it cannot be read.

    Of a file above 1 MiB, 16 blocks of 64 KiB are read, spread from its beginning to its end. A
    compressed file ends in a checksum of all of its content.

    Args:
        number: index of the scan in the file, see :class:`Record`.
    """
    try:
        digests = sorted(_digest(file) for file in belonging(path) if file.is_file())
    except OSError:
        return None
    if not digests:
        return None
    whole = (
        digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()
    )
    return whole[:32] if number is None else f"{whole[:32]}[{number}]"


def _digest(file: Path) -> str:
    with file.open("rb") as opened:
        size = os.fstat(opened.fileno()).st_size
        found = hashlib.sha256(str(size).encode())
        if size <= BLOCK * BLOCKS:
            found.update(opened.read())
        else:
            for k in range(BLOCKS):
                opened.seek(k * (size - BLOCK) // (BLOCKS - 1))
                found.update(opened.read(BLOCK))
    return found.hexdigest()


def identify(data: Splits) -> dict[str, Any]:
    """Identity of the scans and pairs of all splits, plain values.

    Returns:
        ``scans``: a row per scan, with its name, subject, split and, by part, its file (relative to
        the root of the data set), size and :func:`content`; generated scans have no files.
        ``pairs``: names of fixed and moving scans.
        ``trained``: ``subjects`` of the split ``train``, and ``images``, their contents. Subjects
        and images that the data set itself has in another split too, as an atlas, are left out of
        it.
    """
    records = data.records()
    root = Path(os.path.abspath(Path(str(data.settings.get("root", "."))).expanduser()))
    root = root.parent if root.is_file() else root
    paths = list(dict.fromkeys(path for record in records for path in record.files()))
    with ThreadPoolExecutor(8) as readers:
        known = dict(zip(paths, readers.map(content, paths), strict=True))
    rows = [_row(record, root, known.__getitem__) for record in records]
    train, others = (
        [r for r in rows if (r["split"] == "train") == is_train] for is_train in (True, False)
    )
    subjects = {row["subject"] for row in train} - {row["subject"] for row in others}
    images = _images(train) - _images(others)
    return {
        "scans": rows,
        "pairs": [[fixed.name, moving.name] for fixed, moving in data.named_pairs()],
        "trained": {"subjects": sorted(subjects), "images": sorted(images)},
    }


def _row(record: Record, root: Path, known: Callable[[Path], str | None]) -> dict[str, Any]:
    files = {}
    for part in PARTS:
        path = getattr(record, part)
        if path is None:
            continue
        place, digest = Path(os.path.abspath(path)), known(path)
        name = place.relative_to(root).as_posix() if place.is_relative_to(root) else place.name
        digest = (
            f"{digest}[{record.number}]"
            if digest and record.number is not None and part != "landmarks"
            else digest
        )
        size = sum(file.stat().st_size for file in belonging(path)) if digest else 0
        files[part] = {"file": name, "bytes": size, "content": digest}
    return {"scan": record.name, "subject": record.subject, "split": record.split, "files": files}


def _images(rows: Iterable[Known]) -> set[str]:
    """Contents of the images of some rows."""
    return {
        row["files"]["image"]["content"]
        for row in rows
        if row["files"].get("image", {}).get("content")
    }


def changes(known: Known, now: Known) -> str | None:
    """Describe what changed between two identities; ``None`` if they are the same."""
    before, after = ({row["scan"]: row for row in one["scans"]} for one in (known, now))
    both = [name for name in before if name in after]

    def contents(row: Known) -> dict[str, str]:
        return {part: file["content"] for part, file in row["files"].items()}

    told = [
        _named([name for name in before if name not in after], "missing"),
        _named([name for name in after if name not in before], "new"),
        _named(
            [name for name in both if contents(before[name]) != contents(after[name])], "changed"
        ),
    ]
    moved: dict[tuple[str, str], list[str]] = {}
    for name in both:
        splits = before[name]["split"], after[name]["split"]
        if splits[0] != splits[1]:
            moved.setdefault(splits, []).append(before[name]["subject"])
    told += [
        f"{_listed(list(dict.fromkeys(of)))} would change from {old} to {new}"
        for (old, new), of in moved.items()
    ]
    found = [sentence for sentence in told if sentence]
    if not found and list(before) != list(after):
        found = ["the scans have another order"]
    if not found and [list(pair) for pair in known["pairs"]] != now["pairs"]:
        found = ["the pairs are others"]
    return "; ".join(found) or None


def _named(names: Sequence[str], what: str) -> str:
    return f"{what}: {_listed(names)}" if names else ""


def _listed(names: Sequence[str]) -> str:
    rest = len(names) - SHOWN
    return ", ".join(names[:SHOWN]) + (f" and {rest} more" if rest > 0 else "")


def keep_splits(data: Splits, known: Known) -> dict[str, Split]:
    """Give every subject that a training knows, by name or by an image's content, the split that it
    had there.

    Whatever was once trained on is in the split ``train``. Other subjects keep the split that the
    data set gives them.

    Args:
        known: identity of the training's data; an empty one changes nothing.

    Returns:
        The splits that were changed, by subject.
    """
    if not known.get("scans"):
        return {}
    before: dict[str, set[Split]] = {}
    for row in known["scans"]:
        for key in (row["subject"], *_images([row])):
            before.setdefault(key, set()).add(row["split"])
    trained = {*known["trained"]["subjects"], *known["trained"]["images"]}
    changed: dict[str, Split] = {}
    for row in identify(data)["scans"]:
        keys = [row["subject"], *_images([row])]
        splits: set[Split] = (
            {"train"}
            if trained.intersection(keys)
            else next((before[key] for key in keys if key in before), set())
        )
        if len(splits) == 1 and changed.get(row["subject"]) != "train":  # an atlas may have several
            changed[row["subject"]] = next(iter(splits))
    return data.assign(changed)


def joined(
    known: Known, now: Known, moved: Mapping[str, str] | None = None, source: Known | None = None
) -> dict[str, Any]:
    """Identity of the data now, with what the weights were trained on before.

    Args:
        known: identity of the run's data before; empty for a new run.
        moved: splits that :func:`keep_splits` changed.
        source: identity of the data of the model from which the run starts.

    Returns:
        As :func:`identify`, and ``moved``, and ``source``: contents of the images that the initial
        model was trained on.
    """
    before = known.get("trained", {})
    return {
        **now,
        "trained": {key: sorted({*before.get(key, ()), *of}) for key, of in now["trained"].items()},
        "moved": {**known.get("moved", {}), **(moved or {})},
        "source": sorted({*known.get("source", ()), *trained_images(source or {})}),
    }


def trained_images(known: Known) -> frozenset[str]:
    """Contents of all images that a model was trained on, as far as it stores them."""
    return frozenset({*known.get("trained", {}).get("images", ()), *known.get("source", ())})


def held_out_but_seen(now: Known) -> str | None:
    """Held-out scans on which the initial model of a run was trained; ``None``: none."""
    images = set(now.get("source", ()))
    held_out = [row for row in now.get("scans", ()) if row["split"] != "train"]
    return _listed([row["scan"] for row in held_out if _images([row]) & images]) or None
