"""Sampling, warping, splatting, pooling and resizing."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.ndimage import map_coordinates

from lightning_reg import functional as LF

SHAPES = {2: (11, 14), 3: (9, 11, 13)}
AXES = [(dims, axis) for dims in (2, 3) for axis in range(dims)]


def points_around(shape, generator, count=500, margin=3.0, batch=1):
    """Random points of which some lie outside, none at a tie of nearest neighbours."""
    extent = torch.tensor(shape, dtype=torch.float64).view(1, -1, 1)
    return (
        torch.rand(batch, len(shape), count, generator=generator, dtype=torch.float64)
        * (extent + 2 * margin)
        - margin
        - 0.4871
    )


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("mode", ["linear", "nearest"])
@pytest.mark.parametrize("padding", [0.0, -3.5, "border"])
def test_sample_is_scipys_map_coordinates(dims, mode, padding, noise, generator):
    image, points = noise(1, 2, *SHAPES[dims]), points_around(SHAPES[dims], generator)
    out = LF.sample(image, points, mode, padding)
    kind = (
        {"mode": "nearest"} if padding == "border" else {"mode": "grid-constant", "cval": padding}
    )
    for channel in range(2):
        expected = map_coordinates(
            image[0, channel].numpy(), points[0].numpy(), order=int(mode == "linear"), **kind
        )
        np.testing.assert_allclose(out[0, channel].numpy(), expected, atol=1e-10)


@pytest.mark.parametrize(("dims", "axis"), AXES)
@pytest.mark.parametrize("shift", [2.0, -1.0, 0.25])
def test_a_ramp_along_one_axis_tells_axis_and_sign(dims, axis, shift):
    shape = SHAPES[dims]
    ramps = LF.identity_points(shape, dtype=torch.float64)
    displacement = torch.zeros_like(ramps)
    displacement[:, axis] = shift
    moved = LF.warp(ramps, displacement, padding="border") - ramps
    expected = torch.zeros_like(ramps)
    n = shape[axis]
    profile = (torch.arange(n, dtype=torch.float64) + shift).clamp(0, n - 1) - torch.arange(n)
    expected[:, axis] = profile.view([-1 if a == axis else 1 for a in range(dims)])
    torch.testing.assert_close(moved, expected, atol=1e-12, rtol=0)


@pytest.mark.parametrize(("dims", "axis"), AXES)
@pytest.mark.parametrize("mode", ["linear", "nearest"])
def test_whole_shift_is_a_slice(dims, axis, mode, noise):
    image = noise(2, 3, *SHAPES[dims], dtype=torch.float32)
    displacement = torch.zeros(1, dims, *SHAPES[dims])
    displacement[:, axis] = 2
    warped, d, n = LF.warp(image, displacement, mode, padding=7.0), 2 + axis, SHAPES[dims][axis]
    torch.testing.assert_close(
        warped.narrow(d, 0, n - 2), image.narrow(d, 2, n - 2), atol=2e-5, rtol=0
    )
    torch.testing.assert_close(
        warped.narrow(d, n - 1, 1), torch.full_like(warped.narrow(d, n - 1, 1), 7.0)
    )


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("padding", [0.0, "border"])
def test_a_batch_is_its_items(dims, padding, noise):
    shape = SHAPES[dims]
    image, displacement = noise(3, 2, *shape), 2 * noise(3, dims, *shape)
    together = LF.warp(image, displacement, padding=padding)
    for b in range(3):
        torch.testing.assert_close(
            together[b : b + 1], LF.warp(image[b : b + 1], displacement[b : b + 1], padding=padding)
        )


def test_one_image_for_many_point_sets_and_the_reverse(noise, generator):
    image, points = noise(2, 1, *SHAPES[3]), points_around(SHAPES[3], generator, batch=2)
    one_image = LF.sample(image[:1], points)
    torch.testing.assert_close(one_image, LF.sample(image[:1].repeat(2, 1, 1, 1, 1), points))
    one_set = LF.sample(image, points[:1])
    torch.testing.assert_close(one_set, LF.sample(image, points[:1].repeat(2, 1, 1)))


@pytest.mark.parametrize(
    "through", [None, np.diag([1.0, 2.0, 1.0, 1.0])[None], np.eye(4)[[1, 0, 2, 3]][None]]
)
@pytest.mark.parametrize("apple", [False, True])
def test_grids_are_contiguous_on_apples_gpus_and_not_copied_elsewhere(
    monkeypatch, apple, through, noise
):
    """A stand-in for the device; two images at one grid, which repeats it, too."""
    points, image, given = noise(1, 3, 4, 5, 6), noise(2, 1, *SHAPES[3]), []
    expected = LF.sample(image, points, through=through)
    sampled = F.grid_sample
    monkeypatch.setattr(
        F,
        "grid_sample",
        lambda values, grid, **how: given.append(grid) or sampled(values, grid, **how),
    )
    monkeypatch.setattr("lightning_reg.functional.points.on_apple", lambda tensor: apple)
    assert LF.to_grid_sample(points, SHAPES[3], through).is_contiguous() == apple
    torch.testing.assert_close(LF.sample(image, points, through=through), expected)
    assert all(grid.is_contiguous() == apple for grid in given)
    assert given


@pytest.mark.parametrize("output", [(24,), (2, 12), (2, 3, 4), (2, 2, 3, 2)])
def test_output_axes_are_free(output, noise, generator):
    image, points = noise(1, 2, *SHAPES[3]), points_around(SHAPES[3], generator, count=24)
    out = LF.sample(image, points.view(1, 3, *output))
    assert out.shape == (1, 2, *output)
    torch.testing.assert_close(out.flatten(2), LF.sample(image, points))


@pytest.mark.parametrize("batch", [1, 2, 3])
@pytest.mark.parametrize("extent", [12, 13])
def test_threads_do_not_change_values_or_gradients(batch, extent, noise):
    image = noise(batch, 2, 9, 11, 13).requires_grad_()
    points = (4 + 3 * noise(batch, 3, extent, 5, 6)).requires_grad_()
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 5, 8):
            torch.set_num_threads(threads)
            out = LF.sample(image, points, padding=0.5)
            results.append((out, *torch.autograd.grad((out**2).sum(), (image, points))))
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            torch.testing.assert_close(a, b)


def test_points_of_another_dimension_are_refused(noise):
    with pytest.raises(ValueError, match="coordinates"):
        LF.sample(noise(1, 1, 5, 6, 7), noise(1, 2, 10))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int64, torch.bool])
def test_nearest_keeps_labels(dtype, generator):
    labels = torch.randint(
        0, 2 if dtype == torch.bool else 100, (1, 1, *SHAPES[3]), generator=generator
    ).to(dtype)
    out = LF.warp(labels, torch.zeros(1, 3, *SHAPES[3]), mode="nearest")
    assert out.dtype == dtype
    assert torch.equal(out, labels)


@pytest.mark.parametrize("dims", [2, 3])
def test_splat_is_the_adjoint_of_warp(dims, noise):
    shape = SHAPES[dims]
    a, b, u = noise(2, 2, *shape), noise(2, 2, *shape), 2 * noise(2, dims, *shape)
    torch.testing.assert_close((LF.splat(a, u) * b).sum(), (a * LF.warp(b, u)).sum())


@pytest.mark.parametrize("axis", range(3))
def test_splat_pushes_one_voxel(axis):
    image, u = torch.zeros(1, 1, 9, 11, 13), torch.zeros(1, 3, 9, 11, 13)
    image[0, 0, 3, 4, 5], u[:, axis] = 1, 2
    target = [3, 4, 5]
    target[axis] += 2
    pushed = LF.splat(image, u)
    assert pushed[(0, 0, *target)] == pytest.approx(1, abs=1e-5)
    assert float(pushed.sum()) == pytest.approx(1, abs=1e-5)


def test_splat_is_differentiable_in_the_image(noise):
    a, b, u = noise(1, 1, 4, 5, 6).requires_grad_(), noise(1, 1, 4, 5, 6), noise(1, 3, 4, 5, 6)
    (gradient,) = torch.autograd.grad((LF.splat(a, u) * b).sum(), a)
    torch.testing.assert_close(gradient, LF.warp(b, u))


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_splat_works_where_gradients_are_off(mode, noise):
    a, u = noise(1, 1, 4, 5, 6), noise(1, 3, 4, 5, 6)
    expected = LF.splat(a, u)
    with mode():
        torch.testing.assert_close(LF.splat(a * 1, u * 1), expected)


@pytest.mark.parametrize("factor", [(2, 3, 1), (1, 2, 4), (3, 3, 3)])
def test_a_pooled_ramp_is_the_ramp_at_the_coarse_voxels(factor):
    ramps = LF.identity_points((6, 12, 24)[:1] + (6, 12), dtype=torch.float64)
    coarse = LF.pool(ramps, factor)
    index = LF.identity_points(coarse.shape[2:], dtype=torch.float64)
    f = torch.tensor(factor, dtype=torch.float64).view(1, 3, 1, 1, 1)
    torch.testing.assert_close(coarse, f * index + (f - 1) / 2)


def test_pool_refuses_what_does_not_divide(noise):
    with pytest.raises(ValueError, match="multiples"):
        LF.pool(noise(1, 1, 9, 10, 12), (2, 2, 2))


@pytest.mark.parametrize("shape", [(18, 22, 39), (12, 7, 13), (3, 30, 20)])
def test_a_resized_ramp_keeps_its_extent(shape):
    old = (9, 11, 13)
    ramps = LF.identity_points(old, dtype=torch.float64)
    ratio = torch.tensor(
        [o / n for o, n in zip(old, shape, strict=True)], dtype=torch.float64
    ).view(1, 3, 1, 1, 1)
    expected = ratio * (LF.identity_points(shape, dtype=torch.float64) + 0.5) - 0.5
    upper = torch.tensor(old, dtype=torch.float64).view(1, 3, 1, 1, 1) - 1
    torch.testing.assert_close(LF.resize(ramps, shape), expected.clamp_min(0).minimum(upper))


@pytest.mark.parametrize("factor", [(2, 1, 3), (4, 2, 2)])
def test_nearest_resize_repeats_labels(factor, generator):
    labels = torch.randint(0, 50, (2, 1, 5, 6, 7), generator=generator)
    expected = labels
    for axis, f in enumerate(factor):
        expected = expected.repeat_interleave(f, dim=2 + axis)
    assert torch.equal(LF.resize(labels, expected.shape[2:], "nearest"), expected)


@pytest.mark.parametrize("shape", [(18, 22, 39), (12, 11, 7), (9, 30, 13)])
def test_a_resized_displacement_is_the_same_motion(shape, smooth, interior):
    """Warping a ramp of positions (in units of the extent) by the field before and after resizing."""
    old = (9, 11, 13)
    field = smooth(old, 1.5)
    resized = LF.resize_displacement(field, shape)
    before = field / torch.tensor(old).view(1, 3, 1, 1, 1)
    after = resized / torch.tensor(shape).view(1, 3, 1, 1, 1)
    torch.testing.assert_close(after, LF.resize(before, shape))


@pytest.mark.parametrize("axis", range(3))
def test_a_resized_translation_scales_along_its_axis(axis):
    field = torch.zeros(1, 3, 9, 11, 13)
    field[:, axis] = 1
    shape = (18, 33, 52)
    expected = torch.zeros(1, 3, *shape)
    expected[:, axis] = shape[axis] / (9, 11, 13)[axis]
    torch.testing.assert_close(LF.resize_displacement(field, shape), expected)


@pytest.mark.parametrize(
    "function", [LF.warp, lambda image, u: LF.compose(image.expand(-1, 3, -1, -1, -1), u)]
)
def test_coarse_dtypes_do_not_coarsen_coordinates(function):
    """A field of zeros in bfloat16 moves nothing, however large the grid."""
    image, u = (
        torch.linspace(0, 1, 400).expand(1, 1, 2, 3, 400),
        torch.zeros(1, 3, 2, 3, 400, dtype=torch.bfloat16),
    )
    torch.testing.assert_close(function(image, u).float()[:, :1], image, atol=1e-3, rtol=0)
