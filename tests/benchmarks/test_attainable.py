"""Every method's loss favours the true transform, on its data configurations and on small and large
images.
"""

from __future__ import annotations

import functools
import json
import sys
from pathlib import Path

import pytest
import torch

from lightning_reg.configuration.folders import own_directory
from lightning_reg.metrics import evaluate

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import attainable

METHODS = sorted(path.stem for path in (own_directory() / "method").glob("*.yaml"))
DATA = sorted(path.stem for path in (own_directory() / "data").glob("*.yaml"))
PRICE = 0.8
"""Upper bound of the regularity of the truth, over what its similarity gains."""


ADAPTED = [path.stem for path in (own_directory() / "experiment" / "small").glob("velocity_*.yaml")]
SHAPES = {"small": ((40, 32, 40), (64, 64, 64)), "large": ((96, 80, 96), (128, 96, 128))}
"""Voxels: of images for which methods have small settings, and of those on which they are as their
papers have them.
"""


@pytest.fixture(scope="module")
def phantoms():
    return functools.cache(lambda shape: attainable.phantom(shape, 1000))


@pytest.fixture(scope="module")
def reported(phantoms):
    """Reports of a loss on a phantom; once for all data on which a method is the same."""

    @functools.cache
    def report(method: str, shape: tuple[int, int, int]) -> list[attainable.LevelReport]:
        return attainable.minimise({"method": json.loads(method)}, phantoms(shape), steps=0)[0]

    return report


@pytest.mark.parametrize("size", SHAPES)
@pytest.mark.parametrize("data", DATA)
@pytest.mark.parametrize("method", METHODS)
def test_the_truth_costs_less_than_the_identity(
    method: str, data: str, size: str, reported
) -> None:
    config = attainable.composed([f"method={method}", f"data={data}"])["method"]
    shape = SHAPES[size][f"velocity_{data}" not in ADAPTED]
    reports = reported(
        json.dumps({key: config.get(key) for key in ("composer", "loss", "stages", "optimizer")}),
        shape,
    )
    assert reports
    for report in reports:
        assert report.truth < report.identity, report
        assert report.price < PRICE, report


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_what_the_loss_asks_for_is_the_truth(method: str) -> None:
    """Minimised over the parameters of the method's own transform, without a network."""
    small = attainable.phantom((40, 32, 40), 1000)
    _, transform = attainable.minimise(
        attainable.composed([f"method={method}", "data=phantom"]), small, steps=60
    )
    case = evaluate(small, transform)
    assert float(case.tre_after.mean()) < 0.25 * float(case.tre_before.mean())
    assert case.folding < 0.005


def test_a_loss_that_does_not_know_the_truth_is_found_out(phantoms) -> None:
    config = attainable.composed(
        ["method=dlir", "data=phantom", "method.loss.terms.bending.weight=0.05"]
    )
    reports, _ = attainable.minimise(config, phantoms((40, 32, 40)), steps=0)
    assert max(report.price for report in reports) > 5


def test_free_parameters_reach_any_output() -> None:
    free = attainable.Free(3)
    assert float(free(torch.zeros(1, 5, 6, 7, 8)).detach().abs().max()) == 0
    assert [tuple(value.shape[2:]) for value in free.values] == [(6, 7, 8), (3, 4, 4)]
    target = torch.randn(1, 3, 6, 7, 8)
    with torch.no_grad():
        free.values[0].copy_(target)
    torch.testing.assert_close(free(torch.zeros(1, 5, 6, 7, 8)), target)
