"""Instance optimisation: recovery of known transforms, termination, and results never worse than
the start.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from making import optimization_of

from lightning_reg import functional as LF
from lightning_reg.components.losses.similarity import LNCC
from lightning_reg.optimization.configuration import (
    build_optimization,
    known_instances,
    read_instance,
)
from lightning_reg.optimization.descent import FitStage, optimize
from lightning_reg.optimization.objective import Objective, with_margin
from lightning_reg.optimization.parameters import AFFINE_SCALE
from lightning_reg.registry import ComponentError, TrainingError
from lightning_reg.spatial import (
    Affine,
    BSpline,
    Composition,
    Displacement,
    Grid,
    Identity,
    Image,
    Pair,
    parts,
)

GRID = Grid.regular((26, 22, 24), (2.0, 2.5, 2.2), (-20.0, 5.0, 100.0))
PER_MM2 = GRID.size.item() ** -2
"""The weight of a bending energy of 1/mm^2 in these images."""


def blobs(points: torch.Tensor) -> torch.Tensor:
    """Smooth intensities in [0, 1] at world points."""
    generator = torch.Generator().manual_seed(0)
    total = torch.zeros_like(points[:, :1])
    for _ in range(16):
        center = (
            torch.from_numpy(GRID.center[0]) + 16 * (torch.rand(3, generator=generator) - 0.5) * 2
        )
        total = total + torch.exp(
            -((points - center.view(1, 3, 1, 1, 1).to(points)) ** 2).sum(1, keepdim=True) / 60
        )
    return total.clamp_max(1)


@pytest.fixture
def truth(smooth_field) -> Composition:
    matrix = LF.affine_matrix(
        torch.tensor([[2.0, -1.5, 1.0, 0.05, 0.03, -0.04, 1.03, 0.98, 1.0, 0, 0, 0]]),
        GRID.center[0],
    )
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
    optimization = optimization_of(
        {"ssd": {"weight": 20, "mask": mask}, "bending": {"weight": 0.1 * PER_MM2}},
        [AFFINE, *FREE[kind]],
    )
    found = optimize(pair, start(), optimization)
    assert error(start(), truth) > 2.5
    assert error(found.transform, truth) < 0.9
    assert found.after < 0.2 * found.before
    assert [name for name, _ in found.history] == [
        "affine",
        *[stage["transform"] for stage in FREE[kind]],
    ]
    kept = parts(found.transform)
    assert isinstance(kept[0], Affine)
    assert isinstance(kept[1], BSpline if kind == "bspline" else Displacement)


def test_it_goes_on_from_a_result_and_keeps_its_affine_part(pair, truth) -> None:
    affine = Affine(truth.members[0].matrix, GRID)
    begun = Composition([affine, Displacement(0.4 * truth.members[1].field, GRID)])
    found = optimize(
        pair,
        begun,
        optimization_of(
            {"ssd": {"weight": 20}, "bending": {"weight": 0.1 * PER_MM2}}, FREE["bspline"]
        ),
    )
    assert error(found.transform, truth) < 0.7 * error(begun, truth)
    torch.testing.assert_close(parts(found.transform)[0].matrix, affine.matrix.double())


def test_a_stage_at_the_finer_spacing_starts_where_the_coarser_one_ended(pair) -> None:
    found = optimize(
        pair,
        start(),
        optimization_of(
            {"ssd": {"weight": 20}, "bending": {"weight": 0.1 * PER_MM2}}, FREE["bspline"]
        ),
    )
    coarse, fine = (values for _, values in found.history)
    assert fine[0] == pytest.approx(min(coarse), rel=1e-4)


def moved_rigidly(contrast) -> tuple[Pair, Affine]:
    """Blobs, and the same ones turned and in another contrast; and the truth."""
    matrix = LF.affine_matrix(
        torch.tensor([[2.0, -1.5, 1.0, 0.08, 0.05, -0.06, 1.0, 1.0, 1.0, 0, 0, 0]]), GRID.center[0]
    )
    truth, world = Affine(matrix, GRID), GRID.to_world(GRID.points(dtype=torch.float64))
    fixed = Image(blobs(truth.map_world(world.float()).double()).float(), GRID)
    return Pair(fixed, Image(contrast(blobs(world).float()), GRID)), truth


def test_a_rigid_motion_is_found_and_nothing_else() -> None:
    pair, truth = moved_rigidly(lambda values: values)
    stage = {"transform": "rigid", "stride": 1, "steps": 60, "lr": 0.05}
    found = optimize(pair, start(), optimization_of({"ssd": {}}, [stage]))
    assert error(start(), truth) > 2
    assert error(found.transform, truth) < 0.2
    linear = parts(found.transform)[0].matrix[0, :3, :3]
    torch.testing.assert_close(
        linear @ linear.T, torch.eye(3, dtype=linear.dtype), atol=1e-6, rtol=0
    )


def test_a_quasi_newton_stage_is_nearer_to_the_minimum_than_as_many_steps_of_adam() -> None:
    pair, truth = moved_rigidly(lambda values: values)
    stage = {"transform": "rigid", "stride": 1, "steps": 20, "lr": 0.05}
    near = optimize(pair, start(), optimization_of({"ssd": {}}, [stage]))
    there = optimize(pair, start(), optimization_of({"ssd": {}}, [stage | {"optimizer": "lbfgs"}]))
    assert 2 < len(there.history[0][1]) <= 21
    assert there.after < 0.7 * near.after
    assert error(there.transform, truth) < 0.7 * error(near.transform, truth)


@pytest.mark.parametrize("name", ["rigid", "affine"])
def test_one_word_registers_linearly_across_contrasts(name: str) -> None:
    """Of the configurations as they are: the other image is a wave of the first one's intensities."""
    pair, truth = moved_rigidly(lambda values: (1 + (6 * values).sin()) / 2)
    found = optimize(pair, start(), build_optimization(read_instance(name)["optimization"]))
    assert [isinstance(part, Affine) for part in parts(found.transform)] == [True]
    assert error(found.transform, truth) < 0.15


def test_starts_that_agree_change_nothing(pair, truth) -> None:
    once = optimization_of({"ncc": {}}, [AFFINE])
    found, several = optimize(pair, start(), once), optimize(pair, start(), replace(once, starts=3))
    assert several.apart is None
    torch.testing.assert_close(parts(several.transform)[0].matrix, parts(found.transform)[0].matrix)


def test_where_starts_disagree_the_given_one_is_returned() -> None:
    """Of two noises, no alignment is right."""
    noise = [
        torch.rand(1, 1, *GRID.shape, generator=torch.Generator().manual_seed(seed))
        for seed in (0, 1)
    ]
    pair, begun = Pair(*(Image(values, GRID) for values in noise)), start()
    found = optimize(
        pair,
        begun,
        optimization_of({"ncc": {}}, [AFFINE | {"stride": 2}, *FREE["dense"]], starts=3),
    )
    assert found.transform is begun
    assert found.before == found.after
    assert found.apart > 0.02 * float(GRID.size[0])
    assert (
        optimize(pair, begun, optimization_of({"ncc": {}}, [AFFINE | {"stride": 2}])).transform
        is not begun
    )


def test_spacings_are_halved_for_fine_voxels(pair) -> None:
    stage = {"transform": "bspline", "spacing": 8, "steps": 1}
    coarse, fine = (
        parts(optimize(pair, start(), optimization_of({"ssd": {}}, [stage], fine=limit)).transform)[
            0
        ]
        for limit in (1.9, 2.0)
    )
    assert coarse.stride == pytest.approx([2 * s for s in fine.stride])


@pytest.mark.parametrize("optimizer", ["adam", "lbfgs"])
@pytest.mark.parametrize("rate", [0.05, 50.0, 1e6])
@pytest.mark.parametrize("kind", ["rigid", "affine", "bspline", "dense"])
def test_nothing_worse_is_ever_returned(kind, rate, optimizer, pair, truth) -> None:
    """Not even with absurd rates, and from a start that is nearly the best already."""
    stage = {
        "transform": kind,
        "stride": 1,
        "spacing": 4,
        "steps": 5,
        "lr": rate,
        "optimizer": optimizer,
    }
    loss = {"ssd": {"weight": 20}, "bending": {"weight": PER_MM2}}
    optimization = optimization_of(loss, [stage])
    found = optimize(pair, truth, optimization)
    assert found.after <= found.before
    again = optimize(pair, found.transform, optimization_of(loss, [stage | {"steps": 1}]))
    assert again.before == pytest.approx(found.after, rel=1e-3)


def test_a_result_worse_than_the_start_is_not_returned(pair, truth) -> None:
    """The first stage smooths the field away, and the last one, whose objective counts, has no time
    to bring it back.
    """
    stages = [
        {"transform": "dense", "spacing": 2, "steps": 30, "lr": 0.5, "loss": {"diffusion": {}}},
        {"transform": "affine", "steps": 1, "lr": 1e-4},
    ]
    found = optimize(pair, truth, optimization_of({"ssd": {}}, stages))
    assert min(found.history[-1][1]) > 1.5 * found.before
    assert found.after == found.before
    assert found.transform is truth


@pytest.mark.parametrize(
    ("kind", "rate", "steps"),
    [
        ("affine", 0.3, 1),
        ("affine", 0.1, 3),
        ("bspline", 2, 1),
        ("bspline", 0.5, 3),
        ("dense", 2, 1),
        ("dense", 0.5, 3),
    ],
)
@pytest.mark.parametrize("begun", [False, True])
def test_a_stage_ends_at_its_best_step(kind, rate, steps, begun, pair, truth) -> None:
    """At a rate at which the one step makes it worse, and at one that helps; the next stage, and
    what is returned, go on from there.
    """
    at = (
        Composition([truth.members[0], Displacement(0.3 * truth.members[1].field, GRID)])
        if begun
        else start()
    )
    first = {"transform": kind, "spacing": 4, "steps": steps, "lr": rate}
    found = optimize(
        pair,
        at,
        optimization_of({"ssd": {"weight": 20}}, [first, first | {"steps": 1, "lr": 1e-3}]),
    )
    (_, before), (_, after) = found.history
    assert before[0] == pytest.approx(found.before, rel=1e-3)
    assert (before[-1] > 1.2 * before[0]) if steps == 1 else (min(before) < 0.9 * before[0])
    assert after[0] == pytest.approx(min(before), rel=1e-3)
    assert found.after == pytest.approx(min(after), rel=1e-3)


def test_affine_steps_are_taken_inside_the_affine_part(pair) -> None:
    """``A o M``: the first step of Adam is as long as the rate in each of the twelve parameters of
    ``M``, about the grid's centre.
    """
    parameters = torch.tensor(
        [[4.0, -3.0, 2.0, 0.3, -0.2, 0.25, 1.2, 0.9, 1.1, 0.3, -0.2, 0.1]], dtype=torch.float64
    )
    matrix = LF.affine_matrix(parameters, GRID.center[0] + 15)
    found = optimize(
        pair,
        Affine(matrix, GRID),
        optimization_of({"ssd": {"weight": 20}}, [AFFINE | {"steps": 1, "lr": 0.02, "loss": None}]),
    )
    step = LF.affine_parameters(
        torch.linalg.inv(matrix) @ parts(found.transform)[0].matrix, GRID.center
    )
    step[:, 6:9] -= 1
    torch.testing.assert_close(
        step.abs(), 0.02 * torch.tensor([AFFINE_SCALE], dtype=torch.float64), rtol=1e-2, atol=1e-4
    )


@pytest.mark.parametrize("kind", ["bspline", "dense"])
def test_rates_and_spacings_are_in_finest_voxel_edges(kind, pair) -> None:
    """Of 2 mm, along every axis of anisotropic voxels: the first step of Adam is as long as the
    rate.
    """
    stage = {"transform": kind, "spacing": 4 if kind == "bspline" else 1, "steps": 1, "lr": 0.25}
    (found,) = parts(
        optimize(pair, start(), optimization_of({"ssd": {"weight": 20}}, [stage])).transform
    )
    values = found.control if kind == "bspline" else found.field
    mm = values.abs().amax((0, 2, 3, 4)) * torch.from_numpy(GRID.spacing[0])
    torch.testing.assert_close(mm, torch.full((3,), 0.25 * 2.0).double(), rtol=1e-2, atol=0)
    if kind == "bspline":
        np.testing.assert_allclose(found.stride * GRID.spacing[0], 4 * 2.0, rtol=1e-6)


def test_a_masks_margin_is_in_millimetres() -> None:
    """One voxel of 1 x 2 x 4 mm, 4 mm to either side; the moving mask has voxels of its own."""
    fixed, moving = (
        Grid.regular((15, 13, 11), (1.0, 2.0, 4.0)),
        Grid.regular((11, 15, 13), (4.0, 1.0, 2.0)),
    )
    masks = {}
    for side, grid, at in (("fixed", fixed, (7, 6, 5)), ("moving", moving, (5, 7, 6))):
        tensor = torch.zeros(1, 1, *grid.shape, dtype=torch.int16)
        tensor[(0, 0, *at)] = 3
        masks[f"{side}_mask"] = Image(tensor, grid, discrete=True)
    images = (Image(torch.rand(1, 1, *grid.shape), grid) for grid in (fixed, moving))
    wide = with_margin(Pair(*images, **masks), 4.0)
    for mask, at in ((wide.fixed_mask, (7, 6, 5)), (wide.moving_mask, (5, 7, 6))):
        reach = [round(4 / s) for s in mask.grid.spacing[0].tolist()]
        expected = torch.zeros_like(mask.tensor)
        expected[(0, 0, *(slice(a - r, a + r + 1) for a, r in zip(at, reach, strict=True)))] = 1
        assert torch.equal(mask.tensor, expected)


def test_both_images_are_pooled_to_the_same_voxel_size() -> None:
    """Some edges of the fixed image's finest voxel, fewer where the image is small."""
    fixed, moving = (
        Grid.regular((24, 30, 16), (1.0, 2.0, 3.0)),
        Grid.regular((15, 24, 30), (6.0, 1.0, 2.0), (1.0, -2.0, 5.0)),
    )
    pair = Pair(*(Image(torch.rand(1, 1, *grid.shape), grid) for grid in (fixed, moving)))
    loss = {"ssd": {}}

    def voxels(stride: float, small: float) -> list[list[float]]:
        stage = FitStage("affine", 1, stride=stride)
        pooled = Objective(
            pair, stage, optimization_of(loss, [{"transform": "affine", "steps": 1}], small=small)
        ).pair
        return [image.grid.spacing[0].tolist() for image in (pooled.fixed, pooled.moving)]

    assert voxels(6, small=1) == [[6, 6, 6], [6, 6, 6]]
    assert voxels(6, small=8 * 24 * 30 * 16) == [
        [3, 4, 3],
        [6, 3, 4],
    ]  # an eighth of the voxels: half the stride


def test_it_stops_when_it_no_longer_helps(pair) -> None:
    stage = {"transform": "bspline", "stride": 2, "spacing": 8, "steps": 500, "lr": 0.1}
    found = optimize(
        pair,
        start(),
        optimization_of({"ssd": {}, "bending": {"weight": 10 * PER_MM2}}, [stage], patience=10),
    )
    assert 10 < len(found.history[0][1]) < 250


def test_steps_are_shared_out_over_the_stages() -> None:
    optimization = optimization_of({"ssd": {}}, [AFFINE, *FREE["bspline"]])
    assert [s.steps for s in optimization.scaled()] == [60, 40, 30]
    for total in (0, 1, 7, 13, 260):
        assert sum(s.steps for s in optimization.scaled(total)) == total
    assert [s.steps for s in optimization.scaled(13)] == [6, 4, 3]


def test_mixed_precision_finds_the_same(pair, truth) -> None:
    optimization = optimization_of(
        {"lncc": {"window": 5}, "bending": {"weight": 0.5 * PER_MM2}}, [AFFINE, *FREE["bspline"]]
    )
    expected = optimize(pair, start(), optimization)
    with torch.autocast("cpu", torch.bfloat16):
        found = optimize(pair, start(), optimization)
    assert found.after == pytest.approx(expected.after, rel=0.01)
    assert error(found.transform, expected.transform) < 0.1


def test_masks_decide_where_it_counts(pair) -> None:
    """Voxels outside the mask have no say."""
    spoilt = replace(
        pair,
        fixed=Image(
            pair.fixed.tensor.where(pair.fixed_mask.tensor > 0, torch.rand(1, 1, *GRID.shape)), GRID
        ),
    )
    optimization = optimization_of(
        {"ssd": {"mask": "fixed"}, "bending": {"weight": PER_MM2}},
        [AFFINE | {"loss": {"ssd": {"mask": "fixed"}}}],
    )
    assert optimize(spoilt, start(), optimization).after == pytest.approx(
        optimize(pair, start(), optimization).after
    )


def test_auto_takes_what_there_is(pair) -> None:
    def region(pair: Pair) -> str:
        return LNCC(mask="auto").region_of(pair)

    assert region(pair) == region(replace(pair, moving_mask=pair.fixed_mask)) == "fixed"
    assert region(replace(pair, fixed_mask=None, moving_mask=pair.fixed_mask)) == "moving"
    assert region(replace(pair, fixed_mask=None)) == "overlap"


@pytest.mark.parametrize(
    ("loss", "stage", "message"),
    [
        ({"inverse_consistency": {}}, AFFINE | {"loss": None}, "fits one direction"),
        ({"ssd": {"mask": "moving"}}, AFFINE | {"loss": None}, "needs moving_mask"),
        ({"ssd": {}}, {"transform": "network", "steps": 1}, "needs a model"),
        ({"ssd": {}}, {"transform": "elastic", "steps": 1}, "no fit named 'elastic'"),
        (
            {"ssd": {}},
            AFFINE | {"optimizer": "newton"},
            "optimizer is .newton.; give adam or lbfgs",
        ),
        (
            {"ssd": {}},
            {"transform": "bspline", "step": 1},
            "does not take an argument 'step'; did you mean 'steps'",
        ),
        ({"sdd": {}}, AFFINE | {"loss": None}, "did you mean 'ssd'"),
    ],
)
def test_mistakes(loss, stage, message, pair) -> None:
    with pytest.raises((ComponentError, TrainingError), match=message):
        optimize(pair, start(), optimization_of(loss, [stage]))


def test_spacings_halve(pair) -> None:
    stages = [{"transform": "bspline", "spacing": spacing, "steps": 1} for spacing in (8, 3)]
    with pytest.raises(ComponentError, match="cannot go on with 3; halve it"):
        optimization_of({"ssd": {}}, stages)


@pytest.mark.parametrize("name", sorted(known_instances()))
def test_every_method_of_the_configuration_runs(name, pair) -> None:
    method = read_instance(name)
    if any(stage["transform"] == "network" for stage in method["optimization"]["stages"]):
        pytest.skip("needs a model; test_registering_leaves_the_model_as_it_was runs it")
    optimization = build_optimization(method["optimization"])
    assert optimize(pair, start(), optimization, steps=2 * len(optimization.stages)).after < 1e3
