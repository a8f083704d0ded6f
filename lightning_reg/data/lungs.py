"""Lung segmentations of CT scans. The built-in one needs no trained model: large dark regions
inside the body, without airways.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np
import torch
import torch.nn.functional as F
import torchio as tio
from scipy import ndimage
from torch import Tensor

from lightning_reg.registry import DataError, Described, blaming, build

THRESHOLD = -250.0
AIR = -950.0
"""Largest median of a region of air, HU; the median of lungs, even with emphysema, is above."""
WORKING = 2.5
"""Voxel size, mm, at which shapes are analysed; the border is found at full resolution."""


def shows_lungs(image: tio.ScalarImage) -> bool:
    """Whether an image is CT in HU and at least a tenth of it has the values of lungs."""
    values = image.data[0, ::2, ::2, ::2].float()
    return (
        float(values.min()) < AIR
        and float(((values > AIR) & (values < -500)).float().mean()) >= 0.1
    )


class LungSegmentation(Described, ABC):
    """Lung masks of CT scans, registered under ``lightning_reg.lung_segmentations``.

    Attributes:
        lungs_alone: whether the mask contains only lungs, so that images may be cropped to it.
    """

    lungs_alone: bool = True

    @abstractmethod
    def __call__(self, image: tio.ScalarImage, name: str) -> Tensor:
        """Segment the lungs: ``(I, J, K)`` bool.

        Args:
            image: CT in HU, one channel, any orientation.
            name: name of the image in messages.

        Raises:
            DataError: there are no lungs in the image.
        """


class SegmentedLungs(LungSegmentation):
    """Lungs by :func:`lung_mask`."""

    def __call__(self, image: tio.ScalarImage, name: str) -> Tensor:
        return lung_mask(image, name)


class ThresholdLungs(LungSegmentation):
    """Every voxel below -250 HU, including the air around the body (Eppenhof et al., 2019)."""

    lungs_alone = False

    def __call__(self, image: tio.ScalarImage, name: str) -> Tensor:
        return image.data[0] < THRESHOLD


def segmented(method: str, image: tio.ScalarImage, name: str) -> Tensor:
    """Segment the lungs by a registered method and check the result: ``(I, J, K)`` bool.

    Raises:
        ComponentError: there is no such method, or it failed.
        DataError: its mask is not of the image's size.
    """
    segmentation = build("lung_segmentations", method, LungSegmentation)
    with blaming(segmentation, f"segmenting {name}"):
        mask = segmentation(image, name)
    if not isinstance(mask, Tensor) or tuple(mask.shape) != tuple(image.spatial_shape):
        came = tuple(mask.shape) if isinstance(mask, Tensor) else type(mask).__name__
        raise DataError(
            f"The lung segmentation '{method}' returned {came} for {name}, whose size is"
            f" {tuple(image.spatial_shape)}."
        )
    return mask > 0


def lung_mask(image: tio.ScalarImage, name: str, threshold: float = THRESHOLD) -> Tensor:
    """Segment the lungs with their vessels, without trachea and main bronchi.

    Air that reaches the sides of the field of view is outside the body and is removed. The airways
    are removed by region growing from the trachea at the top, as long as the region stays small.
    The largest remaining component is kept, and a second one at the same height. Holes (vessels,
    nodules) are closed.

    Args:
        image: CT in HU, one channel, any orientation.
        name: name of the image in messages.
        threshold: upper bound of lung values, HU (Eppenhof et al., SPIE Medical Imaging 2019,
            Section 2.4: -250).

    Returns:
        ``(I, J, K)`` bool.

    Raises:
        DataError: there are no lungs in the image.
    """
    values = image.data[0].float()
    stride = [max(1, round(WORKING / s)) for s in image.spacing]
    coarse = F.avg_pool3d(values[None, None], stride, ceil_mode=True, count_include_pad=False)[
        0, 0
    ].numpy()
    spacing = np.array(image.spacing) * stride
    vertical = int(np.abs(image.affine[2, :3]).argmax())
    top_first = image.affine[2, vertical] < 0
    dark = _inside_body(coarse, coarse < threshold, vertical)
    airways = _airways(coarse, dark, spacing, vertical, top_first)
    kept = _lungs(ndimage.binary_opening(dark & ~airways), spacing, vertical)
    if kept is None:
        raise DataError(
            f"No lungs are found in {name} (values from {float(values.min()):g} to"
            f" {float(values.max()):g}); is it a chest CT in HU? Give a lung mask, or leave the"
            " lungs out."
        )
    solid = np.zeros_like(dark)
    for part in kept:
        solid |= _closed(part, spacing) & ~airways
    mask = _to_full(torch.from_numpy(solid), torch.from_numpy(airways), values < threshold, stride)
    if not bool(mask.any()):
        raise DataError(f"No lungs are found in {name}; give a lung mask, or leave the lungs out.")
    return mask


def _inside_body(values: np.ndarray, dark: np.ndarray, vertical: int) -> np.ndarray:
    """Remove air that reaches one of the four sides, but lungs that the field of view cuts."""
    labels, _ = ndimage.label(dark)
    reaching: set[int] = set()
    for axis in range(3):
        if axis != vertical:
            reaching |= set(np.unique(labels.take([0, -1], axis=axis)).tolist())
    outside = [number for number in reaching - {0} if np.median(values[labels == number]) < AIR]
    return dark & ~np.isin(labels, outside)


def _airways(
    values: np.ndarray, dark: np.ndarray, spacing: np.ndarray, vertical: int, top_first: bool
) -> np.ndarray:
    """Segment trachea and main bronchi: region growing, up to 120 ml, from the first small central
    air region in a slice from the top.
    """
    slices, air = np.moveaxis(values, vertical, 0), np.moveaxis(dark, vertical, 0)
    area = float(np.delete(spacing, vertical).prod())
    order = range(len(air)) if top_first else range(len(air) - 1, -1, -1)
    nothing = np.zeros_like(dark)
    with_air = [k for k in order if air[k].any()]
    seed = None
    for k in with_air[: len(with_air) // 2]:
        labels, count = ndimage.label(air[k])
        for number in range(1, count + 1):
            region = labels == number
            size, deepest = region.sum() * area, float(slices[k][region].min())
            middle = np.abs(
                np.array(ndimage.center_of_mass(region)) / np.array(region.shape) - 0.5
            ).min()
            if 40 <= size <= 900 and deepest < -800 and middle < 0.12:
                where = np.argwhere(region)[int(slices[k][region].argmin())]
                seed = (k, *where)
                break
        if seed is not None:
            break
    if seed is None:
        return nothing
    volume, grown = float(spacing.prod()), np.zeros_like(air)
    for limit in range(-975, -799, 25):
        labels, _ = ndimage.label(air & (slices < limit))
        if labels[seed] == 0:
            continue
        region = labels == labels[seed]
        if region.sum() * volume > 120_000:
            break
        grown = region
    if not grown.any():
        return nothing
    return np.moveaxis(ndimage.binary_dilation(grown, iterations=1, mask=air), 0, vertical)


def _lungs(dark: np.ndarray, spacing: np.ndarray, vertical: int) -> list[np.ndarray] | None:
    """The largest component, and the second one if it is of similar size and height."""
    labels, count = ndimage.label(dark)
    if count == 0:
        return None
    sizes = np.bincount(labels.ravel())[1:]
    order = np.argsort(sizes)[::-1] + 1
    if sizes.max() * spacing.prod() < 100_000:
        return None

    def heights(number: int) -> tuple[int, int]:
        part = np.flatnonzero(
            (labels == number).any(axis=tuple(a for a in range(3) if a != vertical))
        )
        return int(part[0]), int(part[-1])

    kept = [labels == order[0]]
    if count > 1 and sizes[order[1] - 1] >= 0.2 * sizes.max():
        (low, high), (other_low, other_high) = heights(order[0]), heights(order[1])
        shared = min(high, other_high) - max(low, other_low)
        if shared > 0.5 * min(high - low, other_high - other_low):
            kept.append(labels == order[1])
    return kept


def _closed(part: np.ndarray, spacing: np.ndarray, radius: float = 6.0) -> np.ndarray:
    """Close vessels and other holes: closing by ``radius`` mm, then filling of the holes."""
    reach = np.maximum(np.round(radius / spacing).astype(int), 1)
    padded = np.pad(part, [(r, r) for r in reach])
    inner = tuple(slice(r, -r) for r in reach)
    far = ndimage.distance_transform_edt(~padded, sampling=spacing) <= radius
    near = ndimage.distance_transform_edt(far, sampling=spacing) > radius
    return ndimage.binary_fill_holes(near[inner] | part)


def _to_full(solid: Tensor, airways: Tensor, dark: Tensor, stride: list[int]) -> Tensor:
    """Full resolution: dark voxels near ``solid`` and all inside it, none near the airways."""
    i, j, k = dark.shape

    def fine(values: Tensor) -> Tensor:
        for axis, step in enumerate(stride):
            values = values.repeat_interleave(step, dim=2 + axis)
        return values[0, 0, :i, :j, :k] > 0.5

    def grown(values: Tensor) -> Tensor:
        return F.max_pool3d(values, 3, stride=1, padding=1)

    inside, tubes = solid.float()[None, None], airways.float()[None, None]
    return ((fine(grown(inside)) & dark) | fine(1 - grown(1 - inside))) & ~fine(
        tubes if max(stride) == 1 else grown(tubes)
    )
