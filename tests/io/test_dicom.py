"""DICOM: values and places of slices and frames; what is not one regular volume is refused."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom import Dataset, dcmread
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

from lightning_reg.io.images import read_image, voxels
from lightning_reg.registry import DataError

OBLIQUE = (0.8, 0.6, 0.0, -0.576, 0.768, 0.28)
NORMAL = np.cross(OBLIQUE[:3], OBLIQUE[3:])
FIRST = np.array([-40.0, -36.0, 12.0])
SOP = {
    "CT": "1.2.840.10008.5.1.4.1.1.2",
    "PT": "1.2.840.10008.5.1.4.1.1.128",
    "frames": "1.2.840.10008.5.1.4.1.1.4.1",
    "film": "1.2.840.10008.5.1.4.1.1.3.1",
}


@pytest.fixture
def values() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 3000, (7, 6, 8)).astype(np.int16)


def place(distance: float) -> list[float]:
    return np.round(FIRST + distance * NORMAL, 6).tolist()


def dicom(path: Path, stored: np.ndarray, kind: str = "CT", **attributes: Any) -> None:
    """A file of one frame ``(I, J)`` or several ``(I, J, K)``; ``None``: without the attribute."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = SOP[kind], generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    file = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    described = {
        "SOPClassUID": SOP[kind], "SOPInstanceUID": meta.MediaStorageSOPInstanceUID,
        "Modality": "CT", "StudyInstanceUID": "1.2.3",
        "SeriesInstanceUID": "1.2.3.4", "FrameOfReferenceUID": "1.2.3.5",
        "Columns": stored.shape[0], "Rows": stored.shape[1],
        "PixelSpacing": [1.5, 2.0], "ImageOrientationPatient": list(OBLIQUE), "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2", "BitsAllocated": 16, "BitsStored": 16,
        "HighBit": 15, "PixelRepresentation": 1,
        "PixelData": stored.T.tobytes(),
    }  # fmt: skip
    for key, value in {**described, **attributes}.items():
        if value is not None:
            setattr(file, key, value)
    file.save_as(str(path), enforce_file_format=True)


def series(
    folder: Path, values: np.ndarray, changes: dict[int, dict[str, Any]], **attributes: Any
) -> Path:
    """One file per slice, 3 mm apart, with changed attributes of some slices."""
    folder.mkdir()
    for k in range(values.shape[2]):
        dicom(
            folder / f"s{k}.dcm",
            values[:, :, k],
            **{"ImagePositionPatient": place(3 * k), **attributes, **changes.get(k, {})},
        )
    return folder


def positions(distances: Sequence[float], **attributes: Any) -> dict[int, dict[str, Any]]:
    return {k: {"ImagePositionPatient": place(d), **attributes} for k, d in enumerate(distances)}


def group(**attributes: Any) -> list[Dataset]:
    item = Dataset()
    for key, value in attributes.items():
        setattr(item, key, value)
    return [item]


def multiframe(
    path: Path,
    stored: np.ndarray,
    distances: Sequence[float],
    per_frame: dict[str, Sequence[Any]] | None = None,
) -> Path:
    """A multi-frame file; ``per_frame``: of each frame ``slope``, ``echo``, ``time`` or ``type``."""
    given = per_frame or {}
    shared = Dataset()
    shared.PixelMeasuresSequence = group(PixelSpacing=[1.5, 2.0])
    shared.PlaneOrientationSequence = group(ImageOrientationPatient=list(OBLIQUE))
    frames = []
    for k, distance in enumerate(distances):
        frame = Dataset()
        frame.PlanePositionSequence = group(ImagePositionPatient=place(distance))
        frame.FrameContentSequence = group(
            StackID="1", TemporalPositionIndex=given.get("time", [1] * 8)[k]
        )
        frame.MREchoSequence = group(EffectiveEchoTime=given.get("echo", [20.0] * 8)[k])
        frame.MRImageFrameTypeSequence = group(
            FrameType=["ORIGINAL", "PRIMARY", given.get("type", ["M"] * 8)[k]]
        )
        if "slope" in given:
            frame.PixelValueTransformationSequence = group(
                RescaleSlope=given["slope"][k], RescaleIntercept=-7.0
            )
        frames.append(frame)
    dicom(
        path, stored, "frames", NumberOfFrames=stored.shape[2],
        SharedFunctionalGroupsSequence=[shared],
        PerFrameFunctionalGroupsSequence=frames, PixelSpacing=None, ImageOrientationPatient=None,
    )  # fmt: skip
    return path


def require_placed(source: Path, expected: np.ndarray) -> None:
    """Slices in the order of their places, 3 mm apart from FIRST; pixels of 2 x 1.5 mm."""
    image = read_image(source)
    np.testing.assert_allclose(image.data[0].numpy(), expected, rtol=1e-12)
    axes = np.stack(
        [np.array(OBLIQUE[:3]) * 2.0, np.array(OBLIQUE[3:]) * 1.5, NORMAL * 3.0], axis=1
    )
    np.testing.assert_allclose(image.affine[:3, :3], np.diag([-1, -1, 1]) @ axes, atol=1e-5)
    np.testing.assert_allclose(image.affine[:3, 3], FIRST * (-1, -1, 1), atol=1e-5)


@pytest.mark.parametrize(
    "slopes",
    [[1] + [0.25] * 7, [1] + [0.0003] * 7, [1] + [100] * 7, [2e-4 * (k + 1) for k in range(8)]],
)
def test_every_slice_has_its_own_slope(
    slopes: list[float], values: np.ndarray, tmp_path: Path
) -> None:
    changes = {k: {"RescaleSlope": slope, "RescaleIntercept": k} for k, slope in enumerate(slopes)}
    series(tmp_path / "s", values, changes, kind="PT")
    require_placed(tmp_path / "s", values * np.array(slopes) + np.arange(8))


@pytest.mark.parametrize("order", [range(8), range(7, -1, -1), (0, 2, 4, 6, 1, 3, 5, 7)])
@pytest.mark.parametrize("slopes", [None, [2.5, 1, 0.5, 3, 1, 1, 2, 4]])
def test_frames_are_at_their_places_with_their_slopes(
    order: Sequence[int], slopes: Any, values: np.ndarray, tmp_path: Path
) -> None:
    path = multiframe(
        tmp_path / "im",
        values[:, :, order],
        [3.0 * k for k in order],
        {} if slopes is None else {"slope": slopes},
    )
    expected = values.astype(np.float64)
    if slopes is not None:
        expected[:, :, order] = values[:, :, order] * np.array(slopes) - 7
    require_placed(path, expected)
    require_placed(tmp_path, expected)


def test_places_are_rounded_in_headers(values: np.ndarray, tmp_path: Path) -> None:
    """A tenth of the slice distance along the normal and half a pixel beside it are allowed."""
    jitter = np.random.default_rng(1).uniform(-0.1, 0.1, 8)
    read = read_image(series(tmp_path / "s", values, positions(3.0 * np.arange(8) + jitter)))
    np.testing.assert_array_equal(read.data[0].numpy(), values)
    np.testing.assert_allclose(read.spacing, (2.0, 1.5, 3.0), atol=0.03)


SCOUT = {"ImageOrientationPatient": [0.0, 1, 0, 0, 0, -1]}
REFUSED: dict[str, tuple[dict[int, dict[str, Any]], str]] = {
    "scout": ({7: SCOUT}, r"mixes slices of different orientations \(s7\.dcm: 0, 1, 0, 0, 0, -1; s0\.dcm: 0\.8, 0\.6, 0, "),
    "scout first": ({0: SCOUT}, r"mixes slices of different orientations \(s0\.dcm"),
    "pixel spacing": ({7: {"PixelSpacing": [1.0, 1.0]}}, r"different pixel spacings \(s7\.dcm: 1, 1; s0\.dcm: 2, 1\.5\)"),
    "size": ({3: {"Columns": 6}}, r"different sizes \(s3\.dcm: 6, 6; s0\.dcm: 7, 6\)"),
    "two distances": (positions([0, 3, 6, 9, 12, 16, 20, 24]), "unequal distances: 3 mm, but 4 mm between s4.dcm and s5.dcm; export"),
    "last": (positions([0, 3, 6, 9, 12, 15, 18, 22.2]), r"unequal distances: 3 mm, but 4\.2 mm between s6\.dcm and s7\.dcm"),
    "missing": (positions([0, 3, 6, 12, 15, 18, 21, 24]), r"unequal distances: 3 mm, but 6 mm between s2\.dcm and s3\.dcm"),
    "far": (positions([0, 3, 6, 9, 12, 15, 18, 250]), r"unequal distances: 3 mm, but 232 mm between s6\.dcm and s7\.dcm"),
    "doubled": (positions([0, 3, 6, 9, 9, 12, 15, 18]), r"two slices at one place \(s[34]\.dcm, s[34]\.dcm\)"),
    "two volumes": (positions([0, 0.05, 3, 3.05, 6, 6.05, 9, 9.05]), r"two slices at one place .* several volumes \(time points"),
    "four volumes": (positions([0, 3, 0, 3, 0, 3, 0, 3]), "two slices at one place"),
    "echoes": ({k: {"EchoTime": 20 + 70 * (k % 2)} for k in range(8)}, r"different echo times \(s\d\.dcm: [29]0; s\d\.dcm: [29]0\)"),
    "types": ({k: {"ImageType": ["ORIGINAL", "PRIMARY", "MP"[k % 2]]} for k in range(8)}, "image types .* ORIGINAL/PRIMARY/[MP]"),
    "times": ({7: {"TemporalPositionIdentifier": 2}}, r"different time points \(s7\.dcm: 2; s0\.dcm: none\)"),
    "beside": ({4: {"ImagePositionPatient": (np.array(place(12)) + OBLIQUE[:3]).tolist()}}, r"1 mm beside the others \(s4\.dcm\)"),
    "tilted": ({k: {"ImagePositionPatient": (np.array(place(3 * k)) + np.multiply(OBLIQUE[3:], 0.6 * k)).tolist()} for k in range(8)},
               r"gantry tilted by 11\.3 degrees: .* convert it with dcm2niix"),
    "no positions": ({k: {"ImagePositionPatient": None} for k in range(8)}, r"cannot be placed: s\d\.dcm lacks its position"),
    "no spacing": ({2: {"PixelSpacing": None}}, r"s2\.dcm lacks its position, orientation or pixel spacing"),
    "no orientation": ({k: {"ImageOrientationPatient": [1.0, 0, 0, 1, 0, 0]} for k in range(8)}, "an orientation that is none"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_series_that_are_not_one_regular_volume(
    name: str, values: np.ndarray, tmp_path: Path
) -> None:
    changes, message = REFUSED[name]
    series(tmp_path / "s", values, changes)
    if name == "size":
        dicom(tmp_path / "s" / "s3.dcm", values[:6, :, 3], ImagePositionPatient=place(9))
    with pytest.raises(DataError, match=message):
        read_image(tmp_path / "s")


@pytest.mark.parametrize(
    ("distances", "per_frame", "message"),
    [
        (
            [0, 3, 6, 9] * 2,
            {},
            r"two slices at one place \(frame 1 of im\.dcm, frame 5 of im\.dcm\)",
        ),
        (
            [0, 3, 6, 9] * 2,
            {"time": [1] * 4 + [2] * 4},
            r"different time points \(frame [15] of im\.dcm: [12]; ",
        ),
        (
            [0, 3, 6, 9] * 2,
            {"type": ["M"] * 4 + ["P"] * 4},
            r"different image types \(frame [15] of im\.dcm: ORIGINAL/PRIMARY/[MP]; ",
        ),
        (
            [0, 3, 6, 9] * 2,
            {"echo": [20.0, 20.0, 20.0, 20.0, 90.0, 90.0, 90.0, 90.0]},
            "different echo times",
        ),
        (
            [0, 3, 6, 9, 13.4, 17.8, 22.2, 26.6],
            {},
            r"unequal distances: 4\.4 mm, but 3 mm between frame [123] of im\.dcm and",
        ),
        ([0, 3, 6, 9], {}, "damaged or cut off"),
    ],
)
def test_frames_that_are_not_one_regular_volume(
    distances: list[float],
    per_frame: dict[str, Any],
    message: str,
    values: np.ndarray,
    tmp_path: Path,
) -> None:
    with pytest.raises(DataError, match=message):
        read_image(multiframe(tmp_path / "im.dcm", values, distances, per_frame))


def test_frames_without_places_and_segmentations(values: np.ndarray, tmp_path: Path) -> None:
    dicom(
        tmp_path / "film.dcm",
        values,
        "film",
        NumberOfFrames=8,
        PixelSpacing=None,
        ImageOrientationPatient=None,
    )
    with pytest.raises(DataError, match=r"film\.dcm has 8 frames without positions"):
        read_image(tmp_path / "film.dcm")
    bits = np.packbits(values.T.ravel() > 1500, bitorder="little").tobytes()
    dicom(
        tmp_path / "seg.dcm",
        values,
        "frames",
        NumberOfFrames=8,
        BitsAllocated=1,
        BitsStored=1,
        HighBit=0,
        PixelRepresentation=0,
        PixelData=bits,
    )
    with pytest.raises(DataError, match=r"seg\.dcm is a DICOM segmentation of one bit per voxel"):
        read_image(tmp_path / "seg.dcm")


@pytest.mark.parametrize("length", [-1500, 1200, -20])
def test_damaged_slices_are_named(
    length: int, values: np.ndarray, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    values = np.random.default_rng(0).integers(0, 3000, (40, 30, 8)).astype(np.int16)
    path = series(tmp_path / "s", values, {}) / "s4.dcm"
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(
        DataError, match=r"s4\.dcm .*damaged or cut off; replace or remove it"
    ) as caught:
        read_image(tmp_path / "s")
    assert voxels(tmp_path / "s") == 0
    assert "/tmp/SimpleITK" not in str(caught.value) + capfd.readouterr().err


def test_files_beside_a_series(values: np.ndarray, tmp_path: Path) -> None:
    folder = series(tmp_path / "s", values, {})
    (folder / "DICOMDIR").write_bytes(b"\0" * 128 + b"DICM")
    (folder / "notes.txt").write_text("x")
    (folder / "._s0.dcm").write_bytes(b"\0\5\26\7")
    require_placed(folder, values)


def test_values_are_those_of_pydicom(values: np.ndarray, tmp_path: Path) -> None:
    dicom(
        tmp_path / "x.dcm",
        values[:, :, 0],
        ImagePositionPatient=place(0),
        RescaleSlope=2.5,
        RescaleIntercept=-1024,
    )
    header = dcmread(tmp_path / "x.dcm")
    expected = header.pixel_array.T * float(header.RescaleSlope) + float(header.RescaleIntercept)
    np.testing.assert_array_equal(read_image(tmp_path / "x.dcm").data[0, :, :, 0].numpy(), expected)
