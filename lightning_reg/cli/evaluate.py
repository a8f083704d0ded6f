"""``lightning-reg evaluate``."""

from __future__ import annotations

import re
from argparse import ArgumentParser, Namespace
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning_reg.cli.arguments import Lines, console, counting, loading, require_files
from lightning_reg.cli.methods import require_methods
from lightning_reg.cli.options import instances
from lightning_reg.cli.signatures import add_options
from lightning_reg.configuration.composition import require_option
from lightning_reg.registry import DataError, did_you_mean

if TYPE_CHECKING:
    from rich.console import Console

    from lightning_reg.batch.evaluation.contestants import Contestant
    from lightning_reg.batch.evaluation.evaluation import Cases, Evaluation
    from lightning_reg.data.datasets.interface import Split


def add_arguments(parser: ArgumentParser) -> None:
    model, instance = "inference.loading:load", "inference.loading:conventional"
    files = "batch.evaluation.contestants:Transforms"
    folds = "batch.evaluation.contestants:fold_models"
    who = parser.add_argument_group(
        "methods", "Each can be repeated and named, as --model ours=best.ckpt."
    )
    add_options(who, model, "[--model]...")
    chosen = add_options(who, instance, "[--instance]...", instance="name")
    chosen["instance"].completer = instances  # type: ignore[attr-defined]
    add_options(who, files, "[--transforms PLACE]...", transforms="place")
    add_options(who, folds, "[--folds RUNS]...", folds="pattern")
    pairs = parser.add_argument_group("pairs", "Those of a data configuration, or of a table.")
    data = "configuration.datasets:open_configured"
    add_options(pairs, data, "[--data]", "[overrides data.key=value ...]", data="name")
    pairs.add_argument(
        "--split",
        choices=("train", "validation", "test", "all"),
        help="subjects of --data to evaluate (default validation)",
    )
    add_options(pairs, "batch.cohort.pairs:pairs_from_table", "[--pairs TABLE]", pairs="table")
    add_options(pairs, "batch.evaluation.evaluation:Cases.of", "--limit N")
    add_options(parser, "metrics.extra:build_metrics", "[--metric NAME]...", metric="names")
    add_options(parser, "inference.inputs:AnyRegistrar.register", "--refine N")
    add_options(parser, model, "--refinement", "--device")
    add_options(
        parser, "batch.evaluation.folder:evaluate_into", "--out", "[--columns A,B]", "--shard I/N",
        "--learn2reg", "--overwrite", out="folder", learn2reg="challenge",
    )  # fmt: skip


def run(arguments: Namespace) -> int:
    """0 where every case of every method could be evaluated, else 1."""
    _refuse(arguments)
    from lightning_reg.io.folders import refuse_existing

    terminal, out = console(), arguments.out
    refuse_existing(out, arguments.overwrite, "evaluate")
    with loading():
        from lightning_reg.batch.evaluation.evaluation import seen_in_training
        from lightning_reg.batch.evaluation.folder import evaluate_into
    columns, contestants = _columns(arguments.columns), _contestants(arguments)
    cases, settings = _cases(arguments)
    settings["methods"] = {contestant.name: contestant.settings for contestant in contestants}
    if seen_before := seen_in_training(contestants, cases):
        settings["warnings"] = seen_before
    lines = Lines(terminal)
    with counting(terminal, "pairs") as progress:

        def seen(number: int, count: int) -> None:
            progress(number, count)
            lines(f"pair {number:,} of {count:,}")

        evaluation = evaluate_into(
            out, contestants, cases, settings, columns=columns, challenge=arguments.learn2reg,
            shard=arguments.shard, overwrite=arguments.overwrite, progress=seen,
        )  # fmt: skip
    if evaluation is None:
        terminal.print(
            "This share of the pairs is evaluated. The process that evaluates the last pair, or the"
            " same command again, writes the tables."
        )
        return 0
    return _show(evaluation, out, terminal)


def _columns(text: str | None) -> list[str] | None:
    """Columns of the table of methods."""
    from lightning_reg.metrics.comparison import CHOICES

    columns = text.split(",") if text else None
    for column in columns or ():
        if column not in CHOICES:
            raise DataError(
                f"--columns names '{column}'{did_you_mean(column, CHOICES)} Known:"
                f" {', '.join(CHOICES)}."
            )
    return columns


def _show(evaluation: Evaluation, out: Path, terminal: Console) -> int:
    """Print the table, warnings and failures."""
    from lightning_reg.cli.tables import comparison_table, totals_table

    rows = evaluation.rows
    if len(rows) == 1:
        terminal.print(totals_table(next(iter(evaluation.totals().values()))))
    else:
        comparison = evaluation.comparison()
        terminal.print(comparison_table(comparison))
        for note in comparison.notes():
            terminal.print(note)
    for told in evaluation.settings.get("warnings", ()):
        terminal.print(f"Warning: {told}", style="yellow", markup=False)
    # the numbers in them differ from case to case
    warnings = Counter(warning.split(" (after")[0] for warning in evaluation.warnings)
    count = sum(map(len, rows.values()))
    for warning, times in warnings.items():
        terminal.print(f"Warning ({times} of {count} registrations): {warning}", style="yellow")
    failed = [(name, row) for name, of in rows.items() for row in of if "error" in row]
    for name, row in failed[:8]:
        terminal.print(f"Failed ({name}, {row['case']}): {row['error']}", style="yellow")
    if len(failed) > 8:
        terminal.print(f"... and {len(failed) - 8} more failed, see cases.csv.")
    terminal.print(
        f"{len(next(iter(rows.values())))} pairs. Everything is in {out}; look at"
        f" {out / 'report.html'}"
    )
    return 1 if failed else 0


def _refuse(arguments: Namespace) -> None:
    if not (arguments.model or arguments.instance or arguments.transforms or arguments.folds):
        raise DataError("Give at least one method: --model, --instance, --transforms or --folds.")
    if (arguments.data is None) == (arguments.pairs is None):
        raise DataError("Give either --data (a data configuration) or --pairs (a table).")
    if arguments.pairs is not None:
        require_files(arguments.pairs)
        overrides = " ".join(arguments.overrides)
        others = {"--split": arguments.split, "--folds": arguments.folds, overrides: overrides}
        if option := next((option for option, given in others.items() if given), None):
            raise DataError(f"{option} is of a data configuration (--data); leave it out.")
    if arguments.folds and arguments.split is not None:
        raise DataError("--folds evaluates each fold's validation pairs; leave out --split.")
    if arguments.data is not None:
        require_option("data", arguments.data)
    models, instances = (
        [named(text)[1] for text in given] for given in (arguments.model, arguments.instance)
    )
    require_methods(models, instances)


def _contestants(arguments: Namespace) -> list[Contestant]:
    """The methods, named as asked for or by what they are."""
    from lightning_reg.batch.evaluation.contestants import Registering, Transforms, fold_models
    from lightning_reg.cli.models import fetched
    from lightning_reg.inference.loading import conventional, load
    from lightning_reg.inference.registrar import Registrar
    from lightning_reg.metrics.extra import build_metrics

    metrics = build_metrics(arguments.metric)

    def measured(registrar: Registrar) -> Registrar:
        registrar.metrics = metrics
        return registrar

    def trained(model: str | Path) -> Registrar:
        return measured(load(model, device=arguments.device, refinement=arguments.refinement))

    usual: dict[str, Callable[[str], str]] = {
        "model": lambda text: _model_name(text) if len(arguments.model) > 1 else "model",
        "instance": lambda text: Path(text).stem,
        "transforms": lambda text: (
            Path(text.split("{pair}")[0].split(",")[0].rstrip("_")).name or "transforms"
        ),
        "folds": lambda text: Path(text).name.strip("*_-") or "folds",
    }
    built: dict[str, Callable[[str, str], Contestant]] = {
        "model": lambda name, text: Registering(
            name, trained(fetched(text, console())), arguments.refine
        ),
        "instance": lambda name, text: Registering(
            name, measured(conventional(text, device=arguments.device))
        ),
        "transforms": lambda name, text: Transforms(name, text, metrics),
        "folds": lambda name, text: fold_models(name, text, trained, arguments.refine),
    }
    words = [(kind, *named(word)) for kind in built for word in getattr(arguments, kind)]
    return [built[kind](name or usual[kind](text), text) for kind, name, text in words]


def named(word: str) -> tuple[str | None, str]:
    """``NAME=VALUE`` as two; a path with ``=`` in it, or an address, is a value alone."""
    match = re.fullmatch(r"([\w .+-]+)=(.+)", word)
    place = Path(word.partition("{pair}")[0].partition(",")[0]).expanduser()
    is_path = place.exists() or ("/" in str(place) and place.parent.exists())
    return (match[1], match[2]) if match and not is_path else (None, word)


def _model_name(text: str) -> str:
    """A checkpoint by its run's folder, anything else by its own name."""
    path = Path(text)
    of_run = path.suffix == ".ckpt" and path.parent.name == "checkpoints"
    return path.parent.parent.name if of_run else path.stem


def _cases(arguments: Namespace) -> tuple[Cases, dict[str, Any]]:
    """Cases of the evaluation, and their description for the record."""
    from lightning_reg.batch.cohort.pairs import pairs_from_table
    from lightning_reg.batch.evaluation.contestants import fold_count, named_runs
    from lightning_reg.batch.evaluation.evaluation import Cases
    from lightning_reg.configuration.datasets import open_configured

    if arguments.pairs is not None:
        pairs = pairs_from_table(arguments.pairs)
        return Cases.of_pairs(pairs[: arguments.limit]), {"pairs": str(arguments.pairs)}
    if arguments.folds:
        count = fold_count([named_runs(named(word)[1]) for word in arguments.folds])
        parts = []
        for fold in range(1, count + 1):
            overrides = [*arguments.overrides, f"data.fold={fold}/{count}"]
            data, config = open_configured(arguments.data, overrides)
            parts.append(Cases.of(data, "validation", arguments.limit, fold))
        return Cases.joined(parts), {"data": config, "folds": count}
    data, config = open_configured(arguments.data, arguments.overrides)
    split: Split | None = None if arguments.split == "all" else arguments.split or "validation"
    limit = arguments.limit if arguments.limit is not None else config.get("max_validation_pairs")
    return Cases.of(data, split, limit), {"data": config, "split": split or "all"}
