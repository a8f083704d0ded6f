"""Data from the command line: every data set from its provider's files to a trained and evaluated model; own data; mistakes."""

from __future__ import annotations

from pathlib import Path

import providers
import pytest

from lightning_reg.cli.main import main
from lightning_reg.cli.train import main as train
from lightning_reg.discovery.conf import own_directory

SIZE = {
    "dirlab": ["--shape", 32, 32, 32], "creatis": ["--shape", 16, 16, 16], "copdgene": ["--shape", 16, 16, 16], "nlst": ["--spacing", 18],
    "lung_mri": ["--shape", 16, 16, 16], "acdc": ["--spacing", 4, 4, 8], "oasis": ["--shape", 16, 16, 16],
}  # fmt: skip
SMALL = [
    "method=velocity", "method.composer.backbone.levels=2", "data.workers=0", "data.samples_per_epoch=2", "hydra.run.dir=run",
    "experiment=smoke", "callbacks.progress_bar=null", "trainer.enable_progress_bar=false", "trainer.accelerator=cpu",
    "trainer.max_steps=2",
]  # fmt: skip


@pytest.fixture
def run(command):
    def call(*words: object) -> tuple[int, str, str]:
        return command(main, "lightning-reg", *words)

    return call


def test_every_data_configuration_is_trained_on_somewhere() -> None:
    here = {*providers.RAW, "phantom", "prepared", "pairs", "folder"}
    assert here == {path.stem for path in (own_directory() / "data").glob("*.yaml")}, (
        "give tests/providers.py a generator of the new data set"
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", [*providers.RAW, "phantom"])
def test_from_the_providers_files_to_an_evaluated_model(run, command, tmp_path: Path, name: str) -> None:
    raw = tmp_path / "raw files, ünpacked"
    raw.mkdir()
    source = ["data.dataset.shape=[16,16,16]", "data.dataset.subjects=2", "data.dataset.validation=1"]
    if name in providers.RAW:
        providers.RAW[name](raw)
        source = ["--source", raw]
    before = {path: path.stat().st_mtime_ns for path in raw.rglob("*")}
    code, out, err = run("prepare", name, *source, "--out", "prepared", *SIZE.get(name, []))
    assert code == 0, out + err
    assert "0 could not be prepared" in out
    root = [f"data.root={tmp_path / 'prepared'}"] if name in providers.RAW else ["data=prepared", f"data.root={tmp_path / 'prepared'}"]
    data = name if name in providers.RAW else "prepared"
    code, out, err = command(train, "train.py", f"data={data}", *root, *SMALL)
    assert code == 0, err
    code, out, err = run(
        "evaluate", "--model", "run/checkpoints/best.ckpt", "--data", data, root[-1], "--out", "evaluated", "--split", "all", "--limit", 1
    )
    assert code == 0, err
    assert (tmp_path / "evaluated" / "cases.csv").read_text().count("\n") == 2
    assert before == {path: path.stat().st_mtime_ns for path in raw.rglob("*")}, "the source was written to"
