"""Outcome of a study: a table of methods, a figure, a page, and the winner's command."""

from __future__ import annotations

import io
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import wandb
from matplotlib.figure import Figure

from lightning_reg.batch.studies.definition import Job
from lightning_reg.batch.studies.study import state_of, summary
from lightning_reg.figures import study_figure
from lightning_reg.inference.report.again import read_rows
from lightning_reg.inference.report.evaluation import (
    boxes_section,
    cases_section,
    comparison_section,
)
from lightning_reg.inference.report.page import Picture, Row, Section, render
from lightning_reg.io.folders import MARK, write_whole
from lightning_reg.io.reading import read_json
from lightning_reg.io.tables import write_table
from lightning_reg.metrics import Comparison, summaries
from lightning_reg.metrics.comparison import LEVEL
from lightning_reg.metrics.table import primary_error, ranking
from lightning_reg.registry import DataError
from lightning_reg.training.logging import figure_pixels, logged_in_to_wandb
from lightning_reg.training.metrics_file import read_metrics, rows_by_step

EVALUATION = "evaluation"
"""Folder inside a run's folder for the evaluation of its best checkpoint on the study's split."""


@dataclass(frozen=True)
class Run(Job):
    """One training of a study, read from its folder.

    Args:
        status: ``done``, ``failed``, ``waiting`` or ``elsewhere``.
        message: why it failed, or warnings of its evaluation.
        rows: its cases, if it is done.
        curve: ``(step, validation error)``.
        steps: number of training steps.
    """

    status: str = "waiting"
    message: str = ""
    rows: Sequence[Mapping[str, Any]] = ()
    curve: Sequence[tuple[int, float]] = ()
    seconds: float = 0.0
    error: float = float("nan")
    steps: int = 0

    @classmethod
    def read(cls, folder: Path, job: Job, split: str | None) -> Run:
        """Read the run in a folder, with the evaluation on ``split`` if there is one."""
        state, curve = state_of(folder), learning_curve(folder)
        run = cls(**vars(job), status=state.status, message=state.message, curve=curve)
        if run.status != "done":
            return run
        evaluated = evaluation_settings(folder) if split else {}
        if split and evaluated.get("split") != split:
            message = f"It has not been evaluated on the split {split}."
            return replace(run, status="failed", message=message)
        cases = folder / EVALUATION / "cases.csv" if split else folder / "cases.csv"
        rows = [row for row in read_rows(cases) if "error" not in row]
        means = {column: values["mean"] for column, values in summaries(rows).items()}
        return replace(
            run,
            message=" ".join(map(str, evaluated.get("warnings", ()))),
            rows=rows,
            seconds=float(summary(folder)["seconds"]),
            error=primary_error(means) if ranking(means) else float("nan"),
            steps=last_step(folder),
        )


def evaluation_settings(folder: Path) -> dict[str, Any]:
    """Settings of a run's evaluation, ``split`` and any ``warnings``; empty without one."""
    try:
        return dict(read_json(folder / EVALUATION / MARK)["settings"])
    except (OSError, DataError, KeyError, TypeError, ValueError):
        return {}


def learning_curve(folder: Path) -> list[tuple[int, float]]:
    """Validation errors of a run by step, up to its current step."""
    rows = rows_by_step(read_metrics(folder))
    return [
        (step, float(row["validation/error"]))
        for step, row in sorted(rows.items())
        if "validation/error" in row
    ]


def last_step(folder: Path) -> int:
    """Last logged step of a run; 0 if none is logged."""
    return max(rows_by_step(read_metrics(folder)), default=0)


class Outcome:
    """Joint results of a study's runs.

    Each case counts once per method, with the mean of its values over the seeds.

    Args:
        runs: finished and unfinished ones.
    """

    def __init__(self, runs: Sequence[Run]) -> None:
        self.runs = list(runs)
        self.done = [run for run in runs if run.status == "done"]
        self.methods = list(dict.fromkeys(run.method for run in self.done))
        self.rows = {method: over_seeds(self._of(method)) for method in self.methods}
        self.comparison = Comparison(self.rows) if self.rows else None

    def notes(self) -> list[str]:
        """Sentences below the table."""
        if self.comparison is None:
            return []
        notes = self.comparison.notes()
        counts = {len({run.seed for run in self._of(method)}) for method in self.methods}
        if max(counts) > 1:
            of = " to ".join(map(str, dict.fromkeys((min(counts), max(counts)))))
            notes.insert(
                0,
                f"Values of a pair are means over {of} seeds; the mean error spreads over the seeds"
                f" by {self._spread()}.",
            )
        notes += [f"{run.name}: {run.message}" for run in self.done if run.message]
        notes += self._steps()
        unfinished = len(self.runs) - len(self.done)
        if unfinished:
            notes.append(
                f"{unfinished} of {len(self.runs)} runs have not ended or failed; they are not"
                " counted."
            )
        return notes

    def _of(self, method: str) -> list[Run]:
        """Finished runs of a method."""
        return [run for run in self.done if run.method == method]

    def _steps(self) -> list[str]:
        """Steps of the trainings by method, and whether they are unequal by more than 10 %."""
        steps = {method: {run.steps for run in self._of(method)} for method in self.methods}
        every = set().union(*steps.values())
        if not all(every):
            return []
        shown = (
            f"{method} {' to '.join(map(str, dict.fromkeys((min(of), max(of)))))}"
            for method, of in steps.items()
        )
        text = (
            "The trainings are of unequal length, as a budget in minutes makes them;"
            " `max_steps=N` gives all as many steps."
        )
        unequal = [text] if max(every) > 1.1 * min(every) else []
        return [f"Training steps: {', '.join(shown)}.", *unequal]

    def _spread(self) -> str:
        """Standard deviation of the mean error over the seeds, by method."""
        texts = []
        for method in self.methods:
            by_seed: dict[int | None, list[float]] = {}
            for run in self._of(method):
                by_seed.setdefault(run.seed, []).append(run.error)
            means = [float(np.mean(errors)) for errors in by_seed.values()]
            known = len(means) > 1
            value = f"{np.std(means, ddof=1):.2g}" if known else "unknown"
            texts.append(f"{value} ({method}{'' if known else ', one seed'})")
        return ", ".join(texts)

    def winner(self) -> Run | None:
        """The best run of the best method; ``None`` where no difference can be significant."""
        if self.comparison is None or (
            len(self.methods) > 1 and self.comparison.least_p() >= LEVEL
        ):
            return None
        return min(self._of(self.comparison.ranked()[0]), key=lambda run: run.error)

    def winning_command(self) -> str:
        """Command line of :meth:`winner`."""
        winner = self.winner()
        return "" if winner is None else shlex.join(["lightning-reg", "train", *winner.overrides])

    def figure(self) -> Figure:
        curves: dict[str, list[Any]] = {run.method: [] for run in self.runs}
        for run in self.runs:
            curves[run.method] += [run.curve] if run.curve else []
        return study_figure(curves, self.rows)

    def write(self, folder: Path, title: str) -> None:
        """Write ``runs.csv``, ``cases.csv``, ``table.csv``, ``table.md``, ``table.tex``,
        ``study.png`` and ``study.html``.
        """
        columns = ("method", "seed", "fold", "status", "error", "seconds", "steps", "message")
        runs = [
            {"run": run.name, **{column: getattr(run, column) for column in columns}}
            for run in self.runs
        ]
        drawn = self.figure()
        texts = {"study.html": self._page(title, Picture.of("learning curves and cases", drawn))}
        if self.comparison is not None:
            texts |= {"table.csv": self.comparison.csv(), "table.tex": self.comparison.latex()}
            texts["table.md"] = self.comparison.markdown(self.notes())
        for name, text in texts.items():
            write_whole(folder / name, text.encode())
        write_figure(folder / "study.png", drawn)
        write_table(folder / "runs.csv", runs)
        write_table(
            folder / "cases.csv",
            [{"method": method, **row} for method, rows in self.rows.items() for row in rows],
        )

    def to_wandb(self, folder: Path, project: str) -> None:
        """Log the table, the runs and the figure to Weights & Biases, as a separate run in the
        study's group; offline without a login.

        Args:
            project: project of Weights & Biases for the table, as for the runs of ``logger=wandb``.
        """
        name = folder.resolve().name
        mode: Literal["online", "offline"] = "online" if logged_in_to_wandb() else "offline"
        columns = ["run", "method", "seed", "fold", "status", "error"]
        runs = [
            [r.name, r.method, _shown(r.seed), _shown(r.fold), r.status, r.error] for r in self.runs
        ]
        logged = {
            "runs": wandb.Table(columns=columns, data=runs),
            "study": wandb.Image(figure_pixels(self.figure())),
        }
        if self.comparison is not None:
            cells = self.comparison.cells().items()
            rows = [[method, *(cell.text() for cell in of)] for method, of in cells]
            header = ["method", *self.comparison.header()[1:]]
            logged["methods"] = wandb.Table(columns=header, data=rows)
        with wandb.init(
            project=project, group=name, name=f"{name}: table", job_type="study", dir=folder,
            mode=mode,
        ) as run:  # fmt: skip
            run.log(logged)

    def _page(self, title: str, picture: Picture) -> str:
        sections = []
        if self.comparison is not None:
            table = comparison_section(self.comparison)
            note = " ".join(self.notes()).replace("Bold:", "(best):")
            sections.append(Section(table.title, table.columns, table.rows, note))
            if self.winner() is not None:
                sections.append(Section("The winner", note=f"{self.winning_command()}"))
        sections.append(Section("Validation error and cases", figures=[picture]))
        columns = ("run", "method", "seed", "fold", "", "error", "minutes", "steps", "")
        sections.append(Section("Runs", columns, [_row(run) for run in self.runs]))
        if self.rows:
            sections.append(boxes_section(self.rows))
            sections += [
                cases_section(of, f"Cases of {name}, worst first") for name, of in self.rows.items()
            ]
        return render(title, sections, {r.name: list(r.overrides) for r in self.runs})


def _row(run: Run) -> Row:
    """Row of the page."""
    error = "" if run.error != run.error else f"{run.error:.4g}"
    times = f"{run.seconds / 60:.1f}", str(run.steps or "")
    trained = _shown(run.seed), _shown(run.fold), run.status, error
    return Row((run.name, run.method, *trained, *times, run.message))


def write_figure(path: Path, figure: Figure) -> None:
    """Write a figure as PNG, completely or not at all."""
    content = io.BytesIO()
    figure.savefig(content, dpi=110, format="png")
    write_whole(path, content.getvalue())


def over_seeds(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """One row per case: the means over the runs that have it."""
    by_case: dict[str, list[Mapping[str, Any]]] = {}
    for run in runs:
        for row in run.rows:
            by_case.setdefault(str(row["case"]), []).append(row)
    found = []
    for case, rows in by_case.items():
        columns = dict.fromkeys(k for row in rows for k in row if isinstance(row[k], (int, float)))
        means = {c: float(np.mean([row[c] for row in rows if c in row])) for c in columns}
        found.append({"case": case, **means})
    return found


def _shown(value: object) -> str:
    return "" if value is None else str(value)
