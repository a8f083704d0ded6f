"""The same images and transforms in ITK (LPS, first axis fastest)."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from torch import Tensor

from lightning_reg.spatial import BSpline, Grid, Image, Transform

FLIP = np.diag([-1.0, -1.0, 1.0])


class ITK:
    """The same things in SimpleITK."""

    @staticmethod
    def geometry(grid: Grid, item: int = 0) -> tuple[list[float], list[float], list[float]]:
        """Origin, spacing and direction in LPS."""
        affine, spacing = grid.affine[item], grid.spacing[item]
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
        return cls.place(
            sitk.GetImageFromArray(image.tensor[0, 0].numpy().transpose(2, 1, 0).copy()), image.grid
        )

    @classmethod
    def resampled(cls, image: Image, grid: Grid, transform: sitk.Transform | None = None) -> Tensor:
        """``(1, 1, I, J, K)``: the image on ``grid``, through a transform if there is one."""
        reference = cls.place(sitk.Image(*grid.shape, sitk.sitkFloat32), grid)
        kind = sitk.sitkNearestNeighbor if image.discrete else sitk.sitkLinear
        out = sitk.Resample(
            cls.image(image),
            reference,
            transform or sitk.Transform(3, sitk.sitkIdentity),
            kind,
            image.padding,
        )
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
        linear = FLIP @ grid.affine[0, :3, :3]
        vectors = np.einsum("ab,bijk->kjia", linear, field[0].double().numpy())
        image = cls.place(
            sitk.GetImageFromArray(np.ascontiguousarray(vectors), isVector=True), grid
        )
        return sitk.DisplacementFieldTransform(image)

    @classmethod
    def bspline(cls, spline: BSpline) -> sitk.BSplineTransform:
        """Coefficients in LPS mm; the domain begins at voxel 0, one control point inside the
        lattice.
        """
        origin, spacing, direction = cls.geometry(spline.grid)
        lattice = spline.control.shape[2:]
        mesh = [n - 3 for n in lattice]
        transform = sitk.BSplineTransform(3, 3)
        transform.SetTransformDomainOrigin(origin)
        transform.SetTransformDomainDirection(direction)
        transform.SetTransformDomainPhysicalDimensions(
            [m * s * v for m, s, v in zip(mesh, spline.stride, spacing, strict=True)]
        )
        transform.SetTransformDomainMeshSize(mesh)
        linear = FLIP @ spline.grid.affine[0, :3, :3]
        vectors = np.einsum("ab,bijk->akji", linear, spline.control[0].double().numpy())
        transform.SetParameters(vectors.ravel().tolist())
        return transform

    @staticmethod
    def points(transform: sitk.Transform, points: Tensor) -> Tensor:
        """RAS mm through an ITK transform, ``(1, 3, N)``."""
        moved = [
            FLIP @ transform.TransformPoint((FLIP @ p).tolist())
            for p in points[0].T.double().numpy()
        ]
        return torch.tensor(np.array(moved).T)[None]

    @classmethod
    def assert_same_map(
        cls, ours: Transform, theirs: sitk.Transform, points: Tensor, tolerance: float = 1e-3
    ) -> None:
        moved = ours.map_world(points)
        torch.testing.assert_close(
            moved.double(), cls.points(theirs, points), atol=tolerance, rtol=0
        )
        assert float((moved - points).norm(dim=1).max()) > 100 * tolerance


@pytest.fixture(scope="session")
def itk() -> type[ITK]:
    return ITK
