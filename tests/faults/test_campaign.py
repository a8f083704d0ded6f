"""Every bad input and setting of the campaign gives one sentence that names its object, and leaves
no file.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from faults.campaign import Case, cases, materials, verdict

CASES = cases()


@pytest.fixture(scope="module")
def ready(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return materials(tmp_path_factory.mktemp("campaign") / "materials")


def test_cases_have_names_of_their_own() -> None:
    assert len({case.name for case in CASES}) == len(CASES) > 400


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES, ids=str)
def test_one_sentence(ready: Path, tmp_path: Path, case: Case) -> None:
    found, printed = verdict(case, ready, tmp_path / "work")
    assert found == "sentence", printed
