"""Signed distances (mm, negative inside) and the share of a voxel they cover."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Point = tuple[float, float, float]


def coverage(distance: Array, voxel: float) -> Array:
    """Share of a voxel of edge ``voxel`` (mm) inside a surface at a signed ``distance`` (mm): a
    ramp one voxel wide.
    """
    return np.clip(0.5 - distance / voxel, 0.0, 1.0)


def tube_coverage(distance: Array, radius: Array | float, voxel: float) -> Array:
    """Share of a voxel inside a tube of ``radius`` whose centre line is ``distance`` away (mm).

    A tube thinner than a voxel is drawn one voxel wide and fainter by the ratio of the
    cross-sections.
    """
    drawn = np.maximum(radius, 0.5 * voxel)
    return (radius / drawn) ** 2 * coverage(distance - drawn, voxel)


def thin_coverage(distance: Array, half: float, voxel: float) -> Array:
    """Share of a voxel inside a sheet of thickness ``2 half`` around the surface ``distance = 0``
    (mm).
    """
    return coverage(np.abs(distance) - max(half, 0.5 * voxel), voxel) * min(1.0, 2 * half / voxel)


def smooth_max(first: Array, second: Array, width: float) -> Array:
    """Maximum, rounded over ``width`` (mm): the intersection of two bodies with a rounded edge."""
    overlap = np.maximum(width - np.abs(first - second), 0.0)
    return np.maximum(first, second) + overlap * overlap * (0.25 / width)


def smoothstep(low: float, high: float, value: Array) -> Array:
    """0 below ``low``, 1 above ``high``, ``3 t^2 - 2 t^3`` between."""
    t = np.clip((value - low) / (high - low), 0.0, 1.0)
    return t * t * (3 - 2 * t)


def superellipse(
    x: Array,
    y: Array,
    a: Array | float,
    b: Array | float,
    slope_a: Array | float = 0.0,
    slope_b: Array | float = 0.0,
) -> Array:
    """First-order distance to ``|x/a|^2.5 + |y/b|^2.5 = 1`` (mm), whose semi-axes change with
    height by the slopes (mm per mm).
    """
    u, v = np.abs(x) / a, np.abs(y) / b
    gu, gv = u * np.sqrt(u), v * np.sqrt(v)
    power = gu * u + gv * v + 1e-6
    radius = power**0.4
    across = (gu / a) ** 2 + (gv / b) ** 2 + (gu * u * slope_a / a + gv * v * slope_b / b) ** 2
    return (radius - 1) * radius * np.sqrt(radius) / np.sqrt(across + 1e-9)


def ellipsoid(points: Array, center: Point, axes: Point, frame: Array | None = None) -> Array:
    """First-order distance (mm) of points ``(3, N)`` to an ellipsoid; rows of ``frame`` ``(3, 3)``
    are the directions of its axes.
    """
    local = points - np.asarray(center, dtype=points.dtype)[:, None]
    if frame is not None:
        local = frame.astype(points.dtype) @ local
    size = np.asarray(axes, dtype=points.dtype)[:, None]
    scaled = local / size
    radius = np.sqrt((scaled * scaled).sum(0)) + 1e-6
    slope = np.sqrt(((scaled / size) ** 2).sum(0)) + 1e-9
    return radius * (radius - 1) / slope


def ellipse_tube(
    across: Array, along: Array, half_across: float, half_along: float, voxel: float
) -> Array:
    """Share of a voxel inside a tube of elliptic cross-section; offsets from its centre line and
    half-axes in mm.
    """
    a, b = max(half_across, 0.5 * voxel), max(half_along, 0.5 * voxel)
    faint = half_across * half_along / (a * b)
    u, v = across / a, along / b
    radius = np.sqrt(u * u + v * v) + 1e-6
    return faint * coverage(
        radius * (radius - 1) / (np.sqrt((u / a) ** 2 + (v / b) ** 2) + 1e-9), voxel
    )


def segment_distance(points: Array, start: Point, end: Point) -> Array:
    """Distance (mm) of points ``(3, N)`` to a straight segment."""
    origin = np.asarray(start, dtype=points.dtype)[:, None]
    axis = np.asarray(end, dtype=points.dtype)[:, None] - origin
    local = points - origin
    t = np.clip((axis * local).sum(0) / float((axis * axis).sum()), 0.0, 1.0)
    return np.sqrt(((local - t * axis) ** 2).sum(0))


def inside_box(points: Array, *corners: Point, margin: float) -> Array:
    """Indices of the points ``(3, N)`` in the box around ``corners``, grown by ``margin`` (mm)."""
    low, high = np.min(corners, axis=0) - margin, np.max(corners, axis=0) + margin
    within = (points[0] >= low[0]) & (points[0] <= high[0])
    for axis in (1, 2):
        within &= (points[axis] >= low[axis]) & (points[axis] <= high[axis])
    return np.flatnonzero(within)


def paint(hu: Array, where: Array | slice, share: Array, value: Array | float) -> None:
    """Mix ``value`` (HU) into ``hu[where]`` by the covered ``share`` of each voxel."""
    under = hu[where]
    hu[where] = under + share * (value - under)
