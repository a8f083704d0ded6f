"""Tables: CSV files with a header and one row per item."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning_reg.io.folders import write_whole
from lightning_reg.registry import DataError, did_you_mean


def table_text(rows: Sequence[Mapping[str, Any]], columns: Sequence[str] = ()) -> str:
    """CSV of rows; missing values are empty.

    Args:
        columns: the first columns; the others are the keys, in order of first appearance.
    """
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, dict.fromkeys([*columns, *(key for row in rows for key in row)]))
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def write_table(path: Path, rows: Sequence[Mapping[str, Any]], columns: Sequence[str] = ()) -> None:
    """Write :func:`table_text` to a file, completely or not at all.

    Raises:
        OSError: the file cannot be written.
    """
    write_whole(path, table_text(rows, columns).encode(errors="backslashreplace"))


def read_table(path: Path, required: Sequence[str]) -> list[tuple[int, dict[str, str]]]:
    """Read a table with a header: for each line its number and its cells by column, without
    surrounding blanks.

    The separator is the comma, semicolon or tab that occurs most often in the header.

    Raises:
        DataError: the file does not exist, is not text, or has no rows; a column occurs twice, or a
            required column is missing; a line has more cells than the header.
    """
    if not path.is_file():
        raise DataError(f"There is no file {path}; correct the path.")
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            header = file.readline()
            file.seek(0)
            reader = csv.DictReader(file, delimiter=max(",;\t", key=header.count))
            columns = [(name or "").strip() for name in reader.fieldnames or []]
            reader.fieldnames = columns
            double = next((name for name in columns if name and columns.count(name) > 1), None)
            if double is not None:
                raise DataError(f"{path} has the column '{double}' twice; remove one.")
            lines = []
            for row in reader:
                if any(cell.strip() for cell in row.pop(None, [])):
                    raise DataError(
                        f"Line {reader.line_num} of {path} has more cells than the header; quote"
                        " what has a separator in it."
                    )
                cells = {key: (value or "").strip() for key, value in row.items()}
                if any(cells.values()):
                    lines.append((reader.line_num, cells))
    except (UnicodeDecodeError, csv.Error) as cause:
        raise DataError(f"{path} is no table ({cause}); save it as CSV in UTF-8.") from cause
    for column in required:
        if column not in columns:
            raise DataError(
                f"{path} has no column '{column}'{did_you_mean(column, columns)} It has:"
                f" {', '.join(columns) or 'none'}."
            )
    if not lines:
        raise DataError(f"{path} has no rows below its header; add some.")
    return lines
