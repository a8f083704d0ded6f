"""Instance optimisation: it finds, it stops, it never returns anything worse."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from making import optimization_of

from lightning_reg import functional as LF
from lightning_reg.components.losses.similarity import LNCC
from lightning_reg.discovery import ComponentError, TrainingError
from lightning_reg.inference.optimization.configuration import build_optimization, known_instances, read_instance
from lightning_reg.inference.optimization.descent import optimize
from lightning_reg.spatial import Affine, BSpline, Composition, Displacement, Grid, Identity, Image, Pair, parts

GRID = Grid.regular((26, 22, 24), (2.0, 2.5, 2.2), (-20.0, 5.0, 100.0))
PER_MM2 = float(GRID.size) ** -2
"""The weight of a bending energy of 1/mm^2 in these images."""


def blobs(points: torch.Tensor) -> torch.Tensor:
    """Smooth intensities in [0, 1] at world points."""
    generator = torch.Generator().manual_seed(0)
    total = torch.zeros_like(points[:, :1])
    for _ in range(16):
        center = GRID.center[0] + 16 * (torch.rand(3, generator=generator) - 0.5) * 2
        total = total + torch.exp(-((points - center.view(1, 3, 1, 1, 1).to(points)) ** 2).sum(1, keepdim=True) / 60)
    return total.clamp_max(1)


@pytest.fixture
def truth(smooth_field) -> Composition:
    matrix = LF.affine_matrix(torch.tensor([[2.0, -1.5, 1.0, 0.05, 0.03, -0.04, 1.03, 0.98, 1.0, 0, 0, 0]]), GRID.center[0])
    return Composition([Affine(matrix, GRID), Displacement(smooth_field(GRID.shape, 1.5), GRID)])


@pytest.fixture
def pair(truth) -> Pair:
    world = GRID.to_world(GRID.points(dtype=torch.float64))
    moving = Image(blobs(world).float(), GRID)
    fixed = Image(blobs(truth.map_world(world.float()).double()).float(), GRID)
    return Pair(fixed, moving, Image((fixed.tensor > 0.2).to(torch.int16), GRID, discrete=True))


def error(found, truth) -> float:
    """Mean distance in mm inside."""
    inside = GRID.to_world(GRID.points()[..., 4:-4, 4:-4, 4:-4])
    return float((found.map_world(inside) - truth.map_world(inside)).norm(dim=1).mean())


def start() -> Identity:
    return Identity(GRID, torch.zeros(1))


AFFINE = {"transform": "affine", "stride": 1, "steps": 60, "lr": 0.05, "loss": {"ncc": {}}}
FREE = {
    "bspline": [
        {"transform": "bspline", "stride": 1, "spacing": 8, "steps": 40, "lr": 0.2},
        {"transform": "bspline", "stride": 1, "spacing": 4, "steps": 30, "lr": 0.1},
    ],
    "dense": [{"transform": "dense", "stride": 1, "spacing": 2, "steps": 60, "lr": 0.1}],
}


@pytest.mark.parametrize("kind", ["bspline", "dense"])
@pytest.mark.parametrize("mask", ["none", "auto"])
def test_a_deformation_is_found(kind, mask, pair, truth) -> None:
    optimization = optimization_of({"ssd": {"weight": 20, "mask": mask}, "bending": {"weight": 0.1 * PER_MM2}}, [AFFINE, *FREE[kind]])
    found = optimize(pair, start(), optimization)
    assert error(start(), truth) > 2.5
    assert error(found.transform, truth) < 0.9
    assert found.after < 0.2 * found.before
    assert [name for name, _ in found.history] == ["affine", *[stage["transform"] for stage in FREE[kind]]]
    kept = parts(found.transform)
    assert isinstance(kept[0], Affine)
    assert isinstance(kept[1], BSpline if kind == "bspline" else Displacement)


def test_it_goes_on_from_a_result_and_keeps_its_affine_part(pair, truth) -> None:
    affine = Affine(truth.members[0].matrix, GRID)
    begun = Composition([affine, Displacement(0.4 * truth.members[1].field, GRID)])
    found = optimize(pair, begun, optimization_of({"ssd": {"weight": 20}, "bending": {"weight": 0.1 * PER_MM2}}, FREE["bspline"]))
    assert error(found.transform, truth) < 0.7 * error(begun, truth)
    torch.testing.assert_close(parts(found.transform)[0].matrix, affine.matrix.double())


def test_a_stage_at_the_finer_spacing_starts_where_the_coarser_one_ended(pair) -> None:
    found = optimize(pair, start(), optimization_of({"ssd": {"weight": 20}, "bending": {"weight": 0.1 * PER_MM2}}, FREE["bspline"]))
    coarse, fine = (values for _, values in found.history)
    assert fine[0] == pytest.approx(min(coarse), rel=1e-4)


@pytest.mark.parametrize("lr", [0.05, 50.0, 1e6])
@pytest.mark.parametrize("kind", ["affine", "bspline", "dense"])
def test_nothing_worse_is_ever_returned(kind, rate, pair, truth) -> None:
    """Not even with absurd rates, and from a start that is nearly the best already."""
    stage = {"transform": kind, "stride": 1, "spacing": 4, "steps": 5, "lr": rate}
    loss = {"ssd": {"weight": 20}, "bending": {"weight": PER_MM2}}
    optimization = optimization_of(loss, [stage])
    found = optimize(pair, truth, optimization)
    assert found.after <= found.before
    again = optimize(pair, found.transform, optimization_of(loss, [stage | {"steps": 1}]))
    assert again.before == pytest.approx(found.after, rel=1e-3)


def test_it_stops_when_it_no_longer_helps(pair) -> None:
    stage = {"transform": "bspline", "stride": 2, "spacing": 8, "steps": 500, "lr": 0.1}
    found = optimize(pair, start(), optimization_of({"ssd": {}, "bending": {"weight": 10 * PER_MM2}}, [stage], patience=10))
    assert 10 < len(found.history[0][1]) < 250


def test_steps_are_shared_out_over_the_stages() -> None:
    optimization = optimization_of({"ssd": {}}, [AFFINE, *FREE["bspline"]])
    assert [s.steps for s in optimization.staged()] == [60, 40, 30]
    for total in (0, 1, 7, 13, 260):
        assert sum(s.steps for s in optimization.staged(total)) == total
    assert [s.steps for s in optimization.staged(13)] == [6, 4, 3]


def test_mixed_precision_finds_the_same(pair, truth) -> None:
    optimization = optimization_of({"lncc": {"window": 5}, "bending": {"weight": 0.5 * PER_MM2}}, [AFFINE, *FREE["bspline"]])
    expected = optimize(pair, start(), optimization)
    with torch.autocast("cpu", torch.bfloat16):
        found = optimize(pair, start(), optimization)
    assert found.after == pytest.approx(expected.after, rel=0.01)
    assert error(found.transform, expected.transform) < 0.1


def test_masks_decide_where_it_counts(pair) -> None:
    """What lies outside the mask has no say."""
    spoilt = replace(pair, fixed=Image(pair.fixed.tensor.where(pair.fixed_mask.tensor > 0, torch.rand(1, 1, *GRID.shape)), GRID))
    optimization = optimization_of(
        {"ssd": {"mask": "fixed"}, "bending": {"weight": PER_MM2}}, [AFFINE | {"loss": {"ssd": {"mask": "fixed"}}}]
    )
    assert optimize(spoilt, start(), optimization).after == pytest.approx(optimize(pair, start(), optimization).after)


def test_auto_takes_what_there_is(pair) -> None:
    def region(pair: Pair) -> str:
        return LNCC(mask="auto").region_of(pair)

    assert region(pair) == "fixed"
    assert region(replace(pair, fixed_mask=None, moving_mask=pair.fixed_mask)) == "moving"
    assert region(replace(pair, fixed_mask=None)) == "overlap"


@pytest.mark.parametrize(
    ("loss", "stage", "message"),
    [
        ({"inverse_consistency": {}}, AFFINE | {"loss": None}, "fits one direction"),
        ({"ssd": {"mask": "moving"}}, AFFINE | {"loss": None}, "needs moving_mask"),
        ({"ssd": {}}, {"transform": "network", "steps": 1}, "needs a model"),
        ({"ssd": {}}, {"transform": "rigid", "steps": 1}, "transform is 'rigid'; use one of affine, bspline, dense, network"),
        ({"ssd": {}}, {"transform": "bspline", "step": 1}, "does not take an argument 'step'; did you mean 'steps'"),
        ({"sdd": {}}, AFFINE | {"loss": None}, "did you mean 'ssd'"),
    ],
)
def test_mistakes(loss, stage, message, pair) -> None:
    with pytest.raises((ComponentError, TrainingError), match=message):
        optimize(pair, start(), optimization_of(loss, [stage]))


def test_spacings_halve(pair) -> None:
    stages = [{"transform": "bspline", "spacing": spacing, "steps": 1} for spacing in (8, 3)]
    with pytest.raises(ValueError, match="cannot go on with 3; halve it"):
        optimization_of({"ssd": {}}, stages)


@pytest.mark.parametrize("name", sorted(known_instances()))
def test_every_method_of_the_configuration_runs(name, pair) -> None:
    method = read_instance(name)
    if any(stage["transform"] == "network" for stage in method["optimization"]["stages"]):
        pytest.skip("needs a model; test_registering_leaves_the_model_as_it_was runs it")
    optimization = build_optimization(method["optimization"])
    assert optimize(pair, start(), optimization, steps=2 * len(optimization.stages)).after < 1e3
