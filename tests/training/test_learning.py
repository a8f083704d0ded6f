"""Learning: decreasing loss, gradients of every parameter, same direction in validation and
training, storage of the best weights.
"""

from __future__ import annotations

import csv
import json
import random
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from lightning_reg.metrics import primary_error
from lightning_reg.spatial import Displacement, Grid, Image, Pair
from lightning_reg.training.callbacks.saving import Saving
from lightning_reg.training.callbacks.stages import StageTraining, TrainingStage
from lightning_reg.training.callbacks.standard import RandomState
from lightning_reg.training.checkpoints import read_checkpoint
from lightning_reg.training.module import RegistrationModule
from lightning_reg.training.run import train

METHOD: dict[str, Any] = {
    "composer": {
        "name": "single",
        "backbone": {"name": "unet", "levels": 2, "features": 4, "norm": "instance"},
        "head": "dense",
    },
    "loss": {"terms": {"ssd": {}}},
    "optimizer": {"name": "adam", "lr": 0.01},
}
QUIET: dict[str, Any] = {
    "accelerator": "cpu", "logger": False, "enable_checkpointing": False,
    "enable_progress_bar": False, "enable_model_summary": False,
    "num_sanity_val_steps": 0,
}  # fmt: skip


def blobs() -> Pair:
    """A blob, and the same 1.5 voxels further along the first axis, with the truth."""
    grid = Grid.regular((20, 16, 12), (2.0, 2.5, 3.0), (-30.0, 12.0, 7.0))
    i, j, k = grid.points()[0]
    images = [
        torch.exp(-(((i - 9 - s) / 5) ** 2 + ((j - 8) / 4) ** 2 + ((k - 6) / 3) ** 2))[None, None]
        for s in (0.0, 1.5)
    ]
    field = torch.zeros(1, 3, *grid.shape)
    field[:, 0] = 1.5
    return Pair(Image(images[0], grid), Image(images[1], grid), truth=Displacement(field, grid))


def loader(pairs: list[Pair]) -> DataLoader[Pair]:
    return DataLoader(pairs, batch_size=1, collate_fn=Pair.collate)


@pytest.fixture(scope="module")
def learned() -> tuple[RegistrationModule, RegistrationModule, Pair]:
    """A module before and after 120 steps on one pair in both directions, the latter with its last
    validation; and the pair.
    """
    torch.manual_seed(2)
    module, pair = RegistrationModule.from_configuration(METHOD), blobs()
    reverse = Pair(pair.moving, pair.fixed)
    before = RegistrationModule.from_configuration(METHOD)
    before.load_state_dict(module.state_dict())
    L.Trainer(max_steps=120, max_epochs=-1, **QUIET).fit(
        module, loader([pair, reverse] * 60), loader([pair])
    )
    return before, module, pair


Learned = tuple[RegistrationModule, RegistrationModule, Pair]


def test_training_aligns_the_pair_that_it_sees(learned: Learned) -> None:
    before, after, pair = learned
    losses = [float(module.eval().loss_of(pair).total) for module in (before, after)]
    assert losses[1] < 0.4 * losses[0]
    moved = after.eval()(pair.fixed, pair.moving).transform.displacement(pair.fixed.grid)
    inside = (pair.fixed.tensor > 0.3)[:, 0]
    assert float(moved[:, 0][inside].mean()) > 0.5  # towards the true 1.5 voxels


def test_validation_sees_the_images_as_training_does(learned: Learned) -> None:
    _, after, _ = learned
    (case,) = after.cases
    assert case.row()["ncc_after"] > case.row()["ncc_before"]
    assert case.row()["field_error_after_mm"] < case.row()["field_error_before_mm"]


def test_every_parameter_is_trained(learned: Learned) -> None:
    before, after, _ = learned
    still = [
        name
        for (name, old), new in zip(before.named_parameters(), after.parameters(), strict=True)
        if torch.equal(old, new)
    ]
    assert still == []


def test_both_directions_are_compared_on_their_own_grids() -> None:
    """One constant output, in voxels of 2 mm there and of 4 mm back: 1.5 voxels each way are 9 mm
    in all.
    """
    method = METHOD | {"loss": {"terms": {"inverse_consistency": {"weight": 0.5}}}}
    module = RegistrationModule.from_configuration(method).eval()
    (head,) = module.composer.network.heads
    for layer in head.fields:
        torch.nn.init.zeros_(layer.weight)
        with torch.no_grad():
            layer.bias.copy_(torch.tensor([1.5, 0.0, 0.0]))
    fixed = Grid.regular((24, 12, 12), (2.0, 2.0, 2.0), (0.0, 0.0, 0.0))
    moving = Grid.regular((12, 12, 12), (4.0, 2.0, 2.0), (1.0, 0.0, 0.0))
    pair = Pair(*(Image(torch.rand(1, 1, *grid.shape), grid) for grid in (fixed, moving)))
    value = module.loss_of(pair)
    assert float(value.terms["inverse_consistency"].detach()) == pytest.approx(81.0, rel=1e-4)
    assert float(value.total.detach()) == pytest.approx(40.5, rel=1e-4)


def test_the_rate_follows_decay_and_cooldown_together() -> None:
    module = RegistrationModule.from_configuration(
        METHOD | {"schedule": {"decay": 0.1, "cooldown": 0.25}}
    )
    module.train_with(steps=40)
    made = module.configure_optimizers()
    optimizer, schedule = made["optimizer"], made["lr_scheduler"]["scheduler"]
    rates = []
    for _ in range(40):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    expected = [0.01 / (1 + 0.1 * t) * min(1.0, (40 - t) / 10) for t in range(40)]
    assert rates == pytest.approx(expected)


@pytest.mark.parametrize("absent", range(5))
def test_a_better_registration_has_a_smaller_primary_error(absent: int) -> None:
    """With all or some of the metrics: distances fall, overlap and correlation rise. The first of
    the list decides.
    """
    there = ["tre_after_mm", "dice_after", "field_error_after_mm", "mask_dice_after", "ncc_after"][
        absent:
    ]
    good = {name: 0.3 if name.endswith("_mm") else 0.9 for name in there}
    bad = {name: 2.5 if name.endswith("_mm") else 0.4 for name in there}
    assert primary_error(good) < primary_error(bad)
    assert primary_error(good | {name: bad[name] for name in there[1:]}) == primary_error(good)


def draws() -> list[Any]:
    return [
        torch.rand(3).tolist(),
        np.random.rand(3).tolist(),  # noqa: NPY002
        [random.random(), random.gauss(0, 1)],
    ]


def test_the_random_state_of_every_library_goes_on_where_it_was() -> None:
    random.gauss(0, 1)  # keeps a second number
    state = RandomState().state_dict()
    expected = draws()
    draws()
    resumed = RandomState()
    resumed.load_state_dict(state)
    resumed.on_train_start(None, None)
    assert draws() == expected


class Scripted(L.LightningModule):
    """One weight that counts the steps, and given validation errors."""

    def __init__(self, errors: list[float]) -> None:
        super().__init__()
        self.weight, self.errors = torch.nn.Parameter(torch.zeros(1)), list(errors)

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        return -self.weight.sum()

    def validation_step(self, batch: Tensor, batch_idx: int) -> None:
        self.log("validation/error", self.errors.pop(0))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=1.0)


def fit(module: Scripted, epochs: int, steps: int, *callbacks: L.Callback) -> None:
    train, validation = (
        DataLoader(torch.zeros(steps, 1), batch_size=1),
        DataLoader(torch.zeros(1, 1), batch_size=1),
    )
    L.Trainer(max_steps=epochs * steps, max_epochs=-1, callbacks=list(callbacks), **QUIET).fit(
        module, train, validation
    )


def test_the_best_checkpoint_is_that_of_the_smallest_error(tmp_path: Path) -> None:
    errors = [3.0, 1.0, 2.0, 0.5, 4.0]
    fit(Scripted(errors), 5, 2, Saving(tmp_path, lambda: None, lambda: 0.0))
    best, last = (read_plain(tmp_path / f"{name}.ckpt") for name in ("best", "last"))
    assert best["global_step"] == 2 * (1 + int(np.argmin(errors)))
    assert float(best["state_dict"]["weight"]) == best["global_step"]
    assert last["global_step"] == 10


def read_plain(path: Path) -> dict[str, Any]:
    return torch.load(path, weights_only=True)


def test_patience_counts_the_validations_since_the_best() -> None:
    """Not since the last one that was better than the one before it."""
    callback = StageTraining([TrainingStage(1, [0], patience=3)])
    stale = []
    for error in (3.0, 1.0, 2.0, 1.5, 0.9, 0.95):
        measured = {"validation/error": torch.tensor(error)}
        fitting = SimpleNamespace(
            sanity_checking=False, state=SimpleNamespace(fn="fit"), callback_metrics=measured
        )
        callback.on_validation_end(fitting, None)
        stale.append(callback.stale)
    assert stale == [0, 0, 1, 2, 0, 1]
    assert callback.best == pytest.approx(0.9)


@pytest.fixture
def config() -> dict[str, Any]:
    """Eight steps, validated after each, at a rate that leads away from the images."""
    return {
        "method": (
            METHOD | {"optimizer": {"name": "adam", "lr": 0.5}, "sampling": {"name": "groups"}}
        ),
        "data": {
            "dataset": {"name": "phantom", "subjects": 1, "validation": 1, "shape": [16, 12, 12]},
            "preprocessing": {"window": [-1000, 500]},
            "samples_per_epoch": 1,
            "workers": 0,
        },
        "trainer": (
            QUIET
            | {
                "max_steps": 8,
                "max_epochs": -1,
                "log_every_n_steps": 1,
                "use_distributed_sampler": False,
            }
        ),
        "logger": {"name": "csv"},
        "seed": 3,
    }


def test_the_record_and_the_checkpoint_are_of_the_best_weights(
    config: dict, tmp_path: Path
) -> None:
    for key in ("logger", "enable_checkpointing"):
        del config["trainer"][key]
    folder = train(config, tmp_path / "run").folder
    with (folder / "metrics.csv").open(newline="") as file:
        errors = {
            int(row["step"]): float(row["validation/error"])
            for row in csv.DictReader(file)
            if row["validation/error"]
        }
    best = min(errors, key=errors.__getitem__)
    assert errors[max(errors)] > 1.2 * errors[best]
    totals = json.loads((folder / "summary.json").read_text())["totals"]
    assert totals["tre_after_mm"] == pytest.approx(errors[best], rel=1e-4)
    assert read_checkpoint(folder / "checkpoints" / "best.ckpt")["global_step"] == best + 1
    module = RegistrationModule.load_from_checkpoint(folder / "checkpoints" / "best.ckpt").eval()
    _, (low, high), _ = module.statistics["extent_mm"]
    assert 0 < low <= high
