"""A training killed at any points gives the same result as an uninterrupted one."""

from __future__ import annotations

import copy
import random
import signal
from pathlib import Path
from typing import Any

import pytest
from faults.killing import STOPPED, differences, killed_until_done, log_of, started, uninterrupted

from lightning_reg.configuration.composition import compose
from lightning_reg.configuration.folders import own_directory
from lightning_reg.training.run_folder import with_steps

METHODS = sorted(path.stem for path in (own_directory() / "method").glob("*.yaml"))
POLITE = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
SMALL = [
    "data.dataset.shape=[16,14,16]", "data.dataset.crop=null", "data.dataset.subjects=2",
    "data.dataset.validation=2", "data.workers=0",
    "data.samples_per_epoch=3", "data.batch_size=1", "trainer.log_every_n_steps=1",
    "trainer.accelerator=cpu",
    "callbacks.progress_bar=null", "trainer.enable_progress_bar=false",
]  # fmt: skip
OF_METHOD = {
    "progressive": ["method.composer.backbone.levels=2", "method.composer.backbone.features=2"],
    "multilevel": ["method.composer.backbone.levels=2", "method.composer.backbone.features=2"],
    "dlir": ["data.dataset.shape=[32,32,32]"],
    "deep_supervision": ["method.composer.backbone.features=2"],
    "velocity": ["method.composer.backbone.levels=2", "method.composer.backbone.features=4"],
}


def tiny(method: str, steps: int = 8) -> dict[str, Any]:
    """A method on two small phantoms, with validations after every third step; staged ones in all
    their stages.
    """
    config = compose([f"method={method}", *SMALL, *OF_METHOD.get(method, [])])
    return with_steps(config, steps)


@pytest.fixture(scope="module")
def whole(
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, tuple[dict[str, Any], Path, float]]:
    """Configuration, folder and seconds of each method's uninterrupted run, made when first asked
    for.
    """

    class Runs(dict[str, tuple[dict[str, Any], Path, float]]):
        def __missing__(self, method: str) -> tuple[dict[str, Any], Path, float]:
            config, folder = tiny(method), tmp_path_factory.mktemp(method) / "whole"
            self[method] = config, folder, uninterrupted(config, folder)
            return self[method]

    return Runs()


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_killed_at_random_and_sent_again_it_is_the_uninterrupted_run(
    whole, tmp_path: Path, method: str
) -> None:
    config, folder, seconds = whole[method]
    rng = random.Random(f"kill {method}")
    assert not killed_until_done(config, tmp_path / "killed", seconds, rng, kills=3)
    assert not differences(folder, tmp_path / "killed")
    assert not killed_until_done(config, tmp_path / "asked", seconds, rng, kills=3, signals=POLITE)
    assert not differences(folder, tmp_path / "asked")


"""A run that is asked to stop in its last seconds, or killed there, keeps what it has."""


@pytest.mark.slow
@pytest.mark.parametrize("changes", [
    {"data": {"batch_size": 2}, "trainer": {"accumulate_grad_batches": 2}},
    {"data": {"workers": 1}},
    {"trainer": {"val_check_interval": 0.5, "max_steps": 9}, "data": {"samples_per_epoch": 4}},
    {"trainer": {"check_val_every_n_epoch": 2, "max_steps": 13}},
    {"method": {"schedule": {"plateau": {"patience": 0, "factor": 0.5}}}},
], ids=lambda changes: "-".join(key for part in changes.values() for key in part))  # fmt: skip
def test_whatever_the_settings_a_killed_run_is_the_uninterrupted_one(
    tmp_path: Path, changes: dict[str, dict[str, Any]]
) -> None:
    config = tiny("velocity")
    for group, values in changes.items():
        config[group].update(values)
    seconds = uninterrupted(config, tmp_path / "whole")
    assert not killed_until_done(
        config,
        tmp_path / "parts",
        seconds,
        random.Random(1),
        kills=4,
        signals=(signal.SIGKILL, *POLITE),
    )
    assert not differences(tmp_path / "whole", tmp_path / "parts")


@pytest.mark.slow
def test_a_finished_run_that_is_extended_is_the_longer_run(tmp_path: Path) -> None:
    """With nothing else that depends on the number of steps; at the end of an epoch, and inside one
    but for the validation there.
    """
    config = tiny("velocity", 9)
    config["method"]["schedule"] = {}
    uninterrupted(config, tmp_path / "whole")
    for steps in (6, 5):
        folder = tmp_path / f"{steps}"
        uninterrupted(with_steps(config, steps), folder)
        from lightning_reg.training.run import train

        train(copy.deepcopy(config), folder, folder / "checkpoints" / "last.ckpt")
        found = differences(tmp_path / "whole", folder)
        assert not [
            line
            for line in found
            if steps == 6 or ("best.ckpt" not in line and "metrics.csv" not in line)
        ], found


@pytest.mark.slow
def test_asked_to_stop_before_the_first_step_it_saves_and_goes_on(whole, tmp_path: Path) -> None:
    config, folder, seconds = whole["velocity"]
    process = started(config, tmp_path / "run")
    process.join(0.05 * seconds)
    process.terminate()
    process.join()
    assert process.exitcode in (STOPPED, -signal.SIGTERM), log_of(tmp_path / "run")
    uninterrupted(config, tmp_path / "run")
    assert not differences(folder, tmp_path / "run")
