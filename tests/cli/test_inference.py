"""Commands that use a model: output, and errors as one sentence with exit code 2 and no partial
results.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import yaml

from lightning_reg.cli.main import main
from lightning_reg.cli.train import main as train
from lightning_reg.inference.report.again import report_again
from lightning_reg.io.folders import LISTING

RNG = np.random.default_rng(0)
SHAPE = (16, 14, 12)
AFFINE = np.diag([2.0, 2.0, 2.5, 1.0])
ONE_STAGE = "optimization.stages=[{transform: affine, stride: 2, steps: 3}]"


@pytest.fixture
def run(command) -> Callable[..., tuple[int, str, str]]:
    """Runs ``lightning-reg``; returns exit code, stdout and stderr, the words of both on one line."""

    def call(*words: object) -> tuple[int, str, str]:
        code, out, err = command(main, "lightning-reg", *words)
        return code, " ".join(out.split()), " ".join(err.split())

    return call


def image(path: str, values: np.ndarray, origin: float = 0.0, affine: np.ndarray = AFFINE) -> str:
    affine = affine.copy()
    affine[:3, 3] = origin
    nib.Nifti1Image(values, affine).to_filename(path)
    return path


@pytest.fixture
def pair(tmp_path: Path, run) -> dict[str, str]:
    """Two images, and the ways in which others of them are wrong."""
    i, j, k = np.meshgrid(*(np.arange(n) for n in SHAPE), indexing="ij")
    blob = 100 * np.exp(-(((i - 8) / 4) ** 2 + ((j - 7) / 3) ** 2 + ((k - 6) / 3) ** 2)).astype(
        np.float32
    )
    image("f.nii.gz", blob + RNG.normal(0, 1, SHAPE).astype(np.float32))
    image("m.nii.gz", np.roll(blob, 1, axis=0) + RNG.normal(0, 1, SHAPE).astype(np.float32))
    image("l.nii.gz", (blob > 40).astype(np.uint8))
    image("far.nii.gz", blob, origin=900.0)
    image("slice.nii.gz", blob[:, :, :1])
    image("flat.nii.gz", np.full(SHAPE, 3, np.float32))
    image("empty.nii.gz", np.zeros(SHAPE, np.uint8))
    image("elsewhere.nii.gz", (blob > 40).astype(np.uint8), origin=5.0)
    image("four.nii.gz", np.stack([blob, blob], axis=-1))
    image("nan.nii.gz", np.where(blob > 99, np.nan, blob).astype(np.float32))
    sheared = AFFINE.copy()
    sheared[0, 1] = 1.0
    image("sheared.nii.gz", blob, affine=sheared)
    Path("p.csv").write_text("x,y,z\n12,10,11\n14,12,13\n")
    Path("outside.csv").write_text("x,y,z\n12,10,11\n-14,-12,13\n")
    Path("three.csv").write_text("x,y,z\n12,10,11\n14,12,13\n1,1,1\n")
    Path("text.nii.gz").write_text("no image")
    Path("notes.ckpt").write_text("no model")
    Path("broken.yaml").write_text("a: [1")
    return {"fixed": "f.nii.gz", "moving": "m.nii.gz"}


def words(pair: dict[str, str], **changes: str | None) -> list[str]:
    given = {**pair, "out": "out", **changes}
    line = [
        "register",
        *(
            w
            for key, value in given.items()
            if value is not None
            for w in (f"--{key.replace('_', '-')}", value)
        ),
    ]
    return line if "model" in given else [*line, ONE_STAGE]


def test_register_apply_report(run, pair) -> None:
    code, out, _ = run(
        *words(
            pair,
            fixed_labels="l.nii.gz",
            moving_labels="l.nii.gz",
            fixed_landmarks="p.csv",
            moving_landmarks="p.csv",
        ),
        "--inverse",
    )
    assert code == 0
    for word in (
        "NCC",
        "Dice",
        "TRE, mm",
        "HD95, mm",
        "folding",
        "Everything is in out",
        "report.html",
    ):
        assert word in out
    expected = {
        "warped.nii.gz",
        "transform.h5",
        "displacement.nii.gz",
        "jacobian.nii.gz",
        "affine.tfm",
        "warped_labels.nii.gz",
    }
    expected |= {"inverse_transform.h5", "metrics.json", "report.html", LISTING}
    assert {p.name for p in Path("out").iterdir()} == expected
    assert (
        run(
            "apply",
            "--transform",
            "out/transform.h5",
            "--input",
            "m.nii.gz",
            "--reference",
            "f.nii.gz",
            "--out",
            "w.nii.gz",
        )[0]
        == 0
    )
    np.testing.assert_allclose(
        nib.load("w.nii.gz").get_fdata(), nib.load("out/warped.nii.gz").get_fdata(), atol=0.01
    )
    assert (
        run("apply", "--transform", "out/transform.h5", "--points", "p.csv", "--out", "q.csv")[0]
        == 0
    )
    assert len(Path("q.csv").read_text().splitlines()) == 3
    assert run("report", "out")[0] == 0
    assert run(*words(pair))[0] == 2
    assert run(*words(pair), "--overwrite")[0] == 0


MISTAKES = {
    "no such file": ({"fixed": "none.nii.gz"}, "There is no file none.nii.gz; correct the path."),
    "no image": ({"moving": "text.nii.gz"}, "text.nii.gz cannot be read as an image"),
    "one slice": (
        {"fixed": "slice.nii.gz"},
        "fixed is a single slice (16 x 14 x 1 voxels), and moving a volume; give slices or",
    ),
    "constant": ({"moving": "flat.nii.gz"}, "flat.nii.gz is constant (every voxel is 3)"),
    "time points": ({"moving": "four.nii.gz"}, "has 2 channels or time points"),
    "not a number": ({"moving": "nan.nii.gz"}, "NaN or infinite values"),
    "far away": ({"moving": "far.nii.gz"}, "do not overlap in the world"),
    "empty mask": (
        {"fixed_mask": "empty.nii.gz"},
        "empty.nii.gz is empty (0 everywhere); give another one, or none.",
    ),
    "mask elsewhere": (
        {"fixed_mask": "elsewhere.nii.gz"},
        "elsewhere.nii.gz lies on another grid than its image",
    ),
    "labels elsewhere": (
        {"fixed_labels": "elsewhere.nii.gz", "moving_labels": "l.nii.gz"},
        "lies on another grid than its image",
    ),
    "landmarks outside": (
        {"fixed_landmarks": "outside.csv", "moving_landmarks": "p.csv"},
        "1 of 2 landmarks of fixed lie outside its image",
    ),
    "landmarks in number": (
        {"fixed_landmarks": "p.csv", "moving_landmarks": "three.csv"},
        "they must correspond one to one",
    ),
    "no model": ({"model": "none.ckpt"}, "There is no checkpoint none.ckpt; correct the path."),
    "another file": ({"model": "notes.ckpt"}, "cannot be read as a checkpoint"),
    "no instance": (
        {"instance": "bspine"},
        "There is no instance optimisation named 'bspine'; did you mean 'bspline'?",
    ),
    "no device": ({"device": "gpu"}, "The device 'gpu' cannot be used; use cpu"),
    "steps below 0": ({"refine": "-3"}, "--refine is -3"),
    "no steps, no model": ({"refine": "0"}, "--refine 0 without a model registers nothing"),
    "skewed axes": (
        {"fixed": "sheared.nii.gz"},
        "are not perpendicular, which ITK cannot represent; resample the fixed image",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_sentence_and_leaves_nothing(mistake: str, run, pair) -> None:
    changes, sentence = MISTAKES[mistake]
    before = sorted(Path().iterdir())
    code, _, err = run(*words(pair, **changes))
    assert code == 2
    assert sentence in err
    assert "Traceback" not in err
    assert sorted(Path().iterdir()) == before


BASE = ["register", "--fixed", "f.nii.gz", "--moving", "m.nii.gz", "--out", "o"]
APPLY = ["apply", "--transform", "t.h5", "--input", "m.nii.gz", "--reference", "f.nii.gz", "--out"]


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ([*BASE, "--refin", "3"], "There is no option '--refin'; did you mean '--refine'?"),
        (["register", "--fixed", "f", "--moving", "m"], "the following arguments are required: --out"),
        ([*BASE, "optimization.patiense=3"], "did you mean 'optimization.patience'?"),
        ([*BASE, "--refine", "few"], "invalid int value: 'few'"),
        ([*BASE, "--start", "affine.tfm"], "start is affine.tfm, and a registration does not start from a file"),
        ([*BASE, "--model", "x.ckpt", "--start", "auto"], "auto is for methods without a model"),
        ([*BASE, "--model", "x.ckpt", "optimization.patience=3"], "is of the refinement, which does not run; add --refine N"),
        ([*BASE, "optimization.stages=[]"], "optimization.stages has none with steps"),
        ([*BASE, "optimization.stages=[{transform: affine, steps: 0}]"], "give one or more with steps"),
        ([*BASE, "optimization.patience=abc"], "optimization.patience is 'abc'; give a whole number"),
        ([*BASE, "preprocessing.percentiles=[50,20]"], "percentiles is [50, 20]; give two numbers, the smaller one first"),
        ([*BASE, "preprocessing.spacin=2"], "did you mean 'spacing'?"),
        ([*BASE, "--instance", "broken.yaml"], "broken.yaml cannot be read as YAML"),
        (["regster"], "did you mean 'register'?"),
        (["apply", "--transform", "m.nii.gz", "--points", "p.csv", "--out", "q.csv"], "is an image and no transform"),
        (["apply", "--transform", "m.nii.gz", "--points", "p.csv", "--out", "x.nii.gz"], "Points are written as CSV"),
        (["export", "--model", "x.ckpt", "--onnx", "x.onnx", "--shape", "8", "8", "8", "--spacing", "1", "1", "0"], "have to be finite"),
        (["apply", "--transform", "t.h5", "--out", "x.nii.gz"], "Give either --input (an image) or --points"),
        (["apply", "--transform", "t.h5", "--input", "m.nii.gz", "--out", "x.nii.gz"], "An image needs --reference"),
        ([*APPLY, "x.jpg"], "The kind of file of x.jpg is not known"),
        ([*APPLY, "x.mha"], "There is no transform t.h5"),
        (["report", "none"], "There is no folder none"),
        (["evaluate", "--model", "none.ckpt", "--data", "phantom", "--out", "o"], "There is no checkpoint none.ckpt"),
    ],
)  # fmt: skip
def test_a_mistyped_command_is_one_sentence(line, sentence, run, pair) -> None:
    Path("x.ckpt").touch()
    code, _, err = run(*line)
    assert code == 2
    assert sentence in err


def test_a_reference_elsewhere_is_refused(run, pair) -> None:
    run(*words(pair), "--no-report")
    line = [
        "apply",
        "--transform",
        "out/transform.h5",
        "--input",
        "far.nii.gz",
        "--reference",
        "f.nii.gz",
        "--out",
        "x.nii.gz",
    ]
    code, _, err = run(*line)
    assert code == 2
    assert "No point of f.nii.gz lands in far.nii.gz under out/transform.h5" in err
    assert not Path("x.nii.gz").exists()


def test_labels_of_one_image_alone_are_not_scored_and_that_is_said(run, pair) -> None:
    code, out, _ = run(*words(pair, fixed_labels="l.nii.gz"), "--no-report")
    assert code == 0
    assert "Only one of the images has labels, so they are not scored" in out


def test_a_folder_with_other_files_is_not_overwritten(run, pair) -> None:
    Path("out").mkdir()
    Path("out/thesis.tex").write_text("years")
    assert "out exists" in run(*words(pair))[2]
    assert "holds no results" in run(*words(pair), "--overwrite")[2]
    assert Path("out/thesis.tex").read_text() == "years"


def test_images_that_headers_do_not_relate(run, pair) -> None:
    assert run(*words(pair, moving="far.nii.gz", start="centers"), "--no-report")[0] == 0


def test_a_method_of_ones_own(run, pair) -> None:
    Path("mine.yaml").write_text(yaml.safe_dump({
        "preprocessing": {"canonical": False}, "start": "headers",
        "optimization": {"loss": {"ssd": None}, "stages": [{"transform": "affine", "steps": 2}]},
    }))  # fmt: skip
    assert run(*words(pair, instance="mine.yaml")[:-1], "--no-report")[0] == 0
    Path("mine.yaml").write_text("loss: {}")
    code, _, err = run(*words(pair, instance="mine.yaml", out="other")[:-1])
    assert code == 2
    assert "mine.yaml lacks preprocessing, start, optimization; copy" in err


def test_help_names_every_command(run) -> None:
    code, out, _ = run("--help")
    assert code == 0
    for name in ("train", "register", "apply", "evaluate", "report", "export", "plugins"):
        assert name in out


@pytest.mark.slow
def test_from_training_to_evaluation(run, command, pair) -> None:
    """A run, its report, its model on its data, against itself, and on a pair with refinement."""
    small = [
        "data.dataset.shape=[16,16,16]",
        "data.dataset.subjects=1",
        "data.dataset.validation=2",
        "data.workers=0",
        "data.samples_per_epoch=2",
    ]
    quick = [
        "experiment=smoke",
        "callbacks.progress_bar=null",
        "trainer.accelerator=cpu",
        "trainer.max_steps=2",
    ]
    line = [
        "train.py",
        "method=velocity",
        "method.composer.backbone.levels=2",
        *small,
        *quick,
        "hydra.run.dir=run",
    ]
    assert command(train, *line)[0] == 0
    assert "Run run" in report_again(Path("run")).read_text()
    best = "run/checkpoints/best.ckpt"
    overrides = [
        "data.dataset.shape=[16,16,16]",
        "data.dataset.subjects=1",
        "data.dataset.validation=2",
    ]
    code, out, err = run(
        "evaluate",
        "--model",
        best,
        "--data",
        "phantom",
        *overrides,
        "--model",
        f"again={best}",
        "--out",
        "e",
        "--learn2reg",
        "--refine",
        2,
    )
    assert code == 0, err
    assert all(
        word in out for word in ("TRE, mm", "before", "│ run", "│ again", "With 2 pairs p is")
    )
    assert len(list(Path("e/learn2reg").iterdir())) == 2
    code, _, err = run("evaluate", "--model", best, "--data", "phantm", "--out", "e2")
    assert code == 2
    assert "There is no data named 'phantm'; did you mean 'phantom'?" in err
    code, out, err = run(
        "register",
        "--fixed",
        "f.nii.gz",
        "--moving",
        "m.nii.gz",
        "--model",
        best,
        "--refine",
        "3",
        "--out",
        "r",
    )
    assert code == 0, err
    assert "unlike those the model was trained on" in out


def test_many_pairs_say_what_failed_and_that_methods_are_mixed(run, pair) -> None:
    fixed, moving = pair["fixed"], pair["moving"]
    Path("pairs.csv").write_text(
        f"pair,fixed,moving\ngood,{fixed},{moving}\nalso,{fixed},{moving}\nbad,{fixed},none.nii.gz\n"
    )
    few = "optimization.stages=[{transform: affine, steps: 1}]"
    code, out, _ = run("register", "--pairs", "pairs.csv", "--out", "cohort", few)
    assert code == 1
    assert " of 3: " in out
    assert "2 pairs registered, 1 failed." in out
    assert "bad: Line 4 of pairs.csv: there is no none.nii.gz" in out
    other = ["--only", "also", "--instance", "multimodal", few, "optimization.starts=1"]
    assert run("register", "--pairs", "pairs.csv", "--out", "cohort", *other)[0] == 0
    code, out, _ = run("collect", "cohort")
    assert code == 1
    assert "Not all by the same method: 1 by auto, 1 by multimodal (column 'by')." in out
    table = [line.split(",") for line in Path("cohort/results.csv").read_text().splitlines()]
    assert [row[table[0].index("by")] for row in table[1:]] == ["auto", "multimodal", ""]
