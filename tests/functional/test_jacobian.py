"""Jacobians against closed forms and ITK."""

from __future__ import annotations

import math

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from lightning_reg import functional as LF

SPACING = {2: (0.7, 2.2), 3: (0.7, 1.3, 2.5)}
SHAPES = {2: (8, 11), 3: (7, 8, 10)}


def gradient_matrix(dims):
    return torch.tensor(
        [[0.2, -0.1, 0.05], [0.15, -0.3, 0.12], [-0.07, 0.08, 0.25]], dtype=torch.float64
    )[:dims, :dims]


def voxel_matrix(matrix, spacing):
    """The same linear map of millimetres, in voxels."""
    s = torch.tensor(spacing, dtype=torch.float64)
    return matrix * s[None, :] / s[:, None]


@pytest.mark.parametrize("dims", [2, 3])
def test_of_a_linear_field_in_mm(dims, linear_field):
    matrix = gradient_matrix(dims)
    field = linear_field(voxel_matrix(matrix, SPACING[dims]), SHAPES[dims])
    expected = matrix + torch.eye(dims, dtype=torch.float64)
    found = LF.jacobian(field, SPACING[dims])
    torch.testing.assert_close(found, expected.view(1, dims, dims, *[1] * dims).expand_as(found))
    determinant = LF.jacobian_determinant(field)
    assert determinant.shape == (1, 1, *SHAPES[dims])
    torch.testing.assert_close(determinant, torch.linalg.det(expected).expand_as(determinant))


@pytest.mark.parametrize("dims", [2, 3])
def test_the_determinant_needs_no_spacing(dims, smooth):
    field = smooth(SHAPES[dims], 2.0, batch=2)
    found = LF.jacobian(field, SPACING[dims])
    expected = torch.linalg.det(found.movedim((1, 2), (-2, -1))).unsqueeze(1)
    torch.testing.assert_close(LF.jacobian_determinant(field), expected)


def test_every_item_has_its_spacing(smooth):
    field = smooth(SHAPES[3], 2.0, batch=2)
    spacing = torch.tensor([[0.7, 1.3, 2.5], [3.0, 1.0, 0.4]])
    together = LF.jacobian(field, spacing)
    for b in range(2):
        torch.testing.assert_close(
            together[b : b + 1], LF.jacobian(field[b : b + 1], spacing[b].tolist())
        )


@pytest.mark.parametrize("axis", range(3))
def test_gradient_is_numpys(axis, noise):
    field = noise(2, 2, 5, 6, 7)
    found = LF.gradient(field, SPACING[3])[:, :, axis]
    np.testing.assert_allclose(
        found.numpy(), np.gradient(field.numpy(), SPACING[3][axis], axis=2 + axis), atol=1e-12
    )


def test_one_slice_has_no_gradient_across_it(noise):
    field = noise(1, 3, 5, 1, 7)
    assert not LF.gradient(field)[:, :, 1].any()
    assert LF.gradient(field)[:, :, [0, 2]].all()


def test_determinant_is_itks(smooth, interior):
    """ITK differentiates vectors in mm along the axes of the grid; it does not turn them by the
    direction, so there is none.
    """
    field, spacing = smooth((9, 11, 13), 2.0), np.array(SPACING[3])
    vectors = np.einsum("b,bijk->kjib", spacing, field[0].numpy())
    image = sitk.GetImageFromArray(np.ascontiguousarray(vectors), isVector=True)
    image.SetSpacing(spacing.tolist())
    image.SetOrigin([-120.0, 33.0, 410.0])
    expected = torch.tensor(
        sitk.GetArrayFromImage(sitk.DisplacementFieldJacobianDeterminant(image))
        .transpose(2, 1, 0)
        .copy()
    )
    found = interior(LF.jacobian_determinant(field), 1)
    torch.testing.assert_close(found, interior(expected[None, None].double(), 1), atol=1e-5, rtol=0)
    assert float(found.std()) > 0.1


def test_folding_fraction_counts_voxels():
    determinant = torch.tensor([1.0, 0.5, 0.0, -0.2, 3.0, 1e-9, 2.0, -5.0]).view(1, 1, 2, 2, 2)
    assert LF.folding_fraction(determinant).item() == pytest.approx(3 / 8)
    mask = torch.tensor([1, 1, 1, 1, 0, 0, 0, 0]).view(1, 1, 2, 2, 2)
    assert LF.folding_fraction(determinant, mask).item() == pytest.approx(2 / 4)


@pytest.mark.parametrize("axis", range(3))
def test_a_fold_along_one_axis_is_seen(axis, linear_field):
    matrix = torch.zeros(3, 3, dtype=torch.float64)
    matrix[axis, axis] = -1.5
    assert LF.folding_fraction(LF.jacobian_determinant(linear_field(matrix, SHAPES[3]))).item() == 1


def test_sdlogj_is_the_standard_deviation(noise):
    log = noise(2, 1, 5, 6, 7)
    torch.testing.assert_close(LF.sdlogj(log.exp()), log.flatten(1).std(1, correction=0))
    mask = torch.zeros(2, 1, 5, 6, 7)
    mask[:, :, 2:] = 1
    torch.testing.assert_close(
        LF.sdlogj(log.exp(), mask), log[:, :, 2:].flatten(1).std(1, correction=0)
    )


@pytest.mark.parametrize("scale", [0.5, 1.0, 3.0])
def test_sdlogj_of_a_uniform_scaling_is_zero(scale, linear_field):
    field = linear_field((scale - 1) * torch.eye(3, dtype=torch.float64), SHAPES[3])
    determinant = LF.jacobian_determinant(field)
    assert determinant.mean().item() == pytest.approx(scale**3)
    assert LF.sdlogj(determinant).item() == pytest.approx(0, abs=1e-6)
    assert math.isfinite(LF.sdlogj(-determinant).item())


def test_the_non_diffeomorphic_volume_of_affine_maps_is_closed() -> None:
    """A map that turns space over by det -1/2 folds half a voxel of volume per voxel; one that does
    not folds none.
    """
    points = torch.stack(
        torch.meshgrid(*(torch.arange(n, dtype=torch.float64) for n in (4, 5, 6)), indexing="ij")
    ).unsqueeze(0)
    for matrix, expected in (
        (torch.tensor([[0.5, 0.3, 0], [0, -1.0, 0.2], [0, 0, 1]]), 0.5),
        (torch.tensor([[0.5, 0.3, 0], [0, 1.0, 0.2], [0, 0, 1]]), 0.0),
        (torch.tensor([[0.0, 1.0, 0], [1.0, 0, 0], [0, 0, 0.7]]), 0.7),
        (torch.diag(torch.tensor([-0.2, 1.0, 1.0])), 0.2),
        (torch.tensor([[0.0, -1.0, 0], [1.0, 0, 0], [0, 0, 2.0]]), 0.0),
    ):
        moved = torch.einsum("ab,zbijk->zaijk", matrix.double(), points)
        assert float(LF.non_diffeomorphic_volume(moved - points)) == pytest.approx(
            expected, abs=1e-6
        )


def test_the_non_diffeomorphic_volume_is_that_of_all_tetrahedra() -> None:
    """Against SciPy's volumes of every tetrahedron of both divisions, of a field that folds in
    places; a mask counts corners.
    """
    from itertools import combinations, product

    field = 0.6 * torch.randn(
        1, 3, 5, 4, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0)
    )
    mask = (torch.rand(1, 1, 5, 4, 6, generator=torch.Generator().manual_seed(1)) > 0.4).double()
    shape = np.array([5, 4, 6])
    total = inside = 0.0
    for first in product(*(range(n - 1) for n in shape)):
        corners = [np.array(c) for c in product((0, 1), repeat=3)]
        tetrahedra = [[c, *(c ^ e for e in np.eye(3, dtype=int))] for c in corners]
        tetrahedra += [[c for c in corners if c.sum() % 2 == parity] for parity in (0, 1)]
        for vertices in tetrahedra:
            before = np.array([first + v for v in vertices], float)
            after = np.array(
                [first + v + field[(0, slice(None), *(first + v))].numpy() for v in vertices]
            )
            volumes = [np.linalg.det(points[1:] - points[0]) / 6 for points in (before, after)]
            if volumes[0] * volumes[1] < 0:
                middle = all((np.abs(a - b).sum() == 2) for a, b in combinations(vertices, 2))
                total += abs(volumes[1]) / 2
                inside += (
                    abs(volumes[1])
                    / 2
                    * float(mask[(0, 0, *(first if middle else np.array(first) + vertices[0]))])
                )
    assert total > 1
    assert float(LF.non_diffeomorphic_volume(field)) == pytest.approx(total / np.prod(shape - 1))
    assert float(LF.non_diffeomorphic_volume(field, mask)) == pytest.approx(
        inside / float(mask.sum())
    )
