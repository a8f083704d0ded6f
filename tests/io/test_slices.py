"""Images of two dimensions: PNG, TIFF, NIfTI, DICOM, arrays."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import PIL.Image
import pytest
import SimpleITK as sitk

from lightning_reg.data.datasets.layouts import from_tree
from lightning_reg.io.images import read_image
from lightning_reg.registry import DataError

VALUES = np.arange(24 * 17, dtype=np.uint8).reshape(24, 17)  # columns, rows


def picture(path: Path, **settings) -> Path:
    PIL.Image.fromarray(VALUES.T.copy()).save(path, **settings)
    return path


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.TIFF"])
def test_a_picture_is_a_slice_with_pixels_of_a_millimetre(tmp_path: Path, name: str) -> None:
    image = read_image(picture(tmp_path / name))
    np.testing.assert_array_equal(image.data[0, :, :, 0], VALUES)
    assert image.spacing == (1.0, 1.0, 1.0)
    # rows run down and columns to the left, as in ITK
    np.testing.assert_array_equal(image.affine, np.diag([-1.0, -1.0, 1.0, 1.0]))
    itk = sitk.ReadImage(str(tmp_path / name))
    np.testing.assert_array_equal(sitk.GetArrayFromImage(itk).T, image.data[0, :, :, 0])


def test_a_tiff_knows_its_pixel_size(tmp_path: Path) -> None:
    image = read_image(picture(tmp_path / "a.tif", dpi=(254, 508)))
    assert image.spacing == pytest.approx((0.1, 0.05, 1.0))


def test_arrays_and_nifti_files_of_two_axes(tmp_path: Path) -> None:
    affine = np.diag([0.5, 0.7, 4.0, 1.0])
    nib.save(nib.Nifti1Image(VALUES, affine), tmp_path / "a.nii.gz")
    for image in (read_image(tmp_path / "a.nii.gz"), read_image((VALUES, affine))):
        np.testing.assert_array_equal(image.data[0, :, :, 0], VALUES)
        assert image.spacing[:2] == pytest.approx((0.5, 0.7))


def dicom(path: Path, **attributes: object) -> Path:
    """A secondary capture or a radiograph."""
    pydicom = pytest.importorskip("pydicom")
    uid = pydicom.uid.generate_uid()
    meta = pydicom.dataset.FileMetaDataset()
    meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = attributes.pop("kind", pydicom.uid.SecondaryCaptureImageStorage)
    meta.MediaStorageSOPInstanceUID = uid
    data = pydicom.Dataset()
    data.file_meta = meta
    data.SOPClassUID, data.SOPInstanceUID = meta.MediaStorageSOPClassUID, uid
    data.SeriesInstanceUID = data.StudyInstanceUID = pydicom.uid.generate_uid()
    data.Columns, data.Rows = VALUES.shape
    data.BitsAllocated = data.BitsStored = 8
    data.HighBit, data.PixelRepresentation, data.SamplesPerPixel = 7, 0, 1
    data.PhotometricInterpretation = "MONOCHROME2"
    data.PixelData = VALUES.T.tobytes() + b"\0" * (VALUES.size % 2)
    for key, value in attributes.items():
        setattr(data, key, value)
    data.save_as(path, enforce_file_format=True)
    return path


RADIOGRAPH = "1.2.840.10008.5.1.4.1.1.1"  # computed radiography


@pytest.mark.parametrize(
    ("attributes", "spacing"),
    [
        ({}, (1.0, 1.0)),
        ({"PixelSpacing": [0.7, 0.5]}, (0.5, 0.7)),
        ({"kind": RADIOGRAPH, "ImagerPixelSpacing": [0.2, 0.1]}, (0.1, 0.2)),
    ],
)
def test_a_dicom_image_without_a_position(tmp_path: Path, attributes, spacing) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    for source in (dicom(folder / "a.dcm", **attributes), folder):
        image = read_image(source)
        np.testing.assert_array_equal(image.data[0, :, :, 0], VALUES)
        assert image.spacing == pytest.approx((*spacing, 1.0))
        np.testing.assert_array_equal(image.affine[:3, 3], 0)


def test_pictures_are_scans_where_there_are_no_volumes(tmp_path: Path) -> None:
    for name in ("one.png", "two.png", "one_mask.png"):
        picture(tmp_path / name)
    records = from_tree(tmp_path).records
    assert [record.subject for record in records] == ["one", "two"]
    assert records[0].mask == tmp_path / "one_mask.png"
    nib.save(nib.Nifti1Image(VALUES, np.eye(4)), tmp_path / "three.nii.gz")
    assert [record.subject for record in from_tree(tmp_path).records] == ["three"]


def test_a_coloured_picture_is_refused(tmp_path: Path) -> None:
    from lightning_reg.data.scans import read_subject

    PIL.Image.fromarray(np.zeros((8, 9, 3), np.uint8)).save(tmp_path / "rgb.png")
    with pytest.raises(DataError, match="3 channels"):
        read_subject("x", tmp_path / "rgb.png")
