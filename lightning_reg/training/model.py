"""Trained models, which can be applied without importing the trainer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from lightning_reg.components.interfaces import Composer
from lightning_reg.components.losses.bundle import LossBundle
from lightning_reg.configuration.building import build_composer, build_loss
from lightning_reg.data.datasets.identity import trained_images
from lightning_reg.data.preprocessing import Preprocessing
from lightning_reg.registry import TrainingError, construct
from lightning_reg.registry.provenance import Entry, other_versions, require_installed
from lightning_reg.training.checkpoints import read_checkpoint


@dataclass(frozen=True)
class TrainedModel:
    """The parts of a checkpoint that are needed to apply a model.

    Args:
        composer: composer with the trained weights, in evaluation mode.
        loss: loss of the training.
        preprocessing: preprocessing of the training images.
        statistics: statistics of the training images, see
            :func:`lightning_reg.data.statistics.statistics`.
        description: description of the module, see
            :meth:`lightning_reg.training.module.RegistrationModule.description`.
        trained_on: contents of the training images, see
            :func:`lightning_reg.data.datasets.identity.content`; empty where the checkpoint does
            not store them.
    """

    composer: Composer
    loss: LossBundle
    preprocessing: Preprocessing
    statistics: Mapping[str, Any]
    description: dict[str, Any]
    trained_on: frozenset[str] = frozenset()


def read_model(path: str | Path) -> TrainedModel:
    """Read the model of a checkpoint file. Only tensors and plain values are loaded; no code from
    the file is executed.

    Raises:
        TrainingError: the file does not exist, is damaged, is of an earlier version, or was not
            written by lightning_reg.
        ComponentError: a component of the model is not installed.
    """
    checkpoint = read_checkpoint(path)
    stored = checkpoint["lightning_reg"]
    components = stored.get("components", [])
    require_installed(components, str(path))
    parts = nn.ModuleDict(
        {
            "composer": build_composer(stored["model"]["composer"]),
            "loss": build_loss(stored["model"]["loss"]),
        }
    )
    parts = parts.float()  # whatever PyTorch's default dtype is
    load_weights(parts, checkpoint["state_dict"], str(path), components)
    composer, loss = parts["composer"].eval(), parts["loss"]
    assert isinstance(composer, Composer)
    assert isinstance(loss, LossBundle)
    preprocessing = construct("preprocessing", Preprocessing, stored["preprocessing"])
    trained_on = trained_images(stored.get("data", {}))
    return TrainedModel(
        composer, loss, preprocessing, stored.get("statistics", {}), stored["model"], trained_on
    )


def load_weights(
    module: nn.Module, state: Mapping[str, Any], path: str, components: Sequence[Entry] = ()
) -> None:
    """Load a checkpoint's weights.

    Args:
        components: components of the checkpoint, for the message.

    Raises:
        TrainingError: the weights do not fit the module; the message names the first such weight.
    """
    own = module.state_dict()
    unfit = sorted(own.keys() ^ state.keys()) + [
        k
        for k, v in own.items()
        if isinstance(v, Tensor) and k in state and v.shape != state[k].shape
    ]
    if unfit:
        versions = other_versions(components)
        remedy = (
            f": pip install {' '.join(versions)}"
            if versions
            else "; they are of another version of the components: install that one."
        )
        raise TrainingError(
            f"The weights in {path} do not fit the method it names ({unfit[0]}){remedy}"
        )
    module.load_state_dict(dict(state))
