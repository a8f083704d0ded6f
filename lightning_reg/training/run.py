"""A training run, from a configuration to a folder with all results."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.plugins.environments import SLURMEnvironment
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from lightning_reg.components.interfaces import Growable
from lightning_reg.components.resolution import aspect_of
from lightning_reg.configuration.settings import require_machine, require_settings
from lightning_reg.data.datasets.identity import (
    changes,
    held_out_but_seen,
    identify,
    joined,
    keep_splits,
)
from lightning_reg.data.datasets.splits import Splits
from lightning_reg.io.folders import refuse_links
from lightning_reg.io.lock import one_writer
from lightning_reg.metrics import PairMetrics, totals
from lightning_reg.metrics.extra import build_metrics
from lightning_reg.registry import TrainingError, construct
from lightning_reg.registry.entries import hidden
from lightning_reg.registry.provenance import entries
from lightning_reg.training.allocator import keep_freed_memory
from lightning_reg.training.budget import planned
from lightning_reg.training.building import build_callbacks, build_data
from lightning_reg.training.callbacks.progress import ProgressLines
from lightning_reg.training.callbacks.saving import Saving
from lightning_reg.training.callbacks.standard import RandomState, ValidateLastStep
from lightning_reg.training.checkpoints import Before, read_checkpoint
from lightning_reg.training.failures import explained, without_litter
from lightning_reg.training.initialization import Source, read_source, started_from
from lightning_reg.training.logging import make_loggers
from lightning_reg.training.model import load_weights
from lightning_reg.training.module import RegistrationModule
from lightning_reg.training.ranks import decide, decided, is_first
from lightning_reg.training.record import around, write_record
from lightning_reg.training.run_folder import (
    NO_LINKS,
    as_started,
    clear,
    to_go_on_from,
    write_config,
    write_identity,
)
from lightning_reg.training.whole_checkpoints import WholeCheckpoints


@dataclass(frozen=True)
class Outcome:
    """Outcome of a run: its folder, the evaluation of the best checkpoint, wall time, and the
    model's number of parameters.
    """

    folder: Path
    cases: list[PairMetrics]
    seconds: float
    parameters: int

    def totals(self) -> dict[str, float]:
        return totals(self.cases)


def train(
    config: Mapping[str, Any],
    folder: str | Path | None = None,
    resume: str | Path | None = None,
    *,
    callbacks: Sequence[L.Callback] = (),
    progress: Callable[[str], None] | None = None,
    overwrite: bool = False,
) -> Outcome:
    """Train, validate the best checkpoint, and write the record. If the folder contains the same
    run, unfinished, it is resumed.

    Args:
        config: a composed configuration, plain values, see :func:`lightning_reg.compose`:
            ``method, data, trainer, logger, callbacks, seed``. With ``budget`` (minutes), the
            number of steps is chosen to fit on this machine, instead of the method's own number;
            with ``init``, training starts from a model's weights.
        folder: the run's folder, by default a new one below ``runs/``; see ``docs/quickstart.md``
            for its contents.
        resume: checkpoint to resume from, even if ``config`` is different.
        callbacks: Lightning callbacks in addition to those of the configuration.
        progress: function called with lines before the training: notes about the data, number of
            steps, duration.
        overwrite: first remove a run in the folder; other files in the folder are kept.

    Raises:
        UserError: data, a component or an option are invalid; the folder contains another run or
            symbolic links, is in use, or can no longer be written. Files written before are kept.
        Interrupted: the run was stopped by a signal.
    """
    folder = (
        Path("runs", f"{datetime.now():%Y-%m-%d_%H-%M-%S}")
        if folder is None
        else Path(folder).expanduser()
    )
    resume = None if resume is None else Path(resume).expanduser()
    if overwrite and resume is not None:
        raise TrainingError(
            "A run is either resumed or overwritten; leave out `overwrite=True` to go on with"
            f" {folder}."
        )
    if not is_first():
        with explained(folder):
            config, resume = decided(folder)
            return _run(config, folder, resume, None, callbacks, None)
    refuse_links(folder, NO_LINKS)
    with without_litter(folder), one_writer(folder), explained(folder):
        # may be in the removed run
        source = (
            read_source(config["init"]) if overwrite and config.get("init") is not None else None
        )
        if overwrite:
            clear(folder)
        if resume is None:
            config = as_started(folder, config)
            resume = to_go_on_from(folder, config)
        if resume is None and source is None and config.get("init") is not None:
            source = read_source(config["init"])
        return _run(config, folder, resume, source, callbacks, progress)


def _run(
    config: Mapping[str, Any],
    folder: Path,
    resume: Path | None,
    source: Source | None,
    more: Sequence[L.Callback],
    progress: Callable[[str], None] | None,
) -> Outcome:
    started = time.perf_counter()
    require_settings(config)
    require_machine(config["trainer"])
    keep_freed_memory(config["trainer"])
    L.seed_everything(config["seed"], workers=True, verbose=False)
    before = Before.read(resume)
    notes: list[str] = []
    if source is not None:
        config, notes = started_from(config, source)
    data = build_data(config)
    identity, changed = _identity(
        data.data, before.data, source, folder, bool(config.get("changed_data"))
    )
    module = RegistrationModule.from_configuration(config["method"])
    if source is not None:
        notes = [*source.load(module), *notes]
        if seen := held_out_but_seen(identity):
            notes.append(
                f"{source.settings.model} was trained on scans that are held out here ({seen}):"
                " errors on them are too small."
            )
    if resume is not None:
        # Lightning's own message is very long
        load_weights(module, read_checkpoint(resume)["state_dict"], str(resume))
    used = module.components() + entries(around(config))
    notes += [told for one in used if (told := hidden(one["group"], one["name"]))]
    module.metrics = build_metrics(config.get("metrics") or ())
    data.setup()
    grid = data.first_pair().fixed.grid
    if 1 in grid.shape and config["data"].get("aspect") is None:
        aspect = list(aspect_of(grid.shape, grid.spacing[0].tolist()))
        notes.append(
            f"The images are slices, which networks pad to volumes; `data.aspect` of {aspect} makes"
            " networks of two dimensions, which train many times faster."
        )
    module.preprocessing, module.statistics, module.identity = (
        data.preprocessing,
        data.statistics,
        identity,
    )
    try:
        module.loss.require(data.available())
    except TrainingError as error:
        if (
            "_mask" in str(error)
            and (config["data"].get("prepare") or {}).get("lungs")
            and not data.prepared
        ):
            raise TrainingError(
                f"{error} lightning-reg prepare makes the lung masks of these data; train on the"
                " prepared data."
            ) from error
        raise

    if config.get("compile"):
        module.compile_networks()
    if progress is not None or config.get("budget"):
        config, told = planned(config, module, data, resume is not None)
        if progress is not None:
            for line in (*data.notes, *notes, told, *before.told()):
                progress(line)

    def settle() -> None:
        write_config(folder, config)
        write_identity(folder, identity)

    if resume is None and is_first():
        clear(folder)  # remains of a run killed before its first checkpoint
        settle()

    # a bar in a file would be a heap of fragments
    lines = progress is not None and not sys.stdout.isatty()
    settings = (
        {**config, "trainer": {**config["trainer"], "enable_progress_bar": False}}
        if lines
        else config
    )
    callbacks = [
        Saving(
            folder / "checkpoints",
            settle,
            choose_anew=changed,
            seconds=lambda: before.seconds + time.perf_counter() - started,
        ),
        RandomState(),
        ValidateLastStep(),
        *build_callbacks(settings),
        *more,
        *([ProgressLines(progress)] if lines and progress is not None else []),
    ]
    loggers = make_loggers(config.get("logger") or {}, folder, config, before.logged)
    try:
        trainer = _trainer(
            settings["trainer"],
            module,
            callbacks=callbacks,
            logger=loggers,
            default_root_dir=folder,
        )
        if is_first() and trainer.world_size > 1:
            decide(folder, config, resume)
        trainer.fit(module, data, ckpt_path=resume, weights_only=True)
    except MisconfigurationException as error:
        raise TrainingError(
            "Lightning refuses these settings of the trainer or its callbacks:"
            f" {' '.join(str(error).split())}"
        ) from error
    best = folder / "checkpoints" / "best.ckpt"
    if best.exists():
        load_weights(module, read_checkpoint(best)["state_dict"], str(best))
    trainer.loggers = []  # the final evaluation is not part of the training curves
    trainer.validate(module, data, verbose=False)
    seconds = before.seconds + time.perf_counter() - started
    outcome = Outcome(folder, module.cases, seconds, sum(p.numel() for p in module.parameters()))
    if is_first():
        write_record(folder, config, used, module, data.validation_pairs, outcome.seconds, loggers)
    return outcome


def _identity(
    data: Splits, known: Mapping[str, Any], source: Source | None, folder: Path, accepted: bool
) -> tuple[dict[str, Any], bool]:
    """Return the identity of a run's data, and whether they are others than before, which has to be
    accepted.

    Args:
        known: identity in the checkpoint from which the run is resumed; empty for a new run or an
            earlier version.
        accepted: go on with other data; known subjects then keep their split.

    Raises:
        TrainingError: the data changed; the message names the scans and subjects.
    """
    data.assign(known.get("moved", {}))
    now = identify(data)
    told = changes(known, now) if known.get("scans") else None
    if told is None:
        return joined(known, now, source=None if source is None else source.data), False
    if not accepted:
        raise TrainingError(
            f"The data of the run in {folder} have changed ({told}); restore them, or accept the"
            " change with `changed_data=True`: known subjects then keep their split."
        )
    moved = keep_splits(data, known)
    return joined(known, identify(data), moved), True


def _trainer(settings: Mapping[str, Any], module: RegistrationModule, **given: Any) -> L.Trainer:
    """Make Lightning's trainer; if several processes train growing levels, it allows parameters
    without a gradient.
    """
    given["plugins"] = [
        WholeCheckpoints(),
        *([SLURMEnvironment(auto_requeue=False)] if SLURMEnvironment.detect() else []),
    ]
    given["enable_checkpointing"] = any(
        isinstance(callback, Checkpoint) for callback in given["callbacks"]
    )
    trainer = construct("trainer", L.Trainer, settings, **given)
    growing = any(isinstance(part, Growable) and len(part.alpha) > 1 for part in module.modules())
    if trainer.world_size > 1 and growing and settings.get("strategy") in (None, "auto", "ddp"):
        return construct(
            "trainer",
            L.Trainer,
            {**settings, "strategy": "ddp_find_unused_parameters_true"},
            **given,
        )
    return trainer
