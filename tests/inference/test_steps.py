"""Steps of a registration: each continues from the transform before."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import lightning_reg
from lightning_reg.inference.steps import Align, Step
from lightning_reg.registry import UserError
from lightning_reg.spatial import Affine, Composition


class Up(Step):
    """Some mm to the top, after the transform before."""

    part = "up"

    def __init__(self, mm: float) -> None:
        self.mm = mm

    def __call__(self, pair, transform, notes):
        notes.say(f"{self.mm:g} mm")
        matrix = torch.eye(4).unsqueeze(0)
        matrix[:, 2, 3] = self.mm
        return Composition([Affine(matrix, pair.fixed.grid), transform])

    def bytes_per_voxel(self, pair):
        return 0.0


@pytest.fixture
def images() -> list[tuple[np.ndarray, np.ndarray]]:
    values = np.random.default_rng(0).random((9, 8, 7)).astype(np.float32)
    moved = np.eye(4)
    moved[:3, 3] = 1.0, 0.0, 1.0
    return [(values, np.eye(4)), (values, moved)]


def test_every_step_continues_from_the_one_before(images) -> None:
    lines: list[str] = []
    registrar = lightning_reg.Registrar(lightning_reg.Preprocessing(), [Up(1.0), Up(0.5)])
    result = registrar.register(*images, progress=lines.append)
    np.testing.assert_allclose(result.map_points([[2.0, 3.0, 4.0]]), [[2.0, 3.0, 5.5]], atol=1e-5)
    assert lines == ["1 mm", "0.5 mm"]
    assert "up" in result.seconds
    assert result.inputs == {}
    assert result.optimized is None


def test_centres_are_aligned_before_the_first_step(images) -> None:
    steps = [Align("centers"), Up(1.0)]
    registrar = lightning_reg.Registrar(lightning_reg.Preprocessing(), steps)
    assert registrar.start == "centers"
    result = registrar.register(*images)
    np.testing.assert_allclose(result.map_points([[2.0, 3.0, 4.0]]), [[3.0, 3.0, 6.0]], atol=1e-5)
    before = result.start.map_world(torch.tensor([[[2.0], [3.0], [4.0]]], dtype=torch.float64))
    np.testing.assert_allclose(before[0, :, 0].numpy(), [3.0, 3.0, 5.0], atol=1e-5)


def test_a_start_that_searches_needs_an_optimisation() -> None:
    with pytest.raises(UserError, match="A model starts from the headers or from the centers"):
        Align("auto")
