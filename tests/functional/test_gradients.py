"""Derivatives against finite differences, in double precision, at points away from the kinks of
linear interpolation.
"""

from __future__ import annotations

import pytest
import torch
from torch.autograd import gradcheck

from lightning_reg import functional as LF

STRIDE, OFFSET = (2.5, 1.5, 2.0), (-2.5, -1.5, -2.0)
SHAPE = (3, 4, 5)


def check(function, *inputs):
    return gradcheck(
        function, [t.detach().clone().requires_grad_() for t in inputs], eps=1e-6, atol=1e-6
    )


@pytest.fixture
def off_lattice(generator):
    """Points ``(1, 3, n)`` inside a grid, at 0.2 to 0.8 between voxels."""
    whole = torch.stack([torch.randint(0, n - 1, (6,), generator=generator) for n in SHAPE])[None]
    return whole + 0.2 + 0.6 * torch.rand(1, 3, 6, generator=generator, dtype=torch.float64)


@pytest.fixture
def away(generator):
    """A displacement ``(1, 3, *SHAPE)`` by 0.2 to 0.8 voxel, inwards at the border."""
    size = 0.2 + 0.6 * torch.rand(1, 3, *SHAPE, generator=generator, dtype=torch.float64)
    middle = torch.tensor([(n - 1) / 2 for n in SHAPE]).view(1, 3, 1, 1, 1)
    return torch.where(LF.identity_points(SHAPE) < middle, size, -size)


@pytest.mark.parametrize("padding", [0.0, -1.5, "border"])
def test_sample(padding, noise, off_lattice):
    points = torch.cat([off_lattice, off_lattice[..., :2] + 2.0, off_lattice[..., :1] - 9.0], dim=2)
    assert check(
        lambda image, points: LF.sample(image, points, padding=padding), noise(1, 2, *SHAPE), points
    )


def test_sample_in_two_dimensions(noise):
    assert check(
        LF.sample, noise(2, 1, 4, 5), torch.tensor([[[0.3, 2.4], [1.6, 3.3]]], dtype=torch.float64)
    )


def test_compose(noise, away):
    assert check(LF.compose, noise(1, 3, *SHAPE), away)


def test_exponentiate(away):
    assert check(lambda v: LF.exponentiate(v, steps=2), 0.9 * away)


def test_bspline(noise):
    control = noise(1, 2, *LF.lattice_shape(SHAPE, STRIDE))
    assert check(lambda c: LF.bspline(c, SHAPE, STRIDE, OFFSET), control)


def test_bspline_at(noise, off_lattice):
    control = noise(1, 1, 4, 5, 5)
    assert check(
        lambda c, p: LF.bspline_at(c, p, STRIDE, OFFSET),
        control,
        torch.cat([off_lattice, off_lattice + 4], dim=2),
    )


@pytest.mark.parametrize("size", [0.0, 1e-8, 0.3])
def test_affine_matrix(size, noise):
    identity = torch.tensor([[0.0] * 6 + [1.0] * 3 + [0.0] * 3], dtype=torch.float64)
    center = torch.tensor([30.0, -20.0, 10.0], dtype=torch.float64)
    assert check(lambda p: LF.affine_matrix(p, center), identity + size * noise(1, 12))


@pytest.mark.parametrize("dims", [2, 3])
def test_jacobian_determinant(dims, noise):
    assert check(LF.jacobian_determinant, noise(1, dims, *SHAPE[:dims]))


@pytest.mark.parametrize("masked", [False, True])
def test_folding_penalty(masked, noise):
    """Some voxels fold, some do not, and the border has its one-sided differences."""
    mask = noise(1, 1, *SHAPE).sigmoid() if masked else None
    field = 0.6 * noise(2, 3, *SHAPE)
    assert 0.1 < float((LF.jacobian_determinant(field) < 0.2).double().mean()) < 0.9
    assert check(lambda u: LF.folding_penalty(u, 0.2, mask), field)


def test_lncc_weights_may_move(noise):
    """The derivative by the mask, which a term gives that counts where the warped moving mask is."""
    fixed, warped = noise(2, 2, *SHAPE), noise(2, 2, *SHAPE)
    assert check(lambda m: LF.lncc(fixed, warped, 3, m.sigmoid()), noise(2, 1, *SHAPE))


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(
    "function",
    [
        LF.ncc,
        lambda f, w, m: LF.lncc(f, w, 3, m),
        LF.ssd,
        lambda f, w, m: LF.ngf(f, w, (0.3, 0.4), 1.5, m),
    ],
)
def test_similarity(function, masked, noise):
    mask = noise(1, 1, *SHAPE).sigmoid() if masked else None
    assert check(lambda f, w: function(f, w, mask), noise(1, 1, *SHAPE), noise(1, 1, *SHAPE))


@pytest.mark.parametrize(
    "function",
    [LF.bending, LF.curvature, LF.diffusion, LF.isotropic_total_variation, LF.total_variation],
)
def test_regularity(function, noise):
    assert check(lambda u: function(u, (0.7, 1.3, 2.5)), noise(1, 3, *SHAPE))


def test_soft_dice(noise):
    assert check(LF.soft_dice, noise(2, 2, *SHAPE).sigmoid(), noise(2, 2, *SHAPE).sigmoid())


HAND_WRITTEN = {
    "lncc": lambda u: LF.lncc(u, u.flip(2), 3),
    "diffusion": LF.diffusion,
    "isotropic_total_variation": LF.isotropic_total_variation,
    "folding_penalty": lambda u: LF.folding_penalty(u, 1.0),
}


@pytest.mark.parametrize("name", HAND_WRITTEN)
def test_a_second_derivative_of_a_hand_written_gradient_is_refused(name, noise):
    """Beside a term that has one, too, where PyTorch would leave out the other's share."""
    u = noise(1, 3, *SHAPE).requires_grad_()
    value = HAND_WRITTEN[name](u).sum()
    with pytest.raises(RuntimeError, match=f"^{name} has no second derivative"):
        torch.autograd.grad(value + LF.bending(u.repeat(1, 1, 2, 1, 1)).sum(), u, create_graph=True)
    torch.autograd.grad(HAND_WRITTEN[name](u).sum(), u)


def test_the_folding_of_two_axes_is_refused(noise):
    with pytest.raises(ValueError, match=r"^folding_penalty: displacement is \(1, 2, 4, 5\)"):
        LF.folding_penalty(noise(1, 2, 4, 5))


def test_gradients_reach_the_identity():
    """The field that training starts from has finite derivatives everywhere."""
    u = torch.zeros(1, 3, 5, 6, 7, requires_grad=True)
    image = torch.rand(1, 1, 5, 6, 7, generator=torch.Generator().manual_seed(1))
    phi = LF.exponentiate(u)
    loss = (
        LF.lncc(image, LF.warp(image.flip(2), phi), 3)
        + LF.bending(phi)
        + LF.diffusion(phi)
        + LF.total_variation(phi)
    )
    (loss + LF.jacobian_determinant(phi).mean()).sum().backward()
    assert torch.isfinite(u.grad).all()
    assert float(u.grad.abs().max()) > 0
