"""Worklist: its folder is the state, for any number of processes."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
from pathlib import Path

import pytest

from lightning_reg.io.worklist import Worklist, difference, share
from lightning_reg.registry import DataError


class Numbers(Worklist):
    name, item, by, items = "sum", "number", "count", "numbers"
    free = ("version",)
    mark = "results/{}.json"
    folders = ("results", "failed")


class Runs(Worklist):
    name, item, by, items = "series", "run", "repeat", "runs"
    mark, failure = "{}/end.json", "{}/failure.json"


def begun(folder: Path, *names: str) -> Numbers:
    work = Numbers(folder)
    work.begin({name: {} for name in names}, {"base": 2})
    return work


def test_items_are_done_failed_or_remaining_and_every_process_sees_the_same(tmp_path: Path) -> None:
    work, other = begun(tmp_path / "w", "a", "b", "c"), Numbers(tmp_path / "w")
    work.finish("b", {"value": 2})
    work.fail("c", "c is odd", "Traceback", value=3)
    assert other.names() == ["a", "b", "c"]
    assert other.remaining(other.names()) == ["a", "c"]
    assert json.loads(other.marked("b").read_text()) == {"value": 2}
    assert other.failure_of("a") is None
    failure = other.failure_of("c")
    assert failure["number"] == "c"
    assert (failure["message"], failure["value"]) == ("c is odd", 3)
    assert (tmp_path / "w/failed/c.txt").read_text() == "Traceback"
    other.finish("c", {"value": 3})
    assert work.failure_of("c") is None
    assert list((tmp_path / "w/failed").iterdir()) == []


def test_an_unreadable_failure_is_none(tmp_path: Path) -> None:
    work = begun(tmp_path / "w", "a")
    work.fail("a", "it failed")
    work.failed_at("a").write_text("{")
    assert work.failure_of("a") is None


def test_attempts_are_counted_until_the_item_ends(tmp_path: Path) -> None:
    work = begun(tmp_path / "w", "a", "b")
    assert work.begun("a") == 0
    work.note_begun("a", 2)
    assert Numbers(tmp_path / "w").begun("a") == 2
    work.fail("a", "it failed")
    assert work.begun("a") == 0
    work.note_begun("b", 1)
    work.note_begun("b", 0)
    assert work.begun("b") == 0


def test_a_folder_continues_with_the_same_items_and_more_and_keeps_its_settings(
    tmp_path: Path,
) -> None:
    begun(tmp_path / "w", "a", "b")
    work = begun(tmp_path / "w", "b", "c")
    assert work.names() == ["a", "b", "c"]
    with pytest.raises(
        DataError, match=r"was made with other settings .base is 2 there and 3 here"
    ):
        work.begin({}, {"base": 3, "version": 1})
    work.begin({"d": {}}, {"base": 3}, otherwise=True)
    work.begin({}, {"base": 2, "version": 2})
    assert work.names() == ["a", "b", "c", "d"]
    assert work.stored()["settings"] == {"base": 2, "version": 2}
    with pytest.raises(DataError, match=r"holds another sum .number a: value is null there and 1"):
        work.begin({"a": {"value": 1}}, {"base": 2})


def test_of_two_lists_the_difference_is_said() -> None:
    assert difference({"a": 1, "b": [1, 2]}, {"a": 1, "b": [1, 2]}) is None
    assert difference({"a": 1}, {"a": 2}, free=("a",)) is None
    assert difference({"b": [1, 2]}, {"b": [2, 3]}) == "b is 1 there and 3 here"
    assert difference({"b": [1, 2]}, {"b": [2]}) == "b is 1 there and less here"
    assert difference({"b": [1, 2]}, {"b": [2, 1]}) == "b is less there and less here"
    assert difference({"a": "x" * 100}, {}) == f"a is {'x' * 77}... there and null here"


def test_a_folder_of_something_else_and_a_damaged_record_are_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    with pytest.raises(DataError, match="exists and holds no sum"):
        begun(tmp_path, "a")
    with pytest.raises(DataError, match=r"holds no sum .no sum\.json.; give the folder that"):
        Numbers(tmp_path).names()
    for content in ("[]", '{"numbers": {}}', '{"numbers": [], "settings": {}}'):
        (tmp_path / "sum.json").write_text(content)
        with pytest.raises(DataError, match="has no numbers or settings"):
            Numbers(tmp_path).names()
    with pytest.raises(DataError, match="cannot be written"):
        begun(tmp_path / "notes.txt", "a")


@pytest.mark.parametrize("name", ["..", "../a", "a/b", "", ".a", "-a", "a b"])
def test_an_item_that_is_no_file_name_is_refused(name: str, tmp_path: Path) -> None:
    record = {"numbers": {name: {}}, "settings": {}}
    (tmp_path / "sum.json").write_text(json.dumps(record))
    with pytest.raises(DataError, match="which is not the name of a folder"):
        Numbers(tmp_path).names()


def test_items_may_have_folders_of_their_own(tmp_path: Path) -> None:
    work = Runs(tmp_path / "w")
    work.begin({"a": {}, "b": {}}, None)
    work.fail("b", "no memory")
    assert (tmp_path / "w/b/failure.json").is_file()
    (tmp_path / "w/a").mkdir()
    (tmp_path / "w/a/end.json").write_text("{}")
    assert work.remaining(work.names()) == ["b"]
    (tmp_path / "w/c").symlink_to(tmp_path)
    with pytest.raises(DataError, match="c is a symbolic link"):
        work.begin({"c": {}}, None)


def test_one_process_writes_a_share(tmp_path: Path) -> None:
    work = begun(tmp_path / "w", "a")
    other = Numbers(tmp_path / "w")
    with work.writer(1, 2), other.writer(2, 2), pytest.raises(DataError, match="by process"):
        other.writer(1, 2).__enter__()
    with work.writer(1, 2):
        pass


def _finish_until_killed(folder: Path, last: str) -> None:
    work = Numbers(folder)
    for name in work.remaining(work.names()):
        work.note_begun(name, work.begun(name) + 1)
        if name == last:
            os.kill(os.getpid(), signal.SIGKILL)
        work.finish(name, {})


def test_a_killed_process_leaves_what_it_has_finished(tmp_path: Path) -> None:
    work = begun(tmp_path / "w", "a", "b", "c")
    context = multiprocessing.get_context("spawn")
    for times in (1, 2):
        process = context.Process(target=_finish_until_killed, args=(tmp_path / "w", "b"))
        process.start()
        process.join()
        assert process.exitcode == -signal.SIGKILL
        assert work.remaining(work.names()) == ["b", "c"]
        assert (work.begun("a"), work.begun("b"), work.begun("c")) == (0, times, 0)
    _finish_until_killed(tmp_path / "w", "")
    assert work.remaining(work.names()) == []
    assert list((tmp_path / "w/failed").iterdir()) == []


@pytest.mark.parametrize("of", [1, 3, 7, 20])
def test_shares_are_all_pairs_once_and_of_one_size(of: int) -> None:
    items = [str(n) for n in range(17)]
    shares = [share(items, number, of) for number in range(1, of + 1)]
    assert sorted((item for part in shares for item in part), key=int) == items
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


@pytest.mark.parametrize(("number", "of"), [(0, 4), (5, 4), (1, 0)])
def test_a_share_that_is_none_is_refused(number: int, of: int) -> None:
    with pytest.raises(DataError, match="There is no share"):
        share([], number, of)
