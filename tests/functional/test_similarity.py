"""Similarity of images: invariances, oracles, masks."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.ndimage import uniform_filter

from lightning_reg import functional as LF

SHAPES = {2: (9, 12), 3: (7, 8, 10)}


def naive_lncc(fixed, warped, window, eps):
    """Every window cut at the border, one voxel at a time."""
    half, shape = window // 2, fixed.shape
    out = np.zeros(shape)
    for index in np.ndindex(*shape):
        box = tuple(slice(max(i - half, 0), i + half + 1) for i in index)
        f, w = fixed[box], warped[box]
        covariance = (f * w).mean() - f.mean() * w.mean()
        out[index] = covariance**2 / (f.var() * w.var() + eps)
    return out


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("window", [3, 5])
def test_lncc_is_the_loop_over_windows(dims, window, noise):
    fixed, warped = noise(1, 1, *SHAPES[dims]), noise(1, 1, *SHAPES[dims])
    expected = naive_lncc(fixed[0, 0].numpy(), warped[0, 0].numpy(), window, 1e-8)
    assert LF.lncc(fixed, warped, window).item() == pytest.approx(expected.mean(), rel=1e-9)
    mask = torch.zeros(1, 1, *SHAPES[dims], dtype=torch.float64)
    mask[:, :, 2:5] = 1
    assert LF.lncc(fixed, warped, window, mask).item() == pytest.approx(expected[2:5].mean(), rel=1e-9)


@pytest.mark.parametrize("window", [3, 5, 9])
@pytest.mark.parametrize("dims", [2, 3])
def test_box_mean_is_scipys_uniform_filter(dims, window, noise, interior):
    shape = tuple(n + window for n in SHAPES[dims])
    image = noise(1, 2, *shape)
    expected = np.stack([uniform_filter(channel, window) for channel in image[0].numpy()])
    torch.testing.assert_close(interior(LF.box_mean(image, window), window // 2), interior(torch.tensor(expected)[None], window // 2))


@pytest.mark.parametrize("axis", range(3))
def test_box_mean_at_the_border_counts_the_inside_only(axis):
    ramp = LF.identity_points((6, 7, 8), dtype=torch.float64)[:, axis : axis + 1]
    profile = LF.box_mean(ramp, 5).movedim(2 + axis, 2)[0, 0, :, 3, 3]
    n = ramp.shape[2 + axis]
    expected = [np.arange(max(i - 2, 0), min(i + 2, n - 1) + 1).mean() for i in range(n)]
    np.testing.assert_allclose(profile.numpy(), expected)


def test_a_window_wider_than_the_image(noise):
    image = noise(1, 1, 3, 4, 12)
    wide = LF.box_mean(image, 9)
    assert wide.shape == image.shape
    torch.testing.assert_close(wide[..., 5], image[..., 1:10].mean((2, 3, 4), keepdim=True)[..., 0].expand(1, 1, 3, 4))


def test_an_even_window_is_refused(noise):
    with pytest.raises(ValueError, match="odd"):
        LF.lncc(noise(1, 1, 9, 9, 9), noise(1, 1, 9, 9, 9), 4)


@pytest.mark.parametrize(("gain", "offset"), [(2.0, 0.0), (0.3, 5.0), (-1.5, -2.0)])
def test_ncc_ignores_gain_and_offset_but_not_the_sign(gain, offset, noise):
    fixed, other = noise(2, 1, *SHAPES[3]), noise(2, 1, *SHAPES[3])
    torch.testing.assert_close(LF.ncc(fixed, gain * fixed + offset), torch.full((2,), np.sign(gain)).double())
    mixed = LF.ncc(fixed, fixed + other)
    torch.testing.assert_close(LF.ncc(fixed, gain * (fixed + other) + offset), np.sign(gain) * mixed)
    for b in range(2):
        expected = np.corrcoef(fixed[b].flatten(), (fixed + other)[b].flatten())[0, 1]
        assert mixed[b].item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(("gain", "offset"), [(2.0, 0.0), (0.3, 5.0), (-1.5, -2.0)])
def test_lncc_of_a_linear_copy_is_one(gain, offset, noise):
    fixed = noise(2, 1, *SHAPES[3])
    torch.testing.assert_close(LF.lncc(fixed, gain * fixed + offset, 3), torch.ones(2).double(), atol=5e-3, rtol=0)
    assert float(LF.lncc(fixed, noise(2, 1, *SHAPES[3]), 3).max()) < 0.5


@pytest.mark.parametrize("function", [LF.ncc, LF.lncc])
def test_flat_images_score_zero_with_finite_gradient(function):
    fixed, warped = torch.full((1, 1, 5, 6, 7), 0.3), torch.full((1, 1, 5, 6, 7), 0.8, requires_grad=True)
    value = function(fixed, warped)
    value.sum().backward()
    assert value.item() == pytest.approx(0, abs=1e-4)
    assert torch.isfinite(warped.grad).all()


def test_ssd():
    fixed, warped = torch.zeros(2, 1, 3, 4, 5), torch.full((2, 1, 3, 4, 5), 2.0)
    warped[1] = 3
    assert LF.ssd(fixed, warped).tolist() == [4, 9]
    assert LF.ssd(fixed, fixed).tolist() == [0, 0]


@pytest.mark.parametrize("function", [LF.ssd, LF.ncc])
@pytest.mark.parametrize("channels", [1, 2])
def test_a_mask_is_a_cut(function, channels, noise):
    fixed, warped = noise(2, channels, *SHAPES[3]), noise(2, channels, *SHAPES[3])
    mask = torch.zeros(2, 1, *SHAPES[3])
    mask[:, :, 1:4, 2:7, 3:9] = 1
    cut = (slice(None), slice(None), slice(1, 4), slice(2, 7), slice(3, 9))
    torch.testing.assert_close(function(fixed, warped, mask), function(fixed[cut], warped[cut]))


def test_soft_weights_weigh(noise):
    fixed, warped, weight = noise(1, 1, *SHAPES[3]), noise(1, 1, *SHAPES[3]), noise(1, 1, *SHAPES[3]).sigmoid()
    expected = np.average((fixed - warped).numpy() ** 2, weights=weight.numpy())
    assert LF.ssd(fixed, warped, weight).item() == pytest.approx(expected)


def test_an_empty_mask_gives_zero(noise):
    values = noise(2, 1, 3, 4, 5)
    mask = torch.ones(2, 1, 3, 4, 5)
    mask[0] = 0
    out = LF.masked_mean(values, mask)
    assert out[0].item() == 0
    assert out[1].item() == pytest.approx(values[1].mean().item())
