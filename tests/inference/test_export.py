"""Export: the ONNX network gives the same values as ours."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lightning_reg.configuration.composition import compose
from lightning_reg.inference.export import export_onnx
from lightning_reg.registry import UserError
from lightning_reg.spatial import Grid, Image
from lightning_reg.training.module import RegistrationModule

onnxruntime = pytest.importorskip(
    "onnxruntime", reason="onnxruntime is not installed: pip install 'lightning-reg[onnx]'"
)

SPACING = (1.5, 2.0, 1.0)
SMALLER = {
    "progressive": {"backbone": {"levels": 2}},
    "velocity": {"backbone": {"levels": 3, "features": 4}},
    "deep_supervision": {},
    "linear_deformable": {},
    "multilevel": {"strides": [2, 1]},
    "dlir": {},
    "voxelmorph": {},
}


def method(name: str) -> dict[str, Any]:
    """A method's composer with fewer levels, whose heads move something."""
    composer = compose([f"method={name}", "data=folder", "data.root=.", "size=paper"])["method"][
        "composer"
    ]
    for key, value in SMALLER[name].items():
        composer[key] = {**composer[key], **value} if isinstance(value, dict) else value
    return {
        "composer": composer,
        "loss": {"terms": {"ssd": {}}},
        "optimizer": {"name": "adam", "lr": 1e-3},
        "schedule": {},
    }


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(SMALLER))
def test_every_method_in_onnx_runtime(name: str, model, tmp_path: Path) -> None:
    shape, path = (64, 64, 64) if name == "dlir" else (32, 48, 32), tmp_path / "network.onnx"
    checkpoint = model(method(name))
    assert export_onnx(checkpoint, path, shape, SPACING) < 2e-3
    fixed, moving = (
        torch.rand(1, 1, *shape, generator=torch.Generator().manual_seed(seed)) for seed in (8, 9)
    )
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (found,) = session.run(["displacement"], {"fixed": fixed.numpy(), "moving": moving.numpy()})
    grid = Grid.regular(shape, SPACING)
    with torch.no_grad():
        module = RegistrationModule.load_from_checkpoint(checkpoint).eval()
        ours = module(Image(fixed, grid), Image(moving, grid)).transform.displacement(grid)
    assert float(ours.abs().max()) > 0.01
    np.testing.assert_allclose(found, ours.numpy(), atol=2e-3)


def test_a_missing_package_is_named(model, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "onnxscript", None)
    with pytest.raises(
        UserError,
        match=(
            r"Exporting needs the packages onnx and onnxscript; pip install 'lightning-reg\[onnx\]'"
        ),
    ):
        export_onnx(model(), tmp_path / "x.onnx", (16, 16, 16))
    assert list(tmp_path.glob("*.onnx")) == []
