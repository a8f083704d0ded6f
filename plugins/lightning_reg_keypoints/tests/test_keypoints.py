"""Tests of keypoints: conformance kit, files in every space, wrong keypoints, and training from the
configurations.
"""

from __future__ import annotations

import csv
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from lightning_reg_keypoints.callback import KeypointError
from lightning_reg_keypoints.dataset import KeypointsDataset, read_keypoints
from lightning_reg_keypoints.loss import KeypointDistance

from lightning_reg import ArgumentError, DataError, Displacement, Level, compose, train
from lightning_reg.testing import ComponentTests, parametrize_with_checks
from lightning_reg.testing.fixtures import grid, pair, truth

COUNT = 6


def written(folder: Path, space: str = "RAS", pairs: int = 3) -> Path:
    """Write noise images on oblique grids; fixed keypoint ``n`` is at voxel ``(4 + n, 5, 6)``, the
    moving one a voxel further per axis.
    """
    for number in range(pairs):
        for side, at in (
            ("fixed", grid((18, 16, 14))),
            ("moving", grid((17, 16, 15), turn=(0.1, 0.2, 0.0), flip=1)),
        ):
            values = np.random.default_rng(number).normal(100, 10, at.shape).astype(np.float32)
            nib.Nifti1Image(values, at.affine[0]).to_filename(
                folder / f"case{number}_{side}.nii.gz"
            )
        voxels = torch.tensor([[4.0 + n, 5.0, 6.0] for n in range(COUNT)], dtype=torch.float64)
        sides = []
        for at, points in (
            (grid((18, 16, 14)), voxels),
            (grid((17, 16, 15), turn=(0.1, 0.2, 0.0), flip=1), voxels + 1),
        ):
            world = at.to_world(points.T.unsqueeze(0))[0].T
            sides.append(
                {"voxel": points, "RAS": world, "LPS": world * torch.tensor([-1.0, -1, 1])}[space]
            )
        with (folder / f"case{number}_keypoints.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["x", "y", "z", "x2", "y2", "z2"])
            writer.writerows(torch.cat(sides, 1).tolist())
    return folder


class TestDataset(ComponentTests):
    kind = "dataset"

    @pytest.fixture
    def factory(self, tmp_path):
        folder = written(tmp_path)
        return lambda: KeypointsDataset(root=folder)


@parametrize_with_checks(
    "loss", {"keypoints": KeypointDistance, "trimmed": lambda: KeypointDistance(trim=0.2)}
)
def test_loss(check) -> None:
    check()


@parametrize_with_checks("callback", {"keypoint_error": KeypointError})
def test_callback(check) -> None:
    check()


@pytest.mark.parametrize("space", ["RAS", "LPS", "voxel"])
def test_keypoints_are_where_they_were_in_every_space(space: str, tmp_path: Path) -> None:
    dataset = KeypointsDataset(written(tmp_path, space), space)
    for record in dataset.records()[:2]:
        subject = dataset.load(record)
        at = (
            grid((18, 16, 14))
            if record.time == "fixed"
            else grid((17, 16, 15), turn=(0.1, 0.2, 0.0), flip=1)
        )
        voxels = at.to_voxel(subject["landmarks"].T.unsqueeze(0))[0].T
        shift = 0 if record.time == "fixed" else 1
        torch.testing.assert_close(
            voxels[2], torch.tensor([6.0, 5, 6], dtype=torch.float64) + shift, atol=1e-3, rtol=0
        )


def test_another_space_lies_outside_and_is_refused(tmp_path: Path) -> None:
    dataset = KeypointsDataset(written(tmp_path, "LPS"), "RAS")
    with pytest.raises(DataError, match="landmarks of case0 fixed lie outside its image"):
        dataset.load(dataset.records()[0])


def test_the_term_is_a_distance_in_mm_and_a_wrong_keypoint_is_left_out() -> None:
    both, on = pair(), grid()
    shift = torch.zeros(1, 3, *on.shape)
    shift[:, 0] = 10.0  # voxels of 1.4 mm
    field = truth(on).field

    def value(term: KeypointDistance, field: torch.Tensor) -> float:
        transform = Displacement(field, on)
        return float(term(Level(both.fixed, both.moving, transform, transform), both))

    assert value(KeypointDistance(soft=0.01), field) < 0.01
    assert value(KeypointDistance(soft=0.01), field + shift) == pytest.approx(14.0, abs=0.1)
    points = both.moving_landmarks[0].clone()
    points[3] += 500.0
    object.__setattr__(both, "moving_landmarks", (points,))
    assert value(KeypointDistance(soft=0.01), field) > 50
    assert value(KeypointDistance(soft=0.01, trim=0.1), field) < 0.01


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1,2,3,4,5\n", "Line 1 .* has 5 numbers"),
        ("a,b\n1,2,3,4,5,x\n", "Line 2 .* no number"),
        ("x\n", "no keypoints"),
    ],
)
def test_a_table_that_is_none_is_a_sentence(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "a_keypoints.csv").write_text(text)
    with pytest.raises(DataError, match=message):
        read_keypoints(tmp_path / "a_keypoints.csv")


def test_what_is_missing_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"has 0 files NAME_keypoints\.csv"):
        KeypointsDataset(tmp_path)
    written(tmp_path)
    (tmp_path / "case1_moving.nii.gz").unlink()
    with pytest.raises(
        DataError,
        match=r"There is no .*case1_moving\.nii\.gz, which belongs to case1_keypoints\.csv",
    ):
        KeypointsDataset(tmp_path)
    with pytest.raises(ArgumentError, match="give one of RAS, LPS, voxel"):
        KeypointsDataset(tmp_path, "ras")


@pytest.mark.parametrize("data", ["keypoints", "phantom"])
def test_the_method_trains_and_writes_its_table(data: str, tmp_path: Path) -> None:
    given = [f"data.root={written(tmp_path)}"] if data == "keypoints" else [
        "data.dataset.shape=[16,16,16]", "data.dataset.crop=null", "data.dataset.subjects=1",
        "data.dataset.validation=1",
    ]  # fmt: skip
    steps = [
        "trainer.max_steps=4",
        "time_scale=0.001",
        "data.samples_per_epoch=2",
        "data.workers=0",
        "trainer.accelerator=cpu",
    ]
    smaller = [
        "method.composer.backbone.levels=2",
        "method.composer.backbone.features=4",
        "callbacks.progress_bar=null",
        "budget=null",
    ]
    train(compose(["method=keypoints", f"data={data}", *given, *steps, *smaller]), tmp_path / "run")
    with (tmp_path / "run" / "keypoints.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) >= COUNT
    assert float(rows[0]["before_mm"]) > 0
    assert (
        "validation/keypoint_p95_mm"
        in (tmp_path / "run" / "metrics.csv").read_text().splitlines()[0]
    )
