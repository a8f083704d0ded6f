"""Data of one slice: phantom, synthetic deformations, augmentation, preprocessing."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torchio as tio

from lightning_reg.data.augmentation import Augmentation
from lightning_reg.data.datasets.adapters.generated import PhantomDataset
from lightning_reg.data.preprocessing import Geometry
from lightning_reg.data.scans import Scan
from lightning_reg.data.synthetic import RandomBSpline, SyntheticDeformation
from lightning_reg.figures.panels import registration_panel
from lightning_reg.figures.slices import planes
from lightning_reg.figures.views import thumbnail
from lightning_reg.functional import jacobian_determinant
from lightning_reg.metrics.pair import evaluate
from lightning_reg.phantom import breathing_thorax
from lightning_reg.registry import ArgumentError
from lightning_reg.spatial import Grid, Identity

SHAPES = pytest.mark.parametrize("shape", [(40, 1, 36), (1, 32, 36), (40, 32, 1)])


def normalised(pair):
    """The pair with intensities in [0, 1]."""
    from dataclasses import replace

    images = [
        replace(image, tensor=((image.tensor + 1000) / 1500).clamp(0, 1), padding=0.0)
        for image in (pair.fixed, pair.moving)
    ]
    return replace(pair, fixed=images[0], moving=images[1])


@SHAPES
def test_a_phantom_slice_breathes_in_its_plane(shape):
    pair, axis = normalised(breathing_thorax(3, shape, noise=0.0)), shape.index(1)
    assert pair.fixed.grid.shape == shape
    assert pair.fixed_landmarks is None
    assert not pair.truth.field[:, axis].any()
    before = (pair.moving.tensor - pair.fixed.tensor)[:, :, :].abs().mean()
    after = (pair.moving.warped(pair.truth).tensor - pair.fixed.tensor).abs().mean()
    assert after < 0.6 * before
    # through the middle of the whole phantom
    whole = breathing_thorax(3, (40, 32, 36)).fixed.grid
    np.testing.assert_allclose(pair.fixed.grid.center, whole.center, atol=1e-9)


def test_a_line_is_no_phantom():
    with pytest.raises(ArgumentError, match="or 1 for a slice"):
        PhantomDataset(shape=(32, 1, 1))


@pytest.mark.parametrize("shape", [(40, 1, 36), (40, 32, 1)])
def test_a_phantom_slice_is_measured_and_drawn(shape):
    pair = normalised(breathing_thorax(3, shape))
    identity = Identity(pair.fixed.grid, pair.fixed.tensor)
    found = evaluate(pair, pair.truth, surfaces=True)
    row = found.row()
    assert row["dice_after"] > row["dice_before"]
    assert row["assd_after_mm"] < row["assd_before_mm"]
    assert [axis for _, axis, *_ in planes(pair.fixed.grid)] == [shape.index(1)]
    figure = registration_panel(pair, pair.truth, masked=True)
    assert len([axes for axes in figure.axes if axes.get_title()]) == 7
    determinant = jacobian_determinant(pair.truth.field)
    assert thumbnail(pair, identity, determinant).size[0] > 0


@SHAPES
@pytest.mark.parametrize("spline", ["approximating", "interpolating"])
def test_a_random_spline_moves_a_slice_in_its_plane(shape, spline):
    drawn = RandomBSpline(4, 0.2, spline).draw(shape, np.random.default_rng(0))
    axis = shape.index(1)
    assert drawn.shape == (1, 3, *shape)
    assert not drawn[:, axis].any()
    assert all(drawn[:, a].abs().max() > 1 for a in range(3) if a != axis)


@SHAPES
def test_a_synthetic_pair_of_a_slice(shape):
    pair = normalised(breathing_thorax(3, shape))
    scan = Scan("x", pair.fixed, pair.fixed_mask, pair.fixed_labels)
    made = SyntheticDeformation(density=True).draw(scan, np.random.default_rng(0))
    assert made.fixed.grid.shape == shape
    assert not made.truth.field[:, shape.index(1)].any()
    assert torch.isfinite(made.fixed.tensor).all()
    before = (made.moving.tensor - made.fixed.tensor).abs().mean()
    warped = made.moving.warped(made.truth)
    assert (warped.tensor - made.fixed.tensor).abs().mean() < before


@SHAPES
def test_a_slice_is_augmented_in_its_plane(shape):
    pair = normalised(breathing_thorax(3, shape))
    augmentation = Augmentation(
        noise=0.01, gamma=0.2, bias=0.2, flip=[a for a in range(3) if shape[a] > 1],
        affine={"degrees": 10, "translation": 10}, elastic={"max_displacement": 8},
        crop_mm=10, separately=["elastic", "noise"],
    )  # fmt: skip
    for seed in range(3):
        made = augmentation(pair, [seed])
        assert made.fixed.grid.shape[shape.index(1)] == 1
        assert torch.isfinite(made.fixed.tensor).all()
        assert made.fixed.tensor.std() > 0.1  # nothing has left the slice
    field = made.truth.field
    assert field[:, shape.index(1)].abs().max() < 1e-3


def test_a_resampled_slice_keeps_its_thickness():
    affine = np.diag([1.0, 1.0, 5.0, 1.0])
    subject = tio.Subject(
        image=tio.ScalarImage(tensor=torch.rand(1, 20, 16, 1), affine=affine), name="x"
    )
    for geometry in (Geometry(spacing=2.0), Geometry(shape=(10, 8, 1))):
        image = geometry(subject)["image"]
        assert image.spatial_shape == (10, 8, 1)
        assert image.spacing == pytest.approx((2.0, 2.0, 5.0))
        np.testing.assert_allclose(image.affine[:3, 3], (0.5, 0.5, 0.0), atol=1e-6)
    smaller = Geometry()(subject, voxels=80)
    assert smaller["image"].spatial_shape == (10, 8, 1)
    assert smaller["name"] == "x"


def test_landmarks_of_a_slice_are_inside_in_spite_of_rounding():
    on = Grid.regular((8, 9, 1), origin=(0, 0, 7.3))
    points = on.to_world(on.points(dtype=torch.float64).flatten(2)) + 1e-7
    assert on.contains(points, margin=0.01).all()
    assert not on.contains(points + torch.tensor([0, 0, 0.6]).view(1, 3, 1), margin=0.01).any()
