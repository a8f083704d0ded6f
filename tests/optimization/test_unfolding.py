"""Removal of the last folded voxels."""

from __future__ import annotations

import sys

import pytest
import torch

from lightning_reg.functional import jacobian_determinant
from lightning_reg.optimization.unfolding import unfolded
from lightning_reg.spatial import BSpline, Grid, slabs


@pytest.fixture
def noise() -> torch.Tensor:
    return torch.randn(1, 3, 18, 16, 17, generator=torch.Generator().manual_seed(0))


GRID = Grid.regular((30, 26, 28), (1.0, 2.0, 1.5))


def test_folded_voxels_are_smoothed_away_and_the_rest_is_kept(noise, monkeypatch) -> None:
    """Also where the image is looked at in slabs, and the fold lies in a later one."""
    monkeypatch.setattr(sys.modules[slabs.__module__], "SLAB", 7 * 26 * 28)
    control = 0.2 * noise
    control[0, 0, 12, 8, 8] = 20.0
    spline = BSpline(control, GRID, (2.0, 2.0, 2.0))
    assert int((jacobian_determinant(spline.displacement()) <= 0).sum()) > 5
    found = unfolded(spline)
    assert int((jacobian_determinant(found.displacement()) <= 0).sum()) == 0
    torch.testing.assert_close(found.control[:, :, :6], control[:, :, :6])
    assert not torch.equal(found.control[:, :, 12, 8, 8], control[:, :, 12, 8, 8])


def test_a_spline_without_folds_is_returned_as_it_is(noise) -> None:
    spline = BSpline(0.1 * noise, GRID, (2.0, 2.0, 2.0))
    assert unfolded(spline) is spline
