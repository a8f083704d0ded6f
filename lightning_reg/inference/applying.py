"""Transforms from files, applied to images and points in files."""

from __future__ import annotations

from pathlib import Path

import torch
import torchio as tio

from lightning_reg.data.datasets.roles import has_labels
from lightning_reg.data.scans import grid_of
from lightning_reg.io.folders import refuse_file, written_file
from lightning_reg.io.images import Source, read_image, write_image
from lightning_reg.io.points import read_points, write_points
from lightning_reg.io.transform_reading import read_transform
from lightning_reg.registry import DataError
from lightning_reg.spatial import Image, Transform, resampled

ENDINGS = (".nii", ".nii.gz", ".mha", ".nrrd")


def _transform(path: Path, inverse: bool) -> Transform:
    transform = read_transform(path)
    try:
        return transform.inverse() if inverse else transform
    except ValueError as cause:
        raise DataError(
            f"{path} cannot be inverted ({cause}); apply it in its own direction."
        ) from cause


def read_to_resample(source: Source, labels: bool) -> Image:
    """Read an image that is to be resampled: as labels, or as intensities in float32 with their
    minimum outside.

    Raises:
        DataError: it cannot be read, has several channels, or NaN or infinite values.
    """
    name = str(source) if isinstance(source, (str, Path)) else "The image"
    read = read_image(source, tio.LabelMap if labels else tio.ScalarImage)
    if read.num_channels != 1:
        raise DataError(
            f"{name} has {read.num_channels} channels or time points where a single 3D volume is"
            " meant; split it first."
        )
    grid, data = grid_of(read, name), read.data.unsqueeze(0)
    bad = int((~torch.isfinite(data.float())).sum())
    if bad:
        raise DataError(
            f"{name} has {bad} NaN or infinite values, which interpolation spreads; replace them"
            " first."
        )
    if labels:
        return Image(data, grid, discrete=True)
    return Image(data.float(), grid, float(data.min()))


def apply_to_image(
    transform: Path,
    image: str,
    reference: str,
    out: Path,
    *,
    labels: bool = False,
    inverse: bool = False,
    overwrite: bool = False,
) -> str | None:
    """Resample an image through a transform; return a warning if a label map was interpolated
    linearly.

    Args:
        transform: ``transform.h5`` of a registration or its folder, another ITK transform, or a
            displacement field, from points of the fixed image to points of the moving one.
        image: image to resample, in the moving image's world (with ``inverse``: in the fixed
            image's world).
        reference: image that gives the grid of the result: the fixed image (with ``inverse`` the
            moving image).
        out: file to write; the ending of its name chooses the format.
        labels: the image is a label map: nearest neighbour interpolation, values unchanged;
            otherwise linear interpolation, float32, the image's minimum outside.
        inverse: apply the inverse: the fixed image onto the moving grid, moving points to fixed
            points.
        overwrite: replace the file.

    Raises:
        DataError: a file cannot be read or written, or the two images do not overlap under the
            transform.
    """
    if not out.name.endswith(ENDINGS):
        raise DataError(
            f"The kind of file of {out} is not known; let it end in {', '.join(ENDINGS)}."
        )
    refuse_file(out, overwrite)
    phi, moving = _transform(transform, inverse), read_to_resample(image, labels)
    grid = grid_of(read_image(reference), reference)
    inside = Image(torch.ones(1, 1, *moving.grid.shape), moving.grid, discrete=True)
    if not bool(resampled(inside, phi, grid).tensor.any()):
        raise DataError(
            f"No point of {reference} lands in {image} under {transform}, which maps points of the"
            " fixed image to the moving one; exchange the two, or pass `inverse=True`."
        )
    result = resampled(moving, phi, grid)
    with written_file(out, overwrite) as partial:
        write_image(partial, result.tensor if labels else result.tensor.float(), result.grid)
    if labels or not has_labels(moving.tensor[0, 0].numpy()):
        return None
    return (
        f"{image} looks like a label map or a mask, and was interpolated linearly, which mixes its"
        " values; if it is one, apply the transform with labels (nearest neighbour)."
    )


def apply_to_points(
    transform: Path,
    points: Path,
    out: Path,
    *,
    reference: str | None = None,
    inverse: bool = False,
    overwrite: bool = False,
) -> None:
    """Map points of the fixed image to the moving image, or back with ``inverse``.

    Args:
        points: file of points, as ``docs/apply.md`` describes them; voxel coordinates need
            ``reference``.
        out: CSV file in mm, in LPS if ``points`` are in LPS, otherwise in RAS.
        reference: image that voxel coordinates refer to.

    Raises:
        DataError: a file cannot be read or written.
    """
    if out.suffix != ".csv":
        raise DataError(f"Points are written as CSV; let {out} end in .csv.")
    refuse_file(out, overwrite)
    phi, given = _transform(transform, inverse), read_points(points)
    grid = None if reference is None else grid_of(read_image(reference), reference)
    mapped = phi.map_world(given.world(grid).T.unsqueeze(0))[0].T
    with written_file(out, overwrite) as partial:
        write_points(partial, mapped, "LPS" if given.space == "LPS" else "RAS")
