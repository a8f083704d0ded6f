"""Studies: finished jobs are not repeated, failures are recorded, and the table compares methods
over pairs and seeds.
"""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
from filelock import FileLock

from lightning_reg.batch.studies.definition import Definition, Job, read_definition
from lightning_reg.batch.studies.evaluate import require_pairs
from lightning_reg.batch.studies.outcome import Outcome, Run, over_seeds
from lightning_reg.batch.studies.study import (
    State,
    StudyFolder,
    Training,
    begin,
    run_jobs,
    state_of,
)
from lightning_reg.batch.studies.sweep import note_call, sweep_outcome
from lightning_reg.cli.study import written
from lightning_reg.registry import DataError, TrainingError
from lightning_reg.training.run_folder import Failure, note_failure

QUICK = (
    'data=phantom, "data.dataset.shape=[20,18,16]", data.dataset.subjects=2,'
    " data.dataset.validation=2, data.dataset.crop=null, data.workers=0, data.samples_per_epoch=2,"
    " trainer.max_steps=6, budget=null, callbacks.progress_bar=null, trainer.accelerator=cpu"
)
STUDY = f"""
common: [{QUICK}]
methods:
  four: [method=velocity, method.composer.backbone.levels=2, method.composer.backbone.features=4]
  broken: [method=velocity, method.composer.backbone.levels=2, method.optimizer.lr=1e30]
  eight: [method=velocity, method.composer.backbone.levels=2, method.composer.backbone.features=8]
"""


def study(folder: Path, text: str = STUDY) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "quick.yaml").write_text(text)
    return folder / "quick.yaml"


def call(path: Path, *options: str) -> subprocess.Popen[str]:
    words = [
        sys.executable,
        "-m",
        "lightning_reg.cli.main",
        "study",
        str(path),
        "--out",
        str(path.parent / "out"),
        *options,
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MPLBACKEND": "Agg"}
    return subprocess.Popen(
        words,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment,
        start_new_session=True,
    )


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


# What a study's folder says.


def definition(**methods: tuple[str, ...]) -> Definition:
    return Definition(methods or {"a": ("method=velocity",)})


def test_a_folder_is_of_one_study_that_may_grow(tmp_path: Path) -> None:
    begin(tmp_path / "s", definition())
    begin(tmp_path / "s", definition(a=("method=velocity",), b=("method=dlir",)))
    assert StudyFolder(tmp_path / "s").names() == ["a_s1", "b_s1"]
    with pytest.raises(
        DataError,
        match=(
            r"holds another study .job a_s1: overrides is method=velocity there and method=dlir"
            " here"
        ),
    ):
        begin(tmp_path / "s", definition(a=("method=dlir",)))
    (tmp_path / "else").mkdir()
    (tmp_path / "else" / "notes.txt").touch()
    with pytest.raises(DataError, match="exists and holds no study"):
        begin(tmp_path / "else", definition())


def test_the_state_of_a_run_is_read_from_its_folder(tmp_path: Path) -> None:
    assert state_of(tmp_path) == State("waiting")
    note_failure(tmp_path, Failure("no memory", passing=True))
    assert state_of(tmp_path) == State("failed", "no memory", passing=True)
    with FileLock(tmp_path / ".lock"):
        assert state_of(tmp_path).status == "elsewhere"
    (tmp_path / "summary.json").write_text("{}")
    assert state_of(tmp_path) == State("done")


def test_a_study_is_refused_before_it_trains_where_its_split_has_no_pairs() -> None:
    words = ("data=phantom", "method=velocity")
    with pytest.raises(
        DataError,
        match=r"The study's split is test, and the data of a have no pairs in it; .*`test=2`",
    ):
        require_pairs(Definition({"a": words}, split="test"))
    require_pairs(Definition({"a": (*words, "data.test=2")}, split="test"))
    require_pairs(Definition({"a": words}, split="validation"))


class Quick(Training):
    """A training that is a shell command."""

    commands: ClassVar[dict[str, str]] = {}
    started: ClassVar[list[str]] = []

    def __init__(self, overrides: Any, folder: Path, threads: int | None = None) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.log, self.began = folder, (folder / "log.txt").open("ab"), 0
        Quick.started.append(folder.name)
        self.process = subprocess.Popen(
            ["bash", "-c", self.commands[folder.name]],
            cwd=folder,
            stdout=self.log,
            stderr=subprocess.STDOUT,
        )


@pytest.fixture
def quick(monkeypatch) -> type[Quick]:
    monkeypatch.setattr("lightning_reg.batch.studies.study.Training", Quick)
    monkeypatch.setattr("lightning_reg.batch.studies.study.POLL", 0.02)
    Quick.started = []
    return Quick


def test_every_end_of_a_job_is_on_record_and_the_others_go_on(quick, tmp_path: Path) -> None:
    quick.commands = {
        "good": "echo '{}' > summary.json",
        "mistake": (
            "echo; echo 'line'; echo; echo 'data.root is wrong;'; echo 'correct it.'; exit 2"
        ),
        "once": "test -e second && echo '{}' > summary.json || { touch second; kill -9 $$; }",
        "always": "kill -9 $$",
        "late": "echo '{}' > summary.json",
    }
    jobs = [Job(name, (), name) for name in quick.commands]
    states = run_jobs(jobs, tmp_path)
    assert {name: state.status for name, state in states.items()} == {
        "good": "done", "mistake": "failed", "once": "done", "always": "failed", "late": "done",
    }  # fmt: skip
    assert states["mistake"].message == "data.root is wrong; correct it."
    assert (
        "ended by SIGKILL, as happens where memory runs out"
        in state_of(tmp_path / "always").message
    )
    assert quick.started.count("once") == quick.started.count("always") == 2
    quick.started.clear()
    run_jobs(jobs, tmp_path)
    assert set(quick.started) == {"always"}
    quick.started.clear()
    run_jobs(jobs, tmp_path, retry=True)
    assert set(quick.started) == {"always", "mistake"}


def test_what_another_process_works_on_is_left_to_it(quick, tmp_path: Path) -> None:
    quick.commands = {"mine": "echo '{}' > summary.json", "theirs": "echo '{}' > summary.json"}
    jobs = [Job(name, (), name) for name in quick.commands]
    (tmp_path / "theirs").mkdir()
    with FileLock(tmp_path / "theirs" / ".lock"):
        states = run_jobs(jobs, tmp_path, wait=False)
        assert {name: state.status for name, state in states.items()} == {
            "mine": "done",
            "theirs": "elsewhere",
        }
    assert quick.started == ["mine"]
    assert run_jobs(jobs, tmp_path)["theirs"].status == "done"


def test_jobs_run_side_by_side(quick, tmp_path: Path) -> None:
    wait = (
        "touch here; for k in $(seq 100); do test -e ../{other}/here && echo '{{}}' > summary.json"
        " && exit; sleep 0.05; done; exit 3"
    )
    quick.commands = {"a": wait.format(other="b"), "b": wait.format(other="a")}
    states = run_jobs([Job(name, (), name) for name in "ab"], tmp_path, at_once=2)
    assert {state.status for state in states.values()} == {"done"}


# What it says in the end.


def finished(name: str, method: str, seed: int, tre: list[float], status: str = "done") -> Run:
    cases = [
        {"case": str(n), "tre_before_mm": 9.0, "tre_after_mm": value} for n, value in enumerate(tre)
    ]
    return Run(
        name,
        (f"method={method}", f"seed={seed}"),
        method,
        seed=seed,
        status=status,
        rows=cases,
        error=sum(tre) / len(tre),
    )


def test_values_of_a_pair_are_means_over_the_seeds() -> None:
    found = over_seeds([finished("a", "m", 1, [1.0, 2.0]), finished("b", "m", 2, [3.0, 2.0, 7.0])])
    assert [row["tre_after_mm"] for row in found] == [2.0, 2.0, 7.0]


def test_the_winner_is_the_best_run_of_the_best_method() -> None:
    runs = [
        finished("a1", "a", 1, [1.0] * 6),
        finished("a2", "a", 2, [9.0] * 6),
        finished("b1", "b", 1, [3.0] * 6),
        finished("b2", "b", 2, [2.0] * 6),
    ]
    outcome = Outcome([*runs, Run("c", (), "c", seed=1, status="failed", message="no memory")])
    assert outcome.comparison is not None
    assert outcome.comparison.ranked() == ["b", "a"]
    assert outcome.winning_command() == "lightning-reg train method=b seed=2"
    notes = " ".join(outcome.notes())
    assert "means over 2 seeds; the mean error spreads over the seeds by 5.7 (a), 0.71 (b)" in notes
    assert "1 of 5 runs have not ended or failed" in notes


def test_no_winner_where_no_difference_can_be_significant(tmp_path: Path) -> None:
    """Five pairs give p of 0.0625 at least, by two sides of 2^5 signs; six give 0.031."""
    for pairs, named in ((5, False), (6, True)):
        outcome = Outcome(
            [finished("a1", "a", 1, [1.0] * pairs), finished("b1", "b", 1, [3.0] * pairs)]
        )
        assert (outcome.winner() is not None) is named
        assert (
            any("no difference can be significant" in note for note in outcome.notes()) is not named
        )
        outcome.write(tmp_path, "Study")
        assert ("The winner" in (tmp_path / "study.html").read_text()) is named
    assert Outcome([finished("a1", "a", 1, [1.0])]).winner() is not None


@pytest.mark.parametrize(("steps", "unequal"), [((241, 126), True), ((1000, 950), False)])
def test_trainings_of_unequal_length_are_said_to_be(
    steps: tuple[int, int], unequal: bool, tmp_path: Path
) -> None:
    runs = [
        replace(finished(m, m, 1, [1.0] * 6), steps=count)
        for m, count in zip("ab", steps, strict=True)
    ]
    notes = Outcome(runs).notes()
    assert f"Training steps: a {steps[0]}, b {steps[1]}." in notes
    assert any("unequal length" in note for note in notes) is unequal
    Outcome(runs).write(tmp_path, "Study")
    assert [row["steps"] for row in rows(tmp_path / "runs.csv")] == [str(count) for count in steps]
    assert "Training steps: a" in (tmp_path / "table.md").read_text()


def test_every_data_set_has_a_table_of_its_own(tmp_path: Path) -> None:
    jobs = [
        Job(f"{method}_{data}_s1", (), method, data, 1)
        for data in ("x", "y")
        for method in ("a", "b")
    ]
    for number, job in enumerate(jobs):
        (tmp_path / job.name).mkdir()
        (tmp_path / job.name / "cases.csv").write_text(
            f"case,tre_before_mm,tre_after_mm\n1,9,{number}\n2,9,{number}\n"
        )
        (tmp_path / job.name / "summary.json").write_text(json.dumps({"seconds": 60}))
    found = written(tmp_path, jobs, None, "Study")
    assert [place.name for place in found] == ["table_x", "table_y"]
    assert [outcome.winning_command() for outcome in found.values()] == ["", ""]  # two pairs
    assert [[row["tre_after_mm"] for row in rows(place / "cases.csv")] for place in found] == [
        ["0.0", "0.0", "1.0", "1.0"],
        ["2.0", "2.0", "3.0", "3.0"],
    ]


def test_an_outcome_is_written_also_where_nothing_is_done(tmp_path: Path) -> None:
    Outcome([Run("c", (), "c", seed=1, status="failed", message="no memory")]).write(
        tmp_path, "Study"
    )
    assert "no memory" in (tmp_path / "study.html").read_text()
    assert rows(tmp_path / "runs.csv")[0]["message"] == "no memory"


def written_in_time(path: Path, text: bytes) -> bool:
    """W&B's own process writes its file behind the caller's back, also after the run has been
    finished.
    """
    deadline = time.monotonic() + 60
    while text not in path.read_bytes() and time.monotonic() < deadline:
        time.sleep(0.1)
    return text in path.read_bytes()


def test_an_outcome_is_a_run_of_its_own_at_weights_and_biases(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("WANDB_SILENT", "true")
    folder = tmp_path / "my study"
    folder.mkdir()
    Outcome([finished("a1", "a", 1, [1.0, 1.0]), finished("b1", "b", 1, [3.0, 3.0])]).to_wandb(
        folder, "tests"
    )
    (record,) = (folder / "wandb").glob("offline-run-*")
    tables = {
        path.name.partition("_")[0]: json.loads(path.read_text())
        for path in record.glob("files/media/table/*.json")
    }
    assert [row[0] for row in tables["methods"]["data"]] == ["before", "a", "b"]
    assert [row[0] for row in tables["runs"]["data"]] == ["a1", "b1"]
    assert written_in_time(next(record.glob("*.wandb")), b"my study")


def test_a_sweep_is_read_as_methods_over_seeds(tmp_path: Path) -> None:
    for number, (lr, seed) in enumerate([("0.1", 1), ("0.1", 2), ("0.2", 1), ("0.2", 2)]):
        folder = tmp_path / f"{number}_velocity_s{seed}"
        note_call(
            folder,
            [
                "run=x",
                "launcher=joblib",
                "data=phantom",
                f"method.optimizer.lr={lr}",
                f"seed={seed}",
            ],
        )
        if number < 3:
            values = "".join(f"{case},9,{number + 1}\n" for case in "abcdef")
            (folder / "cases.csv").write_text(f"case,tre_before_mm,tre_after_mm\n{values}")
            (folder / "summary.json").write_text(json.dumps({"seconds": 60}))
    outcome = sweep_outcome(tmp_path)
    assert outcome is not None
    assert {run.name: (run.method, run.seed, run.status) for run in outcome.runs} == {
        "0_velocity_s1": ("lr=0.1", 1, "done"), "1_velocity_s2": ("lr=0.1", 2, "done"),
        "2_velocity_s1": ("lr=0.2", 1, "done"), "3_velocity_s2": ("lr=0.2", 2, "waiting"),
    }  # fmt: skip
    assert [row["tre_after_mm"] for row in outcome.rows["lr=0.1"]] == [1.5] * 6
    assert (
        outcome.winning_command()
        == "lightning-reg train data=phantom method.optimizer.lr=0.1 seed=1"
    )
    assert sweep_outcome(tmp_path / "0_velocity_s1") is None
    with pytest.raises(
        TrainingError,
        match=(
            r"was called with method\.optimizer\.lr=0\.1, and is called with"
            r" method\.optimizer\.lr=0\.3 now"
        ),
    ):
        note_call(
            tmp_path / "0_velocity_s1",
            ["run=x", "data=phantom", "method.optimizer.lr=0.3", "seed=1"],
        )
    note_call(
        tmp_path / "0_velocity_s1", ["run=y", "data=phantom", "method.optimizer.lr=0.1", "seed=1"]
    )


# For real.


@pytest.mark.slow
def test_a_study_goes_on_where_it_was_killed_and_gives_the_same_table(tmp_path: Path) -> None:
    whole = call(study(tmp_path / "whole"), "--jobs", "2")
    out, _ = whole.communicate(timeout=300)
    assert whole.returncode == 1, out
    assert "broken_s1 failed: The loss term" in out
    path = study(tmp_path / "killed")
    for _ in range(2):  # in the first and, where there is time, the second training
        process, began = call(path), time.monotonic()
        place = path.parent / "out"
        before = len(list(place.glob("*/checkpoints/last.ckpt")))
        while (
            len(list(place.glob("*/checkpoints/last.ckpt"))) == before
            and time.monotonic() - began < 60
        ):
            time.sleep(0.02)
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
    done = {path: path.stat().st_mtime_ns for path in place.glob("*/summary.json")}
    process = call(path)
    out, _ = process.communicate(timeout=300)
    assert process.returncode == 1, out
    assert {path: path.stat().st_mtime_ns for path in done} == done
    ours, theirs = (
        rows(folder / "out" / "cases.csv") for folder in (path.parent, tmp_path / "whole")
    )
    assert [{**row, "seconds": ""} for row in ours] == [{**row, "seconds": ""} for row in theirs]
    assert [row["status"] for row in rows(place / "runs.csv")] == ["done", "failed", "done"]
    process = call(path)
    out, _ = process.communicate(timeout=60)
    assert "begins" not in out
    assert "Failed: broken_s1: The loss term" in out
    assert "no difference can be significant" in out
    assert "The winner" not in out


@pytest.mark.slow
def test_models_are_evaluated_on_the_studys_split(tmp_path: Path) -> None:
    path = study(
        tmp_path,
        f"common: [{QUICK}]\nmethods: {{v: [method=velocity,"
        " method.composer.backbone.levels=2]}\nsplit: validation\nfolds: 2\n",
    )
    process = call(path)
    out, _ = process.communicate(timeout=300)
    assert process.returncode == 0, out
    assert [row["fold"] for row in rows(tmp_path / "out" / "runs.csv")] == ["1/2", "2/2"]
    evaluated = [
        row["case"]
        for fold in "12"
        for row in rows(tmp_path / "out" / f"v_s1_f{fold}" / "evaluation" / "cases.csv")
    ]
    assert sorted(evaluated) == sorted(row["case"] for row in rows(tmp_path / "out" / "cases.csv"))
    assert len(set(evaluated)) == 4
    path.write_text(path.read_text().replace("split: validation", "split: train"))
    process = call(path, "--table")
    process.communicate(timeout=60)
    assert process.returncode == 1
    assert all(
        "not been evaluated on the split train" in row["message"]
        for row in rows(tmp_path / "out" / "runs.csv")
    )
    process = call(path)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 0, out
    again = [
        row["case"]
        for fold in "12"
        for row in rows(tmp_path / "out" / f"v_s1_f{fold}" / "evaluation" / "cases.csv")
    ]
    # of two folds each trains on what the other validates
    assert sorted(again) == sorted(evaluated)
    assert read_definition(path).folds == 2
