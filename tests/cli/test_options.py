"""Options of the commands: effects described in the help, checked in files and output."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Mapping
from io import StringIO
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import providers
import pytest
import SimpleITK as sitk
import torch
import untrained
from omegaconf import OmegaConf
from rich.console import Console
from rich.table import Table

from lightning_reg.cli.main import main
from lightning_reg.cli.tables import cases_table, comparison_table, metrics_table, totals_table
from lightning_reg.configuration.composition import register as register_resolvers
from lightning_reg.metrics import Comparison, PairMetrics
from lightning_reg.metrics.table import BY_KEY

Run = Callable[..., str]
SMALL = [
    "data.dataset.shape=[20,18,16]",
    "data.dataset.subjects=1",
    "data.dataset.validation=3",
    "data.dataset.crop=null",
]
PHANTOM = ["--data", "phantom", *SMALL]
ONE_STAGE = "optimization.stages=[{transform: affine, stride: 1, steps: 3}]"
QUICK = """
start: headers
preprocessing: {window: [-1000, 500]}
optimization:
  loss: {ncc: {}}
  stages: [{transform: affine, stride: 2, steps: 5}]
"""
MINE = """
preprocessing: {canonical: false}
start: headers
optimization: {loss: {ssd: {weight: 50}}, stages: [{transform: affine, stride: 1, steps: 9, lr: 0.02}]}
"""
PLACE = np.diag([2.0, 2.5, 3.0, 1.0])


@pytest.fixture
def run(command) -> Run:
    """Runs ``lightning-reg`` in an empty folder, which has to succeed; returns what it printed, on
    one line.
    """

    def call(*words: object) -> str:
        code, out, err = command(main, "lightning-reg", *words)
        assert code == 0, out + err
        return " ".join(out.split())

    return call


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> tuple[Path, Path]:
    """Two checkpoints whose networks differ."""
    folder = tmp_path_factory.mktemp("models")
    return tuple(
        untrained.checkpoint(folder / f"{n}.ckpt", preprocessing={"window": [-1000, 500]}, seed=n)
        for n in (2, 3)
    )  # type: ignore[return-value]


def rows(path: str) -> list[dict[str, str]]:
    with Path(path).open(newline="") as file:
        return list(csv.DictReader(file))


def record(folder: str) -> dict[str, Any]:
    return json.loads((Path(folder) / "metrics.json").read_text())


def write(
    path: str, values: np.ndarray, origin: tuple[float, float, float] = (-7.0, 4.0, 11.0)
) -> str:
    affine = PLACE.copy()
    affine[:3, 3] = origin
    nib.Nifti1Image(values, affine).to_filename(path)
    return path


def blob(shift: float = 0.0, shape: tuple[int, int, int] = (16, 14, 12)) -> np.ndarray:
    i, j, k = np.meshgrid(*(np.arange(n) for n in shape), indexing="ij")
    return (
        100 * np.exp(-(((i - 8 - shift) / 4) ** 2 + ((j - 7) / 3) ** 2 + ((k - 6) / 3) ** 2))
    ).astype(np.float32)


@pytest.fixture
def half_a_voxel(run) -> Path:
    """A translation by half a voxel to the patient's right, in a file."""
    sitk.WriteTransform(
        sitk.AffineTransform([1.0, 0, 0, 0, 1, 0, 0, 0, 1], [-1.0, 0.0, 0.0]), "t.tfm"
    )
    return Path("t.tfm")


def test_apply_labels_keeps_the_numbers(run, half_a_voxel) -> None:
    """Between 0 and 40 there is nothing."""
    write("l.nii.gz", np.where(blob() > 40, 40, 0).astype(np.int16))
    line = [
        "apply",
        "--transform",
        half_a_voxel,
        "--input",
        "l.nii.gz",
        "--reference",
        "l.nii.gz",
        "--out",
    ]
    run(*line, "labels.nii.gz", "--labels")
    run(*line, "image.nii.gz")
    labels, image = (
        np.asarray(nib.load(name).dataobj) for name in ("labels.nii.gz", "image.nii.gz")
    )
    assert set(np.unique(labels)) == {0, 40}
    assert labels.dtype.kind in "iu"
    assert np.isclose(image, 20).any()


def test_apply_inverse_and_reference(run, half_a_voxel) -> None:
    """A ramp along the first axis, 1 per voxel, onto a smaller grid that begins two voxels further."""
    ramp = np.broadcast_to(np.arange(16, dtype=np.float32).reshape(-1, 1, 1), (16, 14, 12))
    write("ramp.nii.gz", ramp.copy())
    write("part.nii.gz", blob(shape=(8, 7, 6)), (-3.0, 4.0, 11.0))
    line = [
        "apply",
        "--transform",
        half_a_voxel,
        "--input",
        "ramp.nii.gz",
        "--reference",
        "part.nii.gz",
        "--out",
    ]
    run(*line, "there.nii.gz")
    run(*line, "back.nii.gz", "--inverse")
    there, back = (nib.load(name).get_fdata() for name in ("there.nii.gz", "back.nii.gz"))
    assert there.shape == (8, 7, 6)
    np.testing.assert_allclose(there[:, 3, 3], np.arange(8) + 2.5, atol=1e-4)
    np.testing.assert_allclose(back[:, 3, 3], np.arange(8) + 1.5, atol=1e-4)
    Path("p.csv").write_text("i,j,k\n1,2,3\n")
    points = [
        "apply",
        "--transform",
        half_a_voxel,
        "--points",
        "p.csv",
        "--reference",
        "part.nii.gz",
        "--out",
    ]
    run(*points, "q.csv")
    run(*points, "r.csv", "--inverse")
    assert [float(v) for v in rows("q.csv")[0].values()] == pytest.approx(
        [-3 + 2 + 1, 4 + 5, 11 + 9]
    )
    assert [float(v) for v in rows("r.csv")[0].values()] == pytest.approx(
        [-3 + 2 - 1, 4 + 5, 11 + 9]
    )


@pytest.mark.parametrize(
    ("options", "cases"),
    [
        (["--split", "train"], ["0"]),
        (["--split", "all", "--limit", 2], ["0", "1000"]),
        (["--limit", 2], ["1000", "1001"]),
    ],
)
def test_evaluate_takes_the_pairs_of_its_split_and_limit(options, cases, run, models) -> None:
    out = run("evaluate", "--model", models[0], *PHANTOM, "--out", "e", *options)
    assert [row["case"] for row in rows("e/cases.csv")] == [
        f"phantom-{case} inhale < exhale" for case in cases
    ]
    assert f"{len(cases)} pairs. Everything is in e" in out


def test_shares_of_an_evaluation_join_to_the_whole(run, command, models) -> None:
    words = ("evaluate", "--model", models[0], *PHANTOM, "--limit", 2, "--out")
    run(*words, "whole")
    out = run(*words, "shares", "--shard", "2/2")
    assert "This share of the pairs is evaluated" in out
    assert not Path("shares/cases.csv").exists()
    out = run(*words, "shares", "--shard", "1/2")
    assert "2 pairs. Everything is in shares" in out
    whole, shares = (
        [{**r, "seconds": ""} for r in rows(f"{n}/cases.csv")] for n in ("whole", "shares")
    )
    assert whole == shares
    assert len(whole) == 2
    for shard, told in (("3", "--shard is '3'; give I/N"), ("3/2", "There is no share 3/2")):
        code, _, err = command(main, "lightning-reg", *words, "new", "--shard", shard)
        assert (code, told in err) == (2, True)


@pytest.mark.slow
def test_evaluate_refines_by_so_many_steps_of_its_method(run, models) -> None:
    """The network alone, refined, and refined otherwise: three results."""
    Path("mine.yaml").write_text(MINE)
    options = {
        "plain": [],
        "refined": ["--refine", 3],
        "mine": ["--refine", 3, "--refinement", "mine.yaml"],
    }
    for name, words in options.items():
        run("evaluate", "--model", models[0], *PHANTOM, "--limit", 1, "--out", name, *words)
    found = {name: float(rows(f"{name}/cases.csv")[0]["ncc_after"]) for name in options}
    assert len({round(value, 5) for value in found.values()}) == 3
    assert found["plain"] < min(found["refined"], found["mine"])
    assert [record(name)["settings"]["methods"]["model"]["refine"] for name in options] == [
        None,
        3,
        3,
    ]


@pytest.mark.slow
def test_evaluate_compares_models_an_instance_method_and_files_on_the_same_cases(
    run, models
) -> None:
    """A cohort's transforms are those of its model, whose row they repeat."""
    Path("quick.yaml").write_text(QUICK)
    two = [*PHANTOM, "--limit", 2]
    named = [f"one={models[0]}", f"two={models[1]}"]
    out = run(
        "evaluate",
        "--model",
        named[0],
        "--model",
        named[1],
        "--instance",
        "quick=quick.yaml",
        *two,
        "--out",
        "both",
        "--learn2reg",
    )
    run("evaluate", "--model", models[1], *two, "--out", "second", "--learn2reg")
    cases = rows("both/cases.csv")
    assert [row["method"] for row in cases] == ["one", "one", "two", "two", "quick", "quick"]
    for row, alone in zip(cases[2:4], rows("second/cases.csv"), strict=True):
        assert row | {"seconds": "", "method": ""} == alone | {"seconds": "", "method": ""}
    means = {
        name: np.mean([float(row["tre_after_mm"]) for row in cases if row["method"] == name])
        for name in ("one", "two", "quick")
    }
    best = min(means, key=means.get)
    differences = {
        d["method"]: d["mean"] for d in record("both")["differences"] if d["metric"] == "tre"
    }
    assert differences == {
        name: pytest.approx(mean - means[best]) for name, mean in means.items() if name != best
    }
    assert abs(means["one"] - means["two"]) > 0.01
    assert "With 2 pairs p is at least 1" in out
    for name in ("table.csv", "table.md", "table.tex"):
        assert all(method in Path("both", name).read_text() for method in means)
    run("evaluate", "--model", models[0], *two, "--out", "first", "--learn2reg")
    both, first, second = (
        {path.name: nib.load(path).get_fdata() for path in Path(folder, "learn2reg").iterdir()}
        for folder in ("both", "first", "second")
    )
    assert (
        set(both) == set(first) == {f"disp_phantom-{n}-inhale_exhale.nii.gz" for n in (1000, 1001)}
    )
    for name, field in both.items():
        np.testing.assert_array_equal(field, first[name])
        assert np.abs(field - second[name]).max() > 0.1


def headers(folder: str) -> list[nib.Nifti1Header]:
    return [nib.load(path).header for path in sorted(Path(folder, "images").rglob("*.nii.gz"))]


@pytest.mark.parametrize(
    ("options", "spacing", "shape"),
    [
        (["--spacing", 15], (15, 15, 15), None),
        (["--spacing", 14, 15, 20], (14, 15, 20), None),
        (["--shape", 10, 12, 14], None, (10, 12, 14)),
        ([], None, (20, 18, 16)),
    ],
)
def test_prepare_resamples_to_the_spacing_or_the_shape(options, spacing, shape, run) -> None:
    run("prepare", "phantom", *SMALL, "--out", "p", "--crop", "none", *options)
    found = headers("p")
    assert len(found) == 8
    for header in found:
        assert spacing is None or header.get_zooms() == pytest.approx(spacing, rel=1e-3)
        assert shape is None or header.get_data_shape() == shape


def test_prepare_crops_to_the_masks_or_not(run, tmp_path: Path) -> None:
    """The lungs are some 220 of 334 mm wide, and 5 mm are left around them."""
    source = providers.lung_mri(tmp_path / "raw", patients=1)
    for crop, wide in (("none", (320, 340)), ("mask", (200, 290))):
        run(
            "prepare",
            "lung_mri",
            "--source",
            source,
            "--out",
            crop,
            "--crop",
            crop,
            "--spacing",
            10,
        )
        assert all(
            wide[0] <= 10 * header.get_data_shape()[0] <= wide[1] for header in headers(crop)
        )


def test_register_gives_every_file_its_place_and_writes_what_is_asked(run) -> None:
    """The labels of the two sides differ, and so do their masks and landmarks."""
    files = {
        "fixed": blob(),
        "moving": blob(1),
        "fixed-mask": blob() > 30,
        "moving-mask": blob(1) > 10,
        "fixed-labels": blob() > 50,
    }
    files["moving-labels"] = 1 + (blob(1) > 60)
    words = []
    for name, values in files.items():
        write(f"{name}.nii.gz", values if values.dtype == np.float32 else values.astype(np.uint8))
        words += [f"--{name}", f"{name}.nii.gz"]
    for side, shift in (("fixed", 0), ("moving", 2)):
        Path(f"{side}.csv").write_text(f"x,y,z\n{9 + shift},21,29\n{7 + shift},24,26\n")
        words += [f"--{side}-landmarks", f"{side}.csv"]
    out = run(
        "register",
        *words,
        "--out",
        "o",
        "--refine",
        2,
        "--no-report",
        "--start",
        "headers",
        ONE_STAGE,
    )
    named = {name.replace("-", "_"): f"{name}.nii.gz" for name in files} | {
        f"{s}_landmarks": f"{s}.csv" for s in ("fixed", "moving")
    }
    assert {name: Path(path).name for name, path in record("o")["inputs"].items()} == named
    assert record("o")["metrics"]["tre_mm"]["before"] == pytest.approx(2)
    assert [len(values) - 1 for _, values in record("o")["history"]] == [2]
    assert set(record("o")["metrics"]["dice"]["labels"]) == {"1", "2"}
    assert not Path("o/report.html").exists()
    assert not Path("o/inverse_transform.h5").exists()
    assert "report.html" not in out


@pytest.mark.parametrize(
    ("start", "move"), [("centers", [47.0, -34.0, 0.0]), ("headers", [0.0, 0.0, 0.0])]
)
def test_register_starts_where_it_is_told(start, move, run) -> None:
    write("f.nii.gz", blob())
    write("m.nii.gz", blob(1), (40.0, -30.0, 11.0) if start == "centers" else (-7.0, 4.0, 11.0))
    line = ["register", "--fixed", "f.nii.gz", "--moving", "m.nii.gz", "--out", "o", "--no-report"]
    run(*line, "--start", start, "--instance", "multimodal", ONE_STAGE)
    expected = np.eye(4)
    expected[:3, 3] = move
    np.testing.assert_allclose(record("o")["start"], expected, atol=1e-5)
    assert record("o")["settings"]["instance"] == "multimodal"


def test_register_with_a_model_refines_by_the_method_that_is_named(run, models) -> None:
    """With a method its own number of steps, with ``--refine`` so many, without either none."""
    write("f.nii.gz", blob())
    write("m.nii.gz", blob(1))
    Path("mine.yaml").write_text(MINE)
    base = [
        "register",
        "--fixed",
        "f.nii.gz",
        "--moving",
        "m.nii.gz",
        "--model",
        models[0],
        "--no-report",
        "--out",
    ]
    run(*base, "none")
    run(*base, "own", "--instance", "mine.yaml", ONE_STAGE)
    run(*base, "few", "--instance", "mine.yaml", "--refine", 1, ONE_STAGE)
    steps = [
        [(kind, len(values) - 1) for kind, values in record(name)["history"]]
        for name in ("none", "own", "few")
    ]
    assert steps == [[], [("affine", 3)], [("affine", 1)]]
    assert list(record("own")["settings"]["refinement"]["optimization"]["loss"]) == ["ssd"]


def test_check_measures_so_many_pairs_and_prints_ranges(run) -> None:
    Path("d").mkdir()
    for n, shape in enumerate(((16, 14, 12), (18, 14, 10), (17, 14, 11), (16, 15, 12))):
        write(f"d/s{n}.nii.gz", blob(n / 2, shape) + 1)
    found = {
        pairs: run("check", "d", "--as", "folder", "--pairs", pairs, "data.held_out=1")
        for pairs in (0, 9)
    }
    assert "16 x 14 x 10 to 18 x 14 x 12" in found[9]
    assert "2 x 2.5 x 3" in found[9]
    assert "overlap in the world" in found[9]
    assert "overlap in the world" not in found[0]


def cells(table: Table) -> list[list[str]]:
    """The printed rows of a table."""
    printed = StringIO()
    Console(file=printed, width=200).print(table)
    return [
        [cell.strip() for cell in line.split("│")[1:-1]]
        for line in printed.getvalue().splitlines()
        if line.startswith("│")
    ]


def test_the_table_of_a_registration_has_before_on_the_left() -> None:
    def value(before: float, after: float) -> Mapping[str, float]:
        return {"before": before, "after": after}

    metrics = {
        "similarity": {"ncc": value(0.25, 0.75)},
        "tre_mm": value(8, 2),
        "hd95_mm": value(5, 4),
        "folding": 0.0125,
        "sdlogj": 0.5,
    }
    assert cells(metrics_table(metrics)) == [
        ["NCC", "0.250", "0.750"], ["TRE, mm", "8.000", "2.000"], ["HD95, mm", "5.000", "4.000"],
        ["folding, %", "", "1.250"], ["SDlogJ", "", "0.500"],
    ]  # fmt: skip


def test_the_table_of_cases_has_before_on_the_left_and_ends_with_all() -> None:
    cases = [
        PairMetrics(
            name,
            {
                BY_KEY["tre"]: {"before": torch.tensor(before), "after": torch.tensor(after)},
                BY_KEY["dice"]: {"before": {1: 0.5}, "after": {1: 0.75}},
                BY_KEY["folding"]: {"after": folding},
                BY_KEY["sdlogj"]: {"after": 0.25},
            },
        )
        for name, folding, before, after in (
            ("a", 0.02, [8.0, 10.0], [1.0, 3.0]),
            ("b", 0.0, [6.0, 6.0], [4.0, 4.0]),
        )
    ]
    found = cells(cases_table(cases))
    assert found[-3:] == [
        ["a", "9.00 ± 1.00", "2.00 ± 1.00", "0.500", "0.750", "2.00", "0.250"],
        ["b", "6.00 ± 0.00", "4.00 ± 0.00", "0.500", "0.750", "0.00", "0.250"],
        ["all 2", "7.50 ± 1.66", "3.00 ± 1.22", "0.500", "0.750", "1.00", "0.250"],
    ]


def test_the_table_of_totals_leaves_out_intervals_that_there_are_not() -> None:
    total = {"mean": 2.0, "sd": 0.5, "low": 1.5, "high": 2.5, "n": 4}
    nothing = total | {"low": float("nan"), "high": float("nan")}
    assert cells(totals_table({"tre": total, "seconds": nothing})) == [
        ["tre", "2", "0.5", "1.5 to 2.5", "4"],
        ["seconds", "2", "0.5", "", "4"],
    ]


def test_the_table_of_methods_has_the_best_in_bold_and_marks_what_differs() -> None:
    rows = {
        name: [
            {"case": n, "tre_before_mm": 9.0, "tre_after_mm": worse + 0.1 * n, "folding": 0.0}
            for n in range(8)
        ]
        for name, worse in (("ours", 1.0), ("theirs", 2.0))
    }
    rows["alike"] = [
        {**row, "tre_after_mm": row["tre_after_mm"] + (0.01 if n % 2 else -0.009)}
        for n, row in enumerate(rows["ours"])
    ]
    table = comparison_table(Comparison(rows))
    assert cells(table) == [
        ["before", "9.00 ± 0.00", ""],
        ["ours", "1.35 ± 0.24", "0.00 ± 0.00"],
        ["theirs", "2.35 ± 0.24*", "0.00 ± 0.00"],
        ["alike", "1.35 ± 0.25", "0.00 ± 0.00"],
    ]
    assert [str(cell.style) for cell in list(table.columns[1]._cells)] == [
        "",
        "bold",
        "",
        "bold",
    ]  # printed alike


def test_steps_scale_and_runs_have_their_folders() -> None:
    """The resolvers that the configuration files use."""
    register_resolvers()

    def resolved(text: str) -> Any:
        return OmegaConf.create({"stages": [{"steps": 5}, {"steps": 7}], "x": text}).x

    assert (
        resolved("${scaled:100,0.25}"),
        resolved("${scaled:3,0.1}"),
        resolved("${times:6,7}"),
    ) == (25, 1, 42)
    assert resolved("${total_steps:${stages}}") == 12
    assert resolved("${run_folder:null,null,runs/today}") == "runs/today"
    assert resolved("${run_folder:null,first,runs/today}") == "runs/first"
    assert resolved("${run_folder:null,here/first,runs/today}") == "here/first"
    assert resolved("${run_folder:here/checkpoints/last.ckpt,null,runs/today}") == "here"
    assert resolved("${run_folder:here,first,runs/today}") == "here"
