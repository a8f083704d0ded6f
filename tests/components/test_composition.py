"""Networks, composers and the loss bundle."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from lightning_reg.components.composers.single import SingleComposer
from lightning_reg.components.interfaces import Level, LossTerm, Registration
from lightning_reg.components.losses.bundle import LossBundle
from lightning_reg.discovery import ComponentError, TrainingError, build, providers
from lightning_reg.spatial import Displacement, Grid, Image, Pair

BACKBONE = {"name": "progressive_unet", "levels": 2, "features": 2}
TERMS = sorted(name for name, offered in providers("losses").items() if offered[0].distribution == "lightning-reg")


def registration(pair: Pair, field: torch.Tensor | None = None) -> Registration:
    field = torch.zeros(1, 3, *pair.fixed.grid.shape) if field is None else field
    found = Displacement(field, pair.fixed.grid)
    return Registration((Level(pair.fixed, pair.moving, found, found),))


def shifted(pair: Pair, voxels: float) -> torch.Tensor:
    """The displacement that undoes the fixture's shift when ``voxels`` is 1.5."""
    field = torch.zeros(1, 3, *pair.fixed.grid.shape)
    field[:, 0] = voxels
    return field


def test_images_on_different_grids_become_one_sampling(pair: Pair) -> None:
    other = Grid.regular((18, 14, 15), (2.2, 2.4, 2.6), (-29.0, 13.0, 5.0))
    moving = Image(torch.rand(1, 1, *other.shape), other)
    level = SingleComposer(BACKBONE, {"name": "dense"})(pair.fixed, moving).levels[-1]
    assert level.transform.grid is pair.fixed.grid
    assert level.moving is moving  # the original, not one resampled before
    torch.testing.assert_close(level.warped.tensor, moving.warped(level.transform, pair.fixed.grid).tensor)


def test_several_heads_compose_in_order(pair: Pair) -> None:
    one = SingleComposer(BACKBONE, "dense")
    two = SingleComposer(BACKBONE, ["dense", "dense"])
    for head in two.network.heads:
        torch.nn.init.normal_(head.fields[0].weight, std=0.1)
    inner, both = two.network(pair.fixed, pair.moving)[-1].members[-1], two(pair.fixed, pair.moving).transform
    assert len(one.network.heads) == 1
    outer = two.network.heads[1](two.network.backbone(pair.fixed.tensor, pair.moving.tensor), pair.fixed.grid)[0]
    point = torch.tensor([-10.0, 30.0, 20.0]).view(1, 3, 1)
    torch.testing.assert_close(both.map_world(point), outer.map_world(inner.map_world(point)), atol=1e-3, rtol=0)


@pytest.mark.parametrize("name", TERMS)
def test_every_term_is_finite_differentiable_and_per_batch_element(name: str, pair: Pair) -> None:
    field = (0.3 * torch.randn(2, 3, *pair.fixed.grid.shape)).requires_grad_()
    two = Pair.collate([replace(pair, truth=Displacement(torch.zeros(1, 3, *pair.fixed.grid.shape), pair.fixed.grid))] * 2)
    value = build("losses", name, LossTerm)(registration(two, field).levels[0], two)
    assert value.shape == (2,)
    assert torch.isfinite(value).all()
    value.sum().backward()
    assert field.grad is not None
    assert field.grad.abs().max() > 0


@pytest.mark.parametrize("name", ["ssd", "ncc", "mask_dice", "label_dice", "field_error"])
def test_terms_of_alignment_prefer_the_aligned_pair(name: str, pair: Pair) -> None:
    pair = replace(pair, truth=Displacement(shifted(pair, 1.5), pair.fixed.grid))
    term = build("losses", name, LossTerm)
    before, after = (term(registration(pair, shifted(pair, s)).levels[0], pair) for s in (0.0, 1.5))
    assert float(after) < 0.2 * float(before)


@pytest.mark.parametrize("name", ["diffusion", "bending", "curvature", "tv"])
def test_terms_of_regularity_are_zero_for_translations(name: str, pair: Pair) -> None:
    level = registration(pair, shifted(pair, 1.5)).levels[0]
    assert float(build("losses", name, LossTerm)(level, pair)) == pytest.approx(0, abs=1e-8)


@pytest.mark.parametrize("mask", ["fixed", "moving", "intersection"])
def test_a_masked_term_ignores_what_lies_outside(mask: str, pair: Pair) -> None:
    term = build("losses", {"name": "ssd", "mask": mask}, LossTerm)
    outside = Image(pair.fixed.tensor + 5 * (1 - pair.fixed_mask.tensor.float()), pair.fixed.grid)
    aligned = shifted(pair, 1.5)
    everywhere = build("losses", "ssd", LossTerm)
    seen = registration(replace(pair, fixed=outside), aligned).levels[0]
    assert float(term(seen, pair)) < 0.1 * float(everywhere(seen, pair))  # the warped moving mask is soft at its border


def test_the_bundle_is_the_weighted_sum_over_terms_and_levels(pair: Pair) -> None:
    bundle = LossBundle({"ssd": {"weight": 2.0}, "ncc": None}, level_weights=[0.3, 1.0])
    one = registration(pair, shifted(pair, 0.5)).levels[0]
    value = bundle(Registration((one, one)), pair)
    ssd, ncc = (1.3 * float(build("losses", n, LossTerm)(one, pair)) for n in ("ssd", "ncc"))
    assert float(value.terms["ssd"]) == pytest.approx(ssd)
    assert float(value.total) == pytest.approx(2 * ssd + ncc)


def test_level_weights_of_another_number_are_refused(pair: Pair) -> None:
    with pytest.raises(TrainingError, match="3 values for 1 levels"):
        LossBundle({"ssd": None}, level_weights=[1, 1, 1])(registration(pair), pair)


def test_data_without_what_a_term_needs_are_refused_by_name(pair: Pair) -> None:
    bundle = LossBundle({"ssd": None, "field_error": {"mask": "fixed"}})
    with pytest.raises(TrainingError, match=r"'field_error' needs truth, which the training pairs do not have \(they have fixed, "):
        bundle.require(pair.has())
    bundle.require(pair.has() | {"truth"})


def test_an_empty_bundle_is_refused() -> None:
    with pytest.raises(ComponentError, match="no terms"):
        LossBundle({})
