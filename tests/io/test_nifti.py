"""NIfTI: voxels lie where ITK puts them, whatever the header's forms, unit and the file's ending."""

from __future__ import annotations

import gzip
import itertools
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
import torchio as tio

from lightning_reg.io.images import doubts, read_image, voxels, write_image
from lightning_reg.io.nifti import is_nifti, placement
from lightning_reg.registry import DataError
from lightning_reg.spatial import Grid, Image

SHAPE = (4, 5, 6)
SIZES = (2.0, 2.5, 3.0)
TURN = nib.eulerangles.euler2mat(0.2, 0.1, -0.15) @ np.diag(SIZES)
OBLIQUE = nib.affines.from_matvec(TURN, [-40, -30, -25])
FORMS = {
    "equal": OBLIQUE,
    "rounded": OBLIQUE + np.eye(4, k=3) * 0.3,
    "mirrored": nib.affines.from_matvec(np.diag(SIZES) * [-1, 1, 1], [40, -30, -25]),
    "sheared": OBLIQUE + np.eye(4, k=1) * [0, 0.4, 0, 0],
    "scaled": nib.affines.from_matvec(1.5 * TURN, [-40, -30, -25]),
}
UNITS = {"mm": 1.0, "micron": 1e-3, "meter": 1e3, "unknown": 1.0}


@pytest.fixture
def values() -> np.ndarray:
    return np.random.default_rng(0).normal(size=SHAPE).astype(np.float32)


def file_of(
    path: Path, values: np.ndarray, qform: int, sform: int, form: str, unit: str = "mm"
) -> Path:
    """A file whose qform is OBLIQUE, whatever the codes."""
    header = nib.Nifti1Header()
    header.set_data_shape(SHAPE)
    header.set_data_dtype(np.float32)
    header.set_zooms(SIZES)
    header.set_qform(OBLIQUE)
    header.set_sform(FORMS[form])
    header["qform_code"], header["sform_code"], header["magic"], header["vox_offset"] = (
        qform,
        sform,
        b"n+1",
        352,
    )
    header.set_xyzt_units(unit)
    path.write_bytes(header.binaryblock + bytes(4) + values.tobytes(order="F"))
    return path


def by_itk(path: Path) -> np.ndarray | None:
    """The affine, RAS, that SimpleITK reads; ``None`` if it refuses the file."""
    shown = sitk.ProcessObject.GetGlobalWarningDisplay()
    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    try:
        image = sitk.ReadImage(str(path))
    except RuntimeError:
        return None
    finally:
        sitk.ProcessObject.SetGlobalWarningDisplay(shown)
    axes = np.array(image.GetDirection()).reshape(3, 3) * image.GetSpacing()
    return np.diag([-1, -1, 1, 1]) @ nib.affines.from_matvec(axes, image.GetOrigin())


def apart(one: np.ndarray, other: np.ndarray) -> float:
    corners = np.array(
        [[*corner, 1] for corner in itertools.product(*[(0, n - 1) for n in SHAPE])]
    ).T
    return float(np.linalg.norm(((one - other) @ corners)[:3], axis=0).max())


@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.parametrize("form", FORMS)
def test_voxels_lie_where_itk_puts_them(
    form: str, unit: str, values: np.ndarray, tmp_path: Path
) -> None:
    size = UNITS[unit]
    mm = np.diag([size, size, size, 1.0])
    for qform, sform in itertools.product(range(4), range(5)):
        path = file_of(tmp_path / "x.nii", values, qform, sform, form, unit)
        image, itk, nibabel = read_image(path), by_itk(path), mm @ nib.load(path).affine
        np.testing.assert_array_equal(image.data[0].numpy(), values)
        np.testing.assert_allclose(read_image(nib.load(path)).affine, image.affine)
        found = doubts(image, path)
        if itk is None:
            np.testing.assert_allclose(image.affine, nibabel, rtol=1e-5)
            assert [doubt.text.partition(" (off by ")[0] for doubt in found] == [
                f"{path} has axes that are not perpendicular"
            ]
            continue
        assert apart(image.affine, itk) <= size * min(SIZES) / 2
        assert bool(found) == (apart(nibabel, itk) > size * min(SIZES) / 2), (qform, sform)
        if found:
            np.testing.assert_allclose(image.affine, itk, rtol=1e-5, atol=1e-4 * size)
            forms = qform or sform
            assert (
                "is placed differently by its qform and its sform"
                if forms
                else "does not say where"
            ) in found[0].text


def test_registered_files_are_those_that_itk_reads(values: np.ndarray, tmp_path: Path) -> None:
    from lightning_reg.inference.inputs import Inputs

    fixed, moving = (
        file_of(tmp_path / f"{n}.nii", values, q, s, "mirrored")
        for n, q, s in (("f", 0, 0), ("m", 1, 2))
    )
    warnings = Inputs.read({"fixed": str(fixed), "moving": moving}).warnings
    assert [text.split(";")[0] for text in warnings] == [
        f"{fixed} does not say where its voxels lie (no qform, no sform)",
        (
            f"{moving} is placed differently by its qform and its sform (up to"
            f" {apart(OBLIQUE, FORMS['mirrored']):.3g} mm apart)"
        ),
    ]
    assert Inputs.read({"fixed": (values, OBLIQUE), "moving": (values, OBLIQUE)}).warnings == []


@pytest.mark.parametrize(
    "name",
    ["x.nii", "X.NII", "x.nii.gz", "X.NII.GZ", "x.Nii.gz", "x.img", "X.IMG", "x.hdr", "x.img.gz"],
)
def test_the_ending_does_not_change_the_reader(
    name: str, values: np.ndarray, tmp_path: Path
) -> None:
    values[0, 0, 0] = np.nan
    kind = nib.Nifti1Image if ".nii" in name.lower() else nib.Nifti1Pair
    image = kind(values, FORMS["mirrored"])
    image.set_qform(OBLIQUE, 1)
    image.set_sform(FORMS["mirrored"], 2)
    image.header.set_xyzt_units("micron")
    if kind is nib.Nifti1Pair:
        image.to_filename(tmp_path / name)
    else:
        (tmp_path / name).write_bytes(
            gzip.compress(image.to_bytes()) if name.lower().endswith("gz") else image.to_bytes()
        )
    path = tmp_path / name
    found = read_image(path)
    np.testing.assert_array_equal(found.data[0].numpy(), values)
    np.testing.assert_allclose(
        found.affine, np.diag([1e-3, 1e-3, 1e-3, 1]) @ OBLIQUE, rtol=1e-4, atol=1e-7
    )
    assert voxels(path) == values.size
    assert is_nifti(path)
    assert len(doubts(found, path)) == 1


@pytest.mark.parametrize("name", ["x.nii.gz", "X.NII.GZ"])
def test_reasons_for_compressed_files(name: str, values: np.ndarray, tmp_path: Path) -> None:
    raw = nib.Nifti1Image(values, OBLIQUE).to_bytes()
    path, content = tmp_path / name, bytearray(gzip.compress(raw))
    path.write_bytes(content + b"text")
    with pytest.raises(
        DataError, match="its compressed data are damaged, or are followed by something else"
    ):
        read_image(path)
    content[-6] ^= 1
    for block, reason in (
        (bytes(content), "are damaged, .* CRC check failed"),
        (raw, "not compressed although its name says so"),
    ):
        path.write_bytes(block)
        with pytest.raises(DataError, match=reason):
            read_image(path)
    (tmp_path / "x.nii").write_bytes(gzip.compress(raw))
    with pytest.raises(
        DataError,
        match=r"compressed although its name does not say so; let its name end in \.nii\.gz",
    ):
        read_image(tmp_path / "x.nii")


def test_files_without_a_place(values: np.ndarray, tmp_path: Path) -> None:
    nib.AnalyzeImage(values, np.eye(4)).to_filename(tmp_path / "x.img")
    with pytest.raises(
        DataError,
        match="it is an Analyze file, which does not say where its voxels lie; convert it to NIfTI",
    ):
        read_image(tmp_path / "x.img")
    path = file_of(tmp_path / "x.nii", values, 1, 1, "equal")
    block = bytearray(path.read_bytes())
    block[88:92] = bytes(4)
    path.write_bytes(block)
    with pytest.raises(DataError, match=r"its header has a voxel size of 2 x 2\.5 x 0 mm"):
        read_image(path)


@pytest.mark.parametrize("size", [5e-5, 1e-4, 90.0])
def test_voxels_of_every_size(size: float, values: np.ndarray, tmp_path: Path) -> None:
    grid = Grid(SHAPE, np.diag([size, size, 2 * size, 1]))
    write_image(
        tmp_path / "x.nii.gz",
        Image(tio.ScalarImage(tensor=values[None]).data[None], grid).tensor,
        grid,
    )
    header = nib.load(tmp_path / "x.nii.gz").header
    assert header.get_xyzt_units()[0] == "mm"
    assert placement(header).doubt == ""
    found = read_image(tmp_path / "x.nii.gz")
    assert Grid(found.spatial_shape, found.affine).matches(grid, 1e-3)
    np.testing.assert_allclose(by_itk(tmp_path / "x.nii.gz"), found.affine, rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize(("place", "value"), [(76, 0.0), (80, -2.0), (76, 5.0)])
def test_headers_that_nibabel_corrects(
    place: int, value: float, values: np.ndarray, tmp_path: Path
) -> None:
    """Negative voxel sizes, and a qfac that is neither 1 nor -1."""
    path = file_of(tmp_path / "x.nii", values, 1, 2, "mirrored")
    before = doubts(read_image(path), path)
    block = bytearray(path.read_bytes())
    block[place : place + 4] = np.float32(value).tobytes()
    path.write_bytes(block)
    found = read_image(path)
    np.testing.assert_allclose(found.affine, OBLIQUE, rtol=1e-5, atol=1e-5)
    assert doubts(found, path) == before
