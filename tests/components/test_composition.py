"""Networks and the single composer."""

from __future__ import annotations

import pytest
import torch
from making import single

from lightning_reg.components.composers import symmetrized
from lightning_reg.registry import ComponentError
from lightning_reg.spatial import Affine, Displacement, Grid, Image, Pair

BACKBONE = {"name": "progressive_unet", "levels": 2, "features": 2}


def test_images_on_different_grids_become_one_sampling(pair: Pair) -> None:
    other = Grid.regular((18, 14, 15), (2.2, 2.4, 2.6), (-29.0, 13.0, 5.0))
    moving = Image(torch.rand(1, 1, *other.shape), other)
    level = single(BACKBONE, {"name": "dense"})(pair.fixed, moving).levels[-1]
    assert level.transform.grid is pair.fixed.grid
    assert level.moving is moving  # the original, not one resampled before
    torch.testing.assert_close(
        level.warped.tensor, moving.warped(level.transform, pair.fixed.grid).tensor
    )


def test_several_heads_compose_in_order(pair: Pair) -> None:
    one = single(BACKBONE, "dense")
    two = single(BACKBONE, ["dense", "dense"])
    for head in two.network.heads:
        torch.nn.init.normal_(head.fields[0].weight, std=0.1)
    inner, both = (
        two.network(pair.fixed, pair.moving)[-1].members[-1],
        two(pair.fixed, pair.moving).transform,
    )
    assert len(one.network.heads) == 1
    outer = two.network.heads[1](
        two.network.backbone(pair.fixed.tensor, pair.moving.tensor), pair.fixed.grid
    )[0]
    point = torch.tensor([-10.0, 30.0, 20.0]).view(1, 3, 1)
    torch.testing.assert_close(
        both.map_world(point), outer.map_world(inner.map_world(point)), atol=1e-3, rtol=0
    )


def test_supervised_levels_and_other_heads_do_not_compose(pair: Pair) -> None:
    composer = single(
        {"name": "fcn", "features": 2}, [{"name": "affine"}, {"name": "dense", "levels": "all"}]
    )
    with pytest.raises(ComponentError, match="DenseHead gives a transform at each of 3 levels"):
        composer(pair.fixed, pair.moving)


def test_a_batch_of_different_spacings_is_its_elements(pair: Pair) -> None:
    """Also where coarse levels are supervised: pooling goes by the fixed grid's strides, whatever
    the moving voxel size.
    """
    composer = single({"name": "fcn", "features": 2}, {"name": "dense", "levels": "all"}).eval()
    other = Image(
        pair.moving.tensor.flip(2), Grid.regular((20, 16, 12), (1.0, 1.2, 1.5), (-20.0, 18.0, 10.0))
    )
    both = Pair.collate([pair, Pair(pair.fixed, other)])
    together = composer(both.fixed, both.moving).levels
    for b, moving in enumerate((pair.moving, other)):
        for level, alone in zip(together, composer(pair.fixed, moving).levels, strict=True):
            torch.testing.assert_close(
                level.warped.tensor[b : b + 1], alone.warped.tensor, atol=1e-5, rtol=0
            )


def test_supervised_levels_see_both_images_averaged_over_their_voxels(pair: Pair) -> None:
    composer = single({"name": "fcn", "features": 2}, {"name": "dense", "levels": "all"})
    fixed, moving = (
        Image(torch.rand(1, 1, *pair.fixed.grid.shape), pair.fixed.grid) for _ in range(2)
    )
    for level, stride in zip(composer(fixed, moving).levels, (4, 2, 1), strict=True):
        for seen, whole in ((level.fixed, fixed), (level.moving, moving)):
            torch.testing.assert_close(
                seen.tensor, torch.nn.functional.avg_pool3d(whole.tensor, stride)
            )


def test_xavier_weights_fill_their_interval() -> None:
    """Uniform within ``sqrt(6 / (fan in + fan out))``, and no bias (Glorot & Bengio, 2010)."""
    composer = single({"name": "lattice", "spacing": 2, "features": 24}, "bspline", init="xavier")
    layers = [m for m in composer.network.backbone.modules() if isinstance(m, torch.nn.Conv3d)]
    assert len(layers) > 2
    for layer in layers:
        limit = (6 / ((layer.in_channels + layer.out_channels) * layer.kernel_size[0] ** 3)) ** 0.5
        assert 0.95 * limit < float(layer.weight.detach().abs().max()) <= limit
        assert float(layer.weight.detach().std()) == pytest.approx(limit / 3**0.5, rel=0.1)
        assert not bool(layer.bias.any())


def test_a_bias_that_both_directions_share_is_removed(pair: Pair) -> None:
    composer = single(BACKBONE, "dense", symmetric=True)
    (head,) = composer.network.heads
    for layer in head.fields:
        torch.nn.init.zeros_(layer.weight)
        torch.nn.init.constant_(layer.bias, 1.5)
    trained = composer.train()(pair.fixed, pair.moving).transform.displacement()
    torch.testing.assert_close(trained, torch.full_like(trained, 1.5))
    used = composer.eval()(pair.fixed, pair.moving).transform.displacement()
    torch.testing.assert_close(used, torch.zeros_like(used), atol=1e-5, rtol=0)


def test_registering_symmetrically_keeps_what_changes_its_sign_with_the_direction(
    pair: Pair,
) -> None:
    """For small displacements: half of the one direction's less the other's."""
    composer = single(BACKBONE, "dense", symmetric=True).eval()
    torch.nn.init.normal_(composer.network.heads[0].fields[0].weight, std=0.02)
    # on one grid
    there, back = (
        composer.network(a, b)[-1].displacement()
        for a, b in ((pair.fixed, pair.moving), (pair.moving, pair.fixed))
    )
    expected = (there - back) / 2
    assert float(expected.abs().max()) > 0.2 * float(there.abs().max())
    found = composer(pair.fixed, pair.moving).transform.displacement()
    assert float((found - expected).abs().max()) < 0.1 * float(expected.abs().max())


def test_the_symmetrized_transform_lies_between_the_two_directions() -> None:
    fixed = Grid.regular((12, 9, 10), (2.0, 1.5, 3.0), (-20.0, 4.0, 7.0))
    moving = Grid.regular((10, 14, 8), (2.4, 1.2, 3.3), (-18.0, 2.0, 9.0))
    matrix = torch.eye(4).unsqueeze(0)
    matrix[0, :3] = torch.tensor(
        [[1.05, 0.04, 0.0, 1.0], [0.0, 0.97, -0.03, -2.0], [0.02, 0.0, 1.02, 0.7]]
    )
    forward = Affine(matrix, fixed)
    backward = Affine(torch.linalg.inv(matrix), moving)
    torch.testing.assert_close(
        symmetrized(forward, backward, fixed).field, forward.displacement(fixed), atol=1e-4, rtol=0
    )
    still = Displacement(torch.zeros(1, 3, *moving.shape), moving)
    torch.testing.assert_close(
        symmetrized(forward, still, fixed).field, forward.displacement(fixed) / 2, atol=1e-4, rtol=0
    )
