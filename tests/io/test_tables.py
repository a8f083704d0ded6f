"""Tables, names of files, and locks."""

from __future__ import annotations

from pathlib import Path

import pytest
from filelock import FileLock

from lightning_reg.io.lock import is_written, one_writer
from lightning_reg.io.names import file_name, is_file_name, unique
from lightning_reg.io.tables import read_table, write_table
from lightning_reg.registry import DataError


def test_a_table_has_the_given_columns_and_then_those_of_its_rows(tmp_path: Path) -> None:
    rows = [{"b": 1, "a": 'x, "y"'}, {"c": None, "b": 0.1}]
    write_table(tmp_path / "t.csv", rows, ("a", "d"))
    text = (tmp_path / "t.csv").read_bytes()
    assert text == b'a,d,b,c\r\n"x, ""y""",,1,\r\n,,0.1,\r\n'
    assert read_table(tmp_path / "t.csv", ("a",)) == [
        (2, {"a": 'x, "y"', "d": "", "b": "1", "c": ""}),
        (3, {"a": "", "d": "", "b": "0.1", "c": ""}),
    ]
    write_table(tmp_path / "t.csv", [{"path": "\udcff"}])
    assert (tmp_path / "t.csv").read_text().split() == ["path", "\\udcff"]
    with pytest.raises(DataError, match="has no column 'way'"):
        read_table(tmp_path / "t.csv", ("way",))


def test_repeated_names_are_numbered() -> None:
    assert unique(["a", "b", "a", "a-2", "a"]) == ["a", "b", "a-2", "a-2-2", "a-3"]
    assert unique(["a", "A", "b"], key=str.lower) == ["a", "A-2", "b"]
    assert unique(["a", "A"]) == ["a", "A"]


@pytest.mark.parametrize("text", ["phantom-1 inhale < exhale", "..", "-x", "ü/a", "x" * 300])
def test_a_name_of_a_file_is_one(text: str) -> None:
    assert is_file_name(file_name(text))
    assert is_file_name(text) == (file_name(text, len(text)) == text)


def test_a_folder_is_written_while_its_lock_is_held(tmp_path: Path) -> None:
    assert not is_written(tmp_path / "none")
    with one_writer(tmp_path):
        assert is_written(tmp_path)
        assert not is_written(tmp_path, ".other")
    assert not is_written(tmp_path)
    with FileLock(tmp_path / ".other"):
        assert is_written(tmp_path, ".other")
