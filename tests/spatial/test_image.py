"""Resampling through the world, against ITK."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lightning_reg import functional as LF
from lightning_reg.spatial import (
    Affine,
    Composition,
    Displacement,
    Grid,
    Identity,
    Image,
    warped_slab,
)


@pytest.fixture
def picture(moving_grid, smooth_field):
    return Image(smooth_field(moving_grid.shape, 1.0, channels=1), moving_grid, padding=-3.0)


@pytest.fixture
def labels(moving_grid, smooth_field):
    return Image(
        (3 * smooth_field(moving_grid.shape, 1.0, channels=1)).round().to(torch.int16),
        moving_grid,
        discrete=True,
    )


def inside(image, grid, transform=None, margin=0.6):
    """Voxels of ``grid`` that are read inside the image: where ITK and this project extend it
    differently does not count.
    """
    points = grid.to_world(grid.points(dtype=torch.float64))
    read = image.grid.to_voxel(points if transform is None else transform.map_world(points))
    upper = torch.tensor(image.grid.shape).view(1, 3, 1, 1, 1) - 1 - margin
    return ((read > margin) & (read < upper)).all(1, keepdim=True)


def test_on_another_grid(picture, fixed_grid, itk):
    found, mask = picture.resampled(fixed_grid), inside(picture, fixed_grid)
    assert found.grid is fixed_grid
    torch.testing.assert_close(
        found.tensor[mask], itk.resampled(picture, fixed_grid)[mask], atol=1e-5, rtol=0
    )
    assert 0.3 < float(mask.double().mean()) < 0.95
    assert float(found.tensor.min()) == -3


def test_labels_on_another_grid(labels, fixed_grid, itk):
    found, mask = labels.resampled(fixed_grid), inside(labels, fixed_grid)
    assert found.tensor.dtype == torch.int16
    same = found.tensor[mask] == itk.resampled(labels, fixed_grid)[mask]
    assert float(same.double().mean()) > 0.999
    assert found.tensor.unique().numel() > 3


def test_on_a_grid_that_matches_is_itself(picture, moving_grid):
    assert picture.resampled(moving_grid) is picture


@pytest.mark.parametrize("kind", ["affine", "displacement", "composition", "identity"])
@pytest.mark.parametrize("discrete", [False, True])
def test_warped(kind, discrete, picture, labels, fixed_grid, smooth_field, rigid, itk):
    field = smooth_field(fixed_grid.shape, 1.5)
    dense, affine = Displacement(field, fixed_grid), Affine(rigid.float(), fixed_grid)
    ours = {
        "affine": affine,
        "displacement": dense,
        "composition": Composition([affine, dense]),
        "identity": Identity(fixed_grid, torch.zeros(())),
    }[kind]
    theirs = {
        "affine": itk.affine(affine.matrix),
        "displacement": itk.field(field, fixed_grid),
        "composition": itk.affine(affine.matrix),
        "identity": None,
    }[kind]
    if kind == "composition":
        import SimpleITK as sitk

        theirs = sitk.CompositeTransform([itk.affine(affine.matrix), itk.field(field, fixed_grid)])
    image = labels if discrete else picture
    found, mask = image.warped(ours), inside(image, fixed_grid, ours)
    expected = itk.resampled(image, fixed_grid, theirs)
    assert float(mask.double().mean()) > 0.3
    if discrete:
        assert found.tensor.dtype == torch.int16
        assert float((found.tensor[mask] == expected[mask]).double().mean()) > 0.995
    else:
        torch.testing.assert_close(found.tensor[mask], expected[mask], atol=2e-4, rtol=0)


def test_the_moving_image_is_sampled_once(
    fixed_grid, moving_grid, generator, rigid, smooth_field, itk
):
    """White noise is blurred by every interpolation."""
    noise = Image(torch.randn(1, 1, *moving_grid.shape, generator=generator), moving_grid)
    field = smooth_field(fixed_grid.shape, 1.0)
    transform = Composition([Affine(rigid.float(), fixed_grid), Displacement(field, fixed_grid)])
    found = noise.warped(transform)
    once = LF.sample(
        noise.tensor.double(),
        moving_grid.to_voxel(
            transform.map_world(fixed_grid.to_world(fixed_grid.points().double()))
        ),
    )
    torch.testing.assert_close(found.tensor, once.float(), atol=2e-3, rtol=0)
    mask = inside(noise, fixed_grid, transform)
    twice = noise.resampled(fixed_grid).warped(transform)
    assert float(twice.tensor[mask].std()) < 0.85 * float(found.tensor[mask].std())


def test_a_warp_onto_a_third_grid(picture, fixed_grid, smooth_field, itk):
    field = smooth_field(fixed_grid.shape, 1.5)
    transform, third = (
        Displacement(field, fixed_grid),
        fixed_grid.cropped((3, 2, 4), (7, 9, 8)).resized((9, 14, 8)),
    )
    found = picture.warped(transform, third)
    assert found.grid is third
    mask = inside(picture, third, transform)
    expected = itk.resampled(picture, third, itk.field(field, fixed_grid))
    torch.testing.assert_close(found.tensor[mask], expected[mask], atol=2e-4, rtol=0)


@pytest.mark.parametrize("axis", range(3))
def test_a_world_translation_reads_from_there(axis, fixed_grid):
    """``warped(x) = moving(phi(x))``: an image of world positions gains the translation."""
    wide = fixed_grid.cropped((-5, -5, -5), (22, 25, 27))
    world = Image(wide.to_world(wide.points(dtype=torch.float64)), wide)
    matrix = torch.eye(4, dtype=torch.float64)[None]
    matrix[:, axis, 3] = 2.5
    moved = world.warped(Affine(matrix, fixed_grid)).tensor - fixed_grid.to_world(
        fixed_grid.points(dtype=torch.float64)
    )
    expected = torch.tensor(
        [2.5 if a == axis else 0.0 for a in range(3)], dtype=torch.float64
    ).view(1, 3, 1, 1, 1)
    torch.testing.assert_close(moved, expected.expand_as(moved))


def test_batches_broadcast(picture, fixed_grid, smooth_field):
    fields = smooth_field(fixed_grid.shape, 1.5, batch=2)
    both = picture.warped(Displacement(fields, fixed_grid))
    for b in range(2):
        torch.testing.assert_close(
            both.tensor[b : b + 1],
            picture.warped(Displacement(fields[b : b + 1], fixed_grid)).tensor,
        )


def test_padding_goes_behind_the_last_voxel(picture):
    padded = picture.padded_to((20, 24, 16))
    i, j, k = picture.grid.shape
    torch.testing.assert_close(padded.tensor[:, :, :i, :j, :k], picture.tensor)
    assert float(padded.tensor[:, :, i:].min()) == float(padded.tensor[:, :, :, :, k:].max()) == -3
    np.testing.assert_allclose(padded.grid.affine, picture.grid.affine)


def test_pooling_an_image_moves_nothing(fixed_grid):
    grid = fixed_grid.cropped((0, 0, 0), (12, 15, 18))
    world = Image(grid.to_world(grid.points(dtype=torch.float64)), grid).pooled((2, 3, 6))
    torch.testing.assert_close(
        world.tensor, world.grid.to_world(world.grid.points(dtype=torch.float64))
    )


def test_nearest_resizing_of_labels(labels):
    shape = tuple(2 * n for n in labels.grid.shape)
    resized = labels.resized(shape)
    assert resized.tensor.dtype == torch.int16
    assert torch.equal(resized.tensor[:, :, ::2, 1::2, ::2], labels.tensor)


def test_a_tensor_that_does_not_lie_on_the_grid_is_refused(fixed_grid):
    with pytest.raises(ValueError, match="does not lie on"):
        Image(torch.zeros(1, 1, 12, 15, 16), fixed_grid)


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_to_moves_the_tensor(device, picture):
    moved = picture.to(device)
    assert moved.tensor.device.type == device
    assert moved.padding == picture.padding
    assert moved.grid is picture.grid


def test_mixed_precision_samples_where_single_precision_does(
    picture, fixed_grid, smooth_field, rigid
):
    transform = Composition(
        [
            Affine(rigid.float(), fixed_grid),
            Displacement(smooth_field(fixed_grid.shape, 1.5), fixed_grid),
        ]
    )
    expected = picture.warped(transform).tensor, picture.resampled(fixed_grid).tensor
    with torch.autocast("cpu", torch.bfloat16):
        found = picture.warped(transform).tensor, picture.resampled(fixed_grid).tensor
    for a, b in zip(found, expected, strict=True):
        assert a.dtype == torch.float32
        torch.testing.assert_close(a, b, atol=1e-5, rtol=0)


@pytest.mark.parametrize("shape", [(12, 8, 10), (13, 9, 11)])
def test_a_pooled_image_lies_where_the_whole_one_does(shape):
    """Also where the stride does not divide the extents: a ramp in the world stays that ramp."""
    grid = Grid.regular(shape, (2.0, 1.5, 3.0), (10.0, -4.0, 6.0))
    ramp = grid.to_world(grid.points(dtype=torch.float64))[:, :1]
    coarse = Image(ramp, grid).at_stride((4, 2, 3))
    assert coarse.grid.shape == tuple(-(-n // s) for n, s in zip(shape, (4, 2, 3), strict=True))
    expected = coarse.grid.to_world(coarse.grid.points(dtype=torch.float64))[:, :1]
    whole = shape[0] // 4
    torch.testing.assert_close(coarse.tensor[:, :, :whole], expected[:, :, :whole])


def test_an_image_is_averaged_to_a_coarser_grid_and_then_resampled():
    grid = Grid.regular((12, 8, 9), (2.0, 1.5, 3.0), (10.0, -4.0, 6.0))
    image = Image(torch.rand(1, 1, 12, 8, 9), grid)
    coarse = grid.at_stride((3, 2, 1), (4, 4, 9))
    assert grid.stride_to(coarse) == [3, 2, 1]
    torch.testing.assert_close(image.at_resolution(coarse).tensor, image.pooled((3, 2, 1)).tensor)
    assert image.at_resolution(grid) is image
    # not quite at whole strides
    beside = Grid.regular((4, 4, 8), (6.2, 3.1, 3.0), (12.0, -3.0, 6.0))
    torch.testing.assert_close(
        image.at_resolution(beside).tensor, image.pooled((3, 2, 1)).resampled(beside).tensor
    )


def test_a_crop_keeps_its_place():
    grid = Grid.regular((9, 8, 7), (2.0, 1.5, 3.0), (10.0, -4.0, 6.0))
    image = Image(torch.rand(1, 2, 9, 8, 7), grid)
    part = image.cropped((2, 3, 1), (4, 5, 6))
    torch.testing.assert_close(part.tensor, image.resampled(part.grid).tensor, atol=1e-5, rtol=0)


def test_at_a_stride_that_does_not_divide_the_border_is_repeated():
    """A constant image stays constant: its padding value does not come in."""
    image = Image(torch.full((1, 1, 7, 8, 10), 5.0), Grid.regular((7, 8, 10)), padding=-3.0)
    assert torch.equal(image.at_stride((4, 3, 4)).tensor, torch.full((1, 1, 2, 3, 3), 5.0))


@pytest.mark.parametrize("discrete", [False, True])
@pytest.mark.parametrize("reach", [3.0, 60.0])
def test_a_slab_reads_what_it_reaches_and_finds_what_the_whole_image_has(
    fixed_grid, moving_grid, smooth_field, discrete, reach
) -> None:
    """Also where it reaches beyond the image, on every side."""
    fine = moving_grid.resized([4 * n for n in moving_grid.shape])
    values = smooth_field(fine.shape, 5.0, channels=1)
    image = Image(
        values.round().short() if discrete else values,
        fine,
        padding=0 if discrete else -2.0,
        discrete=discrete,
    )
    displacement = smooth_field(fixed_grid.shape, reach)
    for first, planes in ((0, 3), (5, 4), (11, 1)):
        part = fixed_grid.cropped((first, 0, 0), (planes, *fixed_grid.shape[1:]))
        field = displacement[:, :, first : first + planes]
        expected = image.warped_by(field, part).tensor
        found = warped_slab(image, field, part).tensor
        if discrete:  # rounding decides between two neighbours
            assert float((found != expected).float().mean()) < 0.01
        else:
            torch.testing.assert_close(found, expected, atol=2e-3, rtol=0)
    assert warped_slab(image, torch.full_like(field, torch.nan), part).tensor.shape == found.shape


def test_a_slab_that_lies_between_voxels_reads_both(generator) -> None:
    grid = Grid.regular((40, 12, 11))
    image, part = (
        Image(torch.rand(1, 1, 40, 12, 11, generator=generator), grid, padding=-1.0),
        grid.cropped((10, 0, 0), (3, 12, 11)),
    )
    for step in (-0.5, 0.5):
        shift = torch.full((1, 3, *part.shape), step)
        torch.testing.assert_close(
            warped_slab(image, shift, part).tensor, image.warped_by(shift, part).tensor
        )
