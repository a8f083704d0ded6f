"""Pairs: landmarks, batches, devices."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from lightning_reg import functional as LF
from lightning_reg.registry import ArgumentError
from lightning_reg.spatial import Affine, Displacement, Grid, Image, Pair


@pytest.fixture
def make_pair(generator, smooth_field, moving_grid):
    """A pair whose fixed image has ``shape`` and whose landmarks follow its true field."""

    def make(shape, count, offset=0.0):
        grid = Grid.regular(shape, (1.5, 0.9, 2.0), (100.0 + offset, -50.0, 300.0))
        truth = Displacement(
            smooth_field(shape, 1.0) + torch.tensor([2.0, -1.0, 0.5]).view(1, 3, 1, 1, 1), grid
        )
        fixed = Image(torch.rand(1, 1, *shape, generator=generator), grid, padding=-1.0)
        landmarks = grid.to_world(
            5 * torch.rand(1, 3, count, generator=generator, dtype=torch.float64)
        )
        return Pair(
            fixed=fixed,
            moving=Image(torch.rand(1, 1, *moving_grid.shape, generator=generator), moving_grid),
            fixed_mask=Image(torch.ones(1, 1, *shape, dtype=torch.uint8), grid, discrete=True),
            fixed_labels=Image(torch.full((1, 1, *shape), 3), grid, discrete=True),
            moving_labels=Image(
                torch.full((1, 1, *moving_grid.shape), 7), moving_grid, discrete=True
            ),
            fixed_landmarks=(landmarks[0].T,),
            moving_landmarks=(truth.map_world(landmarks)[0].T,),
            truth=truth,
            name=(f"{count} landmarks",),
        )

    return make


@pytest.fixture
def batch(make_pair):
    pairs = [make_pair((9, 11, 13), 4), make_pair((10, 8, 13), 7, offset=30.0)]
    return pairs, Pair.collate(pairs)


def test_landmarks_before_and_after(make_pair):
    pair = make_pair((9, 11, 13), 5)
    (before,), (after,) = pair.landmark_errors(), pair.landmark_errors(pair.truth)
    expected = (pair.fixed_landmarks[0] - pair.moving_landmarks[0]).norm(dim=1)
    torch.testing.assert_close(before, expected)
    assert float(before.min()) > 1
    assert float(after.max()) < 1e-4


def test_landmarks_go_through_the_transform_and_not_its_inverse(fixed_grid, rigid):
    fixed = torch.tensor([[-210.0, 130.0, 400.0], [-205.0, 140.0, 415.0]], dtype=torch.float64)
    moving = LF.transform_points(rigid, fixed.T[None])[0].T
    image = Image(torch.zeros(1, 1, *fixed_grid.shape), fixed_grid)
    pair = Pair(image, image, fixed_landmarks=(fixed,), moving_landmarks=(moving,))
    transform = Affine(rigid, fixed_grid)
    assert float(pair.landmark_errors(transform)[0].max()) < 1e-9
    assert float(pair.landmark_errors(transform.inverse())[0].min()) > 1


def test_landmarks_of_one_image_only(make_pair):
    pair = make_pair((9, 11, 13), 5)
    with pytest.raises(ValueError, match="landmarks"):
        Pair(pair.fixed, pair.moving, fixed_landmarks=pair.fixed_landmarks).landmark_errors()


def test_collated_sizes(batch):
    _, joined = batch
    assert joined.fixed.tensor.shape == (2, 1, 10, 11, 13)
    assert joined.moving.tensor.shape[0] == 2
    assert joined.fixed.grid.batch == 2
    assert joined.name == ("4 landmarks", "7 landmarks")
    assert joined.moving_mask is None
    assert joined.labels() == [3, 7]


def test_collated_items_stay_where_they_were(batch):
    pairs, joined = batch
    for b, pair in enumerate(pairs):
        i, j, k = pair.fixed.grid.shape
        torch.testing.assert_close(joined.fixed.tensor[b, :, :i, :j, :k], pair.fixed.tensor[0])
        np.testing.assert_allclose(joined.fixed.grid.affine[b], pair.fixed.grid.affine[0])
    assert float(joined.fixed.tensor[0, 0, 9].max()) == -1
    assert float(joined.fixed_mask.tensor[0, 0, 9].max()) == 0


def test_collated_landmarks_are_those_of_the_items(batch):
    pairs, joined = batch
    for transform in (None, "truth"):
        errors = joined.landmark_errors(transform and joined.truth)
        for pair, found in zip(pairs, errors, strict=True):
            torch.testing.assert_close(
                found, pair.landmark_errors(transform and pair.truth)[0], atol=1e-4, rtol=0
            )


def test_a_collated_field_extends_by_its_border(batch, generator):
    """The truth maps points in the last voxel, and beyond it, as it did before."""
    pairs, joined = batch
    points = torch.cat(
        [
            5 + 6 * torch.rand(1, 3, 50, generator=generator, dtype=torch.float64),
            torch.full((1, 3, 1), 30.0),
        ],
        dim=2,
    )
    worlds = torch.cat([pair.fixed.grid.to_world(points) for pair in pairs])
    together = joined.truth.map_world(worlds)
    for b, pair in enumerate(pairs):
        torch.testing.assert_close(
            together[b : b + 1], pair.truth.map_world(worlds[b : b + 1]), atol=1e-4, rtol=0
        )


def test_collated_images_warp_as_alone(batch):
    pairs, joined = batch
    together = joined.moving.warped(joined.truth)
    for b, pair in enumerate(pairs):
        i, j, k = pair.fixed.grid.shape
        alone = pair.moving.warped(pair.truth).tensor[0]
        torch.testing.assert_close(
            together.tensor[b, :, : i - 1, : j - 1, : k - 1],
            alone[:, : i - 1, : j - 1, : k - 1],
            atol=1e-4,
            rtol=0,
        )


def test_one_pair_is_its_own_batch(make_pair):
    pair = make_pair((9, 11, 13), 5)
    assert Pair.collate([pair]) is pair


def test_a_field_that_one_pair_lacks_is_dropped(make_pair):
    first, second = make_pair((9, 11, 13), 5), make_pair((9, 11, 13), 5)
    joined = Pair.collate([first, Pair(second.fixed, second.moving)])
    assert joined.has() == {"fixed", "moving", "name"}


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (
            {"fixed": torch.zeros(1, 1, 8, 8, 8)},
            "Pair: fixed is an object of Tensor; give an Image",
        ),
        ({"moving": None}, "Pair: moving is None; give an Image"),
        ({"fixed_mask": torch.zeros(1, 1, 8, 8, 8)}, "Pair: fixed_mask is an object of Tensor"),
        (
            {"fixed_landmarks": torch.zeros(4, 3)},
            "Pair: fixed_landmarks is an object of Tensor; give a tuple",
        ),
        ({"truth": torch.zeros(1, 3, 8, 8, 8)}, "Pair: truth is an object of Tensor"),
        (
            {"fixed_landmarks": (torch.zeros(4, 3),) * 2},
            "Pair: batches of different length: fixed 1, moving 1, .*fixed_landmarks 2",
        ),
        (
            {"moving": Image(torch.zeros(2, 1, 8, 8, 8), Grid.regular((8, 8, 8)))},
            "Pair: batches of different length: fixed 1, moving 2",
        ),
    ],
)
def test_a_pair_of_something_else_is_refused(make_pair, changed, message):
    with pytest.raises(ArgumentError, match=f"^{message}"):
        replace(make_pair((8, 8, 8), 2), **changed)


@pytest.mark.parametrize("pairs", [[], [torch.zeros(1)]])
def test_no_pairs_make_no_batch(pairs):
    with pytest.raises(ArgumentError, match=r"^Pair.collate: .*pairs is"):
        Pair.collate(pairs)


def test_has(make_pair):
    pair = make_pair((9, 11, 13), 5)
    assert "moving_mask" not in pair.has()
    assert {"fixed", "moving", "truth", "fixed_landmarks"} <= pair.has()


def test_to_moves_everything(make_pair):
    moved = make_pair((9, 11, 13), 5).to("meta")
    assert moved.truth.field.device.type == moved.fixed.tensor.device.type == "meta"
    assert moved.fixed_labels.tensor.device.type == moved.fixed_landmarks[0].device.type == "meta"
    assert moved.name == ("5 landmarks",)


def test_labels_are_known_where_they_cannot_be_looked_for(make_pair):
    """On a device that nobody waits for: they are found before the pair leaves the CPU."""
    pair = make_pair((9, 11, 13), 5)
    assert pair.to("meta").to("meta").labels() == pair.labels() == [3, 7]


def test_elements_are_the_pairs_of_the_batch(batch):
    pairs, joined = batch
    for pair, element in zip(pairs, joined.elements(), strict=True):
        i, j, k = pair.fixed.grid.shape
        torch.testing.assert_close(element.fixed.tensor[..., :i, :j, :k], pair.fixed.tensor)
        np.testing.assert_allclose(element.fixed.grid.affine, pair.fixed.grid.affine)
        np.testing.assert_allclose(element.truth.grid.affine, pair.truth.grid.affine)
        torch.testing.assert_close(
            element.landmark_errors(element.truth)[0],
            pair.landmark_errors(pair.truth)[0],
            atol=1e-4,
            rtol=0,
        )
        assert element.name == pair.name


def test_every_part_of_a_pair_is_cropped_on_its_own_side(make_pair, moving_grid, world_points):
    """The part stays at its place: images, masks and labels, and the truth, which is on the fixed
    side.
    """
    pair = make_pair((9, 11, 13), 4)
    cut = pair.cropped(((2, 1, 3), (6, 8, 7)), ((4, 0, 5), (9, 12, 8)))
    fixed, moving = (
        pair.fixed.grid.cropped((2, 1, 3), (6, 8, 7)),
        moving_grid.cropped((4, 0, 5), (9, 12, 8)),
    )
    for image, grid, whole in ((cut.fixed, fixed, pair.fixed), (cut.moving, moving, pair.moving)):
        assert image.grid.matches(grid)
        torch.testing.assert_close(image.tensor, whole.resampled(grid).tensor, atol=1e-5, rtol=0)
    assert cut.fixed_mask.grid.matches(fixed)
    assert cut.fixed_labels.grid.matches(fixed)
    assert cut.moving_labels.grid.matches(moving)
    points = world_points(fixed, margin=0.0)
    torch.testing.assert_close(
        cut.truth.map_world(points), pair.truth.map_world(points), atol=1e-5, rtol=0
    )
    assert cut.fixed_landmarks is None
