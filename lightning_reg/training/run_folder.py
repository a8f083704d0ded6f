"""The folder of a run: protection of other runs, and resumption by the same command."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from lightning_reg.io.folders import inside, write_whole
from lightning_reg.io.reading import as_yaml, read_json, read_yaml
from lightning_reg.registry import DataError, TrainingError

CONFIG, DATA, SUMMARY, FAILURE, DECIDED = (
    "config.yaml",
    "data.json",
    "summary.json",
    "failure.json",
    ".decided.json",
)
FOLDERS = ("checkpoints", "figures", "tensorboard", "wandb")
WRITTEN = (
    CONFIG,
    DATA,
    "metrics.csv",
    "cases.csv",
    SUMMARY,
    FAILURE,
    DECIDED,
    "report.html",
    *FOLDERS,
)
"""Names of files and folders that a run writes and ``overwrite`` removes."""
NO_LINKS = (*(name for name in WRITTEN if name != "wandb"), "wandb/id.txt")
"""Names that are no symbolic links, and hold none; Weights & Biases makes links in its own folder.
"""
CALL = {"resume": None, "run": None, "overwrite": False, "changed_data": False}
"""Settings that depend on the call of a run, not on the run itself, with their stored values."""


def write_config(folder: Path, config: Mapping[str, Any]) -> None:
    """Write ``config.yaml``, the full configuration;
    ``train.py --config-path FOLDER --config-name config`` repeats the run.
    """
    kept = {key: CALL.get(key, value) for key, value in config.items()}
    write_whole(folder / CONFIG, as_yaml(kept).encode())


def write_identity(folder: Path, identity: Mapping[str, Any]) -> None:
    """Write ``data.json``, the identity of the run's data, see
    :func:`lightning_reg.data.datasets.identity.identify`.
    """
    write_whole(folder / DATA, (json.dumps(identity, indent=1) + "\n").encode())


def read_config(folder: Path) -> dict[str, Any]:
    """Read the configuration of the run in a folder.

    Raises:
        TrainingError: there is no run, or the file is damaged.
    """
    try:
        return read_settings(inside(folder, CONFIG))
    except FileNotFoundError as cause:
        raise TrainingError(
            f"There is no run in {folder} (no {CONFIG}); give the folder that the interrupted run"
            " printed."
        ) from cause


def read_settings(path: Path) -> dict[str, Any]:
    """Read a stored configuration of a run. Hydra's own settings in it (``hydra``, ``defaults``)
    are left out: they could run code.

    Raises:
        FileNotFoundError: there is no such file.
        TrainingError: the file is damaged, or is no configuration of a run.
    """
    try:
        config = read_yaml(path, "the run cannot go on without it: start a new one")
    except DataError as cause:
        raise TrainingError(str(cause)) from cause
    if not isinstance(config, dict) or not all(
        isinstance(config.get(key), dict) for key in ("method", "data", "trainer")
    ):
        raise TrainingError(
            f"{path} is no configuration of a run (it lacks method, data or trainer); start a new"
            " one."
        )
    if isinstance(config["data"].get("root"), (dict, list)):
        raise TrainingError(f"`root` in {path} is not a path; correct it.")
    return {key: value for key, value in config.items() if key not in ("hydra", "defaults")}


def with_root(config: Mapping[str, Any], root: Any) -> dict[str, Any]:
    """Change the data's folder wherever a stored configuration, in which interpolations are
    resolved, has it.
    """
    old = config["data"].get("root")

    def changed(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {key: changed(inner) for key, inner in value.items()}
        return root if old is not None and value == old else value

    return {str(key): changed(value) for key, value in config.items()}


def finished(folder: Path, config: Mapping[str, Any]) -> dict[str, float] | None:
    """Return the totals of the run in a folder if it has this configuration and is finished,
    otherwise ``None``.
    """
    try:
        totals: dict[str, float] = read_json(folder / SUMMARY)["totals"]
    except (OSError, DataError, KeyError, TypeError):
        return None
    return totals if difference(read_config(folder), as_started(folder, config)) is None else None


@dataclass(frozen=True)
class Failure:
    """Cause of a failed run; ``passing``: the same run may succeed if repeated (its process was
    killed).
    """

    message: str
    passing: bool = False


def note_failure(folder: Path, failed: Failure) -> None:
    """Write the cause of a failure to the run's folder, for studies of many runs."""
    record = {
        "message": failed.message,
        "passing": failed.passing,
        "at": datetime.now().isoformat(sep=" ", timespec="seconds"),
    }
    write_whole(folder / FAILURE, (json.dumps(record) + "\n").encode())


def failure(folder: Path) -> Failure | None:
    """Return the cause of a failed run; ``None`` if it did not fail."""
    try:
        found = read_json(folder / FAILURE)
        return Failure(str(found["message"]), bool(found["passing"]))
    except (OSError, DataError, KeyError, TypeError):
        return None


def run_of(path: Path) -> tuple[Path, Path]:
    """Return the folder of a run and the checkpoint to resume from.

    Args:
        path: the run's folder (then the checkpoint is ``last.ckpt``), or a checkpoint in it.

    Raises:
        TrainingError: there is no such run or checkpoint.
    """
    if path.suffix == ".ckpt":
        folder, checkpoint = path.parent.parent, path
    else:
        folder, checkpoint = path, path / "checkpoints" / "last.ckpt"
    read_config(folder)
    if not checkpoint.exists():
        others = sorted(checkpoint.parent.glob("*.ckpt"), reverse=True)
        if others:
            raise TrainingError(
                f"There is no checkpoint {checkpoint}; go on with `resume={str(others[0])!r}`."
            )
        raise TrainingError(
            f"The run in {folder} was stopped before it saved a checkpoint ({checkpoint.name});"
            " start it again."
        )
    return folder, checkpoint


def to_go_on_from(folder: Path, config: Mapping[str, Any]) -> Path | None:
    """Return the checkpoint from which a repeated command resumes; ``None`` if the folder contains
    no checkpoint.

    Raises:
        TrainingError: the folder contains another run; the message names the first setting that
            differs.
    """
    last = folder / "checkpoints" / "last.ckpt"
    if not last.exists():
        return None
    elsewhere, replaced = "choose another folder (`run`)", "or replace it (`overwrite=True`)"
    if not (folder / CONFIG).exists():
        raise TrainingError(
            f"{folder} holds checkpoints of a run without {CONFIG}; {elsewhere}, {replaced}."
        )
    differs = difference(read_config(folder), config)
    if differs:
        raise TrainingError(
            f"{folder} holds another run ({differs}); {elsewhere}, go on with that run"
            f" (`resume={str(folder)!r}`), {replaced}."
        )
    return last


def require_free(folder: Path, config: Mapping[str, Any]) -> None:
    """Refuse a folder that holds another run.

    Raises:
        TrainingError: as :func:`to_go_on_from`.
    """
    to_go_on_from(folder, as_started(folder, config))


def as_started(folder: Path, config: Mapping[str, Any]) -> Mapping[str, Any]:
    """Apply the changes made by :func:`~lightning_reg.training.initialization.started_from`, if the
    folder has a run with this ``init``.
    """
    if config.get("init") is None or not (folder / CONFIG).exists():
        return config
    stored = read_config(folder)
    if as_read(stored.get("init")) != as_read(config["init"]):
        return config
    data = {**config["data"], "preprocessing": stored["data"].get("preprocessing")}
    stages = {"stages": stored["method"]["stages"]} if stored["method"].get("stages") else {}
    return {**config, "data": data, "method": {**config["method"], **stages}}


def clear(folder: Path) -> None:
    """Remove the files that a run writes; keep all others."""
    for name in WRITTEN:
        path = folder / name
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def with_steps(config: Mapping[str, Any], steps: int) -> dict[str, Any]:
    """Change the number of steps of a composed configuration; growth is scaled with it, stages are
    shares of the steps in any case.
    """
    factor = steps / config["trainer"]["max_steps"]
    if factor == 1:
        return dict(config)
    changed = {**config, "trainer": {**config["trainer"], "max_steps": steps}}
    growing = (config["method"].get("callbacks") or {}).get("alpha_growth")
    if growing is not None:
        scaled = {**growing, "time_scale": growing.get("time_scale", 1.0) * factor}
        changed["method"] = {
            **config["method"],
            "callbacks": {**config["method"]["callbacks"], "alpha_growth": scaled},
        }
    return changed


def difference(stored: Mapping[str, Any], config: Mapping[str, Any]) -> str | None:
    """Describe the first setting that differs between a stored and another configuration; ``None``
    if they make the same run.

    The stored configuration of a run with a budget contains the chosen number of steps.
    """
    if config.get("budget") is not None and stored.get("budget") == config["budget"]:
        config = with_steps(config, stored["trainer"]["max_steps"])
    ours, theirs = (
        {key: value for key, value in one.items() if key not in CALL} for one in (stored, config)
    )
    return next(_differences(ours, theirs), None)


def _differences(ours: Any, theirs: Any, key: str = "") -> Iterator[str]:
    if isinstance(ours, Mapping) and isinstance(theirs, Mapping):
        for name in {**ours, **theirs}:
            yield from _differences(ours.get(name), theirs.get(name), f"{key}.{name}".strip("."))
    elif as_read(ours) != as_read(theirs):
        yield f"{key} is {ours} there and {theirs} here"


def as_read(value: Any) -> Any:
    """Convert a value to the form in which YAML returns it."""
    if isinstance(value, Mapping):
        return {key: as_read(inner) for key, inner in value.items()}
    return [as_read(item) for item in value] if isinstance(value, (list, tuple)) else value
