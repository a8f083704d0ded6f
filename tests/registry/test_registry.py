"""Registry: every failure to load a component is reported by a sentence that names it."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest

from lightning_reg.components import Backbone, Head
from lightning_reg.registry import ComponentError, build, load, providers

GOOD = """
from lightning_reg.components import Head
class Good(Head):
    def __init__(self, channels, width: int = 3):
        super().__init__()
        self.channels, self.width = channels, width
        if width < 1:
            raise ValueError("width has to be positive")
    def forward(self, features, grid):
        return []
class Unfinished(Head):
    pass
class WrongArgument(Head):
    def forward(self, features, lattice):
        return []
class NoHead:
    pass
instance = 3
"""


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Puts a distribution with entry points in the group of heads onto the path, as pip would."""

    def installed(distribution: str, **heads: str) -> None:
        info = tmp_path / f"{distribution}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.0\n"
        )
        lines = "\n".join(f"{name} = {target}" for name, target in heads.items())
        (info / "entry_points.txt").write_text(f"[lightning_reg.heads]\n{lines}\n")

    (tmp_path / "third_party_heads.py").write_text(GOOD)
    (tmp_path / "broken_heads.py").write_text("import a_library_that_is_not_there\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    importlib.invalidate_caches()
    yield installed
    sys.modules.pop("third_party_heads", None)


def test_a_third_partys_component_is_built_with_its_arguments(install) -> None:
    install("nice-heads", good="third_party_heads:Good")
    head = build("heads", {"name": "good", "width": 5}, Head, channels=(8, 4), strides=(2, 1))
    assert (head.width, head.channels) == (5, (8, 4))


def test_listing_imports_nothing(install) -> None:
    install("nice-heads", good="third_party_heads:Good", broken="broken_heads:Any")
    assert providers("heads")["good"][0].distribution == "nice-heads"
    assert "third_party_heads" not in sys.modules


def test_not_found_names_the_nearest_and_what_there_is() -> None:
    with pytest.raises(
        ComponentError,
        match=r"no head named 'dens'; did you mean 'dense'\?.*dense \(lightning-reg\)",
    ):
        load("heads", "dens", Head)


def test_a_broken_plugin_is_named_and_leaves_the_others_alone(install) -> None:
    install("broken-heads", broken="broken_heads:Any")
    with pytest.raises(
        ComponentError,
        match=(
            r"'broken' of broken-heads 1\.0 could not be"
            r" imported.*a_library_that_is_not_there.*reinstall"
        ),
    ):
        load("heads", "broken", Head)
    assert load("heads", "dense", Head)


def test_provided_twice_names_both(install) -> None:
    install("nice-heads", good="third_party_heads:Good")
    install("other-heads", good="third_party_heads:Unfinished")
    with pytest.raises(
        ComponentError,
        match=(
            r"provided twice, by .*nice-heads.* and .*other-heads|provided twice, by"
            r" .*other-heads.* and .*nice"
        ),
    ):
        load("heads", "good", Head)


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("Unfinished", "does not implement forward"),
        ("WrongArgument", "method forward without the argument 'grid'"),
        ("NoHead", r"does not derive from lightning_reg\.Head"),
        ("instance", "is no class but int"),
    ],
)
def test_wrong_interface_names_what_is_missing(install, target: str, message: str) -> None:
    install("odd-heads", odd=f"third_party_heads:{target}")
    with pytest.raises(ComponentError, match=f"'odd' of odd-heads 1.0 .*{message}"):
        load("heads", "odd", Head)


def test_unknown_missing_and_refused_arguments() -> None:
    with pytest.raises(
        ComponentError,
        match=r"'progressive_unet' does not take an argument 'feature'; did you mean 'features'\?",
    ):
        build("backbones", {"name": "progressive_unet", "feature": 8}, Backbone)
    with pytest.raises(ComponentError, match="'dense' needs an argument 'channels'"):
        build("heads", "dense", Head)
    with pytest.raises(
        ComponentError,
        match=(r"progressive_unet\.norm is 'bach'; give batch, instance or none"),
    ):
        build("backbones", {"name": "progressive_unet", "norm": "bach"}, Backbone)
    with pytest.raises(ComponentError, match="without a name"):
        build("heads", {"levels": "finest"}, Head)
