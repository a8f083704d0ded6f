"""Direction of registration: a network that aligns two centres of mass, on oblique grids, from both
starts.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from making import optimization_of
from torch import Tensor

import lightning_reg
from lightning_reg.components import Composer, Level, Registration
from lightning_reg.data.preprocessing import Preprocessing
from lightning_reg.inference.registrar import Registrar
from lightning_reg.inference.steps import Align, Optimize, Predict
from lightning_reg.spatial import Affine, BSpline, Composition, Displacement, Grid, Image, Transform

SPOT = {"fixed": (-211.0, 134.0, 408.0), "moving": (-207.0, 130.5, 413.0)}  # RAS mm


class Centres(Composer):
    """The translation from the fixed image's centre of mass to the moving one's, as a transform of
    some kind.
    """

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind

    def forward(self, fixed: Image, moving: Image) -> Registration:
        matrix = torch.eye(4, dtype=torch.float64)
        matrix[:3, 3] = center_of_mass(moving) - center_of_mass(fixed)
        whole = Affine(matrix.unsqueeze(0), fixed.grid)
        matrix = matrix.clone()
        matrix[:3, 3] /= 2
        half = Affine(matrix.unsqueeze(0), fixed.grid)
        shift = whole.displacement().float()
        kinds: dict[str, Transform] = {
            "affine": whole,
            "field": Displacement(shift, fixed.grid),
            "bspline": BSpline(shift[..., :6, :7, :8], fixed.grid, (3.0, 3.0, 3.0)),
            "affine and field": Composition([half, Displacement(shift / 2, fixed.grid)]),
        }
        return Registration((Level(fixed, moving, kinds[self.kind], kinds[self.kind]),))


def center_of_mass(image: Image) -> Tensor:
    weight = image.tensor.double()
    return (weight * image.grid.to_world(image.grid.points(dtype=torch.float64))).sum(
        (0, 2, 3, 4)
    ) / weight.sum()


def spot(grid: Grid, side: str, away: Tensor) -> tuple[Tensor, Tensor]:
    """An array with its affine: a Gaussian of 2.5 mm, and everything moved in the world."""
    points = grid.to_world(grid.points(dtype=torch.float64)) - torch.tensor(
        SPOT[side], dtype=torch.float64
    ).view(1, 3, 1, 1, 1)
    affine = torch.from_numpy(grid.affine[0]).clone()
    affine[:3, 3] += away
    return 300 * torch.exp(-points.square().sum(1)[0] / 12.5), affine


@pytest.mark.parametrize("kind", ["affine", "field", "bspline", "affine and field"])
@pytest.mark.parametrize("start", ["headers", "centers"])
def test_a_fixed_point_is_led_to_its_place_in_the_moving_image(
    kind, start, fixed_grid, moving_grid
) -> None:
    """From the centres of the grids on each other the two worlds may lie anywhere."""
    away = torch.tensor(
        [400.0, -900.0, 70.0] if start == "centers" else [0.0, 0.0, 0.0], dtype=torch.float64
    )
    registrar = Registrar(
        Preprocessing(canonical=False, percentiles=(0, 100)), [Align(start), Predict(Centres(kind))]
    )
    points = {side: torch.tensor([SPOT[side]], dtype=torch.float64) for side in SPOT}
    points["moving"] = points["moving"] + away
    nothing = torch.zeros_like(away)
    result = registrar.register(
        tuple(array.numpy() for array in spot(fixed_grid, "fixed", nothing)),
        tuple(array.numpy() for array in spot(moving_grid, "moving", away)),
        fixed_landmarks=points["fixed"].numpy(), moving_landmarks=points["moving"].numpy(),
    )  # fmt: skip
    assert float(result.case.tre_after) < 0.1
    torch.testing.assert_close(
        torch.from_numpy(result.map_points(points["fixed"])), points["moving"], atol=0.1, rtol=0
    )
    apart = points["moving"] - points["fixed"]
    if start == "centers":
        apart = apart - (torch.from_numpy(moving_grid.center - fixed_grid.center) + away)
    tre = result.metrics()["tre_mm"]
    assert (tre["before"], tre["after"]) == (
        pytest.approx(float(apart.norm()), rel=1e-4),
        pytest.approx(0, abs=0.1),
    )
    assert result.similarity["ncc"]["after"] > 0.98 > result.similarity["ncc"]["before"]


def test_the_metrics_of_a_result_name_before_and_after_for_every_label(
    fixed_grid, moving_grid
) -> None:
    """Labels that are there only in one image have no distance, and count 0 in their Dice."""
    registrar = Registrar(
        Preprocessing(canonical=False, percentiles=(0, 100)), [Predict(Centres("affine"))]
    )
    sides = {
        side: spot(grid, side, torch.zeros(3))
        for side, grid in (("fixed", fixed_grid), ("moving", moving_grid))
    }
    labels = {side: ((array > 150).short() * 2, affine) for side, (array, affine) in sides.items()}
    labels["fixed"][0][0, 0, 0] = 5
    both = {side: tuple(value.numpy() for value in pair) for side, pair in sides.items()}
    maps = {
        f"{side}_labels": tuple(value.numpy() for value in pair) for side, pair in labels.items()
    }
    metrics = registrar.register(both["fixed"], both["moving"], **maps).metrics()
    for name in ("dice", "hd95_mm", "assd_mm", "hd_mm"):
        assert set(metrics[name]["labels"]) == {"2", "5"}
    dice, distance = metrics["dice"], metrics["hd95_mm"]["labels"]["2"]
    assert dice["labels"]["2"]["before"] < 0.2 < 0.7 < dice["labels"]["2"]["after"]
    assert dice["labels"]["5"] == {"before": 0, "after": 0}
    assert dice["after"] == pytest.approx(dice["labels"]["2"]["after"] / 2)
    assert distance["before"] > 4 > 2.5 > distance["after"]
    assert metrics["hd95_mm"]["after"] == distance["after"]


def test_the_weights_of_a_network_are_fitted_from_what_it_finds(model, files) -> None:
    """The objective of a network's stage begins at the one of the network's own result, fixed and
    moving as they were.
    """
    loss = "optimization.loss={ssd: {weight: 100}}"
    registrar = lightning_reg.load(
        model(),
        refinement="network",
        overrides=[loss, "optimization.stages=[{transform: network, steps: 1}]"],
    )
    optimized = registrar.register(files["fixed"], files["moving"], refine=1).optimized
    assert optimized is not None
    assert optimized.history[0][1][0] == pytest.approx(optimized.before, rel=1e-3)
    other = registrar.register(files["moving"], files["fixed"], refine=1).optimized
    assert other is not None
    assert abs(other.before - optimized.before) > 0.01 * optimized.before


def test_refinement_goes_on_from_the_network(fixed_grid, moving_grid) -> None:
    """Its objective is small from the start; that of the images as they lie is not."""
    optimization = optimization_of(
        {"ncc": {"mask": "overlap"}}, [{"transform": "affine", "steps": 1, "lr": 1e-3}]
    )
    network = Centres("field")
    registrar = Registrar(
        Preprocessing(canonical=False, percentiles=(0, 100)),
        [Predict(network), Optimize(optimization, network)],
    )
    sides = [
        tuple(v.numpy() for v in spot(grid, side, torch.zeros(3)))
        for side, grid in (("fixed", fixed_grid), ("moving", moving_grid))
    ]
    refined = registrar.register(*sides, refine=1).optimized
    alone = replace(registrar, steps=[Optimize(optimization)]).register(*sides, refine=1).optimized
    assert refined is not None
    assert alone is not None
    assert refined.before < 0.1 * alone.before
