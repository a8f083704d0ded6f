"""Data on the command line: every data set from its provider's files to a trained and evaluated
model, own data, and errors.
"""

from __future__ import annotations

import csv
from pathlib import Path

import providers
import pytest

from lightning_reg.cli.main import main
from lightning_reg.cli.train import main as train
from lightning_reg.configuration.folders import own_directory

SIZE = {
    "dirlab": ["--shape", 32, 32, 32], "creatis": ["--shape", 16, 16, 16],
    "copdgene": ["--shape", 16, 16, 16], "nlst": ["--spacing", 18],
    "lung_mri": ["--shape", 16, 16, 16], "acdc": ["--spacing", 4, 4, 8],
    "oasis": ["--shape", 16, 16, 16],
}  # fmt: skip
SMALL = [
    "method=velocity", "method.composer.backbone.levels=2", "data.workers=0",
    "data.samples_per_epoch=2", "hydra.run.dir=run",
    "experiment=smoke", "callbacks.progress_bar=null", "trainer.enable_progress_bar=false",
    "trainer.accelerator=cpu",
    "trainer.max_steps=2",
]  # fmt: skip


@pytest.fixture
def run(command):
    def call(*words: object) -> tuple[int, str, str]:
        return command(main, "lightning-reg", *words)

    return call


def test_every_data_configuration_is_trained_on_somewhere() -> None:
    here = {*providers.RAW, "phantom", "shapes", "prepared", "pairs", "folder"}
    assert here == {path.stem for path in (own_directory() / "data").glob("*.yaml")}, (
        "give tests/providers.py a generator of the new data set"
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", [*providers.RAW, "phantom", "shapes"])
def test_from_the_providers_files_to_an_evaluated_model(
    run, command, tmp_path: Path, name: str
) -> None:
    raw = tmp_path / "raw files, ünpacked"
    raw.mkdir()
    source = [
        "data.dataset.shape=[16,16,16]",
        "data.dataset.subjects=2",
        "data.dataset.validation=1",
    ]
    if name in providers.RAW:
        providers.RAW[name](raw)
        source = ["--source", raw]
    before = {path: path.stat().st_mtime_ns for path in raw.rglob("*")}
    code, out, err = run("prepare", name, *source, "--out", "prepared", *SIZE.get(name, []))
    assert code == 0, out + err
    assert "0 could not be prepared" in out
    root = (
        [f"data.root={tmp_path / 'prepared'}"]
        if name in providers.RAW
        else ["data=prepared", f"data.root={tmp_path / 'prepared'}"]
    )
    data = name if name in providers.RAW else "prepared"
    code, out, err = command(train, "train.py", f"data={data}", *root, *SMALL)
    assert code == 0, err
    code, out, err = run(
        "evaluate",
        "--model",
        "run/checkpoints/best.ckpt",
        "--data",
        data,
        root[-1],
        "--out",
        "evaluated",
        "--split",
        "all",
        "--limit",
        1,
    )
    assert code == 0, err
    assert (tmp_path / "evaluated" / "cases.csv").read_text().count("\n") == 2
    assert before == {path: path.stat().st_mtime_ns for path in raw.rglob("*")}, (
        "the source was written to"
    )


def test_check_prints_one_table_and_one_verdict(run, tmp_path: Path) -> None:
    raw = providers.lung_mri(tmp_path / "scans")
    table = tmp_path / "found.csv"
    code, out, err = run("check", raw, "--method", "velocity", "--table", table, "--workers", 2)
    assert code == 0, out + err
    assert "Ready to train: 0 errors, 0 warnings." in out
    assert "A training step of method=velocity on images of 32 x 28 x 30 voxels wants about" in out
    assert f"Read as scans: 6, as {raw / 'patient0' / 'exhale.nii.gz'}" in out
    assert f"Read as masks: 6, as {raw / 'patient0' / 'exhale_mask.nii.gz'}" in out
    assert table.read_text().count("\n") == 7
    (raw / "patient1" / "inhale.nii.gz").write_bytes(b"nothing")
    code, out, err = run("check", raw, "--fix", tmp_path / "fixed", "--table", table)
    assert code == 1
    assert "Not ready to train: 1 error, 0 warnings." in out
    assert "inhale.nii.gz cannot be read as an image" in out
    assert "5 of 6 scans are in" in out
    assert "cannot be read" in table.read_text()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["check", "nowhere"], "There is no file nowhere; correct the path."),
        (
            ["check", ".", "--methd", "velocity"],
            "There is no option '--methd'; did you mean '--method'?",
        ),
        (["check", "."], "holds no images"),
        (
            ["prepare", "dirlap", "--source", ".", "--out", "o"],
            "no data named 'dirlap'; did you mean 'dirlab'?",
        ),
        (["prepare", "dirlab", "--source", "nowhere", "--out", "o"], "There is no folder nowhere"),
        (["prepare", "dirlab", "--out", "o"], "'data.root' has to be given"),
        (
            ["prepare", "phantom", "--source", ".", "--out", "o"],
            "data=phantom makes its own images; leave the folder . out",
        ),
        (
            ["prepare", "phantom", "--out", "o", "--shape", 8, 8, 8, "--spacing", 2],
            "--spacing and --shape are both given",
        ),
        (
            ["prepare", "phantom", "--out", "o", "--spacing", 2, 3],
            "--spacing has 2 numbers; give one or three.",
        ),
        (["prepare", "phantom", "--out", "o", "--crop", "lung"], "did you mean 'lungs'"),
        (
            ["prepare", "dirlab", "--source", ".", "--out", "o", "data.dataset.ofset=1"],
            "no option 'data.dataset.ofset'",
        ),
    ],
)
def test_a_mistake_is_one_sentence(run, words: list, message: str) -> None:
    code, _, err = run(*words)
    assert code == 2
    assert message in err
    assert "Traceback" not in err


def test_prepared_twice_is_prepared_once(run, tmp_path: Path) -> None:
    providers.lung_mri(tmp_path / "raw")
    line = [
        "prepare",
        "lung_mri",
        "--source",
        tmp_path / "raw",
        "--out",
        "out",
        "--shape",
        16,
        16,
        16,
    ]
    assert "0 of them were there already" in run(*line)[1]
    assert "6 of them were there already" in run(*line)[1]
    (tmp_path / "raw" / "patient0" / "inhale.nii.gz").write_bytes(b"nothing")
    code, out, _ = run(*line)
    assert code == 1
    assert "5 of them were there already, 1 could not be prepared" in out
    assert "inhale.nii.gz cannot be read as an image" in out


@pytest.mark.slow
def test_a_model_trained_on_prepared_data_does_the_same_to_the_raw_files(
    run, command, tmp_path: Path
) -> None:
    """The crop to the lungs and the resolution are part of the model: what it finds in raw images
    is what it found in prepared ones.
    """
    raw = providers.creatis(tmp_path / "raw")
    assert (
        run("prepare", "creatis", "--source", raw, "--out", "prepared", "--shape", 16, 16, 16)[0]
        == 0
    )
    assert command(train, "train.py", "data=creatis", "data.root=prepared", *SMALL)[0] == 0
    found = []
    for root in ("prepared", "raw"):
        line = ["--data", "creatis", f"data.root={root}", "--split", "all", "--out", f"on_{root}"]
        code, _, err = run("evaluate", "--model", "run/checkpoints/best.ckpt", *line)
        assert code == 0, err
        with (tmp_path / f"on_{root}" / "cases.csv").open() as file:
            found.append(
                [
                    (row["case"], float(row["tre_before_mm"]), float(row["tre_after_mm"]))
                    for row in csv.DictReader(file)
                ]
            )
    for (name, before, after), (other, *values) in zip(*found, strict=True):
        assert name == other
        assert values == pytest.approx([before, after], abs=1e-3)
        assert before != after


@pytest.mark.slow
def test_augmented_on_the_device_a_run_trains_and_resumes(command, tmp_path: Path) -> None:
    data = [
        "data=phantom",
        "data.dataset.shape=[20,18,16]",
        "data.dataset.subjects=2",
        "data.dataset.validation=1",
        "data.batch_size=2",
    ]
    changes = [
        "data.augment_on=device",
        "data.augmentation.turn=[2]",
        "data.augmentation.crop_mm=10",
        "data.augmentation.affine={degrees:5}",
    ]
    code, _, err = command(train, "train.py", *data, *changes, *SMALL)
    assert code == 0, err
    code, _, err = command(train, "train.py", "resume=run", "trainer.max_steps=4")
    assert code == 0, err


def test_raw_files_without_the_masks_that_a_method_needs(command, tmp_path: Path) -> None:
    small = [word for word in SMALL if not word.startswith("method=")]
    raw = providers.creatis(tmp_path / "raw")
    code, _, err = command(
        train, "train.py", "method=progressive", "data=creatis", f"data.root={raw}", *small
    )
    assert code == 2
    assert "'field_error' needs fixed_mask" in err
    assert "lightning-reg prepare makes the lung masks of these data" in err
