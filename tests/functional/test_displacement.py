"""Composition, inverse and exponential of displacement fields."""

from __future__ import annotations

import math

import pytest
import torch

from lightning_reg import functional as LF

SHAPES = {2: (21, 26), 3: (17, 19, 22)}


def affine_pair(dims):
    """Two linear parts that do not commute, and what they are about."""
    first, second = (
        torch.zeros(dims, dims, dtype=torch.float64),
        torch.zeros(dims, dims, dtype=torch.float64),
    )
    first[0, 1], first[0, 0], second[1, 0], second[-1, -1] = 0.08, -0.05, -0.06, 0.07
    return first, second


@pytest.mark.parametrize("dims", [2, 3])
def test_compose_applies_the_inner_first(dims, linear_field, interior):
    outer, inner = affine_pair(dims)
    composed = LF.compose(linear_field(outer, SHAPES[dims]), linear_field(inner, SHAPES[dims]))
    eye = torch.eye(dims, dtype=torch.float64)
    expected = linear_field((eye + outer) @ (eye + inner) - eye, SHAPES[dims])
    wrong = linear_field((eye + inner) @ (eye + outer) - eye, SHAPES[dims])
    torch.testing.assert_close(interior(composed, 3), interior(expected, 3))
    assert float(interior(composed - wrong, 3).abs().max()) > 1e-2


def test_warping_twice_is_warping_by_the_composition(smooth, interior):
    """Exact for an image that is linear: ``(image o outer) o inner = image o (outer o inner)``."""
    outer, inner = smooth(SHAPES[3], 1.0), smooth(SHAPES[3], 0.8)
    ramp = LF.identity_points(SHAPES[3], dtype=torch.float64)
    twice = LF.warp(LF.warp(ramp, outer, padding="border"), inner, padding="border")
    once = LF.warp(ramp, LF.compose(outer, inner), padding="border")
    torch.testing.assert_close(interior(twice, 3), interior(once, 3))


@pytest.mark.parametrize("dims", [2, 3])
def test_the_identity_is_neutral(dims, smooth):
    u = smooth(SHAPES[dims], 2.0)
    zero = torch.zeros_like(u)
    torch.testing.assert_close(LF.compose(u, zero), u)
    torch.testing.assert_close(LF.compose(zero, u), u)
    torch.testing.assert_close(LF.exponentiate(zero), zero)
    torch.testing.assert_close(LF.invert(zero).displacement, zero)


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("size", [0.5, 2.0])
def test_inverse_round_trips(dims, size, smooth, interior):
    u = smooth(SHAPES[dims], size, batch=2)
    inverse = LF.invert(u, tolerance=1e-6)
    assert inverse.residual.shape == (2, 1, *SHAPES[dims])
    assert float(inverse.residual.max()) < 1e-6
    torch.testing.assert_close(
        LF.compose(u, inverse.displacement), torch.zeros_like(u), atol=1e-6, rtol=0
    )
    margin = int(size) + 1
    left = interior(LF.compose(inverse.displacement, u), margin)
    torch.testing.assert_close(left, torch.zeros_like(left), atol=0.03 * size, rtol=0)


@pytest.mark.parametrize("axis", range(3))
def test_inverse_of_a_translation(axis):
    u = torch.zeros(1, 3, 9, 11, 13)
    u[:, axis] = 6.5
    torch.testing.assert_close(LF.invert(u).displacement, -u, atol=1e-5, rtol=0)


def test_inverse_of_an_affine_field(linear_field, interior):
    matrix, _ = affine_pair(3)
    matrix = 3 * matrix
    eye = torch.eye(3, dtype=torch.float64)
    inverse = LF.invert(linear_field(matrix, SHAPES[3]), tolerance=1e-8)
    expected = linear_field(torch.linalg.inv(eye + matrix) - eye, SHAPES[3])
    torch.testing.assert_close(
        interior(inverse.displacement, 5), interior(expected, 5), atol=1e-6, rtol=0
    )


@pytest.mark.parametrize("axis", range(3))
def test_a_stretch_by_more_than_two_is_inverted(axis, linear_field, interior):
    """Steps of full length diverge where a derivative of the displacement is above 1."""
    matrix = torch.zeros(3, 3, dtype=torch.float64)
    matrix[axis, axis], matrix[axis, axis - 1] = 1.6, 0.3
    eye = torch.eye(3, dtype=torch.float64)
    inverse = LF.invert(linear_field(matrix, SHAPES[3]), tolerance=1e-6)
    expected = linear_field(torch.linalg.inv(eye + matrix) - eye, SHAPES[3])
    torch.testing.assert_close(
        interior(inverse.displacement, 4), interior(expected, 4), atol=1e-5, rtol=0
    )


def test_the_residual_says_where_a_fold_has_no_inverse():
    u = torch.zeros(1, 3, 15, 5, 6)
    u[:, 0] = -2.5 * (torch.arange(15.0) - 7).clamp(-2, 2).view(1, 15, 1, 1)
    result = LF.invert(u)
    expected = (result.displacement + LF.warp(u, result.displacement, padding="border")).norm(
        dim=1, keepdim=True
    )
    torch.testing.assert_close(result.residual, expected)
    assert torch.isfinite(result.displacement).all()


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("steps", [1, 4, 7])
def test_a_constant_velocity_comes_out_constant(dims, steps):
    velocity = (
        torch.tensor([3.0, -7.5, 12.0][:dims])
        .view(1, dims, *[1] * dims)
        .expand(1, dims, *SHAPES[dims])
    )
    torch.testing.assert_close(LF.exponentiate(velocity, steps), velocity, atol=1e-4, rtol=0)


@pytest.mark.parametrize("dims", [2, 3])
def test_a_linear_velocity_flows_to_the_matrix_exponential(dims, linear_field, interior):
    first, second = affine_pair(dims)
    matrix = 2 * (first + second)
    expected = linear_field(
        torch.matrix_exp(matrix) - torch.eye(dims, dtype=torch.float64), SHAPES[dims]
    )
    flow = LF.exponentiate(linear_field(matrix, SHAPES[dims]), steps=12)
    torch.testing.assert_close(interior(flow, 4), interior(expected, 4), atol=2e-3, rtol=0)


def test_squarings_below_zero_are_refused(smooth):
    with pytest.raises(ValueError, match="steps is -1"):
        LF.exponentiate(smooth(SHAPES[3]), steps=-1)


@pytest.mark.parametrize("steps", [7, 12])
def test_the_error_of_linear_interpolation_does_not_depend_on_the_steps(steps):
    """The flow of ``a sin(k x)`` is known: ``tan(k phi / 2) = exp(a k) tan(k x / 2)``."""
    size, k = 2.5, 2 * math.pi / 24
    x = LF.identity_points((25, 3, 4), dtype=torch.float64)[:, :1]
    velocity = torch.cat([size * torch.sin(k * x), torch.zeros(1, 2, 25, 3, 4)], dim=1)
    half = k * x / 2
    exact = torch.atan2(math.exp(size * k) * half.sin(), half.cos()) * 2 / k - x
    error = (LF.exponentiate(velocity, steps)[:, :1] - exact).abs().max()
    assert 0.005 < float(error) < 0.05


@pytest.mark.parametrize("dims", [2, 3])
def test_the_flow_of_the_negative_velocity_is_the_inverse(dims, smooth, interior):
    velocity = smooth(SHAPES[dims], 1.5)
    forth, back = LF.exponentiate(velocity), LF.exponentiate(-velocity)
    for loop in (LF.compose(forth, back), LF.compose(back, forth)):
        assert float(interior(loop, 3).abs().max()) < 0.02
    assert float(forth.abs().max()) > 1


def test_half_the_velocity_twice_is_the_whole(smooth, interior):
    velocity = smooth(SHAPES[3], 1.5)
    half = LF.exponentiate(velocity / 2, steps=6)
    torch.testing.assert_close(LF.compose(half, half), LF.exponentiate(velocity, steps=7))


@pytest.mark.parametrize(
    "function", [LF.exponentiate, lambda u: LF.invert(u).displacement, lambda u: LF.compose(u, -u)]
)
def test_a_batch_is_its_items(function, smooth):
    u = smooth((9, 11, 13), 1.2, batch=2)
    together = function(u)
    for b in range(2):
        torch.testing.assert_close(together[b : b + 1], function(u[b : b + 1]), atol=1e-3, rtol=0)


MIXED = {
    "warp": lambda u, p: LF.warp(u, u),
    "compose": lambda u, p: LF.compose(u, u),
    "exponentiate": lambda u, p: LF.exponentiate(u),
    "invert": lambda u, p: LF.invert(u * 0.2).displacement,
    "resize_displacement": lambda u, p: LF.resize_displacement(u, (7, 15, 20)),
    "transform_points": lambda u, p: LF.transform_points(LF.affine_matrix(p), 40 * u),
    "transform_vectors": lambda u, p: LF.transform_vectors(LF.affine_matrix(p), 40 * u),
    "bspline": lambda u, p: LF.bspline(u, (12, 14, 16), (3.0, 4.0, 2.5), (-3.0, -4.0, -2.5)),
    "bspline_at": lambda u, p: LF.bspline_at(
        u, LF.identity_points((12, 14, 16)), (3.0, 4.0, 2.5), (-3.0, -4.0, -2.5)
    ),
    "affine_matrix": lambda u, p: LF.affine_matrix(p, torch.tensor([120.0, -80.0, 310.0])),
    "rotation_matrix": lambda u, p: LF.rotation_matrix(p[:, 3:6]),
    "jacobian_determinant": lambda u, p: LF.jacobian_determinant(u),
    "bending": lambda u, p: LF.bending(u, (1.0, 0.7, 2.0)),
    "lncc": lambda u, p: LF.lncc(u, u.flip(2), 3),
}


@pytest.mark.parametrize("name", MIXED)
def test_mixed_precision_leaves_geometry_in_float32(name, smooth):
    u = smooth((9, 11, 13), 2.0).float()
    parameters = torch.tensor([[12.0, -70.0, 33.0, 0.3, -0.2, 0.5, 1.1, 0.9, 1.3, 0.1, -0.2, 0.05]])
    expected = MIXED[name](u, parameters)
    with torch.autocast("cpu", torch.bfloat16):
        out = MIXED[name](u, parameters)
    assert out.dtype == torch.float32
    torch.testing.assert_close(out, expected, atol=1e-5, rtol=1e-5)
