"""Commands, run in an empty folder."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hydra.core.global_hydra import GlobalHydra

Outcome = tuple[int, str, str]


@pytest.fixture
def command(tmp_path: Path, monkeypatch, capsys) -> Callable[..., Outcome]:
    """Calls an entry point with the words of a command line; returns its exit code and what it
    printed to stdout and stderr.
    """
    monkeypatch.chdir(tmp_path)

    def call(main: Callable[[], None], *words: object) -> Outcome:
        GlobalHydra.instance().clear()
        monkeypatch.setattr(sys, "argv", [str(word) for word in words])
        code = 0
        try:
            main()
        except SystemExit as exit_:
            code = int(exit_.code or 0)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call
