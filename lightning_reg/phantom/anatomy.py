"""The static anatomy at exhalation: surfaces of the trunk, the rib cage, the diaphragm, the heart,
the lungs and their lobes.

Body coordinates: ``(3, N)`` mm to the right, to the front and upwards, from the middle of the
thorax. Surfaces are first-order signed distances in mm, negative inside.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from lightning_reg.phantom.shapes import (
    Array,
    Point,
    ellipsoid,
    segment_distance,
    smooth_max,
    smoothstep,
    superellipse,
)

PLEURA, AORTA = 6.0, 11.5
"""Distance from the middle of the ribs to the lung, and radius of the descending aorta, mm."""


@dataclass(frozen=True)
class Anatomy:
    """Parameters of a subject, in mm (angles in radians).

    Args:
        half_width, half_depth: semi-axes of the rib cage (through the middle of the ribs) at its
        widest.
        top: height at which the cage closes.
        wall: thickness of muscle, fat and skin over the ribs; ``fat``: that of the fat alone.
        right_dome, left_dome: heights of the domes of the diaphragm; ``dome_drop``: their drop
        towards the wall.
        mediastinum: half-width of the space between the lungs.
        heart: size of the heart as a factor; ``heart_turn``: angle of its axis in the horizontal
            plane.
        oblique_right, oblique_left, horizontal: heights of the fissures in the middle of the
        thorax;
            ``oblique_slope``: their slope down to the front.
        rib_pitch, rib_phase, rib_drop: distance between ribs, height of the seventh rib, and drop
        of a rib towards the front.
    """

    half_width: float
    half_depth: float
    top: float
    wall: float
    fat: float
    right_dome: float
    left_dome: float
    dome_drop: float
    mediastinum: float
    heart: float
    heart_turn: float
    oblique_right: float
    oblique_left: float
    horizontal: float
    oblique_slope: float
    rib_pitch: float
    rib_phase: float
    rib_drop: float

    @property
    def spine(self) -> float:
        """Anterior coordinate of the middle of the vertebral bodies at the centre of the thorax,
        mm.
        """
        return 26.0 - self.half_depth

    @property
    def right_hilum(self) -> Point:
        return (self.mediastinum + 16.0, -10.0, 16.0)

    @property
    def left_hilum(self) -> Point:
        return (-self.mediastinum - 18.0, -14.0, 20.0)

    @property
    def descending_aorta(self) -> tuple[Point, Point]:
        """Ends of its centre line, from the arch down beside the spine."""
        return (-19.0, self.spine + 24, 60.0), (-16.0, self.spine + 24, -170.0)


class Surfaces(NamedTuple):
    """Signed distances of a set of points ``(3, N)``, each ``(N,)`` mm; that of the diaphragm is
    negative below it.
    """

    points: Array
    body: Array
    cage: Array
    diaphragm: Array
    heart: Array
    lung: Array

    def at(self, where: Array) -> Surfaces:
        return Surfaces(self.points[:, where], *(distance[where] for distance in self[1:]))


def draw_anatomy(rng: np.random.Generator) -> Anatomy:
    """Draw the anatomy of a subject."""
    right_dome = float(rng.uniform(-46.0, -34.0))
    return Anatomy(
        half_width=float(rng.uniform(118.0, 129.0)),
        half_depth=float(rng.uniform(82.0, 92.0)),
        top=float(rng.uniform(126.0, 136.0)),
        wall=float(rng.uniform(18.0, 23.0)),
        fat=float(rng.uniform(6.0, 13.0)),
        right_dome=right_dome,
        left_dome=right_dome - float(rng.uniform(6.0, 14.0)),
        dome_drop=float(rng.uniform(36.0, 48.0)),
        mediastinum=float(rng.uniform(25.0, 29.0)),
        heart=float(rng.uniform(0.9, 1.1)),
        heart_turn=float(rng.uniform(0.4, 0.75)),
        oblique_right=float(rng.uniform(-4.0, 8.0)),
        oblique_left=float(rng.uniform(-2.0, 10.0)),
        horizontal=float(rng.uniform(8.0, 22.0)),
        oblique_slope=float(rng.uniform(0.75, 1.0)),
        rib_pitch=float(rng.uniform(22.5, 25.5)),
        rib_phase=float(rng.uniform(-12.0, 12.0)),
        rib_drop=float(rng.uniform(64.0, 82.0)),
    )


def surfaces(anatomy: Anatomy, points: Array) -> Surfaces:
    """Compute the distances of points ``(3, N)`` to all surfaces."""
    cage, diaphragm = cage_distance(anatomy, points), diaphragm_distance(anatomy, points)
    heart = heart_distance(anatomy, points)
    lung = _lung_distance(anatomy, points, cage, diaphragm, heart)
    return Surfaces(points, body_distance(anatomy, points), cage, diaphragm, heart, lung)


def body_distance(anatomy: Anatomy, points: Array) -> Array:
    """Skin: an elliptic trunk with shoulders, narrowing towards the neck."""
    x, y, z = points
    neck = smoothstep(92.0, 175.0, z)
    shoulders = smoothstep(20.0, 85.0, z)
    width = (anatomy.half_width + anatomy.wall) * (1 + 0.05 * shoulders - 0.5 * neck)
    depth = (anatomy.half_depth + anatomy.wall) * (1 - 0.05 * shoulders - 0.3 * neck)
    return superellipse(x, y, width, depth)


def cage_distance(anatomy: Anatomy, points: Array) -> Array:
    """The surface through the middle of the ribs: a bell, its top further back than its base."""
    x, y, z = points
    low = -65.0
    t = np.clip((z - low) / (anatomy.top - low), 0.0, 1.0)
    root = t * np.sqrt(t)
    narrowing = np.sqrt(np.maximum(1 - root * t, 0.05))
    slope = -1.25 / (anatomy.top - low) * root / narrowing
    width, depth = anatomy.half_width * narrowing, anatomy.half_depth * (0.2 + 0.8 * narrowing)
    side = superellipse(
        x, y + 9 * t, width, depth, anatomy.half_width * slope, 0.8 * anatomy.half_depth * slope
    )
    return smooth_max(side, z - anatomy.top, 16.0)


def diaphragm_distance(anatomy: Anatomy, points: Array) -> Array:
    """Two domes; negative below."""
    x, y, z = points
    wide, deep = 0.52 * anatomy.half_width, 0.88 * anatomy.half_depth
    v = (y - 14.0) / deep
    domes = []
    for side, top in ((1.0, anatomy.right_dome), (-1.0, anatomy.left_dome)):
        u = (x - side * 0.47 * anatomy.half_width) / wide
        slope = 2 * anatomy.dome_drop * np.sqrt((u / wide) ** 2 + (v / deep) ** 2)
        domes.append((z - top + anatomy.dome_drop * (u * u + v * v)) / np.sqrt(1 + slope * slope))
    return -smooth_max(-domes[0], -domes[1], 10.0)


def heart_frame(anatomy: Anatomy) -> tuple[Point, Array]:
    """Middle of the heart, and its axes as the rows of ``(3, 3)``: the first towards its tip, to
    the left, front and below.
    """
    tip = np.array([-np.cos(anatomy.heart_turn), np.sin(anatomy.heart_turn), -0.45])
    tip /= np.linalg.norm(tip)
    second = np.cross(tip, [0.0, 0.0, 1.0])
    second /= np.linalg.norm(second)
    center = (-20.0, 0.27 * anatomy.half_depth, anatomy.right_dome + 26.0 * anatomy.heart)
    return center, np.stack([tip, second, np.cross(tip, second)])


def heart_distance(anatomy: Anatomy, points: Array) -> Array:
    """Pericardium."""
    center, frame = heart_frame(anatomy)
    size = anatomy.heart
    return ellipsoid(points, center, (60.0 * size, 42.0 * size, 44.0 * size), frame)


def _lung_distance(
    anatomy: Anatomy, points: Array, cage: Array, diaphragm: Array, heart: Array
) -> Array:
    """Pleura of both lungs: the cage above the diaphragm, without mediastinum, heart and aorta."""
    x, y, z = points
    back = np.exp(-(((y - anatomy.spine) / 22) ** 2))
    middle = np.exp(-(((y - 3) / 34) ** 2))
    half = 6 + 20 * back + (anatomy.mediastinum - 6 + 3 * np.cos((z - 26) / 24)) * middle
    between = (half - np.abs(x + 2)) * 0.92
    lung = smooth_max(smooth_max(cage + PLEURA, between, 12.0), -diaphragm, 5.0)
    aorta = segment_distance(points, *anatomy.descending_aorta) - AORTA - 2.5
    return smooth_max(smooth_max(lung, 2.0 - heart, 8.0), -aorta, 6.0)


def fissures(anatomy: Anatomy, points: Array) -> tuple[Array, Array]:
    """Heights above the oblique fissure of either side, and above the horizontal one, ``(N,)`` mm;
    nearly plane, gently waved.
    """
    x, y, z = points
    wave = 4 * np.cos(x / 26) + 3 * np.sin(y / 24)
    middle = np.where(x > 0, np.float32(anatomy.oblique_right), np.float32(anatomy.oblique_left))
    steep = 1 / np.sqrt(1 + anatomy.oblique_slope**2)
    return (
        z - middle + anatomy.oblique_slope * (y + 5) - wave
    ) * steep, z - anatomy.horizontal + 0.12 * y + 0.5 * wave


def lobes(anatomy: Anatomy, points: Array, lung: Array) -> Array:
    """Labels ``(N,)`` uint8: 0 outside, 1 right upper, 2 right middle, 3 right lower, 4 left upper,
    5 left lower.
    """
    oblique, horizontal = fissures(anatomy, points)
    right = np.where(oblique < 0, 3, np.where(horizontal < 0, 2, 1))
    left = np.where(oblique < 0, 5, 4)
    return np.where(lung < 0, np.where(points[0] > -2, right, left), 0).astype(np.uint8)
