"""Searches: settings from the space, pruning of poor trials, restart of killed trials,
non-dominated trials.
"""

from __future__ import annotations

import csv
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

optuna = pytest.importorskip("optuna", reason="optuna is not installed")

from lightning_reg.batch.studies import search as searching  # noqa: E402
from lightning_reg.batch.studies.definition import Definition, Search  # noqa: E402
from lightning_reg.batch.studies.outcome import learning_curve  # noqa: E402
from lightning_reg.batch.studies.study import begin  # noqa: E402
from lightning_reg.registry import DataError  # noqa: E402

SPACE = {
    "method.optimizer.lr": {"low": 1e-5, "high": 1e-3, "log": True},
    "method.composer.backbone.features": [4, 8],
    "data.batch_size": {"low": 1, "high": 4},
}
QUICK = (
    'data=phantom, "data.dataset.shape=[20,18,16]", data.dataset.subjects=2,'
    " data.dataset.validation=2, data.dataset.crop=null, data.workers=0, data.samples_per_epoch=2,"
    " trainer.max_steps=4, budget=null, callbacks.progress_bar=null, trainer.accelerator=cpu"
)


def test_a_trials_settings_come_from_the_space() -> None:
    definition = Definition(
        {"a": ("method=velocity",), "b": ("method=dlir",)}, common=("data=phantom",), seeds=(7,)
    )
    chosen = {
        "method": "b",
        "method.optimizer.lr": 1e-4,
        "method.composer.backbone.features": 8,
        "data.batch_size": 3,
    }
    found = searching.suggested(optuna.trial.FixedTrial(chosen), definition, Search(SPACE))
    assert found == (
        "data=phantom",
        "method=dlir",
        "seed=7",
        "method.optimizer.lr=0.0001",
        "method.composer.backbone.features=8",
        "data.batch_size=3",
    )


def curve(folder: Path, *errors: float) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    lines = ["step,validation/error", *(f"{10 * n},{error}" for n, error in enumerate(errors))]
    (folder / "metrics.csv").write_text("\n".join(lines) + "\n")
    return folder


@pytest.mark.parametrize(
    ("errors", "hopeless"),
    [
        ((9.0, 8.0), True),
        ((9.0, 4.0), False),
        ((3.0, 9.0, 9.0), False),
        ((9.0,), False),
        ((9.0, 8.0, 8.0, 8.0, 8.0, 8.0, 8.0), False),
    ],
)
def test_a_trial_is_hopeless_above_the_others_median_at_its_step(
    errors: tuple[float, ...], hopeless: bool, tmp_path: Path
) -> None:
    """The best so far counts; beyond the others' last step nothing is known."""
    others = [[(0, 9.0), (10, 5.0 + n), (20, 4.0), (30, 3.0)] for n in (-1, 0, 0, 1)]
    found = learning_curve(curve(tmp_path, *errors))
    assert searching._is_hopeless(found, others) == hopeless
    assert not searching._is_hopeless(found, others[:3])


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [([1, 2], [1, 3], True), ([1, 2], [1, 2], False), ([1, 3], [2, 1], False), ([2], [3], True)],
)
def test_a_trial_beats_another_in_all_objectives(
    one: list[float], other: list[float], expected: bool
) -> None:
    assert searching._dominates(one, other) == expected


def test_trials_of_processes_that_are_gone_are_begun_again_with_their_settings(
    tmp_path: Path,
) -> None:
    study = searching._study(tmp_path, Search(SPACE), create=True)
    for name in ("gone", "working", "failed"):
        trial = study.ask()
        searching.suggested(trial, Definition({"a": ()}), Search(SPACE))
        trial.set_user_attr("folder", name)
        (tmp_path / name).mkdir()
        if name == "failed":
            trial.set_user_attr("message", "no memory")
            study.tell(trial, state=optuna.trial.TrialState.FAIL)
    gone = study.get_trials()[0].params
    code = (
        "import filelock, sys, time; lock = filelock.FileLock(sys.argv[1]); lock.acquire();"
        " print(1, flush=True); time.sleep(60)"
    )
    place = str(tmp_path / "working" / searching.WORKER)
    held = subprocess.Popen([sys.executable, "-c", code, place], stdout=subprocess.PIPE)
    assert held.stdout is not None
    held.stdout.readline()
    try:
        for _ in range(2):
            searching._begin_again(study, tmp_path, retry=False)
    finally:
        held.kill()
        held.wait()
    waiting = [t for t in study.get_trials() if t.state == optuna.trial.TrialState.WAITING]
    assert [(t.user_attrs["folder"], t.system_attrs["fixed_params"]) for t in waiting] == [
        ("gone", gone)
    ]
    searching._begin_again(study, tmp_path, retry=True)
    waiting = [t for t in study.get_trials() if t.state == optuna.trial.TrialState.WAITING]
    assert {t.user_attrs["folder"] for t in waiting} == {"gone", "working", "failed"}


def test_a_folder_is_of_one_search(tmp_path: Path) -> None:
    begin(tmp_path, Definition({"a": ()}, search=Search(SPACE, trials=3)))
    begin(tmp_path, Definition({"a": ()}, search=Search(SPACE, trials=9)))
    with pytest.raises(
        DataError, match=r"was made with other settings .space is .*lr.* there and .*x.* here"
    ):
        begin(tmp_path, Definition({"a": ()}, search=Search({"x": [1]}, trials=3)))


@pytest.mark.slow
def test_a_search_is_killed_and_goes_on(tmp_path: Path) -> None:
    text = f"""
common: [{QUICK}]
methods: {{v: [method=velocity, method.composer.backbone.levels=2]}}
search: {{trials: 3, space: {{method.optimizer.lr: [1.0e-4, 1.0e-3, 1.0e+30]}}}}
"""
    (tmp_path / "s.yaml").write_text(text)
    words = [
        sys.executable,
        "-m",
        "lightning_reg.cli.main",
        "study",
        str(tmp_path / "s.yaml"),
        "--out",
        str(tmp_path / "out"),
    ]
    options: dict[str, Any] = {
        "stdout": subprocess.PIPE,
        "stderr": subprocess.STDOUT,
        "text": True,
        "env": {**os.environ, "OMP_NUM_THREADS": "1"},
    }
    process, began = subprocess.Popen(words, start_new_session=True, **options), time.monotonic()
    while (
        not (tmp_path / "out" / "trial0000" / "checkpoints" / "last.ckpt").exists()
        and time.monotonic() - began < 90
    ):
        if (
            tmp_path / "out" / "trial0000" / "failure.json"
        ).exists():  # the rate of this one is 1e30
            break
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    found = subprocess.run(
        words,
        check=False,
        **{key: value for key, value in options.items() if key != "start_new_session"},
    )
    with (tmp_path / "out" / "trials.csv").open(newline="") as file:
        trials = list(csv.DictReader(file))
    assert len({trial["trial"] for trial in trials}) == 3
    assert trials[0]["trial"] == "trial0000"
    for trial in trials:
        assert (trial["state"] == "complete") == (float(trial["method.optimizer.lr"]) < 1)
        assert bool(trial["message"]) == (trial["state"] == "fail")
    assert (
        ("Best: trial" in found.stdout)
        == (found.returncode == 0)
        == any(trial["state"] == "complete" for trial in trials)
    )
    assert "Traceback" not in found.stdout
