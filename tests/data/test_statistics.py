"""Statistics of the training images, and detection of images that differ from them."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from lightning_reg.data.scans import Scan
from lightning_reg.data.statistics import statistics, unlike
from lightning_reg.spatial import Grid, Image

SHAPE = (20, 16, 12)


def scan(
    low: float = 0.2, high: float = 0.7, spacing: tuple[float, float, float] = (2.0, 2.5, 3.0)
) -> Scan:
    """A ramp of intensities."""
    return Scan(
        "fixed",
        Image(
            torch.linspace(low, high, 20 * 16 * 12).view(1, 1, *SHAPE), Grid.regular(SHAPE, spacing)
        ),
    )


def test_statistics_are_ranges_of_quantiles_and_of_extents_in_mm() -> None:
    known = statistics([scan(), scan(0.1, 0.5, (1.0, 3.0, 3.5))])
    for (low, high), (small, large) in zip(
        known["extent_mm"], ((20, 40), (40, 48), (36, 42)), strict=True
    ):
        assert (low, high) == pytest.approx((small, large))
    middle = known["quantiles"][len(known["quantiles"]) // 2]
    assert middle == pytest.approx([0.3, 0.45], abs=1e-3)


def test_what_lies_between_the_training_images_is_like_them() -> None:
    known = statistics([scan(), scan(0.1, 0.5, (2.4, 3.0, 3.5))])
    for other in (scan(), scan(0.15, 0.6), scan(spacing=(2.2, 2.7, 3.2)), scan(0.25, 0.75)):
        assert unlike(other, known) is None


@pytest.mark.parametrize("shift", [-0.2, 0.25])
def test_darker_and_brighter_images_are_unlike_the_training_images(shift: float) -> None:
    said = unlike(scan(0.3 + shift, 0.5 + shift), statistics([scan(0.3, 0.5)]))
    assert "The intensities of the fixed image are unlike those" in said


@pytest.mark.parametrize("factor", [0.5, 1.8])
def test_smaller_and_larger_fields_of_view_are_unlike_the_training_images(factor: float) -> None:
    """Along a single axis is enough; the number of voxels does not matter."""
    known = statistics([scan()])
    for axis in range(3):
        spacing = [2.0, 2.5, 3.0]
        spacing[axis] *= factor
        assert "The fixed image covers" in unlike(scan(spacing=tuple(spacing)), known)
    finer = scan()
    finer = replace(finer, image=finer.image.resized((40, 32, 24)))
    assert unlike(finer, known) is None
