"""Every configured method on one tiny phantom: training improves it, and its steps run on meta
tensors.
"""

from __future__ import annotations

import traceback
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from lightning_reg import compose
from lightning_reg.components.interfaces import Growable
from lightning_reg.metrics import evaluate
from lightning_reg.phantom import breathing_thorax
from lightning_reg.spatial import Pair
from lightning_reg.training.building import build_data
from lightning_reg.training.module import RegistrationModule

METHODS = [
    "progressive",
    "multilevel",
    "dlir",
    "linear_deformable",
    "deep_supervision",
    "velocity",
    "voxelmorph",
]
TINY = [
    "data.dataset.shape=[32,28,30]",
    "data.dataset.crop=null",
    "data.dataset.subjects=1",
    "data.dataset.validation=1",
    "data.workers=0",
]
SMALLER = {
    "progressive": ["method.composer.backbone.levels=3"],
    "deep_supervision": ["method.composer.backbone.features=8"],
    "velocity": ["method.composer.backbone.levels=3", "method.composer.backbone.features=8"],
    "voxelmorph": [
        "method.composer.backbone.encoder=[8,8]",
        "method.composer.backbone.decoder=[8,8]",
        "method.composer.backbone.last=[8]",
    ],
}
RATE = {"multilevel": 3e-3, "linear_deformable": 3e-3, "progressive": 3e-3}
STEPS = 60


@pytest.fixture(scope="module")
def pairs() -> list[Pair]:
    """The two phases of a phantom, with landmarks; and a synthetic pair, with its true field."""
    data = build_data(compose([*TINY, "method=progressive", "data.synthetic_validation=1"]))
    data.setup()
    return data.validation_pairs


def settings(method: str) -> dict[str, Any]:
    return compose([*TINY, f"method={method}", *SMALLER.get(method, [])])["method"]


def grown(module: RegistrationModule) -> RegistrationModule:
    """With all levels switched on."""
    for part in module.modules():
        if isinstance(part, Growable):
            part.grow([*[0.0] * (len(part.alpha) - 1), 1.0])
    return module


@pytest.mark.filterwarnings("ignore:You are trying to `self.log")
@pytest.mark.parametrize("method", METHODS)
def test_sixty_steps_lower_the_error(method: str, pairs: list[Pair]) -> None:
    """Landmarks, or (learned from true fields) the field come closer; a loss with the wrong sign
    takes them apart.
    """
    torch.manual_seed(3)
    pair, metric = (pairs[1], "field_error") if method == "progressive" else (pairs[0], "tre")
    module = grown(RegistrationModule.from_configuration(settings(method))).train()
    optimizer = torch.optim.Adam(module.parameters(), RATE.get(method, 1e-3))
    for _ in range(STEPS):
        optimizer.zero_grad()
        module.training_step(pair, 0).backward()
        optimizer.step()
    with torch.no_grad():
        case = evaluate(pair, module(pair.fixed, pair.moving).transform)
    before, after = case.value(metric, "before"), case.value(metric, "after")
    assert before is not None
    assert after is not None
    assert after < 0.97 * before, f"{metric} {before:.2f} -> {after:.2f} mm"


@pytest.mark.filterwarnings("ignore:You are trying to `self.log")
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("shape", "aspect"), [((32, 1, 40), (1, 0, 1)), ((40, 32, 10), (1, 1, 2))])
def test_a_step_on_a_slice_and_on_thick_slices(
    method: str, shape: tuple[int, int, int], aspect: tuple[int, int, int]
) -> None:
    """A gradient reaches the parameters, and a slice moves in its plane."""
    chosen = [*TINY, f"method={method}", f"data.aspect={list(aspect)}", *SMALLER.get(method, [])]
    module = grown(RegistrationModule.from_configuration(compose(chosen)["method"])).train()
    pair = breathing_thorax(1, shape)
    images = [
        replace(image, tensor=(image.tensor + 1000) / 1500, padding=0.0)
        for image in (pair.fixed, pair.moving)
    ]
    pair = replace(pair, fixed=images[0], moving=images[1])
    module.training_step(pair, 0).backward()
    gradients = [parameter.grad for parameter in module.parameters() if parameter.grad is not None]
    assert gradients
    assert all(torch.isfinite(gradient).all() for gradient in gradients)
    with torch.no_grad():
        field = module.eval()(pair.fixed, pair.moving).transform.displacement(pair.fixed.grid)
    if 1 in shape:
        assert field[:, shape.index(1)].abs().max() < 1e-4


@pytest.mark.parametrize("method", METHODS)
def test_a_step_needs_no_values(method: str, pairs: list[Pair]) -> None:
    """Forward, loss, backward and a step of the optimiser on PyTorch's meta device: what waits for
    a value, or mixes devices, fails.
    """
    module = grown(RegistrationModule.from_configuration(settings(method))).train()
    small = (pairs[1] if method == "progressive" else pairs[0]).to("meta")
    module = module.to("meta")
    optimizer = torch.optim.Adam(module.parameters(), 1e-3)
    total = module.training_loss(small).total
    total.backward()
    optimizer.step()
    assert total.device.type == "meta"
    gradients = [parameter.grad for parameter in module.parameters() if parameter.grad is not None]
    assert gradients
    assert all(gradient.device.type == "meta" for gradient in gradients)


class Arrivals(TorchDispatchMode):
    """Notes which functions of the project copy tensors from the CPU to another device, other than
    by :func:`functional.beside`.
    """

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        given = [a for a in args if isinstance(a, torch.Tensor)]
        if (
            isinstance(made, torch.Tensor)
            and made.device.type == "meta"
            and any(t.device.type == "cpu" for t in given)
        ):
            frames = [
                frame for frame in traceback.extract_stack() if "lightning_reg" in frame.filename
            ]
            if frames and frames[-1].name != "beside":
                self.found.append(f"{frames[-1].filename}:{frames[-1].lineno}")
        return made


@pytest.mark.parametrize("method", METHODS)
def test_a_step_waits_for_no_copy_to_the_device(method: str, pairs: list[Pair]) -> None:
    """A plain copy of a few numbers waits until a GPU has done all that came before."""
    module = grown(RegistrationModule.from_configuration(settings(method))).train().to("meta")
    small = (pairs[1] if method == "progressive" else pairs[0]).to("meta")
    with Arrivals() as arrivals:
        module.training_loss(small).total.backward()
    assert not arrivals.found
