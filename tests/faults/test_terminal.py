"""Commands in a terminal, a pipe and a batch system."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from faults.campaign import TINY

from lightning_reg.training.checkpoints import damaged

LONG = (*TINY, "trainer.max_steps=100000", "data.workers=1", "run=here/run")


def begun(folder: Path, *words: str) -> subprocess.Popen[bytes]:
    """A command as the leader of a process group of its own, its output in a file."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "MPLBACKEND": "Agg"}
    with (folder / "log.txt").open("wb") as log:
        line = [sys.executable, "-m", "lightning_reg.cli.main", *words]
        return subprocess.Popen(
            line, cwd=folder, env=environment, stdout=log, stderr=log, start_new_session=True
        )


def until(process: subprocess.Popen[bytes], folder: Path, words: str) -> None:
    """Wait for words in the log."""
    for _ in range(600):
        if words in (folder / "log.txt").read_text():
            return
        assert process.poll() is None, (folder / "log.txt").read_text()
        time.sleep(0.1)
    raise AssertionError((folder / "log.txt").read_text())


@pytest.mark.slow
@pytest.mark.parametrize(
    "number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1], ids=lambda number: number.name
)
def test_a_signal_to_the_whole_process_group_stops_and_saves(
    tmp_path: Path, number: signal.Signals
) -> None:
    """As ``^C`` in a terminal, with a process that draws pairs; the log grows line by line."""
    process = begun(tmp_path, *LONG)
    until(process, tmp_path, "step 4 of 100,000: loss ")
    if number == signal.SIGINT:
        os.killpg(process.pid, number)
    else:
        process.send_signal(number)
    assert process.wait(60) == 130, (tmp_path / "log.txt").read_text()
    log = (tmp_path / "log.txt").read_text()
    assert "Stopped; saved here/run/checkpoints/last.ckpt. Go on with:" in " ".join(log.split())
    assert "Traceback" not in log
    assert not damaged(tmp_path / "here" / "run" / "checkpoints" / "last.ckpt")
    if number != signal.SIGINT:
        return
    process = begun(tmp_path, *LONG)  # the same command goes on
    until(process, tmp_path, "Going on after step ")
    process.kill()
    process.wait()
    process = begun(tmp_path, *LONG)  # its worker, which shares the lock, is gone soon
    until(process, tmp_path, "Going on after step ")
    process.kill()
    process.wait()


@pytest.mark.slow
@pytest.mark.parametrize("words", [("train", "--help"), ("plugins",), ("--help",)])
def test_a_reader_that_has_enough_is_no_error(tmp_path: Path, words: tuple[str, ...]) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "lightning_reg.cli.main", *words],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    error = process.stderr.read().decode()
    process.wait(60)
    assert "Traceback" not in error
    assert "BrokenPipe" not in error


@pytest.mark.slow
def test_what_nobody_foresaw_is_called_a_defect_and_its_traceback_is_kept(tmp_path: Path) -> None:
    code = (
        "import lightning_reg.inference.loading as r\ndef broken(*a, **k): raise RuntimeError('a"
        " bolt')\nr.conventional = broken\n"
    )
    line = code + "import sys\nfrom lightning_reg.cli.main import main\nsys.argv[1:] = {}\nmain()\n"
    (tmp_path / "a.nii").touch()
    words = ["register", "--fixed", "a.nii", "--moving", "a.nii", "--out", "out"]
    done = subprocess.run(
        [sys.executable, "-c", line.format(words)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 70
    assert "This is a defect" in done.stderr
    assert "RuntimeError: a bolt" in done.stderr
    assert "Traceback" not in done.stderr
    (kept,) = tmp_path.glob("lightning-reg-*.txt")
    assert "in broken" in kept.read_text()
    shown = subprocess.run(
        [sys.executable, "-c", line.format([*words, "--debug"])],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "Traceback" in shown.stderr
