"""Layouts of data: folders, descriptions, tables of pairs and DICOM series."""

from __future__ import annotations

import os
import re
from pathlib import Path

import numpy as np
import providers
import pytest

from lightning_reg.curation.check.group import check
from lightning_reg.data.datasets.splits import open_dataset
from lightning_reg.registry import DataError


def test_layouts_without_conversion(tmp_path: Path) -> None:
    """BIDS, nnU-Net, Learn2Reg, a folder per kind, per subject, plain files, names by a pattern;
    symbolic links; hidden files.
    """
    data = open_dataset({"name": "folder", "root": str(providers.bids(tmp_path / "bids"))})
    assert [r.name for r in data.records()][:3] == ["sub-01 01", "sub-01 02", "sub-02 01"]
    assert all(r.mask and r.labels for r in data.records())
    assert len(data.pairs("train")) == 3
    data = open_dataset({"name": "folder", "root": str(providers.nnunet(tmp_path / "nnunet"))})
    assert [r.name for r in data.records()] == [f"case_0{k}" for k in range(5)]
    assert len(data.records("validation")) == 2
    data = open_dataset({"name": "folder", "root": str(providers.nlst(tmp_path / "l2r"))})
    assert len(data.subjects()[0]["landmarks"]) == 20
    data = open_dataset({"name": "folder", "root": str(providers.lung_mri(tmp_path / "subjects"))})
    assert [r.name for r in data.records()][:2] == [
        "patient0-exhale".replace("-", " "),
        "patient0 inhale",
    ]
    assert all(r.mask for r in data.records())
    crops = providers.crops(tmp_path / "crops")
    (crops / "dataset.json").unlink()
    data = open_dataset({"name": "folder", "root": str(crops)})
    assert len(data.records()) == 6
    assert all(r.labels for r in data.records())
    plain = tmp_path / "plain, ünd Leerzeichen"
    plain.mkdir()
    for number in range(3):
        for time, phase in zip("ab", providers.phases(number, (12, 12, 12)), strict=True):
            stored = providers.nifti(
                tmp_path / "elsewhere" / f"p{number}{time}.nii.gz", phase.image
            )
            os.symlink(stored, plain / f"p{number}{time}.nii.gz")
    (plain / "._p0a.nii.gz").write_bytes(b"macOS")
    data = open_dataset({"name": "folder", "root": str(plain)})
    assert [r.name for r in data.records()] == ["p0a", "p0b", "p1a", "p1b", "p2a", "p2b"]
    data = open_dataset(
        {"name": "folder", "root": str(plain), "pattern": r"(?P<subject>p\d)(?P<time>.)\.nii"}
    )
    assert [r.name for r in data.records()][:2] == ["p0 a", "p0 b"]
    assert check(data).errors() == 0
    with pytest.raises(DataError, match="are both the scan 'p0'"):
        open_dataset({"name": "folder", "root": str(plain), "pattern": r"(?P<subject>p\d)"})
    with pytest.raises(DataError, match=r"No image below .* gives a subject by `pattern`"):
        open_dataset({"name": "folder", "root": str(plain), "pattern": r"(?P<subject>x\d)"})


def test_a_description_that_names_files_that_are_not_there(tmp_path: Path) -> None:
    folder = providers.crops(tmp_path)
    (folder / "labelsTr" / "hippocampus_002.nii.gz").unlink()
    (folder / "labelsTr" / "hippocampus_003.nii.gz").unlink()
    with pytest.raises(
        DataError,
        match=(
            r"dataset\.json lists .*labelsTr/hippocampus_002\.nii\.gz and 1 more, which is not"
            r" there"
        ),
    ):
        open_dataset({"name": "folder", "root": str(folder)})
    (folder / "dataset.json").write_text("{")
    with pytest.raises(DataError, match=r"dataset\.json cannot be read"):
        open_dataset({"name": "folder", "root": str(folder)})


def test_a_table_of_pairs_and_its_mistakes(tmp_path: Path) -> None:
    table = providers.pairs(tmp_path, count=3)
    data = open_dataset({"name": "pairs", "root": str(table)})
    assert [r.name for r in data.records()][:2] == ["pair1 fixed", "pair1 moving"]
    assert len(data.pairs("train")) == 2
    text = table.read_text()
    table.write_text(text.replace("fixed_mask", "fixedmask"))
    with pytest.raises(DataError, match="has a column 'fixedmask'; did you mean 'fixed_mask'"):
        open_dataset({"name": "pairs", "root": str(table)})
    table.write_text(text.replace("patient 1", "patient 9"))
    with pytest.raises(DataError) as caught:
        open_dataset({"name": "pairs", "root": str(table)})
    assert str(caught.value).count("there is no") == 6
    table.write_text("fixed,moving\nimages/patient 0/fixed.nii.gz,\n")
    with pytest.raises(DataError, match=r"Line 2 of .* has no moving image"):
        open_dataset({"name": "pairs", "root": str(table)})
    table.write_text("fixed\na.nii\n")
    with pytest.raises(DataError, match="has no column 'moving'"):
        open_dataset({"name": "pairs", "root": str(table)})


def test_one_atlas_in_many_pairs_is_one_scan(tmp_path: Path) -> None:
    providers.pairs(tmp_path, count=3)
    rows = [
        f"images/patient {n}/fixed.nii.gz,images/patient 0/moving.nii.gz,train,p{n}"
        for n in range(3)
    ]
    (tmp_path / "atlas.csv").write_text("fixed,moving,split,subject\n" + "\n".join(rows) + "\n")
    data = open_dataset({"name": "pairs", "root": str(tmp_path / "atlas.csv")})
    assert [r.name for r in data.records()] == ["p0 fixed", "p0 moving", "p1 fixed", "p2 fixed"]
    assert data.pairs("train") == [(0, 1), (2, 1), (3, 1)]


def place(k: int, tilt: float = 0.0) -> tuple[float, float, float]:
    return (0.0, tilt * k, 10.0 * k)


@pytest.mark.parametrize(
    ("places", "message"),
    [
        (
            [place(k) for k in (0, 1, 2, 4, 5)],
            r"10 mm, but 20 mm between 1-03\.dcm and 1-04\.dcm; export the missing slices",
        ),
        (
            [place(k) for k in (0, 1, 1, 2, 3)],
            r"has two slices at one place \(1-0[23]\.dcm, 1-0[23]\.dcm\)",
        ),
        ([place(k, 2.0) for k in range(5)], r"gantry tilted by 11\.3 degrees"),
    ],
)
def test_series_with_missing_doubled_or_sheared_slices(
    tmp_path: Path, places: list, message: str
) -> None:
    providers.dicom(
        tmp_path / "a" / "s", providers.phases(0)[0].image[:, :, :5], "1.2.3.4", places=places
    )
    found = check(open_dataset({"name": "folder", "root": str(tmp_path)})).findings
    assert any(re.search(message, f.text) for f in found), [f.text for f in found]


def test_mixed_series_in_one_folder_and_slices_out_of_order(tmp_path: Path) -> None:
    image = providers.phases(0)[0].image
    providers.dicom(
        tmp_path / "a" / "s", image[:, :, :6], "1.2.3.4", names=lambda k: f"slice{9 - k}.dcm"
    )
    data = open_dataset({"name": "folder", "root": str(tmp_path)})
    scan = data.subjects()[0]["image"]
    np.testing.assert_array_equal(scan.data[0].numpy()[::-1, ::-1], image[:, :, :6])
    providers.dicom(
        tmp_path / "a" / "s", image[:, :, :4], "1.2.3.5", names=lambda k: f"other{k}.dcm"
    )
    assert any(
        "holds 2 DICOM series" in f.text
        for f in check(open_dataset({"name": "folder", "root": str(tmp_path)})).findings
    )


def test_whose_mask_it_is(tmp_path: Path) -> None:
    """A file that is called mask or labels belongs to the only image of its folder; words in text
    files are not labels.
    """
    phase = providers.phases(0, (12, 12, 12))[0]
    for subject in ("p1", "p2"):
        for name, array in (("scan", phase.image), ("mask", phase.mask), ("labels", phase.lobes)):
            providers.nifti(tmp_path / subject / f"{name}.nii.gz", array)
    (tmp_path / "p1" / "scan_labels.txt").write_text("1 lobe")
    data = open_dataset({"name": "folder", "root": str(tmp_path)})
    assert [r.name for r in data.records()] == ["p1 scan", "p2 scan"]
    assert all(
        r.mask.name == "mask.nii.gz" and r.labels.name == "labels.nii.gz" for r in data.records()
    )
    providers.nifti(tmp_path / "p1" / "other.nii.gz", phase.image)
    with pytest.raises(
        DataError, match=r"may belong to any of 2 images beside it; call it IMAGE_(mask|labels)"
    ):
        open_dataset({"name": "folder", "root": str(tmp_path)})
    (tmp_path / "p1" / "other.nii.gz").rename(tmp_path / "p1" / "scan.nii")
    with pytest.raises(DataError, match="have one name; remove one of them"):
        open_dataset({"name": "folder", "root": str(tmp_path)})


def test_derivatives_belong_to_the_image_with_their_entities(tmp_path: Path) -> None:
    folder = providers.bids(tmp_path, subjects=2)
    base = folder / "derivatives" / "seg" / "sub-01" / "ses-01" / "anat"
    for name in (
        "sub-01_ses-01_run-2_desc-brain_mask",
        "sub-01_ses-01_space-MNI152_desc-brain_mask",
        "sub-01_ses-01_acq-a_dseg",
    ):
        (base / f"{name}.nii.gz").write_bytes(b"another's")
    for path in base.glob("sub-01_ses-01_desc-brain_mask.nii.gz"):
        path.unlink()
    data = open_dataset({"name": "folder", "root": str(folder)})
    assert data.records()[0].mask is None
    assert data.records()[0].labels.name == "sub-01_ses-01_dseg.nii.gz"
    assert data.records()[1].mask.name == "sub-01_ses-02_desc-brain_mask.nii.gz"


@pytest.mark.parametrize(
    "text",
    [
        '{"training": [{"image": ["a"]}]}',
        '{"registration_val": [{"moving": "a"}]}',
        '{"training": 3}',
        '{"channel_names": {}, "dataset": {"a": 3}}',
    ],
)
def test_descriptions_of_no_known_form(tmp_path: Path, text: str) -> None:
    (tmp_path / "dataset.json").write_text(text)
    with pytest.raises(DataError, match=r"dataset\.json is not of the form"):
        open_dataset({"name": "folder", "root": str(tmp_path)})
