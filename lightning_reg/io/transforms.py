"""Files of transforms and displacement fields, with the conversion between LPS and RAS.

Inside the project a transform maps RAS mm. ITK, and with it SimpleITK, ANTs, Slicer and elastix,
map LPS mm, in the same direction: points of the fixed image to points of the moving image. Images
are converted by the libraries that read them.
"""

from __future__ import annotations

import math
import re
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
from lightning_reg.io.images import itk_reason, require_finite
from lightning_reg.io.nifti import is_nifti
from lightning_reg.io.transform_files import ITK_OF_ELASTIX, files_in, require_reaching
from lightning_reg.registry import DataError
from lightning_reg.spatial import (
    LARGE,
    Affine,
    BSpline,
    Composition,
    Displacement,
    Grid,
    Identity,
    Transform,
    parts,
    slabs,
)

_FLIP = np.diag([-1.0, -1.0, 1.0, 1.0])
_PER_CONTROL_POINT = 4
_TRANSFORMS = (".h5", ".hdf5", ".hdf", ".tfm", ".mat", ".txt", ".xfm", ".lta")
_HDF5_SIGNATURE = b"\x89HDF\r\n\x1a\n"
_HDF5 = threading.Lock()
"""Lock for ITK's HDF5, which is not thread-safe: two threads that write at the same time crash the
process.
"""


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
    reach = domain.to_world(
        torch.cartesian_prod(*corners).T.unsqueeze(0)
    )  # (1, 3, 8) RAS mm around all input points
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
    matrix = _FLIP @ part.matrix[0].detach().cpu().double().numpy() @ _FLIP
    result = sitk.AffineTransform(3)
    result.SetMatrix(matrix[:3, :3].ravel().tolist())
    result.SetTranslation(matrix[:3, 3].tolist())
    return result


def _margins(
    reach: Tensor, grid: Grid, low: Sequence[float], high: Sequence[float], step: Sequence[float]
) -> tuple[list[int], list[int]]:
    """Steps to add at the two ends of a lattice from ``low`` to ``high`` (voxels of ``grid``) to
    include the points ``reach``.
    """
    points = grid.to_voxel(reach)[0]
    before = [
        max(0, int(np.ceil((a - float(p)) / s)))
        for a, p, s in zip(low, points.amin(1), step, strict=True)
    ]
    after = [
        max(0, int(np.ceil((float(p) - b) / s)))
        for b, p, s in zip(high, points.amax(1), step, strict=True)
    ]
    return before, after


def _spread(reach: Tensor, grid: Grid, size: float) -> Tensor:
    """Corners of a box around ``reach``, enlarged by ``size`` voxels of ``grid``."""
    points = grid.to_voxel(reach)[0]
    box = torch.stack([points.amin(1) - size, points.amax(1) + size], dim=1)
    return grid.to_world(torch.cartesian_prod(*box).T.unsqueeze(0))


def _bspline_to_itk(part: BSpline, reach: Tensor) -> sitk.BSplineTransform:
    count = part.control.shape[2:]
    low = [o + s for o, s in zip(part.offset, part.stride, strict=True)]
    high = [o + (n - 2) * s for o, n, s in zip(part.offset, count, part.stride, strict=True)]
    before, after = _margins(
        reach,
        part.grid,
        low,
        [b - 1e-6 * s for b, s in zip(high, part.stride, strict=True)],
        part.stride,
    )
    part = part.extended(before, after)
    mesh = [n - 3 for n in part.control.shape[2:]]
    origin = [o + s for o, s in zip(part.offset, part.stride, strict=True)]
    first = part.grid.to_world(torch.tensor(origin, dtype=torch.float64).view(1, 3, 1))[0, :, 0]
    _, spacing, direction = _geometry(part.grid)
    result = sitk.BSplineTransform(3, 3)
    result.SetTransformDomainMeshSize(mesh)
    result.SetTransformDomainOrigin((_FLIP[:3, :3] @ first.numpy()).tolist())
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
    origin, spacing, direction = _geometry(part.grid)
    image.SetOrigin(origin)
    image.SetSpacing(spacing)
    image.SetDirection(direction)
    return image


def _lps_vectors(vectors: Tensor, grid: Grid) -> Tensor:
    """``(1, 3, *S)`` voxels of ``grid`` to ``(3, *S)`` LPS mm in float64."""
    return transform_vectors(_FLIP @ grid.affine, vectors.detach().cpu().double())[0]


def require_perpendicular(grid: Grid) -> None:
    """Refuse a grid that ITK cannot represent.

    Raises:
        DataError: its axes are not perpendicular.
    """
    _geometry(grid)


def _geometry(grid: Grid) -> tuple[list[float], list[float], list[float]]:
    """Origin, spacing and direction in LPS."""
    affine, spacing = _FLIP @ grid.affine[0], grid.spacing[0]
    direction = affine[:3, :3] / spacing
    if not np.allclose(direction.T @ direction, np.eye(3), atol=1e-3):
        raise DataError(
            f"The axes of {grid} are not perpendicular, which ITK cannot represent; resample the"
            " fixed image to a regular grid."
        )
    return affine[:3, 3].tolist(), spacing.tolist(), direction.flatten().tolist()


def from_itk(transform: sitk.Transform) -> Transform:
    """Convert an ITK transform to a transform of this project.

    Raises:
        DataError: its kind is not supported.
    """
    transform = transform.Downcast()
    if transform.IsLinear():  # also a composite of affine maps, which ITK may nest deeply
        return _affine_from_itk(transform)
    if isinstance(transform, sitk.CompositeTransform):
        count = transform.GetNumberOfTransforms()
        members = [from_itk(transform.GetNthTransform(n)) for n in range(count)]
        return Composition(members) if members else _identity()
    if isinstance(transform, sitk.DisplacementFieldTransform):
        return _field_from_itk(transform.GetDisplacementField())
    if isinstance(transform, sitk.BSplineTransform):
        return _bspline_from_itk(transform)
    raise DataError(
        f"A transform of the kind {transform.GetName()} cannot be applied here; convert it to a"
        " displacement field first."
    )


def _identity() -> Identity:
    return Identity(Grid.regular((2, 2, 2)), torch.zeros(1, dtype=torch.float64))


def _affine_from_itk(transform: sitk.Transform) -> Affine:
    origin = np.array(transform.TransformPoint((0.0, 0.0, 0.0)))
    matrix = np.eye(4)
    matrix[:3, 3] = origin
    matrix[:3, :3] = np.stack(
        [np.array(transform.TransformPoint(unit)) - origin for unit in np.eye(3).tolist()], axis=1
    )
    return Affine(torch.from_numpy(_FLIP @ matrix @ _FLIP).unsqueeze(0), Grid.regular((2, 2, 2)))


def _grid_of(image: sitk.Image) -> Grid:
    affine = np.eye(4)
    affine[:3, :3] = np.array(image.GetDirection()).reshape(3, 3) * np.array(image.GetSpacing())
    affine[:3, 3] = image.GetOrigin()
    i, j, k = image.GetSize()
    return Grid((i, j, k), _FLIP @ affine)


def _field_from_itk(image: sitk.Image) -> Displacement:
    grid = _grid_of(image)
    vectors = (
        torch.from_numpy(sitk.GetArrayFromImage(image).astype(np.float64))
        .permute(3, 2, 1, 0)
        .unsqueeze(0)
    )
    return Displacement(
        transform_vectors(np.linalg.inv(_FLIP @ grid.affine), vectors.contiguous()), grid
    )


def _bspline_from_itk(transform: sitk.BSplineTransform) -> BSpline:
    if transform.GetOrder() != 3:
        raise DataError(
            f"The B-spline transform has order {transform.GetOrder()}; only cubic ones (order 3)"
            " can be applied."
        )
    images = transform.GetCoefficientImages()
    lattice = _grid_of(images[0])
    values = np.stack([sitk.GetArrayFromImage(image).transpose() for image in images])
    control = transform_vectors(
        np.linalg.inv(_FLIP @ lattice.affine), torch.from_numpy(values).unsqueeze(0)
    )
    # on a grid of four voxels per control point: dense results, such as an inverse, need a finer
    # grid than the lattice
    grid = lattice.resized([_PER_CONTROL_POINT * n for n in lattice.shape])
    first = (_PER_CONTROL_POINT - 1) / 2
    return BSpline(
        _PER_CONTROL_POINT * control, grid, (float(_PER_CONTROL_POINT),) * 3, (first,) * 3
    )


def write_transform(path: Path, transform: Transform, domain: Grid) -> None:
    """Write the result of :func:`to_itk` as an ITK transform file (``.h5`` or ``.tfm``).

    Raises:
        DataError: ITK cannot represent the transform.
        OSError: the file cannot be written.
    """
    try:
        written = to_itk(transform, domain)
        with _HDF5:
            sitk.WriteTransform(written, str(path))
    except RuntimeError as cause:
        raise OSError(itk_reason(cause)) from cause


def read_transform(*paths: Path) -> Transform:
    """Read a transform: the one reader of transforms from files.

    Args:
        paths: a file, the files of a chain (the first one is applied to points of the fixed image
            first), or a folder, see :func:`~lightning_reg.io.transform_files.files_in`. Files: an
            ITK transform (``.h5``, ``.tfm``, ``.mat``, ``.txt``) or a displacement field
            (``.nii.gz``, ``.mha``, ``.nrrd``; LPS mm), or NiftyReg's deformation or displacement
            field.

    Raises:
        DataError: there is no such file, it cannot be read, its kind is not supported, or it is a
            part of a chain alone.
    """
    if len(paths) == 1 and paths[0].is_dir():
        folder, paths = paths[0], tuple(files_in(paths[0]))
        if not paths:
            raise DataError(
                f"The folder {folder} has no transform; give a result of a registration, or a file."
            )
    require_reaching(paths)
    members = [_checked(path) for path in paths]
    return members[0] if len(members) == 1 else Composition(members[::-1])


def _checked(path: Path) -> Transform:
    if not path.is_file():
        raise DataError(f"There is no transform {path}; correct the path.")
    transform = from_itk(_read_itk(path)) if path.name.endswith(_TRANSFORMS) else _read_field(path)
    for part in parts(transform):
        state = part.like
        if not bool(torch.isfinite(state).all()):
            raise DataError(
                f"{path} has NaN or infinite values; write it again, or give another transform."
            )
        if isinstance(part, Affine) and abs(float(torch.linalg.det(part.matrix[0, :3, :3]))) < 1e-9:
            raise DataError(
                f"{path} has a singular affine matrix, which maps all points onto a plane; give"
                " another transform."
            )
    return transform


class _Warnings(sitk.LoggerBase):
    """Collects ITK's warnings, which otherwise go to the terminal."""

    def __init__(self) -> None:
        super().__init__()
        self.text = ""

    def DisplayWarningText(self, text: str) -> None:
        self.text += text


def _read_itk(path: Path) -> sitk.Transform:
    """Read a file that holds one transform of 3D points."""
    with path.open("rb") as file:
        start = file.read(2000)
    if start.startswith(
        _HDF5_SIGNATURE
    ):  # ITK reports a file that is cut off by a page of text on the terminal
        end = int.from_bytes(start[(at := {0: 40, 1: 44}.get(start[8], 28)) : at + 8], "little")
        if end > path.stat().st_size:
            raise _unreadable(path, "it has been cut off")
    with _HDF5:
        warned, shown = _Warnings(), sitk.ProcessObject.GetGlobalWarningDisplay()
        others = warned.SetAsGlobalITKLogger()
        sitk.ProcessObject.SetGlobalWarningDisplay(True)
        try:
            transform = sitk.ReadTransform(str(path))
        except (
            RuntimeError,
            UnicodeDecodeError,
        ) as cause:  # ITK quotes the bytes that it cannot read
            raise _unreadable(path, _foreign(start, str(cause))) from cause
        finally:
            others.SetAsGlobalITKLogger()
            sitk.ProcessObject.SetGlobalWarningDisplay(shown)
    if "more than one transform" in warned.text:
        raise DataError(
            f"{path} holds several transforms, as of the volumes of a series; write the one to"
            " apply to a file of its own."
        )
    if transform.GetDimension() != 3:
        raise DataError(
            f"{path} is a transform of {transform.GetDimension()}D points; give one of 3D points."
        )
    return transform


def _unreadable(path: Path, why: str) -> DataError:
    return DataError(
        f"{path} cannot be read as a transform ({why}); give transform.h5 of a registration."
    )


def _foreign(start: bytes, message: str) -> str:
    """Reason for which ITK cannot read a file that begins with ``start``."""
    text = start.decode("latin-1")
    if not text.strip():
        return "it is empty"
    if re.search(r"^\(\w+ .*\)\s*$", text, re.MULTILINE):
        return f"it is a parameter file of elastix; {ITK_OF_ELASTIX}"
    if "nxforms" in text:
        return "it is an LTA file of FreeSurfer; convert it with lta_convert --outitk"
    rows = [line.split() for line in text.splitlines() if line.strip()]
    if len(rows) == 4 and all(re.fullmatch(r"[-+.\deE]+", word) for row in rows for word in row):
        return (
            "it is a matrix without a coordinate system, as of FSL or NiftyReg; convert it, as with"
            " c3d_affine_tool -oitk"
        )
    kind = re.search(r'instance of "(\w+?)_', message)
    return (
        f"it holds a {kind[1]}, which is not supported"
        if kind
        else "it is damaged, cut off, or of another kind than its name says"
    )


def _read_field(path: Path) -> Displacement:
    """Read a file of vectors: displacements in LPS mm, or what NiftyReg writes."""
    if is_nifti(path):
        require_finite(path)
        image = nib.load(path)
        unit = image.header.get_xyzt_units()[0]
        if unit in ("meter", "micron"):
            raise DataError(
                f"{path} is in the unit {unit}; whether its vectors are, too, is not said: write it"
                " in mm."
            )
        if image.header.get_intent()[2] == "NREG_TRANS":
            return _from_niftyreg(path, image)
    try:
        image = sitk.ReadImage(str(path))
    except (RuntimeError, UnicodeDecodeError) as cause:
        raise _unreadable(
            path, "it is empty" if path.stat().st_size == 0 else itk_reason(cause)
        ) from cause
    if image.GetNumberOfComponentsPerPixel() != 3 or "float" not in image.GetPixelIDTypeAsString():
        raise DataError(
            f"{path} is an image and no transform; give transform.h5 or displacement.nii.gz of a"
            " registration."
        )
    if image.GetDimension() != 3:
        raise DataError(f"{path} is a field of {image.GetDimension()} axes; give one of 3D points.")
    return _field_from_itk(sitk.Cast(image, sitk.sitkVectorFloat64))


def _from_niftyreg(path: Path, image: nib.Nifti1Image) -> Displacement:
    """A field of NiftyReg, RAS mm: positions in the moving image (``reg_transform -def``), or
    displacements (``-disp``).
    """
    kind, vectors = float(image.header["intent_p1"]), np.asarray(image.dataobj, dtype=np.float64)
    if kind not in (0, 1) or vectors.ndim != 5 or vectors.shape[3:] != (1, 3):
        raise DataError(
            f"{path} is a spline or velocity of NiftyReg; write a deformation field (reg_transform"
            " -def), and give that."
        )
    grid = Grid(vectors.shape[:3], image.affine)
    values = torch.from_numpy(np.moveaxis(vectors[..., 0, :], -1, 0)).unsqueeze(0).contiguous()
    if kind == 0:
        values = values - grid.to_world(grid.points(dtype=torch.float64))
    return Displacement(transform_vectors(np.linalg.inv(grid.affine), values), grid)


def write_displacement(path: Path, transform: Transform, grid: Grid) -> None:
    """Write a transform as a displacement field in NIfTI: five axes, intent *vector*, LPS mm in 32
    bits, as ITK, ANTs and Slicer read it.

    Args:
        grid: grid of the field.
    """
    image = nib.Nifti1Image(np.broadcast_to(np.float32(0), (*grid.shape, 1, 3)), grid.affine[0])
    image.header.set_intent("vector")
    image.header.set_slope_inter(1, 0)
    _place(image)
    with ImageOpener(path, "wb") as file:
        image.header.write_to(file)
        for component in _lps_components(transform, grid):
            file.write(component.T.data)


def _lps_components(transform: Transform, grid: Grid) -> Iterator[NDArray[np.float32]]:
    """Displacement along L, P and S at every voxel, mm, ``(I, J, K)`` each, in file order; one at a
    time for a large image.
    """
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


def write_image(path: Path, tensor: Tensor, grid: Grid) -> None:
    """Write intensities, a mask or labels ``(1, 1, I, J, K)``; the ending sets the format
    (``.nii.gz``, ``.mha``, ``.nrrd``).
    """
    values = tensor[0, 0].detach().cpu().contiguous().numpy()
    if values.dtype.kind in "biu":  # the smallest type that every reader supports
        low, high = int(values.min()), int(values.max())
        values = values.astype(
            next(k for k in (np.uint8, np.int16, np.int32, np.float64) if _holds(k, low, high))
        )
    if path.name.endswith((".nii", ".nii.gz")):
        _write_nifti(path, nib.Nifti1Image(values, grid.affine[0]))
        return
    image = sitk.GetImageFromArray(values.transpose())
    origin, spacing, direction = _geometry(grid)
    image.SetOrigin(origin)
    image.SetSpacing(spacing)
    image.SetDirection(direction)
    try:
        sitk.WriteImage(image, str(path), useCompression=True)
    except RuntimeError as cause:
        raise OSError(itk_reason(cause)) from cause


def _holds(kind: type, low: int, high: int) -> bool:
    return kind is np.float64 or (np.iinfo(kind).min <= low and high <= np.iinfo(kind).max)


def _write_nifti(path: Path, image: nib.Nifti1Image) -> None:
    _place(image)
    nib.save(image, path)


def _place(image: nib.Nifti1Image) -> None:
    """Set both the qform and the sform of the header, in mm."""
    image.set_qform(image.affine, code=1)
    image.set_sform(image.affine, code=1)
    image.header.set_xyzt_units("mm")
