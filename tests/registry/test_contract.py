"""Contract with other distributions: namespaces, versions, and origin of a model's components."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from untrained import VELOCITY, checkpoint

from lightning_reg.components import Head
from lightning_reg.configuration.building import build_composer
from lightning_reg.configuration.describing import describe
from lightning_reg.registry import CONTRACT, ComponentError, chosen, load, registered_name
from lightning_reg.registry.entries import _installed
from lightning_reg.registry.provenance import entries, require_installed
from lightning_reg.training.module import RegistrationModule

CODE = """
{bound}
from lightning_reg.components.heads.fields import VelocityHead
class Mine(VelocityHead):
    pass
"""


@pytest.fixture
def distribution(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Path]]:
    """Puts a distribution with heads onto the path, as pip would."""
    made: list[str] = []
    monkeypatch.syspath_prepend(str(tmp_path))

    def make(name: str, version: str = "0.1", bound: str = "", **heads: str) -> Path:
        package = name.replace("-", "_")
        info = tmp_path / f"{package}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        lines = "\n".join(f"{key} = {target}" for key, target in heads.items())
        (info / "entry_points.txt").write_text(f"[lightning_reg.heads]\n{lines}\n")
        (tmp_path / f"{package}.py").write_text(CODE.format(bound=bound))
        importlib.invalidate_caches()
        made.append(package)
        return info

    yield make
    for package in made:
        sys.modules.pop(package, None)


def test_a_name_has_the_namespace_of_its_distribution(distribution: Callable[..., Path]) -> None:
    distribution("nice-heads", mine="nice_heads:Mine", velocity="nice_heads:Mine")
    assert chosen("heads", "velocity").distribution == "lightning-reg"
    assert chosen("heads", "lightning_reg.velocity").distribution == "lightning-reg"
    assert chosen("heads", "nice_heads.velocity").distribution == "nice-heads"
    mine = load("heads", "mine", Head)
    assert registered_name(mine, "heads") == "nice_heads.mine"
    with pytest.raises(
        ComponentError,
        match=r"no head named 'dense' of nice_heads; it is provided by lightning-reg",
    ):
        chosen("heads", "nice_heads.dense")
    with pytest.raises(
        ComponentError, match=r"no head named 'mine' of nasty_heads; it is provided by nice-heads"
    ):
        chosen("heads", "nasty_heads.mine")
    with pytest.raises(
        ComponentError,
        match=r"no head named 'other' of nasty_heads, or the distribution is not installed",
    ):
        chosen("heads", "nasty_heads.other")


def test_a_name_of_two_distributions_is_refused_where_it_is_used_and_says_how_to_choose(
    distribution: Callable[..., Path],
) -> None:
    distribution("nice-heads", mine="nice_heads:Mine")
    distribution("other.heads", mine="other_heads:Mine")
    with pytest.raises(
        ComponentError,
        match=(
            r"provided twice, by .*write (nice_heads\.mine or other_heads\.mine|other_heads\.mine"
            r" or nice)"
        ),
    ):
        chosen("heads", "mine")
    assert chosen("heads", "other_heads.mine").distribution == "other.heads"


def test_the_form_of_before_still_works_and_warns(distribution: Callable[..., Path]) -> None:
    distribution("nice-heads", mine="nice_heads:Mine")
    with pytest.warns(
        FutureWarning,
        match=(
            r"'nice-heads:mine' is deprecated since version 1\.0 of the plugin contract; write"
            r" 'nice_heads.mine'"
        ),
    ):
        assert chosen("heads", "nice-heads:mine").name == "mine"


@pytest.mark.parametrize(
    ("bound", "message"),
    [
        (
            'requires_lightning_reg = ">=2"',
            rf"needs version >=2 of the plugin contract, and this lightning_reg has {CONTRACT}",
        ),
        (
            'requires_lightning_reg = "two"',
            r"has requires_lightning_reg = 'two', which is no range of versions",
        ),
        (f'requires_lightning_reg = ">={CONTRACT},<2"', ""),
    ],
)
def test_a_package_may_bound_the_contract(
    bound: str, message: str, distribution: Callable[..., Path]
) -> None:
    distribution("nice-heads", bound=bound, mine="nice_heads:Mine")
    if not message:
        assert load("heads", "mine", Head)
        return
    with pytest.raises(
        ComponentError, match=rf"The head 'mine' of nice-heads 0\.1 \(nice_heads:Mine\) {message}"
    ):
        load("heads", "mine", Head)


def method() -> dict[str, Any]:
    return {**VELOCITY, "composer": {**VELOCITY["composer"], "head": {"name": "mine", "steps": 3}}}


def test_a_checkpoint_says_where_its_components_came_from(
    distribution: Callable[..., Path], tmp_path: Path
) -> None:
    distribution("nice-heads", mine="nice_heads:Mine")
    path = checkpoint(tmp_path / "a.ckpt", method())
    kept = torch.load(path, weights_only=True)["lightning_reg"]
    assert {
        "group": "heads",
        "name": "mine",
        "distribution": "nice-heads",
        "version": "0.1",
    } in kept["components"]
    assert {one["group"] for one in kept["components"]} == {
        "composers",
        "backbones",
        "heads",
        "losses",
        "optimizers",
        "schedules",
    }
    assert kept["model"]["composer"]["network"]["head"]["name"] == "nice_heads.mine"
    assert describe(build_composer(kept["model"]["composer"])) == kept["model"]["composer"]


def test_a_model_whose_component_is_elsewhere_says_what_to_install(
    distribution: Callable[..., Path], tmp_path: Path
) -> None:
    info = distribution("nice-heads", mine="nice_heads:Mine")
    path = checkpoint(tmp_path / "a.ckpt", method())
    points = (info / "entry_points.txt").read_text()
    (info / "entry_points.txt").write_text(points.replace("mine", "ours"))
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: nice-heads\nVersion: 0.2\n")
    _installed.cache_clear()  # as in a new process
    with pytest.raises(
        ComponentError,
        match=(
            r"head 'mine' of nice-heads 0\.1, and 0\.2, which is installed, has no such head: pip"
            r" install nice-heads==0\.1"
        ),
    ):
        RegistrationModule.load_from_checkpoint(path)
    for file in info.iterdir():
        file.unlink()
    info.rmdir()
    importlib.invalidate_caches()
    with pytest.raises(
        ComponentError,
        match=(
            r"a\.ckpt was made with the head 'mine' of nice-heads 0\.1, which is not installed: pip"
            r" install nice-heads==0\.1"
        ),
    ):
        RegistrationModule.load_from_checkpoint(path)


def test_weights_of_another_version_say_which(
    distribution: Callable[..., Path], tmp_path: Path
) -> None:
    info = distribution("nice-heads", mine="nice_heads:Mine")
    path = checkpoint(tmp_path / "a.ckpt", method())
    kept = torch.load(path, weights_only=True)
    kept["state_dict"]["composer.network.heads.0.more"] = torch.zeros(1)
    torch.save(kept, path)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: nice-heads\nVersion: 0.2\n")
    _installed.cache_clear()  # as in a new process
    with pytest.raises(
        Exception,
        match=(
            r"do not fit the method it names \(composer\.network\.heads\.0\.more\): pip install"
            r" nice-heads==0\.1"
        ),
    ):
        RegistrationModule.load_from_checkpoint(path)


def test_entries_are_of_what_a_configuration_names() -> None:
    found = entries([("datasets", "phantom"), ("datasets", "phantom"), ("samplers", "groups")])
    assert [(one["group"], one["name"], one["distribution"]) for one in found] == [
        ("datasets", "phantom", "lightning-reg"), ("samplers", "groups", "lightning-reg"),
    ]  # fmt: skip
    require_installed(
        [{"group": "of_a_later_version", "name": "x", "distribution": "y", "version": "1"}], "x"
    )
