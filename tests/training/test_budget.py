"""Budget of a training: duration, steps within a time limit, batches in parts."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from lightning_reg.io.names import duration
from lightning_reg.registry import ComponentError
from lightning_reg.spatial import Pair
from lightning_reg.training import budget
from lightning_reg.training.budget import planned, step_seconds
from lightning_reg.training.module import RegistrationModule
from lightning_reg.training.run_folder import with_steps

GROWING = {
    "composer": {
        "name": "single",
        "backbone": {"name": "progressive_unet", "levels": 2, "features": 4, "norm": "instance"},
        "head": {"name": "dense", "levels": "weighted"},
    },
    "loss": {"terms": {"ssd": {}}},
    "optimizer": {"name": "adam", "lr": 1e-3},
    "callbacks": {"alpha_growth": {"start": -20, "ramp": 20, "duration": 60}},
}
STAGED = GROWING | {
    "composer": {
        "name": "multilevel",
        "strides": [2, 1],
        "backbone": {"name": "unet", "levels": 2, "features": 4},
        "head": "dense",
    },
    "stages": [{"steps": 1, "train": [0]}, {"steps": 1, "train": [1]}],
    "callbacks": {},
}
LINEAR_DEFORMABLE: dict[str, Any] = {
    "composer": {
        "name": "single",
        "backbone": {"name": "dilated", "features": [4, 6], "dilations": [1, 2]},
        "head": [{"name": "affine"}, {"name": "integrated_gradient", "features": [4, 4]}],
    },
    "loss": {"terms": {"ssd": {}, "gradient_identity": {"weight": 0.1}}},
    "optimizer": {"name": "adam", "lr": 1e-3},
}


@pytest.mark.parametrize("method", [GROWING, STAGED])
def test_every_state_of_a_training_is_timed_and_the_module_left_alone(
    method: Mapping[str, Any], pair: Pair, monkeypatch
) -> None:
    module = RegistrationModule.from_configuration(method)
    before = {
        name: value
        for name, value in module.state_dict().items()
        if isinstance(value, torch.Tensor)
    }
    seen = []

    def timed(trial: RegistrationModule, batch: Pair) -> float:
        staged = getattr(trial.composer, "active", 0)
        grown = tuple(
            a > 0 for part in trial.modules() if hasattr(part, "alpha") for a in part.alpha
        )
        seen.append((staged, grown))
        return 1.0 if len(seen) < 3 else 3.0  # the first state is the cheap one

    monkeypatch.setattr(budget, "_timed", timed)
    random = torch.get_rng_state()
    seconds = step_seconds(module, method, 100, pair, [])
    assert len(set(seen)) >= 2
    assert 1.0 < seconds < 3.0
    assert torch.equal(random, torch.get_rng_state())
    for name, value in before.items():
        torch.testing.assert_close(module.state_dict()[name], value)


def test_a_real_step_takes_time(pair: Pair) -> None:
    assert step_seconds(RegistrationModule.from_configuration(STAGED), STAGED, 10, pair, [pair]) > 0


def test_another_number_of_steps_keeps_the_shape_of_the_training() -> None:
    config = {"trainer": {"max_steps": 100, "precision": 32}, "method": GROWING}
    longer = with_steps(config, 250)
    assert longer["trainer"] == {"max_steps": 250, "precision": 32}
    assert longer["method"]["callbacks"]["alpha_growth"]["time_scale"] == pytest.approx(2.5)
    assert config["trainer"]["max_steps"] == 100
    assert "time_scale" not in GROWING["callbacks"]["alpha_growth"]


@pytest.mark.parametrize(
    ("resumed", "own", "steps"), [(False, True, 600), (True, True, 250), (False, False, 250)]
)
def test_a_budget_is_minutes_of_the_methods_own_training(
    resumed: bool, own: bool, steps: int, pair: Pair, monkeypatch
) -> None:
    """Steps of a fifth of a second in two minutes; a number of steps that was asked for stays, and
    so does that of a resumed run.
    """
    monkeypatch.setattr(budget, "step_seconds", lambda *_: 0.2)
    method = GROWING | {"steps": 1000 if own else 777}
    config = {"method": method, "trainer": {"max_steps": 250}, "budget": 2, "time_scale": 0.25}
    data = SimpleNamespace(
        train_pairs=[pair], batch_size=1, samples_per_epoch=10, validation_pairs=[pair]
    )
    found, told = planned(config, RegistrationModule.from_configuration(method), data, resumed)
    assert found["trainer"]["max_steps"] == steps
    chosen = own and not resumed
    assert told.startswith(f"{steps} steps" + (", about 2 minutes here" if chosen else "."))


def test_validation_takes_its_share_of_a_step(pair: Pair, monkeypatch) -> None:
    """Four pairs of a second each, after every tenth step, beside steps of nothing."""
    clock = itertools.count()
    monkeypatch.setattr(budget, "_timed", lambda *_: 0.0)
    monkeypatch.setattr(budget.time, "perf_counter", lambda: float(next(clock)))
    assert step_seconds(
        RegistrationModule.from_configuration(STAGED), STAGED, 100, pair, [pair] * 4, 10
    ) == pytest.approx(0.4)


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(3, "10 seconds"), (52, "50 seconds"), (1000, "17 minutes"), (9000, "2.5 hours")],
)
def test_durations_in_words(seconds: float, words: str) -> None:
    assert duration(seconds) == words


def test_a_batch_in_parts_has_the_same_loss_and_gradient(pair: Pair) -> None:
    other = replace(pair, fixed=pair.moving, moving=pair.fixed)
    batch = Pair.collate([pair, other])
    found = []
    for parts in (False, True):
        method = LINEAR_DEFORMABLE | {"split_batch": parts}
        method["composer"] = method["composer"] | {
            "backbone": LINEAR_DEFORMABLE["composer"]["backbone"] | {"recompute": parts}
        }
        method["composer"]["head"] = [
            {"name": "affine"},
            {"name": "integrated_gradient", "features": [4, 4], "recompute": parts},
        ]
        torch.manual_seed(3)
        module = RegistrationModule.from_configuration(method)
        value = module.training_loss(batch)
        value.total.backward()
        found.append((value, torch.cat([p.grad.flatten() for p in module.parameters()])))
    assert float(found[0][0].total) == pytest.approx(float(found[1][0].total), rel=1e-6)
    for name, term in found[0][0].terms.items():
        assert float(term) == pytest.approx(float(found[1][0].terms[name]), rel=1e-5, abs=1e-9)
    torch.testing.assert_close(found[0][1], found[1][1], rtol=1e-4, atol=1e-8)


def test_a_batch_in_parts_is_not_for_batch_normalisation() -> None:
    with pytest.raises(
        ComponentError, match="`split_batch` needs networks without batch normalisation"
    ):
        RegistrationModule.from_configuration(STAGED | {"split_batch": True})
