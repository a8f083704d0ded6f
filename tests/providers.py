"""Small data sets made from the phantom, in exactly the layouts of their providers."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import nibabel as nib
import numpy as np
import SimpleITK as sitk

from lightning_reg.io.dicom import gdcm
from lightning_reg.phantom import breathing_thorax
from lightning_reg.spatial import Image

SHAPE = (32, 28, 30)


class Phase(NamedTuple):
    """One phase of a phantom on an axis-aligned grid: arrays ``(I, J, K)`` to the right, front and
    top, landmarks in its voxels.
    """

    image: np.ndarray
    mask: np.ndarray
    lobes: np.ndarray
    landmarks: np.ndarray


def phases(seed: int, shape: Sequence[int] = SHAPE) -> tuple[Phase, Phase]:
    """Inhalation and exhalation."""
    pair = breathing_thorax(seed, (shape[0], shape[1], shape[2]), landmarks=20)

    def array(image: Image, dtype: type) -> np.ndarray:
        return image.tensor[0, 0].numpy().round().astype(dtype)

    def points(world, image: Image) -> np.ndarray:
        return image.grid.to_voxel(world[0].double().T[None])[0].T.numpy()

    def phase(side: str) -> Phase:
        image = getattr(pair, side)
        mask, lobes = (
            array(getattr(pair, f"{side}_{part}"), np.uint8) for part in ("mask", "labels")
        )
        return Phase(
            array(image, np.int16), mask, lobes, points(getattr(pair, f"{side}_landmarks"), image)
        )

    return phase("fixed"), phase("moving")


def spacing(shape: Sequence[int] = SHAPE) -> np.ndarray:
    return np.array([334.0, 262.0, 300.0]) / np.array(shape)


def nifti(path: Path, array: np.ndarray, size: Sequence[float] | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    affine = np.diag([*(spacing(array.shape) if size is None else size), 1.0])
    nib.Nifti1Image(array, affine).to_filename(path)
    return path


def dirlab(folder: Path, cases: Sequence[int] = (1, 2)) -> Path:
    """``Case1Pack/Images/case1_T00_s.img``, ``Case1Pack/ExtremePhases/Case1_300_T00_xyz.txt``: raw,
    slices from the top, 1-based voxels.
    """
    slices = {1: 94, 2: 112, 3: 104}
    suffix = {1: "_s"}
    for case in cases:
        small = (64, 64, slices[case] // 2)
        pack = folder / f"Case{case}Pack"
        (pack / "Images").mkdir(parents=True)
        (pack / "ExtremePhases").mkdir()
        for time, phase in zip(("T00", "T50"), phases(case, small), strict=True):
            stored = (phase.image + 1024)[::-1, ::-1, ::-1].repeat(4, 0).repeat(4, 1).repeat(2, 2)
            (pack / "Images" / f"case{case}_{time}{suffix.get(case, '-ssm')}.img").write_bytes(
                stored.astype("<i2").tobytes(order="F")
            )
            fine = (np.array(small) - 1 - phase.landmarks) * (4, 4, 2) + (1.5, 1.5, 0.5)
            lines = ["\t".join(str(int(v)) for v in np.round(point) + 1) for point in fine]
            (pack / "ExtremePhases" / f"Case{case}_300_{time}_xyz.txt").write_text(
                "\n".join(lines) + "\n"
            )
    return folder


def copdgene(folder: Path, patients: Sequence[str] = ("12042G", "12105E", "12109M")) -> Path:
    """``PATIENT_INSP_STD_USD_COPD.nrrd`` with lobes and lungs beside it."""
    for number, patient in enumerate(patients):
        for time, phase in zip(("INSP", "EXP"), phases(number), strict=True):
            name = f"{patient}_{time}_STD_USD_COPD"
            for ending, array in (
                (".nrrd", phase.image),
                (".njh.lobe_segmentation.nrrd", phase.lobes),
                ("_leftLungRightLung.nrrd", phase.mask),
            ):
                metaimage(folder / patient / f"{name}{ending}", array)
    return folder


def metaimage(
    path: Path, array: np.ndarray, origin: Sequence[float] = (0.0, 0.0, 0.0)
) -> sitk.Image:
    """A file by SimpleITK whose axes run to the left, back and top (LPS); the array's run to the
    right, front and top.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    image = sitk.GetImageFromArray(np.ascontiguousarray(array[::-1, ::-1].transpose(2, 1, 0)))
    image.SetSpacing(spacing(array.shape).tolist())
    image.SetOrigin(origin)
    sitk.WriteImage(image, str(path))
    return image


def creatis(folder: Path, patients: Sequence[str] = ("bl", "ng")) -> Path:
    """``bl/mhd/00.mhd``, ``bl/pts/00.pts`` (mm of the MetaImage); the POPI-model as ``00-P.mhd``,
    ``00-Landmarks.pts`` with an artefact.
    """
    for number, patient in enumerate(patients):
        for time, phase in zip(
            ("00", "60" if patient == "bl" else "50"), phases(number), strict=True
        ):
            image = metaimage(
                folder / patient / "mhd" / f"{time}.mhd", phase.image, (-160.0, -120.0, 30.0)
            )
            write_points(folder / patient / "pts" / f"{time}.pts", physical(image, phase))
    for time, phase in zip(("10", "60"), phases(7), strict=True):
        image = metaimage(folder / f"{time}-P.mhd", phase.image)
        points = physical(image, phase)
        filled = np.concatenate(
            [points, points[np.arange(40 - len(points)) % len(points)], [[1.0, 1.0, 1.0]]]
        )
        write_points(folder / f"{time}-Landmarks.pts", filled, "#X Y Z\n")
    return folder


def physical(image: sitk.Image, phase: Phase) -> np.ndarray:
    """The landmarks in the coordinates of the MetaImage, LPS mm."""
    voxels = phase.landmarks.copy()
    voxels[:, :2] = np.array(phase.image.shape[:2]) - 1 - voxels[:, :2]
    return np.array([image.TransformContinuousIndexToPhysicalPoint(v.tolist()) for v in voxels])


def write_points(path: Path, points: np.ndarray, header: str = "") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        header + "\n".join(" ".join(f"{v:.4f}" for v in point) for point in points) + "\n"
    )


def nlst(folder: Path, subjects: int = 4) -> Path:
    """Learn2Reg: ``NLST_dataset.json``, ``imagesTr``, ``masksTr``, ``keypointsTr`` (voxels, without
    a header); the last pair validates.
    """
    pairs = []
    for number in range(1, subjects + 1):
        names = [f"NLST_{number:04d}_{time:04d}" for time in (0, 1)]
        for name, phase in zip(names, phases(number), strict=True):
            nifti(folder / "imagesTr" / f"{name}.nii.gz", phase.image)
            nifti(folder / "masksTr" / f"{name}.nii.gz", phase.mask)
            (folder / "keypointsTr").mkdir(exist_ok=True)
            (folder / "keypointsTr" / f"{name}.csv").write_text(
                "\n".join(",".join(f"{v:.3f}" for v in p) for p in phase.landmarks)
            )
        pairs.append(
            {"fixed": f"./imagesTr/{names[0]}.nii.gz", "moving": f"./imagesTr/{names[1]}.nii.gz"}
        )
    described = {
        "name": "NLST", "release": "0.91", "pairings": "paired", "modality": {"0": "CT"},
        "tensorImageSize": {"0": "3D"},
        "numTraining": 2 * subjects,
        "training": [{"image": p[side]} for p in pairs for side in ("fixed", "moving")],
        "training_paired_images": pairs, "registration_val": pairs[-1:], "test": [],
    }  # fmt: skip
    (folder / "NLST_dataset.json").write_text(json.dumps(described))
    return folder


def nlst_dicom(folder: Path, patients: int = 3) -> Path:
    """As the Cancer Imaging Archive delivers it: ``PATIENT/STUDY/SERIES/1-01.dcm``, a localiser
    beside the scan.
    """
    for number in range(patients):
        study = folder / "NLST" / f"10000{number}" / f"01-02-1999-NLST-LSS-3017{number}"
        dicom(study / "1.000000-0OPLGEHSQXSTANDARD", phases(number)[0].image, f"1.2.{number}.1")
        dicom(
            study / "2.000000-0OPLGEHSQXBONE", phases(number)[0].image[:, :, :3], f"1.2.{number}.2"
        )
    return folder


def dicom(
    folder: Path, array: np.ndarray, series: str,
    names: Callable[[int], str] = lambda k: f"1-{k + 1:02d}.dcm", first: int = 1,
    places: Sequence[Sequence[float]] | None = None,
) -> None:  # fmt: skip
    """One file per slice; ``places`` are the slices' positions, LPS mm, default one above the
    other.
    """
    folder.mkdir(parents=True, exist_ok=True)
    size = spacing(array.shape)
    writer = sitk.ImageFileWriter()
    writer.KeepOriginalImageUIDOn()
    for k in range(array.shape[2]):
        place = places[k] if places is not None else (0.0, 0.0, k * size[2])
        image = sitk.GetImageFromArray(
            np.ascontiguousarray(array[::-1, ::-1, k : k + 1].transpose(2, 1, 0))
        )
        image.SetSpacing(size.tolist())
        tags = {
            "0008|0060": "CT", "0020|000d": "1.2.3", "0020|000e": series,
            "0008|0018": f"{series}.{first + k}", "0020|0013": str(first + k),
            "0020|0032": "\\".join(f"{v:.4f}" for v in place), "0020|0037": "1\\0\\0\\0\\1\\0",
        }  # fmt: skip
        for tag, value in tags.items():
            image.SetMetaData(tag, value)
        writer.SetFileName(str(folder / names(k)))
        with gdcm():  # which otherwise leaves the locale of the process changed
            writer.Execute(image)


def sunnybrook(folder: Path, patients: Sequence[str] = ("HF-I-1", "N-5"), slices: int = 4) -> Path:
    """``SCD_IMAGES_01/SCD0000101/CINESAX_300/IM-0003-0001.dcm``, 20 phases a slice, and the
    contours of ED and ES.
    """
    rows = []
    for number, patient in enumerate(patients):
        identity = f"SCD00001{number + 1:02d}"
        rows.append({"PatientID": identity, "OriginalID": f"SC-{patient}"})
        kind, _, last = patient.rpartition("-")
        contours = (
            folder
            / "SCD_ManualContours"
            / f"SC-{kind}-{int(last):02d}"
            / "contours-manual"
            / "IRCCI-expert"
        )
        contours.mkdir(parents=True)
        for k in range(slices):
            for phase in range(20):
                radius = heart_radius(k, phase)
                n = k * 20 + phase + 1
                cine = heart(radius, number)
                where = folder / "SCD_IMAGES_01" / identity / "CINESAX_300"
                dicom(
                    where,
                    cine[:, :, None],
                    f"1.3.{number}",
                    lambda _, n=n: f"IM-0003-{n:04d}.dcm",
                    n,
                    [(0.0, 0.0, 8.0 * k)],
                )
                if phase in (0, 8):
                    angle = np.linspace(0, 2 * np.pi, 60, endpoint=False)
                    points = np.stack(
                        [20 + radius * np.cos(angle), 24 + radius * np.sin(angle)], axis=1
                    )
                    for which, grow in (("icontour", 1.0), ("ocontour", 1.5)):
                        lines = "\n".join(
                            f"{x:.2f} {y:.2f}" for x, y in (points - (20, 24)) * grow + (20, 24)
                        )
                        (contours / f"IM-0001-{n:04d}-{which}-manual.txt").write_text(lines + "\n")
    with (folder / "scd_patientdata.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, ["PatientID", "OriginalID"])
        writer.writeheader()
        writer.writerows(rows)
    return folder


def heart_radius(k: int, phase: int) -> float:
    """Of the cavity in pixels: largest at the first phase, smallest at the ninth."""
    return 8.0 - k - 2.5 * np.sin(np.pi * min(phase / 8, (20 - phase) / 12) / 2)


def heart(radius: float, seed: int) -> np.ndarray:
    """A slice ``(I, J)`` to the right and front: a bright disc around pixel column 20, row 24 (from
    the left and back), of 48 x 44.
    """
    column, row = np.meshgrid(np.arange(48), np.arange(44), indexing="ij")
    distance = np.hypot(column - 20, row - 24)
    image = (
        300.0 * (distance < radius)
        + 120.0 * (distance > 1.5 * radius)
        + np.random.default_rng(seed).normal(40, 4, distance.shape)
    )
    return image.astype(np.int16)[::-1, ::-1]


def acdc(folder: Path, patients: Sequence[int] = (1, 2, 5)) -> Path:
    """``training/patient001/Info.cfg``, frames and ground truth; the headers' sforms leave the
    voxel size out, as theirs do.
    """
    for number in patients:
        patient = folder / "training" / f"patient{number:03d}"
        patient.mkdir(parents=True)
        (patient / "Info.cfg").write_text(
            "ED: 1\nES: 12\nGroup: DCM\nHeight: 184.0\nNbFrame: 30\nWeight: 95.0\n"
        )
        for frame, phase in zip((1, 12), (0, 8), strict=True):
            radii = [heart_radius(k, phase) for k in range(4)]
            image = np.stack([heart(r, number) for r in radii], axis=2)
            labels = np.stack([3 * (heart(r, number) > 200) for r in radii], axis=2).astype(
                np.uint8
            )
            for ending, array in (("", image), ("_gt", labels)):
                file = nib.Nifti1Image(array, None)
                file.header.set_qform(np.diag([-1.5, -1.5, 10.0, 1.0]), 1)
                file.header.set_sform(np.diag([-1.0, -1.0, 1.0, 1.0]), 1)
                file.header.set_zooms((1.5, 1.5, 10.0))
                nib.Nifti1Image(array, None, file.header).to_filename(
                    patient / f"patient{number:03d}_frame{frame:02d}{ending}.nii.gz"
                )
    return folder


def crops(folder: Path, voxels: int = 16, cases: int = 6) -> Path:
    """The Decathlon's Task04: ``dataset.json``, ``imagesTr``, ``labelsTr``, each case of its own
    size; hidden files of macOS among them.
    """
    rng = np.random.default_rng(0)
    names = [f"hippocampus_{case:03d}" for case in range(1, cases + 1)]
    for name in names:
        shape = tuple(rng.integers(voxels - 2, voxels + 4, 3))
        labels = np.zeros(shape, np.uint8)
        labels[4:9, 4:9, 4:9], labels[9:12, 4:9, 4:9] = 1, 2
        nifti(
            folder / "imagesTr" / f"{name}.nii.gz",
            (labels * 40 + rng.normal(60, 4, shape)).astype(np.float32),
            (1, 1, 1),
        )
        nifti(folder / "labelsTr" / f"{name}.nii.gz", labels, (1, 1, 1))
    (folder / "imagesTr" / "._hippocampus_001.nii.gz").write_bytes(b"\x00\x05\x16\x07")
    described = {
        "name": "Hippocampus", "modality": {"0": "MRI"},
        "labels": {"0": "background", "1": "Anterior", "2": "Posterior"},
        "tensorImageSize": "3D", "numTraining": cases,
        "training": [{"image": f"./imagesTr/{n}.nii.gz", "label": f"./labelsTr/{n}.nii.gz"} for n in names],
        "test": ["./imagesTs/hippocampus_267.nii.gz"],
    }  # fmt: skip
    (folder / "dataset.json").write_text(json.dumps(described))
    return folder


def label_maps(folder: Path, subjects: int = 6) -> Path:
    """Label maps without images, one per subject, in two kinds of numbers."""
    for number in range(subjects):
        labels = phases(number)[0].lobes.astype(np.float32 if number % 2 else np.int16)
        nifti(folder / f"subject_{number}.nii.gz", labels)
    return folder


def oasis(folder: Path, subjects: int = 5) -> Path:
    """Learn2Reg: ``OASIS_dataset.json``, ``imagesTr/OASIS_0001_0000.nii.gz``, ``labelsTr``;
    consecutive pairs of the last ones validate.
    """
    for number in range(1, subjects + 1):
        phase = phases(number)[0]
        nifti(
            folder / "imagesTr" / f"OASIS_{number:04d}_0000.nii.gz",
            ((phase.image + 1000) / 1500).clip(0, 1).astype(np.float32),
            (1, 1, 1),
        )
        nifti(folder / "labelsTr" / f"OASIS_{number:04d}_0000.nii.gz", phase.lobes, (1, 1, 1))
    name = "./imagesTr/OASIS_{:04d}_0000.nii.gz".format
    held_out = [{"fixed": name(n), "moving": name(n + 1)} for n in range(subjects - 2, subjects)]
    training = [
        {"image": name(n), "label": name(n).replace("images", "labels")}
        for n in range(1, subjects + 1)
    ]
    (folder / "OASIS_dataset.json").write_text(
        json.dumps(
            {"name": "OASIS", "training": training, "registration_val": held_out, "test": []}
        )
    )
    return folder


def adni_hippocampus(folder: Path, subjects: int = 5) -> Path:
    """T1 in MNI space anywhere below the folder, HarP's labels with sides in their names; one with
    its numbers, one of CSF beside it.
    """
    affine = np.diag([2.0, 2.0, 2.0, 1.0])
    affine[:3, 3] = (-78, -90, -60)
    for number in range(subjects):
        name = f"ADNI_{number:03d}_S_0{295 + number}"
        phase = phases(number, (78, 60, 50))[0]
        for path, array in (
            (folder / "aligned" / f"{name}_MR_MPR_Br_2007_S13408_I45108.nii.gz", phase.image),
            (
                folder / "Labels_100_NIFTI" / f"{name}_13501_L.nii.gz",
                (phase.lobes == 4).astype(np.float32) + (26896.988 if number == 1 else 0),
            ),
            (folder / "Labels_100_NIFTI" / f"{name}_13501_CSF_L.nii.gz", phase.mask),
        ):
            if "Labels" in path.parts[-2] and number < 2:
                continue
            path.parent.mkdir(parents=True, exist_ok=True)
            nib.Nifti1Image(array, affine).to_filename(path)
    return folder


def lung_mri(folder: Path, patients: int = 3) -> Path:
    """``PATIENT/inhale.nii.gz``, ``inhale_mask.nii.gz``, the same of exhale."""
    for number in range(patients):
        for time, phase in zip(("inhale", "exhale"), phases(number), strict=True):
            nifti(
                folder / f"patient{number}" / f"{time}.nii.gz",
                ((phase.image + 1000).clip(0) * 0.6).astype(np.int16),
            )
            nifti(folder / f"patient{number}" / f"{time}_mask.nii.gz", phase.mask)
    return folder


def bids(folder: Path, subjects: int = 4) -> Path:
    """``sub-01/ses-01/anat/sub-01_ses-01_T1w.nii.gz`` with masks and segmentations among the
    derivatives.
    """
    for number in range(1, subjects + 1):
        for session, phase in zip(("01", "02"), phases(number), strict=True):
            base = f"sub-{number:02d}/ses-{session}/anat/sub-{number:02d}_ses-{session}"
            nifti(folder / f"{base}_T1w.nii.gz", phase.image)
            nifti(folder / f"derivatives/seg/{base}_desc-brain_mask.nii.gz", phase.mask)
            nifti(folder / f"derivatives/seg/{base}_dseg.nii.gz", phase.lobes)
    (folder / "dataset_description.json").write_text(
        json.dumps({"Name": "phantom", "BIDSVersion": "1.9.0"})
    )
    return folder


def nnunet(folder: Path, cases: int = 5) -> Path:
    """nnU-Net v2: ``imagesTr/case_01_0000.nii.gz``, ``labelsTr/case_01.nii.gz``."""
    for number in range(cases):
        phase = phases(number)[0]
        nifti(folder / "imagesTr" / f"case_{number:02d}_0000.nii.gz", phase.image)
        nifti(folder / "labelsTr" / f"case_{number:02d}.nii.gz", phase.lobes)
    described = {
        "channel_names": {"0": "CT"},
        "labels": {"background": 0, "lobe": 1},
        "numTraining": cases,
        "file_ending": ".nii.gz",
    }
    (folder / "dataset.json").write_text(json.dumps(described))
    return folder


def pairs(folder: Path, count: int = 5) -> Path:
    """A table of pairs beside the images it names; returns the table."""
    rows = []
    for number in range(count):
        row = {}
        for side, phase in zip(("fixed", "moving"), phases(number), strict=True):
            image = nifti(folder / "images" / f"patient {number}" / f"{side}.nii.gz", phase.image)
            mask = nifti(
                folder / "images" / f"patient {number}" / f"{side}_mask.nii.gz", phase.mask
            )
            points = folder / "images" / f"patient {number}" / f"{side}.csv"
            points.write_text(
                "i,j,k\n"
                + "\n".join(",".join(f"{v:.3f}" for v in p) for p in phase.landmarks)
                + "\n"
            )
            row |= {side: image, f"{side}_mask": mask, f"{side}_landmarks": points}
        rows.append({key: path.relative_to(folder).as_posix() for key, path in row.items()})
    with (folder / "pairs.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return folder / "pairs.csv"


RAW = {
    "dirlab": dirlab, "copdgene": copdgene, "creatis": creatis, "nlst": nlst,
    "sunnybrook": sunnybrook, "acdc": acdc, "hippocampus": crops,
    "oasis": oasis, "adni_hippocampus": adni_hippocampus, "lung_mri": lung_mri,
    "label_maps": label_maps,
}  # fmt: skip
"""Every data set that is prepared from files."""
