"""Voxel grids."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from lightning_reg import functional as LF
from lightning_reg.spatial import Affine, BSpline, Displacement, Grid, Image


def test_world_and_voxels_are_inverse(fixed_grid, generator):
    points = 20 * torch.rand(1, 3, 4, 5, generator=generator, dtype=torch.float64)
    torch.testing.assert_close(fixed_grid.to_voxel(fixed_grid.to_world(points)), points)


def test_voxels_lie_where_the_affine_says(fixed_grid):
    index = torch.tensor([2.0, 5.0, 11.0], dtype=torch.float64)
    expected = torch.from_numpy(fixed_grid.affine[0] @ [*index, 1.0])
    torch.testing.assert_close(fixed_grid.to_world(index.view(1, 3, 1)).flatten(), expected[:3])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_middle_and_the_spacing(fixed_grid, dtype):
    np.testing.assert_allclose(fixed_grid.center, [[-210.0, 133.0, 410.0]])
    np.testing.assert_allclose(fixed_grid.spacing, [[1.4, 1.1, 2.0]])
    assert fixed_grid.points(dtype=dtype).dtype == dtype


@pytest.mark.parametrize("axis", range(3))
def test_regular(axis):
    grid = Grid.regular((4, 5, 6), (0.5, 2.0, 3.0), (10.0, -20.0, 30.0))
    step = torch.zeros(1, 3, 1, dtype=torch.float64)
    step[:, axis] = 1
    expected = torch.tensor([10.0, -20.0, 30.0], dtype=torch.float64)
    expected[axis] += (0.5, 2.0, 3.0)[axis]
    torch.testing.assert_close(grid.to_world(step).flatten(), expected)


def test_voxel_map_goes_by_way_of_the_world(fixed_grid, moving_grid, generator):
    points = 10 * torch.rand(1, 3, 7, generator=generator, dtype=torch.float64)
    there = LF.transform_points(fixed_grid.voxel_map(moving_grid), points)
    torch.testing.assert_close(moving_grid.to_world(there), fixed_grid.to_world(points))


def test_voxel_map_of_batches(fixed_grid, moving_grid):
    both = Grid(fixed_grid.shape, np.concatenate([fixed_grid.affine, moving_grid.affine]))
    forth, back = both.voxel_map(moving_grid), moving_grid.voxel_map(both)
    assert forth.shape == back.shape == (2, 4, 4)
    np.testing.assert_allclose(forth @ back, np.tile(np.eye(4), (2, 1, 1)), atol=1e-9)
    np.testing.assert_allclose(forth[0], fixed_grid.voxel_map(moving_grid)[0])


@pytest.mark.parametrize("factor", [(2, 1, 3), (3, 5, 1)])
def test_a_pooled_grid_lies_at_the_means_of_its_voxels(factor, fixed_grid):
    grid = fixed_grid.cropped((0, 0, 0), (6, 15, 9) if factor[0] == 3 else (12, 15, 18))
    world = grid.to_world(grid.points(dtype=torch.float64))
    pooled = grid.pooled(factor)
    torch.testing.assert_close(
        pooled.to_world(pooled.points(dtype=torch.float64)), LF.pool(world, factor)
    )
    np.testing.assert_allclose(pooled.spacing, grid.spacing * factor)


def test_a_grid_that_does_not_divide_is_not_pooled_to_another_spacing(fixed_grid):
    """Either refused or cut, but never a spacing other than the factor times the old one."""
    try:
        pooled = fixed_grid.pooled((2, 2, 2))
    except ValueError:
        return
    np.testing.assert_allclose(pooled.spacing, 2 * fixed_grid.spacing)


@pytest.mark.parametrize("shape", [(6, 30, 34), (13, 11, 17)])
def test_a_resized_grid_keeps_its_faces(shape, fixed_grid):
    resized = fixed_grid.resized(shape)
    for corner in ((0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 1, 1)):
        faces = [
            torch.tensor([c * n - 0.5 for c, n in zip(corner, g.shape, strict=True)]).double()
            for g in (fixed_grid, resized)
        ]
        torch.testing.assert_close(
            resized.to_world(faces[1].view(1, 3, 1)), fixed_grid.to_world(faces[0].view(1, 3, 1))
        )


@pytest.mark.parametrize("start", [(2, 0, 0), (0, -3, 0), (1, 2, -4)])
def test_a_cropped_grid_starts_at_its_voxel(start, fixed_grid):
    cropped = fixed_grid.cropped(start, (5, 20, 7))
    assert cropped.shape == (5, 20, 7)
    offset = torch.tensor(start, dtype=torch.float64).view(1, 3, 1, 1, 1)
    points = cropped.points(dtype=torch.float64)
    torch.testing.assert_close(cropped.to_world(points), fixed_grid.to_world(points + offset))


def test_a_resized_image_is_where_its_grid_says(fixed_grid, smooth_field):
    """An image of world positions still tells its positions."""
    world = fixed_grid.to_world(fixed_grid.points(dtype=torch.float64))
    image = Image(world, fixed_grid).resized((6, 30, 20))
    expected = image.grid.to_world(image.grid.points(dtype=torch.float64))
    inner = (slice(None), slice(None), slice(1, -1), slice(2, -2), slice(2, -2))
    torch.testing.assert_close(image.tensor[inner], expected[inner])


def test_matches(fixed_grid, moving_grid):
    def shifted(size):
        affine = fixed_grid.affine.copy()
        affine[:, 1, 3] += size
        return Grid(fixed_grid.shape, affine)

    assert fixed_grid.matches(fixed_grid)
    assert fixed_grid.matches(shifted(1e-6))
    assert not fixed_grid.matches(shifted(1e-2))
    assert not fixed_grid.matches(moving_grid)
    assert not fixed_grid.matches(fixed_grid.cropped((0, 0, 0), (12, 15, 18)))
    assert fixed_grid.matches(Grid(fixed_grid.shape, np.tile(fixed_grid.affine, (3, 1, 1))))
    assert not fixed_grid.matches(
        Grid(fixed_grid.shape, np.concatenate([fixed_grid.affine, shifted(1).affine]))
    )


def test_overlap_of_halves(fixed_grid):
    assert fixed_grid.overlap(fixed_grid) == 1
    assert fixed_grid.overlap(Grid(fixed_grid.shape, fixed_grid.affine.copy())) == 1
    assert fixed_grid.overlap(fixed_grid.cropped((0, 0, 0), (6, 15, 17))) == pytest.approx(
        0.5, abs=0.05
    )
    assert fixed_grid.overlap(fixed_grid.cropped((0, 40, 0), (12, 15, 17))) == 0
    assert fixed_grid.cropped((3, 3, 3), (4, 5, 6)).overlap(fixed_grid) == 1
    two = Grid(
        fixed_grid.shape,
        np.concatenate([fixed_grid.affine, fixed_grid.cropped((0, 40, 0), (12, 15, 17)).affine]),
    )
    assert two.overlap(fixed_grid) == 0


def test_features_that_do_not_reach_the_end_are_refused():
    grid = Grid.regular((8, 8, 9))
    assert grid.at_stride((2, 2, 2), (4, 4, 5)).shape == (4, 4, 5)
    with pytest.raises(
        ValueError, match=r"\(4, 4, 4\) at a stride of \(2, 2, 2\) voxels do not cover \(8, 8, 9\)"
    ):
        grid.at_stride((2, 2, 2), (4, 4, 4))


@pytest.mark.parametrize(
    "make",
    [
        lambda: Grid((8, -1, 8), torch.eye(4)),
        lambda: Grid((8, 8, 8), torch.diag(torch.tensor([1.0, 1, 1, 5]))),
        lambda: Grid(8, torch.eye(4)),
        lambda: Grid((8, 8, "8"), torch.eye(4)),
        lambda: Grid((8, 8, 8.5), torch.eye(4)),
        lambda: Grid((8, 8, 8), "affine"),
        lambda: Grid((8, 8, 8), None),
        lambda: Grid.regular(8),
        lambda: Grid.regular((8, 8, 8), 2.0),
        lambda: Grid.regular((8, 8, 8), (1.0, 1.0)),
        lambda: Image(torch.zeros(1, 1, 8, 8, 8), None),
        lambda: Image(torch.zeros(3, 1, 8, 8, 8), Grid((8, 8, 8), np.stack([np.eye(4)] * 2))),
        lambda: Image(np.zeros((1, 1, 8, 8, 8)), Grid.regular((8, 8, 8))),
        lambda: Affine(torch.eye(4)[None, :3], Grid.regular((8, 8, 8))),
        lambda: Affine(np.eye(4)[None], Grid.regular((8, 8, 8))),
        lambda: BSpline(torch.zeros(1, 2, 5, 5, 5), Grid.regular((8, 8, 8)), (4, 4, 4)),
        lambda: BSpline(torch.zeros(1, 3, 5, 5, 5), Grid.regular((8, 8, 8)), (4, 0, 4)),
    ],
)
def test_what_makes_no_geometry_is_refused(make):
    with pytest.raises(ValueError, match=r"^(Grid|Image|Affine|BSpline)"):
        make()


@pytest.mark.parametrize("margin", [0.0, 0.5, 2.0])
def test_points_of_an_image(fixed_grid, margin):
    """Up to ``margin`` voxels beyond the outermost centres, whatever the direction of the axes."""
    last = torch.tensor(fixed_grid.shape, dtype=torch.float64) - 1
    for axis in range(3):
        for end in (0.0, float(last[axis])):
            points = (last / 2).repeat(3, 1)
            points[:, axis] = end + torch.tensor(
                [-margin - 1e-6, 1e-6 if end == 0 else -1e-6, margin + 1e-6]
            )
            inside = fixed_grid.contains(fixed_grid.to_world(points.T[None]), margin)[0].tolist()
            assert inside == ([False, True, True] if end == 0 else [True, True, False])


@pytest.mark.parametrize("value", [0.0, math.nan, math.inf])
def test_a_singular_affine_is_refused(value):
    affine = torch.eye(4)
    affine[1, 1] = value
    with pytest.raises(ValueError, match="singular"):
        Grid((3, 4, 5), affine)


@pytest.mark.parametrize(("shape", "affine"), [((3, 4), torch.eye(4)), ((3, 4, 5), torch.eye(3))])
def test_other_shapes_are_refused(shape, affine):
    with pytest.raises(ValueError, match="three extents"):
        Grid(shape, affine)


@pytest.mark.parametrize("kind", [np.float32, torch.tensor, np.ndarray.tolist])
def test_affines_are_kept_as_arrays_in_double_precision(fixed_grid, kind):
    grid = Grid((3, 4, 5), kind(fixed_grid.affine[0]))
    assert isinstance(grid.affine, np.ndarray)
    assert grid.affine.dtype == np.float64
    assert grid.affine.shape == (1, 4, 4)
    assert "3 x 4 x 5" in repr(grid)


def test_single_precision_keeps_micrometres(fixed_grid, generator):
    """At some hundred millimetres from the origin of the world."""
    points = 16 * torch.rand(1, 3, 200, generator=generator, dtype=torch.float64)
    world = fixed_grid.to_world(points)
    assert float((fixed_grid.to_world(points.float()) - world).abs().max()) < 1e-4
    assert float((fixed_grid.to_voxel(world.float()) - points).abs().max()) < 5e-4


def test_the_size_is_the_edge_of_a_cube_of_the_same_volume():
    """4 x 27 x 8 voxels of 2 x 0.5 x 2 mm: 1728 cubic millimetres, whatever the direction."""
    np.testing.assert_allclose(
        Grid.regular((4, 27, 8), (2.0, 0.5, 2.0), (9.0, 0.0, -5.0)).size, [12.0]
    )


def test_a_frame_counts_millimetres_along_the_axes_from_the_centre(fixed_grid):
    there, back = fixed_grid.frame()
    np.testing.assert_allclose(there @ back, np.eye(4)[None], atol=1e-12)
    point = torch.tensor([0.0, 3.0, 0.0], dtype=torch.float64).view(1, 3, 1)
    along = fixed_grid.affine[:, :3, 1] / 1.1
    np.testing.assert_allclose(
        LF.transform_points(there, point)[..., 0], fixed_grid.center + 3 * along
    )


def test_parallel_grids_differ_by_a_scale_and_a_shift_per_axis(fixed_grid, moving_grid):
    part = fixed_grid.cropped((2, -3, 1), (5, 6, 8)).resized((10, 3, 4))
    scale, shift = part.parallel(fixed_grid)
    torch.testing.assert_close(torch.tensor(scale), torch.tensor([0.5, 2.0, 2.0]))
    torch.testing.assert_close(torch.tensor(shift), torch.tensor([1.75, -2.5, 1.5]))
    mirrored = Grid(fixed_grid.shape, fixed_grid.affine @ np.diag([1.0, -1.0, 1.0, 1.0]))
    assert fixed_grid.parallel(moving_grid) is fixed_grid.parallel(mirrored) is None


def test_a_part_of_a_grid_begins_at_its_voxel(fixed_grid) -> None:
    assert fixed_grid.cropped((2, 0, 5), (4, 15, 12)).begins_in(fixed_grid) == [2, 0, 5]
    assert fixed_grid.begins_in(fixed_grid) == [0, 0, 0]
    # beyond, before, between
    for start, shape in (
        ((2, 0, 6), (4, 15, 12)),
        ((-1, 0, 0), (4, 4, 4)),
        ((0.5, 0, 0), (4, 4, 4)),
    ):
        assert fixed_grid.cropped(start, shape).begins_in(fixed_grid) is None
    assert fixed_grid.resized((24, 15, 17)).begins_in(fixed_grid) is None
    assert (
        Grid(fixed_grid.shape, fixed_grid.affine @ np.diag([1, -1, 1, 1.0])).begins_in(fixed_grid)
        is None
    )


def test_a_field_on_a_part_of_its_grid_is_that_part(fixed_grid, smooth_field) -> None:
    """To the last bit: nothing is interpolated."""
    field = smooth_field(fixed_grid.shape, 2.0)
    part = Displacement(field, fixed_grid).displacement(fixed_grid.cropped((3, 2, 1), (5, 9, 16)))
    assert torch.equal(part, field[:, :, 3:8, 2:11, 1:17])


@pytest.mark.parametrize("count", [1, 7, 100, 3059, 3060, 10**6])
def test_scattered_voxels_are_every_nth_of_the_grid(fixed_grid, count: int) -> None:
    found = fixed_grid.scattered(count)
    everything = fixed_grid.points(dtype=torch.float64).flatten(2)
    step = -(-everything.shape[2] // count)
    assert torch.equal(found, everything[:, :, ::step])
    assert found.shape[2] <= count
