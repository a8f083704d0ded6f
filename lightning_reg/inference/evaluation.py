"""A model on a data set: case by case, in all, and against another model."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from lightning_reg.data.datasets.interface import Split
from lightning_reg.data.datasets.splits import Splits
from lightning_reg.discovery import DataError
from lightning_reg.inference import learn2reg
from lightning_reg.inference.registrar import Registrar
from lightning_reg.inference.report.evaluation import write_report
from lightning_reg.inference.result import Result, finite
from lightning_reg.io.folders import MARK, written_whole
from lightning_reg.metrics.statistics import is_number, paired, summaries
from lightning_reg.spatial import Pair, Transform


@dataclass(frozen=True)
class Evaluation:
    """The rows of one or two models on the same cases.

    Args:
        rows: per case its values by column, ``case`` first.
        against: the same cases by the second model, where there is one.
        settings: of both.
    """

    rows: list[dict[str, Any]]
    against: list[dict[str, Any]] | None
    settings: dict[str, Any]

    def totals(self) -> dict[str, dict[str, float]]:
        """Per column ``mean, sd, low, high, n``, see :func:`~lightning_reg.metrics.statistics.summary`."""
        return summaries(self.rows)

    def comparison(self) -> dict[str, dict[str, float]]:
        """Per metric the mean paired difference (second minus first model) with its interval, and Wilcoxon's p."""
        if self.against is None:
            return {}
        found = {}
        for column in self.totals():
            if column == "seconds" or "before" in column:
                continue
            both = [(a, b) for a, b in zip(self.rows, self.against, strict=True) if is_number(a, column) and is_number(b, column)]
            pairs = [(a[column], b[column]) for a, b in both]
            if len(pairs) > 1:
                found[column] = paired(*zip(*pairs, strict=True))
        return found

    def save(self, folder: str | Path, overwrite: bool = False, fields: Mapping[str, Tensor] | None = None) -> Path:
        """Write ``cases.csv`` (``cases_against.csv``), ``metrics.json``, ``report.html`` and, in Learn2Reg's form, ``fields``."""
        with written_whole(Path(folder), overwrite, "evaluate") as partial:
            write_rows(partial / "cases.csv", self.rows)
            if self.against is not None:
                write_rows(partial / "cases_against.csv", self.against)
            second = {"against": summaries(self.against)} if self.against is not None else {}
            record = finite({"totals": self.totals(), **second, "comparison": self.comparison(), "settings": self.settings})
            (partial / MARK).write_text(json.dumps(record, indent=2, default=str) + "\n")
            for name, field in (fields or {}).items():
                (partial / "learn2reg").mkdir(exist_ok=True)
                learn2reg.write_displacement(partial / "learn2reg" / name, field)
            write_report(partial / "report.html", self.rows, self.against, record)
        return Path(folder)


def evaluate_dataset(
    registrar: Registrar,
    data: Splits,
    *,
    split: Split | None = "validation",
    limit: int | None = None,
    refine: int | None = None,
    challenge: bool = False,
    progress: Callable[[int, int, Mapping[str, Any], Result], None] | None = None,
) -> list[dict[str, Any]]:
    """Register every pair of a split and measure it on its original grids.

    Args:
        split: whose pairs; ``None``: all.
        limit: at most this many pairs.
        refine: steps of instance optimisation after the network.
        challenge: add Learn2Reg's variants.
        progress: called after every pair with its number, how many there are, its row and the result.

    Raises:
        DataError: the data have no such pairs, or a pair cannot be registered.
    """
    pairs = data.pairs(split)[:limit]
    if not pairs:
        raise DataError(f"The data have no pairs in their split '{split or 'all'}'; choose another data set or split.")
    subjects = data.subjects(split)
    registrar = replace(registrar, preprocessing=registrar.preprocessing.remaining(data.geometry))
    rows = []
    for number, (fixed, moving) in enumerate(pairs):
        result = registrar.register_subjects(subjects[fixed], subjects[moving], refine=refine)
        row = case_row(result, challenge)
        rows.append(row)
        if progress is not None:
            progress(number, len(pairs), row, result)
    return rows


def case_row(result: Result, challenge: bool = False) -> dict[str, Any]:
    """The columns of one registered pair."""
    row: dict[str, Any] = dict(result.case.row())
    snapped = snapped_errors(result.pair, result.transform)
    if snapped is not None:
        row["tre_after_snapped_mm"] = float(snapped.mean())
    if challenge:
        field = learn2reg.voxel_displacement(result.transform, result.pair.fixed.grid, result.pair.moving.grid)
        row["sdlogj_learn2reg"] = learn2reg.sdlogj(field)
        distance = learn2reg.hd95(result.pair, result.transform)
        if distance is not None:
            row["hd95_after_learn2reg_voxels"] = distance
    return row | {"seconds": sum(result.seconds.values())}


def snapped_errors(pair: Pair, transform: Transform) -> Tensor | None:
    """TRE per landmark, ``(N,)`` mm, with every mapped point moved to the nearest voxel centre of the moving image.

    Source: R. Castillo et al., Phys. Med. Biol. 54, 2009: the landmarks of DIR-Lab were set on voxel centres.
    """
    if pair.fixed_landmarks is None or pair.moving_landmarks is None:
        return None
    grid = pair.moving.grid
    mapped = transform.map_world(pair.fixed_landmarks[0].double().T.unsqueeze(0))
    snapped = grid.to_world(grid.to_voxel(mapped).round())
    return (snapped - pair.moving_landmarks[0].double().T.unsqueeze(0)).norm(dim=1)[0]


def write_rows(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """A CSV file with a column per key, in the order in which they first appear."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)
