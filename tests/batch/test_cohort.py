"""Cohorts: lists of pairs, registration of each pair once despite killed processes, and the quality
page.
"""

from __future__ import annotations

import csv
import errno
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from untrained import checkpoint

from lightning_reg.batch.cohort.collect import collect
from lightning_reg.batch.cohort.ledger import Ledger
from lightning_reg.batch.cohort.pairs import (
    CohortPair,
    pairs_from_folder,
    pairs_from_series,
    pairs_from_table,
)
from lightning_reg.batch.cohort.register import ENDED, register_cohort
from lightning_reg.inference.loading import load
from lightning_reg.inference.registrar import Registrar
from lightning_reg.inference.result import Result
from lightning_reg.registry import DataError, UserError

SHAPE = (14, 16, 12)


def write(path: Path, seed: int) -> Path:
    """A smooth image with voxels of 3 mm; of every seed another one."""
    rng = np.random.default_rng(seed)
    coarse = rng.normal(size=(4, 4, 4))
    index = np.stack(np.meshgrid(*(np.linspace(0, 3, n) for n in SHAPE), indexing="ij"))
    from scipy.ndimage import map_coordinates

    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(
        nib.Nifti1Image(
            map_coordinates(coarse, index, order=1).astype(np.float32), np.diag([3.0, 3, 3, 1])
        ),
        path,
    )
    return path


def table(folder: Path, count: int) -> Path:
    """``p0, p1, ...``: each image the fixed one of the next."""
    for number in range(count + 1):
        write(folder / f"{number}.nii.gz", number)
    lines = ["pair,fixed,moving", *(f"p{n},{n}.nii.gz,{n + 1}.nii.gz" for n in range(count))]
    (folder / "pairs.csv").write_text("\n".join(lines) + "\n")
    return folder / "pairs.csv"


@pytest.fixture(scope="module")
def best(tmp_path_factory) -> Path:
    return checkpoint(tmp_path_factory.mktemp("model") / "best.ckpt")


@pytest.fixture
def registrar(best: Path) -> Registrar:
    return load(best)


def rows(folder: Path, name: str = "results.csv") -> dict[str, dict[str, str]]:
    with (folder / name).open(newline="") as file:
        return {row["pair"]: row for row in csv.DictReader(file)}


def written(folder: Path) -> dict[str, int]:
    return {
        path.parent.name: path.stat().st_mtime_ns
        for path in (folder / "pairs").glob("[!.]*/.written.json")
    }


# Which pairs.


def test_a_table_gives_its_pairs_names_files_and_what_is_wrong_with_single_lines(
    tmp_path: Path,
) -> None:
    for name in ("a/img.nii.gz", "b/img.nii.gz", "c/img.nii.gz", "c/seg.nii.gz"):
        write(tmp_path / name, 0)
    lines = [
        "pair;fixed;moving;moving_labels",
        ";a/img.nii.gz;b/img.nii.gz;",
        ";a/img.nii.gz;c/img.nii.gz;c/seg.nii.gz",
    ]
    lines += [
        "my pair/1;b/img.nii.gz;c/img.nii.gz;",
        "my pair/1;b/img.nii.gz;;",
        ";a/img.nii.gz;d/img.nii.gz;",
    ]
    (tmp_path / "pairs.csv").write_text("\n".join(lines) + "\n")
    pairs = pairs_from_table(tmp_path / "pairs.csv")
    assert [pair.name for pair in pairs] == [
        "a-img__b-img",
        "a-img__c-img",
        "my-pair-1",
        "my-pair-1-2",
        "a-img__d-img",
    ]
    assert pairs[1].sources == {
        s: tmp_path / f
        for s, f in (
            ("fixed", "a/img.nii.gz"),
            ("moving", "c/img.nii.gz"),
            ("moving_labels", "c/seg.nii.gz"),
        )
    }
    assert [pair.problem is None for pair in pairs] == [True, True, True, False, False]
    assert "Line 5" in str(pairs[3].problem)
    assert "no moving image" in str(pairs[3].problem)
    assert f"there is no {tmp_path / 'd/img.nii.gz'}" in str(pairs[4].problem)


def test_a_path_of_nobodys_home_is_a_problem_of_its_line(tmp_path: Path) -> None:
    (tmp_path / "pairs.csv").write_text("pair,fixed,moving\na,~nosuchuser/x.nii.gz,y.nii.gz\n")
    (pair,) = pairs_from_table(tmp_path / "pairs.csv")
    assert "Line 2" in str(pair.problem)
    assert "a user's name that this machine does not know" in str(pair.problem)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("fixed,moving,moving\na,b,c\n", "column 'moving' twice"),
        ("fixed,moving\na,b,c\n", "Line 2 .* more cells"),
    ],
)
def test_a_table_with_a_column_twice_or_too_many_cells_is_refused(
    text: str, told: str, tmp_path: Path
) -> None:
    (tmp_path / "pairs.csv").write_text(text)
    with pytest.raises(DataError, match=told):
        pairs_from_table(tmp_path / "pairs.csv")


def test_a_table_with_an_unknown_column_is_refused(tmp_path: Path) -> None:
    (tmp_path / "pairs.csv").write_text("fixed,moving,fixed_label\na,b,c\n")
    with pytest.raises(DataError, match="'fixed_label'; did you mean 'fixed_labels'"):
        pairs_from_table(tmp_path / "pairs.csv")


def test_a_folder_gives_its_usual_pairs_all_to_one_or_each_to_the_one_before(
    tmp_path: Path,
) -> None:
    for subject in ("x", "y"):
        for time_point in ("t0", "t1", "t2"):
            write(tmp_path / subject / f"{time_point}.nii.gz", 0)
    usual = pairs_from_folder(tmp_path)
    assert [pair.name for pair in usual] == ["x-t0__x-t1", "x-t0__x-t2", "y-t0__y-t1", "y-t0__y-t2"]
    following = pairs_from_folder(tmp_path, consecutive=True)
    assert [pair.name for pair in following] == [
        "x-t0__x-t1",
        "x-t1__x-t2",
        "y-t0__y-t1",
        "y-t1__y-t2",
    ]
    to_one = pairs_from_folder(tmp_path, to="y t1")
    assert [pair.name for pair in to_one] == [
        f"y-t1__{n}" for n in ("x-t0", "x-t1", "x-t2", "y-t0", "y-t2")
    ]
    assert {pair.sources["fixed"] for pair in to_one} == {tmp_path / "y/t1.nii.gz"}
    itself = pairs_from_folder(tmp_path, to=str(tmp_path / "y" / ".." / "y" / "t1.nii.gz"))
    assert len(itself) == 5
    atlas = write(tmp_path.parent / "atlas.nii.gz", 1)
    assert len(pairs_from_folder(tmp_path, to=str(atlas))) == 6
    with pytest.raises(DataError, match="no scan and no file 'y t9'; did you mean 'y t"):
        pairs_from_folder(tmp_path, to="y t9")


def series(folder: Path, count: int = 3) -> tuple[Path, list[np.ndarray]]:
    frames = [
        nib.load(write(folder / "frames" / f"f{n}.nii.gz", n)).get_fdata() for n in range(count)
    ]
    nib.save(
        nib.Nifti1Image(np.stack(frames, 3).astype(np.float32), np.diag([3.0, 3, 3, 1])),
        folder / "series.nii.gz",
    )
    return folder / "series.nii.gz", frames


def test_a_series_is_registered_to_one_of_its_time_points_or_to_their_mean(tmp_path: Path) -> None:
    path, frames = series(tmp_path)
    pairs = pairs_from_series(path, "1")
    assert [pair.name for pair in pairs] == ["t0", "t2"]
    opened = pairs[1].opened()
    np.testing.assert_allclose(opened["fixed"].get_fdata(), frames[1], atol=1e-6)
    np.testing.assert_allclose(opened["moving"].get_fdata(), frames[2], atol=1e-6)
    from_files = pairs_from_series(tmp_path / "frames", "1")
    assert [pair.sources["moving"] for pair in from_files] == [
        tmp_path / "frames" / f"f{n}.nii.gz" for n in (0, 2)
    ]
    to_mean = pairs_from_series(path, "mean", tmp_path / "out" / "mean.nii.gz")
    assert [pair.name for pair in to_mean] == ["t0", "t1", "t2"]
    assert not (tmp_path / "out").exists()
    assert to_mean[0].described() == {"fixed": f"mean of {path}", "moving": f"{path}[0]"}
    assert to_mean[0].opened()["fixed"] == tmp_path / "out" / "mean.nii.gz"
    np.testing.assert_allclose(
        nib.load(tmp_path / "out" / "mean.nii.gz").get_fdata(), np.mean(frames, 0), atol=1e-6
    )


@pytest.mark.parametrize(
    ("to", "told"),
    [
        ("3", "0 to 2, or mean"),
        ("first", "give the number of a time point"),
        ("²", "give the number"),
    ],
)
def test_a_time_point_that_is_not_there_is_refused(to: str, told: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=told):
        pairs_from_series(series(tmp_path)[0], to)


def test_an_image_of_three_axes_is_no_series(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="has 3 axes and is no time series"):
        pairs_from_series(write(tmp_path / "a.nii.gz", 0))


# Registering them.


def test_results_are_those_of_each_pair_alone_and_failures_are_rows(
    registrar: Registrar, tmp_path: Path
) -> None:
    pairs = pairs_from_table(table(tmp_path, 4))
    (tmp_path / "2.nii.gz").write_bytes((tmp_path / "2.nii.gz").read_bytes()[:150])
    seen: list[int] = []
    told = register_cohort(
        registrar, pairs, tmp_path / "out", progress=lambda now: seen.append(now.done + now.failed)
    )
    assert (told.done, told.failed, told.total, told.earlier) == (2, 2, 4, 0)
    assert seen == sorted(seen)
    found = rows(tmp_path / "out")
    assert list(found) == ["p0", "p1", "p2", "p3"]
    assert [row["status"] for row in found.values()] == ["done", "failed", "failed", "done"]
    assert all("2.nii.gz cannot be read" in found[name]["message"] for name in ("p1", "p2"))
    for name in ("p0", "p3"):
        number = int(name[1])
        alone = registrar.register(tmp_path / f"{number}.nii.gz", tmp_path / f"{number + 1}.nii.gz")
        for column, value in alone.case.row().items():
            if column != "case":
                assert float(found[name][column]) == pytest.approx(value, rel=1e-4, abs=1e-6), (
                    column
                )
        transform = sitk.ReadTransform(str(tmp_path / "out/pairs" / name / "transform.h5"))
        point = np.array([20.0, 22.0, 17.0])
        mapped = np.array(transform.TransformPoint(tuple(point * [-1, -1, 1]))) * [-1, -1, 1]
        np.testing.assert_allclose(mapped, alone.map_points([point])[0], atol=1e-3)


def test_a_second_start_does_what_is_left(registrar: Registrar, tmp_path: Path) -> None:
    """A pair that failed is tried again, one that is done is not, and the table may have grown."""
    pairs = pairs_from_table(table(tmp_path, 3))
    kept = (tmp_path / "3.nii.gz").read_bytes()
    (tmp_path / "3.nii.gz").write_bytes(b"")
    register_cohort(registrar, pairs, tmp_path / "out")
    before = written(tmp_path / "out")
    assert set(before) == {"p0", "p1"}
    (tmp_path / "3.nii.gz").write_bytes(kept)
    with (tmp_path / "pairs.csv").open("a") as file:
        file.write("p9,0.nii.gz,3.nii.gz\n")
    told = register_cohort(registrar, pairs_from_table(tmp_path / "pairs.csv"), tmp_path / "out")
    assert (told.done, told.failed, told.earlier) == (2, 0, 2)
    after = written(tmp_path / "out")
    assert set(after) == {"p0", "p1", "p2", "p9"}
    assert {name: after[name] for name in before} == before
    assert [row["status"] for row in rows(tmp_path / "out").values()] == ["done"] * 4
    assert not list((tmp_path / "out/failed").iterdir())


def test_shares_join_to_the_whole(registrar: Registrar, tmp_path: Path) -> None:
    pairs = pairs_from_table(table(tmp_path, 5))
    for number in (2, 1):
        register_cohort(registrar, pairs, tmp_path / "out", shard=(number, 2))
    assert list(rows(tmp_path / "out", "results-1-of-2.csv")) == ["p0", "p2", "p4"]
    found = collect(tmp_path / "out")
    assert found.complete
    assert list(rows(tmp_path / "out")) == ["p0", "p1", "p2", "p3", "p4"]


def test_collecting_says_what_is_missing_and_what_is_damaged(
    registrar: Registrar, tmp_path: Path
) -> None:
    pairs = pairs_from_table(table(tmp_path, 3))
    register_cohort(registrar, pairs, tmp_path / "out", shard=(1, 2))
    (tmp_path / "out/pairs/p0/transform.h5").unlink()
    (tmp_path / "out/pairs/p2/metrics.json").write_text("{")
    found = collect(tmp_path / "out")
    assert found.missing == ["p1"]
    assert "p0/transform.h5 is gone or empty" in found.damaged[0]
    assert [row["pair"] for row in found.failed] == ["p2"]
    with pytest.raises(DataError, match="holds no cohort"):
        collect(tmp_path)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (
            lambda folder, best: (
                [CohortPair("p0", {"fixed": folder / "1.nii.gz", "moving": folder / "0.nii.gz"})],
                {},
            ),
            "another cohort .pair p0: fixed is",
        ),
        (
            lambda folder, best: (None, {"refine": 3}),
            "was made with other settings .refine is null there and 3 here",
        ),
        (
            lambda folder, best: (None, {"registrar": load(best, start="centers")}),
            "was made with other settings .start is",
        ),
        (
            lambda folder, best: (
                None,
                {"registrar": load(checkpoint(folder / "best.ckpt", seed=5))},
            ),
            "was made with other settings",
        ),
    ],
)
def test_another_cohort_or_another_method_is_refused(
    change: Callable[..., Any], told: str, registrar: Registrar, best: Path, tmp_path: Path
) -> None:
    pairs = pairs_from_table(table(tmp_path, 1))
    register_cohort(registrar, pairs, tmp_path / "out")
    other, options = change(tmp_path, best)
    with pytest.raises(UserError, match=told):
        register_cohort(
            options.pop("registrar", registrar), other or pairs, tmp_path / "out", **options
        )


def test_a_model_that_was_trained_again_under_its_path_is_another(tmp_path: Path) -> None:
    pairs = pairs_from_table(table(tmp_path, 1))
    register_cohort(load(checkpoint(tmp_path / "best.ckpt", seed=2)), pairs, tmp_path / "out")
    with pytest.raises(DataError, match=r"was made with other settings .weights is"):
        register_cohort(load(checkpoint(tmp_path / "best.ckpt", seed=3)), pairs, tmp_path / "out")


def test_a_folder_of_something_else_is_refused(registrar: Registrar, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="exists and holds no cohort"):
        register_cohort(registrar, pairs_from_table(table(tmp_path, 1)), tmp_path)


def test_single_pairs_are_registered_again_also_otherwise(
    registrar: Registrar, best: Path, tmp_path: Path
) -> None:
    pairs = pairs_from_table(table(tmp_path, 3))
    register_cohort(registrar, pairs, tmp_path / "out")
    before = written(tmp_path / "out")
    register_cohort(
        load(best, start="centers"), pairs, tmp_path / "out", only={"p1"}, files=("transform",)
    )
    after = written(tmp_path / "out")
    assert {name for name in after if after[name] != before[name]} == {"p1"}
    assert not (tmp_path / "out/pairs/p1/warped.nii.gz").exists()
    assert set(rows(tmp_path / "out")) == {"p0", "p1", "p2"}
    (tmp_path / "1.nii.gz").unlink()
    register_cohort(
        registrar, pairs_from_table(tmp_path / "pairs.csv"), tmp_path / "out", only={"p1"}
    )
    assert rows(tmp_path / "out")["p1"]["status"] == "failed"
    assert Ledger(tmp_path / "out").failed({}) == ["p1"]
    # as after copying the folder, or with a clock that was set back
    for path in (tmp_path / "out").rglob("*"):
        os.utime(path, ns=(1, 1) if path.name == "p1.json" else (2, 2))
    assert Ledger(tmp_path / "out").failed({}) == ["p1"]
    assert [row["status"] for row in collect(tmp_path / "out").rows] == ["done", "failed", "done"]
    with pytest.raises(DataError, match="no pair 'p7'"):
        register_cohort(registrar, pairs, tmp_path / "out", only={"p7"})


def test_a_full_disk_ends_the_run_and_is_no_failure_of_a_pair(
    registrar: Registrar, tmp_path: Path, monkeypatch
) -> None:
    pairs = pairs_from_table(table(tmp_path, 4))
    save = Result.save

    def full(self: Result, folder: Path, **options: Any) -> Path:
        if Path(folder).name == "p1":
            raise DataError("could not be written") from OSError(
                errno.ENOSPC, "No space left on device"
            )
        return save(self, folder, **options)

    monkeypatch.setattr(Result, "save", full)
    with pytest.raises(DataError, match="is full; make room"):
        register_cohort(registrar, pairs, tmp_path / "out")
    monkeypatch.undo()
    assert not list((tmp_path / "out/failed").iterdir())
    assert register_cohort(registrar, pairs, tmp_path / "out").failed == 0
    assert len(written(tmp_path / "out")) == 4


def test_a_defect_is_a_row_with_its_traceback_beside_it(
    registrar: Registrar, tmp_path: Path, monkeypatch
) -> None:
    pairs = pairs_from_table(table(tmp_path, 2))
    whole = registrar.register_inputs

    def broken(inputs: Any, **options: Any) -> Result:
        if inputs.name == "p0":
            raise ZeroDivisionError("division by zero")
        return whole(inputs, **options)

    monkeypatch.setattr(registrar, "register_inputs", broken)
    assert register_cohort(registrar, pairs, tmp_path / "out").failed == 1
    assert rows(tmp_path / "out")["p0"]["message"] == "ZeroDivisionError: division by zero"
    assert "Traceback" in (tmp_path / "out/failed/p0.txt").read_text()


def test_a_stop_leaves_nothing_begun(registrar: Registrar, tmp_path: Path) -> None:
    def stop(now: object) -> None:
        raise KeyboardInterrupt

    pairs = pairs_from_table(table(tmp_path, 5))
    with pytest.raises(KeyboardInterrupt):
        register_cohort(registrar, pairs, tmp_path / "out", progress=stop)
    assert not list((tmp_path / "out").glob("failed/*.begun"))
    assert not list((tmp_path / "out/pairs").glob(".*"))
    assert register_cohort(registrar, pairs, tmp_path / "out").failed == 0


def test_a_pair_that_ends_the_process_twice_is_a_row_and_comes_last_before(
    registrar: Registrar, tmp_path: Path, monkeypatch
) -> None:
    pairs = pairs_from_table(table(tmp_path, 4))
    ledger = Ledger(tmp_path / "out")
    ledger.begin({pair.name: pair.described() for pair in pairs}, {})
    (tmp_path / "out/cohort.json").unlink()
    ledger.note_begun("p0", 1)
    ledger.note_begun("p1", 2)
    order: list[str] = []
    whole = registrar.register_inputs
    monkeypatch.setattr(
        registrar,
        "register_inputs",
        lambda inputs, **options: (order.append(inputs.name), whole(inputs, **options))[1],
    )
    (tmp_path / "out/failed").rename(tmp_path / "failed")
    register_cohort(registrar, pairs[:0], tmp_path / "out")
    (tmp_path / "out/failed").mkdir(exist_ok=True)
    for path in (tmp_path / "failed").iterdir():
        path.rename(tmp_path / "out/failed" / path.name)
    for _ in range(2):
        register_cohort(registrar, pairs, tmp_path / "out")
    assert order == ["p2", "p3", "p0"]
    assert rows(tmp_path / "out")["p1"]["message"] == ENDED
    register_cohort(registrar, pairs, tmp_path / "out", only={"p1"})
    assert rows(tmp_path / "out")["p1"]["status"] == "done"


@pytest.mark.slow
def test_killed_at_any_moment_every_pair_is_done_once(best: Path, tmp_path: Path) -> None:
    count = 30
    words = [
        sys.executable,
        "-m",
        "lightning_reg.cli.main",
        "register",
        "--pairs",
        str(table(tmp_path, count)),
        "--out",
        str(tmp_path / "out"),
    ]
    words += ["--model", str(best)]
    known: dict[str, int] = {}
    for wanted in (3, 9, 20):
        process = subprocess.Popen(
            words,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        while len(written(tmp_path / "out")) < wanted and process.poll() is None:
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        process.wait()
        now = written(tmp_path / "out")
        assert {name: now.get(name) for name in known} == known
        known = now
    assert 20 <= len(known) < count
    subprocess.run(words, check=True, capture_output=True)
    now = written(tmp_path / "out")
    assert len(now) == count
    assert {name: now[name] for name in known} == known
    found = collect(tmp_path / "out")
    assert found.complete
    assert not list((tmp_path / "out/failed").glob("*"))


# Judging them.


@pytest.fixture
def judged(registrar: Registrar, tmp_path: Path) -> Path:
    (tmp_path / "broken.nii.gz").write_text("no image")
    path = table(tmp_path, 4)
    with path.open("a") as file:
        file.write("p4,broken.nii.gz,1.nii.gz\n")
    register_cohort(registrar, pairs_from_table(path), tmp_path / "out")
    return tmp_path / "out"


def test_verdicts_are_read_back_and_count_until_the_pair_is_registered_again(
    judged: Path, registrar: Registrar
) -> None:
    ledger = Ledger(judged)
    assert ledger.verdicts() == {}
    (judged / "quality.csv").write_text('pair,verdict,note\np1,fail,"shoulder, left"\np2,pass,\n')
    assert ledger.verdicts()["p1"] == {"verdict": "fail", "note": "shoulder, left", "result": ""}
    assert ledger.failed(ledger.verdicts()) == ["p1", "p4"]
    (judged / "quality.csv").write_text(
        f"pair,verdict,result\np1,fail,{ledger.result('p1')}\np2,pass,{ledger.result('p2')}\n"
    )
    assert ledger.failed(ledger.verdicts()) == ["p1", "p4"]
    register_cohort(registrar, pairs_from_table(judged.parent / "pairs.csv"), judged, only={"p1"})
    assert ledger.failed(ledger.verdicts()) == ["p4"]
    with pytest.raises(DataError, match="name the pair 'p11'; did you mean 'p1'"):
        ledger.failed({"p11": {"verdict": "fail"}})
    assert ledger.verdicts()["p2"]["verdict"] == "pass"
    assert {row["moving"] for row in ledger.write_results(["p0"])} == {
        str(judged.parent / "1.nii.gz")
    }
    (judged / "bad.csv").write_text("pair,verdict\np1,failed\n")
    with pytest.raises(DataError, match=r"Line 2 .* has the verdict 'failed'"):
        ledger.verdicts(judged / "bad.csv")


def test_the_page_shows_the_worst_first_and_saves_what_the_keys_say(
    judged: Path, browser: Any, tmp_path: Path
) -> None:
    (judged / "quality.csv").write_text("pair,verdict,note\np3,pass,seen\n")
    found = collect(judged)
    page = browser.new_page(viewport={"width": 1300, "height": 900}, accept_downloads=True)
    page.goto(found.page.as_uri())
    names = page.locator(".name").all_text_contents()
    values = {row["pair"]: row.get("ncc_after", -1.0) for row in found.rows}
    assert names == sorted(values, key=lambda name: values[name])
    assert names[0] == "p4"
    assert "cannot be read" in page.locator(".message").first.inner_text()
    assert page.locator("#counts").inner_text() == "1 passed, 0 failed, 4 without a verdict, of 5"
    assert page.evaluate(
        "[...document.images].filter(i => i.src).every(i => i.complete && i.naturalWidth === 352)"
    )
    page.keyboard.press("f")
    page.keyboard.press("p")
    page.keyboard.press("n")
    page.keyboard.type('a "note", p and f')
    page.keyboard.press("Enter")
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("u")
    page.keyboard.press("f")
    page.select_option("#shown", "fail")
    assert page.locator(".name").all_text_contents() == names[:2]
    page.select_option("#shown", "all")
    page.select_option("#metric", "folding")
    with page.expect_download() as saved:
        page.keyboard.press("s")
    saved.value.save_as(tmp_path / "quality.csv")
    verdicts = Ledger(judged).verdicts(tmp_path / "quality.csv")
    expected = {"p3": "pass", names[0]: "fail", names[1]: "fail"}
    assert {name: found["verdict"] for name, found in verdicts.items()} == {
        names[2]: "",
        **expected,
    }
    assert verdicts[names[2]]["note"] == 'a "note", p and f'
    page.reload()
    assert (
        page.locator("#counts")
        .inner_text()
        .startswith(f"{1 - ('p3' in names[:2])} passed, 2 failed")
    )
    page.close()


def test_a_thumbnail_shows_the_patients_right_on_the_left_and_folding_in_red() -> None:
    import torch

    from lightning_reg import functional as LF
    from lightning_reg.figures.views import THUMBNAIL, thumbnail
    from lightning_reg.spatial import Displacement, Grid, Image, Pair

    shape = (20, 16, 12)
    turn = np.diag([-2.0, 2.0, 2.0, 1.0])  # the first voxel axis points to the left
    volume = torch.zeros(1, 1, *shape)
    volume[:, :, :6] = 100.0  # the patient's right
    volume[:, :, :, 12:] += 50.0  # anterior
    image = Image(volume, Grid(shape, turn))
    displacement = torch.zeros(1, 3, *shape)
    # folds, on the patient's left
    displacement[:, 0, 14:18] = torch.linspace(0, -9, 4).view(4, 1, 1)
    picture = np.asarray(
        thumbnail(
            Pair(image, image),
            Displacement(displacement, image.grid),
            LF.jacobian_determinant(displacement),
        )
    ).astype(int)
    axial = picture[:THUMBNAIL, :THUMBNAIL, 0]
    inside = np.argwhere(axial > 20)
    (top, left), (bottom, right) = inside.min(0), inside.max(0)
    middle = (top + bottom) // 2
    assert axial[middle, left + 4] > axial[middle, right - 4] + 100
    assert axial[top + 3, left + 4] > axial[bottom - 3, left + 4] + 20
    red = np.argwhere(
        (picture[:THUMBNAIL, 3 * THUMBNAIL :, 0] > 180)
        & (picture[:THUMBNAIL, 3 * THUMBNAIL :, 1] < 80)
    )
    assert len(red) > 20
    assert red[:, 1].mean() > THUMBNAIL / 2
    assert json.dumps(picture.shape) == f"[{3 * THUMBNAIL}, {4 * THUMBNAIL}, 3]"
