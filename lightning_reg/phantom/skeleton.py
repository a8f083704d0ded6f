"""Ribs, spine, sternum, clavicles and shoulder blades, painted into a CT."""

from __future__ import annotations

import numpy as np

from lightning_reg.phantom.anatomy import Anatomy, Surfaces
from lightning_reg.phantom.shapes import (
    Array,
    coverage,
    ellipse_tube,
    inside_box,
    paint,
    segment_distance,
    smoothstep,
    thin_coverage,
    tube_coverage,
)

CORTEX, MARROW, CARTILAGE, DISC, CORD = 620.0, 260.0, 120.0, 95.0, 25.0
"""Hounsfield units."""
_REACH = np.pi * np.array(
    [0.86, 0.84, 0.82, 0.81, 0.80, 0.79, 0.77, 0.72, 0.66, 0.60, 0.46, 0.34], dtype=np.float32
)
"""Angle from the spine to the end of each rib's bone, radians; cartilage continues from there."""


def paint_bones(hu: Array, anatomy: Anatomy, at: Surfaces, voxel: float) -> None:
    """Paint all bones into ``hu`` ``(N,)``, at the points of ``at``."""
    _ribs(hu, anatomy, at, voxel)
    _sternum(hu, anatomy, at, voxel)
    _shoulders(hu, anatomy, at, voxel)
    _spine(hu, anatomy, at, voxel)


def _ribs(hu: Array, anatomy: Anatomy, at: Surfaces, voxel: float) -> None:
    """Twelve pairs of rings on the cage, falling from the spine to the front; in front they rise
    again as cartilage.
    """
    margin = 5.0 + voxel
    where = np.flatnonzero(
        (np.abs(at.cage) < margin)
        & (np.abs(at.points[0]) > 14.0)
        & (at.points[2] < anatomy.top - 6)
    )
    x, y, z = at.points[:, where]
    cage = at.cage[where]
    angle = np.arctan2(np.abs(x), -(y + 9 * smoothstep(-65.0, anatomy.top, z)))
    drop = anatomy.rib_drop * (1 - 0.45 * smoothstep(20.0, anatomy.top, z))
    level = (z + drop * np.sin(0.62 * angle) - anatomy.rib_phase) / anatomy.rib_pitch
    nearest = np.round(level)
    number = np.clip(6 - nearest, 0, 11).astype(np.int64)
    exists = (nearest <= 5) & (nearest >= -5)
    offset = (level - nearest) * anatomy.rib_pitch * 0.93
    arc = np.sqrt(x * x + y * y)
    reach = _REACH[number]
    begins = coverage(18.0 - np.abs(x), voxel) * exists
    bone = begins * coverage((angle - reach) * arc, voxel)
    cartilage = begins * coverage((reach - angle) * arc, voxel) * (number < 10)
    paint(hu, where, ellipse_tube(cage, offset, 3.4, 5.2, voxel) * cartilage, CARTILAGE)
    paint(hu, where, ellipse_tube(cage, offset, 3.8, 6.2, voxel) * bone, CORTEX)
    paint(hu, where, ellipse_tube(cage, offset, 2.0, 4.3, voxel) * bone, MARROW)


def _sternum(hu: Array, anatomy: Anatomy, at: Surfaces, voxel: float) -> None:
    """A plate in the front of the cage, wider at the top."""
    where = inside_box(at.points, (-30.0, 20.0, -25.0), (30.0, 130.0, 92.0), margin=voxel)
    x, _, z = at.points[:, where]
    cage = at.cage[where]
    side = np.abs(x) - 15 - 10 * smoothstep(52.0, 80.0, z)
    ends = np.abs(z - 34) - 54
    distance = np.maximum(np.maximum(side, ends), np.abs(cage) - 5.5)
    paint(hu, where, coverage(distance, voxel), CORTEX - 120)
    paint(hu, where, coverage(distance + 1.8, voxel), MARROW - 80)


def _shoulders(hu: Array, anatomy: Anatomy, at: Surfaces, voxel: float) -> None:
    """Clavicles, and shoulder blades behind and beside the cage."""
    for side in (1.0, -1.0):
        inner, outer = (
            (24 * side, 0.62 * anatomy.half_depth, 94.0),
            (0.9 * anatomy.half_width * side, -12.0, 116.0),
        )
        where = inside_box(at.points, inner, outer, margin=6.5 + voxel)
        paint(
            hu,
            where,
            tube_coverage(segment_distance(at.points[:, where], inner, outer), 6.5, voxel),
            CORTEX - 120,
        )
    where = np.flatnonzero(
        (np.abs(at.cage - 15) < 3 + voxel)
        & (at.points[2] > 5.0)
        & (at.points[2] < 112.0)
        & (at.points[1] < 0)
    )
    x, y, z = at.points[:, where]
    angle = np.arctan2(np.abs(x), -y)
    middle = np.float32(0.27 * np.pi) + 0.0015 * (z - 20)
    half = 8 + 30 * smoothstep(8.0, 85.0, z) - 24 * smoothstep(84.0, 108.0, z)
    plate = coverage(np.abs(angle - middle) * np.sqrt(x * x + y * y) - half, voxel) * coverage(
        np.abs(z - 58) - 50, voxel
    )
    paint(hu, where, plate * thin_coverage(at.cage[where] - 15, 2.6, voxel), CORTEX - 100)


def _spine(hu: Array, anatomy: Anatomy, at: Surfaces, voxel: float) -> None:
    """Vertebral bodies and discs, canal, arches with transverse and spinous processes; one vertebra
    to a rib.
    """
    front, back = anatomy.spine + 30, anatomy.spine - 52
    where = inside_box(at.points, (-36.0, front, -400.0), (36.0, back, 400.0), margin=voxel)
    x, y, z = at.points[:, where]
    v = y - anatomy.spine - 10 * (z / 150) ** 2
    pitch = anatomy.rib_pitch

    def from_level(height: Array) -> Array:
        level = (height - anatomy.rib_phase) / pitch
        return (level - np.round(level)) * pitch

    dz = from_level(z)
    half = 0.5 * pitch - 2.8
    waist = 1.8 * np.clip(1 - (dz / half) ** 2, 0, 1)
    ring = np.sqrt(x * x + (v * 1.2) ** 2)
    column = ring - 18.5 + waist
    canal = np.sqrt(x * x + (v + 23) ** 2)
    arch = np.maximum(np.abs(canal - 10.5) - 3.0, np.abs(dz) - 7.0)
    transverse = np.maximum(np.maximum(np.abs(x) - 33, np.abs(v + 23) - 5), np.abs(dz) - 5.5)
    spinous = np.maximum(
        np.maximum(np.abs(x) - 3.6, np.abs(v + 40) - 9), np.abs(from_level(z - 0.5 * (v + 33))) - 7
    )
    vertebra = np.maximum(column, np.abs(dz) - half)
    paint(hu, where, coverage(column, voxel), DISC)
    for bone in (transverse, arch, spinous):
        paint(hu, where, coverage(bone, voxel), CORTEX - 120)
    paint(hu, where, coverage(vertebra, voxel), CORTEX - 120)
    paint(hu, where, coverage(vertebra + 2.2, voxel), MARROW)
    paint(hu, where, coverage(canal - 8.0, voxel), CORD)
