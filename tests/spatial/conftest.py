"""Oblique grids, and the same images and transforms in ITK (LPS, first axis fastest)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from torch import Tensor

from lightning_reg import functional as LF
from lightning_reg.spatial import BSpline, Grid, Image, Transform

FLIP = np.diag([-1.0, -1.0, 1.0])


def oblique(shape: Sequence[int], spacing: Sequence[float], rotation: Sequence[float], center: Sequence[float], flip: int = 0) -> Grid:
    """A grid turned by a rotation vector about its ``center`` (RAS mm); ``flip`` mirrors that axis."""
    linear = LF.rotation_matrix(torch.tensor([rotation], dtype=torch.float64))[0] @ torch.diag(torch.tensor(spacing, dtype=torch.float64))
    linear[:, flip] *= -1
    affine = torch.eye(4, dtype=torch.float64)
    affine[:3, :3] = linear
    affine[:3, 3] = torch.tensor(center, dtype=torch.float64) - linear @ torch.tensor([(n - 1) / 2 for n in shape], dtype=torch.float64)
    return Grid(tuple(shape), affine)


@pytest.fixture
def fixed_grid() -> Grid:
    return oblique((12, 15, 17), (1.4, 1.1, 2.0), (0.3, -0.2, 0.4), (-210.0, 133.0, 410.0))


@pytest.fixture
def moving_grid() -> Grid:
    """Overlaps the middle of :func:`fixed_grid`, but has its own shape, spacing and directions."""
    return oblique((19, 16, 14), (1.2, 1.9, 1.6), (-0.2, 0.35, 0.1), (-208.0, 131.0, 412.0), flip=1)


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(7)


@pytest.fixture
def smooth_field(generator: torch.Generator) -> Callable[..., Tensor]:
    """A smooth float32 field ``(batch, channels, *shape)`` whose largest value is ``size``."""

    def make(shape: Sequence[int], size: float = 1.5, channels: int = 3, batch: int = 1) -> Tensor:
        coarse = torch.randn(batch, channels, 4, 4, 4, generator=generator, dtype=torch.float64)
        field = LF.bspline(coarse, shape, [(n - 1) / 3 for n in shape], [0.0] * 3)
        return (field * (size / field.abs().max())).float()

    return make


@pytest.fixture
def world_points(generator: torch.Generator) -> Callable[..., Tensor]:
    """``(batch, 3, count)`` RAS mm inside a grid, ``margin`` voxels off its border, in double precision."""

    def make(grid: Grid, count: int = 60, margin: float = 1.0) -> Tensor:
        extent = torch.tensor(grid.shape, dtype=torch.float64).view(1, 3, 1) - 1 - 2 * margin
        inside = margin + extent * torch.rand(grid.batch, 3, count, generator=generator, dtype=torch.float64)
        return grid.to_world(inside)

    return make


@pytest.fixture
def rigid() -> Tensor:
    """A moderate affine map of the world about the middle of the grids."""
    parameters = torch.tensor([[2.0, -1.5, 1.0, 0.05, -0.08, 0.1, 1.05, 0.95, 1.02, 0.03, -0.02, 0.04]], dtype=torch.float64)
    return LF.affine_matrix(parameters, torch.tensor([-209.0, 132.0, 411.0], dtype=torch.float64))


class ITK:
    """The same things in SimpleITK."""

    @staticmethod
    def geometry(grid: Grid, item: int = 0) -> tuple[list[float], list[float], list[float]]:
        """Origin, spacing and direction in LPS."""
        affine, spacing = grid.affine[item].numpy(), grid.spacing[item].numpy()
        direction = FLIP @ affine[:3, :3] / spacing
        return (FLIP @ affine[:3, 3]).tolist(), spacing.tolist(), direction.ravel().tolist()

    @classmethod
    def place(cls, image: sitk.Image, grid: Grid) -> sitk.Image:
        origin, spacing, direction = cls.geometry(grid)
        image.SetOrigin(origin)
        image.SetSpacing(spacing)
        image.SetDirection(direction)
        return image

    @classmethod
    def image(cls, image: Image) -> sitk.Image:
        return cls.place(sitk.GetImageFromArray(image.tensor[0, 0].numpy().transpose(2, 1, 0).copy()), image.grid)

    @classmethod
    def resampled(cls, image: Image, grid: Grid, transform: sitk.Transform | None = None) -> Tensor:
        """``(1, 1, I, J, K)``: the image on ``grid``, through a transform if there is one."""
        reference = cls.place(sitk.Image(*grid.shape, sitk.sitkFloat32), grid)
        kind = sitk.sitkNearestNeighbor if image.discrete else sitk.sitkLinear
        out = sitk.Resample(cls.image(image), reference, transform or sitk.Transform(3, sitk.sitkIdentity), kind, image.padding)
        return torch.tensor(sitk.GetArrayFromImage(out).transpose(2, 1, 0).copy())[None, None]

    @staticmethod
    def affine(matrix: Tensor) -> sitk.AffineTransform:
        m = matrix[0].double().numpy()
        transform = sitk.AffineTransform(3)
        transform.SetMatrix((FLIP @ m[:3, :3] @ FLIP).ravel().tolist())
        transform.SetTranslation((FLIP @ m[:3, 3]).tolist())
        return transform

    @classmethod
    def field(cls, field: Tensor, grid: Grid) -> sitk.DisplacementFieldTransform:
        linear = FLIP @ grid.affine[0, :3, :3].numpy()
        vectors = np.einsum("ab,bijk->kjia", linear, field[0].double().numpy())
        image = cls.place(sitk.GetImageFromArray(np.ascontiguousarray(vectors), isVector=True), grid)
        return sitk.DisplacementFieldTransform(image)

    @classmethod
    def bspline(cls, spline: BSpline) -> sitk.BSplineTransform:
        """Coefficients in LPS mm; the domain begins at voxel 0, one control point inside the lattice."""
        origin, spacing, direction = cls.geometry(spline.grid)
        lattice = spline.control.shape[2:]
        mesh = [n - 3 for n in lattice]
        transform = sitk.BSplineTransform(3, 3)
        transform.SetTransformDomainOrigin(origin)
        transform.SetTransformDomainDirection(direction)
        transform.SetTransformDomainPhysicalDimensions([m * s * v for m, s, v in zip(mesh, spline.stride, spacing, strict=True)])
        transform.SetTransformDomainMeshSize(mesh)
        linear = FLIP @ spline.grid.affine[0, :3, :3].numpy()
        vectors = np.einsum("ab,bijk->akji", linear, spline.control[0].double().numpy())
        transform.SetParameters(vectors.ravel().tolist())
        return transform

    @staticmethod
    def points(transform: sitk.Transform, points: Tensor) -> Tensor:
        """RAS mm through an ITK transform, ``(1, 3, N)``."""
        moved = [FLIP @ transform.TransformPoint((FLIP @ p).tolist()) for p in points[0].T.double().numpy()]
        return torch.tensor(np.array(moved).T)[None]

    @classmethod
    def assert_same_map(cls, ours: Transform, theirs: sitk.Transform, points: Tensor, tolerance: float = 1e-3) -> None:
        moved = ours.map_world(points)
        torch.testing.assert_close(moved.double(), cls.points(theirs, points), atol=tolerance, rtol=0)
        assert float((moved - points).norm(dim=1).max()) > 100 * tolerance


@pytest.fixture(scope="session")
def itk() -> type[ITK]:
    return ITK
