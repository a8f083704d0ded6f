"""Preprocessing of intensities and grids by TorchIO; its settings are stored with a model."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

import numpy as np
import torch
import torchio as tio

from lightning_reg.data.lungs import lung_mask
from lightning_reg.data.scans import Scan, grid_of, scan_from_subject
from lightning_reg.functional import bounding_box, ncc
from lightning_reg.io.images import LARGEST
from lightning_reg.registry import ArgumentError, Checked, DataError, Length, Range, within_memory
from lightning_reg.spatial import Grid, Image, mapped

Region = Literal["lungs", "mask"]
Millimetres = Annotated[float, Range(above=0, of="mm")]
Spacing = Millimetres | Annotated[Sequence[Millimetres], Length(3)]
Shape = Annotated[Sequence[Annotated[int, Range(1, of="voxels")]], Length(3)]


@dataclass(frozen=True)
class Geometry(Checked):
    """Changes of the grid, applied in this order to image, mask and labels; landmarks keep their
    world coordinates.

    Args:
        canonical: reorder and flip the voxel axes to the nearest of right, anterior, superior.
        crop: crop to the ``lungs``, which are segmented in the CT even if there is a mask, or to
            the ``mask``; default: the field of view is kept.
        margin: margin around the lungs or the mask, mm.
        spacing: voxel size after resampling, mm (one number or three); default: it is kept. One
            slice keeps its thickness.
        shape: extents after resizing, voxels; default: they are kept.
    """

    canonical: bool = False
    crop: Region | None = None
    margin: float = 5.0
    spacing: Spacing | None = None
    shape: Shape | None = None

    def after(self, done: Geometry) -> Geometry:
        """Combine with the earlier geometry ``done``, used where this one has no value."""
        resized = self.spacing is not None or self.shape is not None
        return Geometry(
            self.canonical or done.canonical,
            self.crop or done.crop,
            done.margin if done.crop else self.margin,
            self.spacing if resized else done.spacing,
            self.shape if resized else done.shape,
        )

    def __call__(self, subject: tio.Subject, voxels: int | None = None) -> tio.Subject:
        """Bring a subject to its new grid. Images are smoothed before they are sampled on a coarser
        grid.

        Args:
            voxels: approximate largest number of voxels; if the result has more, its finest axes
                are resampled to a coarser spacing.

        Raises:
            DataError: there is no mask or there are no lungs to crop to, or the memory does not
                suffice for the new grid.
        """
        remedy = "give a larger spacing, a smaller shape, or a region to crop to (preprocessing)"
        with within_memory(f"for the new grid of {subject['name']}; {remedy}"):
            if self.canonical:
                subject = tio.ToCanonical()(subject)
            if self.crop is not None:
                subject = self._cropped(subject)
            if self.spacing is not None:
                image = subject["image"]
                size = np.broadcast_to(np.array(self.spacing, dtype=float), 3)
                spacing = tuple(
                    np.where(np.array(image.spatial_shape) > 1, size, image.spacing).tolist()
                )
                if np.prod(np.array(image.spatial_shape) * image.spacing / spacing) > LARGEST:
                    raise MemoryError
                subject = _resampled(subject, spacing)
            if self.shape is not None and tuple(self.shape) != tuple(
                subject["image"].spatial_shape
            ):
                grid = grid_of(subject["image"]).resized(self.shape)
                subject = _resampled(subject, (grid.shape, grid.affine[0]))
            if voxels is not None and math.prod(subject["image"].spatial_shape) > voxels:
                subject = _resampled(subject, coarser(grid_of(subject["image"]), voxels))
        return subject

    def _cropped(self, subject: tio.Subject) -> tio.Subject:
        image = subject["image"]
        if "mask" not in subject and self.crop == "mask":
            raise DataError(
                f"{subject['name']} has no mask to crop to; give one, or leave the crop out (crop:"
                " null)."
            )
        mask = (
            lung_mask(image, subject["name"])
            if self.crop == "lungs"
            else subject["mask"].data[0] > 0
        )
        if not bool(mask.any()):
            raise DataError(
                f"The mask of {subject['name']} is empty (0 everywhere); give another one, or leave"
                " the crop out (crop: null)."
            )
        start, shape = bounding_box(
            mask, [round(self.margin / spacing) for spacing in image.spacing]
        )
        bounds = [
            (first, extent - first - kept)
            for first, kept, extent in zip(start, shape, mask.shape, strict=True)
        ]
        cropped = tio.Crop(tuple(itertools.chain(*bounds)))(subject)
        # TorchIO drops entries that are not images
        cropped.update({key: value for key, value in subject.items() if key not in cropped})
        return cropped


def _resampled(subject: tio.Subject, target: Any) -> tio.Subject:
    """Resample to a voxel size, or to a shape and an affine; smoothed where voxels become larger.

    TorchIO smooths images of four voxels or more along every axis: one slice is repeated.
    """
    flat = [n == 1 for n in subject["image"].spatial_shape]
    if not any(flat):
        return tio.Resample(target, antialias=True)(subject)
    behind = tuple(width for one in flat for width in (0, 3 * one))
    if isinstance(target[0], tuple):
        shape, affine = target
        target = (tuple(4 if one else n for n, one in zip(shape, flat, strict=True)), affine)
    wide = tio.Pad(behind, padding_mode="edge")(subject)
    slices = tio.Crop(behind)(tio.Resample(target, antialias=True)(wide))
    slices.update({key: value for key, value in subject.items() if key not in slices})
    return slices


def coarser(grid: Grid, voxels: int) -> tuple[float, float, float]:
    """Voxel size, mm, at which a grid has about ``voxels`` voxels; the finest axes are enlarged."""
    size = grid.spacing[0] * grid.shape
    low, high = float(grid.spacing.min()), float(size.max())
    for _ in range(60):
        edge = (low + high) / 2
        many = np.prod(size / np.maximum(grid.spacing[0], edge)) > voxels
        low, high = (edge, high) if many else (low, edge)
    a, b, c = np.maximum(grid.spacing[0], high).tolist()
    return a, b, c


@dataclass(frozen=True)
class Preprocessing(Checked):
    """Preprocessing steps, in this order. The resulting intensities are in [0, 1], and 0 outside
    the image.

    Args:
        canonical, crop, margin, spacing, shape: see :class:`Geometry`.
        center: move the world's origin to the centre of each image, for scans whose headers do not
            align them; ``auto``: :class:`~lightning_reg.data.datamodule.RegistrationData` decides
            this from the training scans.
        window: intensities mapped to 0 and 1, with clipping (CT: HU); ``null``: ``percentiles`` are
            mapped instead.
        percentiles: intensity percentiles of each image that are mapped to 0 and 1.
    """

    canonical: bool = True
    center: bool | Literal["auto"] = False
    crop: Region | None = None
    margin: float = 5.0
    spacing: Spacing | None = None
    shape: Shape | None = None
    window: Annotated[Sequence[float], Length(2)] | None = None
    percentiles: Annotated[Sequence[Annotated[float, Range(0, 100)]], Length(2)] = (0.5, 99.5)

    def __post_init__(self) -> None:
        for name, values in (("window", self.window), ("percentiles", self.percentiles)):
            if values is not None and values[0] >= values[1]:
                raise ArgumentError(f"{name} is {values}; give two numbers, the smaller one first")

    @property
    def geometry(self) -> Geometry:
        return Geometry(self.canonical, self.crop, self.margin, self.spacing, self.shape)

    def following(self, done: Geometry) -> Preprocessing:
        """Return the complete preprocessing from the provider's images: ``done``, then these steps.

        Raises:
            DataError: the two cannot be combined, because images to be cropped here have already
                been cropped differently or resampled.
        """
        if (
            self.crop is not None
            and self.crop != done.crop
            and (done.crop, done.spacing, done.shape) != (None, None, None)
        ):
            how = "cropped differently" if done.crop else "resampled"
            text = f"`crop` is {self.crop}, and the data have been {how} when they were prepared"
            raise DataError(
                f"{text}; prepare them again with `crop={self.crop!r}`, and leave the crop out of"
                " the training."
            )
        return replace(self, **vars(self.geometry.after(done)))

    def remaining(self, done: Geometry) -> Preprocessing:
        """Return the steps that remain for images to which ``done`` has been applied."""
        crop = None if done.crop is not None else self.crop
        same_size = (
            crop is None
            and done.shape is not None
            and self.shape is not None
            and list(done.shape) == list(self.shape)
        )
        same_spacing = crop is None and self.spacing == done.spacing
        return replace(
            self,
            crop=crop,
            spacing=None if same_size or same_spacing else self.spacing,
            shape=None if same_size else self.shape,
        )

    def intensities(self) -> tio.Transform:
        if self.window is not None:
            low, high = self.window
            rescale = tio.RescaleIntensity(out_min_max=(0, 1), in_min_max=(low, high))
        else:
            low, high = self.percentiles
            rescale = tio.RescaleIntensity(out_min_max=(0, 1), percentiles=(low, high))
        return tio.Compose([rescale, tio.Clamp(0, 1)])

    def __call__(self, subject: tio.Subject, voxels: int | None = None) -> Scan:
        """Preprocess a raw subject.

        Args:
            voxels: approximate largest number of voxels, see :class:`Geometry`.

        Raises:
            DataError: there is no mask or there are no lungs to crop to.
        """
        scan = scan_from_subject(self.intensities()(self.geometry(subject, voxels)))
        return centered(scan) if self.center is True else scan


def alignments(fixed: Scan, moving: Scan) -> tuple[float, float]:
    """Correlation of two scans by their headers (-1: no overlap), and with aligned centres."""

    def alike(a: Scan, b: Scan) -> float:
        return float(ncc(a.image.tensor, b.image.resampled(a.image.grid).tensor))

    apart = fixed.image.grid.overlap(moving.image.grid) == 0
    return -1.0 if apart else alike(fixed, moving), alike(centered(fixed), centered(moving))


CLEARLY = 0.02
"""Difference of mean correlations from which aligned centres count as better than headers."""


def centered(scan: Scan) -> Scan:
    """Move the world's origin to the centre of a scan's grid."""
    grid = scan.image.grid
    affine = grid.affine.copy()
    affine[:, :3, 3] -= grid.center
    there = Grid(grid.shape, affine)

    landmarks = (
        None if scan.landmarks is None else (scan.landmarks - torch.from_numpy(grid.center)).float()
    )
    moved = mapped(scan, lambda image: replace(image, grid=there), Image)
    return replace(moved, landmarks=landmarks)
