"""Definition of a study: methods on data, over seeds and folds, or a search."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lightning_reg.configuration.composition import compose
from lightning_reg.io.names import file_name
from lightning_reg.io.reading import read_yaml
from lightning_reg.registry import DataError, did_you_mean

KEYS = ("common", "methods", "data", "seeds", "folds", "split", "search")
SEARCH = ("trials", "space", "objectives", "prune", "seed")
OBJECTIVES = ("error", "folding", "sdlogj", "ndv", "seconds")


@dataclass(frozen=True)
class Job:
    """One training of a study.

    Args:
        name: of its folder.
        overrides: as on the command line of ``train.py``.
        method: name in the comparison.
        data: name of the data set; empty if the study names none.
        seed, fold: of the training.
    """

    name: str
    overrides: tuple[str, ...]
    method: str
    data: str = ""
    seed: int | None = None
    fold: str | None = None


@dataclass(frozen=True)
class Search:
    """A search for settings.

    Args:
        space: by key of the configuration: a list of choices, or ``{low, high}`` with ``log: true``
            or ``step``; whole numbers if both bounds are whole numbers.
        trials: number of finished trials, of all processes together, after which the search ends.
        objectives: one or several of :data:`OBJECTIVES`; smaller is better for all.
        prune: end trainings whose validation error is above the median of the others at the same
            step.
        seed: of the sampler.
    """

    space: Mapping[str, Any]
    trials: int = 20
    objectives: Sequence[str] = ("error", "folding")
    prune: bool = True
    seed: int = 1


@dataclass(frozen=True)
class Definition:
    """Content of a study's YAML file.

    Args:
        methods, data: overrides by name; without ``data``, those of the methods choose the data.
        common: overrides of every job.
        seeds: of every method on every data set.
        folds: number of folds of a cross-validation; ``None``: the split of the data.
        split: the pairs on which trained models are evaluated, on their original grids; ``None``:
            results of the training's validation.
        search: replaces seeds and folds.
    """

    methods: Mapping[str, tuple[str, ...]]
    data: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    common: tuple[str, ...] = ()
    seeds: tuple[int, ...] = (1,)
    folds: int | None = None
    split: str | None = None
    search: Search | None = None

    def jobs(self) -> list[Job]:
        """All trainings; seeds and folds vary slowest, so that every method runs once before any
        method runs a second time.
        """
        folds: Sequence[str | None] = (
            [None]
            if self.folds is None
            else [f"{k}/{self.folds}" for k in range(1, self.folds + 1)]
        )
        found = []
        for fold, seed, (data, on), (name, overrides) in itertools.product(
            folds, self.seeds, self.data.items() or [("", ())], self.methods.items()
        ):
            chosen = [
                *self.common,
                *on,
                *overrides,
                f"seed={seed}",
                *([] if fold is None else [f"data.fold={fold}"]),
            ]
            parts = [
                name,
                *([data] if data else []),
                f"s{seed}",
                *([f"f{fold.partition('/')[0]}"] if fold else []),
            ]
            found.append(Job(file_name("_".join(parts)), tuple(chosen), name, data, seed, fold))
        return found

    def check(self) -> None:
        """Compose one job of every method on every data set.

        Raises:
            UserError: a configuration or option does not exist.
        """
        space = (
            []
            if self.search is None
            else [f"{key}={as_override(first_of(of))}" for key, of in self.search.space.items()]
        )
        for job in self.jobs()[: max(1, len(self.data)) * len(self.methods)]:
            compose([*job.overrides, *space])


def first_of(of: Any) -> Any:
    """A value of a search's space."""
    return of["low"] if isinstance(of, Mapping) else of[0]


def as_override(value: Any) -> str:
    """A value in Hydra's syntax: ``null``, ``true``, lists and mappings as JSON."""
    return (
        value
        if isinstance(value, str)
        else repr(value)
        if isinstance(value, float)
        else json.dumps(value)
    )


def read_definition(path: Path) -> Definition:
    """Read a study from a YAML file.

    Raises:
        DataError: no such file, or an entry does not match :class:`Definition`; the message names
            it.
    """
    try:
        values = read_yaml(path)
    except FileNotFoundError as cause:
        raise DataError(f"There is no file {path}; correct the path.") from cause
    if not isinstance(values, dict):
        raise DataError(
            f"{path} is no mapping; give methods: and the other entries of docs/studies.md."
        )
    _require_known(path, values, KEYS, "")
    methods = _named(path, "methods", values.get("methods"))
    if not methods:
        raise DataError(
            f"{path} has no methods; give one or more, as methods: {{velocity: [method=velocity]}}."
        )
    seeds = values.get("seeds", [1])
    if (
        not isinstance(seeds, list)
        or not seeds
        or not all(isinstance(seed, int) and seed >= 0 for seed in seeds)
    ):
        raise DataError(f"{path}: seeds is {seeds}; give a list of whole numbers.")
    if len(set(seeds)) < len(seeds):
        raise DataError(f"{path}: seeds has one twice ({seeds}).")
    folds, split = values.get("folds"), values.get("split")
    if folds is not None and (not isinstance(folds, int) or folds < 2):
        raise DataError(f"{path}: folds is {folds}; give a whole number, 2 or more.")
    if split not in (None, "validation", "test", "train"):
        raise DataError(f"{path}: split is {split}; give validation, test or train.")
    definition = Definition(
        methods,
        _named(path, "data", values.get("data")),
        _overrides(path, "common", values.get("common")),
        tuple(seeds),
        folds,
        split,
        _search(path, values.get("search")),
    )
    if definition.search is not None and (
        len(seeds) > 1 or folds or split or len(definition.data) > 1
    ):
        raise DataError(
            f"{path}: a search has one seed and one data set, and no folds or split; leave these"
            " out."
        )
    names = [job.name for job in definition.jobs()]
    double = next((name for name in names if names.count(name) > 1), None)
    if double is not None:
        raise DataError(
            f"{path}: two trainings would have the folder {double}; give their methods or data"
            " other names."
        )
    return definition


def _require_known(path: Path, values: Mapping[str, Any], known: Sequence[str], where: str) -> None:
    for key in values:
        if key not in known:
            raise DataError(
                f"{path} has an entry '{where}{key}'{did_you_mean(str(key), known)} Known:"
                f" {', '.join(known)}."
            )


def _named(path: Path, key: str, value: Any) -> dict[str, tuple[str, ...]]:
    """Overrides by name; a list contains names of configurations of the group."""
    group = {"methods": "method", "data": "data"}[key]
    if value is None:
        return {}
    if isinstance(value, list) and all(isinstance(name, str) for name in value):
        return {name: (f"{group}={name}",) for name in value}
    if not isinstance(value, dict):
        raise DataError(
            f"{path}: {key} is {value!r}; give names, or a mapping of names to lists of overrides."
        )
    return {str(name): _overrides(path, f"{key}.{name}", of) for name, of in value.items()}


def _overrides(path: Path, key: str, value: Any) -> tuple[str, ...]:
    words = [value] if isinstance(value, str) else value or []
    if not isinstance(words, list) or not all(
        isinstance(word, str) and ("=" in word or word.startswith("~")) for word in words
    ):
        raise DataError(
            f"{path}: {key} is {value!r}; give a list of overrides, as [method=velocity,"
            " trainer.max_steps=1000]."
        )
    for word in words:
        setting = word.partition("=")[0]
        _require_setting(path, key, setting)
        if setting.lstrip("+~") in ("run", "resume", "overwrite", "seed", "data.fold"):
            raise DataError(
                f"{path}: {key} sets {word}, which a study chooses itself; leave it out (seeds:"
                " [...] and folds: N are its entries)."
            )
    return tuple(words)


def _require_setting(path: Path, key: str, setting: str) -> None:
    """Refuse what is not a setting of a training: an option of the command, and Hydra's own
    settings, which could run code.
    """
    if setting.startswith("-") or "hydra" in setting:
        raise DataError(
            f"{path}: {key} sets {setting}, which is no setting of a training; leave it out."
        )


def _search(path: Path, value: Any) -> Search | None:
    if value is None:
        return None
    if (
        not isinstance(value, dict)
        or not isinstance(value.get("space"), dict)
        or not value["space"]
    ):
        example = "space: {method.optimizer.lr: {low: 1.0e-5, high: 1.0e-3, log: true}}"
        raise DataError(f"{path}: search has no space; give one, as {example}.")
    _require_known(path, value, SEARCH, "search.")
    for key, of in value["space"].items():
        _require_setting(path, "search.space", str(key))
        if isinstance(of, list) and of:
            continue
        if (
            not isinstance(of, dict)
            or not {"low", "high"} <= of.keys()
            or set(of) - {"low", "high", "log", "step"}
        ):
            raise DataError(
                f"{path}: search.space.{key} is {of}; give a list of choices, or {{low: ..., high:"
                " ..., log: true}."
            )
        if (
            not all(isinstance(of[bound], (int, float)) for bound in ("low", "high"))
            or of["low"] >= of["high"]
        ):
            raise DataError(
                f"{path}: search.space.{key} goes from {of['low']} to {of['high']}; give numbers,"
                " low below high."
            )
        step = of.get("step")
        if of.get("log") and (of["low"] <= 0 or step is not None):
            raise DataError(
                f"{path}: search.space.{key} is {of}; a logarithmic range begins above 0 and has no"
                " step."
            )
        if step is not None and not (isinstance(step, (int, float)) and step > 0):
            raise DataError(
                f"{path}: search.space.{key} has the step {step}; give a number above 0."
            )
    chosen = Search(**value)
    objectives = [chosen.objectives] if isinstance(chosen.objectives, str) else chosen.objectives
    if not isinstance(objectives, (list, tuple)) or not objectives:
        raise DataError(
            f"{path}: search.objectives is {objectives}; give one or several of"
            f" {', '.join(OBJECTIVES)}."
        )
    if not isinstance(chosen.seed, int):
        raise DataError(f"{path}: search.seed is {chosen.seed}; give a whole number.")
    for name in objectives:
        if name not in OBJECTIVES:
            raise DataError(
                f"{path}: search.objectives has '{name}'{did_you_mean(str(name), OBJECTIVES)}"
                f" Known: {', '.join(OBJECTIVES)}."
            )
    if not isinstance(chosen.trials, int) or chosen.trials < 1:
        raise DataError(
            f"{path}: search.trials is {chosen.trials}; give a whole number, 1 or more."
        )
    return Search(chosen.space, chosen.trials, tuple(objectives), bool(chosen.prune), chosen.seed)
