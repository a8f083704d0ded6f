"""Hydra sweeps as studies: the overrides of each run are stored in its folder."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from lightning_reg.batch.studies.definition import Job
from lightning_reg.batch.studies.outcome import Outcome, Run
from lightning_reg.io.folders import write_whole
from lightning_reg.io.reading import read_json
from lightning_reg.registry import TrainingError

CALLED = "called.json"
APART = ("seed", "data.fold")
"""Settings over which a method's runs are averaged."""
CALLING = ("run=", "launcher=", "sweep=", "hydra")
"""Prefixes of overrides that control the execution of a sweep, not the training itself."""


def note_call(folder: Path, overrides: Sequence[str]) -> None:
    """Store the overrides of a run of a sweep in its folder.

    Raises:
        TrainingError: the folder belongs to a run with other overrides.
    """
    path = folder / CALLED
    if path.is_file():
        before, now = (sorted(set(_settings(words))) for words in (read_json(path), overrides))
        if before != now:
            old, new = (
                " ".join(set(a) - set(b)) or "less" for a, b in ((before, now), (now, before))
            )
            raise TrainingError(
                f"{folder} was called with {old}, and is called with {new} now: choose another name"
                " (run=...). To add runs to a sweep later, use a study (lightning-reg study)."
            )
    write_whole(path, (json.dumps(list(overrides)) + "\n").encode())


def _settings(overrides: Sequence[str]) -> list[str]:
    """Overrides without those that control the execution of a sweep."""
    return [word for word in overrides if not word.startswith(CALLING)]


def sweep_outcome(folder: Path) -> Outcome | None:
    """Outcome of the runs in a sweep's folder; ``None`` if there are none."""
    paths = sorted(folder.glob(f"*/{CALLED}"), key=lambda p: (_number(p.parent.name), p.parent))
    called = {path.parent.name: _settings(read_json(path)) for path in paths}
    if not called:
        return None
    common = set.intersection(*(set(words) for words in called.values()))
    runs = []
    for name, words in called.items():
        settings = dict(word.partition("=")[::2] for word in words)
        own = [word for word in words if word not in common and word.partition("=")[0] not in APART]
        seed, fold = settings.get("seed", ""), settings.get("data.fold")
        method = " ".join(_short(word) for word in own) or settings.get("method", "runs")
        number = int(seed) if seed.isdigit() else None
        job = Job(name, tuple(words), method, seed=number, fold=fold)
        runs.append(Run.read(folder / name, job, None))
    return Outcome(runs)


def _number(name: str) -> int:
    first = name.partition("_")[0]
    return int(first) if first.isdigit() else 10**9


def _short(word: str) -> str:
    """Short form of an override: ``velocity`` for ``method=velocity``."""
    key, _, value = word.partition("=")
    return value if "." not in key else f"{key.rpartition('.')[2]}={value}"
