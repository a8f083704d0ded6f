"""Evaluation into a folder: continued after an interruption, and shared by several processes."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning_reg.batch.cohort.ledger import with_weights
from lightning_reg.batch.evaluation import learn2reg
from lightning_reg.batch.evaluation.contestants import Case, Contestant
from lightning_reg.batch.evaluation.evaluation import Cases, Evaluation, checked_for, measure
from lightning_reg.inference.result import Result
from lightning_reg.io.folders import LISTING, inside, note_unfinished, refuse_existing, written_file
from lightning_reg.io.names import file_name, unique
from lightning_reg.io.reading import read_json
from lightning_reg.io.worklist import Record, Worklist, share
from lightning_reg.registry import DataError

UNFINISHED = ".cases"
"""Folder of the cases of an unfinished evaluation, inside the folder of its results."""


class CaseList(Worklist):
    """Cases of an unfinished evaluation. A finished case has a file with the rows of all methods;
    a case that a method could not register has them in the file about its failure.
    """

    name, item, by, items = "evaluation", "case", "evaluate", "cases"
    mark = "done/{}.json"
    folders = ("done", "failed", "learn2reg")

    def measured(self, name: str) -> Record | None:
        """``rows`` by method and ``warnings`` of a case; ``None`` if it has not been evaluated."""
        if self.done(name):
            return dict(read_json(self.marked(name), "remove it and evaluate again"))
        return self.failure_of(name)

    def displacement(self, case: Case) -> Path:
        """File of the first method's displacement, in Learn2Reg's format."""
        return self.folder / "learn2reg" / learn2reg.file_of(case.name)


def evaluate_into(
    folder: Path,
    contestants: Sequence[Contestant],
    cases: Cases,
    settings: Mapping[str, Any],
    *,
    columns: Sequence[str] | None = None,
    challenge: bool = False,
    shard: tuple[int, int] = (1, 1),
    overwrite: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Evaluation | None:
    """Evaluate cases, and write the tables and the report when all cases have been evaluated.

    After an interruption, the next call evaluates the remaining cases, and those that failed.

    Args:
        folder: new folder for the tables, the totals and the report, see :meth:`Evaluation.save`.
        settings: of the data and the methods, for the record.
        columns: columns of the table of methods, in order: ``tre``, ``dice``, ``seconds``, ...
        challenge: add Learn2Reg's variants of the metrics, and write its displacement files of the
            first method.
        shard: share of this process, ``(i, n)``: every n-th pair from the i-th, counted from 1, for
            n processes or machines that write into one folder.
        overwrite: replace earlier results, and an unfinished evaluation of something else.
        progress: called after every case of the share with its number and their count.

    Returns:
        ``None`` if cases of other shares are missing, or another process has written the tables.

    Raises:
        DataError: no contestant could register any case; the folder holds other results or another
            unfinished evaluation; another process writes the share; or two contestants have the
            same name.
    """
    folder = folder.expanduser()
    refuse_existing(folder, overwrite, "evaluate")
    ready = checked_for(contestants, cases)
    names = unique(file_name(case.name) for case in cases.cases)
    own = share(range(len(names)), *shard)
    work = CaseList(inside(folder, UNFINISHED))
    methods = {one.name: with_weights(one.settings) for one in contestants}
    _begin(
        work,
        {name: vars(case) for name, case in zip(names, cases.cases, strict=True)},
        {**settings, "methods": methods, "learn2reg": challenge},
        overwrite,
    )
    with work.writer(*shard):
        for position, number in enumerate(own):
            if not work.done(names[number]):
                _evaluate(work, names[number], ready, cases, number, challenge)
            if progress is not None:
                progress(position + 1, len(own))
    try:
        with work.lock().acquire(timeout=-1):
            return _finish(work, names, cases, settings, columns)
    finally:
        if not work.record.exists():  # the lock has made the folder again
            shutil.rmtree(work.folder, ignore_errors=True)


def _begin(
    work: CaseList, cases: Mapping[str, Any], settings: Mapping[str, Any], overwrite: bool
) -> None:
    """Record the cases of an evaluation, which an existing folder may only have begun itself.

    A folder in which no case is finished, or with ``overwrite``, is begun again.
    """
    note_unfinished(work.folder.parent, work.folder.name, work.by)
    try:
        work.begin(cases, settings)
    except DataError:
        finished = any((work.folder / "done").glob("*.json"))
        if not work.record.exists() or (finished and not overwrite):
            raise
        shutil.rmtree(work.folder)
        work.begin(cases, settings)


def _evaluate(
    work: CaseList,
    name: str,
    contestants: Sequence[Contestant],
    cases: Cases,
    number: int,
    challenge: bool,
) -> None:
    """Evaluate a case and record the rows."""
    warnings: list[str] = []

    def seen(number: int, count: int, method: str, row: object, result: Result | None) -> None:
        if result is None:
            return
        warnings.extend(result.warnings)
        if challenge and method == contestants[0].name:
            file = work.displacement(cases.cases[number])
            file.parent.mkdir(exist_ok=True)
            grids = result.pair.fixed.grid, result.pair.moving.grid
            with written_file(file, overwrite=True) as partial:
                field = learn2reg.voxel_displacement(result.transform, *grids)
                learn2reg.write_displacement(partial, field)

    rows, _ = measure(contestants, cases, number, challenge, seen)
    error = next((row["error"] for row in rows.values() if "error" in row), None)
    if error is None:
        work.finish(name, {"rows": rows, "warnings": warnings})
    else:
        work.fail(name, error, rows=rows, warnings=warnings)


def _finish(
    work: CaseList,
    names: Sequence[str],
    cases: Cases,
    settings: Mapping[str, Any],
    columns: Sequence[str] | None,
) -> Evaluation | None:
    """Write the results in place of the unfinished ones; ``None`` if some cases are missing."""
    measured = [case for name in names if (case := work.measured(name)) is not None]
    if len(measured) < len(names):
        return None
    rows = {method: [case["rows"][method] for case in measured] for method in measured[0]["rows"]}
    errors = [case["message"] for case in measured if "message" in case]
    if all("error" in row for of in rows.values() for row in of):
        _discard(work)
        raise DataError(f"No case could be evaluated. {errors[0]}")
    warnings = [warning for case in measured for warning in case["warnings"]]
    evaluation = Evaluation(rows, settings, columns, warnings)
    fields = (work.displacement(case) for case in cases.cases)
    evaluation.save(work.folder.parent, True, [path for path in fields if path.is_file()])
    return evaluation


def _discard(work: CaseList) -> None:
    """Remove an unfinished evaluation, and a folder that holds nothing else."""
    folder = work.folder.parent
    shutil.rmtree(work.folder)
    if [path.name for path in folder.iterdir()] == [LISTING]:
        shutil.rmtree(folder)
