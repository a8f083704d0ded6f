"""Every built-in component passes the conformance kit offered to third parties."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import providers as files
import pytest

from lightning_reg.components import Backbone, Composer, Head, LossTerm
from lightning_reg.configuration.building import build_composer
from lightning_reg.data.datasets.interface import RegistrationDataset
from lightning_reg.registry import load, providers
from lightning_reg.registry.entries import OWN
from lightning_reg.testing import Check, checks, parametrize_with_checks

SMALL: dict[str, dict[str, Any]] = {
    "unet": {"levels": 2, "features": 4, "norm": "instance"},
    "progressive_unet": {"levels": 2, "features": 4, "norm": "instance"},
    "siamese": {"levels": 2, "features": 4},
    "lattice": {"spacing": 4, "features": 4},
    "dilated": {"features": [4, 4, 4, 4, 4]},
    "fcn": {"features": 4},
    "dual_stream": {"levels": 2, "features": 4},
    "voxelmorph": {"encoder": [4, 4], "decoder": [4, 4], "last": [4]},
    "pyramid": {"features": 4},
    "bspline": {"spacing": 4},
    "early_stopping": {"monitor": "validation/error"},
}
"""Arguments that keep the tests short."""


def own(group: str, interface: type) -> dict[str, Callable[..., Any]]:
    """Factories of this project's own components, by name."""

    def factory(name: str) -> Callable[..., Any]:
        cls = load(group, name, interface)

        def make(**supplied: Any) -> Any:
            return cls(**SMALL.get(name, {}), **supplied)

        make.__signature__ = __import__("inspect").signature(cls)  # type: ignore[attr-defined]
        return make

    return {
        name: factory(name)
        for name, offered in providers(group).items()
        if any(p.distribution == OWN for p in offered)
    }


def composer(spec: dict[str, Any]) -> Callable[[], Composer]:
    return lambda: build_composer(spec)


UNET = {"name": "unet", "levels": 2, "features": 4, "norm": "instance"}
COMPOSERS = {
    "single": composer({"name": "single", "backbone": UNET, "head": "velocity"}),
    "single-symmetric": composer({"name": "single", "symmetric": True, "backbone": UNET, "head": "dense"}),
    "multilevel": composer({"name": "multilevel", "strides": [2, 1], "backbone": UNET, "head": "dense"}),
    "stacked": composer({
        "name": "stacked",
        "stages": [
            {"backbone": {"name": "siamese", "levels": 2, "features": 4}, "head": "affine"},
            {"backbone": UNET, "head": "velocity"},
        ],
    }),
}  # fmt: skip


@parametrize_with_checks("backbone", own("backbones", Backbone))
def test_backbones(check: Callable[[], None]) -> None:
    check()


@parametrize_with_checks("head", own("heads", Head))
def test_heads(check: Callable[[], None]) -> None:
    check()


@parametrize_with_checks("composer", COMPOSERS)
def test_composers(check: Callable[[], None]) -> None:
    check()


@parametrize_with_checks("loss", own("losses", LossTerm))
def test_losses(check: Callable[[], None]) -> None:
    check()


@parametrize_with_checks(
    "callback",
    {
        k: v
        for k, v in own("callbacks", L.Callback).items()
        if k not in ("learning_rate", "progress_bar")
    },
)
def test_callbacks(check: Callable[[], None]) -> None:
    check()


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], RegistrationDataset]:
    """Data sets on files as their providers deliver them."""
    made: dict[str, Path] = {}

    def opened(name: str) -> RegistrationDataset:
        cls: Any = load("datasets", name, RegistrationDataset)
        if name == "phantom":
            return cls(shape=(16, 16, 16), subjects=2, validation=2, crop=None)
        if name == "shapes":
            return cls(shape=(16, 16, 16), subjects=2, validation=2)
        makers = files.RAW | {"pairs": files.pairs, "folder": files.bids}
        if name not in made:
            made[name] = makers[name](tmp_path_factory.mktemp(name))
        return cls(root=made[name])

    return opened


NAMES = [name for name in own("datasets", RegistrationDataset) if name != "prepared"]


@pytest.mark.parametrize("check", checks("dataset"), ids=lambda check: check.name)
@pytest.mark.parametrize("name", NAMES)
def test_datasets(name: str, check: Check, raw: Callable[[str], RegistrationDataset]) -> None:
    check(lambda: raw(name))
