"""Tests of the model: name, size, and accuracy on validation subjects as stated in its card."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

import lightning_reg
from lightning_reg.batch.evaluation.contestants import Registering
from lightning_reg.batch.evaluation.evaluation import Cases, evaluate_cases
from lightning_reg.configuration.datasets import open_configured
from lightning_reg.models import locate


@pytest.fixture
def crops() -> Path:
    folder = Path(os.environ.get("LIGHTNING_REG_DATA", "no folder given")) / "hippocampus"
    if not folder.is_dir():
        pytest.skip(
            "no hippocampus crops: set LIGHTNING_REG_DATA to the folder that holds hippocampus/"
        )
    return folder


def test_it_is_found_by_name_and_small() -> None:
    located = locate("hippocampus")
    assert located.name == "lightning_reg_hippocampus.hippocampus"
    assert located.path.stat().st_size < 1.2e6
    assert located.card is not None
    assert located.card.licence == "CC-BY-SA-4.0"
    assert located.card.accuracy["Dice after"] > 0.84
    assert located.card.accuracy["folding"] < 1e-4
    assert "TO BE WRITTEN" not in located.card.text()


def test_it_registers_images_of_other_libraries() -> None:
    """Two blobs 0.3 voxels apart, as images with default headers: displacements stay below 6
    voxels, and nothing folds.
    """
    i, j, k = np.meshgrid(np.arange(36.0), np.arange(48.0), np.arange(32.0), indexing="ij")
    images = []
    for shift in (0.0, 0.3):
        values = np.exp(-(((i - 18 - shift) / 6) ** 2 + ((j - 24) / 12) ** 2 + ((k - 16) / 5) ** 2))
        images.append(sitk.GetImageFromArray(values.T.astype(np.float32)))
    result = lightning_reg.load("hippocampus").register(*images)
    assert float(result.displacement.abs().max()) < 6
    assert float((result.determinant <= 0).float().mean()) == 0.0


def test_it_is_as_accurate_as_its_card_says(crops: Path) -> None:
    data, _ = open_configured("hippocampus", [f"data.root={crops}"])
    card = locate("hippocampus").card
    assert card is not None
    model = Registering("model", lightning_reg.load("hippocampus"))
    rows = evaluate_cases([model], Cases.of(data))["model"]
    found = [row["dice_after"] for row in rows]
    assert np.mean(found) == pytest.approx(card.accuracy["Dice after"], abs=2e-3)
