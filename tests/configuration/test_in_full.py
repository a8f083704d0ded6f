"""Overrides as written by users, and the resulting configuration."""

from __future__ import annotations

import shlex
from typing import Any

import pytest

from lightning_reg import compose
from lightning_reg.configuration.building import build_composer
from lightning_reg.configuration.composition import WORDS, _known_keys
from lightning_reg.configuration.overrides import as_word, in_full
from lightning_reg.registry import UserError


def composer(*overrides: str) -> dict[str, Any]:
    return compose(["method=velocity", "data=phantom", *overrides])["method"]["composer"]


@pytest.mark.parametrize("value", ["voxelmorph", "{name: voxelmorph}"])
@pytest.mark.parametrize("key", ["method.composer.backbone", "method.composer.backbone.name"])
def test_another_backbone_is_one_override(key: str, value: str) -> None:
    if key.endswith("name") and value.startswith("{"):
        pytest.skip("a name is a word")
    found = composer(f"{key}={value}")
    assert found["backbone"] == {"name": "voxelmorph"}
    build_composer(found)


def test_a_backbone_with_arguments_is_taken_whole() -> None:
    assert composer("method.composer.backbone={name: unet, levels: 3}")["backbone"] == {
        "name": "unet",
        "levels": 3,
    }
    assert composer("method.composer.backbone=unet", "method.composer.backbone.levels=2")[
        "backbone"
    ] == {"name": "unet", "levels": 2}


def test_two_heads_are_one_override() -> None:
    found = composer("method.composer.head=[{name: affine}, {name: velocity, steps: 3}]")
    assert found["head"] == [{"name": "affine"}, {"name": "velocity", "steps": 3}]
    build_composer(found)


def test_values_without_a_name_are_set_in_the_configured_one() -> None:
    found = composer("method.composer.backbone={levels: 3}")["backbone"]
    assert (found["name"], found["levels"], found["norm"]) == ("unet", 3, "instance")


def test_terms_and_callbacks_are_added_without_a_plus() -> None:
    method = compose(
        [
            "method=velocity",
            "method.loss.terms.ngf.weight=0.5",
            "method.loss.terms.bending=1e-3",
            "method.loss.terms.lncc=2",
            "method.callbacks.averaged_weights={}",
        ]
    )["method"]
    assert method["loss"]["terms"]["bending"] == {"weight": 1e-3}
    assert method["loss"]["terms"]["lncc"] == {"weight": 2, "window": 5}
    assert method["loss"]["terms"]["ngf"] == {"weight": 0.5}
    assert method["callbacks"] == {"averaged_weights": {}}


def test_what_is_added_may_be_given_arguments_and_what_is_misspelt_is_refused() -> None:
    terms = compose(
        ["method=velocity", "method.loss.terms.ngf.weight=0.5", "method.loss.terms.ngf.edge=2"]
    )["method"]["loss"]["terms"]
    assert terms["ngf"] == {"weight": 0.5, "edge": 2}
    for misspelt in (
        "method.loss.terms.lncc.windw=3",
        "method.composer.backbone.levls=3",
        "method.optimizer.lrr=1",
    ):
        with pytest.raises(UserError, match="There is no option"):
            compose(["method=velocity", misspelt])


TEXTS = [
    "epoch=3", "a#b", "me@site", "100%", "with blank", "a,b", "p(1)", "br[2]", "Lungen_ä",
    "dollar$HOME", "colon:x", "quote's", "~t",
    "{brace}", "tr*", "${oc.env:HOME}", "null", "007", "1e5", "true", "back\\slash", "end\\",
    "\\'x", "a\\\\'b", "\\${x}",
    "runs/2024-01-01", "/a/b", "a/ä b", "7/x",
]  # fmt: skip


@pytest.mark.parametrize("text", TEXTS)
def test_a_printed_setting_is_read_by_the_shell_and_hydra_as_its_text(text: str) -> None:
    (word,) = shlex.split(as_word("run", text))
    assert compose(["data=phantom", word])["run"] == text


def test_a_setting_that_cannot_be_read_is_answered_with_the_one_that_can() -> None:
    with pytest.raises(UserError, match="cannot be read as key=value") as refused:
        compose(["data=folder", "data.root=Lungen_ä (1)"])
    (word,) = shlex.split(str(refused.value).partition("for this text write ")[2])
    assert compose(["data=folder", word])["data"]["root"] == "Lungen_ä (1)"


def test_backbones_can_be_swept() -> None:
    assert in_full(["method.composer.backbone=unet,voxelmorph"]) == [
        "~method.composer.backbone",
        "+method.composer.backbone={name: unet},{name: voxelmorph}",
    ]


@pytest.mark.parametrize(
    "override",
    [
        "method=dlir",
        "seed=1",
        "+a.b=1",
        "~method.loss.terms.lncc",
        "method.composer.backbone.levels",
        "-m",
    ],
)
def test_others_stay_as_they_are(override: str) -> None:
    assert in_full([override]) == [override]


def test_a_method_of_stages_has_no_backbone_to_replace() -> None:
    with pytest.raises(
        UserError, match=r"'method.composer.backbone' exists for other choices of method"
    ):
        compose(["method=dlir", "method.composer.backbone=unet"])


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("lr=1", "method.optimizer.lr"),
        ("learning_rate=1", "method.optimizer.lr"),
        ("method.lr=1", "method.optimizer.lr"),
        ("epochs=3", "trainer.max_steps"),
        ("batch=2", "data.batch_size"),
        ("gpus=1", "trainer.devices"),
    ],
)
def test_options_are_found_by_the_words_that_people_use(given: str, meant: str) -> None:
    with pytest.raises(UserError, match=f"did you mean {meant}"):
        compose([given])


def test_what_the_words_lead_to_is_there() -> None:
    keys = [
        key
        for meant in WORDS.values()
        for key in meant.replace(", or ", " ").split()
        if key not in ("in", "minutes")
    ]
    assert set(keys) <= set(_known_keys())
