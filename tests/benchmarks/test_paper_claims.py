"""Interrupted and killed trainings in the benchmark of the papers' claims."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import paper_claims


def test_seconds_are_those_of_all_the_steps_that_count(tmp_path: Path, monkeypatch) -> None:
    """Asked to stop, a training goes on and its seconds add up; killed outright, it starts again,
    as nobody knows them.
    """
    resumed: list[Path | None] = []

    def asked_to_stop(config: dict, folder: Path, resume: Path | None) -> None:
        resumed.append(resume)
        (folder / "checkpoints").mkdir(parents=True, exist_ok=True)
        (folder / "checkpoints" / "last.ckpt").touch()
        if len(resumed) == 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(paper_claims, "train", asked_to_stop)
    config = {"trainer": {"max_steps": 5}}
    with pytest.raises(KeyboardInterrupt):
        paper_claims.Work._train(config, tmp_path)
    (tmp_path / "seconds.json").write_text("100.0")
    assert paper_claims.Work._train(config, tmp_path)["seconds"] > 100
    assert resumed[-1] is not None

    (tmp_path / "trained").unlink()
    (tmp_path / "running").touch()  # what a kill leaves
    assert paper_claims.Work._train(config, tmp_path)["seconds"] < 100
    assert resumed[-1] is None
    assert json.loads((tmp_path / "seconds.json").read_text()) < 100
