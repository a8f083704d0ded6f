"""Evaluation of a study's trained models on a split of their data."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from filelock import FileLock

from lightning_reg.batch.evaluation.contestants import Registering
from lightning_reg.batch.evaluation.evaluation import Cases, seen_in_training
from lightning_reg.batch.evaluation.folder import evaluate_into
from lightning_reg.batch.studies.definition import Definition
from lightning_reg.batch.studies.outcome import EVALUATION, evaluation_settings
from lightning_reg.batch.studies.study import state_of
from lightning_reg.configuration.composition import compose
from lightning_reg.data.datasets.identity import keep_splits
from lightning_reg.data.datasets.interface import Split
from lightning_reg.data.datasets.splits import CHOICES, Splits, open_dataset
from lightning_reg.inference.loading import load
from lightning_reg.registry import DataError
from lightning_reg.training.checkpoints import read_checkpoint
from lightning_reg.training.run_folder import read_config


def require_pairs(definition: Definition) -> None:
    """Refuse a study whose data have no pairs of the split on which its trained models will be
    evaluated.

    Raises:
        UserError: see above, or the data cannot be opened.
    """
    if definition.split is None:
        return
    for job in definition.one_of_each():
        opened = _opened(compose(job.overrides)["data"])
        if not opened.pairs(cast(Split, definition.split)):
            remedy = (
                "keep two or more subjects for it, as `test=2`"
                if definition.split == "test"
                else "hold out more (`held_out`)"
            )
            raise DataError(
                f"The study's split is {definition.split}, and the data of {job.method} have no"
                f" pairs in it; {remedy}."
            )


def _opened(data: Mapping[str, Any]) -> Splits:
    return open_dataset(data["dataset"], **{key: data.get(key) for key in CHOICES})


def evaluate_run(folder: Path, split: str) -> bool:
    """Evaluate a run's best checkpoint on the original grids of its data; returns false if it is
    not finished or already evaluated.

    Raises:
        UserError: the data have no such pairs, or none of them can be registered.
    """
    if state_of(folder).status != "done":
        return False
    with FileLock(folder / ".evaluation.lock"):  # another process may be evaluating the run
        if evaluation_settings(folder).get("split") == split:
            return False
        _evaluate(folder, split)
    return True


def _evaluate(folder: Path, split: str) -> None:
    data = read_config(folder)["data"]
    opened = _opened(data)
    best = folder / "checkpoints" / "best.ckpt"
    keep_splits(opened, read_checkpoint(best)["lightning_reg"].get("data", {}))
    model, cases = Registering("model", load(best)), Cases.of(opened, cast(Split, split))
    warnings = seen_in_training([model], cases)
    settings = {"split": split, "data": data, **({"warnings": warnings} if warnings else {})}
    evaluate_into(folder / EVALUATION, [model], cases, settings, overwrite=True)
