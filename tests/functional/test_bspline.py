"""Cubic B-splines against SciPy and ITK."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from scipy.interpolate import BSpline as ScipySpline

from lightning_reg import functional as LF

CASES = [
    ((11, 14), (3.0, 4.0)),
    ((11, 14), (2.5, 3.7)),
    ((9, 11, 13), (2.0, 3.0, 5.0)),
    ((9, 11, 13), (2.5, 3.3, 1.0)),
    ((9, 11, 13), (4.0, 0.75, 20.0)),
]


def scipy_matrix(count, positions):
    """Values of the ``count`` uniform cubic splines whose centres are 0 .. count - 1, at lattice
    positions.
    """
    knots = np.arange(-2.0, count + 2)
    return ScipySpline(knots, np.eye(count), 3, extrapolate=True)(positions)


@pytest.mark.parametrize(("shape", "stride"), CASES)
def test_bspline_is_scipys(shape, stride, noise):
    lattice = LF.lattice_shape(shape, stride)
    control = noise(2, len(shape), *lattice)
    out = LF.bspline(control, shape, stride, [-s for s in stride])
    matrices = [
        scipy_matrix(n, (np.arange(size) + s) / s)
        for n, size, s in zip(lattice, shape, stride, strict=True)
    ]
    letters = "ijk"[: len(shape)]
    spec = ",".join(f"{x.upper()}{x}" for x in letters) + f",bc{letters}->bc{letters.upper()}"
    expected = np.einsum(spec, *matrices, control.numpy(), optimize=True)
    np.testing.assert_allclose(out.numpy(), expected, atol=1e-12)


@pytest.mark.parametrize(("shape", "stride"), CASES)
def test_bspline_is_itks(shape, stride, noise):
    """ITK counts axes in reverse here, so that its flat coefficient order is that of the tensor."""
    dims, lattice = len(shape), LF.lattice_shape(shape, stride)
    control = noise(1, dims, *lattice)
    mesh = [n - 3 for n in reversed(lattice)]
    transform = sitk.BSplineTransform(dims, 3)
    transform.SetTransformDomainOrigin([0.0] * dims)
    transform.SetTransformDomainDirection(np.eye(dims).ravel().tolist())
    transform.SetTransformDomainPhysicalDimensions(
        [m * s for m, s in zip(mesh, reversed(stride), strict=True)]
    )
    transform.SetTransformDomainMeshSize(mesh)
    transform.SetParameters(control[0].flip(0).flatten().tolist())
    rng = np.random.default_rng(3)
    points = rng.random((40, dims)) * (np.array(shape) - 1)
    out = LF.bspline_at(control, torch.tensor(points.T)[None], stride, [-s for s in stride])[
        0
    ].T.numpy()
    expected = np.array([transform.TransformPoint(p[::-1].tolist())[::-1] for p in points]) - points
    np.testing.assert_allclose(out, expected, atol=1e-10)


@pytest.mark.parametrize(("shape", "stride"), CASES)
@pytest.mark.parametrize("offset", [-1.0, 0.0, 0.3])
def test_at_voxel_centres_both_evaluations_agree(shape, stride, offset, noise):
    control = noise(2, 2, *LF.lattice_shape(shape, stride))
    start = [offset * s for s in stride]
    points = LF.identity_points(shape, dtype=torch.float64)
    torch.testing.assert_close(
        LF.bspline_at(control, points, stride, start), LF.bspline(control, shape, stride, start)
    )


@pytest.mark.parametrize(("shape", "stride"), CASES)
def test_weights_sum_to_one(shape, stride):
    dims = len(shape)
    value = torch.arange(1.0, dims + 1).view(1, dims, *[1] * dims)
    control = value.expand(1, dims, *[3] * dims)
    dense = LF.bspline(control, shape, stride, [0.7] * dims)
    torch.testing.assert_close(dense, value.expand_as(dense))


@pytest.mark.parametrize("axis", range(3))
def test_a_linear_lattice_gives_a_ramp(axis):
    shape, stride = (9, 11, 13), (2.5, 3.3, 4.0)
    lattice = LF.lattice_shape(shape, stride)
    index = LF.identity_points(lattice, dtype=torch.float64)[:, axis : axis + 1]
    dense = LF.bspline((index - 1) * stride[axis], shape, stride, [-s for s in stride])
    torch.testing.assert_close(
        dense, LF.identity_points(shape, dtype=torch.float64)[:, axis : axis + 1]
    )


@pytest.mark.parametrize("axis", range(3))
def test_the_lattice_extends_by_its_border(axis, noise):
    control = noise(1, 3, 4, 5, 6)
    padding = [0] * 6
    padding[2 * (2 - axis)] = padding[2 * (2 - axis) + 1] = 3
    wider = torch.nn.functional.pad(control, padding, mode="replicate")
    stride, offset = (2.0, 3.0, 2.5), [0.0, 0.0, 0.0]
    further = list(offset)
    further[axis] -= 3 * stride[axis]
    points = (
        12 * torch.rand(1, 3, 200, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        - 2
    )
    torch.testing.assert_close(
        LF.bspline_at(control, points, stride, offset),
        LF.bspline_at(wider, points, stride, further),
    )
    torch.testing.assert_close(
        LF.bspline(control, (9, 11, 13), stride, offset),
        LF.bspline(wider, (9, 11, 13), stride, further),
    )


def test_far_outside_the_value_is_that_of_the_corner(noise):
    control = noise(1, 3, 4, 5, 6)
    points = torch.tensor([[-900.0, 900.0], [-900.0, 900.0], [-900.0, 900.0]], dtype=torch.float64)[
        None
    ]
    out = LF.bspline_at(control, points, (2.0, 3.0, 2.5), (0.0, 0.0, 0.0))
    torch.testing.assert_close(out[0, :, 0], control[0, :, 0, 0, 0])
    torch.testing.assert_close(out[0, :, 1], control[0, :, -1, -1, -1])


@pytest.mark.parametrize("stride", [1.0, 1.7, 3.0, 4.0, 10.0])
@pytest.mark.parametrize("size", [2, 9, 13])
def test_every_voxel_has_its_four_control_points(size, stride):
    (count,) = LF.lattice_shape((size,), (stride,))
    position = (np.arange(size) + stride) / stride
    assert np.floor(position).min() >= 1
    assert np.floor(position).max() + 2 <= count - 1
    assert np.floor(position).max() + 2 == count - 1  # and none to spare


@pytest.mark.parametrize(("control_batch", "point_batch"), [(1, 3), (3, 1), (3, 3)])
def test_batches_broadcast(control_batch, point_batch, noise):
    control, points = noise(control_batch, 2, 5, 6, 7), 3 + noise(point_batch, 3, 4, 5)
    out = LF.bspline_at(control, points, (2.0, 3.0, 2.5), (-2.0, -3.0, -2.5))
    assert out.shape == (3, 2, 4, 5)
    for b in range(3):
        one = LF.bspline_at(
            control[b % control_batch][None],
            points[b % point_batch][None],
            (2.0, 3.0, 2.5),
            (-2.0, -3.0, -2.5),
        )
        torch.testing.assert_close(out[b], one[0])


@pytest.mark.parametrize(("shape", "stride"), CASES)
def test_a_subdivided_lattice_holds_the_same_spline(shape, stride, noise):
    control = noise(2, len(shape), *LF.lattice_shape(shape, stride))
    half = [s / 2 for s in stride]
    finer = LF.subdivide(control, LF.lattice_shape(shape, half))
    expected = LF.bspline(control, shape, stride, [-s for s in stride])
    torch.testing.assert_close(
        LF.bspline(finer, shape, half, [-s for s in half]), expected, atol=1e-12, rtol=0
    )


@pytest.mark.parametrize("derivative", [1, 2])
def test_derivatives_of_the_basis_are_scipys(derivative, noise):
    count, size, stride, offset = 7, 9, 2.5, -2.5
    found = LF.basis_matrix(count, size, stride, offset, derivative, like=noise(1))
    spline = ScipySpline(np.arange(-2.0, count + 2), np.eye(count), 3).derivative(derivative)
    expected = spline((np.arange(size) - offset) / stride) / stride**derivative
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-12)


def test_bending_from_control_points_is_that_of_a_finely_sampled_field(noise):
    """On a lattice far wider than the voxels the differences on voxels come close to the
    derivatives.
    """
    shape, stride, spacing = (60, 66, 72), (15.0, 13.0, 18.0), (1.0, 2.0, 1.5)
    control = noise(2, 3, *LF.lattice_shape(shape, stride))
    offset = [-s for s in stride]
    found = LF.bspline_bending(control, shape, stride, offset, spacing)
    on_voxels = LF.bending(LF.bspline(control, shape, stride, offset), spacing)
    torch.testing.assert_close(found, on_voxels, rtol=0.08, atol=0)
    affine = LF.identity_points(control.shape[2:], dtype=control.dtype)
    assert float(LF.bspline_bending(affine, shape, stride, offset, spacing).max()) < 1e-4 * float(
        found.min()
    )
