"""Preparation of data sets: invertible geometry, no repeated work, no partial files."""

from __future__ import annotations

import errno
import gzip
import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import providers
import pytest
import torch
import torchio as tio

from lightning_reg.curation.check.group import check
from lightning_reg.curation.prepare import Preparation, prepare
from lightning_reg.data.datasets.interface import Record
from lightning_reg.data.datasets.manifest import PreparedDataset, read_rows
from lightning_reg.data.datasets.splits import open_dataset
from lightning_reg.data.lungs import lung_mask, segmented
from lightning_reg.data.preprocessing import Geometry, Preprocessing
from lightning_reg.data.scans import scan_from_subject
from lightning_reg.phantom import breathing_thorax
from lightning_reg.registry import ComponentError, DataError
from lightning_reg.spatial import Image

SHAPE = (24, 22, 26)
CROPPED = Preparation(crop="mask", shape=SHAPE)


@pytest.fixture
def raw(tmp_path: Path) -> dict[str, str]:
    return {"name": "pairs", "root": str(providers.pairs(tmp_path / "raw", count=2))}


def dice(a: torch.Tensor, b: torch.Tensor) -> float:
    return float(2 * (a & b).sum() / (a.sum() + b.sum()))


def test_images_masks_and_landmarks_go_together_and_the_manifest_leads_back(
    raw, tmp_path: Path
) -> None:
    data = open_dataset(raw)
    done = prepare(data, tmp_path / "out", CROPPED)
    assert (len(done.rows), done.reused, done.problems) == (4, 0, [])
    prepared = open_dataset({"name": "pairs", "root": str(tmp_path / "out")})
    assert [r.name for r in prepared.records()] == [r.name for r in data.records()]
    assert prepared.pairs("train") == data.pairs("train")
    for row, before, after in zip(
        read_rows(tmp_path / "out" / "manifest.csv"),
        data.subjects(),
        prepared.subjects(),
        strict=True,
    ):
        raw_scan, scan = scan_from_subject(before), scan_from_subject(after)
        assert scan.image.grid.shape == SHAPE
        assert row.original.matches(raw_scan.image.grid)
        torch.testing.assert_close(scan.landmarks, raw_scan.landmarks, atol=1e-4, rtol=0)
        assert scan.image.grid.overlap(raw_scan.image.grid) > 0.99
        back = replace(scan.mask, tensor=scan.mask.tensor).resampled(row.original)
        assert dice(back.tensor > 0, raw_scan.mask.tensor > 0) > 0.9
        smooth, other = (
            Image(raw_scan.image.tensor, raw_scan.image.grid, -1000).resampled(scan.image.grid),
            scan.image,
        )
        assert float((smooth.tensor - other.tensor).abs().mean()) < 80


def test_nothing_is_done_twice_and_what_changed_is_done_again(raw, tmp_path: Path) -> None:
    out = tmp_path / "out"
    prepare(open_dataset(raw), out, CROPPED)
    times = {path: path.stat().st_mtime_ns for path in (out / "images").iterdir()}
    assert prepare(open_dataset(raw), out, CROPPED).reused == 4
    assert times == {path: path.stat().st_mtime_ns for path in (out / "images").iterdir()}
    image = tmp_path / "raw" / "images" / "patient 1" / "moving.nii.gz"
    os.utime(image, ns=(1, 1))
    assert prepare(open_dataset(raw), out, CROPPED).reused == 4
    image.write_bytes(gzip.compress(gzip.decompress(image.read_bytes()), 1))
    assert prepare(open_dataset(raw), out, CROPPED).reused == 3
    (out / "masks" / "pair1_fixed.nii.gz").unlink()
    assert prepare(open_dataset(raw), out, CROPPED).reused == 3
    assert prepare(open_dataset(raw), out, replace(CROPPED, margin=9.0)).reused == 0
    table = tmp_path / "raw" / "pairs.csv"
    # the second pair is no longer there
    table.write_text("\n".join(table.read_text().splitlines()[:2]))
    prepare(open_dataset(raw), out, replace(CROPPED, margin=9.0))
    assert sorted(p.name for p in (out / "images").iterdir()) == [
        "pair1_fixed.nii.gz",
        "pair1_moving.nii.gz",
    ]


def test_intensities_that_are_no_whole_numbers_stay_what_they_are(tmp_path: Path) -> None:
    source = {"name": "oasis", "root": str(providers.oasis(tmp_path / "raw", subjects=4))}
    prepare(open_dataset(source), tmp_path / "out", Preparation())
    before, after = (
        open_dataset({"name": "oasis", "root": str(tmp_path / name)}) for name in ("raw", "out")
    )
    assert [(r.name, r.split) for r in after.records()] == [
        (r.name, r.split) for r in before.records()
    ]
    assert after.pairs() == before.pairs()
    one, other = (data.subjects()[0] for data in (before, after))
    assert len(one["image"].data.unique()) > 100
    torch.testing.assert_close(other["image"].data.float(), one["image"].data.float())
    assert torch.equal(other["labels"].data.int(), one["labels"].data.int())


def test_several_processes_write_the_same(raw, tmp_path: Path) -> None:
    for workers in (1, 2):
        prepare(open_dataset(raw), tmp_path / str(workers), CROPPED, workers)
    one, two = ((tmp_path / n / "manifest.csv").read_text() for n in "12")
    assert one == two
    for path in (tmp_path / "1" / "images").iterdir():
        np.testing.assert_array_equal(
            nib.load(path).get_fdata(), nib.load(tmp_path / "2" / "images" / path.name).get_fdata()
        )


@pytest.mark.slow
def test_killed_in_the_middle_it_goes_on_where_it_was(tmp_path: Path) -> None:
    raw, out = providers.pairs(tmp_path / "raw", count=8), tmp_path / "out"
    call = [
        sys.executable,
        "-m",
        "lightning_reg.cli.main",
        "prepare",
        "pairs",
        "--source",
        str(raw),
        "--out",
        str(out),
    ]
    process = subprocess.Popen(call, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and len(list(out.glob(".prepared/*.json"))) < 3:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    (out / ".prepared" / "partial-images-half.nii.gz").write_bytes(b"\x1f\x8b half")
    finished = len(list(out.glob(".prepared/*.json")))
    assert 3 <= finished < 16
    for path in (out / "images").iterdir():
        nib.load(path).get_fdata()
    spec = {"name": "pairs", "root": str(out)}
    with pytest.raises(
        DataError,
        match="has not been prepared to the end; run the same lightning-reg prepare again",
    ):
        open_dataset(spec)
    again = subprocess.run(call, capture_output=True, text=True, check=True).stdout
    reused = int(re.search(r"(\d+) of them were there already", again)[1])
    assert finished - 1 <= reused <= finished
    assert not list(out.glob(".prepared/partial*"))
    assert len(open_dataset(spec).records()) == 16


def test_what_is_wrong_with_some_scans_is_said_at_the_end_and_the_others_are_there(
    raw, tmp_path: Path
) -> None:
    images = tmp_path / "raw" / "images"
    (images / "patient 0" / "fixed.nii.gz").write_bytes(
        (images / "patient 0" / "fixed.nii.gz").read_bytes()[:500]
    )
    (images / "patient 1" / "moving.csv").write_text("i,j,k\n1,2,3\n\n4,5,6\n")
    done = prepare(open_dataset(raw), tmp_path / "out", Preparation())
    assert len(done.rows) == 2
    assert len(done.problems) == 2
    assert any("fixed.nii.gz cannot be read as an image" in problem for problem in done.problems)
    assert any("Line 3 of" in problem and "is empty" in problem for problem in done.problems)
    assert len(open_dataset({"name": "pairs", "root": str(tmp_path / "out")}).records()) == 2


def test_folders_that_are_not_ours_and_the_source_itself(raw, tmp_path: Path) -> None:
    data = open_dataset(raw)
    with pytest.raises(DataError, match="exists and was not written by lightning-reg prepare"):
        prepare(data, tmp_path / "raw", Preparation())
    (tmp_path / "raw" / ".prepared").mkdir()
    with pytest.raises(DataError, match="holds the source"):
        prepare(data, tmp_path / "raw", Preparation())
    scans = open_dataset({"name": "folder", "root": str(providers.lung_mri(tmp_path / "scans"))})
    with pytest.raises(DataError, match=r"lies in the source .* which is never written to"):
        prepare(scans, tmp_path / "scans" / "out", Preparation())
    prepare(scans, tmp_path / "out", Preparation())
    with pytest.raises(
        DataError,
        match=r"holds data prepared from another source .folder .*scans.; choose another folder",
    ):
        prepare(data, tmp_path / "out", Preparation())
    with pytest.raises(DataError, match=r"cannot be made .*; choose another folder"):
        prepare(data, Path("/proc/nowhere"), Preparation())
    (tmp_path / "out").rename(tmp_path / "scans" / "copied here later")
    assert len(open_dataset({"name": "folder", "root": str(tmp_path / "scans")}).records()) == 6
    (tmp_path / "file").write_text("x")
    with pytest.raises(DataError, match="is a file; give a folder"):
        prepare(data, tmp_path / "file", Preparation())


def test_a_disk_that_cannot_be_written_stops_with_one_sentence(
    raw, tmp_path: Path, monkeypatch
) -> None:
    """Every write of an image fails as on a full disk: one sentence, not one per scan, and no half
    file.
    """

    def full(path: Path, *_: object) -> None:
        path.write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("lightning_reg.curation.prepare.write_image", full)
    with pytest.raises(
        DataError, match=r"cannot be written .*the disk is full.*the same command continues"
    ) as caught:
        prepare(open_dataset(raw), tmp_path / "out", Preparation())
    assert str(caught.value).count("cannot be written") == 1
    assert not list((tmp_path / "out").rglob("*.nii.gz"))


def test_settings_that_contradict_each_other() -> None:
    with pytest.raises(ValueError, match="spacing and shape are both given"):
        Preparation(spacing=2.0, shape=SHAPE)
    with pytest.raises(
        ComponentError, match="no lung segmentation named 'segmentd'; did you mean 'segmented'"
    ):
        Preparation(lungs="segmentd")
    with pytest.raises(ValueError, match="crop is 'body'"):
        Geometry(crop="body")


def phantom(shape: tuple[int, int, int] = (96, 80, 84)) -> tuple[tio.Subject, torch.Tensor]:
    pair = breathing_thorax(3, shape)
    image = tio.ScalarImage(tensor=pair.fixed.tensor[0], affine=pair.fixed.grid.affine[0])
    return tio.Subject(name="phantom", image=image), pair.fixed_mask.tensor[0, 0] > 0


def test_lungs_are_found_and_the_air_around_the_body_is_not() -> None:
    subject, truth = phantom()
    found = lung_mask(subject["image"], "phantom")
    assert dice(found, truth) > 0.96
    turned = tio.ScalarImage(
        tensor=subject["image"].data.flip(3),
        affine=subject["image"].affine @ np.diag([1.0, 1, -1, 1]),
    )
    assert dice(lung_mask(turned, "turned").flip(2), truth) > 0.96
    assert float(segmented("threshold", subject["image"], "one").float().mean()) > 1.5 * float(
        truth.float().mean()
    )
    with pytest.raises(DataError, match=r"No lungs are found in brain .* is it a chest CT in HU"):
        lung_mask(tio.ScalarImage(tensor=subject["image"].data.clamp(-100) + 1000), "brain")


@pytest.mark.parametrize("upside_down", [False, True])
def test_the_trachea_is_no_lung_whichever_end_of_the_image_is_its_top(upside_down: bool) -> None:
    """It goes on above the lungs to the first slice, where their mask would follow it."""
    subject, truth = phantom((64, 56, 60))
    image = subject["image"]
    if upside_down:
        affine = image.affine @ np.diag([1.0, 1, -1, 1])
        affine[:3, 3] -= 59 * affine[:3, 2]
        image, truth = tio.ScalarImage(tensor=image.data.flip(3), affine=affine), truth.flip(2)
    levels = [mask.any(0).any(0).nonzero()[:, 0] for mask in (lung_mask(image, "phantom"), truth)]
    found, true = (int(level[0] if upside_down else level[-1]) for level in levels)
    assert abs(found - true) <= 1


@pytest.mark.data
def test_lungs_of_real_scans(public_data: Path) -> None:
    """Against the masks that the scans come with; half of a thorax, cut through the other lung,
    padded outside the field of view.
    """
    for name in ("baseline", "followup"):
        folder = public_data / "lung_ct_pair"
        image, mask = (
            tio.ScalarImage(folder / f"3DCT_lung_{name}.mha"),
            tio.LabelMap(folder / f"3DCT_lung_{name}_mask.mha"),
        )
        assert dice(lung_mask(image, name), mask.data[0] > 0) > 0.975


def test_lungs_by_threshold_and_by_shape_crop_alike() -> None:
    subject, truth = phantom((64, 56, 60))
    segmented = Preparation(lungs="segmented", crop="lungs", margin=5)(
        tio.Subject(name="a", image=subject["image"])
    )
    threshold = Preparation(lungs="threshold", crop="lungs", margin=5)(
        tio.Subject(name="b", image=subject["image"])
    )
    assert segmented["image"].spatial_shape == threshold["image"].spatial_shape
    assert segmented["image"].spatial_shape[0] < 64
    assert int(segmented["mask"].data.sum()) < int(threshold["mask"].data.sum())
    assert float(segmented["mask"].data.sum()) > 0.9 * float(truth.sum())


def test_resizing_smooths_before_it_samples() -> None:
    """Stripes finer than the new voxels become their mean instead of other stripes."""
    stripes = (torch.arange(64) % 2).float().view(1, 64, 1, 1).expand(1, 64, 16, 16).contiguous()
    subject = tio.Subject(name="s", image=tio.ScalarImage(tensor=stripes))
    for geometry in (Geometry(shape=(15, 16, 16)), Geometry(spacing=(4.3, 1.0, 1.0))):
        inner = geometry(subject)["image"].data[0, 2:-2]
        assert float((inner - 0.5).abs().max()) < 0.05


def test_a_models_preprocessing_is_the_whole_way_and_training_does_the_rest() -> None:
    done = Geometry(True, "lungs", 5.0, None, (32, 32, 32))
    whole = Preprocessing(window=(-1000, 500)).following(done)
    assert (whole.crop, whole.shape, whole.window) == ("lungs", (32, 32, 32), (-1000, 500))
    left = whole.remaining(done)
    assert (left.crop, left.shape) == (None, None)
    smaller = Preprocessing(shape=(16, 16, 16)).following(done)
    assert smaller.remaining(done).shape == (16, 16, 16)
    assert smaller.crop == "lungs"
    again = Preprocessing(spacing=3.0).following(done)
    assert (again.spacing, again.shape) == (3.0, None)


def test_steps_that_cannot_be_one_way_are_refused() -> None:
    """A crop in training of what has been resampled, or cropped otherwise, could not be repeated on
    raw images.
    """
    for done in (Geometry(True, None, 5.0, None, (32, 32, 32)), Geometry(True, "mask")):
        with pytest.raises(DataError, match=r"`crop` is lungs, and the data have been"):
            Preprocessing(crop="lungs").following(done)
    done = Geometry(True, "mask", 5.0)
    assert Preprocessing(crop="mask", margin=2.0).following(done).margin == 5.0
    assert Preprocessing(crop="mask").following(done).remaining(done).crop is None
    assert Preprocessing(canonical=False).following(done).canonical
    uncropped = Geometry(True, None, 5.0, None, (32, 32, 32))
    whole = Preprocessing(crop="mask", shape=(32, 32, 32))
    assert (whole.remaining(uncropped).crop, whole.remaining(uncropped).shape) == (
        "mask",
        (32, 32, 32),
    )


def test_what_a_killed_run_with_other_settings_left_is_done_again(
    raw, tmp_path: Path, monkeypatch
) -> None:
    out = tmp_path / "out"
    prepare(open_dataset(raw), out, CROPPED)

    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        # images are there by then, the scan's state is not
        patch.setattr("lightning_reg.curation.prepare.write_points", killed)
        with pytest.raises(KeyboardInterrupt):
            prepare(open_dataset(raw), out, replace(CROPPED, shape=(10, 10, 10)))
    assert prepare(open_dataset(raw), out, CROPPED).reused == 3
    assert {nib.load(path).shape for path in (out / "images").iterdir()} == {SHAPE}


def test_landmarks_that_a_crop_cut_off_are_no_mistake(raw, tmp_path: Path) -> None:
    done = prepare(open_dataset(raw), tmp_path / "out", Preparation(crop="mask", margin=-60.0))
    assert done.problems == []
    data = open_dataset({"name": "prepared", "root": str(tmp_path / "out")})
    scan = Preprocessing().following(data.geometry).remaining(data.geometry)(data.subjects()[0])
    inside = scan.image.grid.to_voxel(scan.landmarks.double().T[None])
    assert float(inside.min()) < -0.5
    assert not [f for f in check(data).findings if f.kind == "landmarks"]


def test_a_table_of_ones_own_in_the_form(tmp_path: Path) -> None:
    """Only the required columns, semicolons, a folder beside it; all mistakes at once."""
    nifti = providers.nifti(tmp_path / "bilder" / "é 1.nii.gz", providers.phases(0)[0].image)
    (tmp_path / "manifest.csv").write_text(
        f"subject;split;image\na;train;{nifti.relative_to(tmp_path)}\nb;validation;{nifti}\n",
        encoding="utf-8",
    )
    data = PreparedDataset(str(tmp_path))
    assert [r.name for r in data.records()] == ["a", "b"]
    assert data.load(data.records()[0])["image"].spatial_shape == providers.SHAPE
    (tmp_path / "manifest.csv").write_text(
        "subject,split,image\na,train,x.nii\na,train,y.nii\nb,tests,z.nii\n"
    )
    with pytest.raises(DataError) as caught:
        PreparedDataset(str(tmp_path))
    for text in (
        "no file",
        "x.nii",
        "y.nii",
        "second scan named 'a'",
        "the split 'tests'; did you mean 'test'?",
    ):
        assert text in str(caught.value)
    (tmp_path / "manifest.csv").write_text("subject,splitt,image\na,train,x.nii\n")
    with pytest.raises(DataError, match="has no column 'split'; did you mean 'splitt'"):
        PreparedDataset(str(tmp_path))
    with pytest.raises(DataError, match="prepare the data first"):
        PreparedDataset(str(tmp_path / "nowhere"))


def test_options_of_the_raw_files_are_refused_for_prepared_ones(tmp_path: Path) -> None:
    raw = providers.dirlab(tmp_path / "raw", cases=(1,))
    prepare(
        open_dataset({"name": "dirlab", "root": str(raw)}),
        tmp_path / "out",
        Preparation(shape=(16, 16, 16)),
    )
    with pytest.raises(ComponentError, match=r"`offset` is about the provider's files"):
        open_dataset({"name": "dirlab", "root": str(tmp_path / "out"), "offset": 0})
    assert json.loads((tmp_path / "out" / "geometry.json").read_text())["shape"] == [16, 16, 16]


def test_ten_thousand_rows(tmp_path: Path, monkeypatch) -> None:
    """Each is looked at a few times, not once for every other one."""
    image = providers.nifti(tmp_path / "a.nii.gz", providers.phases(0, (8, 8, 8))[0].image)
    lines = [f"s{n},{'validation' if n % 10 == 0 else 'train'},{image.name}" for n in range(10_000)]
    (tmp_path / "manifest.csv").write_text("subject,split,image\n" + "\n".join(lines))
    compared = 0
    for name in ("__eq__", "__hash__"):
        original = getattr(Record, name)

        def counted(self: Record, *others: object, original=original) -> object:
            nonlocal compared
            compared += 1
            return original(self, *others)

        monkeypatch.setattr(Record, name, counted)
    data = open_dataset({"name": "prepared", "root": str(tmp_path)}, held_out=2000, limit=7000)
    assert len(data.records("train")) == 7000
    assert len(data.pairs("validation")) == 2000
    assert compared < 30 * 10_000
