"""Packages written by ``lightning-reg plugins new``: lint-free in every combination; installed,
tested and trained.
"""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import yaml
from test_packaging import ROOT, install

from lightning_reg.cli.scaffold import PARTS, write_package
from lightning_reg.registry import UserError

COMBINATIONS = [
    chosen for count in range(len(PARTS) + 1) for chosen in itertools.combinations(PARTS, count)
]


@pytest.fixture(scope="module")
def everything(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("packages")
    for chosen in COMBINATIONS:
        write_package(called(chosen), folder, chosen)
    return folder


def called(chosen: Sequence[str]) -> str:
    """A short name for a package with these parts."""
    return "_".join(["my", *(part[:4] for part in chosen)]) if chosen else "my_own"


def test_every_combination_is_tidy(everything: Path) -> None:
    """Formatted, sorted, without unused names; configurations name what the package registers, and
    what is built in.
    """
    for command in (["check", "--no-cache"], ["format", "--check", "--no-cache"]):
        result = subprocess.run(
            [sys.executable, "-m", "ruff", *command, str(everything)],
            capture_output=True,
            text=True,
        )
        assert result.returncode == 0, result.stdout
    for folder in everything.iterdir():
        chosen = {part for part in PARTS if (folder / "src" / folder.name / f"{part}.py").exists()}
        method = yaml.safe_load(
            (folder / "src" / folder.name / "conf" / "method" / f"{folder.name}.yaml").read_text()
        )
        composer = method["composer"]
        named = {
            "composer": composer["name"], "backbone": composer["backbone"]["name"],
            "head": composer["head"]["name"],
            "loss": next(iter(method["loss"]["terms"])),
            "callback": next(iter(method.get("callbacks", {None: 0}))),
        }  # fmt: skip
        assert {part for part, name in named.items() if name == folder.name} == chosen - {"dataset"}
        assert (folder / "src" / folder.name / "conf" / "data").exists() == ("dataset" in chosen)
        assert set(
            yaml.safe_load((folder / ".github" / "workflows" / "test.yml").read_text())["jobs"]
        ) == {"test"}


@pytest.mark.slow
def test_what_comes_out_installs_passes_its_tests_and_trains(
    everything: Path, tmp_path: Path
) -> None:
    """Each kind alone, nothing chosen, and all at once, side by side in one environment."""
    names = [called(chosen) for chosen in ((), *((part,) for part in PARTS), tuple(PARTS))]
    site = tmp_path / "site"
    install(*[everything / name for name in names], site=site)
    environment = os.environ | {"PYTHONPATH": str(site), "MPLBACKEND": "Agg"}
    for name in names:
        command = [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-p",
            "no:cacheprovider",
            "-x",
            str(everything / name),
        ]
        result = subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True
        )
        assert result.returncode == 0, result.stdout
    quick = [
        "data.dataset.shape=[16,16,16]",
        "data.dataset.crop=null",
        "data.dataset.subjects=2",
        "data.dataset.validation=1",
        "data.workers=0",
    ]
    line = [
        str(ROOT / "train.py"),
        f"method={names[-1]}",
        "data=phantom",
        *quick,
        "trainer.max_steps=3",
        "run=mine",
    ]
    trained = subprocess.run(
        [sys.executable, *line], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert trained.returncode == 0, trained.stderr
    checked = [
        sys.executable,
        "-m",
        "lightning_reg.cli.main",
        "plugins",
        "--from",
        names[-1].replace("_", "-"),
        "--check",
    ]
    listed = subprocess.run(checked, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert listed.returncode == 0, listed.stdout


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("My-Method", "small letters"),
        ("2nd", "small letters"),
        ("torch", "installed already"),
        ("a__b", "small letters"),
        ("a_", "small"),
    ],
)
def test_a_name_that_is_none_is_refused(name: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        write_package(name, tmp_path, [])


def test_a_folder_that_is_there_is_left_alone(tmp_path: Path) -> None:
    write_package("some_method", tmp_path, ["loss"])
    with pytest.raises(UserError, match="some_method exists"):
        write_package("some_method", tmp_path, ["head"])
    assert not (tmp_path / "some_method" / "src" / "some_method" / "head.py").exists()
