"""Transform files against SimpleITK: points agree within 0.001 mm in every part of the fixed image."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
import torch

from lightning_reg import functional as LF
from lightning_reg.discovery import DataError
from lightning_reg.io.transforms import (
    from_itk,
    read_transform,
    to_itk,
    write_displacement,
    write_image,
    write_transform,
)
from lightning_reg.spatial import Affine, BSpline, Composition, Displacement, Grid, Identity, Transform, Velocity, slabs

LPS = np.array([-1.0, -1.0, 1.0])
KINDS = ["affine", "displacement", "bspline", "velocity", "affine of bspline", "affine of displacement", "three", "inverse", "identity"]


@pytest.fixture
def make(fixed_grid, moving_grid, smooth_field, rigid, generator):
    """Transforms of every kind; their own grids are smaller than, coarser than, or away from the fixed grid."""
    small = fixed_grid.cropped((2, 3, 2), (7, 8, 11))
    coarse = fixed_grid.resized((5, 6, 7))

    def build(kind: str) -> Transform:
        if kind == "affine":
            return Affine(rigid, fixed_grid)
        if kind == "displacement":
            return Displacement(smooth_field(small.shape, 1.5), small)
        if kind == "velocity":
            return Velocity(smooth_field(coarse.shape, 0.8), coarse)
        if kind == "bspline":
            stride = (3.0, 2.5, 4.0)
            return BSpline(torch.randn(1, 3, *LF.lattice_shape(small.shape, stride), generator=generator), small, stride)
        if kind == "three":
            return Composition([Displacement(smooth_field(moving_grid.shape), moving_grid), build("affine"), build("bspline")])
        if kind == "inverse":
            return build("affine of displacement").inverse()
        if kind == "identity":
            return Identity(fixed_grid, torch.zeros(1))
        return Composition([build("affine"), build(kind.removeprefix("affine of "))])

    return build


def itk_points(transform: sitk.Transform, points: torch.Tensor) -> np.ndarray:
    """``(N, 3)`` RAS mm through an ITK transform."""
    return np.array([transform.TransformPoint((p * LPS).tolist()) for p in points.numpy()]) * LPS


@pytest.mark.parametrize("ending", [".h5", ".tfm"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_written_transform_maps_points_as_ours_does(kind, ending, make, fixed_grid, world_points, tmp_path: Path) -> None:
    """Up to the outer faces of the fixed image, also where it is larger than the transform's own grid."""
    transform, points = make(kind), world_points(fixed_grid, 300, margin=-0.49)
    path = tmp_path / f"transform{ending}"
    write_transform(path, transform, fixed_grid)
    expected = transform.map_world(points)[0].T.numpy()
    found = itk_points(sitk.ReadTransform(str(path)), points[0].T)
    assert np.abs(found - expected).max() < 1e-3


@pytest.mark.parametrize("kind", KINDS)
def test_reading_gives_the_transform_back(kind, make, fixed_grid, world_points, tmp_path: Path) -> None:
    transform, points = make(kind), world_points(fixed_grid, 300, margin=-0.49)
    write_transform(tmp_path / "t.h5", transform, fixed_grid)
    found = read_transform(tmp_path / "t.h5").map_world(points)
    assert float((found - transform.map_world(points)).abs().max()) < 1e-3


@pytest.mark.parametrize("large", [False, True])
def test_a_displacement_file_is_itks(make, fixed_grid, tmp_path: Path, monkeypatch, large: bool) -> None:
    """Voxel by voxel, and as a transform in between; a vector image that ITK reads as one. Of a large image component by component."""
    if large:
        monkeypatch.setattr(sys.modules[write_displacement.__module__], "LARGE", 100)
        monkeypatch.setattr(sys.modules[slabs.__module__], "SLAB", 5 * 15 * 17)
    transform = make("affine of bspline")
    write_displacement(tmp_path / "d.nii.gz", transform, fixed_grid)
    header = nib.load(tmp_path / "d.nii.gz").header
    assert header.get_intent()[0] == "vector"
    assert header["dim"][:6].tolist() == [5, *fixed_grid.shape, 1, 3]
    image = sitk.ReadImage(str(tmp_path / "d.nii.gz"), sitk.sitkVectorFloat64)
    assert image.GetDimension() == 3
    assert image.GetNumberOfComponentsPerPixel() == 3
    for index in ((0, 0, 0), (11, 14, 16), (4, 9, 3)):
        start = np.array(image.TransformIndexToPhysicalPoint(index)) * LPS
        lands = transform.map_world(torch.from_numpy(start).view(1, 3, 1))[0, :, 0].numpy()
        np.testing.assert_allclose(np.array(image.GetPixel(index)) * LPS, lands - start, atol=1e-3)
    points = fixed_grid.to_world(fixed_grid.points(dtype=torch.float64).flatten(2)[..., ::37])
    found = itk_points(sitk.DisplacementFieldTransform(image), points[0].T)
    np.testing.assert_allclose(found, transform.map_world(points)[0].T.numpy(), atol=1e-3)
    again = read_transform(tmp_path / "d.nii.gz").map_world(points)
    assert float((again - transform.map_world(points)).abs().max()) < 1e-3


@pytest.mark.parametrize("kind", [sitk.Euler3DTransform, sitk.TranslationTransform, sitk.Similarity3DTransform])
def test_other_linear_transforms_of_itk_can_be_applied(kind, fixed_grid, world_points) -> None:
    theirs = kind(3) if kind is sitk.TranslationTransform else kind()
    theirs.SetParameters((np.arange(theirs.GetNumberOfParameters()) * 0.05 + 0.1).tolist())
    points = world_points(fixed_grid)
    np.testing.assert_allclose(from_itk(theirs).map_world(points)[0].T.numpy(), itk_points(theirs, points[0].T), atol=1e-6)


def test_a_composite_of_itk_is_applied_in_its_order(make, fixed_grid, world_points) -> None:
    outer, inner = to_itk(make("affine"), fixed_grid), to_itk(make("bspline"), fixed_grid)
    theirs = sitk.CompositeTransform([outer, sitk.CompositeTransform([inner])])
    points = world_points(fixed_grid)
    np.testing.assert_allclose(from_itk(theirs).map_world(points)[0].T.numpy(), itk_points(theirs, points[0].T), atol=1e-3)


def test_axes_that_are_not_perpendicular_are_refused(tmp_path: Path) -> None:
    affine = torch.eye(4, dtype=torch.float64)
    affine[0, 1] = 0.3
    grid = Grid((4, 4, 4), affine)
    with pytest.raises(DataError, match="not perpendicular, which ITK cannot represent"):
        write_transform(tmp_path / "t.h5", Displacement(torch.zeros(1, 3, 4, 4, 4), grid), grid)


@pytest.mark.parametrize(("name", "content", "message"), [("no.h5", None, "There is no transform"), ("bad.h5", b"text", "cannot be read")])
def test_files_that_are_no_transforms(name: str, content: bytes | None, message: str, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        read_transform(tmp_path / name)


@pytest.mark.parametrize("ending", [".nii.gz", ".mha", ".nrrd"])
def test_an_image_lies_where_it_lay(ending: str, fixed_grid, tmp_path: Path) -> None:
    values = torch.arange(12 * 15 * 17, dtype=torch.int16).view(1, 1, *fixed_grid.shape)
    write_image(tmp_path / f"x{ending}", values, fixed_grid)
    image = sitk.ReadImage(str(tmp_path / f"x{ending}"))
    assert image.GetPixel(3, 7, 11) == int(values[0, 0, 3, 7, 11])
    at = np.array(image.TransformIndexToPhysicalPoint((3, 7, 11))) * LPS
    np.testing.assert_allclose(at, fixed_grid.to_world(torch.tensor([3.0, 7.0, 11.0]).view(1, 3, 1).double())[0, :, 0].numpy(), atol=1e-3)


@pytest.mark.slow
def test_transforms_are_written_and_read_by_several_threads(tmp_path: Path) -> None:
    """In a process of its own, which ITK's HDF5 would end. Every file is what its thread wrote."""
    code = """
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
import torch
from lightning_reg.io.transforms import read_transform, write_transform
from lightning_reg.spatial import Displacement, Grid

grid, folder = Grid.regular((12, 13, 14)), Path(sys.argv[1])

def work(number):
    field = torch.full((1, 3, 12, 13, 14), float(number))
    for turn in range(40):
        path = folder / f"{number}-{turn}.h5"
        write_transform(path, Displacement(field, grid), grid)
        assert float((read_transform(path).displacement(grid) - field).abs().max()) < 1e-4

with ThreadPoolExecutor(4) as pool:
    list(pool.map(work, range(4)))
"""
    found = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr[-2000:]
    assert "HDF5" not in found.stderr
