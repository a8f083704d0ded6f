"""Search for settings with Optuna; trials are processes, and machines share the journal."""

from __future__ import annotations

import functools
import os
import shlex
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from filelock import FileLock
from matplotlib.figure import Figure

from lightning_reg.batch.studies.definition import Definition, Search, as_override
from lightning_reg.batch.studies.outcome import learning_curve, write_figure
from lightning_reg.batch.studies.study import POLL, State, Training, begin, state_of, summary
from lightning_reg.figures import trials_figure
from lightning_reg.inference.report.page import Picture, Row, Section, render
from lightning_reg.io.folders import refuse_links, write_whole
from lightning_reg.io.lock import is_written
from lightning_reg.io.tables import write_table
from lightning_reg.metrics import primary_error
from lightning_reg.registry import DataError, TrainingError, UserError

JOURNAL, NAME, WORKER = "optuna.log", "search", ".worker.lock"
RETRIES = 2
"""Number of times that a trial is restarted after its process was killed."""
FEWEST = 4
"""Number of finished trials needed for pruning."""
WARMUP = 2
"""Number of validations of a trial before it may be pruned."""


def search(
    definition: Definition,
    folder: Path,
    retry: bool = False,
    tell: Callable[[str], None] | None = None,
) -> None:
    """Train trials until the processes that share the folder have finished the requested number.

    A failed trial is recorded, and the search continues. A trial whose process was killed is
    restarted with the same settings, and its training resumes from its last checkpoint.

    Args:
        retry: repeat failed trials.
        tell: called with a line when a trial begins and ends.

    Raises:
        UserError: Optuna is not installed, or the folder belongs to another study.
        KeyboardInterrupt: the search was interrupted; the training has saved a checkpoint.
    """
    optuna = _optuna()
    begin(folder, definition)
    asked = definition.search
    assert asked is not None
    study = _study(folder, asked, create=True)
    say = tell or (lambda line: None)
    _begin_again(study, folder, retry)

    def finished() -> int:
        states = (optuna.trial.TrialState.COMPLETE, optuna.trial.TrialState.PRUNED)
        trials = study.get_trials(deepcopy=False)
        ended = (t for t in trials if t.state in states or "message" in t.user_attrs)
        return len({t.user_attrs.get("folder") for t in ended})

    def objective(trial: Any) -> tuple[float, ...] | float:
        overrides = suggested(trial, definition, asked)
        name = str(trial.user_attrs.get("folder", f"trial{trial.number:04d}"))
        trial.set_user_attr("folder", name)
        trial.set_user_attr("overrides", list(overrides))
        refuse_links(folder, (name,))
        place = folder / name
        place.mkdir(exist_ok=True)
        with FileLock(place / WORKER):
            chosen = " ".join(f"{key}={_short(value)}" for key, value in trial.params.items())
            say(f"[{finished()} of {asked.trials} done] {name} begins: {chosen}")
            values = _train(trial, overrides, place, asked, say)
        say(f"{name} done: {_objectives(asked, values)}")
        return values if len(values) > 1 else values[0]

    def stop_or_go_on(study: Any, trial: Any) -> None:
        if trial.state == optuna.trial.TrialState.PRUNED:
            name = trial.user_attrs["folder"]
            say(f"{name} pruned: its validation error is above the others' median")
        if finished() >= asked.trials:
            study.stop()

    if finished() < asked.trials:
        study.optimize(objective, catch=(TrainingError,), callbacks=[stop_or_go_on])


def suggested(trial: Any, definition: Definition, asked: Search) -> tuple[str, ...]:
    """Overrides of a trial; the settings suggested by Optuna come last."""
    names = list(definition.methods)
    method = names[0] if len(names) == 1 else trial.suggest_categorical("method", names)
    chosen = []
    for key, of in asked.space.items():
        if not isinstance(of, Mapping):
            value: Any = trial.suggest_categorical(key, list(of))
        else:
            whole = isinstance(of["low"], int) and isinstance(of["high"], int)
            suggest = trial.suggest_int if whole else trial.suggest_float
            given = {name: bound for name, bound in of.items() if bound is not None}
            value = suggest(key, **{**given, "log": bool(of.get("log"))})
        chosen.append(f"{key}={as_override(value)}")
    on = next(iter(definition.data.values()), ())
    seed = f"seed={definition.seeds[0]}"
    return (*definition.common, *on, *definition.methods[method], seed, *chosen)


def _train(
    trial: Any, overrides: Sequence[str], place: Path, asked: Search, say: Callable[[str], None]
) -> tuple[float, ...]:
    """Train a trial unless it is finished; returns its objectives.

    Raises:
        TrainingError: the training failed; the message is stored with the trial.
    """
    while state_of(place).status != "done":
        training = Training(overrides, place)
        try:
            state = _watched(trial, training, place, asked.prune)
        except (KeyboardInterrupt, _optuna().TrialPruned):
            training.stop()
            training.join()
            raise
        if state.status == "failed":
            trial.set_user_attr("message", state.message)
            say(f"{place.name} failed: {state.message}")
            raise TrainingError(state.message)
        if state.status == "elsewhere":
            time.sleep(10 * POLL)
    found = summary(place)
    totals = found["totals"]
    values = {**totals, "error": primary_error(totals), "seconds": found["seconds"]}
    return tuple(float(values[key]) for key in asked.objectives)


def _watched(trial: Any, training: Training, place: Path, prune: bool) -> State:
    """Wait until a training has ended.

    Raises:
        TrialPruned: its validation error is hopeless.
    """
    validations = 0
    while (state := training.ended()) is None:
        time.sleep(POLL)
        curve = learning_curve(place) if prune else []
        new, validations = len(curve) > validations, len(curve)
        if new and _is_hopeless(curve, _others(trial.study, place)):
            raise _optuna().TrialPruned
    return state


def _others(study: Any, place: Path) -> list[list[tuple[int, float]]]:
    """Learning curves of the finished trials, without the one in a folder."""
    done = _optuna().trial.TrialState.COMPLETE
    trials = (t for t in study.get_trials(deepcopy=False) if t.state == done)
    names = {t.user_attrs["folder"] for t in trials} - {place.name}
    return [_finished_curve(place.with_name(name)) for name in names]


@functools.cache
def _finished_curve(place: Path) -> list[tuple[int, float]]:
    """Learning curve of a finished trial, read once."""
    return learning_curve(place)


def _is_hopeless(
    curve: Sequence[tuple[int, float]], others: Sequence[Sequence[tuple[int, float]]]
) -> bool:
    """Whether a trial's smallest validation error so far is above the median of those of the
    finished trials up to the same step.

    Optuna's pruners support one objective only.
    """
    if len(curve) < WARMUP:
        return False
    step = curve[-1][0]
    there = [
        min(error for at, error in other if at <= step)
        for other in others
        if other and other[0][0] <= step <= other[-1][0]
    ]
    return len(there) >= FEWEST and min(error for _, error in curve) > median(there)


def _begin_again(study: Any, folder: Path, retry: bool) -> None:
    """Queue killed trials (with ``retry``, failed ones, too) again, with settings and folder."""
    states = _optuna().trial.TrialState
    trials = study.get_trials(deepcopy=False)
    for trial in trials:
        place = folder / str(trial.user_attrs.get("folder", "none"))
        if trial.state == states.RUNNING and not is_written(place, WORKER):
            study.tell(trial.number, state=states.FAIL)
    trials = study.get_trials(deepcopy=False)
    current = (states.WAITING, states.RUNNING)
    waiting = {t.user_attrs.get("folder") for t in trials if t.state in current}
    last = {str(t.user_attrs["folder"]): t for t in trials if "folder" in t.user_attrs}
    for name, trial in last.items():
        again, has_failed = trial.user_attrs.get("again", 0), "message" in trial.user_attrs
        wanted = retry if has_failed else again < RETRIES
        if trial.state == states.FAIL and wanted and name not in waiting:
            times = 0 if has_failed else again + 1
            study.enqueue_trial(trial.params, user_attrs={"folder": name, "again": times})


def write_search(definition: Definition, folder: Path, title: str) -> tuple[bool, list[str]]:
    """Write ``trials.csv``, ``study.png`` and ``study.html``.

    Returns:
        Whether the search has ended with a result, and lines of text on the best trials: those that
        no other trial dominates.
    """
    asked = definition.search
    assert asked is not None
    if not (folder / JOURNAL).is_file():
        raise DataError(f"{folder} holds no search yet; start it first.")
    study, states = _study(folder, asked, create=False), _optuna().trial.TrialState
    with_folder = [t for t in study.get_trials(deepcopy=False) if "folder" in t.user_attrs]
    trials = {t.user_attrs["folder"]: t for t in with_folder}  # the last attempt of each trial
    complete = {name: t.values for name, t in trials.items() if t.state == states.COMPLETE}
    best = {
        name: values
        for name, values in sorted(complete.items(), key=lambda item: item[1])
        if not any(_dominates(other, values) for other in complete.values())
    }
    rows = [
        {
            "trial": name,
            "state": t.state.name.lower(),
            **dict(zip(asked.objectives, t.values or (), strict=False)),
            **t.params,
            "message": t.user_attrs.get("message", ""),
        }
        for name, t in trials.items()
    ]
    commands = {
        name: shlex.join(["lightning-reg", "train", *trials[name].user_attrs["overrides"]])
        for name in best
    }
    figure = trials_figure(asked.objectives, list(complete.values()), list(best.values()))
    page = render(title, _sections(asked, rows, best, commands, figure), vars(asked))
    write_whole(folder / "study.html", page.encode())
    write_figure(folder / "study.png", figure)
    write_table(folder / "trials.csv", rows)
    pruned = sum(t.state == states.PRUNED for t in trials.values())
    failed = sum("message" in t.user_attrs for t in trials.values())
    lines = [f"{len(complete)} trials done, {pruned} pruned, {failed} failed."]
    lines += [
        f"Best: {name} ({_objectives(asked, values)})\n  {commands[name]}"
        for name, values in best.items()
    ]
    return bool(complete) and len(complete) + pruned + failed >= asked.trials, lines


def _sections(
    asked: Search,
    rows: Sequence[Mapping[str, Any]],
    best: Mapping[str, Sequence[float]],
    commands: Mapping[str, str],
    figure: Figure,
) -> list[Section]:
    """Sections of the page."""
    keys = list(dict.fromkeys(key for row in rows for key in row))
    chosen = [Row((n, *(f"{v:.4g}" for v in of), commands[n])) for n, of in best.items()]
    every = [Row([_short(r.get(k, "")) for k in keys], emphasis=r["trial"] in best) for r in rows]
    note = "No other trial is at least as good in every objective and better in one."
    return [
        Section("Trials", figures=[Picture.of("objectives", figure)]),
        Section("Best", ("trial", *asked.objectives, "command"), chosen, note),
        Section("All trials", keys, every),
    ]


def _objectives(asked: Search, values: Sequence[float]) -> str:
    named = zip(asked.objectives, values, strict=True)
    return ", ".join(f"{key} {value:.4g}" for key, value in named)


def _dominates(one: Sequence[float], other: Sequence[float]) -> bool:
    """Whether a trial is at least as good in every objective and better in one."""
    pairs = list(zip(one, other, strict=True))
    return all(a <= b for a, b in pairs) and any(a < b for a, b in pairs)


def _short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _optuna() -> Any:
    try:
        import optuna
    except ModuleNotFoundError as cause:
        raise UserError('A search needs Optuna: pip install "lightning-reg[search]".') from cause
    optuna.logging.set_verbosity(optuna.logging.ERROR)  # failed trials are reported by us
    return optuna


def _study(folder: Path, asked: Search, create: bool) -> Any:
    """The stored study, whose trials have folders in its own folder.

    Raises:
        DataError: a trial's folder is elsewhere, or has symbolic links.
    """
    optuna = _optuna()
    refuse_links(folder, (JOURNAL,))
    backend = optuna.storages.journal.JournalFileBackend(str(folder / JOURNAL))
    storage = optuna.storages.JournalStorage(backend)
    if create:
        # a different seed for every process
        sampler = optuna.samplers.TPESampler(seed=asked.seed + os.getpid())
        directions = ["minimize"] * len(asked.objectives)
        study = optuna.create_study(
            study_name=NAME,
            storage=storage,
            sampler=sampler,
            directions=directions,
            load_if_exists=True,
        )
    else:
        study = optuna.load_study(study_name=NAME, storage=storage)
    trials = study.get_trials(deepcopy=False)
    names = (str(t.user_attrs["folder"]) for t in trials if "folder" in t.user_attrs)
    refuse_links(folder, names)
    return study
