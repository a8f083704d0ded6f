"""Options come from the signatures and docstrings of the functions that the commands call."""

from __future__ import annotations

import ast
import inspect
import re
import subprocess
import sys
from argparse import Action, ArgumentParser
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from lightning_reg.cli import signatures
from lightning_reg.cli.main import COMMANDS, whole_parser
from lightning_reg.cli.signatures import add_options, arguments_of
from lightning_reg.registry import DataError

CLI = Path(signatures.__file__).parent


def parsers() -> dict[str, ArgumentParser]:
    """Parsers of all commands and of their actions, by their words."""

    def inside(name: str, parser: ArgumentParser) -> Iterator[tuple[str, ArgumentParser]]:
        yield name, parser
        for action in parser._actions:
            if isinstance(action.choices, dict):
                for word, one in action.choices.items():
                    yield from inside(f"{name} {word}".strip(), one)

    return dict(inside("", whole_parser()))


PARSERS = parsers()
OPTIONS = [
    pytest.param(name, action, id=f"{name} {action.option_strings or action.dest}")
    for name, parser in PARSERS.items()
    for action in parser._actions
    if action.dest not in ("help", "command", "action") and name != "train"
]


def test_every_command_is_looked_at() -> None:
    assert set(COMMANDS) < set(PARSERS)
    assert {"models pack", "plugins new", "models describe"} < set(PARSERS)


@pytest.mark.parametrize(("name", "action"), OPTIONS)
def test_every_option_has_a_help_without_markup_that_names_options_of_its_command(
    name: str, action: Action
) -> None:
    assert action.help
    assert not re.search(r"``|:\w+:`|[.,;:]$(?<!\.\.\.)", action.help)
    known = {option for parser in PARSERS.values() for option in parser._option_string_actions}
    if name in ("register", "apply", "export", "prepare", "check", "study"):
        known = set(PARSERS[name]._option_string_actions)
    assert set(re.findall(r"--[a-z][\w-]*", action.help)) <= known


CALLS = [
    (path.stem, target)
    for path in sorted(CLI.glob("*.py"))
    for target in re.findall(r'"([a-z_.]+:[\w.]+)"', path.read_text())
    if (CLI.parent / f"{target.partition(':')[0].replace('.', '/')}.py").is_file()
]


@pytest.mark.parametrize(("command", "target"), CALLS)
def test_the_source_is_read_as_python_reads_it(command: str, target: str) -> None:
    """Names and plain defaults of the arguments are those of the imported function."""
    module, _, name = target.partition(":")
    function: Any = import_module(f"lightning_reg.{module}")
    for part in name.split("."):
        function = getattr(function, part)
    signature = inspect.signature(function).parameters
    arguments = arguments_of(target)
    assert [one for one in arguments if one not in ("self", "cls")] == [
        one for one in signature if one not in ("self", "cls")
    ]
    for one, argument in arguments.items():
        if one in signature:
            default = signature[one].default
            assert argument.required == (default is inspect.Parameter.empty)
            if isinstance(default, (bool, int, float, str, Path)):
                assert argument.default == default


SOURCE = '''"""A module."""
from nowhere import Thing

Size = Annotated[int, Range(2, of="voxels")]


def call(
    thing: Thing,
    path: Path,
    size: Size = {size},
    *,
    spacing: Sequence[float] = (1.0, 2.5),
    names: Sequence[str] = (),
    mode: Literal["near", "far"] | None = None,
    share: tuple[int, int] = (1, 1),
    wait: bool = True,
    loud: bool = False,
) -> None:
    """Call.

    Args:
        thing: a thing. It is one.
        path: file to read, see :func:`~some.module.read`; half of ``size``.
        size: extent
            in 100 % of voxels. None is smaller.
        spacing: voxel size, mm.
        names, mode: of :class:`some.Thing`, ``null``: not.
        share: share.
        wait: wait for it.
        loud: tell.
    """
'''


@pytest.fixture
def parser(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Function from a default to a parser of options from a module that cannot be imported."""

    def made(size: int) -> ArgumentParser:
        tree = ast.parse(SOURCE.format(size=size))
        monkeypatch.setattr(signatures, "_parsed", lambda module: tree)
        parser = ArgumentParser()
        add_options(
            parser, "module:call", "path", "--size", "--spacing MM MM", "[--name NAME]...",
            "--mode", "--share I/N", "--no-wait", "[--loud]", "[--scale N ...]", scale="spacing",
        )  # fmt: skip
        return parser

    return made


def test_a_changed_default_in_a_signature_is_the_options_default(parser) -> None:
    for size in (3, 7):
        options = parser(size)
        assert options.parse_args(["p"]).size == size
        assert f"(default {size})" in " ".join(options.format_help().split())


def test_types_choices_and_help_are_those_of_the_signature(parser) -> None:
    options = parser(3)
    words = ["~/p", "--size", "4", "--spacing", "1", "2", "--name", "a", "--name", "b", "--no-wait"]
    given = options.parse_args([*words, "--mode", "none", "--share", "2/3", "--scale", "1.5", "2"])
    assert vars(given) == {
        "path": Path("~/p").expanduser(), "size": 4, "spacing": [1.0, 2.0], "name": ["a", "b"],
        "mode": "none", "share": (2, 3), "no_wait": True, "loud": False, "scale": [1.5, 2.0],
    }  # fmt: skip
    left_out = vars(options.parse_args(["p"]))
    assert left_out | {"path": None} == {
        "path": None, "size": 3, "spacing": (1.0, 2.5), "name": [], "mode": None, "share": (1, 1),
        "no_wait": False, "loud": False, "scale": None,
    }  # fmt: skip
    text = " ".join(options.format_help().split())
    assert "file to read; half of --size" in text
    assert "extent in 100 % of voxels (default 3)" in text
    assert "voxel size, mm (default 1 2.5)" in text
    assert "of Thing, none: not (repeatable)" in text
    assert "{near,far,none}" in text
    assert "do not wait for it" in text


def test_a_number_outside_its_range_is_refused_by_its_constraint(parser) -> None:
    options = parser(3)
    with pytest.raises(DataError, match=r"--size is 1; give a whole number of voxels, 2 or more\."):
        options.parse_args(["p", "--size", "1"])
    with pytest.raises(DataError, match="--shard is '3'"):
        options.parse_args(["p", "--share", "3"])
    with pytest.raises(SystemExit):
        options.parse_args(["p", "--size", "many"])


@pytest.mark.parametrize("command", sorted(set(COMMANDS) - {"train"}))
def test_the_help_of_a_command_imports_nothing_heavy(command: str) -> None:
    line = [sys.executable, "-X", "importtime", "-m", "lightning_reg.cli.main", command, "--help"]
    done = subprocess.run(line, capture_output=True, text=True, check=True)
    assert f"usage: lightning-reg {command}" in done.stdout
    imported = {row.rpartition("|")[2].strip() for row in done.stderr.splitlines()}
    assert "lightning_reg.cli.main" in imported or "lightning_reg.cli.failures" in imported
    assert not imported & {"torch", "numpy", "lightning", "nibabel"}
