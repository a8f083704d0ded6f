"""Files of transforms and displacement fields, with the conversion between LPS and RAS.

Inside the project a transform maps RAS mm. ITK, and with it SimpleITK, ANTs, Slicer and elastix,
map LPS mm, in the same direction: points of the fixed image to points of the moving image. Images
are converted by the libraries that read them.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import nibabel as nib
import numpy as np
import SimpleITK as sitk
import torch
from nibabel.openers import ImageOpener
from numpy.typing import NDArray
from torch import Tensor

from lightning_reg.functional import transform_points, transform_vectors
from lightning_reg.io.images import itk_reason
from lightning_reg.io.lps import FLIP, lps_geometry, place_lps
from lightning_reg.io.nifti import place
from lightning_reg.spatial import (
    LARGE,
    Affine,
    BSpline,
    Displacement,
    Grid,
    Identity,
    Transform,
    parts,
    slabs,
)

HDF5 = threading.Lock()
"""Lock for ITK's HDF5, which is not thread-safe: two writing threads crash the process."""


def to_itk(transform: Transform, domain: Grid) -> sitk.Transform:
    """Convert a transform to ITK: fixed to moving points, LPS mm.

    Args:
        transform: batch size 1.
        domain: grid on which both have to agree. Outside their own grid, our fields and splines
            repeat the border displacement; ITK uses zero. They are therefore extended until every
            point of ``domain`` is mapped identically.

    Returns:
        An affine transform, a B-spline, a displacement field, or a composite of them.

    Raises:
        DataError: a grid's axes are not perpendicular, which ITK cannot represent.
    """
    corners = torch.tensor([[-0.5, n - 0.5] for n in domain.shape], dtype=torch.float64)
    # (1, 3, 8) RAS mm around all input points
    reach = domain.to_world(torch.cartesian_prod(*corners).T.unsqueeze(0))
    written: list[sitk.Transform] = []
    for part in reversed(parts(transform)):
        if isinstance(part, Affine):
            written.insert(0, _affine_to_itk(part))
            reach = transform_points(part.matrix.detach().cpu().double(), reach)
        elif isinstance(part, BSpline):
            written.insert(0, _bspline_to_itk(part, reach))
            reach = _spread(reach, part.grid, float(part.control.abs().max()))
        elif not isinstance(part, Identity):
            field = Displacement(part.displacement(), part.grid)
            written.insert(0, _field_to_itk(field, reach))
            reach = _spread(reach, field.grid, float(field.field.abs().max()))
    if len(written) == 1:
        return written[0]
    return sitk.CompositeTransform(written) if written else sitk.Transform(3, sitk.sitkIdentity)


def _affine_to_itk(part: Affine) -> sitk.AffineTransform:
    matrix = FLIP @ part.matrix[0].detach().cpu().double().numpy() @ FLIP
    result = sitk.AffineTransform(3)
    result.SetMatrix(matrix[:3, :3].ravel().tolist())
    result.SetTranslation(matrix[:3, 3].tolist())
    return result


def _margins(
    reach: Tensor, grid: Grid, low: Sequence[float], high: Sequence[float], step: Sequence[float]
) -> tuple[list[int], list[int]]:
    """Steps to add to a lattice (voxels of ``grid``) at both ends to include ``reach``."""
    points = grid.to_voxel(reach)[0]
    first, last, steps = (torch.tensor(of, dtype=points.dtype) for of in (low, high, step))
    before, after = (first - points.amin(1)) / steps, (points.amax(1) - last) / steps
    return before.ceil().clamp_min(0).int().tolist(), after.ceil().clamp_min(0).int().tolist()


def _spread(reach: Tensor, grid: Grid, size: float) -> Tensor:
    """Corners of a box around ``reach``, enlarged by ``size`` voxels of ``grid``."""
    points = grid.to_voxel(reach)[0]
    box = torch.stack([points.amin(1) - size, points.amax(1) + size], dim=1)
    return grid.to_world(torch.cartesian_prod(*box).T.unsqueeze(0))


def _bspline_to_itk(part: BSpline, reach: Tensor) -> sitk.BSplineTransform:
    count = part.control.shape[2:]
    low = [o + s for o, s in zip(part.offset, part.stride, strict=True)]
    high = [o + (n - 2) * s for o, n, s in zip(part.offset, count, part.stride, strict=True)]
    below = [b - 1e-6 * s for b, s in zip(high, part.stride, strict=True)]
    before, after = _margins(reach, part.grid, low, below, part.stride)
    part = part.extended(before, after)
    mesh = [n - 3 for n in part.control.shape[2:]]
    origin = [o + s for o, s in zip(part.offset, part.stride, strict=True)]
    first = part.grid.to_world(torch.tensor(origin, dtype=torch.float64).view(1, 3, 1))[0, :, 0]
    _, spacing, direction = lps_geometry(part.grid)
    result = sitk.BSplineTransform(3, 3)
    result.SetTransformDomainMeshSize(mesh)
    result.SetTransformDomainOrigin((FLIP[:3, :3] @ first.numpy()).tolist())
    result.SetTransformDomainDirection(direction)
    result.SetTransformDomainPhysicalDimensions(
        [m * s * v for m, s, v in zip(mesh, part.stride, spacing, strict=True)]
    )
    vectors = _lps_vectors(part.control, part.grid)
    result.SetParameters(vectors.permute(0, 3, 2, 1).flatten().tolist())
    return result


def _field_to_itk(part: Displacement, reach: Tensor) -> sitk.DisplacementFieldTransform:
    shape = part.grid.shape
    before, after = _margins(reach, part.grid, [-0.5] * 3, [n - 0.5 for n in shape], [1.0] * 3)
    return sitk.DisplacementFieldTransform(_vector_image(part.extended(before, after)))


def _vector_image(part: Displacement) -> sitk.Image:
    """The field as an image of float64 vectors, LPS mm."""
    image = sitk.GetImageFromArray(
        _lps_vectors(part.field, part.grid).permute(3, 2, 1, 0).contiguous().numpy(), isVector=True
    )
    place_lps(image, part.grid)
    return image


def _lps_vectors(vectors: Tensor, grid: Grid) -> Tensor:
    """``(1, 3, *S)`` voxels of ``grid`` to ``(3, *S)`` LPS mm in float64."""
    return transform_vectors(FLIP @ grid.affine, vectors.detach().cpu().double())[0]


def write_transform(path: Path, transform: Transform, domain: Grid) -> None:
    """Write the result of :func:`to_itk` as an ITK transform file (``.h5`` or ``.tfm``).

    Raises:
        DataError: ITK cannot represent the transform.
        OSError: the file cannot be written.
    """
    try:
        written = to_itk(transform, domain)
        with HDF5:
            sitk.WriteTransform(written, str(path))
    except RuntimeError as cause:
        raise OSError(itk_reason(cause)) from cause


def write_displacement(path: Path, transform: Transform, grid: Grid) -> None:
    """Write a transform as a displacement field in NIfTI: five axes, intent *vector*, LPS mm in 32
    bits, as ITK, ANTs and Slicer read it.

    Args:
        grid: grid of the field.
    """
    image = nib.Nifti1Image(np.broadcast_to(np.float32(0), (*grid.shape, 1, 3)), grid.affine[0])
    image.header.set_intent("vector")
    image.header.set_slope_inter(1, 0)
    place(image)
    with ImageOpener(path, "wb") as file:
        image.header.write_to(file)
        for component in _lps_components(transform, grid):
            file.write(component.T.data)


def _lps_components(transform: Transform, grid: Grid) -> Iterator[NDArray[np.float32]]:
    """Displacement along L, P, S, mm, ``(I, J, K)`` each; one at a time for a large image."""
    together = [(0, 1, 2)] if math.prod(grid.shape) <= LARGE else [(0,), (1,), (2,)]
    for axes in together:
        components = [np.empty(grid.shape, dtype=np.float32, order="F") for _ in axes]
        for slab in slabs(grid):
            planes = _lps_vectors(transform.displacement(slab.grid), grid).numpy()
            for axis, component in zip(axes, components, strict=True):
                component[slab.first : slab.first + slab.planes] = planes[axis]
        yield from components


def displacement_array(transform: Transform, grid: Grid, ras: bool) -> NDArray[np.float32]:
    """Displacement at every voxel of a grid, mm, ``(I, J, K, 3)``, in RAS or LPS."""
    vectors = np.stack(list(_lps_components(transform, grid)), axis=-1)
    if ras:
        vectors[..., :2] *= -1
    return vectors
