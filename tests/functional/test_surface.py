"""Surface distances against closed forms and against the challenge's code."""

from __future__ import annotations

import math

import pytest
import torch

from lightning_reg import functional as LF

SPACING = (1.0, 2.0, 0.5)


def blob(center: tuple[float, float, float], radius: float) -> torch.Tensor:
    axes = torch.meshgrid(*(torch.arange(n) for n in (20, 16, 24)), indexing="ij")
    return sum((axis - c) ** 2 for axis, c in zip(axes, center, strict=True)) < radius**2


CHALLENGE = [  # two blobs, the voxel size, and what is measured
    (((9, 8, 11), 5.5), ((11, 7, 13), 6.2), SPACING, (3.0, 1.011986174565, 4.242640687119)),
    (((9, 8, 11), 5.5), ((11, 7, 13), 6.2), (0.7, 0.7, 3.0), (6.0, 1.251502295878, 9.054280755532)),
    (
        ((9, 8, 11), 1.2),
        ((10, 5, 7), 7.4),
        SPACING,
        (14.256577429383, 4.213565668816, 15.52417469626),
    ),
    # at the border of the image
    (((2, 8, 11), 5.5), ((4, 9, 20), 6.2), (1.0, 1.0, 1.0), (8.0, 4.152820383804, 8.831760866328)),
]


@pytest.mark.parametrize(("first", "second", "spacing", "expected"), CHALLENGE)
def test_equal_to_the_challenges_code(first, second, spacing, expected) -> None:
    """Values of the package surface-distance 0.1 (google-deepmind), which the challenge uses.

    ``compute_robust_hausdorff`` of 95 %, the mean of ``compute_average_surface_distance``, and
    ``compute_robust_hausdorff`` of 100 %.
    """
    a, b = blob(*first), blob(*second)
    assert LF.surface_distance(a, b, spacing) == pytest.approx(expected, rel=1e-6)
    assert LF.surface_distance(b, a, spacing) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_two_sheets_of_one_voxel(axis: int) -> None:
    """Of the two faces of each, one is 4 voxels from the other sheet and one 3."""
    a, b = torch.zeros(12, 12, 12, dtype=torch.bool), torch.zeros(12, 12, 12, dtype=torch.bool)
    a.select(axis, 3)[:], b.select(axis, 7)[:] = True, True
    found = LF.surface_distance(a, b, SPACING)
    assert found == pytest.approx((4 * SPACING[axis], 3.5 * SPACING[axis], 4 * SPACING[axis]))


def test_equal_masks_touch_and_a_missing_one_has_no_distance() -> None:
    mask = blob((9, 8, 11), 5.0)
    assert LF.surface_distance(mask, mask, SPACING) == (0.0, 0.0, 0.0)
    assert all(math.isnan(v) for v in LF.surface_distance(mask, torch.zeros_like(mask)))


def test_labels_one_by_one() -> None:
    first, second = (
        torch.zeros(20, 16, 24, dtype=torch.int16),
        torch.zeros(20, 16, 24, dtype=torch.int16),
    )
    for label, center in ((1, (6, 8, 6)), (7, (13, 8, 17))):
        first[blob(center, 4.0)] = label
        second[blob((center[0] + 1, center[1], center[2]), 4.0)] = label
    found = LF.surface_distances(first, second, [1, 7], torch.tensor(SPACING))
    assert [d.hd95 for d in found] == pytest.approx([1.0, 1.0])
