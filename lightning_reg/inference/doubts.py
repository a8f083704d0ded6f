"""Warnings about a registration, one sentence each for the user."""

from __future__ import annotations

import itertools
import math

import numpy as np
import torch
from scipy.spatial.transform import Rotation
from torch import Tensor

from lightning_reg.functional import sample
from lightning_reg.optimization import Optimized
from lightning_reg.optimization.descent import AGREEING
from lightning_reg.spatial import Grid, Image, Pair, Transform

FEW = 64
"""Number of voxels of a mask below which it does not determine a registration."""
COARSE = 16
"""Voxels per axis, approximately, on which agreement is measured."""


@torch.no_grad()
def missed(pair: Pair, transform: Transform) -> str | None:
    """Warn if less than a quarter of the fixed image (of its mask, if it has one) is mapped into
    the moving image.

    Of a moving image that is smaller, as a crop is, a quarter of its volume.
    """
    grid = pair.fixed.grid
    points = grid.scattered(2_000_000)
    volume, count = _volume(grid), points.shape[2]
    if pair.fixed_mask is not None:
        i, j, k = points[0].long()
        points = points[:, :, pair.fixed_mask.tensor[0, 0, i, j, k] > 0]
    if points.shape[2] == 0:  # the mask has only a few voxels of a large image
        return None
    volume *= points.shape[2] / count
    points = points[:, :, :: max(1, points.shape[2] // 20_000)]
    landed = transform.map_world(grid.to_world(points))
    inside = float(pair.moving.grid.contains(landed).double().mean())
    if inside >= 0.25 * min(1.0, _volume(pair.moving.grid) / volume):
        return None
    return (
        f"Only {100 * inside:.0f} % of the fixed image lands inside the moving one: do not trust"
        " this registration; try another `start`, a mask, or a fixed image cropped to what"
        " both show."
    )


def _volume(grid: Grid) -> float:
    """Volume in cubic millimetres."""
    return math.prod(grid.shape) * abs(float(np.linalg.det(grid.affine[0, :3, :3])))


def few(pair: Pair) -> str | None:
    """Warn if a mask has so few voxels that any registration fits them."""
    for side, mask in (("fixed", pair.fixed_mask), ("moving", pair.moving_mask)):
        if mask is not None and (count := int((mask.tensor > 0).sum())) < FEW:
            what = f"{count} voxel{'s'[: count > 1]}"
            return (
                f"The {side} mask has {what}, too few to determine a registration; give a mask of"
                " the organ, or none."
            )
    return None


@torch.no_grad()
def turned(pair: Pair, transform: Transform) -> str | None:
    """Warn if the images agree better after a turn or a reflection about their centres of mass.

    Compared is the correlation of the coarse images. Nothing is said of a correlation of 0.98 or
    more, nor of images that correlate by less than 0.8 in all orientations, as those of two
    modalities. Orientations are 45 degrees apart.
    """
    compared = _Coarse(pair)
    own = float(compared.correlation(transform.map_world(compared.points))[0])
    if own >= 0.98:
        return None
    turns = _turns()
    about, center = compared.points - compared.centers[0], compared.centers[1]
    chunks = torch.from_numpy(turns).split(32)
    found = torch.cat([compared.correlation(some @ about + center) for some in chunks])
    best = int(found.argmax())
    if found[best] < 0.8 or 1 - found[best] > 0.7 * (1 - own):
        return None
    how = "mirrored" if np.linalg.det(turns[best]) < 0 else "turned"
    return (
        f"The images seem to be {how} relative to each other: they correlate by {own:.2f} as they"
        f" are registered, and by {found[best]:.2f} if one of them is {how}. Do not trust this"
        " registration; correct the orientation in the header of one image."
    )


def worse(pair: Pair, start: Transform, transform: Transform) -> str | None:
    """Warn if a network made the images less alike than they were: by correlation of the coarse
    images, see :func:`turned`.
    """
    compared = _Coarse(pair)
    before, after = (
        float(compared.correlation(phi.map_world(compared.points))[0]) for phi in (start, transform)
    )
    if after > before - 0.02:
        return None
    return (
        f"The network has made the images less alike (correlation {before:.2f} before, {after:.2f}"
        " after): do not trust this registration; use a model of such images, or instance"
        " optimisation."
    )


class _Coarse:
    """A pair of images of about ``COARSE`` voxels per axis.

    Attributes:
        points: of the fixed image, inside its mask if it has one, ``(1, 3, N)`` RAS mm.
        centers: of mass of the two images, ``(1, 3, 1)`` RAS mm.
    """

    def __init__(self, pair: Pair) -> None:
        fixed, self.moving = (
            image.at_stride([max(1, n // COARSE) for n in image.grid.shape])
            for image in (pair.fixed, pair.moving)
        )
        inside = torch.ones_like(fixed.tensor)
        if pair.fixed_mask is not None:
            mask = pair.fixed_mask.resampled(fixed.grid).tensor.float()
            if int((mask > 0).sum()) >= FEW:  # not small, nor between the coarse voxels
                inside = mask
        moving = self.moving.tensor - self.moving.tensor.min()
        images = [
            Image((fixed.tensor - fixed.tensor.min()) * inside, fixed.grid),
            Image(moving, self.moving.grid),
        ]
        self.centers = [torch.from_numpy(image.center_of_mass()).view(1, 3, 1) for image in images]
        kept = inside.flatten().nonzero()[:, 0]
        kept = kept[:: max(1, len(kept) // COARSE**3)]
        points = fixed.grid.points(dtype=torch.float64).flatten(2)
        self.points = fixed.grid.to_world(points[:, :, kept])
        self.values = fixed.tensor.flatten()[kept]

    def correlation(self, landed: Tensor) -> Tensor:
        """Correlation ``(K,)`` of the images, for places ``(K, 3, N)`` of the fixed points."""
        points = self.moving.grid.to_voxel(landed.transpose(0, 1).flatten(1).unsqueeze(0))
        values = sample(
            self.moving.tensor, points.float().view(1, 3, -1, 1, 1), "linear", self.moving.padding
        ).view(len(landed), -1)
        ours, theirs = (
            v.double() - v.double().mean(-1, keepdim=True) for v in (self.values, values)
        )
        return (ours * theirs).sum(-1) / (ours.norm() * theirs.norm(dim=-1)).clamp(min=1e-12)


def _turns() -> np.ndarray:
    """Rotations in steps of 45 degrees but the identity, and reflections of all, ``(K, 3, 3)``."""
    angles = 45.0 * np.array(list(itertools.product(range(8), range(-2, 3), range(8))))
    turns = np.unique(Rotation.from_euler("xyz", angles, degrees=True).as_matrix().round(9), axis=0)
    return np.concatenate([turns[np.trace(turns, axis1=1, axis2=2) < 2.9], -turns])


def two_modalities(optimized: Optimized | None) -> str | None:
    """Warn if the images were registered as two modalities."""
    if optimized is None or optimized.unlike is None:
        return None
    return (
        "The images are registered as two modalities, because their intensities correlate by"
        f" {optimized.unlike:.2f} once an affine map has brought them together; if they are of one,"
        " give `instance='bspline'`."
    )


def undetermined(pair: Pair, optimized: Optimized | None, start: str) -> str | None:
    """Warn if registrations from several starts disagreed.

    Args:
        start: name of the initial alignment, which was returned.
    """
    if optimized is None or optimized.apart is None:
        return None
    limit = AGREEING * float(pair.fixed.grid.size[0])
    words = {"headers": "as their headers place them", "centers": "with their centres aligned"}
    aligned = words.get(start, f"in the initial alignment {start}")
    return (
        "These images do not determine their alignment: affine registrations from several"
        f" positions ended {optimized.apart:.1f} mm apart, where at most {limit:.1f} mm are"
        f" accepted ({100 * AGREEING:g} % of the image's size). The images are therefore returned"
        f" {aligned}, without any registration. Train a network on labelled pairs, or give another"
        " start, masks, or a fixed image cropped to what both show."
    )


def nothing_common(pair: Pair) -> str | None:
    """Warn if the two label maps share no label, so that every Dice is 0."""
    if pair.fixed_labels is None or pair.moving_labels is None:
        return None
    fixed, moving = (
        set(labels.tensor.unique().tolist()) - {0}
        for labels in (pair.fixed_labels, pair.moving_labels)
    )
    if fixed & moving:
        return None
    theirs, ours = (
        ", ".join(str(int(n)) for n in sorted(labels)[:8]) for labels in (fixed, moving)
    )
    return (
        f"The label maps have no label in common (fixed: {theirs}; moving: {ours}), so every Dice"
        " is 0; are they of the same protocol?"
    )
