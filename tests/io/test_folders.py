"""Folders of results: complete or absent."""

from __future__ import annotations

import json
import multiprocessing
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from lightning_reg.io.folders import (
    LISTING,
    MARK,
    Beside,
    inside,
    note_unfinished,
    refuse_existing,
    refuse_links,
    write_whole,
    written_file,
    written_whole,
)
from lightning_reg.io.lock import one_writer
from lightning_reg.registry import DataError


def results(folder: Path, text: str, overwrite: bool = False) -> Path:
    with written_whole(folder, overwrite) as partial:
        (partial / MARK).write_text(text)
    return folder


def interrupted(folder: Path) -> None:
    with written_whole(folder, overwrite=True) as partial:
        (partial / MARK).write_text("half")
        raise RuntimeError


def interrupted_file(path: Path) -> None:
    with written_file(path, overwrite=True) as partial:
        partial.write_text("half")
        raise RuntimeError


def names(folder: Path) -> list[str]:
    """Of what lies in a folder, besides the listing."""
    return sorted(path.name for path in folder.iterdir() if path.name != LISTING)


def test_what_is_written_appears_at_once(tmp_path: Path) -> None:
    with written_whole(tmp_path / "a" / "out") as partial:
        (partial / MARK).write_text("x")
        assert not (tmp_path / "a" / "out").exists()
        assert partial.parent == tmp_path / "a"
    assert names(tmp_path / "a") == ["out"]


def test_an_error_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError):
        interrupted(tmp_path / "out")
    assert names(tmp_path) == []


def test_what_exists_stays_unless_told_otherwise(tmp_path: Path) -> None:
    folder = results(tmp_path / "out", "old")
    with (
        pytest.raises(DataError, match="exists; choose another folder, or pass `overwrite=True`"),
        written_whole(folder),
    ):
        pass
    with pytest.raises(RuntimeError):
        interrupted(folder)
    assert (folder / MARK).read_text() == "old"
    with written_whole(folder, overwrite=True) as partial:
        (partial / MARK).write_text("new")
    assert (folder / MARK).read_text() == "new"
    assert names(tmp_path) == ["out"]


def test_a_folder_of_something_else_is_never_overwritten(tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.tex").write_text("years")
    with (
        pytest.raises(DataError, match="holds no results"),
        written_whole(tmp_path / "home", overwrite=True),
    ):
        pass
    assert (tmp_path / "home" / "thesis.tex").read_text() == "years"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(DataError, match="cannot be made"), written_whole(tmp_path / "out"):
        pass


def test_a_parent_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot be made"), written_whole(tmp_path / "file" / "out"):
        pass


FULL = """
import resource, signal, sys
from pathlib import Path
from lightning_reg.registry import DataError
from lightning_reg.io.folders import written_whole
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    with written_whole(Path(sys.argv[1])) as partial:
        (partial / "metrics.json").write_text("x" * 2000)
except DataError as error:
    print(error)
"""


def test_a_disk_without_room(tmp_path: Path) -> None:
    """A limit on the size of files stands in for it: writing fails half-way through."""
    result = subprocess.run(
        [sys.executable, "-c", FULL, str(tmp_path / "out")],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "could not be written" in result.stdout
    assert "nothing was left behind" in result.stdout
    assert names(tmp_path) == []


def test_a_single_file(tmp_path: Path) -> None:
    with written_file(tmp_path / "x.csv") as partial:
        partial.write_text("1")
    with pytest.raises(DataError, match="exists"), written_file(tmp_path / "x.csv"):
        pass
    with pytest.raises(RuntimeError):
        interrupted_file(tmp_path / "x.csv")
    assert (tmp_path / "x.csv").read_text() == "1"
    assert names(tmp_path) == ["x.csv"]
    with (
        pytest.raises(DataError, match="There is no folder"),
        written_file(tmp_path / "none" / "x.csv"),
    ):
        pass


def _write_often(path: Path, letter: str) -> None:
    for length in range(1, 60):
        write_whole(path, letter.encode() * 1000 * length)


def test_several_writers_of_a_file_disturb_neither_each_other_nor_a_reader(tmp_path: Path) -> None:
    path = tmp_path / "x[1].csv"
    write_whole(path, b"z")
    stale = tmp_path / f".x[1].csv.partial-{socket.gethostname()}-{ended_process()}-0123"
    stale.write_bytes(b"half")
    writers = [
        multiprocessing.get_context("fork").Process(target=_write_often, args=(path, letter))
        for letter in "abcdef"
    ]
    for writer in writers:
        writer.start()
    while any(writer.is_alive() for writer in writers):
        assert len(set(path.read_bytes())) == 1
    assert [writer.exitcode for writer in writers] == [0] * len(writers)
    assert len(path.read_bytes()) == 59_000
    assert names(tmp_path) == ["x[1].csv"]


def ended_process() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_a_folder_behind_a_link_or_that_one_works_in(tmp_path: Path, monkeypatch) -> None:
    """A mount point and the working folder stay the folder they are: the one cannot be renamed, the
    other would be lost.
    """
    (tmp_path / "out").mkdir()
    (tmp_path / "link").symlink_to("out")
    results(tmp_path / "link", "x")
    assert names(tmp_path / "out") == [MARK]
    assert (tmp_path / "link").is_symlink()
    (tmp_path / "here").mkdir()
    number = (tmp_path / "here").stat().st_ino
    monkeypatch.chdir(tmp_path / "here")
    results(Path(), "x")
    assert names(Path()) == [MARK]
    rewritten(Path())
    assert (tmp_path / "here").stat().st_ino == number
    assert (Path() / MARK).read_text() == "new"


@pytest.mark.parametrize("inside", [False, True])
@pytest.mark.parametrize("exchange", [False, True])
def test_a_strangers_files_stay(tmp_path: Path, monkeypatch, inside: bool, exchange: bool) -> None:
    folder = results(tmp_path / "out", "old")
    (folder / "notes").mkdir()
    (folder / "notes" / "mine.txt").write_text("years")
    if inside:
        monkeypatch.chdir(folder)
    if not exchange:
        monkeypatch.setattr("lightning_reg.io.folders._exchanged", lambda one, other: False)
    rewritten(folder)
    assert names(folder) == [MARK, "new.txt", "notes"]
    assert (folder / "notes" / "mine.txt").read_text() == "years"
    assert names(tmp_path) == ["out"]
    (folder / "new.txt").rename(folder / "kept.txt")
    results(folder, "newer", overwrite=True)
    assert names(folder) == ["kept.txt", MARK, "notes"]
    with (
        pytest.raises(DataError, match="holds results of lightning-reg register"),
        written_whole(folder, overwrite=True, by="evaluate"),
    ):
        pass


def test_a_strangers_file_is_not_replaced(tmp_path: Path) -> None:
    folder = results(tmp_path / "out", "old")
    (folder / "new.txt").write_text("years")
    with pytest.raises(DataError, match="not written by this command"):
        rewritten(folder)
    assert (folder / "new.txt").read_text() == "years"
    assert (folder / MARK).read_text() == "old"


def test_what_gave_way_comes_back_where_the_exchange_fails(tmp_path: Path, monkeypatch) -> None:
    folder = results(tmp_path / "out", "old")
    replace = os.replace

    monkeypatch.chdir(folder)

    def fail(source: Path, target: Path) -> None:
        if Path(target).name == "new.txt":
            raise OSError("no room")
        replace(source, target)

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(DataError, match="no room"):
        rewritten(folder)
    assert names(folder) == [MARK]
    assert (folder / MARK).read_text() == "old"


def rewritten(folder: Path) -> None:
    with written_whole(folder, overwrite=True) as partial:
        (partial / MARK).write_text("new")
        (partial / "new.txt").write_text("new")


@pytest.mark.parametrize("name", ["../victim.txt", "notes/../../victim.txt", "VICTIM"])
@pytest.mark.parametrize("within", [False, True])
def test_a_listing_that_names_files_elsewhere_moves_none(
    tmp_path: Path, monkeypatch, name: str, within: bool
) -> None:
    victim = tmp_path / "victim.txt"
    victim.write_text("years")
    folder = results(tmp_path / "out", "old")
    (folder / "notes").mkdir()
    (folder / LISTING).write_text(
        json.dumps({"by": "register", "files": [MARK, name.replace("VICTIM", str(victim))]})
    )
    if within:
        monkeypatch.chdir(folder)
    with pytest.raises(DataError, match="is no path inside"):
        rewritten(folder)
    assert victim.read_text() == "years"
    assert (folder / MARK).read_text() == "old"


@pytest.mark.parametrize("name", ["", ".", "..", "a/../b", "../a", "/a", "a\0b"])
def test_a_name_that_is_no_path_inside_a_folder(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError, match="is no path inside"):
        inside(tmp_path, name)


def test_links_are_refused_where_they_are_asked_for(tmp_path: Path) -> None:
    (tmp_path / "victim").mkdir()
    (tmp_path / "run" / "figures").mkdir(parents=True)
    (tmp_path / "alias").symlink_to("run")
    (tmp_path / "run" / "mine").symlink_to("../victim")
    # a folder given by a link, and a link of the user's own in it
    refuse_links(tmp_path / "alias", ("figures", "cases.csv"))
    assert inside(tmp_path, "run/mine", links=True) == tmp_path / "run" / "mine"
    for link, name in (
        ("cases.csv", "cases.csv"),
        ("figures/a.png", "figures"),
        ("more", "more/a.png"),
    ):
        (tmp_path / "run" / link).symlink_to("../nowhere")
        with pytest.raises(DataError, match=f"{link} is a symbolic link"):
            refuse_links(tmp_path / "run", (name,))
        (tmp_path / "run" / link).unlink()


@pytest.mark.parametrize("name", [".lock", ".writer.json"])
def test_a_lock_is_never_a_link(tmp_path: Path, name: str) -> None:
    (tmp_path / "victim").write_text("years")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / name).symlink_to("../victim")
    with pytest.raises(DataError, match=f"{name} is a symbolic link"), one_writer(tmp_path / "run"):
        pass
    assert (tmp_path / "victim").read_text() == "years"


def full() -> None:
    raise OSError("No space left on device")


@pytest.mark.parametrize("enabled", [True, False])
def test_what_runs_beside_is_done_in_order_before_the_end(enabled: bool) -> None:
    done: list[int] = []
    with Beside(enabled) as beside:
        for number in range(5):
            beside(done.append, number)
    assert done == list(range(5))


def test_what_fails_beside_is_raised_where_it_is_waited_for() -> None:
    beside = Beside()
    beside(full)
    with pytest.raises(OSError, match="No space left"):
        beside.wait()
    beside.wait()


def test_what_fails_beside_is_raised_in_the_end() -> None:
    with pytest.raises(OSError, match="No space left"), Beside() as beside:
        beside(full)


def test_a_failure_of_the_work_itself_goes_before_one_beside() -> None:
    def work() -> None:
        with Beside() as beside:
            beside(full)
            raise ValueError("in between")

    with pytest.raises(ValueError, match="in between"):
        work()


def test_unfinished_results_are_replaced_by_the_finished_ones(tmp_path: Path) -> None:
    out = tmp_path / "out"
    (out / ".state").mkdir(parents=True)
    (out / "notes.txt").write_text("mine")
    note_unfinished(out, ".state", "evaluate")
    refuse_existing(out, False, "evaluate")
    with pytest.raises(DataError, match="exists; choose another folder"):
        refuse_existing(out, False, "register")
    with written_whole(out, by="evaluate") as partial:
        (partial / "cases.csv").touch()
    assert sorted(path.name for path in out.iterdir()) == [LISTING, "cases.csv", "notes.txt"]
    (out / ".state").mkdir()
    note_unfinished(out, ".state", "evaluate")
    with pytest.raises(DataError, match="exists; choose another folder"):
        refuse_existing(out, False, "evaluate")
    with written_whole(out, overwrite=True, by="evaluate") as partial:
        (partial / "table.csv").touch()
    assert sorted(path.name for path in out.iterdir()) == [LISTING, "notes.txt", "table.csv"]
