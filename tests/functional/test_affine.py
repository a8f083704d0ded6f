"""Affine matrices and points."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from lightning_reg import functional as LF

IDENTITY = torch.tensor([[0.0] * 6 + [1.0] * 3 + [0.0] * 3], dtype=torch.float64)
GENERAL = torch.tensor(
    [
        [12.0, -7.0, 33.0, 0.3, -0.2, 0.5, 1.1, 0.9, 1.3, 0.1, -0.2, 0.05],
        [0.0, 4.0, -1.0, -1.2, 0.7, 1.5, 0.6, 1.7, 0.8, -0.3, 0.4, 0.2],
    ],
    dtype=torch.float64,
)
CENTER = torch.tensor([120.0, -80.0, 310.0], dtype=torch.float64)


@pytest.mark.parametrize("center", [None, CENTER])
def test_identity(center):
    torch.testing.assert_close(
        LF.affine_matrix(IDENTITY, center), torch.eye(4, dtype=torch.float64)[None]
    )
    torch.testing.assert_close(
        LF.affine_parameters(torch.eye(4, dtype=torch.float64)[None], center), IDENTITY
    )


@pytest.mark.parametrize("center", [None, CENTER])
def test_parameters_round_trip(center):
    torch.testing.assert_close(
        LF.affine_parameters(LF.affine_matrix(GENERAL, center), center), GENERAL
    )


@pytest.mark.parametrize("angle", [1e-7, 1e-3, 1.0, 3.0, 3.14159, math.pi])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_any_angle_round_trips_to_the_same_matrix(angle, dtype):
    parameters = GENERAL[:1].to(dtype).clone()
    parameters[:, 3:6] *= angle / parameters[:, 3:6].norm()
    matrix = LF.affine_matrix(parameters)
    found = LF.affine_parameters(matrix)
    assert float(found[:, 3:6].norm()) <= math.pi + 1e-5
    torch.testing.assert_close(LF.affine_matrix(found), matrix, atol=5e-6, rtol=0)


def test_factors_multiply_in_the_order_of_the_docstring():
    t, r, s, h = GENERAL[0].split(3)
    shear = np.array([[1, h[0], h[1]], [0, 1, h[2]], [0, 0, 1]])
    linear = Rotation.from_rotvec(r.numpy()).as_matrix() @ np.diag(s.numpy()) @ shear
    matrix = LF.affine_matrix(GENERAL[:1], CENTER)[0].numpy()
    np.testing.assert_allclose(matrix[:3, :3], linear)
    np.testing.assert_allclose(matrix[:3, 3], CENTER.numpy() + t.numpy() - linear @ CENTER.numpy())
    np.testing.assert_array_equal(matrix[3], [0, 0, 0, 1])


@pytest.mark.parametrize("axis", range(3))
def test_translation_of_one_axis(axis):
    parameters = IDENTITY.clone()
    parameters[0, axis] = 5
    moved = LF.transform_points(
        LF.affine_matrix(parameters, CENTER), torch.zeros(1, 3, 1, dtype=torch.float64)
    )
    assert moved.flatten().tolist() == pytest.approx([5.0 if a == axis else 0.0 for a in range(3)])


def test_the_center_moves_by_the_translation_only():
    matrix = LF.affine_matrix(GENERAL, CENTER)
    moved = LF.transform_points(matrix, CENTER.view(1, 3, 1))[..., 0]
    torch.testing.assert_close(moved, CENTER + GENERAL[:, :3])


@pytest.mark.parametrize("axis", range(3))
def test_rotation_is_right_handed(axis):
    vector = torch.zeros(1, 3, dtype=torch.float64)
    vector[0, axis] = math.pi / 2
    matrix = LF.rotation_matrix(vector)[0]
    assert matrix[(axis + 2) % 3, (axis + 1) % 3] == pytest.approx(1)


def test_rotations_are_scipys_and_orthonormal(noise):
    vectors = 1.5 * noise(20, 3)
    matrices = LF.rotation_matrix(vectors)
    np.testing.assert_allclose(
        matrices.numpy(), Rotation.from_rotvec(vectors.numpy()).as_matrix(), atol=1e-12
    )
    torch.testing.assert_close(
        matrices @ matrices.mT, torch.eye(3, dtype=torch.float64).expand(20, 3, 3)
    )


def test_the_derivative_of_a_rotation_at_zero_is_the_cross_product():
    jacobian = torch.autograd.functional.jacobian(
        LF.rotation_matrix, torch.zeros(1, 3, dtype=torch.float64)
    )[0, :, :, 0]
    vector, point = (
        torch.tensor([0.3, -0.4, 0.7], dtype=torch.float64),
        torch.tensor([2.0, 5.0, -1.0], dtype=torch.float64),
    )
    torch.testing.assert_close(
        torch.einsum("abc,c,b->a", jacobian, vector, point), torch.linalg.cross(vector, point)
    )


def test_a_reflection_has_no_parameters():
    with pytest.raises(ValueError, match="reflects"):
        LF.affine_parameters(torch.diag(torch.tensor([1.0, -1.0, 1.0, 1.0]))[None])


@pytest.mark.parametrize("shape", [(7,), (2, 3, 4)])
def test_points_and_vectors(shape, noise):
    matrix, points = LF.affine_matrix(GENERAL), noise(2, 3, *shape)
    moved, turned = LF.transform_points(matrix, points), LF.transform_vectors(matrix, points)
    homogeneous = torch.cat(
        [points.flatten(2), torch.ones(2, 1, points[0, 0].numel(), dtype=torch.float64)], dim=1
    )
    torch.testing.assert_close(moved.flatten(2), (matrix @ homogeneous)[:, :3])
    torch.testing.assert_close(
        moved - turned, matrix[:, :3, 3].view(2, 3, *[1] * len(shape)).expand_as(points)
    )
    torch.testing.assert_close(
        LF.transform_points(matrix, points[:1])[1:], LF.transform_points(matrix[1:], points[:1])
    )
    torch.testing.assert_close(
        LF.transform_points(matrix[:1], points)[1:], LF.transform_points(matrix[:1], points[1:])
    )


def test_identity_points_count_along_their_own_axis():
    points = LF.identity_points((3, 4, 5))
    assert points.shape == (1, 3, 3, 4, 5)
    assert points[0, :, 2, 1, 3].tolist() == [2, 1, 3]
