"""Evaluation into a folder: an interrupted one continues, and processes share it."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torchio as tio

from lightning_reg.batch.evaluation.contestants import Case, Contestant
from lightning_reg.batch.evaluation.evaluation import Cases, Evaluation
from lightning_reg.batch.evaluation.folder import UNFINISHED, evaluate_into
from lightning_reg.data.datasets.adapters.generated import PhantomDataset
from lightning_reg.data.datasets.splits import Splits
from lightning_reg.data.scans import make_pair, original
from lightning_reg.inference.result import Result
from lightning_reg.inference.starts import identity
from lightning_reg.io.folders import LISTING
from lightning_reg.registry import DataError

COUNT = 4
SETTINGS = {"data": "phantom"}


def nothing(case: Case) -> None:
    pass


@dataclass
class Identity(Contestant):
    """Registers by the identity, and calls a function with every case first."""

    name: str = "identity"
    before: Callable[[Case], None] = nothing
    registered: list[str] = field(default_factory=list)
    settings: dict[str, Any] = field(default_factory=dict)

    def register(self, case: Case, fixed: tio.Subject, moving: tio.Subject) -> Result:
        self.registered.append(case.name)
        self.before(case)
        pair = make_pair(original(fixed), original(moving), overlapping=False)
        return Result(pair, identity(pair), identity(pair), pair, warnings=[f"seen {case.name}"])


def cases(count: int = COUNT) -> Cases:
    return Cases.of(Splits(PhantomDataset(subjects=1, validation=count, shape=[14, 12, 16])))


def evaluate(folder: Path, *contestants: Contestant, **options: Any) -> Evaluation | None:
    return evaluate_into(
        folder, contestants or [Identity()], cases(), SETTINGS, challenge=True, **options
    )


def stopped(after: int) -> Callable[[int, int], None]:
    def progress(number: int, count: int) -> None:
        if number == after:
            raise KeyboardInterrupt

    return progress


def files(folder: Path) -> dict[str, bytes]:
    paths = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> dict[str, bytes]:
    """Files of an uninterrupted evaluation."""
    folder = tmp_path_factory.mktemp("whole") / "out"
    found = evaluate(folder)
    assert found is not None
    assert len(found.warnings) == COUNT
    assert len(files(folder)) == 7 + COUNT
    return files(folder)


def test_an_interrupted_evaluation_continues_and_gives_the_same_files(whole, tmp_path) -> None:
    first, second = Identity(), Identity()
    with pytest.raises(KeyboardInterrupt):
        evaluate(tmp_path / "out", first, progress=stopped(2))
    assert not (tmp_path / "out/cases.csv").exists()
    seen: list[tuple[int, int]] = []
    found = evaluate(
        tmp_path / "out", second, progress=lambda number, count: seen.append((number, count))
    )
    assert (len(first.registered), len(second.registered)) == (2, COUNT - 2)
    assert seen == [(number, COUNT) for number in range(1, COUNT + 1)]
    assert files(tmp_path / "out") == whole
    assert found is not None
    assert found.warnings == [f"seen {case.name}" for case in cases().cases]
    with pytest.raises(DataError, match="exists; choose another folder"):
        evaluate(tmp_path / "out")


def _killed(folder: Path, name: str) -> None:
    evaluate(folder, Identity(before=lambda case: case.name != name or os.kill(os.getpid(), 9)))


def test_a_killed_evaluation_continues_and_gives_the_same_files(whole, tmp_path) -> None:
    for number in (1, 3):
        process = multiprocessing.get_context("spawn").Process(
            target=_killed, args=(tmp_path / "out", cases().cases[number].name)
        )
        process.start()
        process.join()
        assert process.exitcode == -signal.SIGKILL
    last = Identity()
    evaluate(tmp_path / "out", last)
    assert len(last.registered) == COUNT - 3
    assert files(tmp_path / "out") == whole


def test_shares_make_the_tables_when_all_are_done(whole, tmp_path) -> None:
    one, two = Identity(), Identity()
    assert evaluate(tmp_path / "out", two, shard=(2, 2)) is None
    assert evaluate(tmp_path / "out", Identity(), shard=(2, 2)) is None
    assert evaluate(tmp_path / "out", one, shard=(1, 2)) is not None
    names = [case.name for case in cases().cases]
    assert (one.registered, two.registered) == (names[::2], names[1::2])
    assert files(tmp_path / "out") == whole


def test_of_two_processes_that_end_together_one_writes_the_tables(whole, tmp_path) -> None:
    found = []

    def other(number: int, count: int) -> None:
        if number == count:
            found.append(evaluate(tmp_path / "out", shard=(1, 2)))

    assert evaluate(tmp_path / "out", shard=(2, 2), progress=other) is None
    assert found[0] is not None
    assert files(tmp_path / "out") == whole


def test_a_case_that_failed_is_tried_again(whole, tmp_path) -> None:
    def broken(case: Case) -> None:
        if case.name == cases().cases[0].name:
            raise ZeroDivisionError("division by zero")

    with pytest.raises(KeyboardInterrupt):
        evaluate(tmp_path / "out", Identity(before=broken), progress=stopped(2))
    evaluate(tmp_path / "out")
    assert files(tmp_path / "out") == whole
    found = evaluate(tmp_path / "other", Identity(before=broken), Identity("fine"))
    assert found is not None
    assert [row.get("error") for row in found.rows["identity"]] == [
        "ZeroDivisionError: division by zero",
        *[None] * (COUNT - 1),
    ]
    assert not any("error" in row for row in found.rows["fine"])


def test_where_no_case_can_be_evaluated_nothing_is_left(tmp_path) -> None:
    def broken(case: Case) -> None:
        raise DataError("it is broken")

    with pytest.raises(DataError, match=r"No case could be evaluated\. it is broken"):
        evaluate(tmp_path / "out", Identity(before=broken))
    assert not (tmp_path / "out").exists()
    evaluate(tmp_path / "out")
    before = files(tmp_path / "out")
    with pytest.raises(DataError, match="No case could be evaluated"):
        evaluate(tmp_path / "out", Identity(before=broken), overwrite=True)
    assert {**files(tmp_path / "out"), LISTING: b""} == {**before, LISTING: b""}


def test_another_evaluation_is_refused_unless_nothing_is_done_or_it_may_be_replaced(
    whole, tmp_path
) -> None:
    with pytest.raises(KeyboardInterrupt):
        evaluate(tmp_path / "out", progress=stopped(1))
    other = Identity("other")
    with pytest.raises(DataError, match=r"was made with other settings .methods is"):
        evaluate(tmp_path / "out", other)
    evaluate(tmp_path / "out", other, overwrite=True)
    assert len(other.registered) == COUNT

    def stop(case: Case) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evaluate(tmp_path / "new", Identity("other", before=stop))
    evaluate(tmp_path / "new")
    assert files(tmp_path / "new") == whole


def test_earlier_results_stay_until_those_that_replace_them_are_complete(whole, tmp_path) -> None:
    evaluate(tmp_path / "out", Identity("earlier"))
    (tmp_path / "out/notes.txt").write_text("mine")
    before = files(tmp_path / "out")
    with pytest.raises(KeyboardInterrupt):
        evaluate(tmp_path / "out", overwrite=True, progress=stopped(2))
    now = files(tmp_path / "out")
    assert {name: now[name] for name in before if name != LISTING} == {
        name: content for name, content in before.items() if name != LISTING
    }
    with pytest.raises(DataError, match="exists; choose another folder"):
        evaluate(tmp_path / "out")
    last = Identity()
    evaluate(tmp_path / "out", last, overwrite=True)
    assert len(last.registered) == COUNT - 2
    assert files(tmp_path / "out") == {**whole, "notes.txt": b"mine"}


def test_other_cases_of_the_same_data_may_follow(tmp_path) -> None:
    with pytest.raises(KeyboardInterrupt):
        evaluate(tmp_path / "out", progress=stopped(3))
    last = Identity()
    found = evaluate_into(tmp_path / "out", [last], cases(2), SETTINGS, challenge=True)
    assert last.registered == []
    assert found is not None
    assert [row["case"] for row in found.rows["identity"]] == [c.name for c in cases(2).cases]
    assert len(list((tmp_path / "out/learn2reg").iterdir())) == 2


def test_a_model_that_was_trained_again_is_another(tmp_path) -> None:
    model = tmp_path / "best.ckpt"
    model.write_bytes(b"one")
    contestant = Identity(settings={"model": str(model)})
    with pytest.raises(KeyboardInterrupt):
        evaluate(tmp_path / "out", contestant, progress=stopped(1))
    model.write_bytes(b"two")
    with pytest.raises(DataError, match=r"was made with other settings .methods is"):
        evaluate(tmp_path / "out", contestant)
    record = json.loads((tmp_path / "out" / UNFINISHED / "evaluation.json").read_text())
    assert len(record["settings"]["methods"]["identity"]["weights"]) == 16


def test_a_link_in_the_folder_is_not_followed(tmp_path) -> None:
    (tmp_path / "victim").mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / LISTING).write_text(json.dumps({"by": "evaluate", "files": [UNFINISHED]}))
    (tmp_path / "out" / UNFINISHED).symlink_to(tmp_path / "victim")
    with pytest.raises(DataError, match=r"is a symbolic link|exists"):
        evaluate(tmp_path / "out")
    assert list((tmp_path / "victim").iterdir()) == []
