"""One training for a range of weights, and the resulting model."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import lightning as L
import nibabel as nib
import numpy as np
import pytest

import lightning_reg as reg
from lightning_reg.components.conditioning import conditionings
from lightning_reg.registry import TrainingError, UserError
from lightning_reg.training.module import RegistrationModule

WINDOW = reg.Preprocessing(window=(-1000, 500))
TINY = [
    "data.dataset.shape=[16,16,16]",
    "data.dataset.crop=null",
    "data.dataset.subjects=1",
    "data.dataset.validation=1",
]
CONDITIONAL = [
    "method=velocity",
    "method.composer.backbone={levels: 2, features: 4, norm: instance}",
    "+method.composer.backbone.conditioned=[0.01,1]",
    "+method.callbacks.conditional_weight={term: diffusion}",
]
QUIET = [
    "trainer.max_steps=4",
    "trainer.enable_progress_bar=false",
    "budget=null",
    "data.workers=0",
    "callbacks.progress_bar=null",
]


class Seen(L.Callback):
    """The weights of every step and those of validations."""

    def __init__(self) -> None:
        self.steps: list[tuple[float, float]] = []
        self.validations: list[tuple[float, float]] = []

    @staticmethod
    def _now(module: Any) -> tuple[float, float]:
        return module.loss.weights["diffusion"], conditionings(module)[0].weight

    def on_before_backward(
        self, trainer: L.Trainer, pl_module: L.LightningModule, loss: Any
    ) -> None:
        self.steps.append(self._now(pl_module))

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.validations.append(self._now(pl_module))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Seen]:
    seen, folder = Seen(), tmp_path_factory.mktemp("conditional")
    config = reg.compose([*TINY, *CONDITIONAL, *QUIET, "data.samples_per_epoch=2"])
    reg.train(config, folder / "run", callbacks=[seen])
    return folder / "run" / "checkpoints" / "best.ckpt", seen


def test_every_step_has_a_weight_of_its_own_and_a_validation_the_configured_one(
    trained: tuple[Path, Seen],
) -> None:
    _, seen = trained
    assert len({loss for loss, _ in seen.steps}) == 4
    assert all(loss == pytest.approx(told) and 0.01 <= told <= 1 for loss, told in seen.steps)
    assert set(seen.validations) == {(0.2, 0.2)}


def test_the_model_registers_for_a_weight(trained: tuple[Path, Seen], tmp_path: Path) -> None:
    path, _ = trained
    rng, files = np.random.default_rng(0), []
    for name in ("fixed", "moving"):
        files.append(tmp_path / f"{name}.nii.gz")
        nib.save(
            nib.Nifti1Image(rng.uniform(-1000, 500, (16, 16, 16)).astype(np.float32), np.eye(4)),
            files[-1],
        )
    registrar = reg.load(path)
    plain, other = registrar.register(*files), reg.load(path, weight=0.01).register(*files)
    assert plain.weights is not None
    assert other.weights is not None
    assert plain.weights.chosen == pytest.approx(0.2)
    assert other.weights.chosen == 0.01
    assert plain.weights.offered == sorted(plain.weights.offered)
    assert plain.weights.chosen in plain.weights.offered
    grid = plain.pair.fixed.grid
    again = plain.weights.register(0.01).displacement(grid)
    assert np.array_equal(again.numpy(), other.transform.displacement(grid).numpy())
    assert np.array_equal(
        registrar.register(*files).transform.displacement(grid).numpy(),
        plain.transform.displacement(grid).numpy(),
    )
    plain.save(tmp_path / "out")
    page = (tmp_path / "out" / "report.html").read_text()
    assert page.count('alt="weight ') == len(plain.weights.offered)
    assert page.count('alt="weight 0.2" src="data:image/png') == 1
    assert len(re.findall(r'<img[^>]*" hidden>', page)) == len(plain.weights.offered) - 1


def test_a_weight_that_the_model_does_not_take_is_refused(trained: tuple[Path, Seen]) -> None:
    with pytest.raises(
        UserError,
        match=r"cannot register for a weight of 5; the network takes weights from 0.01 to 1",
    ):
        reg.load(trained[0], weight=5.0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["method.composer.backbone.conditioned=null"], "found no network that takes a weight"),
        (["method.callbacks.conditional_weight.term=difusion"], "did you mean 'diffusion'"),
        (["method.loss.terms.diffusion.weight=3"], "The weight of diffusion is 3"),
    ],
)
def test_what_does_not_fit_is_refused_before_the_first_step(
    changes: list[str], message: str, tmp_path: Path
) -> None:
    with pytest.raises(TrainingError, match=message):
        reg.train(reg.compose([*TINY, *CONDITIONAL, *QUIET, *changes]), tmp_path / "run")


def test_a_model_of_one_weight_takes_none(tmp_path: Path) -> None:
    config = reg.compose([*TINY, CONDITIONAL[0], CONDITIONAL[1], *QUIET, "trainer.max_steps=1"])
    reg.train(config, tmp_path / "run")
    with pytest.raises(UserError, match="takes no weight"):
        reg.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weight=0.2)


def test_what_a_checkpoint_says_of_the_loss_is_as_configured(trained: tuple[Path, Seen]) -> None:
    module = RegistrationModule.load_from_checkpoint(trained[0])
    assert module.loss.weights["diffusion"] == 0.2
