"""Surface distances against closed forms and against every pair of border voxels."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.ndimage import binary_erosion
from scipy.spatial.distance import cdist

from lightning_reg import functional as LF

SPACING = (1.0, 2.0, 0.5)


def blob(center: tuple[float, float, float], radius: float) -> torch.Tensor:
    axes = torch.meshgrid(*(torch.arange(n) for n in (20, 16, 24)), indexing="ij")
    return sum((axis - c) ** 2 for axis, c in zip(axes, center, strict=True)) < radius**2


def border(mask: torch.Tensor) -> np.ndarray:
    array = mask.numpy()
    return np.argwhere(array & ~binary_erosion(array)) * np.array(SPACING)


def test_every_pair_of_border_voxels() -> None:
    a, b = blob((9, 8, 11), 5.5), blob((11, 7, 13), 6.2)
    distance = cdist(border(a), border(b))
    there, back = distance.min(1), distance.min(0)
    found = LF.surface_distance(a, b, SPACING)
    assert found.hd95 == pytest.approx(max(np.percentile(there, 95), np.percentile(back, 95)))
    assert found.assd == pytest.approx(np.concatenate([there, back]).mean())
    assert found.hd == pytest.approx(max(there.max(), back.max()))


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_two_planes_lie_apart_by_their_distance_in_mm(axis: int) -> None:
    a, b = torch.zeros(12, 12, 12, dtype=torch.bool), torch.zeros(12, 12, 12, dtype=torch.bool)
    a.select(axis, 3)[:], b.select(axis, 7)[:] = True, True
    found = LF.surface_distance(a, b, SPACING)
    assert found == pytest.approx((4 * SPACING[axis],) * 3)


def test_equal_masks_touch_and_a_missing_one_has_no_distance() -> None:
    mask = blob((9, 8, 11), 5.0)
    assert LF.surface_distance(mask, mask, SPACING) == (0.0, 0.0, 0.0)
    assert all(math.isnan(v) for v in LF.surface_distance(mask, torch.zeros_like(mask)))


def test_labels_one_by_one() -> None:
    first, second = torch.zeros(20, 16, 24, dtype=torch.int16), torch.zeros(20, 16, 24, dtype=torch.int16)
    for label, center in ((1, (6, 8, 6)), (7, (13, 8, 17))):
        first[blob(center, 4.0)] = label
        second[blob((center[0] + 1, center[1], center[2]), 4.0)] = label
    found = LF.surface_distances(first, second, [1, 7], torch.tensor(SPACING))
    assert [d.hd95 for d in found] == pytest.approx([1.0, 1.0])
