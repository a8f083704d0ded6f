"""Averaged weights: storage of the average, and continued training from the original weights."""

from __future__ import annotations

from pathlib import Path

import lightning as L
import pytest
import torch
from torch import Tensor

import lightning_reg as reg
from lightning_reg.components.interfaces import Growable
from lightning_reg.registry import ComponentError, build
from lightning_reg.training.callbacks.averaging import AveragedWeights
from lightning_reg.training.checkpoints import read_checkpoint

WINDOW = reg.Preprocessing(window=(-1000, 500))


class Steps(L.Callback):
    """The weights after every step."""

    def __init__(self) -> None:
        self.weights: list[Tensor] = []

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, *_: object
    ) -> None:
        self.weights.append(vector(pl_module))


def vector(module: torch.nn.Module) -> Tensor:
    return torch.cat([p.detach().flatten() for p in module.parameters()]).clone()


def trained(
    callback: AveragedWeights, tmp_path: Path, steps: int = 6
) -> tuple[reg.RegistrationModule, list[Tensor]]:
    torch.manual_seed(0)
    backbone = reg.UNet(levels=2, features=2, norm="none")
    network = reg.Network(
        backbone, reg.DenseHead(backbone.channels, backbone.strides, levels="weighted")
    )
    module = reg.RegistrationModule(
        reg.SingleComposer(network), reg.LossBundle({"ssd": reg.SSD()}), preprocessing=WINDOW
    )
    data = reg.RegistrationData(
        reg.PhantomDataset(subjects=1, validation=1, shape=[16, 16, 16], crop=None),
        reg.GroupPairs,
        preprocessing=WINDOW,
        samples_per_epoch=steps,
        workers=0,
    )
    seen = Steps()
    settings = {
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    trainer = L.Trainer(
        max_steps=steps,
        num_sanity_val_steps=0,
        limit_val_batches=0,
        callbacks=[callback, seen],
        **settings,
    )
    trainer.fit(module, data)
    trainer.save_checkpoint(tmp_path / "kept.ckpt")
    return module, seen.weights


def test_the_average_follows_the_weights_and_then_averages_them(tmp_path: Path) -> None:
    module, steps = trained(AveragedWeights(decay=0.8, start=2), tmp_path)
    wanted = steps[1]
    for weights in steps[2:]:
        wanted = 0.8 * wanted + 0.2 * weights
    torch.testing.assert_close(vector(module), wanted)
    assert not torch.allclose(wanted, steps[-1])


def test_what_has_grown_is_kept_with_the_average(tmp_path: Path) -> None:
    """A copy that is made before the training does not grow with it."""

    class Grow(AveragedWeights):
        def on_train_batch_start(
            self, trainer: L.Trainer, pl_module: L.LightningModule, *_: object
        ) -> None:
            for part in pl_module.modules():
                if isinstance(part, Growable):
                    part.grow([0.25, 0.75])

    trained(Grow(start=0), tmp_path)
    extra = {
        key: state
        for key, state in read_checkpoint(tmp_path / "kept.ckpt")["state_dict"].items()
        if key.endswith("_extra_state")
    }
    assert extra
    assert all(state["alpha"] == [0.25, 0.75] for state in extra.values() if "alpha" in state)


@pytest.mark.parametrize(
    ("arguments", "allowed"),
    [
        ({"decay": 1.0}, "decay is 1.0; give a number between 0 and 1"),
        ({"decay": 0.0}, "decay is 0.0; give a number between 0 and 1"),
        ({"start": -1}, "start is -1; give a whole number of steps, 0 or more"),
    ],
)
def test_other_numbers_are_refused(arguments: dict[str, float], allowed: str) -> None:
    with pytest.raises(ComponentError, match=allowed):
        build("callbacks", {"name": "averaged_weights", **arguments}, L.Callback)
