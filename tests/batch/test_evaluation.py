"""Evaluation of a model on a data set: rows, totals, comparison, Learn2Reg's variants."""

from __future__ import annotations

import csv
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from making import optimization_of
from scipy import stats
from scipy.ndimage import map_coordinates

from lightning_reg.batch.evaluation import learn2reg
from lightning_reg.batch.evaluation.contestants import Case, Contestant, Registering
from lightning_reg.batch.evaluation.evaluation import (
    Cases,
    Evaluation,
    evaluate_cases,
    snapped_errors,
)
from lightning_reg.data.datasets.adapters.generated import PhantomDataset
from lightning_reg.data.datasets.interface import Split
from lightning_reg.data.datasets.splits import Splits
from lightning_reg.data.scans import pair_name
from lightning_reg.inference.loading import load
from lightning_reg.inference.registrar import Registrar
from lightning_reg.inference.result import Result
from lightning_reg.inference.steps import Optimize, Predict
from lightning_reg.metrics import paired, summaries, summary
from lightning_reg.registry import DataError
from lightning_reg.spatial import Displacement, Grid, Identity, Image, Pair


@pytest.fixture(scope="module")
def dataset() -> Splits:
    return Splits(PhantomDataset(subjects=1, validation=3, shape=[24, 20, 24]))


def evaluate_dataset(
    registrar: Registrar,
    data: Splits,
    split: Split | None = "validation",
    limit: int | None = None,
    refine: int | None = None,
    **options: Any,
) -> list[dict[str, Any]]:
    """Rows of one registrar on the pairs of a split."""
    method = Registering("model", registrar, refine)
    return evaluate_cases([method], Cases.of(data, split, limit), **options)["model"]


def test_rows_totals_and_files(dataset, model, tmp_path: Path) -> None:
    registrar = load(model(preprocessing={"window": [-1000, 500]}))
    seen: list[int] = []
    rows = evaluate_dataset(
        registrar, dataset, challenge=True, progress=lambda n, *_: seen.append(n)
    )
    assert (len(rows), seen) == (3, [0, 1, 2])
    (tmp_path / "fields").mkdir()
    for number in seen:
        learn2reg.write_displacement(
            tmp_path / "fields" / f"disp_{number}.nii.gz", torch.zeros(1, 3, 4, 4, 4)
        )
    expected = {
        "tre_before_mm",
        "tre_after_mm",
        "tre_after_snapped_mm",
        "dice_after",
        "hd95_after_mm",
        "assd_after_mm",
        "folding",
        "sdlogj",
    }
    assert expected | {
        "sdlogj_learn2reg",
        "dice_after_learn2reg",
        "hd95_after_learn2reg_voxels",
        "seconds",
    } <= set(rows[0])
    evaluation = Evaluation({"x": rows, "y": rows}, {"model": "x"})
    folder = evaluation.save(tmp_path / "out", displacements=(tmp_path / "fields").iterdir())
    assert sorted(p.name for p in (folder / "learn2reg").iterdir()) == [
        "disp_0.nii.gz",
        "disp_1.nii.gz",
        "disp_2.nii.gz",
    ]
    with (folder / "cases.csv").open() as file:
        read = list(csv.DictReader(file))
    assert [row["method"] for row in read] == ["x"] * 3 + ["y"] * 3
    assert float(read[1]["tre_after_mm"]) == pytest.approx(rows[1]["tre_after_mm"])
    record = json.loads((folder / "metrics.json").read_text())
    assert record["totals"]["x"]["tre_after_mm"]["mean"] == pytest.approx(
        np.mean([row["tre_after_mm"] for row in rows])
    )
    expected = {
        "method": "y",
        "best": "x",
        "mean": 0.0,
        "n": 3,
        "low": None,
        "high": None,
        "p": 1.0,
        "corrected": 1.0,
    }
    assert next(d for d in record["differences"] if d["metric"] == "tre") == {
        "metric": "tre",
        **expected,
    }
    page = (folder / "report.html").read_text()
    assert "worst first" in page
    assert "Wilcoxon" in page


def test_before_and_after_are_those_of_the_identity(dataset, model) -> None:
    """A network that finds nothing leaves every case as it was."""
    registrar = load(model(preprocessing={"window": [-1000, 500]}))
    for parameter in registrar.composer.parameters():
        parameter.data.zero_()
    for row in evaluate_dataset(registrar, dataset, limit=2):
        for name in ("tre_{}_mm", "dice_{}", "hd95_{}_mm"):
            assert row[name.format("after")] == pytest.approx(row[name.format("before")], rel=1e-5)


@pytest.mark.parametrize(
    ("split", "limit", "cases"),
    [("train", None, ["0"]), ("validation", 2, ["1000", "1001"]), (None, 3, ["0", "1000", "1001"])],
)
def test_pairs_are_those_of_the_split_up_to_the_limit(split, limit, cases, dataset, model) -> None:
    """Inhalation is the fixed scan."""
    rows = evaluate_dataset(
        load(model(preprocessing={"window": [-1000, 500]})), dataset, split=split, limit=limit
    )
    assert [row["case"] for row in rows] == [f"phantom-{case} inhale < exhale" for case in cases]


def test_refinement_begins_from_the_network_and_takes_its_steps(dataset, model) -> None:
    registrar = load(model(preprocessing={"window": [-1000, 500]}))
    stage = {"transform": "affine", "stride": 2, "steps": 40, "lr": 0.01}
    refining = Optimize(optimization_of({"ncc": {}}, [stage]), registrar.composer)
    registrar = replace(registrar, steps=[Predict(registrar.composer), refining])
    found = []
    for refine in (None, 2):
        evaluate_dataset(
            registrar,
            dataset,
            limit=1,
            refine=refine,
            progress=lambda *told: found.append(told[3:]),
        )
    (row, plain), (refined_row, refined) = found
    assert plain.optimized is None
    assert [len(values) - 1 for _, values in refined.optimized.history] == [2]
    assert refined.metrics()["objective"]["after"] < refined.metrics()["objective"]["before"]
    assert refined_row["ncc_after"] > row["ncc_after"]
    assert row["seconds"] == pytest.approx(sum(plain.seconds.values()))


def test_the_fixed_scan_of_a_case_is_the_one_its_name_begins_with(dataset) -> None:
    seen: list[tuple[str, str]] = []

    class Noting(Contestant):
        name, settings = "noting", {}

        def register(self, case: Case, fixed, moving) -> Result:
            seen.append((case.name, pair_name(fixed["name"], moving["name"])))
            raise DataError("seen")

    with pytest.raises(DataError, match=r"No case could be evaluated\. seen"):
        evaluate_cases([Noting()], Cases.of(dataset))
    assert len(seen) == 3
    assert all(name == found for name, found in seen)


def test_no_pairs(dataset, model) -> None:
    with pytest.raises(DataError, match="no pairs in their split"):
        evaluate_dataset(load(model()), dataset, limit=0)


def test_the_interval_holds_the_mean_at_the_rate_it_says() -> None:
    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(60):
        found = summary(rng.normal(2.0, 1.0, 25).tolist())
        hits += found["low"] < 2.0 < found["high"]
    assert 50 <= hits <= 60


def test_the_comparison_is_scipys() -> None:
    first, second = np.random.default_rng(1).normal(0, 1, (2, 20))
    found = paired(first.tolist(), (second + 0.5).tolist())
    assert found["p"] == pytest.approx(stats.wilcoxon(second + 0.5, first).pvalue)
    assert found["mean"] == pytest.approx((second + 0.5 - first).mean())


def test_cases_without_a_value_do_not_count() -> None:
    found = summaries(
        [{"case": "a", "dice_after": 0.5}, {"case": "b", "dice_after": float("nan")}, {"case": "c"}]
    )
    assert found["dice_after"]["n"] == 1


def pair_with_landmarks() -> Pair:
    grid = Grid.regular((8, 8, 8), (2.0, 3.0, 4.0), (5.0, 6.0, 7.0))
    points = grid.to_world(
        torch.tensor([[2.0, 3, 4], [5, 4, 3]], dtype=torch.float64).T.unsqueeze(0)
    )[0].T
    image = Image(torch.rand(1, 1, 8, 8, 8), grid)
    return Pair(image, image, fixed_landmarks=(points,), moving_landmarks=(points,))


@pytest.mark.parametrize(("shift", "expected"), [(0.4, 0.0), (0.6, 2.0), (1.4, 2.0)])
def test_snapped_landmarks_are_on_voxel_centres(shift: float, expected: float) -> None:
    """Along the first axis, in voxels of 2 mm."""
    pair = pair_with_landmarks()
    field = torch.zeros(1, 3, 8, 8, 8)
    field[:, 0] = shift
    errors = snapped_errors(pair, Displacement(field, pair.fixed.grid))
    torch.testing.assert_close(errors, torch.full((2,), expected, dtype=torch.float64))
    assert (
        snapped_errors(replace(pair, fixed_landmarks=None), Displacement(field, pair.fixed.grid))
        is None
    )


def test_landmarks_are_snapped_to_voxels_of_the_moving_image() -> None:
    """Of 5 mm along the first axis, where those of the fixed image have 2 mm."""
    pair = pair_with_landmarks()
    moving = Grid.regular((8, 9, 10), (5.0, 3.0, 4.0), (1.0, 6.0, 7.0))
    targets = moving.to_world(
        torch.tensor([[2.0, 3, 4], [3, 4, 3]], dtype=torch.float64).T.unsqueeze(0)
    )[0].T  # 2 and 1 mm further
    pair = replace(
        pair, moving=Image(torch.rand(1, 1, 8, 9, 10), moving), moving_landmarks=(targets,)
    )
    errors = snapped_errors(pair, Identity(pair.fixed.grid, torch.zeros(1)))
    torch.testing.assert_close(errors, torch.zeros(2, dtype=torch.float64))
    field = torch.zeros(1, 3, 8, 8, 8)
    field[:, 0] = 2.0  # 4 mm: 2 mm too far, and 3 mm
    errors = snapped_errors(pair, Displacement(field, pair.fixed.grid))
    torch.testing.assert_close(errors, torch.tensor([0.0, 5.0], dtype=torch.float64))


def test_the_challenges_file_warps_as_its_evaluation_does(tmp_path: Path, smooth_field) -> None:
    """``map_coordinates(moving, identity + disp)``, with fixed and moving on different grids."""
    fixed, moving = (
        Grid.regular((10, 12, 9), (2.0, 2.0, 2.5)),
        Grid.regular((11, 10, 12), (1.8, 2.5, 2.0), (1.0, -1.0, 0.5)),
    )
    transform = Displacement(smooth_field(fixed.shape), fixed)
    image = Image(torch.rand(1, 1, *moving.shape), moving)
    learn2reg.write_displacement(
        tmp_path / "d.nii.gz", learn2reg.voxel_displacement(transform, fixed, moving)
    )
    stored = nib.load(tmp_path / "d.nii.gz").get_fdata()
    assert stored.shape == (10, 12, 9, 3)
    identity = np.meshgrid(*(np.arange(n) for n in fixed.shape), indexing="ij")
    theirs = map_coordinates(
        image.tensor[0, 0].numpy(), np.moveaxis(stored, -1, 0) + identity, order=1, cval=np.nan
    )
    ours = image.warped(transform, fixed).tensor[0, 0].numpy()
    assert np.isfinite(theirs).mean() > 0.4
    np.testing.assert_allclose(ours[np.isfinite(theirs)], theirs[np.isfinite(theirs)], atol=1e-4)


def test_the_challenges_metrics_differ_as_they_should(smooth_field) -> None:
    """``det + 3`` hides folding; distances in voxels do not know the spacing."""
    folded = 3 * smooth_field((16, 16, 16), 3.0)
    inner = (folded[..., 2:-2, 2:-2, 2:-2],)
    assert inner[0].shape[-1] == 12
    determinant = np.linalg.det(
        np.stack([np.stack(np.gradient(folded[0, a].numpy()), -1) for a in range(3)], -2) + np.eye(3)
    )[2:-2, 2:-2, 2:-2]  # fmt: skip
    assert learn2reg.sdlogj(folded) == pytest.approx(
        np.log(np.clip(determinant + 3, 1e-9, 1e9)).std(), rel=1e-4
    )
    grid = Grid.regular((12, 12, 12), (1.0, 1.0, 5.0))
    labels = [torch.zeros(1, 1, 12, 12, 12, dtype=torch.int16) for _ in range(2)]
    labels[0][..., 3:7], labels[1][..., 4:8] = 1, 1
    image = Image(torch.rand(1, 1, 12, 12, 12), grid)
    pair = Pair(
        image,
        image,
        fixed_labels=Image(labels[0], grid, discrete=True),
        moving_labels=Image(labels[1], grid, discrete=True),
    )
    unmoved = Identity(grid, torch.zeros(1))
    assert learn2reg.overlap(pair, unmoved) == pytest.approx((0.75, 1.0))
    assert learn2reg.overlap(replace(pair, fixed_labels=None), unmoved) is None


@pytest.mark.parametrize(
    ("fixed", "moving", "expected"),
    [
        ([1, 2], [1], (0.5, 2.0)),  # label 2 is left out
        ([1], [1, 2], (0.5, 2.0)),
        ([1], [2], None),
        ([1, 5], [1, 5], (0.25, math.inf)),  # label 5 is warped out of the image
    ],
)
def test_labels_that_an_image_lacks_are_left_out_as_in_the_challenge(
    fixed, moving, expected
) -> None:
    grid = Grid.regular((12, 12, 12), (1.0, 1.0, 5.0))
    places = {1: slice(2, 6), 2: slice(6, 8), 5: slice(10, 12)}
    maps = [torch.zeros(1, 1, 12, 12, 12, dtype=torch.int16) for _ in range(2)]
    for labels, values in zip(maps, (fixed, moving), strict=True):
        for value in values:
            labels[..., places[value], :, :] = value
    image = Image(torch.rand(1, 1, 12, 12, 12), grid)
    labels = [Image(tensor, grid, discrete=True) for tensor in maps]
    pair = Pair(image, image, fixed_labels=labels[0], moving_labels=labels[1])
    field = torch.zeros(1, 3, 12, 12, 12)
    lower = torch.arange(12.0) < 9  # it moves two voxels upwards, the rest out of the image
    field[:, 0, :] = torch.where(lower, -2.0, 6.0).view(12, 1, 1)
    found = learn2reg.overlap(pair, Displacement(field, grid))
    assert found == (None if expected is None else pytest.approx(expected))
