"""Trainings that start from a model: matching and missing weights, and choice of the preprocessing."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from untrained import VELOCITY, checkpoint

from lightning_reg.configuration.composition import compose
from lightning_reg.registry import UserError
from lightning_reg.training.initialization import Initialization, read_source, started_from
from lightning_reg.training.model import read_model
from lightning_reg.training.module import RegistrationModule
from lightning_reg.training.run import train

TWO = {
    **VELOCITY,
    "composer": {
        "name": "multilevel", "strides": [2, 1], "head": {"name": "velocity", "steps": 4},
        "backbone": {"name": "unet", "levels": 2, "features": 4, "norm": "none"},
    },
}  # fmt: skip


def module(method: dict[str, Any] = VELOCITY) -> RegistrationModule:
    torch.manual_seed(9)
    return RegistrationModule.from_configuration(method)


def changed(**parts: Any) -> dict[str, Any]:
    method = copy.deepcopy(VELOCITY)
    method["composer"] |= parts
    return method


def equal(one: RegistrationModule, path: Path, part: str) -> bool:
    state = torch.load(path, weights_only=True)["state_dict"]
    return all(
        torch.equal(value, state[name]) for name, value in one.state_dict().items() if part in name
    )


def test_all_weights_are_taken(tmp_path: Path) -> None:
    path, mine = checkpoint(tmp_path / "a.ckpt"), module()
    count = len(mine.composer.state_dict())
    assert read_source(str(path)).load(mine) == [
        f"Started from {path}: {count} of {count} weights."
    ]
    assert equal(mine, path, "composer")


@pytest.mark.parametrize(
    ("part", "taken", "left"), [("backbone", "backbone", "heads"), ("head", "heads", "backbone")]
)
def test_a_part_leaves_the_rest_alone(part: str, taken: str, left: str, tmp_path: Path) -> None:
    path, mine = checkpoint(tmp_path / "a.ckpt"), module()
    before = {name: value.clone() for name, value in mine.state_dict().items() if left in name}
    read_source({"model": str(path), "part": part}).load(mine)
    assert equal(mine, path, taken)
    assert all(torch.equal(value, mine.state_dict()[name]) for name, value in before.items())


def test_a_prefix_is_of_whole_words(tmp_path: Path) -> None:
    wanted = Initialization("x", "composer.network.heads.0")
    assert wanted.wants("composer.network.heads.0.velocity.weight")
    assert not wanted.wants("composer.network.heads.01.velocity.weight")
    path = checkpoint(tmp_path / "a.ckpt")
    with pytest.raises(
        UserError,
        match=(
            r"no weights 'composer\.netwrok\.backbone' in common; did you mean"
            r" 'composer\.network\.backbone"
        ),
    ):
        read_source({"model": str(path), "part": "composer.netwrok.backbone"}).load(module())


def test_stages_are_taken_by_number(tmp_path: Path) -> None:
    path, mine = checkpoint(tmp_path / "a.ckpt", TWO), module(TWO)
    read_source({"model": str(path), "part": [1]}).load(mine)
    assert equal(mine, path, "networks.1.")
    assert not equal(mine, path, "networks.0.")
    with pytest.raises(UserError, match="has no stage 7; it has 0"):
        read_source({"model": str(path), "part": [0, 7]}).load(mine)


def test_what_does_not_fit_is_said_and_left(tmp_path: Path) -> None:
    path = checkpoint(tmp_path / "a.ckpt")
    mine = module(changed(head={"name": "dense"}))
    lines = read_source(str(path)).load(mine)
    assert (
        "Missing in the model or of another size, not changed:"
        " composer.network.heads.0.fields.0.weight" in lines[1]
    )
    assert "Unused weights of the model: composer.network.heads.0.velocity.weight" in lines[2]
    assert equal(mine, path, "backbone")
    wider = module(
        changed(
            backbone={
                "name": "unet",
                "levels": 2,
                "features": 6,
                "output_stride": 2,
                "norm": "none",
            }
        )
    )
    lines = read_source(str(path)).load(wider)
    assert lines[1] == "Few weights fit: does the method have the model's architecture?"
    assert "another size" in lines[2]
    nothing = changed(
        backbone={"name": "lattice", "spacing": 2, "features": 8}, head={"name": "dense"}
    )
    with pytest.raises(
        UserError,
        match=(
            r"No weight of .* fits the method \(composer\.network\.backbone.* is not there\); use"
            r" its architecture"
        ),
    ):
        read_source(str(path)).load(module(nothing))


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (
            {"model": "x.ckpt", "parts": "all"},
            "'init' does not take an argument 'parts'; did you mean 'part'",
        ),
        ({"part": "all"}, "'init' needs an argument 'model'"),
        ({"model": "x.ckpt", "preprocessing": "mine"}, "give model or data"),
        ({"model": "x.ckpt", "part": [-1]}, "numbers of stages"),
        ({"model": "x.ckpt", "part": 0}, "numbers of stages"),
        ({"model": "x.ckpt", "part": None}, "numbers of stages"),
        ({"model": "x.ckpt", "part": "bakcbone"}, "did you mean 'backbone'"),
        (True, "init is True; give a model's name"),
        ({}, "'init' needs an argument 'model'"),
        ("", "model is ''"),
        ("x.ckpt", r"There is no checkpoint x\.ckpt"),
    ],
)
def test_what_cannot_be_started_from_is_a_sentence(spec: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        read_source(spec)


QUICK = [
    "method=velocity", "data.dataset.shape=[16,16,16]", "data.dataset.crop=null",
    "data.dataset.subjects=2", "data.dataset.validation=1",
    "data.workers=0", "data.samples_per_epoch=2", "trainer.accelerator=cpu",
    "callbacks.progress_bar=null",
    "method.composer.backbone={name: unet, levels: 2, features: 4, output_stride: 2, norm: none}",
    "method.optimizer.lr=0.0",
]  # fmt: skip


def test_images_are_prepared_as_the_models_were_unless_said_otherwise(tmp_path: Path) -> None:
    path = checkpoint(tmp_path / "a.ckpt", preprocessing={"percentiles": [0, 100]})
    config: dict[str, Any] = {
        "method": {},
        "data": {
            "preprocessing": {"window": [-1000, 500], "percentiles": [0.5, 99.5], "center": False}
        },
    }
    made, told = started_from(config, read_source(str(path)))
    assert made["data"]["preprocessing"]["window"] is None
    assert made["data"]["preprocessing"]["percentiles"] == [0, 100]
    assert "window [-1000, 500] to None" in told[0]
    assert started_from(config, read_source({"model": str(path), "preprocessing": "data"})) == (
        config,
        [],
    )


def test_a_training_starts_from_the_model_and_its_checkpoint_says_so(tmp_path: Path) -> None:
    """With a rate of 0 the weights of the run are the model's; the run goes on later without it."""
    path = checkpoint(tmp_path / "a.ckpt", preprocessing={"window": [-900, 400]})
    lines: list[str] = []
    config = compose([*QUICK, "trainer.max_steps=2", f"init={path}"])
    train(config, tmp_path / "run", progress=lines.append)
    assert any(line.startswith(f"Started from {path}") for line in lines)
    assert any("Images are preprocessed as for the model" in line for line in lines)
    ours = RegistrationModule.load_from_checkpoint(tmp_path / "run" / "checkpoints" / "last.ckpt")
    assert equal(ours, path, "composer")
    assert list(ours.preprocessing.window) == [-900, 400]  # type: ignore[union-attr, arg-type]
    path.unlink()
    more = compose([*QUICK, "trainer.max_steps=4", f"init={path}"])
    train(more, tmp_path / "run", resume=tmp_path / "run" / "checkpoints" / "last.ckpt")


def staged(*overrides: str) -> dict[str, Any]:
    """A configuration of two stages, of the composer of TWO."""
    kept = [word for word in QUICK if not word.startswith("method")]
    config = compose(["method=velocity", *kept, "trainer.max_steps=4", *overrides])
    stages = [{"steps": 2, "train": [0]}, {"steps": 2, "train": [1], "warm_start": True}]
    return {**config, "method": {**config["method"], "composer": TWO["composer"], "stages": stages}}


def test_a_stage_that_the_model_has_does_not_start_from_the_one_before(tmp_path: Path) -> None:
    path = checkpoint(tmp_path / "a.ckpt", TWO)
    lines: list[str] = []
    train(staged(f"init={path}"), tmp_path / "run", progress=lines.append)
    assert "Initialised from the model instead of the previous stage: stage 1." in lines
    ours = RegistrationModule.load_from_checkpoint(tmp_path / "run" / "checkpoints" / "last.ckpt")
    theirs = RegistrationModule.load_from_checkpoint(path).state_dict()
    networks = [
        {
            name.split(".", 3)[3]: v
            for name, v in ours.state_dict().items()
            if f"networks.{n}." in name
        }
        for n in (0, 1)
    ]
    for name, value in networks[1].items():
        start = theirs[f"composer.networks.1.{name}"]
        if isinstance(value, torch.Tensor):
            assert float((value - start).abs().max()) < 1e-2  # two steps of Adam
            assert "weight" not in name or float((value - networks[0][name]).abs().max()) > 1e-2
    warm = {
        "data": {},
        "method": {"stages": [{"train": [0]}, {"train": "all", "warm_start": True}]},
    }
    first = read_source({"model": str(path), "part": [0]})
    # network 1 has nothing of the model
    assert started_from(warm, first)[0]["method"]["stages"][1]["warm_start"] is True


def test_the_same_command_goes_on(tmp_path: Path) -> None:
    """Though the model changed preprocessing and stages, and is gone by then."""
    path = checkpoint(tmp_path / "a.ckpt", TWO, preprocessing={"window": [-900, 400]})
    config = staged(f"init={path}")
    train(config, tmp_path / "run")
    path.unlink()
    lines: list[str] = []
    train(config, tmp_path / "run", progress=lines.append)
    assert any("Going on after step 4" in line for line in lines)
    with pytest.raises(UserError, match="holds another run"):
        train(staged(f"init={path}", "seed=9"), tmp_path / "run")


def test_overwriting_reads_the_model_before_it_removes_anything(tmp_path: Path) -> None:
    path = checkpoint(tmp_path / "a.ckpt")
    config = compose([*QUICK, "trainer.max_steps=2", f"init={path}"])
    train(config, tmp_path / "run")
    own = tmp_path / "run" / "checkpoints" / "last.ckpt"
    with pytest.raises(UserError, match="There is no model named 'nosuch'"):
        train({**config, "init": "nosuch"}, tmp_path / "run", overwrite=True)
    assert own.exists()
    lines: list[str] = []
    train({**config, "init": str(own)}, tmp_path / "run", overwrite=True, progress=lines.append)
    assert any(line.startswith(f"Started from {own}") for line in lines)


def test_a_checkpoint_whose_label_dice_has_predicted_is_read_with_the_term_segmentation(
    tmp_path: Path,
) -> None:
    """As the checkpoints of 0.2."""
    backbone = {"name": "dual_stream", "levels": 2, "features": 4, "labels": [1]}
    method = changed(backbone=backbone, head={"name": "pyramid", "features": 4})
    path = checkpoint(tmp_path / "a.ckpt", method)
    stored = torch.load(path, weights_only=True)
    former = {"label_dice": {"weight": 6.0, "predicted": 0.5}}
    stored["lightning_reg"]["model"]["loss"]["terms"] = former
    torch.save(stored, path)
    weights = {"label_dice": 6.0, "segmentation": 3.0}
    assert read_model(path).loss.weights == weights
    assert RegistrationModule.load_from_checkpoint(path).loss.weights == weights
