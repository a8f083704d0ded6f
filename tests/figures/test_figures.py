"""Figures show the given data."""

from __future__ import annotations

from dataclasses import replace
from itertools import accumulate

import numpy as np
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb

from lightning_reg import figures
from lightning_reg.figures.panels import FIXED, MOVING
from lightning_reg.metrics import PairMetrics, evaluate
from lightning_reg.metrics.table import BY_KEY
from lightning_reg.spatial import Displacement, Grid, Image, Pair
from lightning_reg.training.schedules import growth


@pytest.fixture
def with_landmarks(pair: Pair) -> Pair:
    points = pair.fixed.grid.to_world(
        torch.tensor([[5.0, 9, 12], [4, 8, 11], [3, 6, 8]]).unsqueeze(0)
    )[0].T
    return replace(
        pair, fixed_landmarks=(points,), moving_landmarks=(points + torch.tensor([3.0, 0.5, -1.0]),)
    )


def test_growth_weights_are_drawn_as_logged() -> None:
    rows = [
        {"step": str(t)} | {f"alpha/{i}": str(a) for i, a in enumerate(growth(t, 3))}
        for t in range(0, 1500, 50)
    ]
    figure = figures.growth_weights(rows)
    top, bottom = figure.axes
    assert len(top.lines) == len(bottom.lines) == 3
    for row, t in enumerate(range(0, 1500, 50)):
        assert [float(line.get_ydata()[row]) for line in bottom.lines] == pytest.approx(
            list(accumulate(growth(t, 3)))
        )
    assert figures.growth_weights([{"step": "0", "train/loss": "1"}]) is None


def test_learning_curve_draws_terms_and_errors() -> None:
    rows = [
        {
            "step": str(t),
            "train/loss": str(1 / (t + 1)),
            "validation/tre_after_mm": "3" if t % 5 == 0 else "",
        }
        for t in range(20)
    ]
    left, right = figures.learning_curve(rows).axes
    assert left.get_yscale() == "linear"
    logged, averaged = left.lines
    assert len(logged.get_xdata()) == len(averaged.get_xdata()) == 20
    assert averaged.get_ydata()[10] == pytest.approx(sum(1 / (t + 1) for t in range(5, 16)) / 11)
    assert right.get_ylabel() == "TRE, mm"
    assert [len(line.get_xdata()) for line in right.lines] == [4]


def test_learning_curve_has_a_panel_of_its_own_for_the_terms() -> None:
    rows = [
        {
            "step": str(t),
            "train/loss": str(-1.0 + 1 / (t + 1)),
            "train/lncc": "0.5",
            "train/mine": "2",
        }
        for t in range(20)
    ]
    loss, terms, _ = figures.learning_curve(rows).axes
    assert len(loss.lines) == 2
    assert loss.get_yscale() == "linear"
    assert terms.get_yscale() == "log"
    assert [text.get_text() for text in terms.get_legend().get_texts()] == ["lncc", "mine"]


def test_landmark_figures(with_landmarks: Pair) -> None:
    case = evaluate(
        with_landmarks,
        Displacement(
            torch.zeros(1, 3, *with_landmarks.fixed.grid.shape), with_landmarks.fixed.grid
        ),
    )
    assert float(case.tre_before.mean()) == pytest.approx((9 + 0.25 + 1) ** 0.5, rel=1e-5)
    assert len(figures.motion_correlation([case, case]).axes) == 3
    assert len(figures.tre_boxes([case, case]).axes[0].get_xticklabels()) == 2
    without = replace(case, values={}, motion_true=None)
    assert figures.tre_boxes([without]) is None
    assert figures.motion_correlation([without]) is None


def test_panels_of_a_registration(pair: Pair) -> None:
    figure = figures.registration_panel(
        pair, Displacement(torch.randn(1, 3, *pair.fixed.grid.shape), pair.fixed.grid)
    )
    FigureCanvasAgg(figure).draw()
    assert sum(bool(axes.images) for axes in figure.axes) >= 21


def test_a_panel_judges_only_where_something_was_taught(with_landmarks: Pair) -> None:
    pair = with_landmarks
    transform = Displacement(torch.zeros(1, 3, *pair.fixed.grid.shape), pair.fixed.grid)
    inside = pair.fixed_mask.tensor[0, 0] > 0
    whole, masked = (
        figures.registration_panel(pair, transform, masked) for masked in (False, True)
    )
    for figure, judged in ((whole, torch.ones_like(inside)), (masked, inside)):
        rows = [axes for axes in figure.axes if axes.images]
        jacobians = [axes for axes in rows if axes.images[0].get_cmap().name == "PuOr_r"]
        assert len(jacobians) == 3
        for axes, normal in zip(jacobians, (2, 1, 0), strict=True):
            shown = torch.tensor(axes.images[0].get_array().filled(float("nan"))).isfinite()
            counts = [int(cut.sum()) for cut in judged.unbind(normal)]
            assert int(shown.sum()) in counts
            if figure is masked:
                assert 0 < int(shown.sum()) < shown.numel()
    differences = [
        axes.images[0]
        for axes in masked.axes
        if axes.images and axes.images[0].get_cmap().name == "RdBu_r"
    ]
    opacities = [
        image.get_alpha()
        for image in differences
        if image.axes is not None and image.get_alpha() is not None
    ]
    assert {
        round(float(value), 2)
        for opacity in opacities
        if np.ndim(opacity)
        for value in np.unique(opacity)
    } == {0.3, 1.0}
    assert "correlation inside the contour" in masked.get_suptitle()
    assert "correlation of the images" in whole.get_suptitle()


CASES = [
    PairMetrics(
        "first",
        {
            BY_KEY["tre"]: {
                "before": torch.tensor([8.0, 9.0, 12.0]),
                "after": torch.tensor([1.0, 2.0, 4.0]),
            }
        },
        torch.randn(3, 3),
        torch.randn(3, 3),
    ),
    PairMetrics(
        "second",
        {
            BY_KEY["tre"]: {
                "before": torch.tensor([5.0, 6.0, 6.5]),
                "after": torch.tensor([3.0, 3.5, 3.8]),
            }
        },
        torch.randn(3, 3),
        torch.randn(3, 3),
    ),
]


def test_boxes_of_landmark_errors_say_which_is_before() -> None:
    """The legend's colours, at their case's place, from the lower to the upper quartile."""
    (axes,) = figures.tre_boxes(CASES).axes
    named = {
        patch.get_label(): patch.get_facecolor()
        for patch in axes.patches
        if patch.get_label() in ("before", "after")
    }
    legend = axes.get_legend()
    assert {
        text.get_text(): patch.get_facecolor()
        for text, patch in zip(legend.texts, legend.get_patches(), strict=True)
    } == named
    for when in ("before", "after"):
        boxes = [
            patch.get_path().get_extents()
            for patch in axes.patches
            if patch.get_facecolor() == named[when]
        ]
        for place, (case, box) in enumerate(
            zip(CASES, sorted(boxes, key=lambda box: box.x0), strict=True)
        ):
            middle = (box.x0 + box.x1) / 2
            assert (
                place - 0.5 < middle < place if when == "before" else place < middle < place + 0.5
            )
            assert [box.y0, box.y1] == pytest.approx(
                np.percentile(getattr(case, f"tre_{when}").numpy(), [25, 75]).tolist()
            )
    assert [label.get_text() for label in axes.get_xticklabels()] == ["first", "second"]


def test_motion_is_drawn_predicted_over_true_along_each_axis() -> None:
    figure = figures.motion_correlation(CASES)
    true, predicted = (
        torch.cat([getattr(case, name) for case in CASES])
        for name in ("motion_true", "motion_predicted")
    )
    for axis, (axes, name) in enumerate(
        zip(figure.axes, ("right", "anterior", "superior"), strict=True)
    ):
        np.testing.assert_allclose(
            axes.collections[0].get_offsets(),
            torch.stack([true[:, axis], predicted[:, axis]], dim=1),
        )
        r = np.corrcoef(true[:, axis], predicted[:, axis])[0, 1]
        assert axes.get_title() == f"{name}  (r = {r:.2f})"
        assert axes.get_xlabel() == "true, mm"


def test_boxes_over_cases_have_the_values_that_their_labels_say() -> None:
    tre = {"tre_before_mm": 9.0, "tre_after_mm": 2.0, "tre_after_sd_mm": 7.0}
    rows = [
        {
            "case": n,
            **{key: value + n for key, value in tre.items()},
            "dice_before": 0.5,
            "dice_after": 0.75,
        }
        for n in range(4)
    ]
    rows = [row | {"folding": n, "sdlogj": 0.2} for n, row in enumerate(rows)]
    against = [row | {"tre_after_mm": 1.0 + n, "folding": 7} for n, row in enumerate(rows)]

    def drawn(figure) -> dict[str, dict[str, list[float]]]:
        """Values by panel and label."""
        panels = {}
        for axes in figure.axes:
            labels = [label.get_text() for label in axes.get_xticklabels()]
            dots = {
                int(line.get_xdata()[0]): list(line.get_ydata())
                for line in axes.lines
                if line.get_marker() == "."
            }
            panels[axes.get_title()] = {label: dots[place] for place, label in enumerate(labels, 1)}
        return panels

    one, two = (
        drawn(figures.metric_boxes({"model": rows})),
        drawn(figures.metric_boxes({"ours": rows, "theirs": against})),
    )
    assert list(one) == ["TRE, mm", "Dice", "folding", "SDlogJ"]
    assert one["TRE, mm"] == {"before": [9, 10, 11, 12], "after": [2, 3, 4, 5]}
    assert one["Dice"] == {"before": [0.5] * 4, "after": [0.75] * 4}
    assert two["TRE, mm"] == {
        "before": [9, 10, 11, 12],
        "ours": [2, 3, 4, 5],
        "theirs": [1, 2, 3, 4],
    }
    assert two["folding"] == {"ours": [0, 1, 2, 3], "theirs": [7] * 4}
    elsewhere = [row | {"tre_before_mm": 20.0 + n} for n, row in enumerate(rows)]
    three = drawn(figures.metric_boxes({"ours": rows, "theirs": against, "centred": elsewhere}))
    assert three["TRE, mm"]["before (ours, theirs)"] == [9, 10, 11, 12]
    assert three["TRE, mm"]["before (centred)"] == [20, 21, 22, 23]


def test_the_objective_is_drawn_stage_by_stage() -> None:
    history = [("affine", [3.0, 2.0, 1.5]), ("bspline", [1.0, 0.5])]
    axes = figures.objective_curves(history).axes
    assert [a.get_title() for a in axes] == ["1: affine", "2: bspline"]
    assert [list(a.lines[0].get_ydata()) for a in axes] == [[3.0, 2.0, 1.5], [1.0, 0.5]]


@pytest.fixture
def shifted() -> tuple[Pair, Displacement]:
    """Noise, the same noise two, three and four voxels further along the axes, and the field that
    leads there.
    """
    grid = Grid.regular((12, 16, 20), (1.0, 2.0, 3.0), (-30.0, 12.0, 7.0))
    wide = torch.rand(1, 1, 14, 19, 24, generator=torch.Generator().manual_seed(1))
    field = torch.tensor([2.0, 3.0, 4.0]).view(1, 3, 1, 1, 1).expand(1, 3, *grid.shape)
    fixed, moving = wide[:, :, 2:, 3:, 4:], wide[:, :, :12, :16, :20]
    return Pair(Image(fixed, grid), Image(moving, grid), name=("noise",)), Displacement(field, grid)


PLANES = ((2, 0, 1), (1, 0, 2), (0, 1, 2))
"""Across the plane; to the right of the picture; up."""


def test_a_panel_shows_the_slices_its_titles_say(shifted) -> None:
    """Through the middle of the image, the second axis up; differences are the shown image minus
    the fixed one.
    """
    pair, transform = shifted
    fixed, before = pair.fixed.tensor[0, 0], pair.moving.tensor[0, 0]
    after = pair.moving.warped(transform).tensor[0, 0]
    figure = figures.registration_panel(pair, transform)
    rows = np.array(figure.axes[:21]).reshape(3, 7)
    assert [axes.get_title() for axes in rows[0][:5]] == [
        "fixed",
        "moving",
        "warped",
        "difference before",
        "difference after",
    ]
    for row, (normal, across, up) in zip(rows, PLANES, strict=True):
        for axes, volume in zip(
            row, (fixed, before, after, before - fixed, after - fixed, after), strict=False
        ):
            expected = volume.select(normal, fixed.shape[normal] // 2).T
            np.testing.assert_allclose(axes.images[0].get_array(), expected, atol=1e-5)
            assert axes.images[0].origin == "lower"
            assert axes.xaxis_inverted() == (across == 0)  # the patient's right on the left
            assert axes.get_aspect() == pytest.approx(
                float(pair.fixed.grid.spacing[0, up] / pair.fixed.grid.spacing[0, across])
            )
    correlations = [
        np.corrcoef(fixed.flatten(), other.flatten())[0, 1] for other in (before, after)
    ]
    assert (
        figure.get_suptitle()
        == f"noise: correlation of the images {correlations[0]:.2f} before, {correlations[1]:.2f}"
        " after"
    )
    assert correlations[1] > correlations[0] + 0.2


@pytest.mark.parametrize("axis", range(3))
def test_lines_of_the_deformed_grid_lie_where_points_reach_whole_multiples(axis) -> None:
    """Of two moving voxels: a shift by half a voxel along one axis moves the lines back by half a
    voxel.
    """
    grid = Grid.regular((12, 16, 20), (1.0, 2.0, 3.0))
    field = torch.zeros(1, 3, *grid.shape)
    field[:, axis] = 0.5
    image = Image(torch.rand(1, 1, *grid.shape), grid)
    rows = np.array(
        figures.registration_panel(Pair(image, image), Displacement(field, grid)).axes[:21]
    ).reshape(3, 7)
    for row, (_, across, up) in zip(rows, PLANES, strict=True):
        vertical, horizontal = [
            np.concatenate([path.vertices for path in contours.get_paths()])[:, side]
            for side, contours in enumerate(row[5].collections)
        ]
        for place, along in ((vertical, across), (horizontal, up)):
            assert len(np.unique(place.round(4))) > 3
            np.testing.assert_allclose(
                (place + (0.5 if along == axis else 0.0)) % 2 % 1.9999, 0, atol=1e-3
            )


def test_the_jacobian_of_a_panel_is_that_of_the_transform_and_folds_are_marked(shifted) -> None:
    """A stretch by a half along the second axis, and a fold behind its voxel 10."""
    pair, _ = shifted
    j = torch.arange(16.0).view(1, 16, 1)
    field = torch.zeros(1, 3, *pair.fixed.grid.shape)
    field[:, 1] = torch.where(j <= 10, 0.5 * j, 5.0 - 3 * (j - 10))
    rows = np.array(
        figures.registration_panel(pair, Displacement(field, pair.fixed.grid)).axes[:21]
    ).reshape(3, 7)
    determinant, folded = (image.get_array() for image in rows[0][6].images)
    np.testing.assert_allclose(determinant[:10], 1.5, atol=1e-5)
    np.testing.assert_allclose(determinant[12:], -2.0, atol=1e-5)
    shown = np.isfinite(np.ma.filled(np.ma.masked_invalid(folded), np.nan))
    assert not shown[:10].any()
    assert shown[12:].all()


def test_a_panel_shows_labels_landmarks_and_a_scale(shifted) -> None:
    """Fixed labels blue on the fixed and the warped image, moving labels orange; landmarks from the
    fixed point to the error's end.
    """
    pair, transform = shifted
    grid = pair.fixed.grid
    labels = [torch.zeros_like(pair.fixed.tensor) for _ in range(2)]
    labels[0][:, :, 3:8, 4:12, 5:15] = 1
    labels[1][:, :, 4:9, 5:13, 6:16] = 1
    point = grid.to_world(torch.tensor([[6.0], [8.0], [10.0]]).double().unsqueeze(0))[0].T
    marked = replace(
        pair,
        fixed_labels=Image(labels[0], grid, discrete=True),
        moving_labels=Image(labels[1], grid, discrete=True),
        fixed_landmarks=(point,),
        moving_landmarks=(point + torch.tensor([2.0, 0.0, 0.0]),),
    )
    rows = np.array(figures.registration_panel(marked, transform).axes[:21]).reshape(3, 7)
    colours = [
        [tuple(c.get_edgecolor()[0][:3].round(2)) for c in axes.collections] for axes in rows[0][:3]
    ]
    blue, orange = (tuple(np.array(to_rgb(c)).round(2)) for c in (FIXED, MOVING))
    assert colours == [[blue], [orange], [blue, orange]]
    moved = next(line.get_xdata() for line in rows[0][1].lines if len(line.get_xdata()) == 2)
    np.testing.assert_allclose(moved, [6.0, 6.0 + 2.0 / float(grid.spacing[0, 0])], atol=1e-4)
    bar = rows[0][0].lines[-1].get_xdata()
    told = next(text.get_text() for text in rows[0][0].texts if text.get_text().endswith(" mm"))
    assert abs(bar[1] - bar[0]) * float(grid.spacing[0, 0]) == pytest.approx(
        float(told.removesuffix(" mm"))
    )


def test_a_panel_goes_through_the_fixed_mask(shifted) -> None:
    pair, transform = shifted
    mask = torch.zeros_like(pair.fixed.tensor)
    mask[:, :, 1:5, 10:15, 2:6] = 1
    figure = figures.registration_panel(
        replace(pair, fixed_mask=Image(mask, pair.fixed.grid, discrete=True)), transform
    )
    rows = np.array(figure.axes[:21]).reshape(3, 7)
    for row, (normal, _, _) in zip(rows, PLANES, strict=True):
        shown = row[0].images[0].get_array()
        slices = [
            k
            for k, cut in enumerate(pair.fixed.tensor[0, 0].unbind(normal))
            if np.allclose(shown, cut.T)
        ]
        assert len(slices) == 1
        assert mask[0, 0].select(normal, slices[0]).any()
