"""Models of a cross-validation, read from the folders of their runs."""

from __future__ import annotations

import glob
from collections.abc import Callable, Sequence
from pathlib import Path

from lightning_reg.batch.evaluation.contestants import Folds, Registering
from lightning_reg.data.datasets.splits import read_fold
from lightning_reg.inference.registrar import Registrar
from lightning_reg.registry import DataError
from lightning_reg.training.run_folder import CONFIG, read_config

Runs = dict[int, Path]


def named_runs(pattern: str) -> tuple[int, Runs]:
    """The number of folds, and the run of each, counted from 1.

    Args:
        pattern: of the runs' folders, as ``runs/velocity_fold*``.

    Raises:
        DataError: no run matches, a run has no fold, a fold is missing or occurs twice, or the runs
            differ in their number of folds.
    """
    paths = map(Path, glob.glob(str(Path(pattern).expanduser())))
    folders = sorted(path for path in paths if (path / CONFIG).is_file())
    if not folders:
        raise DataError(
            f"No run is called {pattern}; give a pattern of their folders, in quotation marks:"
            " 'runs/velocity_fold*'."
        )
    runs: Runs = {}
    counts: dict[int, Path] = {}
    for folder in folders:
        fold = read_config(folder)["data"].get("fold")
        if fold is None:
            raise DataError(
                f"{folder} is no run of a fold (its data.fold is null); give a pattern that leaves"
                " it out."
            )
        number, of = read_fold(fold)
        counts.setdefault(of, folder)
        other = runs.setdefault(number, folder)
        if other is not folder:
            raise DataError(
                f"{other} and {folder} are both of fold {fold}; give a pattern that leaves one out."
            )
    count, *others = counts
    if others:
        raise DataError(
            f"{counts[count]} is of {count} folds and {counts[others[0]]} of {others[0]}; give a"
            " pattern of one cross-validation."
        )
    lacking = [str(number) for number in range(1, count + 1) if number not in runs]
    if lacking:
        raise DataError(
            f"{pattern} lacks the fold {', '.join(lacking)} of {count}; train it:"
            f" data.fold={lacking[0]}/{count}."
        )
    return count, runs


def fold_count(runs: Sequence[tuple[int, Runs]]) -> int:
    """The number of folds of several cross-validations.

    Raises:
        DataError: they differ.
    """
    counts = sorted({count for count, _ in runs})
    if len(counts) > 1:
        raise DataError(
            f"The cross-validations have {counts[0]} and {counts[1]} folds; compare those with the"
            " same number of folds."
        )
    return counts[0]


def fold_models(
    name: str, pattern: str, load: Callable[[Path], Registrar], refine: int | None = None
) -> Folds:
    """The best checkpoints of a cross-validation's runs.

    Raises:
        DataError: see :func:`named_runs`, or a run has no checkpoint.
    """
    _, runs = named_runs(pattern)
    checkpoints = {n: runs[n] / "checkpoints" / "best.ckpt" for n in sorted(runs)}
    return Folds(
        name, {n: Registering(name, load(path), refine) for n, path in checkpoints.items()}
    )
