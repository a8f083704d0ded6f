"""The folder of a run: never over another run, and the same command goes on where it was."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import yaml

from lightning_reg.discovery import TrainingError
from lightning_reg.io.folders import write_whole

CONFIG, SUMMARY, FAILURE, DECIDED = "config.yaml", "summary.json", "failure.json", ".decided.json"
WRITTEN = (CONFIG, "metrics.csv", "cases.csv", SUMMARY, FAILURE, DECIDED, "report.html", "checkpoints", "figures", "tensorboard", "wandb")
"""Names of what a run writes and ``overwrite`` removes."""
CALL = {"resume": None, "run": None, "overwrite": False}
"""Settings that say how a run was called, not what it is, as they are kept."""


def write_config(folder: Path, config: Mapping[str, Any]) -> None:
    """``config.yaml``: everything the run was made from; ``train.py --config-path FOLDER --config-name config`` repeats it."""
    kept = {key: CALL.get(key, value) for key, value in config.items()}
    write_whole(folder / CONFIG, yaml.safe_dump(kept, sort_keys=False).encode())


def read_config(folder: Path) -> dict[str, Any]:
    """The configuration of the run in a folder.

    Raises:
        TrainingError: no run there, or the file is damaged.
    """
    path = folder / CONFIG
    try:
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError as cause:
        raise TrainingError(f"There is no run in {folder} (no {CONFIG}); give the folder that the interrupted run printed.") from cause
    except (OSError, ValueError, yaml.YAMLError) as cause:
        raise TrainingError(f"{path} cannot be read ({_line(cause)}); the run cannot go on without it: start a new one.") from cause
    if not isinstance(config, dict) or not all(isinstance(config.get(key), dict) for key in ("method", "data", "trainer")):
        raise TrainingError(f"{path} is no configuration of a run (it lacks method, data or trainer); start a new one.")
    return config


def finished(folder: Path, config: Mapping[str, Any]) -> dict[str, float] | None:
    """Totals of the run in a folder, where it has this configuration and is done."""
    try:
        totals: dict[str, float] = json.loads((folder / SUMMARY).read_text(encoding="utf-8"))["totals"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return totals if difference(read_config(folder), as_started(folder, config)) is None else None


@dataclass(frozen=True)
class Failure:
    """Why a run failed; ``passing``: it may succeed when it is begun again as it is (its process was killed)."""

    message: str
    passing: bool = False


def note_failure(folder: Path, failed: Failure) -> None:
    """Keep in a run's folder why it ended, for those who look at many runs."""
    record = {"message": failed.message, "passing": failed.passing, "at": datetime.now().isoformat(sep=" ", timespec="seconds")}
    write_whole(folder / FAILURE, (json.dumps(record) + "\n").encode())


def failure(folder: Path) -> Failure | None:
    """Why a run failed; ``None`` where it did not."""
    try:
        found = json.loads((folder / FAILURE).read_text(encoding="utf-8"))
        return Failure(str(found["message"]), bool(found["passing"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def run_of(path: Path) -> tuple[Path, Path]:
    """The folder of a run and the checkpoint to go on from: ``path`` is the folder (then the newest, ``last.ckpt``) or a checkpoint in it.

    Raises:
        TrainingError: there is no such run or checkpoint.
    """
    if path.suffix == ".ckpt":
        folder, checkpoint = path.parent.parent, path
    else:
        folder, checkpoint = path, path / "checkpoints" / "last.ckpt"
    read_config(folder)
    if not checkpoint.exists():
        raise TrainingError(f"The run in {folder} was stopped before it saved a checkpoint ({checkpoint.name}); start it again.")
    return folder, checkpoint


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]


def to_go_on_from(folder: Path, config: Mapping[str, Any]) -> Path | None:
    """The checkpoint that the same command, sent again, goes on from; ``None`` where the folder holds nothing of a run to lose.

    Raises:
        TrainingError: the folder holds another run; names the first setting that differs.
    """
    last = folder / "checkpoints" / "last.ckpt"
    if not last.exists():
        return None
    elsewhere = "choose another folder (run=...), go on with that run (resume=...), or replace it (overwrite=true)"
    if not (folder / CONFIG).exists():
        raise TrainingError(f"{folder} holds checkpoints of a run without {CONFIG}; {elsewhere}.")
    differs = difference(read_config(folder), config)
    if differs:
        raise TrainingError(f"{folder} holds another run ({differs}); {elsewhere}.")
    return last


def require_free(folder: Path, config: Mapping[str, Any]) -> None:
    """Refuse a folder that holds another run.

    Raises:
        TrainingError: as :func:`to_go_on_from`.
    """
    to_go_on_from(folder, as_started(folder, config))


def as_started(folder: Path, config: Mapping[str, Any]) -> Mapping[str, Any]:
    """A configuration with what the model that it starts from has changed in it, where the folder holds the run that started so."""
    if config.get("init") is None or not (folder / CONFIG).exists():
        return config
    stored = read_config(folder)
    if _plain(stored.get("init")) != _plain(config["init"]):
        return config
    data = {**config["data"], "preprocessing": stored["data"].get("preprocessing")}
    stages = {"stages": stored["method"]["stages"]} if stored["method"].get("stages") else {}
    return {**config, "data": data, "method": {**config["method"], **stages}}


def clear(folder: Path) -> None:
    """Remove what a run writes, and nothing else."""
    for name in WRITTEN:
        path = folder / name
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def with_steps(config: Mapping[str, Any], steps: int) -> dict[str, Any]:
    """A composed configuration for another number of steps: stages are shares of them, and growth keeps its place in the training."""
    factor = steps / config["trainer"]["max_steps"]
    changed = {**config, "trainer": {**config["trainer"], "max_steps": steps}}
    growing = (config["method"].get("callbacks") or {}).get("alpha_growth")
    if growing is not None:
        scaled = {**growing, "time_scale": growing.get("time_scale", 1.0) * factor}
        changed["method"] = {**config["method"], "callbacks": {**config["method"]["callbacks"], "alpha_growth": scaled}}
    return changed


def difference(stored: Mapping[str, Any], config: Mapping[str, Any]) -> str | None:
    """The first setting of a stored configuration that another one has otherwise, in words; ``None`` where they make the same run.

    A run with a budget stores the number of steps that it chose.
    """
    if config.get("budget") is not None and stored.get("budget") == config["budget"]:
        config = with_steps(config, stored["trainer"]["max_steps"])
    ours, theirs = ({key: value for key, value in one.items() if key not in CALL} for one in (stored, config))
    return next(_differences(ours, theirs), None)


def _differences(ours: Any, theirs: Any, key: str = "") -> Iterator[str]:
    if isinstance(ours, Mapping) and isinstance(theirs, Mapping):
        for name in {**ours, **theirs}:
            yield from _differences(ours.get(name), theirs.get(name), f"{key}.{name}".strip("."))
    elif _plain(ours) != _plain(theirs):
        yield f"{key} is {ours} there and {theirs} here"


def _plain(value: Any) -> Any:
    """As YAML gives it back."""
    if isinstance(value, Mapping):
        return {key: _plain(inner) for key, inner in value.items()}
    return [_plain(item) for item in value] if isinstance(value, (list, tuple)) else value
