"""Tests of the halfway composer and GradICON: conformance kit, inverse consistency in voxels, and
training from their configurations.
"""

from __future__ import annotations

import functools

import pytest
import torch
from lightning_reg_symmetric.flows import TOLERANCE, Flow
from lightning_reg_symmetric.gradicon import GradICON
from lightning_reg_symmetric.halfway import HalfwayComposer

from lightning_reg import (
    ArgumentError,
    Composition,
    DenseHead,
    Displacement,
    Level,
    Network,
    SingleComposer,
    UNet,
    compose,
    train,
)
from lightning_reg.testing import parametrize_with_checks
from lightning_reg.testing.fixtures import disturbed, grid, pair, truth

SMALL = functools.partial(HalfwayComposer, levels=2, features=4)


@parametrize_with_checks(
    "composer", {"halfway": SMALL, "half": functools.partial(SMALL, output_stride=2)}
)
def test_composer(check) -> None:
    check()


@parametrize_with_checks("loss", {"gradicon": GradICON})
def test_loss(check) -> None:
    check()


def moving(steps: int = 5) -> HalfwayComposer:
    """An untrained composer with smooth displacements of some voxels, by perturbation of its last
    convolutions.
    """
    torch.manual_seed(3)
    composer = SMALL(steps=steps).eval()
    disturbed(composer, 0.05)
    return composer


def round_trip(composer, same_grid: bool = True) -> tuple[float, float]:
    """Largest error of a round trip (forward, then backward) in the interior, and the largest
    displacement, in voxels.
    """
    both = pair(everything=False, same_grid=same_grid)
    with torch.no_grad():
        there = composer(both.fixed, both.moving).transform
        back = composer(both.moving, both.fixed).transform
        inside = (..., slice(6, -6), slice(6, -6), slice(6, -6))
        error = Composition([back, there]).displacement(both.fixed.grid)[inside]
        return float(error.abs().max()), float(
            there.displacement(both.fixed.grid)[inside].abs().max()
        )


@pytest.mark.parametrize("same_grid", [True, False])
def test_exchanged_images_give_the_inverse(same_grid: bool) -> None:
    """To the solver's tolerance per flow, though the flows of an untrained network are rough."""
    error, size = round_trip(moving(), same_grid)
    assert size > 0.5
    # four flows, the coarsest on voxels twice as large, and propagation of errors
    assert error < 4 * 4 * TOLERANCE


def test_a_composer_that_is_not_symmetric_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    backbone = UNet(levels=2, features=4, norm="instance")
    composer = SingleComposer(
        Network(backbone, DenseHead(backbone.channels, backbone.strides))
    ).eval()
    disturbed(composer, 0.1)
    error, size = round_trip(composer)
    assert error > 0.3 * size


def test_the_inverse_of_the_transform_is_that_of_the_exchanged_images() -> None:
    both, composer = pair(everything=False), moving()
    with torch.no_grad():
        inverse = (
            composer(both.fixed, both.moving).transform.inverse().displacement(both.fixed.grid)
        )
        back = composer(both.moving, both.fixed).transform.displacement(both.fixed.grid)
    torch.testing.assert_close(inverse, back, atol=1e-4, rtol=0)


def test_flows_of_opposite_velocities_are_inverse_to_each_other_only_so_far() -> None:
    """The solver's purpose: a rough velocity."""
    on = grid()
    velocity = 0.5 * truth(on).field + 0.1 * torch.randn(1, 3, *on.shape)
    there = Flow(velocity, on)
    inside = (..., slice(6, -6), slice(6, -6), slice(6, -6))
    solved = Composition([there.inverse(), there]).displacement(on)[inside].abs().max()
    opposite = Composition([Flow(-velocity, on), there]).displacement(on)[inside].abs().max()
    assert float(solved) < 2 * TOLERANCE
    assert float(opposite) > 10 * TOLERANCE
    assert there.inverse().inverse() is there


def test_gradients_of_a_solved_point_are_near_those_of_the_inverse() -> None:
    """The derivative of a point of the inverse with respect to the velocity, against finite
    differences.
    """
    on = grid((12, 12, 12))
    field = (0.3 * truth(on).field).requires_grad_()
    points = torch.full((1, 3, 1), 5.3)
    Flow(field, on, 5).inverse().map_voxels(points)[0, 0].sum().backward()
    with torch.no_grad():
        step = torch.zeros_like(field)
        step[:, 0] = 1e-2
        moved = [
            Flow(field + sign * step, on, 5).inverse().map_voxels(points)[0, 0, 0]
            for sign in (1, -1)
        ]
    assert field.grad is not None
    assert float(field.grad[:, 0].sum()) == pytest.approx(
        float(moved[0] - moved[1]) / 2e-2, rel=0.2
    )


def test_gradicon_counts_how_far_the_round_trip_is_from_a_translation() -> None:
    both, on = pair(), grid()
    shift = torch.zeros(1, 3, *on.shape)
    shift[:, 0] = 1.5

    def value(there: torch.Tensor, back: torch.Tensor) -> float:
        transforms = [Displacement(field, on) for field in (there, back)]
        reverse = Level(both.moving, both.fixed, transforms[1], transforms[1])
        return float(
            GradICON()(Level(both.fixed, both.moving, transforms[0], transforms[0], reverse), both)
        )

    assert value(shift, shift) < 1e-8  # a translation is not penalised, however inconsistent
    field = truth(on).field
    inverse = Displacement(field, on).inverse().displacement(on)
    assert value(field, inverse) < 0.1 * value(field, 0 * field)
    stretch = 0.1 * on.points()[:, :1].float() * torch.tensor([1.0, 0, 0]).view(1, 3, 1, 1, 1)
    # the last voxel has no next neighbour
    assert value(stretch, 0 * shift) == pytest.approx(0.1**2, rel=0.15)


@pytest.mark.parametrize(
    "arguments", [{"levels": 0}, {"output_stride": 3}, {"features": 80, "most": 64}]
)
def test_what_makes_no_composer_is_refused(arguments: dict) -> None:
    with pytest.raises(ArgumentError, match="give"):
        HalfwayComposer(**arguments)


@pytest.mark.parametrize("method", ["halfway", "gradicon"])
def test_the_methods_train(method: str, tmp_path) -> None:
    tiny = [
        "data.dataset.shape=[16,16,16]",
        "data.dataset.crop=null",
        "data.dataset.subjects=1",
        "data.dataset.validation=1",
        "data.workers=0",
    ]
    steps = [
        "trainer.max_steps=2",
        "data.samples_per_epoch=2",
        "trainer.accelerator=cpu",
        "callbacks.progress_bar=null",
    ]
    outcome = train(compose([f"method={method}", "data=phantom", *tiny, *steps]), tmp_path / "run")
    assert outcome.totals()["tre_after_mm"] > 0
