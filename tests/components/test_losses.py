"""Loss terms and their sum."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from lightning_reg import functional as LF
from lightning_reg.components.interfaces import Level, LossTerm, Prediction, Registration
from lightning_reg.configuration.building import build_composer, build_loss
from lightning_reg.configuration.composition import compose
from lightning_reg.configuration.describing import describe
from lightning_reg.functional import affine_matrix
from lightning_reg.registry import ComponentError, TrainingError, build, providers
from lightning_reg.spatial import (
    Affine,
    Composition,
    Displacement,
    Grid,
    Image,
    IntegratedGradient,
    Pair,
    Transform,
    Velocity,
)

TERMS = sorted(
    name
    for name, offered in providers("losses").items()
    if offered[0].distribution == "lightning-reg"
)
OF_PARTS = {"affine_identity", "gradient_identity"}  # those read parameters of a kind of transform
OF_NETWORKS = {"segmentation"}  # reads what a network predicts
SIMILARITIES = ["ssd", "ncc", "lncc", "ngf", "mi", "mind", "ssim"]
KNOWN = ["field_error", "mask_dice", "mask_ssd", "label_dice", "label_ssd", "landmarks"]


def term(name: str, **arguments) -> LossTerm:
    return build("losses", {"name": name, **arguments}, LossTerm)


@pytest.fixture
def known(pair: Pair, shifted) -> Pair:
    """The fixture's pair, with its truth and corresponding landmarks."""
    points = pair.fixed.grid.to_world(
        torch.tensor([[6.0, 9.0, 11.0], [5.0, 8.0, 9.0], [4.0, 6.0, 7.0]]).unsqueeze(0).double()
    )[0].T.float()
    there = points + torch.tensor([1.5 * 2.0, 0.0, 0.0])
    return replace(
        pair,
        truth=Displacement(shifted(1.5), pair.fixed.grid),
        fixed_landmarks=(points,),
        moving_landmarks=(there,),
    )


@pytest.mark.parametrize("name", sorted(set(TERMS) - OF_PARTS - OF_NETWORKS))
def test_every_term_is_finite_differentiable_and_per_batch_element(
    name: str, known: Pair, level
) -> None:
    field = (0.9 * torch.randn(2, 3, *known.fixed.grid.shape)).requires_grad_()
    two = Pair.collate([known, known])
    there = level(field, two)
    value = term(name)(replace(there, reverse=level(-field.detach(), two)), two)
    assert value.shape == (2,)
    assert torch.isfinite(value).all()
    value.sum().backward()
    assert field.grad is not None
    assert field.grad.abs().max() > 0


@pytest.mark.parametrize("name", SIMILARITIES + KNOWN)
def test_terms_of_alignment_prefer_the_aligned_pair(name: str, known: Pair, level, shifted) -> None:
    before, near, after = (float(term(name)(level(shifted(s)), known)) for s in (0.0, 1.1, 1.5))
    assert after < near < before


@pytest.mark.parametrize("name", KNOWN)
def test_terms_of_what_is_known_vanish_when_it_agrees(
    name: str, known: Pair, level, shifted
) -> None:
    assert float(term(name)(level(shifted(1.5)), known)) < 0.35 * float(
        term(name)(level(shifted(0.0)), known)
    )


@pytest.mark.parametrize("root", [False, True])
def test_the_field_error_is_in_voxels_of_an_image_of_128(root: bool, pair: Pair, level) -> None:
    """Of the grid's 20 x 16 x 12 voxels, an error of 0.5, 1 and -1.5 of them."""
    error = torch.tensor([0.5, 1.0, -1.5]).view(1, 3, 1, 1, 1)
    true = torch.randn(1, 3, *pair.fixed.grid.shape)
    known = replace(pair, truth=Displacement(true, pair.fixed.grid))
    square = (0.5 * 128 / 20) ** 2 + (128 / 16) ** 2 + (1.5 * 128 / 12) ** 2
    found = float(term("field_error", root=root)(level(true + error), known))
    assert found == pytest.approx(square**0.5 if root else square, rel=1e-4)


def test_the_landmark_term_is_the_distance_in_mm(known: Pair, level, shifted) -> None:
    assert float(term("landmarks")(level(shifted(0.0)), known)) == pytest.approx(3.0, abs=1e-4)
    assert float(term("landmarks")(level(shifted(1.0)), known)) == pytest.approx(1.0, abs=1e-4)


@pytest.mark.parametrize("name", ["diffusion", "bending", "curvature", "tv", "folding"])
def test_terms_of_regularity_are_zero_for_translations(
    name: str, pair: Pair, level, shifted
) -> None:
    assert float(term(name)(level(shifted(1.5)), pair)) == pytest.approx(0, abs=1e-8)


@pytest.mark.parametrize("name", ["diffusion", "bending", "curvature", "tv"])
def test_terms_of_regularity_leave_an_affine_part_alone(name: str, pair: Pair, level) -> None:
    grid = pair.fixed.grid
    matrix = affine_matrix(
        torch.tensor([[4.0, 1, 2, 0.2, 0, 0.1, 1.2, 0.9, 1, 0.1, 0, 0]]), grid.center
    )
    wavy = level(torch.randn(1, 3, *grid.shape))
    with_affine = Composition([wavy.transform, Affine(matrix, grid)])
    both = Level(pair.fixed, pair.moving, with_affine, with_affine)
    torch.testing.assert_close(term(name)(both, pair), term(name)(wavy, pair))
    alone = Affine(matrix, grid)
    assert float(term(name)(Level(pair.fixed, pair.moving, alone, alone), pair)) == 0


@pytest.mark.parametrize("name", ["diffusion", "bending", "curvature", "tv"])
def test_terms_of_regularity_look_at_what_the_level_added(
    name: str, pair: Pair, level, shifted
) -> None:
    """Not at what came before it, which the level before has paid for."""
    grid = pair.fixed.grid
    rough, still = (
        Displacement(torch.randn(1, 3, *grid.shape), grid),
        Displacement(shifted(0.5), grid),
    )
    assert float(
        term(name)(Level(pair.fixed, pair.moving, Composition([rough, still]), still), pair)
    ) == pytest.approx(0, abs=1e-8)
    added = Level(pair.fixed, pair.moving, Composition([still, rough]), rough)
    torch.testing.assert_close(
        term(name)(added, pair), term(name)(Level(pair.fixed, pair.moving, rough, rough), pair)
    )


def test_folding_counts_by_how_much_the_determinant_is_too_small(pair: Pair, level) -> None:
    mirrored = -2.5 * pair.fixed.grid.points()
    mirrored[:, 1:] = 0  # det J = 1 - 2.5
    assert float(term("folding")(level(mirrored), pair)) == pytest.approx(1.5, rel=1e-4)
    assert float(term("folding", margin=0.5)(level(mirrored), pair)) == pytest.approx(2.0, rel=1e-4)


def test_inverse_consistency_is_the_squared_length_of_the_round_trip(
    pair: Pair, level, shifted
) -> None:
    there, back = level(shifted(1.5)), level(shifted(-1.0))
    value = term("inverse_consistency")(replace(there, reverse=back), pair)
    assert float(value) == pytest.approx((0.5 * 2.0) ** 2, rel=1e-5)  # half a voxel of 2 mm


def test_inverse_consistency_goes_there_before_it_comes_back(pair: Pair) -> None:
    """There to twice the distance from the origin, back by ``s`` mm: the round trip moves x by
    ``x + s``, not by ``x + 2 s``.
    """
    there, back = torch.eye(4).unsqueeze(0), torch.eye(4).unsqueeze(0)
    there[0, :3, :3] *= 2
    shift = torch.tensor([1.0, 2.0, 3.0])
    back[0, :3, 3] = shift
    forward, backward = Affine(there, pair.fixed.grid), Affine(back, pair.moving.grid)
    found = Level(
        pair.fixed,
        pair.moving,
        forward,
        forward,
        Level(pair.moving, pair.fixed, backward, backward),
    )
    world = pair.fixed.grid.to_world(pair.fixed.grid.points(dtype=torch.float64))[0].flatten(1)
    expected = float((world + shift.view(3, 1)).square().sum(0).mean())
    assert float(term("inverse_consistency")(found, pair)) == pytest.approx(expected, rel=1e-4)


def test_a_velocity_and_its_inverse_are_consistent(pair: Pair) -> None:
    i, j, k = (
        p / n for p, n in zip(pair.fixed.grid.points()[0], pair.fixed.grid.shape, strict=True)
    )
    smooth = torch.stack(
        [torch.sin(3 * i + j), torch.cos(2 * j - k), torch.sin(2 * k + i)]
    ).unsqueeze(0)
    flow = Velocity(1.5 * smooth, pair.fixed.grid)
    there, back = (Level(pair.fixed, pair.moving, t, t) for t in (flow, flow.inverse()))
    moved = float(
        (flow.displacement() * torch.from_numpy(pair.fixed.grid.spacing).view(1, 3, 1, 1, 1))
        .square()
        .sum(1)
        .mean()
    )
    assert float(term("inverse_consistency")(replace(there, reverse=back), pair)) < 1e-3 * moved


def test_terms_of_a_kind_of_transform(pair: Pair, level, shifted) -> None:
    grid = pair.fixed.grid
    matrix = affine_matrix(torch.tensor([[2.0, -1, 0, 0, 0, 0, 1.25, 1, 1, 0, 0, 0]]), grid.center)
    steps = torch.ones(1, 3, *grid.shape)
    steps[0, 1, 3, 4, 5] = 0.5
    both = Composition([IntegratedGradient(steps, grid), Affine(matrix, grid)])
    found = Level(pair.fixed, pair.moving, both, both)
    moved = 3.0 / grid.size.item()  # mm, as a fraction of the image's size
    assert float(term("affine_identity")(found, pair)) == pytest.approx(
        (0.25 + moved) / 12, abs=1e-5
    )
    assert float(term("gradient_identity")(found, pair)) == pytest.approx(
        0.5 / steps.numel(), rel=1e-4
    )
    with pytest.raises(
        TrainingError,
        match="'affine_identity' needs one Affine part in the method's transform, which has 0",
    ):
        term("affine_identity")(level(shifted(0.0)), pair)


def _waved(shape: tuple[int, ...], size: float) -> Pair:
    """A pair of ``size`` mm along each axis whose images and truth have one shape, whatever the
    voxels and millimetres.
    """
    grid = Grid.regular(shape, [size / n for n in shape], [size / n / 2 for n in shape])
    i, j, k = (2 * torch.pi * p / size for p in grid.to_world(grid.points(dtype=torch.float64))[0])
    wave = torch.stack(
        [torch.sin(i) * torch.cos(j), torch.sin(j + k), torch.cos(k) * torch.sin(i)]
    ).unsqueeze(0)
    field = (0.03 * size * wave / torch.from_numpy(grid.spacing).view(1, 3, 1, 1, 1)).float()
    intensity = torch.sigmoid(4 * torch.sin(i + 0.5) * torch.cos(j) + 2 * torch.sin(2 * k)).float()[
        None, None
    ]
    return Pair(
        Image(intensity, grid), Image(intensity.flip(3), grid), truth=Displacement(field, grid)
    )


@pytest.mark.parametrize(
    "name", ["diffusion", "bending", "curvature", "tv", "ngf", "field_error", "gradient_identity"]
)
def test_a_weight_means_the_same_at_every_size(name: str) -> None:
    """One deformation on a finer grid, in a larger body, and at a coarser level of it costs the
    same.
    """
    values = []
    for shape, size in (
        ((32, 32, 32), 64.0),
        ((64, 64, 64), 64.0),
        ((32, 32, 32), 640.0),
        ((48, 40, 56), 200.0),
    ):
        pair = _waved(shape, size)
        found: Transform = Displacement(pair.truth.field * 1.5, pair.fixed.grid)
        if name == "gradient_identity":
            steps = torch.stack(
                [
                    1
                    + found.displacement()[:, a].diff(
                        dim=1 + a, append=found.displacement()[:, a].narrow(1 + a, 0, 1)
                    )
                    for a in range(3)
                ],
                1,
            )
            found = IntegratedGradient(steps, pair.fixed.grid)
        fine = Level(pair.fixed, pair.moving, found, found)
        values.append(float(term(name)(fine, pair)))
        if name != "gradient_identity":
            coarse = Level(
                pair.fixed.at_stride((2, 2, 2)), pair.moving.at_stride((2, 2, 2)), found, found
            )
            values.append(float(term(name)(coarse, pair)))
    assert max(values) < 1.25 * min(values), values


@pytest.mark.parametrize("mask", ["fixed", "moving", "intersection"])
def test_a_masked_term_ignores_what_lies_outside(mask: str, pair: Pair, level, shifted) -> None:
    outside = Image(pair.fixed.tensor + 5 * (1 - pair.fixed_mask.tensor.float()), pair.fixed.grid)
    seen = level(shifted(1.5), replace(pair, fixed=outside))
    # the warped moving mask is soft at its border
    assert float(term("ssd", mask=mask)(seen, pair)) < 0.1 * float(term("ssd")(seen, pair))


@pytest.mark.parametrize("mask", ["fixed", "moving", "intersection"])
def test_each_region_is_that_of_its_own_masks(mask: str, pair: Pair, level, shifted) -> None:
    """Slabs that cross: 4 of squared difference in the fixed one, 1 beside it."""
    fixed_mask, moving_mask = torch.zeros(
        2, 1, 1, *pair.fixed.grid.shape, dtype=torch.int16
    ).unbind(0)
    fixed_mask[:, :, 5:10], moving_mask[..., 3:5] = 1, 1
    grid = pair.fixed.grid
    difference = 1 + fixed_mask.float()
    masks = [Image(m, grid, discrete=True) for m in (fixed_mask, moving_mask)]
    pair = replace(
        pair,
        fixed=Image(difference, grid),
        moving=Image(0 * difference, grid),
        fixed_mask=masks[0],
        moving_mask=masks[1],
    )
    expected = {"fixed": 4.0, "moving": (5 * 4 + 15 * 1) / 20, "intersection": 4.0}[mask]
    assert float(term("ssd", mask=mask)(level(shifted(0.0), pair), pair)) == pytest.approx(
        expected, rel=1e-5
    )
    one = fixed_mask.bool() & moving_mask.bool()
    marked = replace(pair, fixed=Image(difference.where(~one, torch.tensor(7.0)), grid))
    inside = {
        "fixed": (2 * 49 + 10 * 4) / 12,
        "moving": (5 * 49 + 15 * 1) / 20,
        "intersection": 49.0,
    }[mask]
    assert float(term("ssd", mask=mask)(level(shifted(0.0), marked), marked)) == pytest.approx(
        inside, rel=1e-5
    )


def test_the_overlap_ends_with_the_moving_images_own_grid(pair: Pair, level, shifted) -> None:
    part = replace(pair, moving=pair.moving.cropped((4, 0, 0), (10, 16, 12)))
    spoilt = pair.fixed.tensor.clone()
    spoilt[:, :, :4] += 5
    spoilt[:, :, 14:] -= 5
    other = replace(part, fixed=Image(spoilt, pair.fixed.grid))
    values = [float(term("ssd", mask="overlap")(level(shifted(0.0), p), p)) for p in (part, other)]
    assert values[0] == pytest.approx(values[1], rel=1e-5)


def test_a_loss_cannot_be_lowered_by_leaving_the_field_of_view(pair: Pair, level, shifted) -> None:
    """A moving image without structure leaves nothing to move for, though the fixed image differs
    more on one side.
    """
    right = torch.zeros_like(pair.fixed.tensor)
    right[:, :, 12:] = 1
    pair = replace(
        pair, fixed=Image(right, pair.fixed.grid), moving=Image(0 * right, pair.fixed.grid)
    )
    field = shifted(3.4).requires_grad_()
    term("ssd", mask="overlap")(level(field, pair), pair).sum().backward()
    assert float(field.grad.abs().max()) == 0


@pytest.mark.parametrize("side", ["fixed", "moving"])
def test_edges_count_whatever_the_contrast_of_either_image(
    side: str, pair: Pair, level, shifted
) -> None:
    brighter = replace(getattr(pair, side), tensor=20 * getattr(pair, side).tensor)
    values = [
        float(term("ngf")(level(shifted(0.7), p), p))
        for p in (pair, replace(pair, **{side: brighter}))
    ]
    assert values[0] == pytest.approx(values[1], rel=1e-3)


@pytest.mark.parametrize(
    ("name", "arguments", "measure"),
    [
        ("lncc", {"window": 5}, lambda fixed, warped: 1 - LF.lncc(fixed, warped, 5)),
        ("ssim", {"window": 5}, lambda fixed, warped: 1 - LF.ssim(fixed, warped, 5)),
        ("mi", {"bins": 11}, lambda fixed, warped: -LF.mutual_information(fixed, warped, 11)),
        (
            "mind",
            {"radius": 2, "dilation": 1},
            lambda fixed, warped: LF.ssd(LF.mind_ssc(fixed, 2, 1), LF.mind_ssc(warped, 2, 1)),
        ),
    ],
)
def test_arguments_reach_the_measure(
    name: str, arguments: dict, measure: Callable, pair: Pair, level, shifted
) -> None:
    seen = level(shifted(0.7))
    torch.testing.assert_close(
        term(name, **arguments)(seen, pair), measure(seen.fixed.tensor, seen.warped.tensor)
    )


@pytest.mark.parametrize("name", SIMILARITIES)
def test_the_overlap_is_where_the_moving_image_has_voxels(
    name: str, pair: Pair, level, shifted
) -> None:
    """Values that the moving image would have beyond its border do not matter."""
    other = replace(pair, moving=replace(pair.moving, padding=-3.0))
    values = [float(term(name, mask="overlap")(level(shifted(6.0), p), p)) for p in (pair, other)]
    if name in ("ssd", "ncc"):  # the others look at neighbours, and at the range of the whole image
        assert values[0] == pytest.approx(values[1], rel=1e-5)
    assert values[0] != pytest.approx(float(term(name)(level(shifted(6.0)), pair)), rel=1e-3)


def test_the_bundle_is_the_weighted_sum_over_terms_and_levels(pair: Pair, level, shifted) -> None:
    bundle = build_loss(
        {"terms": {"ssd": {"weight": 2.0}, "ncc": None}, "level_weights": [0.3, 1.0]}
    )
    one = level(shifted(0.5))
    value = bundle(Registration((one, one)), pair)
    ssd, ncc = (1.3 * float(term(n)(one, pair)) for n in ("ssd", "ncc"))
    assert float(value.terms["ssd"]) == pytest.approx(ssd)
    assert float(value.total) == pytest.approx(2 * ssd + ncc)


def test_a_number_is_the_weight_of_a_term_and_a_loss_may_be_its_terms_alone() -> None:
    full = {"terms": {"lncc": {"weight": 1.0}, "diffusion": {"weight": 0.5}}}
    for short in ({"terms": {"lncc": 1.0, "diffusion": 0.5}}, {"lncc": 1, "diffusion": 0.5}):
        assert describe(build_loss(short)) == describe(build_loss(full))
    assert build_loss({"ssd": 2.0, "field_error": 0}).weights == {"ssd": 2.0}
    with pytest.raises(ComponentError, match="weight of the loss term 'ssd' is 'much'"):
        build_loss({"ssd": "much"})
    with pytest.raises(ComponentError, match="There is no loss named 'ncccc'"):
        build_loss({"ncccc": 1.0})


def test_level_weights_go_from_coarse_to_fine_and_a_call_can_give_others(
    pair: Pair, level, shifted
) -> None:
    bundle = build_loss({"terms": {"ssd": {"weight": 2.0}}, "level_weights": [0.25, 1.0]})
    coarse, fine = level(shifted(0.0)), level(shifted(1.2))
    found = Registration((coarse, fine))
    a, b = (float(term("ssd")(one, pair)) for one in (coarse, fine))
    assert a > 3 * b
    assert float(bundle(found, pair).total) == pytest.approx(2 * (0.25 * a + b))
    assert float(bundle(found, pair, [0.0, 3.0]).total) == pytest.approx(2 * 3 * b)


def test_a_bundle_restricted_to_what_is_there_keeps_weights_and_levels(
    pair: Pair, level, shifted
) -> None:
    bundle = build_loss(
        {
            "terms": {"ssd": {"weight": 2.0}, "field_error": {"weight": 9.0}},
            "level_weights": [0.25, 1.0],
        }
    )
    found = Registration((level(shifted(0.0)), level(shifted(1.2))))
    bundle.require(pair.has() | {"truth"})  # some pairs have it
    whole, left = bundle(found, pair), bundle.restricted(pair.has())(found, pair)
    assert set(left.terms) == {"ssd"}
    # a term without its data counts 0
    assert float(left.total) == pytest.approx(float(whole.total))
    with pytest.raises(TrainingError, match="Every term of the model's own loss"):
        build_loss({"terms": {"field_error": {}}}).restricted(pair.has())


def test_level_weights_of_another_number_are_refused(pair: Pair, level, shifted) -> None:
    with pytest.raises(TrainingError, match="3 values for 1 levels"):
        build_loss({"terms": {"ssd": None}, "level_weights": [1, 1, 1]})(
            Registration((level(shifted(0.0)),)), pair
        )


def test_data_without_what_a_term_needs_are_refused_by_name(pair: Pair) -> None:
    bundle = build_loss({"terms": {"ssd": None, "field_error": {"mask": "fixed"}}})
    with pytest.raises(
        TrainingError,
        match=(
            r"'field_error' needs truth, which the training pairs do not have \(they have fixed, "
        ),
    ):
        bundle.require(pair.has())
    bundle.require(pair.has() | {"truth"})


def test_an_empty_bundle_is_refused() -> None:
    with pytest.raises(ComponentError, match="no terms"):
        build_loss({"terms": {}})
    with pytest.raises(ComponentError, match="weight 0"):
        build_loss({"terms": {"ssd": {"weight": 0}}})


def test_a_term_of_weight_zero_is_left_out_with_its_needs() -> None:
    bundle = build_loss({"terms": {"ssd": None, "field_error": {"weight": 0}}})
    bundle.require(frozenset({"fixed", "moving"}))
    assert list(bundle.weights) == ["ssd"]


def test_segmentation_trains_predicted_labels_where_the_network_sees_the_images(
    pair: Pair, level, shifted
) -> None:
    """The moving labels have a grid of their own; the predictions of both images are on the fixed
    image's.
    """
    assert pair.moving_labels is not None
    assert pair.fixed_labels is not None
    grid = pair.fixed.grid
    pair = replace(
        pair, moving_labels=pair.moving_labels.cropped((2, 1, 0), [n - 3 for n in grid.shape])
    )
    there = level(shifted(0.0), pair)

    def logits(labels: Image) -> Image:
        hot = LF.one_hot(labels.resampled(grid).tensor, [0, 1])
        return Image(40 * hot - 20, grid)

    def value(fixed: Image, moving: Image) -> float:
        predicted = Prediction((1,), fixed, moving)
        return 2 * float(term("segmentation")(replace(there, predicted=predicted), pair))

    first, second = logits(pair.fixed_labels), logits(pair.moving_labels)
    even = Image(torch.zeros_like(first.tensor), grid)  # both probabilities are 0.5
    assert abs(value(first, second)) < 1e-3
    dices = [
        LF.soft_dice((x.tensor[:, 1:] > 0).float(), torch.full_like(x.tensor[:, 1:], 0.5))
        for x in (first, second)
    ]
    for fixed, moving, missed in ((even, second, dices[0]), (first, even, dices[1])):
        assert value(fixed, moving) == pytest.approx(math.log(2) + 1 - float(missed), rel=1e-3)


def test_segmentation_trains_what_the_backbone_predicts(pair: Pair) -> None:
    backbone = {
        "name": "dual_stream",
        "levels": 2,
        "features": 4,
        "labels": [1],
        "norm": "instance",
    }
    composer = build_composer(
        {"name": "single", "backbone": backbone, "head": {"name": "pyramid", "features": 4}}
    ).train()
    found = composer(pair.fixed, pair.moving).levels[-1]
    assert found.predicted is not None
    assert found.predicted.labels == (1,)
    term("segmentation")(found, pair).sum().backward()
    gradients = [p.grad for name, p in composer.named_parameters() if "classifiers.0.1" in name]
    assert all(g is not None and g.abs().max() > 0 for g in gradients)
    assert gradients


def test_segmentation_refuses_a_network_that_predicts_no_labels(pair: Pair, level, shifted) -> None:
    with pytest.raises(
        TrainingError,
        match="the network predicts no labels; give the backbone dual_stream the values",
    ):
        term("segmentation")(level(shifted(0.0)), pair)
    even = Image(torch.zeros(1, 2, *pair.fixed.grid.shape), pair.fixed.grid)
    other = replace(level(shifted(0.0)), predicted=Prediction((17,), even, even))
    with pytest.raises(
        TrainingError,
        match=r"predicts the labels \[17\], and .* has \[1\]; give the values in the label maps",
    ):
        term("segmentation")(other, pair)


@pytest.mark.parametrize("key", ["label_dice", "mine"])
def test_predicted_of_label_dice_becomes_the_term_segmentation(pair: Pair, key: str) -> None:
    """As in configurations and checkpoints of 0.2, where the value was the sum of both."""
    backbone = {"name": "dual_stream", "levels": 2, "features": 4, "labels": [1]}
    composer = build_composer({"name": "single", "backbone": backbone, "head": "pyramid"})
    former = {"weight": 6.0, "predicted": 0.5} | (
        {} if key == "label_dice" else {"name": "label_dice"}
    )
    bundle = build_loss({"terms": {"lncc": {"weight": 0.3}, key: former}})
    registration = composer(pair.fixed, pair.moving)
    found, value = registration.levels[-1], bundle(registration, pair)
    dice, lncc = (float(term(name)(found, pair)) for name in ("label_dice", "lncc"))
    segmentation = float(term("segmentation")(found, pair))
    expected = 0.3 * lncc + 6.0 * (dice + 0.5 * segmentation)
    assert float(value.total) == pytest.approx(expected, rel=1e-6)
    assert list(bundle.weights.values()) == [0.3, 6.0, 3.0]
    again = build_loss(describe(bundle))
    assert again.weights == bundle.weights
    assert "predicted" not in str(describe(bundle))


def test_predicted_of_label_dice_replaces_the_weight_of_segmentation() -> None:
    """A command line of before, ``label_dice.predicted=0``, on a configuration of today."""
    experiment = ["experiment=hippocampus_pyramid_labels", "data.root=."]
    given = compose([*experiment, "method.loss.terms.label_dice.predicted=0.25"])
    assert build_loss(given["method"]["loss"]).weights["segmentation"] == 1.5
    terms = {"label_dice": {"weight": 6.0, "predicted": 0}, "segmentation": {"weight": 3.0}}
    assert list(build_loss({"terms": terms}).weights) == ["label_dice"]
    terms["label_dice"]["predicted"] = 0.25
    assert build_loss({"terms": terms}).weights == {"label_dice": 6.0, "segmentation": 1.5}
    with pytest.raises(ComponentError, match=r"weight of the loss term 'segmentation' is -6.0"):
        build_loss({"terms": {"label_dice": {"weight": 6.0, "predicted": -1}}})


@pytest.mark.parametrize("stride", [2, 4])
@pytest.mark.parametrize("name", ["mask_ssd", "label_dice"])
def test_structures_at_a_coarse_level_are_not_shifted(name: str, stride: int) -> None:
    """Both sides are averaged like the images: equal structures agree best where nothing moves."""
    grid = Grid.regular((24, 20, 16))
    i, j, k = grid.points()[0]
    inside = ((i - 11.2) / 7) ** 2 + ((j - 9.1) / 6) ** 2 + ((k - 7.6) / 5) ** 2 < 1
    structure = Image(inside[None, None].short(), grid, discrete=True)
    pair = Pair(structure, structure, structure, structure, structure, structure)
    coarse = Image(structure.tensor.float(), grid).at_resolution(
        grid.at_stride((stride,) * 3, [n // stride for n in grid.shape])
    )
    values = {}
    for shift in (-0.5, 0.0, 0.5):
        field = torch.zeros(1, 3, *coarse.grid.shape)
        field[:, 0] = shift / stride
        found = Displacement(field, coarse.grid)
        values[shift] = float(term(name)(Level(coarse, coarse, found, found), pair))
    assert min(values, key=values.__getitem__) == 0.0
    assert values[-0.5] == pytest.approx(values[0.5], rel=0.5)


@pytest.mark.parametrize("name", ["mask_ssd", "label_ssd"])
def test_equal_structures_agree_at_every_resolution(name: str) -> None:
    """However fine they are: both are averaged over the level's voxels before they are compared."""
    grid = Grid.regular((16, 12, 8), (1.0, 1.5, 2.0), (3.0, -4.0, 5.0))
    structure = Image((torch.rand(1, 1, *grid.shape) > 0.5).short(), grid, discrete=True)
    pair = Pair(structure, structure, structure, structure, structure, structure)
    coarse = Image(structure.tensor.float(), grid).at_stride((4, 4, 4))
    still = Displacement(torch.zeros(1, 3, *coarse.grid.shape), coarse.grid)
    assert float(term(name)(Level(coarse, coarse, still, still), pair)) == pytest.approx(
        0, abs=1e-10
    )
