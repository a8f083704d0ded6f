"""Scans: one subject at one time point, as a TorchIO subject and as a class of this project."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torchio as tio
from torch import Tensor

from lightning_reg.io.images import Source, read_image
from lightning_reg.io.points import PointFile, as_points, read_points
from lightning_reg.registry import DataError
from lightning_reg.spatial import Displacement, Grid, Image, Pair

PARTS = ("mask", "labels", "landmarks")
LARGEST = 100.0
"""Voxel size, mm, above which the header is assumed to be in another unit."""
PRECISION = 1e-3
"""Largest rounding error of 32 bits, as a fraction of the image's range."""


@dataclass(frozen=True)
class Scan:
    """An image with optional mask and labels on its grid, and landmarks ``(N, 3)`` in RAS mm, with
    their labels if they have any.

    The scans of one ``group`` (the time points of a subject) belong together; ``None``: no group.
    """

    name: str
    image: Image
    mask: Image | None = None
    labels: Image | None = None
    landmarks: Tensor | None = None
    group: str | None = None
    landmark_labels: tuple[str, ...] = ()


def read_subject(
    name: str, image: Source, mask: Source | None = None, labels: Source | None = None
) -> tio.Subject:
    """Load images into a checked ``tio.Subject`` with ``image`` and, if given, ``mask`` and
    ``labels``.

    Args:
        name: name in messages and tables.
        image, mask, labels: see :func:`~lightning_reg.io.images.read_image`.

    Raises:
        DataError: a file is missing, is not a 3D image, has NaN, infinite or constant values, or is
            on another grid.
    """
    parts: dict[str, Any] = {"image": read_image(image)}
    for key, source in (("mask", mask), ("labels", labels)):
        if source is not None:
            parts[key] = read_image(source, tio.LabelMap)
    subject = tio.Subject(name=name, **parts)
    check_subject(subject)
    return subject


def check_subject(subject: tio.Subject) -> None:
    """Refuse a subject that would cause an error later.

    Raises:
        DataError: all of :func:`subject_problems`.
    """
    problems = subject_problems(subject)
    if problems:
        raise DataError("\n".join(problems))


def subject_problems(subject: tio.Subject) -> list[str]:
    """Return the problems of a subject's images, one sentence each with the file name.

    Problems are: more than one channel, a single line, NaN or infinite values, a constant image, a
    range too large for 32 bits, an unusable header; mask or labels on another grid, empty, or not
    whole numbers.
    """
    image = subject["image"]
    where = image.path or f"the image of {subject['name']}"
    problems = []
    if image.num_channels != 1:
        problems.append(
            f"{where} has {image.num_channels} channels or time points where a single 3D volume is"
            " meant; split it first."
        )
    if sum(n > 1 for n in image.spatial_shape) < 2:
        problems.append(
            f"{where} is a single line ({' x '.join(map(str, image.spatial_shape))} voxels); give"
            " an image of two or three dimensions."
        )
    data = image.data.float()
    bad = int((~torch.isfinite(data)).sum())
    if bad:
        problems.append(f"{where} has {bad} NaN or infinite values; replace them first.")
    elif float(image.data.min()) == float(image.data.max()):
        problems.append(
            f"{where} is constant (every voxel is {float(data.min()):g}); give another image."
        )
    elif _rounded(image.data) > PRECISION:
        problems.append(
            f"{where} has values from {float(image.data.min()):g} to {float(image.data.max()):g},"
            " whose differences are lost in 32 bits; subtract the smallest value first."
        )
    try:
        grid = Grid(image.spatial_shape, image.affine)
    except ValueError as cause:
        return [*problems, f"{where}: {cause}."]
    if float(grid.spacing.max()) > LARGEST:
        problems.append(
            f"{where} has voxels of {float(grid.spacing.max()):g} mm; its header is in another"
            " unit: correct it."
        )
    for key in ("mask", "labels"):
        if key in subject:
            problems += _label_problems(
                subject[key], f"the {key} of {subject['name']}", grid, str(where)
            )
    return problems


def _rounded(data: Tensor) -> float:
    """Return the largest rounding error in 32 bits, as a fraction of the range."""
    if data.dtype not in (torch.float64, torch.int64, torch.int32):
        return 0.0
    exact = data.double()
    return float((exact - data.float().double()).abs().max() / (exact.max() - exact.min()))


def _label_problems(labels: tio.LabelMap, name: str, grid: Grid, where: str) -> list[str]:
    """Return the problems of a mask or label map of the image ``where`` on ``grid``."""
    there = labels.path or name
    if labels.num_channels != 1:
        return [
            f"{there} has {labels.num_channels} channels where one label map is meant; split it"
            " first."
        ]
    problems = []
    try:
        other = Grid(labels.spatial_shape, labels.affine)
        if not other.matches(grid, tolerance=0.05):
            problems.append(
                f"{there} lies on another grid than its image {where} ({other} against {grid});"
                " resample it."
            )
    except ValueError as cause:
        problems.append(f"{there}: {cause}.")
    values = labels.data.float()
    if not bool(torch.isfinite(values).all()):
        problems.append(f"{there} has NaN or infinite values; give whole numbers.")
    elif float(values.min()) < -0.5:
        problems.append(
            f"{there} has negative values (as {float(values.min()):g}); give 0 for the background"
            " and positive whole numbers."
        )
    elif float(values.max()) >= 2**31:
        problems.append(
            f"{there} has values of up to {float(values.max()):g}; give numbers below 2147483648."
        )
    elif not bool((values.abs() > 0.5).any()):
        problems.append(f"{there} is empty (0 everywhere); give another one, or none.")
    elif float((values - values.round()).abs().max()) > 0.01:
        problems.append(
            f"{there} has values that are no whole numbers (as"
            f" {float(values[values != values.round()][0]):g}); give labels."
        )
    return problems


def subject_from_scan(scan: Scan) -> tio.Subject:
    """Convert a scan to a ``tio.Subject`` with the same tensors, for TorchIO transforms."""
    affine = scan.image.grid.affine[0]
    parts: dict[str, Any] = {"image": tio.ScalarImage(tensor=scan.image.tensor[0], affine=affine)}
    for key, image in (("mask", scan.mask), ("labels", scan.labels)):
        if image is not None:
            parts[key] = tio.LabelMap(tensor=image.tensor[0], affine=affine)
    if scan.landmarks is not None:
        parts |= {"landmarks": scan.landmarks, "landmark_labels": scan.landmark_labels}
    if scan.group is not None:
        parts["group"] = scan.group
    return tio.Subject(name=scan.name, **parts)


def scan_from_subject(subject: tio.Subject, padding: float = 0.0) -> Scan:
    """Convert a subject to a scan.

    Args:
        padding: the intensity outside the image.

    Raises:
        DataError: the header is unusable.
    """
    grid = grid_of(subject["image"], subject["name"])
    image = Image(subject["image"].data.float().unsqueeze(0), grid, padding)
    parts: dict[str, Any] = {
        key: Image(_whole(subject[key].data).unsqueeze(0), grid, discrete=True)
        for key in ("mask", "labels")
        if key in subject
    }
    others = ("landmarks", "landmark_labels", "group")
    return Scan(subject["name"], image, **parts, **{k: subject[k] for k in others if k in subject})


def _whole(values: Tensor) -> Tensor:
    """Round labels to whole numbers, in 16 bits if they fit."""
    rounded = values.double().round()
    return rounded.to(torch.int16 if float(rounded.abs().max()) < 2**15 else torch.int32)


def grid_of(image: tio.Image, name: str = "an image") -> Grid:
    """Return the grid of an image.

    Raises:
        DataError: the header is unusable; the message names the file, or ``name``.
    """
    try:
        return Grid(image.spatial_shape, image.affine)
    except ValueError as cause:
        raise DataError(f"{image.path or name}: {cause}.") from cause


def add_landmarks(subject: tio.Subject, points: PointFile, cropped: bool = False) -> None:
    """Add ``landmarks`` in RAS mm, and their labels, to a subject.

    Raises:
        DataError: landmarks lie outside an image that has not been ``cropped``.
    """
    grid = grid_of(subject["image"], subject["name"])
    subject["landmarks"], subject["landmark_labels"] = points.world(grid), points.labels
    if not cropped:
        check_landmarks(subject["name"], subject["landmarks"], grid)


def check_landmarks(name: str, landmarks: Tensor, grid: Grid) -> None:
    """Refuse landmarks ``(N, 3)``, RAS mm, that lie outside their image's grid (by more than half a
    voxel).

    Raises:
        DataError: names the scan, the number of such landmarks, and the usual causes.
    """
    outside = int((~grid.contains(landmarks.double().T.unsqueeze(0))).sum())
    if outside:
        raise DataError(
            f"{outside} of {landmarks.shape[0]} landmarks of {name} lie outside its image ({grid});"
            " landmarks are RAS mm: convert voxel indices or LPS coordinates first (lightning-reg"
            " check says which they are)."
        )


def pair_name(fixed: str, moving: str) -> str:
    """Return ``fixed < moving``; for two time points of a subject, the subject is given once."""
    subject, _, time_point = moving.partition(" ")
    if fixed == moving:
        return fixed
    return (
        f"{fixed} < {time_point}"
        if time_point and fixed.startswith(f"{subject} ")
        else f"{fixed} < {moving}"
    )


def require_alike(scans: Iterable[Scan]) -> None:
    """Refuse slices and volumes together.

    Raises:
        DataError: names a slice and a volume.
    """
    kinds = {min(scan.image.grid.shape) == 1: scan for scan in scans}
    if len(kinds) == 2:
        raise DataError(
            f"{kinds[True].name} is a single slice"
            f" ({' x '.join(map(str, kinds[True].image.grid.shape))} voxels), and"
            f" {kinds[False].name} a volume; give slices or volumes alone."
        )


def make_pair(
    fixed: Scan, moving: Scan, truth: Displacement | None = None, overlapping: bool = True
) -> Pair:
    """Make a pair of two scans. Landmarks correspond by their labels if both scans have the same
    ones, else by their order.

    Args:
        overlapping: refuse images that do not overlap; ``False`` for a pair that is not aligned
            yet.

    Raises:
        DataError: the images do not overlap in the world, one is a slice and the other a volume,
            the scans have different numbers of landmarks, or labels and order of the landmarks
            contradict each other.
    """
    name = pair_name(fixed.name, moving.name)
    require_alike((fixed, moving))
    if overlapping and fixed.image.grid.overlap(moving.image.grid) == 0:
        raise DataError(
            f"{fixed.name} and {moving.name} do not overlap in the world ({fixed.image.grid}"
            f" against {moving.image.grid}); correct the origins in their headers, or align them"
            " first; `start='centers'` does it."
        )
    here, there = _corresponding(fixed, moving)
    return Pair(
        fixed.image, moving.image, fixed.mask, moving.mask, fixed.labels, moving.labels,
        here, there, truth, (name,),
    )  # fmt: skip


def _corresponding(
    fixed: Scan, moving: Scan
) -> tuple[tuple[Tensor], tuple[Tensor]] | tuple[None, None]:
    """Return the landmarks of both scans, the moving ones in the order of the fixed ones: by their
    labels if both have the same, otherwise as they are.
    """
    here, there = fixed.landmarks, moving.landmarks
    if here is None or there is None:
        return None, None
    if len(here) != len(there):
        raise DataError(
            f"{fixed.name} has {len(here)} landmarks and {moving.name} has {len(there)}; they must"
            " correspond one to one."
        )
    ours, theirs = fixed.landmark_labels, moving.landmark_labels
    if ours != theirs and set(ours) == set(theirs):
        return (here,), (there[[theirs.index(label) for label in ours]],)
    moved = next(
        (label for label in ours if label in theirs and ours.index(label) != theirs.index(label)),
        None,
    )
    if moved is not None:
        raise DataError(
            f"The landmark {moved} is number {ours.index(moved) + 1} of {fixed.name} and number"
            f" {theirs.index(moved) + 1} of {moving.name}, and other labels are in one of them"
            " only. If points correspond by their order, remove the labels; else label both alike."
        )
    return (here,), (there,)


def read_pair(files: Mapping[str, Any]) -> tuple[tio.Subject, tio.Subject]:
    """Read and check the fixed and the moving subject, with ``landmarks`` if given.

    Args:
        files: ``fixed`` and ``moving``; optionally ``fixed_mask``, ``fixed_labels``,
            ``fixed_landmarks`` and the same of the moving side. For images see
            :func:`~lightning_reg.io.images.read_image`; landmarks are a file (see
            :mod:`lightning_reg.io.points`) or ``(N, 3)`` RAS mm.

    Raises:
        DataError: an image or the landmarks are invalid.
    """
    fixed, moving = (_read_side(files, side) for side in ("fixed", "moving"))
    return fixed, moving


def with_parts(sources: Mapping[str, Any]) -> dict[str, Any]:
    """Sources of :func:`read_pair`, where a ``tio.Subject`` can stand for an image and its parts.

    A subject has one image of intensities, of any name, and may have ``mask``, ``labels`` and
    ``landmarks`` ``(N, 3)`` RAS mm. Parts that are given by themselves have priority; sources that
    are ``None`` are left out.

    Raises:
        DataError: a subject has no image of intensities, or several, or label maps of other names.
    """
    given: dict[str, Any] = {}
    for side in ("fixed", "moving"):
        subject = sources.get(side)
        if isinstance(subject, tio.Subject):
            images = subject.get_images_dict(intensity_only=False)
            scalars = [
                name for name, image in images.items() if not isinstance(image, tio.LabelMap)
            ]
            others = [name for name in images if name not in (*scalars, *PARTS)]
            if len(scalars) != 1 or others:
                raise DataError(
                    f"The {side} subject has {', '.join(images)}; "
                    "give one with one ScalarImage and, if any, the label maps mask and labels."
                )
            given |= {side: images[scalars[0]]} | {
                f"{side}_{part}": subject[part] for part in PARTS if part in subject
            }
    return given | {
        key: source
        for key, source in sources.items()
        if source is not None and not isinstance(source, tio.Subject)
    }


def _read_side(files: Mapping[str, Any], side: str) -> tio.Subject:
    images = (files.get(side + part) for part in ("", "_mask", "_labels"))
    subject, landmarks = read_subject(side, *images), files.get(f"{side}_landmarks")
    if isinstance(landmarks, (str, Path)):
        add_landmarks(subject, read_points(Path(landmarks).expanduser()))
    elif landmarks is not None:
        points = as_points(landmarks, f"The {subject['name']} landmarks")
        add_landmarks(subject, PointFile(points, "RAS"))
    return subject


def original(subject: tio.Subject) -> Scan:
    """Convert a subject to a scan without preprocessing, padded by the image's minimum."""
    return scan_from_subject(subject, padding=float(subject["image"].data.float().min()))
