"""The schedules of method 1 against the values in the paper's text and Figures 2 and 3."""

from __future__ import annotations

from itertools import accumulate

import pytest
import yaml

from lightning_reg.configuration.folders import own_directory
from lightning_reg.training.schedules import cooldown, growth, inverse_time


@pytest.mark.parametrize(
    ("step", "alpha"),
    [
        (0, [1, 0, 0, 0, 0]), (100, [1, 0, 0, 0, 0]), (150, [0.75, 0.25, 0, 0, 0]),
        (300, [0, 1, 0, 0, 0]), (700, [0, 0, 1, 0, 0]),
        (1100, [0, 0, 0, 1, 0]), (1400, [0, 0, 0, 0.5, 0.5]), (1500, [0, 0, 0, 0, 1]),
        (100_000, [0, 0, 0, 0, 1]),
    ],
)  # fmt: skip
def test_growth_is_that_of_figure_2(step: int, alpha: list[float]) -> None:
    assert growth(step, 5) == pytest.approx(alpha)


@pytest.mark.parametrize(
    ("levels", "arguments"),
    [(5, {}), (3, {"start": -30, "ramp": 20, "duration": 60}), (1, {}), (4, {"ramp": 300})],
)
def test_weights_sum_to_one_at_every_iteration_and_at_most_two_levels_share_them(
    levels: int, arguments: dict
) -> None:
    for step in range(0, 2000, 7):
        alpha = growth(step, levels, **arguments)
        assert sum(alpha) == pytest.approx(1)
        assert min(alpha) >= 0
        assert sum(a > 0 for a in alpha) <= 2


def test_growth_is_a_trapezoid_of_the_papers_corners() -> None:
    tau, delta, duration = -300 + 400 * 2, 200, 600
    corners = {tau: 0.0, tau + delta: 1.0, tau + duration - delta: 1.0, tau + duration: 0.0}
    assert {t: growth(t, 5)[2] for t in corners} == pytest.approx(corners)


def test_inputs_are_the_cumulated_outputs() -> None:
    assert list(accumulate(growth(150, 5))) == pytest.approx([0.75, 1, 1, 1, 1])
    assert list(accumulate(growth(5000, 5))) == pytest.approx([0, 0, 0, 0, 1])


def test_a_schedule_that_overlaps_itself_is_refused() -> None:
    with pytest.raises(ValueError, match="at least twice ramp"):
        growth(0, 5, ramp=400, duration=600)


def test_inverse_time() -> None:
    assert [inverse_time(t, 1e-4) for t in (0, 10_000)] == pytest.approx([1.0, 0.5])


def test_the_cooldown_falls_linearly_to_zero_over_the_last_part() -> None:
    assert [cooldown(t, 80, 0.25) for t in (0, 59, 60, 65, 70, 79, 80, 90)] == pytest.approx(
        [1, 1, 1, 0.75, 0.5, 0.05, 0, 0]
    )
    assert {cooldown(t, 80, 0.0) for t in (0, 40, 80)} == {1.0}


def configured() -> dict[str, dict[str, float]]:
    """The schedule of growth in every configuration that has one."""
    found = {}
    for path in sorted(own_directory().rglob("*.yaml")):
        values = yaml.safe_load(path.read_text()) or {}
        callbacks = (values.get("method") or values).get("callbacks") or {}
        if isinstance(callbacks, dict) and callbacks.get("alpha_growth"):
            found[f"{path.parent.name}/{path.stem}"] = callbacks["alpha_growth"]
    return found


def test_every_growing_network_begins_with_its_coarsest_level_alone() -> None:
    schedules = configured()
    assert {"method/progressive", "method_data/progressive_small"} < set(schedules)
    for name, schedule in schedules.items():
        numbers = {key: value for key, value in schedule.items() if key != "time_scale"}
        assert growth(0, 4, **numbers) == [1, 0, 0, 0], name


def test_the_short_form_of_the_paper_gives_every_level_the_papers_share() -> None:
    """Start, ramp and duration are the paper's, times one factor."""
    short = configured()["method_data/progressive_small"]
    factor = short["duration"] / 600
    assert factor < 1
    assert short == {"start": -300 * factor, "ramp": 200 * factor, "duration": 600 * factor}
