"""Roles of the files in a folder: label maps and masks are never scans, and none is dropped without
a word.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from lightning_reg.curation.check.group import check
from lightning_reg.data.datasets.roles import has_labels
from lightning_reg.data.datasets.splits import Splits, open_dataset
from lightning_reg.registry import DataError

SHAPE = (16, 14, 12)
X, Y, Z = np.meshgrid(*(np.arange(n) for n in SHAPE), indexing="ij")
ELLIPSOID = ((X - 8) / 6) ** 2 + ((Y - 7) / 5) ** 2 + ((Z - 6) / 4) ** 2


def save(path: Path, values: np.ndarray, shift: float = 0.0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    affine = np.diag([2.0, 2.0, 2.5, 1.0])
    affine[:3, 3] = shift
    nib.Nifti1Image(values, affine).to_filename(path)


def write(
    root: Path,
    scans: Sequence[str],
    labels: Sequence[str],
    dtype: type = np.uint8,
    binary: bool = False,
) -> Path:
    """Noisy ellipsoids, and maps of two labels (or one) in them."""
    for number, name in enumerate(scans):
        noise = np.random.default_rng(number).normal(0, 20, SHAPE)
        save(root / name, (1000 * np.exp(-ELLIPSOID) + 100 + noise).round().astype(np.int16))
    for name in labels:
        save(
            root / name, ((ELLIPSOID < 1) + (0 if binary else 1) * (ELLIPSOID < 0.4)).astype(dtype)
        )
    return root


def opened(root: Path, **arguments: str) -> Splits:
    return open_dataset({"name": "folder", "root": str(root), **arguments})


PEOPLE = ("anna", "ben", "chloe", "david", "emil", "fay")
NUMBERS = [f"{n:02}" for n in range(1, 7)]
LAYOUTS = {
    "a folder per subject": ("{p}/t1.nii.gz", "{p}/segmentation.nii.gz"),
    "hyphen": ("{p}/t1.nii.gz", "{p}/t1-label.nii.gz"),
    "underscore": ("{p}/t1.nii.gz", "{p}/t1_segmentation.nii.gz"),
    "dot": ("{p}/t1.nii.gz", "{p}/t1.seg.nii.gz"),
    "FreeSurfer": ("{p}/t1.nii.gz", "{p}/aparc+aseg.nii.gz"),
    "a name that says nothing": ("{p}/t1.nii.gz", "{p}/manual.nii.gz"),
    "upper case": ("{p}/T1.NII.GZ", "{p}/T1_SEG.NII.GZ"),
    "two folders": ("Scans 2024/P{n}_t1.nii.gz", "seg anna/P{n}_seg_v2.nii.gz"),
    "two folders of any name": ("CT/P{n}.nii.gz", "by hand/P{n}.nii.gz"),
    "two trees": ("images/{p}/t1.nii.gz", "labels/{p}/t1.nii.gz"),
    "images and labels": ("images/P{n}_t1.nii.gz", "labels/P{n}_seg_v2.nii.gz"),
    "Images and Segmentations": ("Images/P{n}.nii.gz", "Segmentations/P{n}.nii.gz"),
    "images with label maps inside": ("images/P{n}.nii.gz", "images/P{n}_seg.nii.gz"),
    "nnU-Net": ("imagesTr/case_0{n}_0000.nii.gz", "labelsTr/case_0{n}.nii.gz"),
    "BIDS, derivatives": (
        "sub-{n}/anat/sub-{n}_T1w.nii.gz",
        "derivatives/manual/sub-{n}/anat/sub-{n}_dseg.nii.gz",
    ),
    "BIDS, no anat": (
        "sub-{n}/anat/sub-{n}_T1w.nii.gz",
        "derivatives/manual/sub-{n}/sub-{n}_desc-x_dseg.nii.gz",
    ),
    "BIDS, beside": ("sub-{n}/anat/sub-{n}_t1.nii.gz", "sub-{n}/anat/sub-{n}_seg.nii.gz"),
    "folders called sub": ("sub-{n}/t1.nii.gz", "sub-{n}/segmentation.nii.gz"),
    "flat": ("P{n}_t1.nii.gz", "P{n}_seg_v2.nii.gz"),
    "word in front": ("P{n}.nii.gz", "seg_P{n}.nii.gz"),
}


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
@pytest.mark.parametrize("name", LAYOUTS)
def test_label_maps_are_no_scans(name: str, dtype: type, tmp_path: Path) -> None:
    scan, labels = LAYOUTS[name]
    both = [
        [form.format(p=p, n=n) for p, n in zip(PEOPLE, NUMBERS, strict=True)]
        for form in (scan, labels)
    ]
    if name == "upper case":  # nibabel does not write such names
        lower = [[n.replace("NII.GZ", "nii.gz") for n in of] for of in both]
        write(tmp_path, *lower, dtype)
        for old, new in zip([*lower[0], *lower[1]], [*both[0], *both[1]], strict=True):
            (tmp_path / old).rename(tmp_path / new)
    else:
        write(tmp_path, *both, dtype)
    data = opened(tmp_path)
    assert [
        (str(r.image.relative_to(tmp_path)), str(r.labels.relative_to(tmp_path)))
        for r in data.records()
    ] == list(zip(*both, strict=True))
    assert len({record.subject for record in data.records()}) == 6
    assert [record.split for record in data.records()].count("validation") == 2


def test_masks_beside_images_and_a_label_map_of_one_structure(tmp_path: Path) -> None:
    scans = [f"images/P{n}.nii.gz" for n in NUMBERS]
    write(
        tmp_path,
        scans,
        [f"masks/P{n}_v2.nii.gz" for n in NUMBERS]
        + [f"images/P{n}_lesion.nii.gz" for n in NUMBERS],
        binary=True,
    )
    records = opened(tmp_path).records()
    assert [(r.mask.name, r.labels.name) for r in records] == [
        (f"P{n}_v2.nii.gz", f"P{n}_lesion.nii.gz") for n in NUMBERS
    ]


def test_label_maps_alone_are_no_data(tmp_path: Path) -> None:
    for names in ("P{}_seg_v2.nii.gz", "P{}_seg.nii.gz"):
        with pytest.raises(DataError, match="holds only masks or label maps"):
            opened(
                write(tmp_path / names[:7] / names[8:12], [], [names.format(n) for n in NUMBERS])
            )


def test_scans_of_few_values_stay_scans(tmp_path: Path) -> None:
    """A phantom of some tissues is read as before where all scans are so; among others it is
    refused with both readings.
    """
    names = [f"p{n}.nii.gz" for n in NUMBERS]
    write(tmp_path, [], names)
    assert len(opened(tmp_path).records()) == 6
    assert [f.kind for f in check(opened(tmp_path)).findings if f.kind == "roles"] == ["roles"]
    write(tmp_path, names[:3] + names[4:], [])
    with pytest.raises(
        DataError, match=r"p04\.nii\.gz has the values of a label map and belongs to no image"
    ):
        opened(tmp_path)
    assert len(opened(tmp_path, labels="").records()) == 6


@pytest.mark.parametrize(
    ("scans", "labels", "message"),
    [
        (
            ["P1.nii.gz", "P2.nii.gz"],
            ["P3_seg.nii.gz"],
            r"P3_seg\.nii\.gz is called labels and belongs to no image",
        ),
        (
            ["a/1_0.nii.gz", "a/2_0.nii.gz"],
            ["a/1_1.nii.gz"],
            r"1_1\.nii\.gz has the values of a label map and belongs to no image",
        ),
        (
            ["a/t1.nii.gz", "a/t2.nii.gz"],
            ["a/seg.nii.gz"],
            r"seg\.nii\.gz is called labels and may belong to any of 2 images",
        ),
        (
            ["images/P1.nii.gz"],
            ["labels/P1.nii.gz", "labels/P2.nii.gz"],
            r"P2\.nii\.gz is called labels and belongs to no image",
        ),
        (
            ["P1.nii.gz"],
            ["P1_seg.nii.gz", "P1_seg_v2.nii.gz"],
            r"P1_seg\.nii\.gz and .*P1_seg_v2\.nii\.gz are both labels of",
        ),
        (
            ["P1.nii.gz", "P2_seg_soft.nii.gz"],
            [],
            r"P2_seg_soft\.nii\.gz is called a mask or a label map and has not its values",
        ),
    ],
)
def test_what_belongs_to_no_scan_is_named(
    scans: Sequence[str], labels: Sequence[str], message: str, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=message):
        opened(write(tmp_path, scans, labels))


def test_a_label_map_by_its_values_lies_on_the_scan_s_grid(tmp_path: Path) -> None:
    write(tmp_path, ["a/t1.nii.gz", "b/t1.nii.gz"], ["a/manual.nii.gz"])
    assert [r.labels is not None for r in opened(tmp_path).records()] == [True, False]
    save(tmp_path / "a" / "manual.nii.gz", (ELLIPSOID < 1).astype(np.uint8), shift=30.0)
    with pytest.raises(
        DataError, match=r"manual\.nii\.gz has the values of a label map and belongs to no image"
    ):
        opened(tmp_path)


def test_the_pattern_of_the_label_maps(tmp_path: Path) -> None:
    scans = [f"{p}/t1.nii.gz" for p in PEOPLE]
    write(
        tmp_path,
        scans,
        [f"{p}/t1_{word}.nii.gz" for p in PEOPLE for word in ("seg_v1", "seg_v2", "tissue")],
    )
    records = opened(tmp_path, labels="*_v2").records()
    assert [r.labels.name for r in records] == ["t1_seg_v2.nii.gz"] * 6
    with pytest.raises(DataError, match=r"No file fits labels=\*_v3"):
        opened(tmp_path, labels="*_v3")


def test_second_label_maps_of_derivatives_are_reported(tmp_path: Path) -> None:
    base = "derivatives/prep/sub-{0}/anat/sub-{0}"
    names = ["_desc-a_dseg", "_desc-b_dseg", "_space-MNI_dseg"]
    write(
        tmp_path,
        [f"sub-{n}/anat/sub-{n}_T1w.nii.gz" for n in NUMBERS],
        [f"{base.format(n)}{w}.nii.gz" for n in NUMBERS for w in names],
    )
    (finding,) = [f for f in check(opened(tmp_path)).findings if f.kind == "roles"]
    assert finding.text.startswith("12 masks or label maps are not used")


def test_a_table_that_lists_a_label_map_as_an_image(tmp_path: Path) -> None:
    write(tmp_path, [f"p{n}.nii.gz" for n in range(4)], ["p4.nii.gz"])
    rows = [f"s{n},{'train' if n < 3 else 'validation'},p{n}.nii.gz" for n in range(5)]
    (tmp_path / "manifest.csv").write_text("subject,split,image\n" + "\n".join(rows) + "\n")
    (finding,) = [f for f in check(opened(tmp_path)).findings if f.kind == "roles"]
    assert (finding.level, "p4.nii.gz is listed as an image" in finding.text) == ("error", True)


def test_values_of_label_maps() -> None:
    rng = np.random.default_rng(1)
    smooth = 200 * np.exp(-ELLIPSOID) + rng.normal(0, 5, SHAPE)
    many = np.floor(X / 3) + 10 * np.floor(Y / 3) + 100 * np.floor(Z / 3) + 1
    for values, expected in (
        ((ELLIPSOID < 1).astype(np.uint8), True), ((ELLIPSOID < 1).astype(np.float64), True),
        (many * (ELLIPSOID < 1), True),
        (smooth.clip(0, 255).astype(np.uint8), False), (smooth.astype(np.float32), False),
        (rng.integers(0, 12, SHAPE), False),
        ((ELLIPSOID < 1) * 0.5, False), (np.zeros(SHAPE), False), (-1.0 * (ELLIPSOID < 1), False),
    ):  # fmt: skip
        assert has_labels(values) is expected
