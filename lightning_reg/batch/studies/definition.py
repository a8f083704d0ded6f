"""Definition of a study: methods on data, over seeds and folds, or a search."""

from __future__ import annotations

import itertools
import json
from collections import Counter
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
        """All trainings; seeds and folds vary slowest, so that every method runs once first."""
        folds: Sequence[str | None] = [None]
        if self.folds is not None:
            folds = [f"{k}/{self.folds}" for k in range(1, self.folds + 1)]
        jobs = []
        for fold, seed, (data, on), (name, overrides) in itertools.product(
            folds, self.seeds, self.data.items() or [("", ())], self.methods.items()
        ):
            chosen = [*self.common, *on, *overrides, f"seed={seed}"]
            parts = [name, *filter(None, [data]), f"s{seed}"]
            if fold is not None:
                chosen.append(f"data.fold={fold}")
                parts.append(f"f{fold.partition('/')[0]}")
            jobs.append(Job(file_name("_".join(parts)), tuple(chosen), name, data, seed, fold))
        return jobs

    def check(self) -> None:
        """Compose one job of every method on every data set.

        Raises:
            UserError: a configuration or option does not exist.
        """
        space = {} if self.search is None else self.search.space
        chosen = [f"{key}={as_override(first_of(of))}" for key, of in space.items()]
        for job in self.one_of_each():
            compose([*job.overrides, *chosen])

    def one_of_each(self) -> list[Job]:
        """One job of every method on every data set."""
        return self.jobs()[: max(1, len(self.data)) * len(self.methods)]


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

    Args:
        path: YAML file with methods, data, seeds and folds, or a search; see ``docs/studies.md``.

    Raises:
        DataError: no such file, or an entry does not match :class:`Definition`; the message names
            it.
    """
    try:
        values = read_yaml(path)
    except FileNotFoundError as cause:
        raise DataError(f"There is no file {path}; correct the path.") from cause
    try:
        return _definition(values)
    except DataError as cause:
        raise DataError(f"{path}: {cause}") from cause


def _definition(values: Any) -> Definition:
    _require(
        isinstance(values, dict),
        "it is no mapping; give methods: and the other entries of docs/studies.md",
    )
    _require_known(values, KEYS, "")
    methods = _named("methods", values.get("methods"))
    example = "methods: {velocity: [method=velocity]}"
    _require(methods, f"it has no methods; give one or more, as {example}")
    seeds, folds, split = values.get("seeds", [1]), values.get("folds"), values.get("split")
    whole = isinstance(seeds, list) and all(isinstance(seed, int) and seed >= 0 for seed in seeds)
    _require(whole and seeds, f"seeds is {seeds}; give a list of whole numbers")
    _require(len(set(seeds)) == len(seeds), f"seeds has one twice ({seeds})")
    _require(
        folds is None or (isinstance(folds, int) and folds >= 2),
        f"folds is {folds}; give a whole number, 2 or more",
    )
    _require(
        split in (None, "validation", "test", "train"),
        f"split is {split}; give validation, test or train",
    )
    data, common = _named("data", values.get("data")), _overrides("common", values.get("common"))
    search = _search(values.get("search"))
    _require(
        search is None or not (len(seeds) > 1 or folds or split or len(data) > 1),
        "a search has one seed and one data set, and no folds or split; leave these out",
    )
    definition = Definition(methods, data, common, tuple(seeds), folds, split, search)
    name, times = Counter(job.name for job in definition.jobs()).most_common(1)[0]
    _require(
        times == 1,
        f"two trainings would have the folder {name}; give their methods or data other names",
    )
    return definition


def _require(valid: object, message: str) -> None:
    if not valid:
        raise DataError(f"{message}.")


def _require_known(values: Mapping[str, Any], known: Sequence[str], where: str) -> None:
    for key in values:
        guess = did_you_mean(str(key), known)
        _require(key in known, f"it has an entry '{where}{key}'{guess} Known: {', '.join(known)}")


def _named(key: str, value: Any) -> dict[str, tuple[str, ...]]:
    """Overrides by name; a list contains names of configurations of the group."""
    group = {"methods": "method", "data": "data"}[key]
    if isinstance(value, list) and all(isinstance(name, str) for name in value):
        return {name: (f"{group}={name}",) for name in value}
    _require(
        value is None or isinstance(value, dict),
        f"{key} is {value!r}; give names, or a mapping of names to lists of overrides",
    )
    return {str(name): _overrides(f"{key}.{name}", of) for name, of in (value or {}).items()}


def _overrides(key: str, value: Any) -> tuple[str, ...]:
    words = [value] if isinstance(value, str) else value or []
    example = "[method=velocity, trainer.max_steps=1000]"
    _require(
        isinstance(words, list)
        and all(isinstance(one, str) and ("=" in one or one.startswith("~")) for one in words),
        f"{key} is {value!r}; give a list of overrides, as {example}",
    )
    for word in words:
        setting = word.partition("=")[0]
        _require_setting(key, setting)
        _require(
            setting.lstrip("+~") not in ("run", "resume", "overwrite", "seed", "data.fold"),
            f"{key} sets {word}, which a study chooses itself; leave it out (seeds: [...] and"
            " folds: N are its entries)",
        )
    return tuple(words)


def _require_setting(key: str, setting: str) -> None:
    """Refuse options of the command, and Hydra's own settings, which could run code."""
    _require(
        not setting.startswith("-") and "hydra" not in setting,
        f"{key} sets {setting}, which is no setting of a training; leave it out",
    )


def _search(value: Any) -> Search | None:
    if value is None:
        return None
    space = value.get("space") if isinstance(value, dict) else None
    example = "space: {method.optimizer.lr: {low: 1.0e-5, high: 1.0e-3, log: true}}"
    _require(isinstance(space, dict) and space, f"search has no space; give one, as {example}")
    _require_known(value, SEARCH, "search.")
    for key, of in value["space"].items():
        _require_setting("search.space", str(key))
        if not (isinstance(of, list) and of):
            _require_range(f"search.space.{key}", of)
    chosen = Search(**value)
    objectives = [chosen.objectives] if isinstance(chosen.objectives, str) else chosen.objectives
    known = ", ".join(OBJECTIVES)
    _require(
        isinstance(objectives, (list, tuple)) and objectives,
        f"search.objectives is {objectives}; give one or several of {known}",
    )
    for name in objectives:
        guess = did_you_mean(str(name), OBJECTIVES)
        _require(name in OBJECTIVES, f"search.objectives has '{name}'{guess} Known: {known}")
    _require(isinstance(chosen.seed, int), f"search.seed is {chosen.seed}; give a whole number")
    _require(
        isinstance(chosen.trials, int) and chosen.trials >= 1,
        f"search.trials is {chosen.trials}; give a whole number, 1 or more",
    )
    return Search(chosen.space, chosen.trials, tuple(objectives), bool(chosen.prune), chosen.seed)


def _require_range(key: str, of: Any) -> None:
    """Refuse what is no ``{low, high}`` with ``log`` or ``step``."""
    keys = set(of) if isinstance(of, dict) else set()
    _require(
        {"low", "high"} <= keys <= {"low", "high", "log", "step"},
        f"{key} is {of}; give a list of choices, or {{low: ..., high: ..., log: true}}",
    )
    low, high, step = of["low"], of["high"], of.get("step")
    _require(
        isinstance(low, (int, float)) and isinstance(high, (int, float)) and low < high,
        f"{key} goes from {low} to {high}; give numbers, low below high",
    )
    _require(
        not of.get("log") or (low > 0 and step is None),
        f"{key} is {of}; a logarithmic range begins above 0 and has no step",
    )
    _require(
        step is None or (isinstance(step, (int, float)) and step > 0),
        f"{key} has the step {step}; give a number above 0",
    )
