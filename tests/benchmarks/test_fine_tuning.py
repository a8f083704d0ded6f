"""Example of fine-tuning at small size: a different labelling of the same structure, and a training
that starts from the model.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from untrained import checkpoint

from lightning_reg.configuration.composition import compose
from lightning_reg.models import locate
from lightning_reg.training.module import RegistrationModule
from lightning_reg.training.run import train

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import fine_tuning

MODEL = (
    Path(__file__).parents[2]
    / "plugins"
    / "lightning_reg_hippocampus"
    / "src"
    / "lightning_reg_hippocampus"
    / "model.ckpt"
)


def test_the_other_labelling_is_of_parts_of_equal_length_from_behind_to_the_front() -> None:
    """A bar of 30 x 4 x 4 mm along a direction of the world that no axis of the image follows."""
    turn = np.array(
        [[0.8, -0.6, 0.0, 5.0], [0.6, 0.8, 0.0, -7.0], [0.0, 0.0, 1.0, 2.0], [0.0, 0.0, 0.0, 1.0]]
    )
    labels = np.zeros((40, 36, 12), dtype=np.uint8)
    labels[5:35, 10:14, 4:8] = 2
    labels[5:12, 10:14, 4:8] = 1
    found = fine_tuning.in_parts(labels, turn)
    assert np.array_equal(found > 0, labels > 0)
    along = [np.argwhere(found == part)[:, 0] for part in (1, 2, 3)]
    assert [(int(x.min()), int(x.max())) for x in along] == [
        (5, 14),
        (15, 24),
        (25, 34),
    ]  # axis 0 runs to the front in this world
    assert np.array_equal(
        fine_tuning.in_parts(labels, np.diag([1.0, 1, 1, 1]) @ np.diag([-1.0, -1, 1, 1]) @ turn),
        4 * (found > 0) - found,
    )


@pytest.mark.data
@pytest.mark.slow
def test_a_training_on_it_starts_from_the_model(public_data: Path, tmp_path: Path) -> None:
    """With labels that the model has never seen: 40 subjects, 20 held out; the first loss is the
    model's, not that of a new network.
    """
    data = fine_tuning.relabelled(public_data / "hippocampus", tmp_path / "data")
    assert len(list((data / "labels").iterdir())) == 40
    told: list[str] = []
    config = compose(
        [
            *fine_tuning.overrides(data, 3),
            f"init={MODEL}",
            "data.max_validation_pairs=3",
            "method.optimizer.lr=1.0e-6",
        ]
    )
    outcome = train(config, tmp_path / "run", progress=told.append)
    assert any("Started from" in line and "weights." in line for line in told)
    assert outcome.totals()["dice_after"] > 0.7
    kept = RegistrationModule.load_from_checkpoint(
        tmp_path / "run" / "checkpoints" / "last.ckpt"
    ).preprocessing
    assert kept == RegistrationModule.load_from_checkpoint(MODEL).preprocessing


def test_the_model_in_the_repository_is_the_one_of_its_card(tmp_path: Path) -> None:
    """Read as any other file; it is no larger than a picture."""
    module = RegistrationModule.load_from_checkpoint(locate(MODEL).path)
    assert sum(p.numel() for p in module.parameters()) == 483_897
    assert MODEL.stat().st_size < 1.2e6
    assert (
        RegistrationModule.load_from_checkpoint(checkpoint(tmp_path / "a.ckpt")).components()
        != module.components()
    )
