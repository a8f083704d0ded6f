"""Conformance kit: correct components pass, and each check fails for a component with the
corresponding fault.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import ClassVar

import pytest
from testing.broken import BROKEN, SOUND, Head_, NeverMoves, StartsFarAway, WrongSign

from lightning_reg.registry import ComponentError
from lightning_reg.testing import (
    ComponentTests,
    ConformanceError,
    check_component,
    checks,
    parametrize_with_checks,
)
from lightning_reg.testing.checks import KINDS

CASES = [(kind, name) for kind, found in BROKEN.items() for name in found]


@pytest.mark.parametrize("kind", KINDS)
def test_a_sound_component_passes(kind: str) -> None:
    check_component(kind, SOUND[kind])


@pytest.mark.parametrize("kind", KINDS)
def test_there_is_a_broken_component_for_every_check(kind: str) -> None:
    assert list(BROKEN[kind]) == [check.name for check in checks(kind)]


@pytest.mark.parametrize(("kind", "name"), CASES, ids=[f"{kind}-{name}" for kind, name in CASES])
def test_a_component_that_is_broken_so_is_found(kind: str, name: str) -> None:
    check = next(check for check in checks(kind) if check.name == name)
    with pytest.raises(ConformanceError, match=f"(?s)^{name}: .*Expected: "):
        check(BROKEN[kind][name][1])


def test_all_that_is_wrong_is_said_at_once() -> None:
    class Wrong(StartsFarAway, NeverMoves):
        pass

    with pytest.raises(
        ConformanceError, match=r"(?s)[23] of \d+ checks of a head fail.*can_move"
    ) as raised:
        check_component("head", Wrong)
    assert "starts_near_the_identity" not in str(raised.value)  # times 0


def test_an_expected_failure_has_a_reason_and_has_to_fail() -> None:
    check_component("loss", WrongSign, expected_failures={"prefers_the_truth": "it is a reward"})
    with pytest.raises(
        ConformanceError, match=r"is_a_mean: it was expected to fail .for fun. and does not"
    ):
        check_component(
            "loss",
            WrongSign,
            expected_failures={"prefers_the_truth": "it is a reward", "is_a_mean": "for fun"},
        )
    with pytest.raises(ComponentError, match="has no reason"):
        check_component("loss", WrongSign, expected_failures={"prefers_the_truth": ""})
    with pytest.raises(
        ComponentError, match="no check 'prefers_truth' of a loss; did you mean 'prefers_the_truth'"
    ):
        check_component("loss", WrongSign, expected_failures={"prefers_truth": "it is a reward"})
    with pytest.raises(ComponentError, match="no checks for 'heads'; did you mean 'head'"):
        check_component("heads", Head_)


@parametrize_with_checks(
    "loss", {"sign": WrongSign}, expected_failures={"sign": {"prefers_the_truth": "it is a reward"}}
)
def test_parametrized(check) -> None:
    check()


class TestHead(ComponentTests):
    kind = "head"
    expected_failures: ClassVar = {"starts_near_the_identity": "it starts from an atlas"}

    @pytest.fixture
    def factory(self):
        return StartsFarAway


def test_pytest_reports_each_check_by_its_name(tmp_path: Path) -> None:
    """Failures, expected failures that do not fail, and a class without its factory."""
    (tmp_path / "test_mine.py").write_text(
        "import pytest\nfrom lightning_reg.testing import ComponentTests\nfrom testing.broken"
        " import Term_, WrongSign\nclass TestWrong(ComponentTests):\n    kind = 'loss'\n   "
        " expected_failures = {'is_a_mean': 'for fun'}\n    @pytest.fixture\n    def"
        " factory(self):\n        return WrongSign\nclass TestEmpty(ComponentTests):\n    kind ="
        " 'loss'\n"
    )
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-rA",
        "-p",
        "no:cacheprovider",
        "--rootdir",
        str(tmp_path),
        str(tmp_path),
    ]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
    result = subprocess.run(
        command, capture_output=True, text=True, cwd=tmp_path, env=environment, check=False
    )
    assert "FAILED test_mine.py::TestWrong::test_conformance[prefers_the_truth]" in result.stdout
    assert "FAILED test_mine.py::TestWrong::test_conformance[is_a_mean]" in result.stdout  # strict
    assert (
        "PASSED test_mine.py::TestWrong::test_conformance[one_value_per_element]" in result.stdout
    )
    assert "override the fixture 'factory' of ComponentTests" in result.stdout
