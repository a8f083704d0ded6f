"""Images and points from files, and errors in files."""

from __future__ import annotations

import json
import locale
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
import torch
import torchio as tio

from lightning_reg.data.scans import read_subject, scan_from_subject
from lightning_reg.io.images import read_image, write_image
from lightning_reg.io.points import read_plain, read_points, write_points
from lightning_reg.registry import DataError
from lightning_reg.spatial import Grid

AFFINE = np.array([[-2.0, 0, 0, 30], [0, 0, 2.5, -40], [0, 1.5, 0, 7], [0, 0, 0, 1]])


@pytest.fixture
def values() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 1000, (7, 6, 5)).astype(np.int16)


def write_series(
    folder: Path,
    values: np.ndarray,
    uid: str = "1.2.826.0.1.3680043.2.1125.1",
    prefix: str = "slice",
) -> sitk.Image:
    """A CT series as scanners export it, one file per slice. (GDCM changes the locale, for good.)"""
    ctype = locale.setlocale(locale.LC_CTYPE)
    folder.mkdir(exist_ok=True)
    image = sitk.GetImageFromArray(values.transpose())
    image.SetSpacing((1.5, 2.0, 3.0))
    image.SetOrigin((-10.0, 20.0, 30.0))
    writer = sitk.ImageFileWriter()
    writer.KeepOriginalImageUIDOn()
    for k in range(values.shape[2]):
        part = image[:, :, k]
        position = image.TransformIndexToPhysicalPoint((0, 0, k))
        for tag, text in {
            "0008|0060": "CT", "0020|000e": uid, "0020|000d": uid + ".9",
            "0008|0018": f"{uid}.{k + 1}", "0020|0013": str(k + 1),
            "0020|0032": "\\".join(map(str, position)), "0020|0037": "1\\0\\0\\0\\1\\0",
            "0018|0050": "3",
        }.items():  # fmt: skip
            part.SetMetaData(tag, text)
        # names in the other order than positions
        writer.SetFileName(str(folder / f"{prefix}{values.shape[2] - k:03d}.dcm"))
        writer.Execute(part)
    locale.setlocale(locale.LC_CTYPE, ctype)
    return image


def test_a_folder_with_a_dicom_series(values: np.ndarray, tmp_path: Path) -> None:
    image = write_series(tmp_path / "series", values)
    ctype = locale.setlocale(locale.LC_CTYPE)
    found = read_image(tmp_path / "series")
    assert locale.setlocale(locale.LC_CTYPE) == ctype
    np.testing.assert_array_equal(found.data[0].numpy(), values)
    expected = tio.ScalarImage.from_sitk(image)
    np.testing.assert_allclose(found.affine, expected.affine, atol=1e-6)


def test_several_series_in_one_folder_and_none(values: np.ndarray, tmp_path: Path) -> None:
    write_series(tmp_path / "two", values)
    write_series(tmp_path / "two", values, "1.2.826.0.1.3680043.2.1125.2", "other")
    with pytest.raises(
        DataError, match=r"holds 2 DICOM series .* move one of them to a folder of its own"
    ):
        read_image(tmp_path / "two")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="holds no DICOM series"):
        read_image(tmp_path / "empty")


@pytest.mark.parametrize(
    "kind", [np.uint8, np.int8, np.uint16, np.int32, np.uint32, np.float64, ">i2"]
)
def test_numbers_of_every_kind(kind, values: np.ndarray, tmp_path: Path) -> None:
    stored = values.clip(0, 100).astype(kind)
    nib.Nifti1Image(stored, AFFINE).to_filename(tmp_path / "x.nii.gz")
    subject = read_subject("x", tmp_path / "x.nii.gz", mask=tmp_path / "x.nii.gz")
    np.testing.assert_array_equal(subject["image"].data[0].numpy(), stored.astype(np.float64))


@pytest.mark.parametrize("ending", [".mha", ".nrrd", ".nii.gz"])
def test_file_kinds_agree_on_where_voxels_lie(
    ending: str, values: np.ndarray, tmp_path: Path
) -> None:
    written = tio.ScalarImage(tensor=values[None], affine=AFFINE)
    written.save(tmp_path / f"x{ending}")
    found = read_image(tmp_path / f"x{ending}")
    np.testing.assert_array_equal(found.data[0].numpy(), values)
    np.testing.assert_allclose(found.affine, AFFINE, atol=1e-5)


def test_a_header_with_singular_axes(values: np.ndarray, tmp_path: Path) -> None:
    tio.ScalarImage(tensor=values[None]).save(tmp_path / "x.mha")
    content = (tmp_path / "x.mha").read_bytes()
    matrix = next(line for line in content.splitlines() if line.startswith(b"TransformMatrix"))
    (tmp_path / "x.mha").write_bytes(
        content.replace(matrix, b"TransformMatrix = 0 0 0 0 0 0 0 0 0")
    )
    with pytest.raises(
        DataError,
        match=r"x\.mha cannot be read as an image \(the axes in its header are singular\)",
    ):
        read_image(tmp_path / "x.mha")


@pytest.mark.parametrize(
    ("source", "message"),
    [(3, "int is no image"), ((np.zeros(3), np.eye(4)), r"\(3,\) .* is no image")],
)
def test_what_is_no_image(source, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_image(source)


def test_a_mask_that_is_empty_and_labels_with_channels(values: np.ndarray, tmp_path: Path) -> None:
    for name, array in (
        ("image", values),
        ("empty", values * 0),
        ("many", np.stack([values] * 3, axis=-1)),
    ):
        nib.Nifti1Image(array, AFFINE).to_filename(tmp_path / f"{name}.nii.gz")
    with pytest.raises(DataError, match=r"empty\.nii\.gz is empty \(0 everywhere\)"):
        read_subject("x", tmp_path / "image.nii.gz", mask=tmp_path / "empty.nii.gz")
    with pytest.raises(
        DataError, match=r"many\.nii\.gz has 3 channels where one label map is meant"
    ):
        read_subject("x", tmp_path / "image.nii.gz", labels=tmp_path / "many.nii.gz")


POINTS = torch.tensor([[10.0, -20.0, 30.5], [1.0, 2.0, 3.0]], dtype=torch.float64)
FLIP = torch.tensor([-1.0, -1.0, 1.0], dtype=torch.float64)


@pytest.mark.parametrize("space", ["RAS", "LPS"])
def test_points_are_read_as_they_were_written(space: str, tmp_path: Path) -> None:
    write_points(tmp_path / "p.csv", POINTS, space)
    found = read_points(tmp_path / "p.csv")
    assert found.space == space
    torch.testing.assert_close(found.world(), POINTS)
    torch.testing.assert_close(found.values, POINTS * (FLIP if space == "LPS" else 1))


@pytest.mark.parametrize("header", ["x,y,z,t", "x,y,z,t,label,comment"])
def test_points_of_ants_are_lps(header: str, tmp_path: Path) -> None:
    """``antsApplyTransformsToPoints`` maps these numbers as ITK's ``TransformPoint`` does, without
    a change of sign.
    """
    rest = [",0", ",0,{},NA"]["label" in header]
    rows = [
        f"{x},{y},{z}{rest.format(number)}"
        for number, (x, y, z) in enumerate((POINTS * FLIP).tolist())
    ]
    (tmp_path / "p.csv").write_text("\n".join([header, *rows]) + "\n")
    found = read_points(tmp_path / "p.csv")
    assert found.space == "LPS"
    assert found.labels == (("0", "1") if "label" in header else ())
    torch.testing.assert_close(found.world(), POINTS)


def test_points_in_voxels_need_their_image(tmp_path: Path) -> None:
    (tmp_path / "p.csv").write_text("name, i, j, k\na, 1, 2, 3\n")
    grid = Grid((7, 6, 5), torch.from_numpy(AFFINE))
    torch.testing.assert_close(
        read_points(tmp_path / "p.csv").world(grid)[0],
        torch.tensor([28.0, -32.5, 10.0], dtype=torch.float64),
    )
    with pytest.raises(DataError, match="need their image"):
        read_points(tmp_path / "p.csv").world()


@pytest.mark.parametrize(("space", "first"), [("voxel", 1), ("voxel", 0), ("LPS", 0)])
def test_numbers_without_a_header_are_what_their_provider_says(
    space: str, first: int, tmp_path: Path
) -> None:
    (tmp_path / "p.txt").write_text("# three numbers a line\n4 5 6\n1.5\t2 3\n")
    grid = Grid.regular((9, 8, 7), (2.0, 1.5, 3.0), (-10.0, 20.0, 5.0))
    found = read_plain(tmp_path / "p.txt", space, first).world(grid).numpy()
    values = np.array([[4.0, 5.0, 6.0], [1.5, 2.0, 3.0]])
    expected = (
        values * FLIP.numpy()
        if space == "LPS"
        else (values - first) * (2.0, 1.5, 3.0) + (-10.0, 20.0, 5.0)
    )
    np.testing.assert_allclose(found, expected)


@pytest.mark.parametrize(("system", "flip"), [("0", 1), ("RAS", 1), ("1", FLIP), ("LPS", FLIP)])
def test_slicers_fcsv(system: str, flip, tmp_path: Path) -> None:
    text = (
        f"# Markups fiducial file version = 4.11\n# CoordinateSystem = {system}\n# columns ="
        " id,x,y,z,ow\n"
    )
    (tmp_path / "p.fcsv").write_text(
        text + "".join(f"n{n},{x},{y},{z},0\n" for n, (x, y, z) in enumerate(POINTS.tolist()))
    )
    torch.testing.assert_close(read_points(tmp_path / "p.fcsv").world(), POINTS * flip)


@pytest.mark.parametrize(("system", "flip"), [("RAS", 1), ("LPS", FLIP)])
def test_slicers_markups(system: str, flip, tmp_path: Path) -> None:
    points = [
        {"id": str(n), "label": f"F-{n}", "position": p} for n, p in enumerate(POINTS.tolist())
    ]
    for units, scale in (
        ({}, 1.0),
        ({"coordinateUnits": "mm"}, 1.0),
        ({"coordinateUnits": "um"}, 1e-3),
        ({"coordinateUnits": "cm"}, 10.0),
    ):
        (tmp_path / "p.mrk.json").write_text(
            json.dumps(
                {"markups": [{"coordinateSystem": system, **units, "controlPoints": points}]}
            )
        )
        torch.testing.assert_close(
            read_points(tmp_path / "p.mrk.json").world(), POINTS * flip * scale
        )
    assert read_points(tmp_path / "p.mrk.json").labels == ("F-0", "F-1")


def test_labels_of_points_are_read_where_they_tell_them_apart(tmp_path: Path) -> None:
    for labels, expected in (
        (("B", '"A, left"'), ("B", "A, left")),
        (("A", "A"), ()),
        (("A", ""), ()),
    ):
        rows = [
            f"n,{x},{y},{z},{label}\n"
            for label, (x, y, z) in zip(labels, POINTS.tolist(), strict=True)
        ]
        (tmp_path / "p.fcsv").write_text(
            "# CoordinateSystem = RAS\n# columns = id,x,y,z,label\n" + "".join(rows)
        )
        assert read_points(tmp_path / "p.fcsv").labels == expected
    write_points(tmp_path / "p.csv", POINTS, labels=("B", "A, left"))
    assert read_points(tmp_path / "p.csv").labels == ("B", "A, left")
    torch.testing.assert_close(read_points(tmp_path / "p.csv").world(), POINTS)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "has the columns of an empty file"),
        ("x,y,z\n", "has the columns of an empty file|holds no points"),
        ("a,b,c\n1,2,3\n", "has the columns a, b, c; give a CSV file with the columns x,y,z"),
        ("x,y,z\n1,2,3\n4,five,6\n", r"Line 3 of .* is not three numbers \(4 \| five \| 6\)"),
        ("x,y,z\n1,2\n", r"Line 2 of .* is not three numbers"),
        ("x,y,z\n1,2,nan\n", "not three numbers"),
        (
            "x,y,z\n1,2,3\n\n4,5,6\n",
            "Line 3 of .* is empty; points of the two images correspond by their order",
        ),
        ("x,y,z\n1,2,3\n4,5,six\n\n\n", "Line 3 of .* is not three numbers"),
        ("x;y;z\n1,5;2;3\n", "has the columns x;y;z"),
    ],
)
def test_files_that_are_no_points(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "p.csv").write_text(text)
    with pytest.raises(DataError, match=message):
        read_points(tmp_path / "p.csv")


def test_a_row_with_more_cells_is_no_trouble(tmp_path: Path) -> None:
    (tmp_path / "p.csv").write_text("x,y,z\n1,2,3,a note\n")
    assert read_points(tmp_path / "p.csv").world().tolist() == [[1.0, 2.0, 3.0]]
    (tmp_path / "p.csv").write_text("x,y,z\n1,5,2,5,3,5\n")
    with pytest.raises(DataError, match="decimal points instead of commas"):
        read_points(tmp_path / "p.csv")


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        (
            "p.fcsv",
            "# CoordinateSystem = 0\na,1,2\nb,3,4\nc,5,6\n",
            r"Line 2 of .* is not three numbers \(1 \| 2\)",
        ),
        ("p.fcsv", "a,1,2,3\n", "does not say in which coordinate system"),
        ("p.fcsv", "# CoordinateSystem = 7\na,1,2,3\n", "in the coordinate system '7'"),
        ("p.mrk.json", "[1]", "cannot be read as points"),
        (
            "p.mrk.json",
            '{"markups": [{"coordinateSystem": "LPS", "controlPoints": [{"position": []}]}]}',
            "Line 1 of",
        ),
        (
            "p.mrk.json",
            '{"markups": [{"coordinateSystem": "LPS", "controlPoints": [{"position": null}]}]}',
            "Line 1 of",
        ),
        (
            "p.mrk.json",
            '{"markups": [{"controlPoints": []}]}',
            "does not say in which coordinate system",
        ),
        (
            "p.mrk.json",
            '{"markups": [{"coordinateSystem": "LPS", "controlPoints": []}, {}]}',
            "has 2 lists of points; save the list",
        ),
        (
            "p.mrk.json",
            (
                '{"markups": [{"coordinateSystem": "LPS", "coordinateUnits": "inch",'
                ' "controlPoints": []}]}'
            ),
            "has points in the unit inch; export them in mm",
        ),
        (
            "p.mrk.json",
            (
                '{"markups": [{"coordinateSystem": "LPS", "controlPoints": [{"positionStatus":'
                ' "undefined", "position": [0, 0, 0]}]}]}'
            ),
            "Point 1 of .* was never placed",
        ),
    ],
)
def test_slicers_files_that_are_not_whole(
    name: str, text: str, message: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(DataError, match=message):
        read_points(tmp_path / name)


@pytest.mark.parametrize("kind", [np.uint16, np.uint32, np.uint64, ">i2", ">f4"])
def test_arrays_of_every_kind_and_stride(kind, values: np.ndarray) -> None:
    array = values.clip(0, 100).astype(kind)[::-1]
    subject = read_subject("x", (array, AFFINE))
    np.testing.assert_array_equal(subject["image"].data[0].numpy(), array.astype(np.float64))


def test_complex_numbers_and_an_affine_without_volume(values: np.ndarray) -> None:
    with pytest.raises(DataError, match="complex64 are no intensities"):
        read_image((values.astype(np.complex64), AFFINE))
    with pytest.raises(DataError, match=r"x: .*singular"):
        read_subject("x", (values, np.diag([1.0, 1.0, 0.0, 1.0])))


@pytest.mark.parametrize(("largest", "kind"), [(7, np.uint8), (300, np.int16), (40_000, np.int32)])
def test_labels_keep_their_numbers(
    largest: int, kind: type, values: np.ndarray, tmp_path: Path
) -> None:
    labels = (values > 500) * np.uint32(largest)
    subject = read_subject("x", (values, AFFINE), labels=(labels, AFFINE))
    image = scan_from_subject(subject).labels
    assert image is not None
    assert int(image.tensor.max()) == largest
    write_image(tmp_path / "l.nii.gz", image.tensor.long(), image.grid)
    assert nib.load(tmp_path / "l.nii.gz").get_data_dtype() == kind
    np.testing.assert_array_equal(np.asarray(nib.load(tmp_path / "l.nii.gz").dataobj), labels)


@pytest.mark.parametrize(("value", "message"), [(0.4, "is empty"), (np.nan, "NaN or infinite")])
def test_masks_of_doubtful_values(value: float, message: str, values: np.ndarray) -> None:
    mask = np.full(values.shape, value)
    with pytest.raises(DataError, match=message):
        read_subject("x", (values, AFFINE), mask=(mask, AFFINE))
