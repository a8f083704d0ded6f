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
from lightning_reg.io.images import write_image
from lightning_reg.io.transform_reading import from_itk, read_transform
from lightning_reg.io.transforms import to_itk, write_displacement, write_transform
from lightning_reg.registry import DataError
from lightning_reg.spatial import (
    Affine,
    BSpline,
    Composition,
    Displacement,
    Grid,
    Identity,
    Transform,
    Velocity,
    slabs,
)

LPS = np.array([-1.0, -1.0, 1.0])
KINDS = [
    "affine",
    "displacement",
    "bspline",
    "velocity",
    "affine of bspline",
    "affine of displacement",
    "three",
    "inverse",
    "identity",
]


@pytest.fixture
def make(fixed_grid, moving_grid, smooth_field, rigid, generator):
    """Transforms of every kind; their own grids are smaller than, coarser than, or away from the
    fixed grid.
    """
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
            return BSpline(
                torch.randn(1, 3, *LF.lattice_shape(small.shape, stride), generator=generator),
                small,
                stride,
            )
        if kind == "three":
            return Composition(
                [
                    Displacement(smooth_field(moving_grid.shape), moving_grid),
                    build("affine"),
                    build("bspline"),
                ]
            )
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
def test_a_written_transform_maps_points_as_ours_does(
    kind, ending, make, fixed_grid, world_points, tmp_path: Path
) -> None:
    """Up to the outer faces of the fixed image, also where it is larger than the transform's own
    grid.
    """
    transform, points = make(kind), world_points(fixed_grid, 300, margin=-0.49)
    path = tmp_path / f"transform{ending}"
    write_transform(path, transform, fixed_grid)
    expected = transform.map_world(points)[0].T.numpy()
    found = itk_points(sitk.ReadTransform(str(path)), points[0].T)
    assert np.abs(found - expected).max() < 1e-3


@pytest.mark.parametrize("kind", KINDS)
def test_reading_gives_the_transform_back(
    kind, make, fixed_grid, world_points, tmp_path: Path
) -> None:
    transform, points = make(kind), world_points(fixed_grid, 300, margin=-0.49)
    write_transform(tmp_path / "t.h5", transform, fixed_grid)
    found = read_transform(tmp_path / "t.h5").map_world(points)
    assert float((found - transform.map_world(points)).abs().max()) < 1e-3


@pytest.mark.parametrize("large", [False, True])
def test_a_displacement_file_is_itks(
    make, fixed_grid, tmp_path: Path, monkeypatch, large: bool
) -> None:
    """Voxel by voxel, and as a transform in between; a vector image that ITK reads as one. Of a
    large image component by component.
    """
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


@pytest.mark.parametrize(
    "kind", [sitk.Euler3DTransform, sitk.TranslationTransform, sitk.Similarity3DTransform]
)
def test_other_linear_transforms_of_itk_can_be_applied(kind, fixed_grid, world_points) -> None:
    theirs = kind(3) if kind is sitk.TranslationTransform else kind()
    theirs.SetParameters((np.arange(theirs.GetNumberOfParameters()) * 0.05 + 0.1).tolist())
    points = world_points(fixed_grid)
    np.testing.assert_allclose(
        from_itk(theirs).map_world(points)[0].T.numpy(), itk_points(theirs, points[0].T), atol=1e-6
    )


def test_a_composite_of_itk_is_applied_in_its_order(make, fixed_grid, world_points) -> None:
    outer, inner = to_itk(make("affine"), fixed_grid), to_itk(make("bspline"), fixed_grid)
    theirs = sitk.CompositeTransform([outer, sitk.CompositeTransform([inner])])
    points = world_points(fixed_grid)
    np.testing.assert_allclose(
        from_itk(theirs).map_world(points)[0].T.numpy(), itk_points(theirs, points[0].T), atol=1e-3
    )


def test_axes_that_are_not_perpendicular_are_refused(tmp_path: Path) -> None:
    affine = torch.eye(4, dtype=torch.float64)
    affine[0, 1] = 0.3
    grid = Grid((4, 4, 4), affine)
    with pytest.raises(DataError, match="not perpendicular, which ITK cannot represent"):
        write_transform(tmp_path / "t.h5", Displacement(torch.zeros(1, 3, 4, 4, 4), grid), grid)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [("no.h5", None, "There is no transform"), ("bad.h5", b"text", "cannot be read")],
)
def test_files_that_are_no_transforms(
    name: str, content: bytes | None, message: str, tmp_path: Path
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        read_transform(tmp_path / name)


AFFINE = (
    "Transform: AffineTransform_double_3_3\nParameters: 1 0 0 0 1 0 0 0 1 5 0 0\nFixedParameters: 0"
    " 0 0\n"
)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "motion.txt",
            f"#Insight Transform File V1.0\n{AFFINE}{AFFINE}",
            "holds several transforms, as of the volumes of a series",
        ),
        (
            "spline.tfm",
            f"#Insight Transform File V1.0\n{AFFINE.replace('Affine', 'ThinPlate')}",
            "it holds a ThinPlateTransform",
        ),
        (
            "fsl.mat",
            "1 0 0 3  \n0 1 0 -2  \n0 0 1 1e-3  \n0 0 0 1  \n",
            "it is a matrix without a coordinate system",
        ),
        (
            "TransformParameters.0.txt",
            '(Transform "EulerTransform")\n',
            "it is a parameter file of elastix",
        ),
        (
            "reg.lta",
            "type      = 1\nnxforms   = 1\n1 4 4\n",
            "convert it with lta_convert --outitk",
        ),
    ],
)
def test_what_other_programs_write_is_named(
    name: str, content: str, message: str, tmp_path: Path, capfd
) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match=message):
        read_transform(tmp_path / name)
    assert capfd.readouterr().err == ""


def test_a_transform_of_itk_that_is_cut_off_or_flat_is_refused_in_one_sentence(
    make, fixed_grid, tmp_path: Path, capfd
) -> None:
    write_transform(tmp_path / "t.h5", make("affine"), fixed_grid)
    (tmp_path / "t.h5").write_bytes((tmp_path / "t.h5").read_bytes()[:-100])
    with pytest.raises(DataError, match="it has been cut off"):
        read_transform(tmp_path / "t.h5")
    sitk.WriteTransform(sitk.Euler2DTransform((0, 0), 0.1, (1, 2)), str(tmp_path / "flat.tfm"))
    with pytest.raises(DataError, match="is a transform of 2D points"):
        read_transform(tmp_path / "flat.tfm")
    assert capfd.readouterr().err == ""


def niftyreg(path: Path, kind: int, vectors: np.ndarray, grid: Grid) -> Path:
    image = nib.Nifti1Image(vectors[:, :, :, None].astype(np.float32), grid.affine[0])
    image.header.set_intent("vector", name="NREG_TRANS")
    image.header["intent_p1"] = kind
    image.to_filename(path)
    return path


def test_fields_of_niftyreg_are_positions_or_displacements_in_ras(
    fixed_grid, world_points, tmp_path: Path
) -> None:
    """The map is affine, so that interpolation between voxels is exact."""
    matrix, shift = (
        np.array([[1.03, 0.02, 0.0], [-0.04, 0.98, 0.01], [0.0, 0.05, 1.02]]),
        np.array([3.0, -2.0, 1.0]),
    )
    voxels = np.stack(np.meshgrid(*map(np.arange, fixed_grid.shape), indexing="ij"), axis=-1)
    world = voxels @ fixed_grid.affine[0, :3, :3].T + fixed_grid.affine[0, :3, 3]
    positions = world @ matrix.T + shift
    points = world_points(fixed_grid, 200, margin=0.5)
    expected = points[0].T.numpy() @ matrix.T + shift
    for kind, vectors in ((0, positions), (1, positions - world)):
        found = read_transform(
            niftyreg(tmp_path / f"{kind}.nii.gz", kind, vectors, fixed_grid)
        ).map_world(points)
        np.testing.assert_allclose(found[0].T.numpy(), expected, atol=1e-3)
    with pytest.raises(DataError, match="is a spline or velocity of NiftyReg"):
        read_transform(niftyreg(tmp_path / "spline.nii.gz", 5, positions, fixed_grid))


def test_vectors_that_are_no_displacements_in_mm_are_refused(
    fixed_grid, make, tmp_path: Path
) -> None:
    write_displacement(tmp_path / "d.nii.gz", make("displacement"), fixed_grid)
    image = nib.load(tmp_path / "d.nii.gz")
    image.header.set_xyzt_units("micron")
    image.to_filename(tmp_path / "micron.nii.gz")
    with pytest.raises(
        DataError, match="is in the unit micron; whether its vectors are, too, is not said"
    ):
        read_transform(tmp_path / "micron.nii.gz")
    colours = sitk.Image([6, 5, 4], sitk.sitkVectorUInt8, 3)
    for name in ("colours.nii.gz", "colours.nrrd"):
        sitk.WriteImage(colours, str(tmp_path / name))
        with pytest.raises(DataError, match="is an image and no transform"):
            read_transform(tmp_path / name)


@pytest.mark.parametrize("ending", [".nii.gz", ".mha", ".nrrd"])
def test_an_image_lies_where_it_lay(ending: str, fixed_grid, tmp_path: Path) -> None:
    values = torch.arange(12 * 15 * 17, dtype=torch.int16).view(1, 1, *fixed_grid.shape)
    write_image(tmp_path / f"x{ending}", values, fixed_grid)
    image = sitk.ReadImage(str(tmp_path / f"x{ending}"))
    assert image.GetPixel(3, 7, 11) == int(values[0, 0, 3, 7, 11])
    at = np.array(image.TransformIndexToPhysicalPoint((3, 7, 11))) * LPS
    np.testing.assert_allclose(
        at,
        fixed_grid.to_world(torch.tensor([3.0, 7.0, 11.0]).view(1, 3, 1).double())[0, :, 0].numpy(),
        atol=1e-3,
    )


@pytest.mark.slow
def test_transforms_are_written_and_read_by_several_threads(tmp_path: Path) -> None:
    """In a process of its own, which ITK's HDF5 would end. Every file is what its thread wrote."""
    code = """
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
import torch
from lightning_reg.io.transform_reading import read_transform
from lightning_reg.io.transforms import write_transform
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
    found = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert found.returncode == 0, found.stderr[-2000:]
    assert "HDF5" not in found.stderr
