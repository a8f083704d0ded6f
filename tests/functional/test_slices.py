"""One slice: equal to two dimensions, and to a stack of identical slices."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from kornia.metrics import ssim
from scipy.ndimage import distance_transform_edt

from lightning_reg import functional as LF

PLANE, SPACING = (13, 11), (0.7, 1.3)
AXES = pytest.mark.parametrize("axis", [0, 1, 2])
REGULARITY = [LF.diffusion, LF.total_variation, LF.isotropic_total_variation]
SIMILARITY = {
    "ssd": LF.ssd,
    "ncc": LF.ncc,
    "lncc": lambda f, w: LF.lncc(f, w, 5),
    "ngf": lambda f, w: LF.ngf(f, w, (0.3, 0.4), 1.3),
    "mutual_information": LF.mutual_information,
    "ssim": lambda f, w: LF.ssim(f, w, 5),
    "mind": lambda f, w: (LF.mind_ssc(f) - LF.mind_ssc(w)).square().flatten(1).mean(1),
}


def as_slice(image, axis, size=1):
    """``(B, C, *plane)`` to a slice of a volume, or to a stack of it."""
    return image.unsqueeze(2 + axis).repeat_interleave(size, dim=2 + axis)


def field_of_slice(field, axis, size=1):
    """A displacement ``(B, 2, *plane)`` with a component 0 along the axis of the slice."""
    components = list(field.unbind(1))
    components.insert(axis, torch.zeros_like(components[0]))
    return as_slice(torch.stack(components, dim=1), axis, size)


def spacing_of_slice(axis):
    values = list(SPACING)
    values.insert(axis, 5.0)
    return values


@AXES
def test_the_jacobian_is_that_of_the_plane(axis, smooth):
    field = smooth(PLANE, 3.0)
    expected = as_slice(LF.jacobian_determinant(field), axis)
    flat = field_of_slice(field, axis)
    torch.testing.assert_close(LF.jacobian_determinant(flat), expected)
    matrix = LF.jacobian(flat, spacing_of_slice(axis))
    torch.testing.assert_close(
        torch.linalg.det(matrix.movedim((1, 2), (-2, -1)))[:, None], expected
    )
    across = as_slice(smooth(PLANE, 3.0, channels=1), axis) * torch.eye(3)[axis].view(3, 1, 1, 1)
    torch.testing.assert_close(LF.jacobian_determinant(flat + across), expected)


@pytest.mark.parametrize("function", [*REGULARITY, LF.bending, LF.curvature])
@AXES
def test_regularity_is_that_of_the_plane(axis, function, smooth):
    field = smooth(PLANE, 3.0).requires_grad_()
    expected = function(field, SPACING)
    found = function(field_of_slice(field, axis), spacing_of_slice(axis))
    torch.testing.assert_close(found, expected)
    gradients = [torch.autograd.grad(value, field)[0] for value in (found, expected)]
    torch.testing.assert_close(*gradients)


@AXES
def test_the_bending_of_a_spline_is_that_of_the_plane(axis, noise):
    stride, control = (3.0, 2.5), noise(1, 2, 7, 6)
    expected = LF.bspline_bending(control, PLANE, stride, (-3.0, -2.5), SPACING)
    strides, shape = [3.0, 2.5], list(PLANE)
    strides.insert(axis, 3.0)
    shape.insert(axis, 1)
    lattice = field_of_slice(control, axis, LF.lattice_shape([1], [3.0])[0])
    offsets = [-s for s in strides]
    found = LF.bspline_bending(lattice, shape, strides, offsets, spacing_of_slice(axis))
    torch.testing.assert_close(found, expected)
    dense = LF.bspline(lattice, shape, strides, offsets)
    expected = field_of_slice(LF.bspline(control, PLANE, stride, (-3.0, -2.5)), axis)
    torch.testing.assert_close(dense, expected)


@pytest.mark.parametrize("name", SIMILARITY)
@AXES
def test_similarity_is_that_of_a_stack(axis, name, smooth):
    fixed, warped = (smooth(PLANE, 0.5, channels=1).add(0.5).float() for _ in range(2))
    one, stack = (
        SIMILARITY[name](as_slice(fixed, axis, size), as_slice(warped, axis, size))
        for size in (1, 16)
    )
    torch.testing.assert_close(one, stack, atol=1e-5, rtol=1e-5)


def test_ssim_is_that_of_two_dimensions(smooth):
    fixed, warped = (smooth(PLANE, 0.5, channels=1).add(0.5).float() for _ in range(2))
    found = LF.ssim(as_slice(fixed, 2), as_slice(warped, 2), 5)
    torch.testing.assert_close(found, ssim(fixed, warped, 5).flatten(1).mean(1), atol=1e-4, rtol=0)


@AXES
def test_algebra_is_that_of_the_plane(axis, smooth):
    first, second = smooth(PLANE, 2.0), smooth(PLANE, 1.5)
    image = smooth(PLANE, channels=1)
    a, b = field_of_slice(first, axis), field_of_slice(second, axis)
    torch.testing.assert_close(
        LF.warp(as_slice(image, axis), a), as_slice(LF.warp(image, first), axis)
    )
    for made, expected in (
        (LF.compose(a, b), LF.compose(first, second)),
        (LF.exponentiate(a), LF.exponentiate(first)),
        (LF.invert(b).displacement, LF.invert(second).displacement),
    ):
        torch.testing.assert_close(made, field_of_slice(expected, axis), atol=1e-10, rtol=0)


@pytest.mark.parametrize("masked", [False, True])
@AXES
def test_folding_is_that_of_a_stack(axis, masked, smooth, noise):
    field = smooth(PLANE, 6.0)
    mask = None
    if masked:
        inside = torch.zeros(1, 1, *PLANE)
        inside[:, :, 2:-2, 2:-2] = 1
        mask = inside
    values = []
    for size in (1, 9):
        flat = field_of_slice(field, axis, size)
        of = None if mask is None else as_slice(mask, axis, size)
        if of is not None and size > 1:  # only the slices in the middle: the first has no neighbour
            of.narrow(2 + axis, 0, 1).zero_()
            of.narrow(2 + axis, size - 1, 1).zero_()
        values.append((LF.non_diffeomorphic_volume(flat, of), LF.folding_penalty(flat, 0.5, of)))
    assert float(values[0][0]) > 0.001
    assert float(values[0][1]) > 0.01
    for one, stack in zip(*values, strict=True):
        torch.testing.assert_close(one, stack)
    # the gradient of the hand-written backward pass
    small = field_of_slice(field + 0.1 * noise(1, 2, *PLANE), axis).requires_grad_()
    torch.autograd.gradcheck(lambda u: LF.folding_penalty(u, 0.5, None), small)


@AXES
def test_the_surface_of_a_slice_is_its_contour(axis):
    """Distances by SciPy between the corners on the two contours, weighted by their lengths."""
    points = torch.meshgrid(*(torch.arange(n) for n in (24, 30)), indexing="ij")
    masks = [
        (points[0] - i) ** 2 + 0.7 * (points[1] - j) ** 2 < r * r
        for i, j, r in ((11, 14, 6.3), (12, 12, 7.8))
    ]
    flat = [mask.unsqueeze(axis) for mask in masks]
    found = LF.surface_distance(*flat, spacing_of_slice(axis))

    contours = []
    for mask in masks:
        wide = np.pad(mask.numpy(), 1)
        near = np.stack(
            [wide[a : a + 25, b : b + 31] for a, b in itertools.product((0, 1), (0, 1))]
        )
        count = near.sum(0)
        opposite = (count == 2) & (near[0] == near[3])
        along = (count == 2) & ~opposite
        length = 0.5 * np.hypot(*SPACING) * np.isin(count, (1, 3)) + np.hypot(*SPACING) * opposite
        length += np.where(near[0] == near[1], SPACING[1], SPACING[0]) * along
        contours.append((length, distance_transform_edt(length == 0, SPACING)))
    (a, of_a), (b, of_b) = contours
    assd = ((of_b * a).sum() / a.sum() + (of_a * b).sum() / b.sum()) / 2
    assert found.assd == pytest.approx(assd)
    assert found.hd == pytest.approx(max(of_b[a > 0].max(), of_a[b > 0].max()))
    shares = [
        min(d for d in distance[on > 0] if on[distance <= d].sum() >= 0.95 * on.sum())
        for on, distance in ((a, of_b), (b, of_a))
    ]
    assert found.hd95 == pytest.approx(max(shares))


@AXES
def test_resampling_and_determinant_are_itks_in_two_dimensions(axis, smooth, interior):
    image, field = smooth(PLANE, channels=1), smooth(PLANE, 2.0)
    moving = sitk.GetImageFromArray(image[0, 0].T.numpy())
    vectors = np.ascontiguousarray((field[0].numpy() * np.reshape(SPACING, (2, 1, 1))).T)
    displacement = sitk.GetImageFromArray(vectors, isVector=True)
    for each in (moving, displacement):
        each.SetSpacing(SPACING)
        each.SetOrigin((-30.0, 12.0))
    determinant = sitk.GetArrayFromImage(sitk.DisplacementFieldJacobianDeterminant(displacement))
    transform = sitk.DisplacementFieldTransform(displacement)
    warped = sitk.GetArrayFromImage(sitk.Resample(moving, moving, transform, sitk.sitkLinear))
    flat = field_of_slice(field, axis)
    found = LF.warp(as_slice(image, axis), flat, padding="border").squeeze(2 + axis)
    inside = torch.from_numpy(warped.T.copy())[None, None]
    torch.testing.assert_close(interior(found, 3), interior(inside, 3), atol=1e-6, rtol=0)
    found = LF.jacobian_determinant(flat).squeeze(2 + axis)
    expected = torch.from_numpy(determinant.T.copy()).double()[None, None]
    torch.testing.assert_close(interior(found, 1), interior(expected, 1), atol=1e-5, rtol=0)


@AXES
def test_a_spline_is_itks_in_two_dimensions(axis, noise):
    """On a grid of one slice, whose lattice has four control points across."""
    stride = (3.0, 2.5)
    lattice = LF.lattice_shape(PLANE, stride)
    control = noise(1, 2, *lattice)
    mesh = [n - 3 for n in reversed(lattice)]
    transform = sitk.BSplineTransform(2, 3)
    transform.SetTransformDomainPhysicalDimensions(
        [m * s for m, s in zip(mesh, reversed(stride), strict=True)]
    )
    transform.SetTransformDomainMeshSize(mesh)
    transform.SetParameters(control[0].flip(0).flatten().tolist())
    points = LF.identity_points(PLANE, dtype=torch.float64)[0].flatten(1).T.numpy()
    expected = np.array([transform.TransformPoint(p[::-1].tolist())[::-1] for p in points]) - points
    strides, shape = list(stride), list(PLANE)
    strides.insert(axis, 4.0)
    shape.insert(axis, 1)
    dense = LF.bspline(field_of_slice(control, axis, 4), shape, strides, [-s for s in strides])
    plane = [a for a in range(3) if a != axis]
    np.testing.assert_allclose(dense[0, plane].flatten(1).T.numpy(), expected, atol=1e-10)
    assert not dense[0, axis].any()


def test_nothing_moves_across_a_slice(noise):
    field = noise(1, 3, 5, 1, 7)
    moved = LF.in_plane(field, field.shape[2:])
    assert not moved[:, 1].any()
    assert torch.equal(moved[:, [0, 2]], field[:, [0, 2]])
    thick = noise(1, 3, 5, 2, 7)
    assert LF.in_plane(thick, thick.shape[2:]) is thick
