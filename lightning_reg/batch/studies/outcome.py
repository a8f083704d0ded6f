"""Outcome of a study: a table of methods, a figure, a page, and the winner's command."""

from __future__ import annotations

import io
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import wandb
from matplotlib.figure import Figure

from lightning_reg.batch.studies.jobs import state_of, summary
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
class Run:
    """One training of a study, read from its folder.

    Args:
        status: ``done``, ``failed``, ``waiting`` or ``elsewhere``.
        message: why it failed, or warnings of its evaluation.
        rows: its cases, if it is done.
        curve: ``(step, validation error)``.
        steps: number of training steps.
    """

    name: str
    method: str
    seed: int | None
    fold: str | None
    overrides: Sequence[str]
    status: str
    message: str = ""
    rows: Sequence[Mapping[str, Any]] = ()
    curve: Sequence[tuple[int, float]] = ()
    seconds: float = 0.0
    error: float = float("nan")
    steps: int = 0

    @classmethod
    def read(
        cls,
        folder: Path,
        method: str,
        seed: int | None,
        fold: str | None,
        overrides: Sequence[str],
        split: str | None,
    ) -> Run:
        state = state_of(folder)
        common = (folder.name, method, seed, fold, overrides)
        curve = learning_curve(folder)
        if state.status != "done":
            return cls(*common, state.status, state.message, curve=curve)
        cases = folder / EVALUATION / "cases.csv" if split else folder / "cases.csv"
        evaluated = evaluation_settings(folder) if split else {}
        if split and evaluated.get("split") != split:
            return cls(
                *common, "failed", f"It has not been evaluated on the split {split}.", curve=curve
            )
        rows = [row for row in read_rows(cases) if "error" not in row]
        known = summary(folder)
        seconds = known["seconds"]
        warnings = " ".join(map(str, evaluated.get("warnings", ())))
        return cls(
            *common,
            "done",
            warnings,
            rows,
            curve,
            float(str(seconds)),
            _error(rows),
            last_step(folder),
        )


def evaluation_settings(folder: Path) -> dict[str, Any]:
    """Settings of a run's evaluation: ``split``, and ``warnings`` if there are any; empty if there
    is no evaluation.
    """
    try:
        return dict(read_json(folder / EVALUATION / MARK)["settings"])
    except (OSError, DataError, KeyError, TypeError, ValueError):
        return {}


def _error(rows: Sequence[Mapping[str, Any]]) -> float:
    means = {column: values["mean"] for column, values in summaries(rows).items()}
    return primary_error(means) if ranking(means) else float("nan")


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
        self.rows = {
            method: over_seeds([run for run in self.done if run.method == method])
            for method in self.methods
        }
        self.comparison = Comparison(self.rows) if self.rows else None

    def notes(self) -> list[str]:
        """Sentences below the table."""
        if self.comparison is None:
            return []
        counts = {
            method: len({run.seed for run in self.done if run.method == method})
            for method in self.methods
        }
        notes = self.comparison.notes()
        if max(counts.values()) > 1:
            numbers = sorted(set(counts.values()))
            of = f"{numbers[0]}" if len(numbers) == 1 else f"{numbers[0]} to {numbers[-1]}"
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

    def _steps(self) -> list[str]:
        """Steps of the trainings by method, and whether they are unequal by more than 10 %."""
        steps = {
            method: sorted({run.steps for run in self.done if run.method == method})
            for method in self.methods
        }
        every = [number for numbers in steps.values() for number in numbers]
        if not all(every):
            return []
        shown = (
            f"{method} {of[0]}" if len(of) == 1 else f"{method} {of[0]} to {of[-1]}"
            for method, of in steps.items()
        )
        unequal = max(every) > 1.1 * min(every)
        text = (
            "The trainings are of unequal length, as a budget in minutes makes them;"
            " trainer.max_steps=N gives all as many steps."
        )
        return [f"Training steps: {', '.join(shown)}.", *([text] if unequal else [])]

    def _spread(self) -> str:
        """Standard deviation of the mean error over the seeds, by method."""
        found = []
        for method in self.methods:
            by_seed: dict[int | None, list[float]] = {}
            for run in self.done:
                if run.method == method:
                    by_seed.setdefault(run.seed, []).append(run.error)
            means = [float(np.mean(errors)) for errors in by_seed.values()]
            found.append(
                f"{np.std(means, ddof=1):.2g} ({method})"
                if len(means) > 1
                else f"unknown ({method}, one seed)"
            )
        return ", ".join(found)

    def winner(self) -> Run | None:
        """The best run of the best method; ``None`` where no difference between methods can be
        significant.
        """
        if self.comparison is None or (
            len(self.methods) > 1 and self.comparison.least_p() >= LEVEL
        ):
            return None
        best = self.comparison.ranked()[0]
        return min((run for run in self.done if run.method == best), key=lambda run: run.error)

    def winning_command(self) -> str:
        """Command line of :meth:`winner`."""
        winner = self.winner()
        return "" if winner is None else shlex.join(["lightning-reg", "train", *winner.overrides])

    def figure(self) -> Figure:
        return study_figure(
            {
                m: [run.curve for run in self.runs if run.method == m and run.curve]
                for m in self._known()
            },
            self.rows,
        )

    def _known(self) -> list[str]:
        return list(dict.fromkeys(run.method for run in self.runs))

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
        """
        name = folder.resolve().name
        mode: Literal["online", "offline"] = "online" if logged_in_to_wandb() else "offline"
        with wandb.init(
            project=project,
            group=name,
            name=f"{name}: table",
            job_type="study",
            dir=folder,
            mode=mode,
        ) as run:
            if self.comparison is not None:
                rows = [
                    [method, *(cell.text() for cell in cells)]
                    for method, cells in self.comparison.cells().items()
                ]
                run.log(
                    {
                        "methods": wandb.Table(
                            columns=["method", *self.comparison.header()[1:]], data=rows
                        )
                    }
                )
            columns = ["run", "method", "seed", "fold", "status", "error"]
            runs = [
                [r.name, r.method, _shown(r.seed), _shown(r.fold), r.status, r.error]
                for r in self.runs
            ]
            run.log(
                {
                    "runs": wandb.Table(columns=columns, data=runs),
                    "study": wandb.Image(figure_pixels(self.figure())),
                }
            )

    def _page(self, title: str, picture: Picture) -> str:
        sections = []
        if self.comparison is not None:
            table = comparison_section(self.comparison)
            sections.append(
                Section(
                    table.title,
                    table.columns,
                    table.rows,
                    " ".join(self.notes()).replace("Bold:", "(best):"),
                )
            )
            if self.winner() is not None:
                sections.append(Section("The winner", note=f"{self.winning_command()}"))
        sections.append(Section("Validation error and cases", figures=[picture]))
        rows = []
        for run in self.runs:
            error = "" if run.error != run.error else f"{run.error:.4g}"
            numbers = (
                _shown(run.seed),
                _shown(run.fold),
                run.status,
                error,
                f"{run.seconds / 60:.1f}",
                str(run.steps or ""),
            )
            rows.append(Row((run.name, run.method, *numbers, run.message)))
        sections.append(
            Section(
                "Runs", ("run", "method", "seed", "fold", "", "error", "minutes", "steps", ""), rows
            )
        )
        if self.rows:
            sections.append(boxes_section(self.rows))
            sections += [
                cases_section(of, f"Cases of {name}, worst first") for name, of in self.rows.items()
            ]
        return render(title, sections, {r.name: list(r.overrides) for r in self.runs})


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
        columns = dict.fromkeys(
            key for row in rows for key in row if isinstance(row[key], (int, float))
        )
        found.append(
            {
                "case": case,
                **{c: float(np.mean([row[c] for row in rows if c in row])) for c in columns},
            }
        )
    return found


def _shown(value: object) -> str:
    return "" if value is None else str(value)
