"""Default method without a model: choice by the content of the two images."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
import torchio as tio

import lightning_reg
from lightning_reg.data.lungs import shows_lungs
from lightning_reg.functional import resize
from lightning_reg.registry import ComponentError

QUICK = ["optimization.patience=3"]


def scene(seed: int = 0) -> np.ndarray:
    """Smooth blobs from 0.1 to 1 in a background of 0."""
    coarse = torch.rand(1, 1, 6, 7, 6, generator=torch.Generator().manual_seed(seed))
    inside = resize(coarse, (24, 28, 26))[0, 0].numpy()
    inside = 0.1 + 0.9 * (inside - inside.min()) / (inside.max() - inside.min())
    return np.pad(inside, 4)


def saved(folder: Path, name: str, values: np.ndarray) -> Path:
    path = folder / f"{name}.nii.gz"
    nib.save(nib.Nifti1Image(values.astype(np.float32), np.diag([2.0, 2.0, 2.0, 1.0])), path)
    return path


def test_images_that_correlate_are_of_one_modality(tmp_path: Path) -> None:
    fixed = saved(tmp_path, "fixed", 500 * scene())
    moving = saved(tmp_path, "moving", 80 + 300 * np.roll(scene(), 1, axis=0))
    result = lightning_reg.conventional(overrides=QUICK).register(fixed, moving)
    assert result.settings["instance"] == "auto"
    assert result.optimized is not None
    assert result.optimized.unlike is None
    assert not result.warnings


def test_images_that_do_not_are_of_two(tmp_path: Path) -> None:
    """Bright where the other is dark, inside and not in the background."""
    values, told = scene(), []
    fixed, moving = (
        saved(tmp_path, "fixed", values),
        saved(tmp_path, "moving", np.where(values > 0, 1.1 - values, 0)),
    )
    result = lightning_reg.conventional(overrides=QUICK).register(
        fixed, moving, progress=told.append
    )
    assert result.optimized is not None
    assert result.optimized.unlike is not None
    assert result.optimized.unlike < 0
    assert any("two modalities" in line for line in told)
    assert any("registered as two modalities" in warning for warning in result.warnings)
    likes = lightning_reg.conventional(overrides=[*QUICK, "optimization.likeness=-1"]).register(
        fixed, moving
    )
    assert likes.optimized is not None
    assert likes.optimized.unlike is None


def test_ct_of_lungs_is_registered_as_such(tmp_path: Path) -> None:
    body = np.where(scene() > 0, 40.0, -1000.0)
    body[8:26, 8:30, 8:28] = -700 - 100 * scene()[8:26, 8:30, 8:28]
    fixed, moving = (
        saved(tmp_path, "fixed", body),
        saved(tmp_path, "moving", np.roll(body, 1, axis=1)),
    )
    told: list[str] = []
    result = lightning_reg.conventional(overrides=QUICK).register(
        fixed, moving, progress=told.append
    )
    assert result.settings["instance"] == "lung_ct"
    assert result.working.fixed.tensor.min() == 0  # of the window from -1000 HU
    assert "CT of the lungs: lung_ct" in told
    other = saved(tmp_path, "mr", scene())
    assert (
        lightning_reg.conventional(overrides=QUICK).register(fixed, other).settings["instance"]
        == "auto"
    )


@pytest.mark.parametrize(
    ("dark", "share", "lungs"),
    [(-800.0, 0.2, True), (-800.0, 0.05, False), (-990.0, 0.2, False), (-300.0, 0.2, False)],
    ids=["lungs", "few", "air", "fat"],
)
def test_lungs_are_dark_but_not_as_dark_as_air(dark: float, share: float, lungs: bool) -> None:
    values = torch.full((40, 20, 20), 30.0)
    values[: round(40 * share)] = dark
    values[-2:] = -1000
    assert shows_lungs(tio.ScalarImage(tensor=values[None])) == lungs


def test_likeness_is_a_correlation() -> None:
    with pytest.raises(ComponentError, match="from -1 to 1"):
        lightning_reg.conventional(overrides=["optimization.likeness=2"])
