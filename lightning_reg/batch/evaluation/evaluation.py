"""Evaluation of methods on pairs: per case, summarised, and compared with each other."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torchio as tio
from torch import Tensor

from lightning_reg.batch.cohort.pairs import CohortPair
from lightning_reg.batch.evaluation import learn2reg
from lightning_reg.batch.evaluation.contestants import Case, Contestant
from lightning_reg.data.datasets.identity import content
from lightning_reg.data.datasets.interface import Split
from lightning_reg.data.datasets.splits import Splits
from lightning_reg.data.scans import pair_name
from lightning_reg.inference.inputs import Inputs
from lightning_reg.inference.report.evaluation import write_report
from lightning_reg.inference.result import Result, finite
from lightning_reg.io.folders import MARK, linked, written_whole
from lightning_reg.io.tables import write_table
from lightning_reg.metrics import Comparison, summaries
from lightning_reg.registry import DataError, Range, in_words
from lightning_reg.spatial import Pair, Transform

Row = dict[str, Any]


@dataclass(frozen=True)
class Evaluation:
    """The rows of one or several methods on the same cases.

    Args:
        rows: for each method, one row per case: values by column, ``case`` first; ``error``, a
            sentence, for a case that failed.
        settings: of the data and the methods.
        columns: of the table of methods, see :class:`~lightning_reg.metrics.comparison.Comparison`.
        warnings: of all registrations.
    """

    rows: Mapping[str, Sequence[Row]]
    settings: Mapping[str, Any]
    columns: Sequence[str] | None = None
    warnings: Sequence[str] = ()

    def totals(self) -> dict[str, dict[str, dict[str, float]]]:
        """Per method and column ``mean, sd, low, high, n``, see
        :func:`~lightning_reg.metrics.statistics.summary`.
        """
        return {name: summaries(rows) for name, rows in self.rows.items()}

    def comparison(self) -> Comparison:
        """Compare the methods on the cases that all of them registered."""
        return Comparison(self.rows, self.columns)

    def save(
        self, folder: str | Path, overwrite: bool = False, displacements: Iterable[Path] = ()
    ) -> Path:
        """Write the tables and the report into a folder.

        Files: ``cases.csv``, ``metrics.json``, ``table.csv``, ``table.md``, ``table.tex``,
            ``report.html`` and ``learn2reg``.

        Args:
            displacements: files in Learn2Reg's format, linked or copied.
        """
        comparison = self.comparison()
        tables = {"csv": comparison.csv(), "md": comparison.markdown(), "tex": comparison.latex()}
        differences = [vars(difference) for difference in comparison.differences]
        record = finite(
            {"totals": self.totals(), "differences": differences, "settings": self.settings}
        )
        cases = [{"method": name, **row} for name, rows in self.rows.items() for row in rows]
        with written_whole(Path(folder), overwrite, "evaluate") as partial:
            write_table(partial / "cases.csv", cases)
            for ending, text in tables.items():
                (partial / f"table.{ending}").write_text(text, encoding="utf-8")
            (partial / MARK).write_text(json.dumps(record, indent=2, default=str) + "\n")
            for path in displacements:
                (partial / "learn2reg").mkdir(exist_ok=True)
                linked(path, partial / "learn2reg" / path.name)
            write_report(partial / "report.html", self.rows, record, comparison)
        return Path(folder)


@dataclass(frozen=True)
class Cases:
    """The cases of an evaluation, read on demand.

    Args:
        cases: in order.
        read: function from the index of a case to its fixed and moving subjects.
        data: the data set of the cases, whose scans may have been prepared; ``None``: images have
            not been prepared.
        images: function from the index of a case to the contents of its images, see
            :func:`~lightning_reg.data.datasets.identity.content`.
    """

    cases: Sequence[Case]
    read: Callable[[int], tuple[tio.Subject, tio.Subject]]
    data: Splits | None = None
    images: Callable[[int], Collection[str]] = lambda number: ()

    @classmethod
    def of(
        cls,
        data: Splits,
        split: Split | None = "validation",
        limit: Annotated[int, Range(1, of="pairs")] | None = None,
        fold: int | None = None,
    ) -> Cases:
        """The pairs of a split.

        Args:
            limit: maximum number of pairs.

        Raises:
            DataError: the data have no such pairs.
        """
        pairs = data.pairs(split)[:limit]
        if not pairs:
            raise DataError(
                f"The data have no pairs in their split '{split or 'all'}'; choose another data set"
                " or split."
            )
        records, subjects = data.records(split), data.subjects(split)
        names = (pair_name(records[fixed].name, records[moving].name) for fixed, moving in pairs)

        @functools.cache
        def image(number: int) -> str | None:
            path = records[number].image
            return None if path is None else content(path, records[number].number)

        def images(number: int) -> set[str]:
            return {told for told in map(image, pairs[number]) if told is not None}

        return cls(
            [Case(name, fold) for name in names],
            lambda k: (subjects[pairs[k][0]], subjects[pairs[k][1]]),
            data,
            images,
        )

    @classmethod
    def of_pairs(cls, pairs: Sequence[CohortPair]) -> Cases:
        """The pairs of a table, see :mod:`lightning_reg.batch.cohort.pairs`."""

        def read(number: int) -> tuple[tio.Subject, tio.Subject]:
            inputs = Inputs.read(pairs[number].opened(), pairs[number].name)
            return inputs.fixed, inputs.moving

        cases = [Case(pair.name) for pair in pairs]
        return cls(cases, read, images=lambda number: pairs[number].images())

    @classmethod
    def joined(cls, parts: Sequence[Cases]) -> Cases:
        """Concatenate cases, for example those of the folds of a cross-validation."""
        places = [(part, number) for part in parts for number in range(len(part.cases))]
        cases = [part.cases[number] for part, number in places]
        return cls(
            cases,
            lambda k: places[k][0].read(places[k][1]),
            parts[0].data,
            lambda k: places[k][0].images(places[k][1]),
        )


def evaluate_cases(
    contestants: Sequence[Contestant],
    cases: Cases,
    *,
    challenge: bool = False,
    progress: Callable[..., None] | None = None,
) -> dict[str, list[Row]]:
    """Measure every contestant on every case, on the original grids. A case that fails is a row
    with an ``error``.

    Args:
        challenge: add Learn2Reg's variants.
        progress: called after every case of every contestant with the case's number, the number of
            cases, the contestant's name, the row and the result (``None``: it failed).

    Raises:
        DataError: two contestants have the same name, or no contestant could register any case.
    """
    ready = checked_for(contestants, cases)
    rows: dict[str, list[Row]] = {contestant.name: [] for contestant in ready}
    first: Exception | None = None
    for number in range(len(cases.cases)):
        measured, error = measure(ready, cases, number, challenge, progress)
        first = first or error
        for name, row in measured.items():
            rows[name].append(row)
    if first is not None and all("error" in row for of in rows.values() for row in of):
        raise DataError(f"No case could be evaluated. {in_words(first)}") from first
    return rows


def checked_for(contestants: Sequence[Contestant], cases: Cases) -> list[Contestant]:
    """The contestants for the grids of the cases.

    Raises:
        DataError: two contestants have the same name, or one has the name of a row of the tables.
    """
    names = [contestant.name for contestant in contestants]
    double = next((name for name in names if names.count(name) > 1), None)
    if double is not None:
        raise DataError(f"Two methods are called '{double}'; give each a name of its own.")
    if any(name.split(" ")[0] == "before" for name in names):
        raise DataError(
            "A method is called 'before', which is the name of a row in the tables; give it another"
            " name."
        )
    done = None if cases.data is None else cases.data.geometry
    return [one if done is None else one.after(done) for one in contestants]


def measure(
    contestants: Sequence[Contestant],
    cases: Cases,
    number: int,
    challenge: bool = False,
    progress: Callable[..., None] | None = None,
) -> tuple[dict[str, Row], Exception | None]:
    """Measure every contestant on one case, see :func:`evaluate_cases`.

    Returns:
        The rows by contestant, and the first failure.
    """
    case, rows = cases.cases[number], {}
    known = {"case": case.name} | ({} if case.fold is None else {"fold": case.fold})
    subjects: tuple[tio.Subject, tio.Subject] | None = None
    first: Exception | None = None
    for contestant in contestants:
        result: Result | None = None
        try:
            subjects = subjects or cases.read(number)
            result = contestant.register(case, *subjects)
            row = {**case_row(result, challenge), **known}
        except Exception as error:
            row, result, first = {**known, "error": in_words(error)}, None, first or error
        rows[contestant.name] = row
        if progress is not None:
            progress(number, len(cases.cases), contestant.name, row, result)
    return rows, first


def seen_in_training(contestants: Sequence[Contestant], cases: Cases) -> list[str]:
    """One sentence for each method that was trained on images of the cases, whatever their names.

    Models of earlier versions do not know their training images, and nothing is said of them.
    """
    sentences = []
    for contestant in contestants:
        known = [contestant.trained_on(case) for case in cases.cases]
        count = sum(
            bool(images) and not images.isdisjoint(cases.images(number))
            for number, images in enumerate(known)
        )
        if count:
            name = "the model" if contestant.name == "model" else contestant.name
            sentences.append(
                f"{count} of {len(cases.cases)} pairs contain scans that {name} was trained on;"
                " their figures do not show its accuracy on other images."
            )
    return sentences


def case_row(result: Result, challenge: bool = False) -> Row:
    """The columns of one registered pair."""
    row: Row = dict(result.case.row())
    snapped = snapped_errors(result.pair, result.transform)
    if snapped is not None:
        row["tre_after_snapped_mm"] = float(snapped.mean())
    if challenge:
        field = learn2reg.voxel_displacement(
            result.transform, result.pair.fixed.grid, result.pair.moving.grid
        )
        row["sdlogj_learn2reg"] = learn2reg.sdlogj(field)
        overlap = learn2reg.overlap(result.pair, result.transform)
        if overlap is not None:
            row["dice_after_learn2reg"], row["hd95_after_learn2reg_voxels"] = overlap
    return row | ({"seconds": sum(result.seconds.values())} if result.seconds else {})


def snapped_errors(pair: Pair, transform: Transform) -> Tensor | None:
    """TRE per landmark, ``(N,)`` mm, with every mapped point moved to the nearest voxel centre of
    the moving image.

    Source: R. Castillo et al., Phys. Med. Biol. 54, 2009: the landmarks of DIR-Lab were set on
        voxel centres.
    """
    if pair.fixed_landmarks is None or pair.moving_landmarks is None:
        return None
    grid = pair.moving.grid
    mapped = transform.map_world(pair.fixed_landmarks[0].double().T.unsqueeze(0))
    snapped = grid.to_world(grid.to_voxel(mapped).round())
    return (snapped - pair.moving_landmarks[0].double().T.unsqueeze(0)).norm(dim=1)[0]
