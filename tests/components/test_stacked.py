"""Composers of several networks: order, images, freezing, patches, and inputs of later stages."""

from __future__ import annotations

import pytest
import torch
from making import multilevel, stacked

from lightning_reg.components.composers import StackedComposer
from lightning_reg.components.interfaces import Composer
from lightning_reg.configuration.building import build_composer
from lightning_reg.registry import ComponentError
from lightning_reg.spatial import Affine, BSpline, Composition, Grid, Image, Pair

AFFINE = {
    "backbone": {"name": "siamese", "levels": 2, "features": 3},
    "head": "affine",
    "stride": 2,
}
SPLINE = {"backbone": {"name": "lattice", "spacing": 4, "features": 3}, "head": "bspline"}
UNET = {"name": "unet", "levels": 2, "features": 2}


def wild(composer: Composer) -> Composer:
    """Outputs of some voxels, so that what follows has something to follow."""
    for name, parameter in composer.named_parameters():
        if any(part in name for part in ("last.", "control.", "fields.")):
            torch.nn.init.normal_(parameter, std=0.3)
    return composer


@pytest.fixture
def stack() -> StackedComposer:
    return wild(stacked([AFFINE, {**SPLINE, "stride": 2}, SPLINE]))


@pytest.fixture
def other(pair: Pair) -> Image:
    """A moving image on a grid of its own."""
    grid = Grid.regular((18, 22, 13), (2.2, 2.0, 2.6), (-31.0, 9.0, 6.0))
    return pair.moving.resampled(grid)


def test_the_result_is_the_composition_and_the_last_stage_acts_on_the_fixed_points_first(
    stack, pair: Pair, other: Image
) -> None:
    stack.eval()
    level = stack(pair.fixed, other).levels[-1]
    kinds = [type(part) for part in flat(level.transform)]
    assert kinds == [Affine, BSpline, BSpline]
    point = torch.from_numpy(pair.fixed.grid.center).float().unsqueeze(2)
    affine, coarse, fine = flat(level.transform)
    torch.testing.assert_close(
        level.transform.map_world(point),
        affine.map_world(coarse.map_world(fine.map_world(point))),
        atol=1e-3,
        rtol=0,
    )
    assert level.fixed is pair.fixed
    assert level.moving is other
    assert fine is level.increment


def flat(transform) -> list:
    return (
        [p for m in transform.members for p in flat(m)]
        if isinstance(transform, Composition)
        else [transform]
    )


def test_a_stage_sees_the_moving_image_as_the_stages_before_left_it(
    stack, pair: Pair, other: Image
) -> None:
    seen = []
    stack.networks[2].register_forward_pre_hook(lambda module, images: seen.extend(images))
    stack.eval()
    before = Composition(flat(stack(pair.fixed, other).transform)[:2])
    fixed, moving = seen
    assert fixed is pair.fixed
    torch.testing.assert_close(moving.tensor, other.warped(before, pair.fixed.grid).tensor)


def test_the_affine_stage_reads_images_of_their_own_sizes(stack, pair: Pair, other: Image) -> None:
    seen = []
    stack.networks[0].backbone.register_forward_pre_hook(lambda module, images: seen.extend(images))
    stack(pair.fixed, other)
    assert [tuple(x.shape[2:]) for x in seen] == [
        (12, 8, 8),
        (12, 12, 8),
    ]  # halved, then padded to multiples of four


def test_frozen_stages_run_without_gradients_and_later_ones_not_at_all(
    stack, pair: Pair, other: Image
) -> None:
    stack.train()
    stack.activate([1])
    calls = [0, 0, 0]
    for index, network in enumerate(stack.networks):
        network.register_forward_hook(
            lambda module, inputs, output, index=index: calls.__setitem__(index, calls[index] + 1)
        )
    registration = stack(pair.fixed, other)
    assert calls == [1, 1, 0]
    assert len(registration.levels) == 1
    level = registration.levels[0]
    assert level.fixed.grid.shape == (10, 8, 6)
    level.displacement.square().sum().backward()
    touched = [any(p.grad is not None for p in network.parameters()) for network in stack.networks]
    assert touched == [False, True, False]
    assert not flat(level.transform)[0].matrix.requires_grad


def test_a_frozen_stage_between_trained_ones_is_a_constant(pair: Pair, other: Image) -> None:
    """Its output does not follow its input: gradients of the stage before pass by it, not through
    it.
    """
    stack = wild(stacked([AFFINE, {**SPLINE, "stride": 2}, SPLINE])).train()
    stack.activate([0, 2])
    affine, frozen, last = flat(stack(pair.fixed, other).transform)
    assert [
        affine.matrix.requires_grad,
        frozen.control.requires_grad,
        last.control.requires_grad,
    ] == [True, False, True]


def test_a_level_sees_both_images_averaged_over_its_voxels(pair: Pair) -> None:
    fixed, moving = (
        Image(torch.rand(1, 1, *pair.fixed.grid.shape), pair.fixed.grid) for _ in range(2)
    )
    composer = multilevel(UNET, "dense", [4, 2, 1]).train()
    for level, stride in zip(composer(fixed, moving).levels, (4, 2, 1), strict=True):
        for seen, whole in ((level.fixed, fixed), (level.moving, moving)):
            torch.testing.assert_close(
                seen.tensor, torch.nn.functional.avg_pool3d(whole.tensor, stride)
            )
            torch.testing.assert_close(seen.grid.center, whole.grid.center)


def test_a_joint_stage_trains_and_supervises_all(stack, pair: Pair, other: Image) -> None:
    stack.train()
    stack.activate([0, 1, 2])
    registration = stack(pair.fixed, other)
    assert len(registration.levels) == 3
    registration.levels[-1].displacement.square().sum().backward()
    assert all(any(p.grad is not None for p in network.parameters()) for network in stack.networks)


def test_frozen_batch_normalisation_does_not_drift(pair: Pair) -> None:
    composer = multilevel(UNET, "dense", [2, 1])
    composer.activate([1])
    composer.train()
    buffers = {k: v.clone() for k, v in composer.networks[0].named_buffers()}
    moved = {k: v.clone() for k, v in composer.networks[1].named_buffers()}
    composer(pair.fixed, pair.moving)
    assert all(torch.equal(v, buffers[k]) for k, v in composer.networks[0].named_buffers())
    assert any(not torch.equal(v, moved[k]) for k, v in composer.networks[1].named_buffers())


def test_levels_lie_on_the_pyramids_grids(pair: Pair) -> None:
    composer = multilevel(UNET, "dense", [4, 2, 1]).train()
    shapes = [level.fixed.grid.shape for level in composer(pair.fixed, pair.moving).levels]
    assert shapes == [(5, 4, 3), (10, 8, 6), (20, 16, 12)]
    assert composer.eval()(pair.fixed, pair.moving).levels[-1].fixed is pair.fixed


def test_a_stage_trains_on_patches_and_applies_to_the_whole(pair: Pair, other: Image) -> None:
    composer = wild(stacked([AFFINE, {**SPLINE, "patch": [8, 10, 40]}])).train()
    composer.activate([1])
    patches = [composer(pair.fixed, other).levels[-1] for _ in range(8)]
    assert {level.fixed.grid.shape for level in patches} == {(8, 10, 12)}
    assert len({tuple(level.fixed.grid.center[0].tolist()) for level in patches}) > 3
    for level in patches:  # the voxels are those of the whole image at that place
        torch.testing.assert_close(
            level.fixed.tensor, pair.fixed.resampled(level.fixed.grid).tensor, atol=1e-5, rtol=0
        )
    assert composer.eval()(pair.fixed, other).levels[-1].fixed is pair.fixed


def test_patches_reach_both_ends_of_every_axis(pair: Pair) -> None:
    shape = [n - 1 for n in pair.fixed.grid.shape]
    composer = stacked([{**SPLINE, "patch": shape}]).train()
    starts = [
        composer(pair.fixed, pair.moving)
        .levels[0]
        .fixed.grid.to_world(torch.zeros(1, 3, 1).double())
        for _ in range(24)
    ]
    voxels = torch.cat([pair.fixed.grid.to_voxel(start)[0].T for start in starts]).round().int()
    assert voxels.amin(0).tolist() == [0, 0, 0]
    assert voxels.amax(0).tolist() == [1, 1, 1]


def test_a_network_inherits_the_weights_before_it(pair: Pair) -> None:
    composer = wild(multilevel(UNET, "dense", [2, 1]))
    composer.inherit(1)
    for a, b in zip(
        composer.networks[0].parameters(), composer.networks[1].parameters(), strict=True
    ):
        assert torch.equal(a, b)
        assert a.data_ptr() != b.data_ptr()
    with pytest.raises(ValueError, match="another architecture"):
        stacked([AFFINE, SPLINE]).inherit(1)


def test_a_loaded_composer_runs_as_many_stages_as_it_was_saved_with(
    stack, pair: Pair, other: Image
) -> None:
    stack.activate([1])
    state, fresh = stack.state_dict(), stacked([AFFINE, {**SPLINE, "stride": 2}, SPLINE])
    fresh.load_state_dict(state)
    assert fresh.active == 2
    torch.testing.assert_close(
        fresh.eval()(pair.fixed, other).transform.displacement(pair.fixed.grid),
        stack.eval()(pair.fixed, other).transform.displacement(pair.fixed.grid),
    )


def test_the_fine_grid_refines_what_a_coarse_network_found_by_composing_functions(
    pair: Pair,
) -> None:
    """Not by adding displacements: where the coarse field varies, the two differ."""
    composer = wild(multilevel(UNET, "dense", [2, 1]))
    with torch.no_grad():
        composer.networks[0].heads[0].fields[0].weight.mul_(8)
    transform = composer.eval()(pair.fixed, pair.moving).transform
    coarse, fine = transform.members
    added = coarse.displacement(pair.fixed.grid) + fine.displacement(pair.fixed.grid)
    assert float((transform.displacement(pair.fixed.grid) - added).abs().max()) > 0.05


def test_a_stage_with_an_unknown_key() -> None:
    with pytest.raises(
        ComponentError,
        match=r"'composer\.stages\[1\]' does not take an argument 'strid'; did you mean 'stride'",
    ):
        build_composer({"name": "stacked", "stages": [AFFINE, {**SPLINE, "strid": 2}]})
