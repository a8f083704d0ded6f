"""Heads: initial identity, positions of control points and coarse fields, constraints."""

from __future__ import annotations

import math

import pytest
import torch

from lightning_reg.components.heads.affine import AffineHead
from lightning_reg.components.heads.fields import BSplineHead, DenseHead, VelocityHead
from lightning_reg.components.heads.integrated_gradient import IntegratedGradientHead
from lightning_reg.components.heads.pyramid import PyramidHead, fitted_affine
from lightning_reg.components.interfaces import Head
from lightning_reg.functional import affine_matrix, affine_parameters, rotation_matrix
from lightning_reg.registry import ComponentError, build
from lightning_reg.spatial import Grid

CHANNELS, STRIDES = (4, 3), ((4, 2, 2), (2, 1, 1))
HEADS = ["affine", "bspline", "dense", "integrated_gradient", "velocity"]


@pytest.fixture
def oblique() -> Grid:
    """Turned, anisotropic, away from the origin, one axis mirrored."""
    linear = rotation_matrix(torch.tensor([[0.3, -0.2, 0.4]], dtype=torch.float64))[0] @ torch.diag(
        torch.tensor([2.0, -1.5, 3.0]).double()
    )
    affine = torch.eye(4, dtype=torch.float64)
    affine[:3, :3], affine[:3, 3] = linear, torch.tensor([40.0, -70.0, 110.0])
    return Grid((15, 11, 9), affine)  # no multiple of the strides


def features(
    grid: Grid, batch: int = 2, channels: tuple[int, ...] = CHANNELS
) -> list[torch.Tensor]:
    return [
        torch.rand(
            batch, c, *(-(-n // 4) * 4 // s for n, s in zip(grid.shape, stride, strict=True))
        )
        for c, stride in zip(channels, STRIDES, strict=True)
    ]


@pytest.mark.parametrize("name", HEADS)
def test_training_starts_next_to_the_identity(name: str, oblique: Grid) -> None:
    head = build("heads", name, Head, channels=CHANNELS, strides=STRIDES)
    displacement = head(features(oblique), oblique)[-1].displacement(oblique)
    assert displacement.shape == (2, 3, *oblique.shape)
    # sums of steps along an axis
    limit = 0.1 * (oblique.shape[0] if name == "integrated_gradient" else 1)
    assert 0 < float(displacement.detach().abs().max()) < limit


@pytest.mark.parametrize("name", HEADS)
def test_every_parameter_gets_a_gradient(name: str, oblique: Grid) -> None:
    torch.manual_seed(1)  # not one in which a rectified layer of two units is off
    head = build("heads", name, Head, channels=(4, 64), strides=STRIDES)
    head(features(oblique, channels=(4, 64)), oblique)[-1].displacement(
        oblique
    ).square().sum().backward()
    assert all(
        p.grad is not None and p.grad.abs().sum() > 0 for p in head.parameters() if p.requires_grad
    )


def bias(layer: torch.nn.Module, value: torch.Tensor) -> None:
    torch.nn.init.zeros_(layer.weight)
    with torch.no_grad():
        layer.bias.copy_(value)


def test_an_affine_output_of_one_voxel_moves_the_image_by_one_voxel(oblique: Grid) -> None:
    head = AffineHead(CHANNELS, STRIDES)
    raw = torch.zeros(12)
    raw[1] = -2.0
    bias(head.last, raw)
    displacement = head(features(oblique), oblique)[0].displacement(oblique)
    expected = torch.tensor([0.0, -2.0, 0.0]).view(1, 3, 1, 1, 1).expand_as(displacement)
    torch.testing.assert_close(displacement, expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("parameter", range(3, 12))
def test_the_centre_of_the_fixed_image_stays(parameter: int, oblique: Grid) -> None:
    """Rotation, scale and shear are about it, however the grid lies in the world."""
    head = AffineHead(CHANNELS, STRIDES, hidden=[5])
    raw = torch.zeros(12)
    raw[parameter] = 3.0
    bias(head.last, raw)
    transform = head(features(oblique), oblique)[0]
    center = torch.from_numpy(oblique.center).float().unsqueeze(2).expand(2, -1, -1)
    torch.testing.assert_close(transform.map_world(center), center, atol=1e-3, rtol=0)
    assert 0.3 < float(transform.displacement(oblique).detach().abs().max()) < 9


def test_affine_parameters_keep_their_bounds(oblique: Grid) -> None:
    raw = 1e4 * torch.randn(50, 12)
    translation, rotation, scale, shear = AffineHead.constrained(raw, oblique).split(3, dim=1)
    assert float(translation.abs().max()) > 1e4
    for angle in (rotation, shear):
        assert float(angle.abs().max()) <= math.pi + 1e-6
    assert float(scale.min()) >= 0.5
    assert float(scale.max()) <= 1.5


def test_the_affine_map_has_these_parameters_along_the_images_axes() -> None:
    grid = Grid.regular((20, 30, 24), (2.0, 1.0, 1.5), (-10.0, 20.0, 30.0))
    head = AffineHead(CHANNELS, STRIDES)
    raw = torch.tensor([1.0, 2, 3, 0.9, -0.5, 0.3, 1, -2, 0.5, 0.4, 0.2, -0.3])
    bias(head.last, raw)
    wanted = AffineHead.constrained(raw.unsqueeze(0), grid)
    found = head([torch.zeros(1, 4, 2, 2, 2)], grid)[0].matrix
    torch.testing.assert_close(found, affine_matrix(wanted, grid.center), atol=1e-4, rtol=0)
    torch.testing.assert_close(affine_parameters(found, grid.center), wanted, atol=1e-3, rtol=1e-3)


def test_control_points_lie_where_the_features_are(oblique: Grid) -> None:
    """A ramp in the features is a ramp in voxels, without a shift by half a stride: splines
    reproduce linear functions.
    """
    head = BSplineHead((1,), ((4, 2, 1),))
    torch.nn.init.zeros_(head.control.bias)
    grid = Grid.regular((32, 16, 12))
    coarse = grid.at_stride((4, 2, 1), (8, 8, 12))
    ramp = coarse.to_world(
        coarse.points(dtype=torch.float64)
    ).float()  # voxel coordinates of the fine grid: its affine is the identity
    for axis in range(3):
        with torch.no_grad():
            head.control.weight.zero_()
            head.control.weight[axis] = 0.1
        transform = head([ramp[:, axis : axis + 1]], grid)[0]
        inside = transform.displacement()[0, axis, 8:-8, 4:-4, 2:-2]
        torch.testing.assert_close(
            inside, 0.1 * grid.points()[0, axis, 8:-8, 4:-4, 2:-2], atol=1e-4, rtol=0
        )


def test_a_spacing_picks_the_level_with_that_stride() -> None:
    assert BSplineHead(CHANNELS, STRIDES, [4, 2, 2]).level == 0
    assert BSplineHead(CHANNELS, STRIDES).level == 1
    with pytest.raises(ComponentError, match="features at strides of 4 x 2 x 2, 2 x 1 x 1 voxels"):
        build("heads", {"name": "bspline", "spacing": 4}, Head, channels=CHANNELS, strides=STRIDES)


def test_each_supervised_level_is_a_field_on_its_own_grid(oblique: Grid) -> None:
    """The same shift in mm, read at every level."""
    strides = ((4, 4, 4), (1, 1, 1))
    head = DenseHead((2, 2), strides, levels="all", kernel=1)
    maps = [torch.zeros(1, 2, 4, 3, 3), torch.zeros(1, 2, 16, 12, 12)]
    for field, stride in zip(head.fields, (4, 1), strict=True):
        bias(field, torch.tensor([8.0, -4.0, 2.0]) / stride)
    coarse, fine = head(maps, oblique)
    assert coarse.grid.shape == (4, 3, 3)
    assert fine.grid is oblique
    point = torch.from_numpy(oblique.center).float().unsqueeze(2)
    torch.testing.assert_close(coarse.map_world(point), fine.map_world(point), atol=1e-4, rtol=0)
    torch.testing.assert_close(coarse.displacement(oblique), fine.displacement(), atol=1e-4, rtol=0)


class Seen(torch.nn.Module):
    """Keeps its input, and returns maps of ones."""

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        self.maps = maps
        return torch.ones(maps.shape[0], 4, *maps.shape[2:])


def test_a_pyramid_composes_its_levels_and_shows_each_what_the_coarser_ones_leave() -> None:
    """Every level moves by a constant: in voxels of the level, whose stride is twice the next
    one's.
    """
    head = PyramidHead((6, 4), ((4, 4, 4), (2, 2, 2)), features=4, levels="all").eval()
    steps = torch.tensor([[1.0, 0.0, -0.5], [0.25, -1.0, 0.0]])
    for level, step in enumerate(steps):
        head.estimators[level] = Seen()
        torch.nn.init.zeros_(head.velocities[level].weight)
        bias(head.velocities[level], step)
    maps = [torch.rand(1, 6, 7, 6, 5), torch.rand(1, 4, 14, 12, 10)]
    coarse, fine = head(maps, Grid.regular((27, 24, 20)))
    assert [coarse.grid.shape, fine.grid.shape] == [(7, 6, 5), (14, 12, 10)]
    torch.testing.assert_close(coarse.field.mean((0, 2, 3, 4)), steps[0])
    torch.testing.assert_close(fine.field.mean((0, 2, 3, 4)), 2 * steps[0] + steps[1])
    fixed, moving = head.estimators[1].maps[:, :2], head.estimators[1].maps[:, 2:4]
    torch.testing.assert_close(fixed, maps[1][:, :2])
    torch.testing.assert_close(moving[:, :, :-2, :, 1:], maps[1][:, 2:, 2:, :, :-1])


def test_a_level_of_a_pyramid_enters_without_changing_the_transform() -> None:
    """Its velocity grows with its weight; what has no weight yet is not read."""
    torch.manual_seed(0)
    grid, maps = Grid.regular((8, 8, 8)), [torch.rand(1, 4, 4, 4, 4), torch.rand(1, 4, 8, 8, 8)]
    head = PyramidHead((4, 4), ((2, 2, 2), (1, 1, 1)), features=3, steps=2)
    for velocity in head.velocities:
        torch.nn.init.normal_(velocity.weight, std=0.3)

    def field(alpha: list[float], given: list[torch.Tensor | None]) -> torch.Tensor:
        head.grow(alpha)
        return head(given, grid)[-1].displacement(grid)

    with torch.no_grad():
        coarse, entering, half, whole = (
            field([1 - w, w], [maps[0], maps[1] if w else None]) for w in (0.0, 1e-4, 0.5, 1.0)
        )
    # of sampling at whole voxels instead of every other one
    assert float((entering - coarse).abs().max()) < 0.2
    apart = [float((other - entering).square().mean()) for other in (half, whole)]
    assert 0 < apart[0] < apart[1]


@pytest.mark.parametrize("correlation", [0, 1])
@pytest.mark.parametrize("antisymmetric", [False, True])
def test_an_antisymmetric_pyramid_leaves_equal_images_where_they_are(
    antisymmetric: bool, correlation: int
) -> None:
    torch.manual_seed(0)
    grid, strides = Grid.regular((16, 12, 8)), ((4, 4, 4), (2, 2, 2))
    head = PyramidHead(
        (6, 4), strides, features=4, antisymmetric=antisymmetric, correlation=correlation
    )
    for velocity in head.velocities:
        torch.nn.init.normal_(velocity.weight, std=0.3)
    one = [torch.rand(1, 3, 4, 3, 2), torch.rand(1, 2, 8, 6, 4)]
    equal, different = (
        [torch.cat([maps, there], dim=1) for maps, there in zip(one, other, strict=True)]
        for other in (one, [m.flip(2) for m in one])
    )
    with torch.no_grad():
        still, moved = (
            float(head(maps, grid)[-1].field.abs().max()) for maps in (equal, different)
        )
    assert moved > 0.1
    assert still == 0 if antisymmetric else still > 0.1


@pytest.mark.parametrize("correlation", [0, 1])
@pytest.mark.parametrize("level", [0, 1])
def test_exchanging_the_images_gives_the_opposite_velocity_at_an_antisymmetric_level(
    level: int, correlation: int
) -> None:
    """Only this level moves; without squarings, the field is the velocity."""
    settings = {"features": 4, "antisymmetric": True, "steps": 0, "levels": "all"}
    head = PyramidHead((6, 4), ((4, 4, 4), (2, 2, 2)), **settings, correlation=correlation)
    for number, velocity in enumerate(head.velocities):
        torch.nn.init.normal_(velocity.weight, std=0.1 * (number == level))
    pairs = [torch.rand(2, 3, 5, 4, 3), torch.rand(2, 2, 10, 8, 6)]
    orders = [[torch.cat(list(maps.split(1))[::step], dim=1) for maps in pairs] for step in (1, -1)]
    there, back = (head(maps, Grid.regular((20, 16, 12)))[level].field for maps in orders)
    assert there.abs().max() > 0.1
    torch.testing.assert_close(back, -there)


def test_an_affine_fit_finds_the_map_of_its_points_and_ignores_those_without_weight() -> None:
    generator = torch.Generator().manual_seed(2)
    points = 40 * torch.rand(2, 3, 9, generator=generator)
    linear = torch.tensor([[0.3, -0.2, 0.5], [0.1, 0.4, -0.3]])
    turned = rotation_matrix(linear) @ points + torch.tensor([[4.0, -7.0, 2.0]]).mT
    turned[:, :, 0] += 100
    weights = torch.tensor([0.0] + [0.125] * 8).expand(2, -1)
    matrix = fitted_affine(points, turned, weights, ridge=1e-3)
    torch.testing.assert_close(matrix[:, :3, :3], rotation_matrix(linear), atol=1e-4, rtol=0)
    fitted = matrix[:, :3, :3] @ points + matrix[:, :3, 3:]
    torch.testing.assert_close(fitted[:, :, 1:], turned[:, :, 1:], atol=1e-3, rtol=0)


def test_an_affine_fit_of_points_at_one_place_is_a_translation() -> None:
    here = torch.full((1, 3, 5), 3.0)
    matrix = fitted_affine(here, here + 2.0, torch.full((1, 5), 0.2), ridge=1.0)
    expected = torch.eye(4)
    expected[:3, 3] = 2.0
    torch.testing.assert_close(matrix[0], expected)


def keypoint_head(levels: str = "finest") -> PyramidHead:
    torch.manual_seed(0)
    more = {"antisymmetric": True, "keypoints": 6, "keypoint_level": 1, "levels": levels}
    head = PyramidHead((6, 4), ((4, 4, 4), (2, 2, 2)), features=4, **more)
    torch.nn.init.normal_(head.keypoints.weight, std=3)
    return head.eval()


def test_keypoints_leave_equal_images_where_they_are() -> None:
    head, grid = keypoint_head(), Grid.regular((16, 12, 8), (1.0, 1.5, 2.0), (5.0, -3.0, 8.0))
    one = [torch.rand(1, 3, 4, 3, 2), torch.rand(1, 2, 8, 6, 4)]
    with torch.no_grad():
        still = head([torch.cat([maps, maps], dim=1) for maps in one], grid)[-1]
        moved = head([torch.cat([maps, maps.flip(2)], dim=1) for maps in one], grid)[-1]
    assert float(still.displacement(grid).abs().max()) < 1e-4
    assert float(moved.displacement(grid).abs().max()) > 0.1


def test_keypoints_follow_a_shift_and_the_levels_see_what_is_left() -> None:
    """The maps of the moving image are those of the fixed one, 8 voxels of the image further on."""
    head, grid = keypoint_head("all"), Grid.regular((48, 48, 48), (1.0, 2.0, 0.5), (5.0, -3.0, 8.0))
    place = torch.stack(torch.meshgrid(*[torch.arange(24.0)] * 3, indexing="ij"))
    head.keypoints.weight.data.zero_()
    head.keypoints.weight.data[:, :, 1, 1, 1] = 4 * torch.rand(6, 2)

    def blobs(shift: float) -> torch.Tensor:
        centres = torch.tensor([[9.0 + shift, 12.0, 10.0], [12.0 + shift, 9.0, 13.0]]).view(
            2, 3, 1, 1, 1
        )
        return 5 * torch.exp(-(place - centres).square().sum(1) / 8)[None]

    fine = torch.cat([blobs(0), blobs(4)], dim=1)
    coarse = torch.nn.functional.avg_pool3d(
        torch.cat([fine[:, :2], fine[:, :1], fine[:, 2:], fine[:, 2:3]], 1), 2
    )
    with torch.no_grad():
        transform = head([coarse, fine], grid)[-1]
    affine, residual = transform.members
    middle = torch.tensor([[21.0, 21.0, 23.0]]).mT[None]
    moved = affine.map_voxels(middle) - middle
    torch.testing.assert_close(moved[0, :, 0], torch.tensor([8.0, 0.0, 0.0]), atol=0.3, rtol=0)
    inside = residual.field[..., 8:14, 8:14, 8:14]
    assert float(inside.abs().max()) < 0.05  # the velocities are small: nothing is left to move


def test_a_pyramid_refuses_keypoints_that_fit_no_affine_map() -> None:
    for wrong in ({"keypoints": 3}, {"keypoints": 8, "keypoint_level": 2}):
        with pytest.raises(ComponentError, match="give four or more"):
            PyramidHead((4, 4), STRIDES, **wrong)


def test_a_pyramid_refuses_maps_that_are_not_of_two_images() -> None:
    with pytest.raises(ComponentError, match="each has to be even, half for each image"):
        PyramidHead((4, 3), STRIDES)


def test_a_velocitys_inverse_is_its_negative(oblique: Grid) -> None:
    head = VelocityHead(CHANNELS, STRIDES)
    torch.nn.init.normal_(head.velocity.weight, std=0.02)
    flow = head([f.mean((2, 3, 4), keepdim=True).expand_as(f) for f in features(oblique)], oblique)[
        0
    ]  # smooth
    points = torch.from_numpy(oblique.center).float().unsqueeze(2).expand(2, -1, -1)
    there = flow.map_world(points).detach()
    assert float((there - points).norm(dim=1).min()) > 0.01
    torch.testing.assert_close(flow.inverse().map_world(there), points, atol=1e-4, rtol=0)


def test_integrated_gradients_never_fold_along_an_axis(oblique: Grid) -> None:
    """However wild the network's output: coordinates rise along their axis."""
    head = IntegratedGradientHead(CHANNELS, ((4, 4, 4), (1, 1, 1)), features=[4])
    torch.nn.init.normal_(head.gradients.weight, std=50.0)
    maps = [torch.rand(1, 4, 4, 3, 3), torch.rand(1, 3, 16, 12, 12)]
    found = head(maps, oblique)[0].displacement() + Grid((16, 12, 12), torch.eye(4)).points()
    for axis in range(3):
        rise = found[:, axis].diff(dim=1 + axis)
        assert float(rise.min()) > -1e-5
        assert float(rise.max()) > 1.5


def test_heads_read_the_levels_of_one_stride_as_one() -> None:
    """The excitation in the convolution's weights, and its parts summed, are what a product and a
    concatenation would be.
    """
    channels, strides = (4, 2, 3), ((2, 2, 2), (1, 1, 1), (1, 1, 1))
    head = IntegratedGradientHead(channels, strides, features=[4, 3], reduction=2).eval()
    grid = Grid.regular((8, 7, 6))
    features = [torch.rand(2, 4, 4, 4, 3), torch.rand(2, 2, 8, 7, 6), torch.rand(2, 3, 8, 7, 6)]
    together = torch.cat(features[1:], dim=1)
    excited = together * head.excite(together.mean((2, 3, 4))).view(2, 5, 1, 1, 1)
    gradient = 2 * torch.sigmoid(head.gradients(head.convolutions(excited)))
    torch.testing.assert_close(head(features, grid)[0].gradient, gradient)
    affine = AffineHead(channels[1:], strides[1:])
    torch.nn.init.normal_(affine.last.weight)
    alone = AffineHead((5,), strides[-1:])
    alone.load_state_dict(affine.state_dict())
    torch.testing.assert_close(
        affine(features[1:], grid)[0].matrix, alone([together], grid)[0].matrix
    )


@pytest.mark.parametrize("kind", ["velocity", "dense", "dense at its own resolution"])
def test_a_field_at_a_stride_lies_where_its_features_are(kind: str) -> None:
    """A ramp in the features is the same ramp in the image, also where the stride does not divide
    the extents (7 voxels).
    """
    slope, stride = 1e-3, (2, 2, 2)
    grid = Grid.regular((7, 7, 7), (2.0, 1.5, 3.0), (-20.0, 10.0, 4.0))
    centers = 2 * Grid.regular((4, 4, 4)).points() + 0.5
    if kind == "velocity":
        head, own = VelocityHead((3,), (stride,)), 2
        layer = head.velocity
    else:
        # voxels of the field's grid, or of the image's
        own = 2 if kind.endswith("resolution") else 1
        head = DenseHead((3,), (stride,), levels="all" if own == 2 else "finest")
        layer = head.fields[0]
    bias(layer, torch.zeros(3))
    with torch.no_grad():
        for axis in range(3):
            layer.weight[axis, axis, 1, 1, 1] = slope / own
    field = head([centers], grid)[-1].displacement(grid)
    inside = (..., slice(1, 6), slice(1, 6), slice(1, 6))
    torch.testing.assert_close(field[inside], slope * grid.points()[inside], atol=1e-5, rtol=0)


def test_integrated_gradients_at_a_stride_count_from_the_first_voxel() -> None:
    """Steps of 1.1 coarse voxels: ``0.1 (c + 1)`` coarse voxels at coarse voxel c, which lies at
    voxel 2 c + 1/2.
    """
    grid = Grid.regular((7, 7, 7), (2.0, 1.5, 3.0), (-20.0, 10.0, 4.0))
    head = IntegratedGradientHead((4, 3), ((4, 4, 4), (2, 2, 2)), features=[4])
    bias(head.gradients, torch.full((3,), math.log(1.1 / 0.9)))
    field = head([torch.rand(1, 4, 2, 2, 2), torch.rand(1, 3, 4, 4, 4)], grid)[0].displacement(grid)
    inside = (..., slice(1, 6), slice(1, 6), slice(1, 6))
    torch.testing.assert_close(
        field[inside], 0.1 * (grid.points()[inside] + 1.5), atol=1e-4, rtol=0
    )


@pytest.mark.parametrize("steps", [0, 1, 3])
def test_a_velocity_flows_in_as_many_squarings_as_asked_for(steps: int) -> None:
    """Away from the middle at half the distance per unit time, each of ``2^steps`` parts multiplies
    the distance alike.
    """
    grid = Grid.regular((9, 9, 9))
    head = VelocityHead((3,), ((1, 1, 1),), steps=steps)
    bias(head.velocity, torch.full((3,), -2.0))
    with torch.no_grad():
        for axis in range(3):
            head.velocity.weight[axis, axis, 1, 1, 1] = 0.5
    field = head([grid.points()], grid)[0].displacement(grid)
    middle = (..., slice(3, 6), slice(3, 6), slice(3, 6))
    factor = (1 + 0.5 / 2**steps) ** (2**steps)
    torch.testing.assert_close(
        field[middle], (factor - 1) * (grid.points()[middle] - 4), atol=1e-5, rtol=0
    )


def test_a_velocity_that_is_reduced_moves_as_far() -> None:
    """Constant features: the same motion in mm at half the resolution; the part behind the image's
    last voxel is there for pooling.
    """
    grid, maps = Grid.regular((7, 8, 6), (2.0, 1.0, 3.0)), torch.ones(1, 3, 8, 8, 8)
    heads = [VelocityHead((3,), ((1, 1, 1),), steps=2, reduce=reduce) for reduce in (1, 2)]
    for head in heads:
        bias(head.velocity, torch.tensor([0.5, -1.0, 2.0]))
    whole, half = (head([maps], grid)[0] for head in heads)
    assert half.grid.shape == (4, 4, 4)
    torch.testing.assert_close(half.displacement(grid), whole.displacement(grid))


@pytest.mark.parametrize("arguments", [{"reduce": 0}, {"steps": -1}, {"steps": 2.5}])
def test_a_velocity_that_cannot_be_reduced_or_squared_is_refused(arguments) -> None:
    with pytest.raises(
        ComponentError, match=f"^{next(iter(arguments))} is .*; give a whole number"
    ):
        VelocityHead((3,), ((1, 1, 1),), **arguments)


@pytest.mark.parametrize("kernel", [1, 3])
def test_equalized_outputs_of_unit_weights_and_features_have_unit_variance(kernel: int) -> None:
    grid = Grid.regular((16, 14, 12))
    maps = torch.randn(1, 96, *grid.shape)
    for equalized, expected in ((True, 1.0), (False, (96 * kernel**3) ** 0.5)):
        head = DenseHead((96,), ((1, 1, 1),), equalized=equalized, kernel=kernel)
        bias(head.fields[0], torch.zeros(3))
        torch.nn.init.normal_(head.fields[0].weight)
        field = head([maps], grid)[0].field[..., 1:-1, 1:-1, 1:-1]
        assert float(field.detach().std()) == pytest.approx(expected, rel=0.2)
