"""``lightning-reg study``."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from lightning_reg.cli.arguments import console, require_files
from lightning_reg.cli.signatures import add_options, path
from lightning_reg.registry import DataError

if TYPE_CHECKING:
    from lightning_reg.batch.studies.definition import Definition, Job
    from lightning_reg.batch.studies.outcome import Outcome
    from lightning_reg.batch.studies.study import State


def add_arguments(parser: ArgumentParser) -> None:
    jobs, outcome = "batch.studies.study:run_jobs", "batch.studies.outcome:Outcome.to_wandb"
    add_options(parser, "batch.studies.definition:read_definition", "study", study="path")
    add_options(parser, jobs, "--jobs N", "--retry", "--no-wait", jobs="at_once")
    add_options(parser, outcome, "[--wandb PROJECT]", wandb="project")
    parser.add_argument(
        "--out",
        type=path,
        help="folder of the study (default runs/NAME_OF_THE_FILE); the same command continues it",
    )
    parser.add_argument(
        "--list", action="store_true", help="print the trainings and their state; start none"
    )
    parser.add_argument(
        "--table", action="store_true", help="write the table of the finished trainings; start none"
    )


def run(arguments: Namespace) -> int:
    """0 where every training is done, else 1."""
    require_files(arguments.study)
    from lightning_reg.batch.studies.definition import read_definition
    from lightning_reg.batch.studies.study import begin, run_jobs, state_of

    terminal, name = console(), arguments.study.stem
    definition = read_definition(arguments.study)
    folder = arguments.out or Path("runs", name)
    definition.check()
    if definition.search is not None:
        return _search(definition, folder, arguments, terminal)
    if arguments.list:
        for job in definition.jobs():
            state = state_of(folder / job.name)
            message = f" ({state.message})" if state.message else ""
            terminal.print(f"{job.name}: {state.status}{message}")
        return 0
    if definition.split and not arguments.table:
        from lightning_reg.batch.studies.evaluate import require_pairs

        require_pairs(definition)
    jobs = begin(folder, definition)
    count = len(jobs)

    def tell(job: Job, state: State) -> None:
        words = ": ".join(filter(None, (state.status, state.message)))
        words = "begins" if state.status == "waiting" else words
        done = sum(state_of(folder / other.name).status == "done" for other in jobs)
        terminal.print(f"[{done} of {count} done] {job.name} {words}")

    try:
        if not arguments.table:
            wait = not arguments.no_wait
            run_jobs(jobs, folder, arguments.jobs, arguments.retry, tell, wait)
            _evaluate(jobs, folder, definition, terminal)
    finally:
        outcomes = written(folder, definition.jobs(), definition.split, f"Study {name}")
        for place, outcome in outcomes.items():
            show(outcome, place, terminal)
    if arguments.wandb:
        for place, outcome in outcomes.items():
            outcome.to_wandb(place, arguments.wandb)
    runs = [run for outcome in outcomes.values() for run in outcome.runs]
    return 0 if all(run.status == "done" for run in runs) else 1


def _evaluate(jobs: Sequence[Job], folder: Path, definition: Definition, terminal: Console) -> None:
    """Evaluate what is trained on the study's split, once."""
    from lightning_reg.batch.studies.evaluate import evaluate_run
    from lightning_reg.registry import in_words

    for job in jobs if definition.split else ():
        try:
            if evaluate_run(folder / job.name, str(definition.split)):
                terminal.print(f"{job.name} is evaluated on the split {definition.split}")
        except Exception as error:
            terminal.print(f"{job.name} could not be evaluated: {in_words(error)}")


def written(
    folder: Path, jobs: Sequence[Job], split: str | None, title: str
) -> dict[Path, Outcome]:
    """The outcome of what there is, by the folder that it is written into: the study's, or one in
    it per data set.
    """
    from lightning_reg.batch.studies.outcome import Outcome, Run
    from lightning_reg.io.folders import inside
    from lightning_reg.io.names import file_name

    runs: dict[str, list[Run]] = {}
    for job in jobs:
        runs.setdefault(job.data, []).append(Run.read(folder / job.name, job, split))
    found = {}
    for data, of in runs.items():
        several = len(runs) > 1
        place = inside(folder, f"table_{file_name(data)}") if several else folder
        place.mkdir(exist_ok=True)
        found[place] = Outcome(of)
        found[place].write(place, f"{title}, {data}" if several else title)
    return found


def show(outcome: Outcome, folder: Path, terminal: Console) -> None:
    """Print the table, what failed, and the winner."""
    from lightning_reg.cli.tables import comparison_table

    if outcome.comparison is not None:
        terminal.print(comparison_table(outcome.comparison))
        for note in outcome.notes():
            terminal.print(note)
    for run in outcome.runs:
        if run.status == "failed":
            terminal.print(f"Failed: {run.name}: {run.message}", style="yellow")
    winner = outcome.winner()
    if winner is not None:
        terminal.print(f"The winner, {winner.name}:\n  {outcome.winning_command()}")
    terminal.print(f"Everything is in {folder}; look at {folder / 'study.html'}")


def _search(definition: Definition, folder: Path, arguments: Namespace, terminal: Console) -> int:
    from lightning_reg.batch.studies.search import search, write_search

    assert definition.search is not None
    if arguments.jobs > 1:
        raise DataError(
            "A search trains one trial at a time in a process; start the same command again beside"
            " it instead of --jobs."
        )
    over = False
    try:
        if not arguments.table and not arguments.list:
            search(definition, folder, retry=arguments.retry, tell=terminal.print)
    finally:
        over, lines = write_search(definition, folder, f"Search {arguments.study.stem}")
        for line in lines:
            terminal.print(line)
        terminal.print(f"Everything is in {folder}; look at {folder / 'study.html'}")
    return 0 if over else 1
