"""Methods that an evaluation compares: models, also of a cross-validation, instance optimisation,
and transforms that another program wrote.
"""

from __future__ import annotations

import glob
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torchio as tio

from lightning_reg.data.datasets.splits import read_fold
from lightning_reg.data.preprocessing import Geometry
from lightning_reg.data.scans import make_pair, original
from lightning_reg.inference.registrar import Registrar
from lightning_reg.inference.result import Result
from lightning_reg.inference.starts import identity
from lightning_reg.io.names import file_name
from lightning_reg.io.transform_files import TRANSFORM_ENDINGS, ants_files, files_in
from lightning_reg.io.transform_reading import read_transform
from lightning_reg.metrics.extra import ExtraMetric
from lightning_reg.registry import DataError, UserError
from lightning_reg.training.run_folder import CONFIG, read_config

Runs = dict[int, Path]
"""Folder of the run of each fold, counted from 1."""


@dataclass(frozen=True)
class Case:
    """A pair of an evaluation: its name and the fold, from 1, that validates on it, if any."""

    name: str
    fold: int | None = None


class Contestant(ABC):
    """Method of an evaluation: it registers the cases, or reads transforms of another program.

    Attributes:
        name: of the method in tables.
        settings: written to the record.
    """

    name: str
    settings: Mapping[str, Any]

    @abstractmethod
    def register(self, case: Case, fixed: tio.Subject, moving: tio.Subject) -> Result:
        """Register a case.

        Args:
            fixed, moving: checked, in their original intensities and grids.

        Raises:
            UserError: the case cannot be registered, or there is no transform of it.
        """

    def after(self, done: Geometry) -> Contestant:
        """The same method for data whose grids have already been prepared."""
        return self

    def trained_on(self, case: Case) -> frozenset[str]:
        """Contents of the images that a case's model was trained on, as far as they are known."""
        return frozenset()


@dataclass(frozen=True)
class Registering(Contestant):
    """A model, or instance optimisation.

    Args:
        refine: steps of instance optimisation, see :meth:`Registrar.register`.
    """

    name: str
    registrar: Registrar
    refine: int | None = None

    @property
    def settings(self) -> Mapping[str, Any]:  # type: ignore[override]
        return {**self.registrar.settings, "refine": self.refine}

    def register(self, case: Case, fixed: tio.Subject, moving: tio.Subject) -> Result:
        return self.registrar.register_subjects(fixed, moving, refine=self.refine)

    def trained_on(self, case: Case) -> frozenset[str]:
        return self.registrar.trained_on

    def after(self, done: Geometry) -> Contestant:
        preprocessing = self.registrar.preprocessing.remaining(done)
        return replace(self, registrar=replace(self.registrar, preprocessing=preprocessing))


@dataclass(frozen=True)
class Folds(Contestant):
    """Models of a cross-validation; each registers the cases that it was not trained on.

    Args:
        folds: models by number of the fold, counted from 1.
    """

    name: str
    folds: Mapping[int, Contestant]

    @property
    def settings(self) -> Mapping[str, Any]:  # type: ignore[override]
        return {f"fold {number}": fold.settings for number, fold in self.folds.items()}

    def register(self, case: Case, fixed: tio.Subject, moving: tio.Subject) -> Result:
        if case.fold is None or case.fold not in self.folds:
            raise UserError(
                f"{self.name} has no model of fold {case.fold}, in which {case.name} is validated."
            )
        return self.folds[case.fold].register(case, fixed, moving)

    def trained_on(self, case: Case) -> frozenset[str]:
        fold = None if case.fold is None else self.folds.get(case.fold)
        return frozenset() if fold is None else fold.trained_on(case)

    def after(self, done: Geometry) -> Contestant:
        return replace(self, folds={n: fold.after(done) for n, fold in self.folds.items()})


@dataclass(frozen=True)
class Transforms(Contestant):
    """Transforms in files, of ITK, ANTs, elastix or this project, from points of the fixed image to
    points of the moving one.

    Args:
        place: transforms of another program: a folder, see :func:`transform_files`; or a path that
            contains ``{pair}``; or several such paths, separated by commas, in the order of
            ``antsApplyTransforms -t``: the first one is applied to a point first.
        metrics: measured in addition to those of the table.

    Raises:
        DataError: there is no such folder.
    """

    name: str
    place: str
    metrics: Sequence[ExtraMetric] = field(default_factory=tuple)

    def __post_init__(self) -> None:
        if "{pair}" in self.place:
            return
        folder = Path(self.place).expanduser()
        if folder.is_file():
            raise DataError(
                f"{folder} is a file; give the folder with all pairs' transforms, or a pattern of"
                " paths with {pair} in it."
            )
        if not folder.is_dir():
            raise DataError(f"There is no folder {folder} of transforms; correct the path.")

    @property
    def settings(self) -> Mapping[str, Any]:  # type: ignore[override]
        return {"transforms": self.place}

    def register(self, case: Case, fixed: tio.Subject, moving: tio.Subject) -> Result:
        pair = make_pair(original(fixed), original(moving), overlapping=False)
        transform = read_transform(*self.files(file_name(case.name)))
        return Result(
            pair, transform, identity(pair), pair, settings=dict(self.settings), extra=self.metrics
        )

    def files(self, name: str) -> list[Path]:
        """Files of a case; the first one is applied to points of the fixed image first.

        Raises:
            DataError: there are none.
        """
        if "{pair}" not in self.place:
            return transform_files(Path(self.place).expanduser(), name)
        parts = self.place.replace("{pair}", name).split(",")
        paths = [Path(part.strip()).expanduser() for part in parts]
        gone = next((path for path in paths if not path.is_file()), None)
        if gone is not None:
            raise DataError(
                f"There is no transform {gone} of {self.name}; correct the pattern {self.place}."
            )
        return paths


def transform_files(folder: Path, name: str) -> list[Path]:
    """Files of a pair's transform in a folder of transforms.

    The following layouts are recognised: a cohort's folder of this project
    (``pairs/NAME/transform.h5``); ``NAME.h5`` (or another ending of ITK); a displacement field
    ``NAME.nii.gz``; ANTs' ``NAME1Warp.nii.gz`` with ``NAME0GenericAffine.mat``, or the affine map
    alone; and a folder ``NAME`` of :func:`~lightning_reg.io.transform_files.files_in`.

    Raises:
        DataError: none of these is there, several are, or only a part of one.
    """
    for place in (folder / "pairs" / name, folder / name):
        if place.is_dir() and (found := files_in(place)):
            return found
    chains = [chain for prefix in (name, f"{name}_") if (chain := ants_files(folder, prefix))]
    files = (folder / f"{name}{ending}" for ending in TRANSFORM_ENDINGS)
    chains = chains or [[path] for path in files if path.is_file()]
    if len(chains) > 1:
        raise DataError(
            f"{folder} has {chains[0][0].name} and {chains[1][0].name} for {name}; give a pattern"
            " of paths with {pair} in it, which names the files to apply."
        )
    if chains:
        return chains[0]
    raise DataError(
        f"{folder} has no transform of {name}; looked for {name}.h5 (.tfm, .mat, .nii.gz, ...),"
        f" {name}1Warp.nii.gz, {name}/transform.h5 and others, see docs/evaluate.md; or give a"
        " pattern of paths with {pair} in it."
    )


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
                f"{folder} is no run of a fold (its `fold` is None); give a pattern that leaves"
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
            f" `fold={lacking[0]}/{count}`."
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
    """The models of a cross-validation: the best checkpoints of its runs.

    Args:
        pattern: runs of a cross-validation: a pattern of their folders.

    Raises:
        DataError: see :func:`named_runs`, or a run has no checkpoint.
    """
    _, runs = named_runs(pattern)
    checkpoints = {n: runs[n] / "checkpoints" / "best.ckpt" for n in sorted(runs)}
    return Folds(
        name, {n: Registering(name, load(path), refine) for n, path in checkpoints.items()}
    )
