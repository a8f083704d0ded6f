"""Settings for small data and those of the papers: ``size=small`` and ``size=paper``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from lightning_reg.configuration.composition import compose, explained
from lightning_reg.configuration.folders import own_directory
from lightning_reg.configuration.values import _files
from lightning_reg.registry import UserError

CONF = Path(own_directory())
METHODS = sorted(path.stem for path in (CONF / "method").glob("*.yaml"))
SMALL = {"folder", "hippocampus", "pairs", "phantom"}
DATA = sorted(path.stem for path in (CONF / "data").glob("*.yaml"))
ANYWHERE = "++data.root=/data"


def method(*overrides: str) -> dict[str, Any]:
    return compose([*overrides, ANYWHERE])["method"]


def written(path: str) -> dict[str, Any]:
    return yaml.safe_load((CONF / path).read_text())


def contains(whole: Any, part: Any) -> bool:
    """Whether a configuration has all values of a file; a value by reference is any."""
    if isinstance(part, dict):
        return all(key in whole and contains(whole[key], value) for key, value in part.items())
    if isinstance(part, list):
        return len(whole) == len(part) and all(map(contains, whole, part))
    return whole == part or (isinstance(part, str) and "${" in part)


def test_each_data_set_has_its_size() -> None:
    short = written("method_data/velocity_small.yaml")["method"]
    for data in DATA:
        composed = method("method=velocity", f"data={data}")
        assert contains(composed, short) == (data in SMALL), data


@pytest.mark.parametrize("name", METHODS)
def test_a_method_has_its_settings_for_small_data_unless_the_size_is_the_papers(name: str) -> None:
    short = written(f"method_data/{name}_small.yaml")["method"]
    own = written(f"method/{name}.yaml")
    assert contains(method(f"method={name}", "data=folder"), short)
    paper = compose([f"method={name}", "data=folder", "size=paper", ANYWHERE])
    assert contains(paper["method"], own)
    assert not contains(paper["method"], short)
    assert paper == compose([f"method={name}", "data=folder", "experiment=paper", ANYWHERE])
    assert paper["method"] == method(f"method={name}", "data=folder", "~method_data")


def test_the_size_of_the_command_line_comes_before_that_of_the_data() -> None:
    assert method("method=velocity", "data=oasis", "size=small")["steps"] == 1200
    assert method("method=velocity", "data=phantom", "size=paper")["steps"] == 100000


def test_breathing_is_for_the_phantom_at_its_small_size_alone() -> None:
    assert method("method=progressive", "data=phantom")["sampling"]["density"] is True
    for others in (["data=hippocampus"], ["data=phantom", "size=paper"], ["method=velocity"]):
        assert "density" not in method("method=progressive", *others).get("sampling", {})


def test_a_budget_of_own_data_is_kept_unless_the_size_is_the_papers() -> None:
    assert compose(["data=folder", ANYWHERE])["budget"] == 60
    assert compose(["data=folder", ANYWHERE, "size=small"])["budget"] == 60
    assert compose(["data=folder", ANYWHERE, "size=paper"])["budget"] is None
    assert compose(["data=folder", ANYWHERE, "size=paper", "budget=20"])["budget"] == 20
    assert compose(["data=oasis", ANYWHERE, "data.budget=30"])["budget"] == 30


def test_the_comments_of_a_small_size_are_meanings(monkeypatch: pytest.MonkeyPatch) -> None:
    def commented(config: Any, choices: dict[str, str]) -> list[Any]:
        return sorted(str(file.relative_to(CONF)) for file, _ in _files(choices))

    monkeypatch.setattr("lightning_reg.configuration.composition.described", commented)
    files = explained(["method=progressive", "data=phantom"])
    assert {"method_data/progressive_small.yaml", "method_data/progressive/phantom.yaml"} < set(
        files
    )


def test_no_other_size() -> None:
    with pytest.raises(UserError, match="There is no size named 'tiny'"):
        compose(["size=tiny"])
