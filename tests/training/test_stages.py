"""Stages: trained networks, initial weights and optimisers; interruption within a stage."""

from __future__ import annotations

import copy
import csv
import itertools
import signal
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch

from lightning_reg.registry import ComponentError, TrainingError
from lightning_reg.training import run as run_module
from lightning_reg.training.callbacks.saving import Interrupted
from lightning_reg.training.callbacks.stages import StageTraining, TrainingStage
from lightning_reg.training.checkpoints import read_checkpoint
from lightning_reg.training.module import RegistrationModule
from lightning_reg.training.run import train
from lightning_reg.training.schedules import stage_bounds


@pytest.fixture
def config() -> dict[str, Any]:
    return staged()


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """The run of :func:`staged`, uninterrupted."""
    return train(staged(), tmp_path_factory.mktemp("whole") / "run").folder


def staged() -> dict[str, Any]:
    """Two levels in nine steps: one network, the other from its weights, then both together."""
    return {
        "method": {
            "composer": {
                "name": "multilevel",
                "strides": [2, 1],
                "backbone": {"name": "unet", "levels": 2, "features": 2},
                "head": {"name": "dense"},
            },
            "loss": {"terms": {"ssd": {"mask": "overlap"}, "diffusion": {"weight": 0.1}}},
            "optimizer": {"name": "adam", "lr": 0.01},
            "schedule": {"cooldown": 0.5},
            "stages": [
                {"steps": 3, "train": [0]},
                {"steps": 4, "train": [1], "warm_start": True, "optimizer": {"lr": 0.002}},
                {"steps": 2, "train": "all", "optimizer": {"name": "sgd"}, "schedule": {"cooldown": 0}},
            ],
            "sampling": {"name": "groups"},
        },
        "data": {
            "dataset": {"name": "phantom", "subjects": 1, "validation": 1, "shape": [16, 12, 12]},
            "preprocessing": {"window": [-1000, 500]},
            "samples_per_epoch": 4,
            "workers": 0,
        },
        "trainer": {
            "max_steps": 9, "max_epochs": -1, "accelerator": "cpu", "enable_progress_bar": False,
            "enable_model_summary": False,
            "num_sanity_val_steps": 0, "log_every_n_steps": 1, "use_distributed_sampler": False,
        },
        "logger": {"name": "csv"},
        "callbacks": {"learning_rate": {"logging_interval": "step"}},
        "seed": 3,
    }  # fmt: skip


class Watch(L.Callback):
    """Keeps copies of the networks' weights before every step, and the rate and kind of the
    optimiser.
    """

    def __init__(self) -> None:
        self.weights: list[list[torch.Tensor]] = []
        self.optimizers: list[tuple[str, float]] = []

    def on_before_optimizer_step(
        self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        self.weights.append(
            [
                torch.cat([p.detach().flatten() for p in n.parameters()]).clone()
                for n in pl_module.composer.networks
            ]
        )
        self.optimizers.append((type(optimizer).__name__, optimizer.param_groups[0]["lr"]))


def watched(config: dict, folder: Path, monkeypatch, *more: L.Callback) -> Watch:
    watch, standard = Watch(), run_module.build_callbacks
    with monkeypatch.context() as patch:
        patch.setattr(run_module, "build_callbacks", lambda c: [*standard(c), watch, *more])
        train(copy.deepcopy(config), folder)
    return watch


def test_stages_train_what_they_name_and_start_warm_with_a_fresh_optimiser(
    config: dict, tmp_path: Path, monkeypatch
) -> None:
    watch = watched(config, tmp_path / "run", monkeypatch)
    coarse, fine = zip(*watch.weights, strict=True)
    changed = [[not torch.equal(a, b) for a, b in itertools.pairwise(w)] for w in (coarse, fine)]
    assert changed[0] == [True] * 3 + [False] * 4 + [
        True
    ]  # between the nine steps; frozen while the second network trains
    assert changed[1] == [False] * 2 + [True] * 6  # inherits at the fourth step
    assert torch.equal(fine[3], coarse[3])
    kinds, rates = zip(*watch.optimizers, strict=True)
    assert kinds == ("Adam",) * 7 + ("SGD",) * 2
    assert rates == pytest.approx(
        [0.01, 0.01, 0.01 * 2 / 3, 0.002, 0.002, 0.002, 0.001, 0.01, 0.01]
    )
    with (tmp_path / "run" / "metrics.csv").open(newline="") as file:
        stages = [float(row["stage"]) for row in csv.DictReader(file) if row["stage"]]
    assert stages == [0] * 3 + [1] * 4 + [2] * 2


@pytest.mark.parametrize("stop", [1, 2, 4, 7])
def test_interrupted_in_a_stage_and_resumed_is_uninterrupted(
    config: dict, whole: Path, tmp_path: Path, monkeypatch, stop: int
) -> None:
    class Stop(L.Callback):
        def on_before_backward(
            self, trainer: L.Trainer, pl_module: L.LightningModule, loss: torch.Tensor
        ) -> None:
            if trainer.global_step == stop:
                signal.raise_signal(signal.SIGINT)

    with pytest.raises(Interrupted) as stopped:
        watched(config, tmp_path / "parts", monkeypatch, Stop())
    parts = train(copy.deepcopy(config), tmp_path / "parts", resume=stopped.value.checkpoint).folder
    expected = read_checkpoint(str(whole / "checkpoints" / "last.ckpt"))["state_dict"]
    for name, value in read_checkpoint(str(parts / "checkpoints" / "last.ckpt"))[
        "state_dict"
    ].items():
        assert (
            torch.equal(value, expected[name])
            if isinstance(value, torch.Tensor)
            else value == expected[name]
        ), name


def test_a_checkpoint_of_an_early_stage_runs_that_stage_only(config: dict, tmp_path: Path) -> None:
    config["trainer"]["max_steps"] = 9
    config["method"]["stages"] = config["method"]["stages"][:1]
    folder = train(config, tmp_path / "run").folder
    module = RegistrationModule.load_from_checkpoint(folder / "checkpoints" / "last.ckpt").eval()
    assert module.composer.active == 1


def test_a_stage_ends_early_when_it_no_longer_helps(
    config: dict, tmp_path: Path, monkeypatch
) -> None:
    """With a rate of zero no validation is better than the first."""
    config["method"]["optimizer"]["lr"] = 0.0
    config["method"]["stages"] = [
        {"steps": 12, "train": [0], "patience": 1},
        {"steps": 4, "train": [1], "optimizer": {"lr": 0.01}},
    ]
    config["trainer"]["max_steps"] = 16
    watch = watched(config, tmp_path / "run", monkeypatch)
    assert [rate > 0 for _, rate in watch.optimizers] == [False] * 8 + [
        True
    ] * 4  # two epochs of four, then the last stage in full


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (
            {"stages": [{"steps": 1, "train": [2]}]},
            TrainingError,
            r"expected some of 0 to 1, got \[2\]",
        ),
        (
            {"stages": [{"steps": 1, "trian": [0]}]},
            ComponentError,
            r"'method.stages\[0\]' does not take an argument 'trian'",
        ),
        (
            {"stages": [{"steps": 0, "train": [0]}]},
            ComponentError,
            r"^method.stages\[0\].steps is 0; give a number above 0",
        ),
        (
            {"stages": [{"steps": 1, "train": "all", "warm_start": True}]},
            ComponentError,
            r"^method.stages\[0\].warm_start is true, but nothing was trained before it",
        ),
        (
            {
                "composer": {
                    "name": "single",
                    "backbone": {"name": "unet", "levels": 2, "features": 2},
                    "head": "dense",
                }
            },
            TrainingError,
            "`stages` needs a composer of several networks, and SingleComposer is not one",
        ),
    ],
)
def test_stages_that_cannot_be(
    config: dict, tmp_path: Path, change: dict, error: type[Exception], message: str
) -> None:
    config["method"].update(change)
    with pytest.raises(error, match=message):
        train(config, tmp_path / "run")


def test_stages_without_a_number_of_steps_are_refused(config: dict, tmp_path: Path) -> None:
    config["trainer"] |= {"max_steps": -1, "max_epochs": 1}
    with pytest.raises(TrainingError, match=r"trainer\.max_steps is -1"):
        train(config, tmp_path / "run")


def test_stage_bounds_stretch_the_shares_to_the_steps() -> None:
    assert stage_bounds([1, 1, 2], 100) == [0, 25, 50, 100]
    assert stage_bounds([3, 3, 3], 10) == [0, 3, 7, 10]
    assert stage_bounds([5], 7) == [0, 7]


def test_the_rate_falls_when_the_validation_stays(
    config: dict, tmp_path: Path, monkeypatch
) -> None:
    """ReduceLROnPlateau on the validation error, as method 4 has it."""
    del config["method"]["stages"]
    config["method"]["optimizer"] = {"name": "adam", "lr": 1e-5}
    config["method"]["schedule"] = {"plateau": {"factor": 0.1, "patience": 0, "threshold": 0.5}}
    config["trainer"]["max_steps"] = 12
    watch = watched(config, tmp_path / "run", monkeypatch)
    assert [rate for _, rate in watch.optimizers] == pytest.approx([1e-5] * 8 + [1e-6] * 4)
    config["method"]["schedule"]["cooldown"] = 0.5
    with pytest.raises(ComponentError, match="plateau and something else"):
        train(config, tmp_path / "other")


def test_the_state_of_a_stage_is_plain_values() -> None:
    callback = StageTraining([TrainingStage(1, [0])])
    assert all(isinstance(v, (int, float)) for v in callback.state_dict().values())
