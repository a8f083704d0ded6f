"""Report of an existing folder of results."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torchio as tio

from lightning_reg.data.scans import grid_of, make_pair, original, read_pair
from lightning_reg.inference.outputs import OUTPUTS
from lightning_reg.inference.report.evaluation import write_report as write_evaluation
from lightning_reg.inference.report.evaluation import write_run_report
from lightning_reg.inference.report.page import ReportSection
from lightning_reg.inference.report.registration import write_report as write_registration
from lightning_reg.inference.result import Result
from lightning_reg.io.folders import MARK, refuse_links, written_file
from lightning_reg.io.reading import read_json
from lightning_reg.io.transform_files import TRANSFORM
from lightning_reg.io.transform_reading import read_transform
from lightning_reg.metrics import summaries
from lightning_reg.registry import DataError
from lightning_reg.spatial import Affine, Image, Pair, Transform

SPREAD = OUTPUTS["spread"].file
WORDS = ("case", "method", "error")
"""Columns of a table of cases that contain text."""


def report_again(folder: Path, sections: Sequence[ReportSection] = ()) -> Path:
    """Write ``report.html`` of a training run, a registration or an evaluation; returns its path.

    Args:
        folder: folder of a training run, a registration or an evaluation.
        sections: report sections of other distributions, for a registration.

    Raises:
        DataError: there is no such folder, it is none of the three, it has symbolic links, or the
            images of a registration no longer exist.
    """
    if not folder.is_dir():
        raise DataError(f"There is no folder {folder}; correct the path.")
    refuse_links(folder, (TRANSFORM, MARK, SPREAD, "cases.csv", "config.yaml", "figures"))
    path = folder / "report.html"
    with written_file(path, overwrite=True) as partial:
        if (folder / TRANSFORM).is_file():
            _registration(partial, folder, sections)
        elif (folder / MARK).is_file():
            methods: dict[str, list[dict[str, Any]]] = {}
            for row in read_rows(folder / "cases.csv"):
                methods.setdefault(str(row.pop("method", "model")), []).append(row)
            write_evaluation(partial, methods, _record(folder))
        elif (folder / "cases.csv").is_file() and (folder / "config.yaml").is_file():
            rows = read_rows(folder / "cases.csv")
            figures = sorted((folder / "figures").rglob("*.png"))
            settings = (folder / "config.yaml").read_text(encoding="utf-8").splitlines()
            write_run_report(partial, folder.name, rows, figures, summaries(rows), settings)
        else:
            raise DataError(
                f"{folder} is no run, registration or evaluation (no {TRANSFORM}, {MARK} or"
                " cases.csv in it); give one of these."
            )
    return path


def _record(folder: Path) -> dict[str, Any]:
    path = folder / MARK
    record = read_json(path, "make the folder again")
    if not isinstance(record, dict):
        raise DataError(
            f"{path} is a {type(record).__name__} where a record is meant; make the folder again."
        )
    return record


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Read the rows of a table of cases: numbers, and text in the columns :data:`WORDS`.

    Raises:
        DataError: it is not such a table.
    """
    try:
        with path.open(newline="", encoding="utf-8") as file:
            return [
                {k: v if k in WORDS else float(v) for k, v in row.items() if v != ""}
                for row in csv.DictReader(file)
            ]
    except (ValueError, TypeError, csv.Error) as cause:
        raise DataError(f"{path} is no table of cases ({cause}); make the folder again.") from cause


def _registration(path: Path, folder: Path, sections: Sequence[ReportSection]) -> None:
    record = _record(folder)
    needed = ("inputs", "start", "metrics", "history", "settings")
    lacking = [key for key in needed if key not in record]
    if lacking:
        raise DataError(f"{folder / MARK} lacks {', '.join(lacking)}; register the pair again.")
    inputs = record["inputs"]
    if not {"fixed", "moving"} <= inputs.keys():
        raise DataError(
            f"{folder} was made from images in memory, which are gone; its report can only be"
            " written with it."
        )
    try:
        fixed, moving = (original(subject) for subject in read_pair(inputs))
    except DataError as cause:
        raise DataError(
            f"{folder / MARK} names an image that cannot be read any more. {cause}"
        ) from cause
    pair = make_pair(fixed, moving, overlapping=False)
    transform = read_transform(folder / TRANSFORM)
    start: Transform = Affine(torch.tensor([record["start"]], dtype=torch.float64), pair.fixed.grid)
    result = Result(pair, transform, start, pair, spread=read_spread(folder, pair))
    write_registration(path, result, record, sections)


def read_spread(folder: Path, pair: Pair) -> torch.Tensor | None:
    """Read an ensemble's spread, on the fixed image's grid; ``None`` if there is none."""
    path = folder / SPREAD
    if not path.is_file():
        return None
    image = tio.ScalarImage(path)
    return Image(image.data.float()[None], grid_of(image)).resampled(pair.fixed.grid).tensor
