"""Checks of callbacks. Factory: no arguments. They observe four training steps of a network that
grows and is conditioned on a weight.
"""

from __future__ import annotations

import io
import tempfile
from collections.abc import Sequence
from pathlib import Path

import lightning as L
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from lightning_reg.components.losses.bundle import LossBundle
from lightning_reg.components.losses.regularity import Diffusion
from lightning_reg.components.losses.similarity import SSD
from lightning_reg.configuration.building import build_composer
from lightning_reg.data.preprocessing import Preprocessing
from lightning_reg.spatial import Pair
from lightning_reg.testing.checks import Factory, check, made, require
from lightning_reg.testing.fixtures import pair
from lightning_reg.training.callbacks.saving import Saving
from lightning_reg.training.module import RegistrationModule

STEPS = 4


def _made(factory: Factory) -> L.Callback:
    return made(factory, L.Callback)


def _module() -> RegistrationModule:
    torch.manual_seed(0)
    backbone = {
        "name": "dual_stream",
        "levels": 2,
        "features": 4,
        "norm": "instance",
        "conditioned": [0.1, 1.0],
    }
    composer = build_composer(
        {"name": "single", "backbone": backbone, "head": {"name": "pyramid", "features": 4}}
    )
    return RegistrationModule(
        composer,
        LossBundle({"ssd": SSD(), "diffusion": (0.5, Diffusion())}),
        preprocessing=Preprocessing(),
    )


def _fitted(
    callback: L.Callback, folder: Path, steps: int = STEPS, resume: Path | None = None
) -> tuple[RegistrationModule, L.Trainer]:
    """A training with a validation every two steps, saved in ``folder/last.ckpt`` as a run is."""
    module = _module()
    pairs: Sequence[Pair] = [pair((12, 16, 8)), pair((16, 12, 8))]
    loader: DataLoader[Pair] = DataLoader(pairs, batch_size=1, collate_fn=Pair.collate)  # type: ignore[arg-type]
    trainer = L.Trainer(
        max_steps=steps, accelerator="cpu",
        callbacks=[Saving(folder, lambda: None, lambda: 0.0), callback], default_root_dir=folder,
        enable_progress_bar=False, enable_model_summary=False, log_every_n_steps=1,
        num_sanity_val_steps=0,
    )  # fmt: skip
    trainer.fit(module, loader, loader, ckpt_path=resume, weights_only=True)
    return module, trainer


@check("callback")
def watches_a_training(factory: Factory) -> None:
    """A training of four steps with validations completes."""
    with tempfile.TemporaryDirectory() as folder:
        _, trainer = _fitted(_made(factory), Path(folder))
        require(
            trainer.global_step == STEPS,
            f"the training ends after {trainer.global_step} of {STEPS} steps",
        )


@check("callback")
def state_is_plain(factory: Factory) -> None:
    """Its state has only tensors and plain values, loads without running code, and is unchanged by
    saving and loading.
    """
    with tempfile.TemporaryDirectory() as folder:
        callback = _made(factory)
        _fitted(callback, Path(folder))
        state, content = callback.state_dict(), io.BytesIO()
        torch.save(state, content)
        content.seek(0)
        read = torch.load(content, weights_only=True)
        other = _made(factory)
        other.load_state_dict(read)
        require(_same(other.state_dict(), state), "the state changes when it is saved and loaded")


@check("callback")
def resumes(factory: Factory) -> None:
    """A training resumed from its checkpoint after two steps ends with the same weights as an
    uninterrupted one.
    """
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        whole, _ = _fitted(_made(factory), folder)
        _fitted(_made(factory), folder / "half", STEPS // 2)
        rest, _ = _fitted(_made(factory), folder / "rest", resume=folder / "half" / "last.ckpt")
        for name, value in whole.state_dict().items():
            other = rest.state_dict()[name]
            require(
                not isinstance(value, Tensor) or torch.allclose(value, other, atol=1e-6),
                f"{name} differs after a resumed training",
            )


def _same(one: object, other: object) -> bool:
    if isinstance(one, Tensor):
        return isinstance(other, Tensor) and torch.equal(one, other)
    if isinstance(one, dict):
        return (
            isinstance(other, dict)
            and one.keys() == other.keys()
            and all(_same(value, other[key]) for key, value in one.items())
        )
    if isinstance(one, (list, tuple)):
        return (
            isinstance(other, (list, tuple))
            and len(one) == len(other)
            and all(map(_same, one, other))
        )
    return one == other
