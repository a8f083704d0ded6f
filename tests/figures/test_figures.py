"""The figures show what they are given."""

from __future__ import annotations

from dataclasses import replace
from itertools import accumulate

import numpy as np
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg

from lightning_reg import figures
from lightning_reg.metrics import evaluate
from lightning_reg.spatial import Displacement, Pair
from lightning_reg.training.schedules import growth


@pytest.fixture
def with_landmarks(pair: Pair) -> Pair:
    points = pair.fixed.grid.to_world(torch.tensor([[5.0, 9, 12], [4, 8, 11], [3, 6, 8]]).unsqueeze(0))[0].T
    return replace(pair, fixed_landmarks=(points,), moving_landmarks=(points + torch.tensor([3.0, 0.5, -1.0]),))


def test_growth_weights_are_drawn_as_logged() -> None:
    rows = [{"step": str(t)} | {f"alpha/{i}": str(a) for i, a in enumerate(growth(t, 3))} for t in range(0, 1500, 50)]
    figure = figures.growth_weights(rows)
    top, bottom = figure.axes
    assert len(top.lines) == len(bottom.lines) == 3
    for row, t in enumerate(range(0, 1500, 50)):
        assert [float(line.get_ydata()[row]) for line in bottom.lines] == pytest.approx(list(accumulate(growth(t, 3))))
    assert figures.growth_weights([{"step": "0", "train/loss": "1"}]) is None


def test_learning_curve_draws_terms_and_errors() -> None:
    rows = [{"step": str(t), "train/loss": str(1 / (t + 1)), "validation/tre_after_mm": "3" if t % 5 == 0 else ""} for t in range(20)]
    left, right = figures.learning_curve(rows).axes
    logged, averaged = left.lines
    assert len(logged.get_xdata()) == len(averaged.get_xdata()) == 20
    assert averaged.get_ydata()[10] == pytest.approx(sum(1 / (t + 1) for t in range(5, 16)) / 11)
    assert right.get_ylabel() == "TRE, mm"
    assert [len(line.get_xdata()) for line in right.lines] == [4]


def test_landmark_figures(with_landmarks: Pair) -> None:
    case = evaluate(with_landmarks, Displacement(torch.zeros(1, 3, *with_landmarks.fixed.grid.shape), with_landmarks.fixed.grid))
    assert float(case.tre_before.mean()) == pytest.approx((9 + 0.25 + 1) ** 0.5, rel=1e-5)
    assert len(figures.motion_correlation([case, case]).axes) == 3
    assert len(figures.tre_boxes([case, case]).axes[0].get_xticklabels()) == 2
    without = replace(case, tre_before=None, motion_true=None)
    assert figures.tre_boxes([without]) is None
    assert figures.motion_correlation([without]) is None


def test_panels_of_a_registration(pair: Pair) -> None:
    figure = figures.registration_panel(pair, Displacement(torch.randn(1, 3, *pair.fixed.grid.shape), pair.fixed.grid))
    FigureCanvasAgg(figure).draw()
    assert sum(bool(axes.images) for axes in figure.axes) >= 21


def test_a_panel_judges_only_where_something_was_taught(with_landmarks: Pair) -> None:
    pair = with_landmarks
    transform = Displacement(torch.zeros(1, 3, *pair.fixed.grid.shape), pair.fixed.grid)
    inside = pair.fixed_mask.tensor[0, 0] > 0
    whole, masked = (figures.registration_panel(pair, transform, masked) for masked in (False, True))
    for figure, judged in ((whole, torch.ones_like(inside)), (masked, inside)):
        rows = [axes for axes in figure.axes if axes.images]
        jacobians = [axes for axes in rows if axes.images[0].get_cmap().name == "PRGn"]
        assert len(jacobians) == 3
        for axes, normal in zip(jacobians, (2, 1, 0), strict=True):
            shown = torch.tensor(axes.images[0].get_array().filled(float("nan"))).isfinite()
            counts = [int(cut.sum()) for cut in judged.unbind(normal)]
            assert int(shown.sum()) in counts
            if figure is masked:
                assert 0 < int(shown.sum()) < shown.numel()
    differences = [axes.images[0] for axes in masked.axes if axes.images and axes.images[0].get_cmap().name == "RdBu_r"]
    opacities = [image.get_alpha() for image in differences if image.axes is not None and image.get_alpha() is not None]
    assert {round(float(value), 2) for opacity in opacities if np.ndim(opacity) for value in np.unique(opacity)} == {0.3, 1.0}
    assert "correlation inside the contour" in masked.get_suptitle()
    assert "correlation of the images" in whole.get_suptitle()
