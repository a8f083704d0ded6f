"""Roughness of displacement fields: null spaces, closed forms, independence of the grid."""

from __future__ import annotations

import math

import pytest
import torch

from lightning_reg import functional as LF

SPACING = {2: (0.7, 2.2), 3: (0.7, 1.3, 2.5)}
SHAPES = {2: (8, 11), 3: (7, 8, 10)}
ALL = [LF.diffusion, LF.total_variation, LF.bending, LF.curvature]


def on_grid(function, shape, spacing):
    """A displacement in mm as a function of mm, in voxels of a grid centred at 0."""
    size = torch.tensor(spacing, dtype=torch.float64).view(1, -1, *[1] * len(shape))
    middle = torch.tensor([(n - 1) / 2 for n in shape], dtype=torch.float64).view_as(size)
    return function((LF.identity_points(shape, dtype=torch.float64) - middle) * size) / size


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("function", ALL)
def test_zero_for_translations(function, dims):
    field = on_grid(lambda x: torch.ones_like(x) * 3.5, SHAPES[dims], SPACING[dims])
    assert function(field, SPACING[dims]).item() == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize(
    ("function", "power"),
    [(LF.diffusion, 2), (LF.total_variation, 1), (LF.bending, None), (LF.curvature, None)],
)
def test_linear_fields(function, power, dims):
    """The first-order terms give the size of the matrix, in mm per mm; the second-order ones do not
    see it.
    """
    matrix = torch.tensor(
        [[0.2, -0.1, 0.05], [0.15, -0.3, 0.12], [-0.07, 0.08, 0.25]], dtype=torch.float64
    )[:dims, :dims]
    field = on_grid(
        lambda x: torch.einsum("ab,zb...->za...", matrix, x), SHAPES[dims], SPACING[dims]
    )
    expected = 0.0 if power is None else (matrix.abs() ** power).sum().item()
    assert function(field, SPACING[dims]).item() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("component", range(3))
@pytest.mark.parametrize(("a", "b"), [(0, 0), (1, 1), (2, 2), (0, 1), (0, 2), (1, 2)])
def test_quadratic_fields(component, a, b):
    """``u_c = q x_a x_b``: the Hessian holds ``2q`` once, or ``q`` twice."""
    q = 0.03

    def quadratic(x):
        u = torch.zeros_like(x)
        u[:, component] = q * x[:, a] * x[:, b]
        return u

    field = on_grid(quadratic, SHAPES[3], SPACING[3])
    bending = (2 * q) ** 2 if a == b else 2 * q**2
    curvature = 0.5 * (2 * q) ** 2 if a == b else 0.0
    assert LF.bending(field, SPACING[3]).item() == pytest.approx(bending)
    assert LF.curvature(field, SPACING[3]).item() == pytest.approx(curvature, abs=1e-12)


@pytest.mark.parametrize("function", ALL)
def test_the_value_does_not_depend_on_the_grid(function):
    """Whole periods, so that the mean is the same wherever the voxels lie."""
    length = torch.tensor([12.0, 18.0, 15.0], dtype=torch.float64).view(1, 3, 1, 1, 1)

    def waves(x):
        phase = 2 * math.pi * x / length
        u = [
            phase[:, 0].sin() + phase[:, 1].cos(),
            (phase[:, 0] + phase[:, 2]).cos(),
            0.5 * (phase[:, 1] - phase[:, 2]).sin(),
        ]
        return torch.stack(u, dim=1)

    values = []
    for shape in ((48, 36, 50), (32, 60, 36)):
        spacing = [(length[0, a].item() / n) for a, n in enumerate(shape)]
        wider = tuple(n + 2 for n in shape)
        values.append(function(on_grid(waves, wider, spacing), spacing).item())
    assert values[0] == pytest.approx(values[1], rel=0.04)


@pytest.mark.parametrize("axis", range(3))
@pytest.mark.parametrize("function", ALL)
def test_a_checkerboard_is_rough(function, axis):
    field = torch.zeros(1, 3, 6, 7, 8)
    sign = [-1 if a == axis else 1 for a in range(3)]
    field[:, 1] = ((torch.arange(field.shape[2 + axis]) % 2) * 2.0 - 1).view(sign)
    assert function(field).item() > 1


@pytest.mark.parametrize("function", ALL)
def test_every_item_has_its_spacing(function, smooth):
    field = smooth(SHAPES[3], 2.0, batch=2)
    spacing = torch.tensor([[0.7, 1.3, 2.5], [3.0, 1.0, 0.4]], dtype=torch.float64)
    together = function(field, spacing)
    assert together.shape == (2,)
    for b in range(2):
        assert together[b].item() == pytest.approx(function(field[b : b + 1], spacing[b]).item())


@pytest.mark.parametrize("function", [LF.bending, LF.curvature])
def test_two_voxels_have_no_second_derivative(function, noise):
    with pytest.raises(ValueError, match="3 voxels"):
        function(noise(1, 3, 5, 2, 7))


def test_isotropic_total_variation_is_its_formula(noise):
    field, spacing = noise(2, 3, 5, 6, 7), torch.tensor([0.7, 1.3, 2.5], dtype=torch.float64)
    at = field[:, :, :-1, :-1, :-1]
    ahead = [field[:, :, 1:, :-1, :-1], field[:, :, :-1, 1:, :-1], field[:, :, :-1, :-1, 1:]]
    mm = spacing.view(1, 3, 1, 1, 1)
    square = torch.stack(
        [(((other - at) * mm) / spacing[a]).square().sum(1) for a, other in enumerate(ahead)]
    ).sum(0)
    expected = ((square + 0.05**2).sqrt() - 0.05).flatten(1).mean(1)
    torch.testing.assert_close(LF.isotropic_total_variation(field, spacing, flat=0.05), expected)


def test_a_jump_costs_by_its_height_and_not_by_its_steepness():
    """Along an axis, and along the diagonal of two, where the sum of absolute components is larger
    by the root of two.
    """
    points = LF.identity_points((40, 40, 5), dtype=torch.float64)

    def jump(direction: list[float], width: float) -> torch.Tensor:
        along = (points * torch.tensor(direction, dtype=torch.float64).view(1, 3, 1, 1, 1)).sum(
            1, keepdim=True
        )
        middle = 19.5 * sum(direction)
        return torch.cat(
            [
                ((along - middle) / width).clamp(-0.5, 0.5),
                torch.zeros(1, 2, 40, 40, 5, dtype=torch.float64),
            ],
            dim=1,
        )

    def cost(field: torch.Tensor) -> float:
        return float(LF.isotropic_total_variation(field, flat=1e-6)) * 39 * 39

    assert cost(jump([1, 0, 0], 1)) == pytest.approx(39, rel=1e-3)
    assert cost(jump([1, 0, 0], 10)) == pytest.approx(39, rel=1e-3)
    # the mean length of its level lines inside the square
    assert cost(jump([0.5**0.5, 0.5**0.5, 0], 10)) == pytest.approx(39 * 2**0.5 - 5, rel=0.01)
