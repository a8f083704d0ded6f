"""Transforms against ITK, on other grids, composed, inverted."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from lightning_reg import functional as LF
from lightning_reg.spatial import (
    Affine,
    BSpline,
    Composition,
    Displacement,
    Grid,
    Identity,
    Image,
    IntegratedGradient,
    Transform,
    Velocity,
    parts,
    split_affine,
)

KINDS = ["displacement", "bspline", "affine", "velocity", "integrated", "composition", "identity"]


@pytest.fixture
def make(fixed_grid, moving_grid, smooth_field, rigid, generator):
    """Transforms of every kind on the fixed grid; the outer member of the composition lives on the
    moving one.
    """

    def build(kind, grid=fixed_grid, dtype=torch.float32, batch=1):
        if kind == "displacement":
            return Displacement(smooth_field(grid.shape, 1.2, batch=batch).to(dtype), grid)
        if kind == "velocity":
            return Velocity(smooth_field(grid.shape, 1.2, batch=batch).to(dtype), grid)
        if kind == "integrated":
            return IntegratedGradient(
                1 + 0.1 * smooth_field(grid.shape, 1.2, batch=batch).to(dtype), grid
            )
        if kind == "affine":
            return Affine(rigid.to(dtype).expand(batch, 4, 4), grid)
        if kind == "bspline":
            stride = (4.0, 3.5, 5.0)
            control = torch.randn(
                batch, 3, *LF.lattice_shape(grid.shape, stride), generator=generator
            )
            return BSpline(0.8 * control.clamp(-1.5, 1.5).to(dtype), grid, stride)
        if kind == "composition":
            return Composition(
                [
                    build("displacement", moving_grid, dtype),
                    build("affine", grid, dtype),
                    build("velocity", grid, dtype),
                ]
            )
        return Identity(grid, torch.zeros((), dtype=dtype))

    return build


def test_affine_is_itks(make, itk, fixed_grid, world_points):
    transform = make("affine")
    itk.assert_same_map(transform, itk.affine(transform.matrix), world_points(fixed_grid))


@pytest.mark.parametrize("kind", ["displacement", "velocity"])
def test_displacement_is_itks(kind, make, itk, fixed_grid, world_points):
    transform = make(kind)
    itk.assert_same_map(
        transform, itk.field(transform.field, fixed_grid), world_points(fixed_grid, margin=0.0)
    )


@pytest.mark.parametrize("stride", [(4.0, 3.5, 5.0), (2.0, 3.0, 4.0), (6.25, 20.0, 1.5)])
def test_bspline_is_itks(stride, itk, fixed_grid, world_points, generator):
    control = torch.randn(1, 3, *LF.lattice_shape(fixed_grid.shape, stride), generator=generator)
    transform = BSpline(control, fixed_grid, stride)
    itk.assert_same_map(transform, itk.bspline(transform), world_points(fixed_grid, margin=0.0))


def test_composition_is_itks(make, itk, fixed_grid, moving_grid, world_points):
    """The first of both lists is the outermost."""
    outer, middle, inner = make("displacement", moving_grid), make("affine"), make("bspline")
    transform = Composition([outer, middle, inner])
    theirs = sitk.CompositeTransform(
        [itk.field(outer.field, moving_grid), itk.affine(middle.matrix), itk.bspline(inner)]
    )
    points = world_points(fixed_grid, 300, margin=2.0)
    read = moving_grid.to_voxel(
        itk.points(sitk.CompositeTransform([itk.affine(middle.matrix), itk.bspline(inner)]), points)
    )
    inside = ((read > 0) & (read < torch.tensor(moving_grid.shape).view(1, 3, 1) - 1)).all(1)[0]
    assert int(inside.sum()) > 50
    itk.assert_same_map(transform, theirs, points[..., inside])


@pytest.mark.parametrize("axis", range(3))
@pytest.mark.parametrize("kind", ["displacement", "velocity", "bspline", "affine"])
def test_a_voxel_along_one_axis_is_that_column_of_the_affine(kind, axis, fixed_grid, world_points):
    step = torch.zeros(1, 3, 1, 1, 1)
    step[:, axis] = 2
    column = torch.from_numpy(2 * fixed_grid.affine[0, :3, axis])
    matrix = torch.eye(4, dtype=torch.float64)[None].clone()
    matrix[0, :3, 3] = column
    transform = {
        "displacement": lambda: Displacement(step.expand(1, 3, *fixed_grid.shape), fixed_grid),
        "velocity": lambda: Velocity(step.expand(1, 3, *fixed_grid.shape), fixed_grid),
        "bspline": lambda: BSpline(step.expand(1, 3, 4, 5, 6), fixed_grid, (4.0, 3.5, 5.0)),
        "affine": lambda: Affine(matrix, fixed_grid),
    }[kind]()
    points = world_points(fixed_grid)
    torch.testing.assert_close(
        transform.map_world(points) - points,
        column.view(1, 3, 1).expand_as(points),
        atol=2e-5,
        rtol=0,
    )
    dense = transform.displacement()
    torch.testing.assert_close(dense.float(), step.expand_as(dense), atol=2e-5, rtol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_dense_voxels_and_world_agree(kind, make, fixed_grid):
    transform = make(kind)
    points = fixed_grid.points()
    moved = transform.map_voxels(points)
    torch.testing.assert_close(
        transform.displacement() + points, moved.expand(1, -1, -1, -1, -1), atol=1e-4, rtol=0
    )
    world = transform.map_world(fixed_grid.to_world(points.double()))
    torch.testing.assert_close(fixed_grid.to_world(moved.double()), world, atol=5e-4, rtol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_on_another_grid_it_is_the_same_motion(kind, make, fixed_grid, moving_grid):
    """Points leave the other grid's voxel centres for the same places in the world, from outside
    the first grid too.
    """
    transform = make(kind, dtype=torch.float64)
    for grid in (
        moving_grid,
        fixed_grid.resized((6, 20, 17)),
        fixed_grid.cropped((-3, 2, 0), (9, 9, 30)),
    ):
        points = grid.points(dtype=torch.float64)
        moved = grid.to_world(points + transform.displacement(grid))
        torch.testing.assert_close(
            moved, transform.map_world(grid.to_world(points)), atol=1e-8, rtol=0
        )


@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_is_its_items(kind, make, fixed_grid, moving_grid):
    """With a grid per item."""
    both = Grid(
        fixed_grid.shape,
        np.concatenate(
            [fixed_grid.affine, fixed_grid.cropped((2, -1, 3), fixed_grid.shape).affine]
        ),
    )
    state = make(kind) if kind == "composition" else make(kind, batch=2)
    if kind == "composition":
        transform = Composition(
            [
                make("displacement", moving_grid, batch=2),
                make("affine", both),
                make("velocity", both, batch=2),
            ]
        )
    else:
        transform = state
        transform.grid = both
    points = both.to_world(
        8 * torch.rand(2, 3, 9, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    )
    together, dense = transform.map_world(points), transform.displacement(moving_grid)
    for b in range(2):
        one = _item(transform, b)
        torch.testing.assert_close(
            together[b : b + 1], one.map_world(points[b : b + 1]), atol=1e-4, rtol=0
        )
        torch.testing.assert_close(
            dense[b : b + 1], one.displacement(moving_grid), atol=1e-4, rtol=0
        )


def _item(transform, b):
    grid = Grid(transform.grid.shape, transform.grid.affine[b % transform.grid.batch])
    if isinstance(transform, Composition):
        return Composition([_item(m, b) for m in transform.members])
    if isinstance(transform, Velocity):
        return Velocity(transform.velocity[b : b + 1], grid, transform.squarings)
    if isinstance(transform, (Displacement, IntegratedGradient)):
        return Displacement(transform.field[b : b + 1], grid)
    if isinstance(transform, BSpline):
        return BSpline(transform.control[b : b + 1], grid, transform.stride)
    if isinstance(transform, Affine):
        return Affine(transform.matrix[b % len(transform.matrix)][None], grid)
    return Identity(grid, transform.like)


INVERTIBLE = [
    ("displacement", 0.1),
    ("integrated", 0.1),
    ("bspline", 0.1),
    ("affine", 1e-8),
    ("velocity", 0.1),
    ("identity", 1e-8),
]


@pytest.mark.parametrize(("kind", "tolerance"), INVERTIBLE)
def test_the_inverse_brings_points_back(kind, tolerance, make, fixed_grid, world_points):
    transform = make(kind, dtype=torch.float64)
    back, points = transform.inverse(), world_points(fixed_grid, margin=3.5)
    there = transform.map_world(points)
    loop = back.map_world(there)
    assert float((loop - points).norm(dim=1).max()) < tolerance
    assert kind == "identity" or float((there - points).norm(dim=1).max()) > 1
    torch.testing.assert_close(
        transform.map_world(back.map_world(points)), points, atol=tolerance, rtol=0
    )


def test_the_inverse_of_a_composition(make, fixed_grid, moving_grid, world_points):
    transform = Composition([make("velocity", moving_grid), make("affine"), make("velocity")])
    points = world_points(fixed_grid, margin=4.5)
    loop = transform.inverse().map_world(transform.map_world(points))
    assert float((loop - points).norm(dim=1).max()) < 0.15
    assert float((transform.map_world(points) - points).norm(dim=1).mean()) > 1


def test_the_inverse_of_a_velocity_is_its_negative(make):
    transform = make("velocity")
    back = transform.inverse()
    torch.testing.assert_close(back.velocity, -transform.velocity)
    assert back.squarings == transform.squarings
    torch.testing.assert_close(back.inverse().field, transform.field)


def test_a_singular_affine_has_no_inverse(fixed_grid):
    with pytest.raises(ValueError, match="inver"):
        Affine(torch.diag(torch.tensor([1.0, 0.0, 1.0, 1.0]))[None], fixed_grid).inverse()


@pytest.mark.parametrize("kind", ["displacement", "velocity"])
def test_outside_the_grid_a_field_extends_by_its_border(kind, make, fixed_grid):
    transform = make(kind)
    corner, outside = torch.zeros(1, 3, 1), torch.tensor([-4.0, -2.0, -30.0]).view(1, 3, 1)
    torch.testing.assert_close(
        transform.map_voxels(outside) - outside,
        transform.map_voxels(corner) - corner,
        atol=1e-5,
        rtol=0,
    )


def test_the_determinant_is_that_of_the_world_map(make, itk, fixed_grid):
    """Central differences of ITK's transform by one voxel along each axis of an oblique grid."""
    transform = make("displacement")
    theirs, index = (
        itk.field(transform.field, fixed_grid),
        torch.tensor([[4.0, 6.0, 9.0], [7.0, 3.0, 5.0]], dtype=torch.float64).T[None],
    )
    linear, columns = torch.from_numpy(fixed_grid.affine[0, :3, :3]), []
    for axis in range(3):
        step = torch.zeros(1, 3, 1, dtype=torch.float64)
        step[:, axis] = 1
        ahead, behind = (itk.points(theirs, fixed_grid.to_world(index + s * step)) for s in (1, -1))
        columns.append((ahead - behind)[0] / 2)
    matrices = torch.stack(columns, dim=1).permute(2, 0, 1) @ torch.linalg.inv(linear)
    determinant = LF.jacobian_determinant(transform.field)[0, 0]
    found = torch.stack([determinant[tuple(i)] for i in index[0].T.long().tolist()])
    torch.testing.assert_close(found.double(), torch.linalg.det(matrices), atol=1e-4, rtol=0)


@pytest.mark.parametrize("kind", ["displacement", "bspline", "affine", "velocity"])
def test_derivatives_reach_the_state(kind, make, moving_grid, fixed_grid, smooth_field):
    transform = make(kind)
    state = {
        "displacement": "field",
        "bspline": "control",
        "affine": "matrix",
        "velocity": "velocity",
    }[kind]
    parameter = getattr(transform, state).clone().requires_grad_()
    rebuild = {
        "displacement": lambda: Displacement(parameter, fixed_grid),
        "bspline": lambda: BSpline(parameter, fixed_grid, transform.stride),
        "affine": lambda: Affine(parameter, fixed_grid),
        "velocity": lambda: Velocity(parameter, fixed_grid),
    }[kind]
    image = Image(smooth_field(moving_grid.shape, 1.0, channels=1), moving_grid)
    for grid in (fixed_grid, fixed_grid.resized((6, 20, 17))):
        (gradient,) = torch.autograd.grad(
            (image.warped(rebuild(), grid).tensor ** 2).mean(), parameter
        )
        assert torch.isfinite(gradient).all()
        assert float(gradient.abs().max()) > 0
    points = fixed_grid.to_world(torch.rand(1, 3, 5) * 8 + 1)
    (gradient,) = torch.autograd.grad((rebuild().map_world(points) ** 2).mean(), parameter)
    assert float(gradient.abs().max()) > 0


@pytest.mark.parametrize("kind", KINDS)
def test_found_on_a_padded_grid_it_maps_the_same_points(kind, make, fixed_grid, world_points):
    """Padding behind the last voxel leaves voxel 0, and so every voxel coordinate, where it was."""
    padded = Image(torch.zeros(1, 1, *fixed_grid.shape), fixed_grid).padded_to((16, 16, 32)).grid
    transform = make(kind, padded, dtype=torch.float64)
    cut = Displacement(transform.displacement(fixed_grid), fixed_grid)
    torch.testing.assert_close(
        cut.field,
        transform.displacement().expand(1, -1, -1, -1, -1)[..., :12, :15, :17],
        atol=1e-9,
        rtol=0,
    )
    if kind in ("displacement", "velocity", "affine", "identity"):
        points = world_points(fixed_grid)
        torch.testing.assert_close(
            cut.map_world(points), transform.map_world(points), atol=1e-8, rtol=0
        )


@pytest.mark.parametrize("kind", KINDS)
def test_mixed_precision_leaves_points_exact(kind, make, fixed_grid, moving_grid, world_points):
    transform, points = make(kind), world_points(fixed_grid).float()
    expected = (
        transform.map_world(points),
        transform.displacement(moving_grid),
        transform.displacement(),
    )
    with torch.autocast("cpu", torch.bfloat16):
        found = (
            transform.map_world(points),
            transform.displacement(moving_grid),
            transform.displacement(),
        )
    for a, b in zip(found, expected, strict=True):
        assert a.dtype == torch.float32
        torch.testing.assert_close(a, b, atol=1e-4, rtol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_single_precision_far_from_the_origin(kind, make, fixed_grid, world_points):
    """Single-precision points at some hundred mm, against double precision throughout."""
    transform, points = make(kind), world_points(fixed_grid)
    exact = transform.map_world(points)
    assert float((transform.map_world(points.float()) - exact).abs().max()) < 1e-3
    assert exact.dtype == torch.float64


@pytest.mark.parametrize(
    "kind", [Displacement, Velocity, lambda u, grid: BSpline(u, grid, (1.0, 1.0, 1.0))]
)
def test_state_in_half_precision_does_not_coarsen_coordinates(kind):
    """Fields in the precision of a layer under autocast: one of zeros moves nothing, on a grid
    longer than bfloat16 counts.
    """
    grid = Grid.regular((3, 4, 500), (1.0, 1.0, 1.0), (0.0, 0.0, -250.0))
    transform, other = (
        kind(torch.zeros(1, 3, 3, 4, 500, dtype=torch.bfloat16), grid),
        grid.cropped((0, 0, 1), (3, 4, 499)),
    )
    ramp = Image(other.points(), other)
    torch.testing.assert_close(
        ramp.warped(transform, other).tensor.float(), ramp.tensor, atol=5e-2, rtol=0
    )
    torch.testing.assert_close(
        ramp.warped(transform).tensor[..., 1:].float(), ramp.tensor, atol=5e-2, rtol=0
    )


def test_the_identity_follows_the_image(fixed_grid):
    """A device other than the one tensors are made on, and its type."""
    image = Image(
        torch.zeros(1, 1, *fixed_grid.shape, dtype=torch.float64, device="meta"), fixed_grid
    )
    warped = image.warped(Identity(fixed_grid, image.tensor))
    assert warped.tensor.device.type == "meta"
    assert warped.tensor.dtype == torch.float64


def test_an_empty_composition_is_refused():
    with pytest.raises(ValueError, match="no members"):
        Composition([])


def test_a_field_that_does_not_lie_on_the_grid_is_refused(fixed_grid):
    with pytest.raises(ValueError, match="does not lie on"):
        Displacement(torch.zeros(1, 3, 12, 15, 16), fixed_grid)


def test_integrated_gradients_are_cumulative_sums(fixed_grid):
    steps = torch.ones(1, 3, *fixed_grid.shape)
    steps[0, 1, :, 4] = 1.5
    found = IntegratedGradient(steps, fixed_grid).displacement()
    expected = torch.zeros_like(found)
    expected[0, 1, :, 4:] = 0.5
    torch.testing.assert_close(found, expected)


def test_both_orders_of_the_words_give_the_papers_transform(fixed_grid, smooth_field, rigid):
    """W(W(S, G_N), G_A): the deformable part acts on the moving image first, the affine one on that
    result.
    """
    deformable, affine = (
        IntegratedGradient(1 + 0.05 * smooth_field(fixed_grid.shape), fixed_grid),
        Affine(rigid.float(), fixed_grid),
    )
    # an image that linear interpolation reads exactly
    moving = Image(fixed_grid.points(), fixed_grid)
    twice = moving.warped(deformable).warped(affine).tensor
    once = moving.warped(Composition([deformable, affine])).tensor
    other = moving.warped(Composition([affine, deformable])).tensor
    cut = (slice(None), slice(None), slice(4, -4), slice(4, -4), slice(4, -4))
    torch.testing.assert_close(once[cut], twice[cut], atol=1e-3, rtol=0)
    assert float((once - other)[cut].abs().max()) > 0.05


def test_parts_of_nested_compositions_are_outermost_first(make):
    a, b, c = make("affine"), make("bspline"), make("velocity")
    assert (
        parts(Composition([a, Composition([b, c])]))
        == parts(Composition([Composition([a, b]), c]))
        == [a, b, c]
    )
    assert parts(a) == [a]


def test_the_inverse_of_a_velocity_has_its_number_of_squarings(fixed_grid, smooth_field):
    velocity = smooth_field(fixed_grid.shape, 2.0)
    back = Velocity(velocity, fixed_grid, squarings=2).inverse()
    torch.testing.assert_close(back.displacement(), LF.exponentiate(-velocity, 2))
    assert float((back.displacement() - LF.exponentiate(-velocity, 7)).abs().max()) > 1e-3


@pytest.mark.parametrize("rest", ["bspline", "velocity", "composition", None])
def test_a_transform_is_its_affine_part_of_the_rest(rest, make, rigid, fixed_grid, world_points):
    """Two affine maps that do not commute, on the outside."""
    turn = torch.eye(4, dtype=torch.float64)[None].clone()
    turn[0, :2, :2], turn[0, :3, 3] = (
        torch.tensor([[0.9, -0.4], [0.3, 1.1]]),
        torch.tensor([5.0, 70.0, -30.0]),
    )
    assert float((turn @ rigid - rigid @ turn).abs().max()) > 1
    inner = [] if rest is None else [make(rest, dtype=torch.float64)]
    affine, found = split_affine(
        Composition([Affine(turn, fixed_grid), Affine(rigid, fixed_grid), *inner]), fixed_grid
    )
    torch.testing.assert_close(affine, turn @ rigid)
    assert (found is None) == (rest is None)
    if rest == "bspline":
        assert isinstance(found, BSpline)
    elif found is not None:
        # between them a field is linear, a spline is not
        points = fixed_grid.to_world(fixed_grid.points(dtype=torch.float64).flatten(2))
        torch.testing.assert_close(
            found.map_world(points), inner[0].map_world(points), atol=1e-8, rtol=0
        )


@pytest.mark.parametrize("kind", ["displacement", "bspline"])
def test_an_extended_transform_maps_the_same_points(kind, make, fixed_grid, world_points):
    """More at one end than at the other, and differently along every axis."""
    transform = make(kind, dtype=torch.float64)
    extended = transform.extended((3, 0, 1), (0, 2, 4))
    points = world_points(fixed_grid, margin=-2.0)
    torch.testing.assert_close(
        extended.map_world(points), transform.map_world(points), atol=1e-9, rtol=0
    )
    before, after = (
        (t.field if kind == "displacement" else t.control).shape[2:] for t in (transform, extended)
    )
    assert [b - a for a, b in zip(before, after, strict=True)] == [3, 2, 5]


@pytest.mark.parametrize(
    "kind",
    ["displacement", "velocity", "integrated", "affine", "bspline", "composition", "identity"],
)
def test_a_transform_goes_to_a_type_and_to_a_device(kind, make, fixed_grid) -> None:
    transform = make(kind)
    precise = transform.to(dtype=torch.float64)
    assert type(precise) is type(transform)
    assert precise.like.dtype == torch.float64
    torch.testing.assert_close(
        precise.displacement().float(), transform.displacement(), atol=1e-4, rtol=1e-4
    )
    assert transform.to("meta").like.device.type == "meta"


class Doubled(Transform):
    """A transform of the four members: twice the displacement of another one, exactly."""

    def __init__(self, half):
        self.half, self.grid = half, half.grid

    def map_voxels(self, points):
        return 2 * self.half.map_voxels(points) - points

    def inverse(self):
        return Doubled(self.half.inverse())

    def mapped(self, change):
        return Doubled(self.half.mapped(change))

    @property
    def like(self):
        return self.half.like


def test_four_members_make_a_transform(make, fixed_grid, moving_grid, world_points):
    half = make("displacement")
    transform, written = Doubled(half), Displacement(2 * half.field, fixed_grid)
    for grid in (None, fixed_grid, moving_grid):
        torch.testing.assert_close(
            transform.displacement(grid), written.displacement(grid), atol=1e-5, rtol=0
        )
    points = world_points(fixed_grid)
    torch.testing.assert_close(transform.map_world(points), written.map_world(points))
    assert transform.to(dtype=torch.float64).displacement().dtype == torch.float64
    assert repr(transform) == "Doubled"


def test_a_transform_of_contract_1_0_works_and_warns(make, fixed_grid, moving_grid, world_points):
    """A class that has ``to`` in place of ``mapped``, and callers of ``dense``."""
    half = make("displacement")
    with pytest.warns(
        FutureWarning, match=r"Method 'to' of Former is .* 1\.1 .*; implement mapped"
    ):

        class Former(Transform):
            def __init__(self, half):
                self.half, self.grid = half, half.grid

            def map_voxels(self, points):
                return self.half.map_voxels(points)

            def map_world(self, points):
                return self.half.map_world(points)

            def dense(self):
                return self.half.displacement()

            def displacement(self, grid=None):
                return self.half.displacement(grid)

            def inverse(self):
                return self.half.inverse()

            def to(self, device=None, dtype=None):
                return Former(self.half.to(device, dtype))

            @property
            def like(self):
                return self.half.like

    former, points = Former(half), world_points(fixed_grid)
    torch.testing.assert_close(former.map_world(points), half.map_world(points))
    both = Composition([make("affine"), former]).to(dtype=torch.float64)
    assert isinstance(both.members[1], Former)
    assert both.displacement(moving_grid).dtype == torch.float64
    with pytest.warns(FutureWarning, match=r"Transform\.dense\(\) is .* call displacement\(\)"):
        assert torch.equal(half.dense(), half.field)
