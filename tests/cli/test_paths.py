"""Names of files and folders in commands and in what they print."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from lightning_reg.cli.main import main
from lightning_reg.io.folders import LISTING, MARK


def cohort(folder: Path) -> None:
    """The folder of a cohort with one pair."""
    place = folder / "pairs" / "a"
    place.mkdir(parents=True)
    record = {
        "row": {"case": "a"},
        "warnings": [],
        "settings": {"instance": "rigid"},
        "seconds": {"all": 1.0},
    }
    (place / LISTING).write_text(json.dumps({"by": "register", "files": [MARK]}))
    (place / MARK).write_text(json.dumps(record))
    (folder / "cohort.json").write_text(
        json.dumps({"pairs": {"a": {"fixed": "[red]/f.nii.gz"}}, "settings": {}})
    )


@pytest.mark.parametrize("name", ["d [old]/res", "out[/b]", "[red]x", "a:heart:b", "\\[b]"])
def test_a_path_is_printed_as_it_is(command, tmp_path: Path, name: str) -> None:
    cohort(tmp_path / name)
    code, out, err = command(main, "lightning-reg", "collect", name)
    assert (code, err) == (0, "")
    assert f"The table is {name}/results.csv; look at {name}/quality.html" in out


def test_a_full_disk_is_a_sentence_that_names_the_file(
    command, tmp_path: Path, monkeypatch
) -> None:
    cohort(tmp_path / "cohort")

    def full(number: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    code, _, err = command(main, "lightning-reg", "collect", "cohort")
    assert code == 2
    assert (
        err.strip()
        == "cohort/results.csv: No space left on device; correct the path, its permissions or the"
        " space on the disk."
    )
    assert sorted(path.name for path in (tmp_path / "cohort").iterdir()) == ["cohort.json", "pairs"]


@pytest.mark.parametrize(
    "locale", [{}, {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}]
)
@pytest.mark.parametrize(
    "words",
    [
        (b"register", b"--fixed", b"a.nii.gz", b"--moving", b"b.nii.gz", b"--out", b"o\xfc"),
        (b"register", b"--fixed", b"M\xfcller.nii.gz", b"--moving", b"b.nii.gz", b"--out", b"o"),
        (b"train", b"data=folder", b"data.root=M\xfcller"),
    ],
)
def test_a_path_that_is_not_utf8_is_refused_before_anything_is_computed(
    tmp_path: Path, words: tuple[bytes, ...], locale: dict[str, str]
) -> None:
    line = [sys.executable.encode(), b"-m", b"lightning_reg.cli.main", *words]
    done = subprocess.run(
        line, cwd=tmp_path, env={**os.environ, **locale}, capture_output=True, check=False
    )
    assert done.returncode == 2
    assert b"\\udcfc" in done.stderr
    assert (
        b"cannot be used: its name or the locale is not UTF-8; rename it, or set LC_ALL=C.UTF-8."
        in done.stderr
    )
    assert list(tmp_path.iterdir()) == []
