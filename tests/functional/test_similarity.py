"""Similarity of images: invariances, oracles, masks."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from kornia import losses
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
    assert LF.lncc(fixed, warped, window, mask).item() == pytest.approx(
        expected[2:5].mean(), rel=1e-9
    )


@pytest.mark.parametrize("window", [3, 5, 9])
@pytest.mark.parametrize("dims", [2, 3])
def test_box_mean_is_scipys_uniform_filter(dims, window, noise, interior):
    shape = tuple(n + window for n in SHAPES[dims])
    image = noise(1, 2, *shape)
    expected = np.stack([uniform_filter(channel, window) for channel in image[0].numpy()])
    torch.testing.assert_close(
        interior(LF.box_mean(image, window), window // 2),
        interior(torch.tensor(expected)[None], window // 2),
    )


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
    torch.testing.assert_close(
        wide[..., 5], image[..., 1:10].mean((2, 3, 4), keepdim=True)[..., 0].expand(1, 1, 3, 4)
    )


def test_an_even_window_is_refused(noise):
    with pytest.raises(ValueError, match="odd"):
        LF.lncc(noise(1, 1, 9, 9, 9), noise(1, 1, 9, 9, 9), 4)


@pytest.mark.parametrize(("gain", "offset"), [(2.0, 0.0), (0.3, 5.0), (-1.5, -2.0)])
def test_ncc_ignores_gain_and_offset_but_not_the_sign(gain, offset, noise):
    fixed, other = noise(2, 1, *SHAPES[3]), noise(2, 1, *SHAPES[3])
    torch.testing.assert_close(
        LF.ncc(fixed, gain * fixed + offset), torch.full((2,), np.sign(gain)).double()
    )
    mixed = LF.ncc(fixed, fixed + other)
    torch.testing.assert_close(
        LF.ncc(fixed, gain * (fixed + other) + offset), np.sign(gain) * mixed
    )
    for b in range(2):
        expected = np.corrcoef(fixed[b].flatten(), (fixed + other)[b].flatten())[0, 1]
        assert mixed[b].item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(("gain", "offset"), [(2.0, 0.0), (0.3, 5.0), (-1.5, -2.0)])
def test_lncc_of_a_linear_copy_is_one(gain, offset, noise):
    fixed = noise(2, 1, *SHAPES[3])
    torch.testing.assert_close(
        LF.lncc(fixed, gain * fixed + offset, 3), torch.ones(2).double(), atol=5e-3, rtol=0
    )
    assert float(LF.lncc(fixed, noise(2, 1, *SHAPES[3]), 3).max()) < 0.5


@pytest.mark.parametrize(("gain", "offset"), [(1.0, 0.0), (10.0, 1e4), (1e3, -1.7e6), (1e-2, 3.0)])
def test_lncc_of_an_offset_in_float32_is_that_in_float64(gain, offset, noise):
    """Value and gradient; the parts of an image that are flat, too."""
    fixed, warped = noise(2, 1, 12, 13, 14).sigmoid(), noise(2, 1, 12, 13, 14).sigmoid()
    fixed, warped = fixed + warped, warped + 0.5 * fixed
    fixed[:, :, :4], warped[:, :, :5] = 0.5, 0.25
    exact, single = (
        [(gain * image + offset).float() for image in (fixed, warped)] for _ in range(2)
    )
    exact = [image.double().requires_grad_() for image in exact]
    single = [image.requires_grad_() for image in single]
    values = [LF.lncc(*images, window=5) for images in (exact, single)]
    torch.testing.assert_close(values[1].double(), values[0], atol=1e-6, rtol=0)
    for value in values:
        value.sum().backward()
    for a, b in zip(exact, single, strict=True):
        difference = (a.grad - b.grad.double()).abs().max() / a.grad.abs().max()
        assert float(difference) < 1e-4


@pytest.mark.parametrize("function", [LF.ncc, LF.lncc])
def test_flat_images_score_zero_with_finite_gradient(function):
    fixed, warped = (
        torch.full((1, 1, 5, 6, 7), 0.3),
        torch.full((1, 1, 5, 6, 7), 0.8, requires_grad=True),
    )
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
    fixed, warped, weight = (
        noise(1, 1, *SHAPES[3]),
        noise(1, 1, *SHAPES[3]),
        noise(1, 1, *SHAPES[3]).sigmoid(),
    )
    expected = np.average((fixed - warped).numpy() ** 2, weights=weight.numpy())
    assert LF.ssd(fixed, warped, weight).item() == pytest.approx(expected)


def test_an_empty_mask_gives_zero(noise):
    values = noise(2, 1, 3, 4, 5)
    mask = torch.ones(2, 1, 3, 4, 5)
    mask[0] = 0
    out = LF.masked_mean(values, mask)
    assert out[0].item() == 0
    assert out[1].item() == pytest.approx(values[1].mean().item())


@pytest.mark.parametrize("masked", [False, True])
def test_mutual_information_is_that_of_the_histogram(masked, noise):
    """Of images whose values are bin centres: the histogram is exact. kornia's estimate, with its
    own kernel, is near.
    """
    fixed = noise(2, 1, 12, 11, 10).mul(2).round().clamp(-3, 3)
    warped = (fixed + noise(2, 1, 12, 11, 10)).round().clamp(-3, 3)
    mask = (noise(2, 1, 12, 11, 10) > 0).double() if masked else None
    found = LF.mutual_information(fixed, warped, 7, mask)
    for b in range(2):
        inside = np.ones(fixed[b].numel(), bool) if mask is None else mask[b].flatten().numpy() > 0
        f, w = fixed[b].flatten().numpy()[inside], warped[b].flatten().numpy()[inside]
        joint = np.histogram2d(f, w, bins=7, range=[[-3.5, 3.5]] * 2)[0] / inside.sum()
        outer = joint.sum(1, keepdims=True) * joint.sum(0, keepdims=True)
        seen = joint > 0
        assert found[b].item() == pytest.approx(
            (joint[seen] * np.log(joint[seen] / outer[seen])).sum(), rel=1e-4
        )


def test_mutual_information_orders_images_as_kornia_does(smooth, noise):
    if not hasattr(losses, "mutual_information_loss"):
        pytest.skip("this version of kornia has no mutual information")
    fixed = smooth((12, 14, 13), channels=1)
    others = [
        torch.sin(4 * fixed) + size * noise(1, 1, 12, 14, 13) for size in (0.0, 0.1, 0.4, 2.0)
    ]
    ours = [LF.mutual_information(fixed, other, 16).item() for other in others]
    theirs = [
        -losses.mutual_information_loss(other.flatten(1), fixed.flatten(1), num_bins=16).item()
        for other in others
    ]
    assert ours == sorted(ours, reverse=True)
    assert theirs == sorted(theirs, reverse=True)
    assert np.corrcoef(ours, theirs)[0, 1] > 0.98
    assert ours[0] > 10 * ours[3]


def test_ngf_is_one_minus_the_squared_cosine_of_strong_edges(linear_field):
    """Two linear images: gradients at a known angle, in mm."""
    points = LF.identity_points((6, 7, 8), dtype=torch.float64)
    spacing = torch.tensor([1.0, 2.0, 0.5], dtype=torch.float64)
    a, b = torch.tensor([3.0, 0.0, 4.0]), torch.tensor([0.0, 5.0, 5.0])
    images = [
        torch.einsum("a,zaijk->zijk", g.double() * spacing, points).unsqueeze(1) for g in (a, b)
    ]
    cosine = float((a @ b) / (a.norm() * b.norm()))
    assert LF.ngf(*images, (1e-6, 1e-6), spacing).item() == pytest.approx(1 - cosine**2, rel=1e-6)
    edges = (float(a.norm()), torch.tensor([float(b.norm())]))
    weak = (cosine + 1) / 2  # gradients as long as the edge parameters: half of what is compared
    assert LF.ngf(*images, edges, spacing).item() == pytest.approx(1 - weak**2, rel=1e-6)
    assert LF.ngf(
        images[0], -2 * images[0], (edges[0], 2 * edges[0]), spacing
    ).item() == pytest.approx(0, abs=1e-12)
    flat = torch.zeros_like(images[0])
    # where there is no edge in either, nothing differs
    assert LF.ngf(flat, flat, edges, spacing).item() == pytest.approx(0, abs=1e-12)


def test_the_mean_gradient_is_in_intensity_per_mm(linear_field):
    points = LF.identity_points((6, 7, 8), dtype=torch.float64)
    spacing = torch.tensor([1.0, 2.0, 0.5], dtype=torch.float64)
    slope = torch.tensor([3.0, 0.0, 4.0], dtype=torch.float64)
    image = torch.einsum("a,zaijk->zijk", slope * spacing, points).unsqueeze(1)
    assert LF.mean_gradient(image, spacing).item() == pytest.approx(5.0)


@pytest.mark.parametrize("axis", range(3))
def test_gradients_count_inside_the_mask(axis):
    """Two ramps that are parallel before the middle of an axis and perpendicular behind it."""
    points = LF.identity_points((12, 13, 14), dtype=torch.float64)
    along, across = points[:, [axis]], points[:, [axis - 1]]
    front = along < 6
    steep = torch.where(front, along, 6 + across)
    mask = (along < 5).double()
    assert LF.ngf(along, steep, (1e-3, 1e-3), mask=mask).item() == pytest.approx(0, abs=1e-9)
    assert LF.ngf(along, steep, (1e-3, 1e-3), mask=(along > 7).double()).item() == pytest.approx(
        1, abs=1e-4
    )
    doubled = torch.where(front, along, 2 * along - 6)
    assert LF.mean_gradient(doubled, 0.5, mask).item() == pytest.approx(2)
    assert LF.mean_gradient(doubled, 0.5, (along > 7).double()).item() == pytest.approx(4)


@pytest.mark.parametrize(("radius", "dilation"), [(1, 2), (2, 1), (1, 4)])
def test_mind_sees_as_far_as_its_patches_reach(radius, dilation, noise):
    """A voxel's descriptor changes with voxels up to ``radius + dilation`` away, and with none
    beyond.
    """
    image, reach = noise(1, 1, 15, 17, 19), radius + dilation
    here = LF.mind_ssc(image, radius, dilation)[..., 7, 8, 9]
    for axis in range(3):
        for distance, seen in ((reach, True), (reach + 1, False)):
            other, at = image.clone(), [7, 8, 9]
            at[axis] += distance
            other[(0, 0, *at)] += 1
            change = (LF.mind_ssc(other, radius, dilation)[..., 7, 8, 9] - here).abs().max()
            assert (float(change) > 1e-6) == seen


@pytest.mark.parametrize(
    "measure",
    [
        LF.ngf,
        lambda f, w: -LF.mutual_information(f, w),
        lambda f, w: LF.ssd(LF.mind_ssc(f), LF.mind_ssc(w)),
    ],
)
def test_multimodal_measures_do_not_mind_inverted_contrast(measure, smooth):
    image, other = smooth((14, 15, 13), channels=1), smooth((14, 15, 13), channels=1)
    same, different = measure(image, 1 - image).item(), measure(image, other).item()
    assert same < different
    assert measure(image, image).item() == pytest.approx(
        same, abs=0.02 * abs(different - same) + 1e-9
    )


def test_mind_has_twelve_channels_in_zero_to_one_and_ignores_gain_and_offset(smooth, noise):
    image = smooth((12, 13, 14), channels=1) + 0.05 * noise(1, 1, 12, 13, 14)
    descriptor = LF.mind_ssc(image)
    assert descriptor.shape == (1, 12, 12, 13, 14)
    assert float(descriptor.min()) > 0
    assert float(descriptor.amax(1).min()) == 1  # the most similar pair of patches
    torch.testing.assert_close(LF.mind_ssc(3 - 7 * image), descriptor)


@pytest.mark.parametrize(("radius", "dilation"), [(1, 2), (2, 1)])
def test_mind_repeats_the_border_as_the_reference_does(radius, dilation, noise):
    """ConvexAdam's order of operations: shifted images of the repeated border, their squared
    differences repeated again.
    """
    image, channels = noise(1, 1, 9, 10, 11), []
    wide = np.pad(image[0, 0].numpy(), dilation, "edge")

    def shifted(axis: int, sign: int) -> np.ndarray:
        inner = [slice(dilation, -dilation)] * 3
        inner[axis] = slice(
            dilation + sign * dilation, wide.shape[axis] - dilation + sign * dilation
        )
        return wide[tuple(inner)]

    neighbours = [(axis, sign) for axis in range(3) for sign in (1, -1)]
    for n, first in enumerate(neighbours):
        for second in neighbours[:n]:
            if first[0] != second[0]:
                squared = (shifted(*first) - shifted(*second)) ** 2
                channels.append(uniform_filter(squared, 2 * radius + 1, mode="nearest"))
    distance = np.stack(channels)
    distance -= distance.min(0)
    variance = distance.mean(0)
    variance = variance.clip(1e-3 * variance.mean(), 1e3 * variance.mean())
    found = LF.mind_ssc(image, radius, dilation)[0].numpy()
    np.testing.assert_allclose(found, np.exp(-distance / variance), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("axis", range(3))
def test_mind_turns_with_the_image(axis, noise):
    """Mirroring an axis only exchanges the roles of its two neighbours."""
    image = noise(1, 1, 9, 10, 11)
    there = LF.mind_ssc(image).sort(dim=1).values
    torch.testing.assert_close(
        LF.mind_ssc(image.flip(2 + axis)).flip(2 + axis).sort(dim=1).values, there
    )


def test_ssim_is_one_for_equal_images_and_counts_inside_the_mask(noise):
    image = noise(1, 1, 12, 13, 14).sigmoid()
    changed = image.clone()
    changed[:, :, 9:] = 1 - changed[:, :, 9:]
    mask = torch.zeros_like(image)
    mask[:, :, :5] = 1
    assert LF.ssim(image, image).item() == pytest.approx(1)
    assert LF.ssim(image, changed).item() < 0.9
    assert LF.ssim(image, changed, mask=mask).item() == pytest.approx(1)
