"""Files of YAML and JSON are read as plain values of bounded size."""

from __future__ import annotations

import itertools
import json
import re
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

import lightning_reg
from lightning_reg.configuration.composition import compose
from lightning_reg.io.reading import DEPTH, LARGEST_YAML, as_yaml, read_json, read_yaml
from lightning_reg.registry import DataError

LINES = [f"{b}: &{b} [{', '.join(9 * [f'*{a}'])}]" for a, b in itertools.pairwise("abcdefghi")]
NINES = "\n".join(["a: &a [x, x, x, x, x, x, x, x, x]", *LINES])
MERGES = "\n".join(
    ["a: &a {k: 1}", *(line.replace("[", "{<<: [").replace("]", "]}") for line in LINES)]
)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.yaml", NINES, "more than 100,000 values, aliases included"),
        ("x.yaml", MERGES, "more than 100,000 values, aliases included"),
        ("x.yaml", "&a [*a]", "an alias stands for the value that contains it"),
        ("x.yaml", "[" * 5000, "nested more than 50 deep"),
        ("x.yaml", "{a: " * 3000 + "1" + "}" * 3000, "nested more than 50 deep"),
        ("x.json", "[" * 5000 + "]" * 5000, "nested more than 50 deep"),
        ("x.json", '{"a":' * 200_000, "nested more than 50 deep"),
        ("x.yaml", "#" * (LARGEST_YAML + 1), "larger than 1 MiB"),
        ("x.yaml", "!!python/object/apply:os.getcwd []", "could not determine a constructor"),
        ("x.yaml", "x: ${oc.env:HOME}", r"'\$\{oc\.env:HOME\}' refers to the environment"),
        ("x.yaml", "x: ${${y}.env:HOME}\ny: oc", "refers to the environment"),
        ("x.yaml", "y: [1, 2]\nx: ['${y}', '${y}']", "refers to the environment or another value"),
        ("x.yaml", "${oc.env:HOME}: 1", "refers to the environment"),
        ("x.yaml", "!!bool x", "cannot be read as YAML"),
        ("x.yaml", "!!float ''", "cannot be read as YAML"),
        ("x.yaml", b"\xff\xfe\x00", "cannot be read as YAML"),
        ("x.json", "{", "cannot be read as JSON"),
        ("x.json", b"\x80", "cannot be read as JSON"),
    ],
)
def test_what_is_no_plain_bounded_value_is_refused(
    tmp_path: Path, name: str, content: str | bytes, message: str
) -> None:
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(DataError, match=message) as refused:
        (read_yaml if name.endswith("yaml") else read_json)(path, "make it again")
    assert str(path) in str(refused.value)
    assert str(refused.value).endswith("; make it again.")


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_yaml(tmp_path / "none.yaml")
    for path in (tmp_path, Path("/dev/zero")):
        with pytest.raises(DataError, match="is not a file"):
            read_json(path)


VALUES: dict[str, Any] = {
    "exponent": 1e-5, "text": "1e-5", "date": "2024-01-01", "number": "1.5", "large": 1e300,
    "infinite": float("inf"), "word": "null",
    "umlaut": "ä", "whole": 3, "hexadecimal": "0x1f", "list": [[1, "a"], {}],
    "root": "${data.root}",
}  # fmt: skip


def test_values_are_read_as_they_were_written_and_as_hydra_reads_them(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    shared = [1, 2]
    path.write_text(as_yaml({**VALUES, "one": shared, "other": shared}), encoding="utf-8")
    assert "*" not in path.read_text(encoding="utf-8")
    expected = {**VALUES, "one": [1, 2], "other": [1, 2]}
    assert read_yaml(path) == expected
    assert OmegaConf.to_container(OmegaConf.load(path)) == expected
    path.write_text("a: &a {k: 1e-5}\nb: {<<: *a, day: 2024-01-01}")
    assert read_yaml(path)["b"] == {"k": 1e-5, "day": "2024-01-01"}


def test_the_deepest_and_largest_files_of_this_project_are_far_from_the_limits(
    tmp_path: Path,
) -> None:
    path = tmp_path / "x.yaml"
    path.write_text(as_yaml(compose(["method=dlir", "data=phantom"])))
    assert path.stat().st_size < LARGEST_YAML / 100
    assert (
        max(len(line) - len(line.lstrip(" -")) for line in path.read_text().splitlines()) / 2
        < DEPTH / 3
    )
    deep: Any = 1
    for _ in range(DEPTH - 1):
        deep = [deep]
    (tmp_path / "x.json").write_text(json.dumps(deep))
    assert read_json(tmp_path / "x.json") == deep


def test_no_other_module_reads_yaml_or_json_files() -> None:
    reading = re.compile(
        r"safe_load|yaml\.load|json\.load\(|json\.loads\((?!json\.dumps)|OmegaConf\.load"
    )
    files = [
        path
        for path in Path(lightning_reg.__file__).parent.rglob("*.py")
        if reading.search(path.read_text(encoding="utf-8"))
    ]
    assert [path.name for path in files] == ["reading.py"]
