"""Application of ITK's transforms to files, against SimpleITK."""

from __future__ import annotations

import csv
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
import torch

from lightning_reg.inference.applying import apply_to_image, apply_to_points
from lightning_reg.io.images import write_image
from lightning_reg.registry import DataError
from lightning_reg.spatial import Grid

LPS = np.array([-1.0, -1.0, 1.0])
# RAS mm
POINTS = np.array([[-209.0, 131.0, 411.0], [-212.5, 135.0, 405.0], [-207.0, 129.0, 414.0]])


@pytest.fixture
def transform(tmp_path: Path) -> tuple[Path, sitk.AffineTransform]:
    """No rotation: a shear, scales and a translation."""
    affine = sitk.AffineTransform(3)
    affine.SetMatrix([1.1, 0.2, 0.0, 0.0, 0.95, 0.1, 0.05, 0.0, 1.0])
    affine.SetCenter([208.0, -133.0, 410.0])
    affine.SetTranslation([3.0, -1.0, 2.0])
    sitk.WriteTransform(affine, str(tmp_path / "t.tfm"))
    return tmp_path / "t.tfm", affine


def write(path: Path, header: str, points: np.ndarray) -> Path:
    path.write_text(
        "\n".join([header, *(",".join(f"{v:.6f}" for v in point) for point in points)]) + "\n"
    )
    return path


def read(path: Path) -> tuple[list[str], np.ndarray]:
    with path.open(newline="") as file:
        header, *rows = csv.reader(file)
    return header, np.array(rows, dtype=float)


@pytest.mark.parametrize("inverse", [False, True])
@pytest.mark.parametrize("space", ["RAS", "LPS", "voxel"])
def test_points_are_mapped_in_their_own_space(
    space: str, inverse: bool, transform, tmp_path: Path, fixed_grid: Grid
) -> None:
    """Voxels count in the reference; what is written is in millimetres."""
    path, affine = transform
    theirs = affine.GetInverse() if inverse else affine
    expected = np.array([theirs.TransformPoint((p * LPS).tolist()) for p in POINTS])
    reference = None
    if space == "voxel":
        write_image(tmp_path / "fixed.nii.gz", torch.rand(1, 1, *fixed_grid.shape), fixed_grid)
        reference = str(tmp_path / "fixed.nii.gz")
        given = write(
            tmp_path / "p.csv",
            "i,j,k",
            fixed_grid.to_voxel(torch.from_numpy(POINTS).T.unsqueeze(0))[0].T.numpy(),
        )
    else:
        given = write(
            tmp_path / "p.csv",
            *(("x,y,z", POINTS) if space == "RAS" else ("x_lps,y_lps,z_lps", POINTS * LPS)),
        )
    apply_to_points(path, given, tmp_path / "q.csv", reference=reference, inverse=inverse)
    header, found = read(tmp_path / "q.csv")
    assert header == (["x_lps", "y_lps", "z_lps"] if space == "LPS" else ["x", "y", "z"])
    np.testing.assert_allclose(found if space == "LPS" else found * LPS, expected, atol=1e-3)


@pytest.mark.parametrize("inverse", [False, True])
@pytest.mark.parametrize("labels", [False, True])
def test_images_are_resampled_as_by_itk(
    labels: bool, inverse: bool, transform, tmp_path: Path, fixed_grid: Grid, moving_grid: Grid
) -> None:
    """Onto the reference's grid, on oblique grids; outside an image is its minimum, outside labels
    0.
    """
    path, affine = transform
    generator = torch.Generator().manual_seed(2)
    values = torch.rand(1, 1, *moving_grid.shape, generator=generator) * 900 - 1000
    kind = sitk.sitkFloat32
    if labels:
        values, kind = (
            torch.randint(1, 9, (1, 1, *moving_grid.shape), generator=generator, dtype=torch.int16),
            sitk.sitkInt16,
        )
    write_image(tmp_path / "m.nii.gz", values, moving_grid)
    write_image(tmp_path / "f.nii.gz", torch.rand(1, 1, *fixed_grid.shape), fixed_grid)
    apply_to_image(
        path,
        str(tmp_path / "m.nii.gz"),
        str(tmp_path / "f.nii.gz"),
        tmp_path / "w.nii.gz",
        labels=labels,
        inverse=inverse,
    )
    moving, fixed = (
        sitk.ReadImage(str(tmp_path / name), kind) for name in ("m.nii.gz", "f.nii.gz")
    )
    inner = sitk.GetImageFromArray(
        np.pad(np.ones([n - 2 for n in reversed(moving_grid.shape)], np.uint8), 1)
    )
    inner.CopyInformation(moving)
    theirs, outside = (
        affine.GetInverse() if inverse else affine,
        0 if labels else float(values.min()),
    )
    mode = sitk.sitkNearestNeighbor if labels else sitk.sitkLinear
    expected = sitk.GetArrayFromImage(
        sitk.Resample(moving, fixed, theirs, mode, outside)
    ).transpose()
    inside = (
        sitk.GetArrayFromImage(
            sitk.Resample(inner, fixed, theirs, sitk.sitkNearestNeighbor, 0)
        ).transpose()
        > 0
    )
    written = nib.load(tmp_path / "w.nii.gz")
    assert labels or written.get_data_dtype() == np.float32
    found = np.asarray(written.dataobj).astype(float)
    np.testing.assert_allclose(written.affine, fixed_grid.affine[0], atol=1e-3)
    assert 0.3 < inside.mean() < 0.95
    assert (np.abs(found - expected)[inside] < 0.5).mean() > 0.999
    far = expected == outside  # where ITK is outside, half a voxel blends into the border here
    assert far.mean() > 0.02
    assert (found[far] == outside).mean() > 0.4


def test_a_label_map_that_is_interpolated_linearly_is_said(
    transform, tmp_path: Path, fixed_grid: Grid
) -> None:
    """An image of as few whole numbers, whose neighbours differ, is none."""
    labels = torch.zeros(1, 1, *fixed_grid.shape, dtype=torch.int16)
    labels[:, :, 2:9, 3:12, 4:13] = 7
    labels[:, :, 5:9, 3:12, 4:13] = 12
    noise = torch.randint(0, 30, (1, 1, *fixed_grid.shape), dtype=torch.int16)
    for name, values, given, warned in (
        ("parts", labels, False, True),
        ("float", labels.float(), False, True),
        ("given", labels, True, False),
        ("noise", noise, False, False),
        ("blurred", labels + torch.rand(labels.shape), False, False),
    ):
        path = str(tmp_path / f"{name}.nii.gz")
        write_image(Path(path), values, fixed_grid)
        warning = apply_to_image(
            transform[0], path, path, tmp_path / f"{name}_out.nii.gz", labels=given
        )
        assert (warning is not None) == warned
        assert (
            not warned
            or f"{name}.nii.gz looks like a label map or a mask, and was interpolated linearly"
            in str(warning)
        )


def test_images_that_never_meet_are_refused(transform, tmp_path: Path, fixed_grid: Grid) -> None:
    write_image(tmp_path / "f.nii.gz", torch.rand(1, 1, *fixed_grid.shape), fixed_grid)
    far = fixed_grid.cropped((500, 0, 0), fixed_grid.shape)
    write_image(tmp_path / "far.nii.gz", torch.rand(1, 1, *fixed_grid.shape), far)
    with pytest.raises(DataError, match=r"No point of .*f\.nii\.gz lands in .*far\.nii\.gz"):
        apply_to_image(
            transform[0],
            str(tmp_path / "far.nii.gz"),
            str(tmp_path / "f.nii.gz"),
            tmp_path / "w.nii.gz",
        )


def test_the_folder_of_a_result_is_its_transform(transform, tmp_path: Path) -> None:
    path, affine = transform
    given = write(tmp_path / "p.csv", "x,y,z", POINTS)
    (tmp_path / "result").mkdir()
    with pytest.raises(
        DataError, match=r"The folder .*result has no transform; give a result of a registration"
    ):
        apply_to_points(tmp_path / "result", given, tmp_path / "q.csv")
    sitk.WriteTransform(sitk.ReadTransform(str(path)), str(tmp_path / "result" / "transform.h5"))
    apply_to_points(tmp_path / "result", given, tmp_path / "q.csv")
    expected = np.array([affine.TransformPoint((p * LPS).tolist()) for p in POINTS]) * LPS
    np.testing.assert_allclose(read(tmp_path / "q.csv")[1], expected, atol=1e-3)
