"""Hounsfield units of the anatomy: structures are painted over one another, by the share of the
voxel that each covers.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from lightning_reg.phantom.anatomy import AORTA, Anatomy, Surfaces, fissures
from lightning_reg.phantom.shapes import (
    Array,
    Point,
    coverage,
    ellipsoid,
    inside_box,
    paint,
    segment_distance,
    smooth_max,
    thin_coverage,
    tube_coverage,
)
from lightning_reg.phantom.skeleton import paint_bones
from lightning_reg.phantom.vessels import VesselIndex

AIR, FAT, MUSCLE, SKIN, BLOOD, LIVER = -1000.0, -95.0, 52.0, 20.0, 50.0, 62.0


class Texture(NamedTuple):
    """Smooth random pattern that moves with the tissue: wave vectors ``(K, 3)`` in radians per mm
    and phases ``(K,)``.
    """

    waves: Array
    phases: Array

    def __call__(self, points: Array) -> Array:
        """Values ``(N,)`` of unit variance at points ``(3, N)``."""
        total = np.zeros_like(points[0])
        for wave, phase in zip(
            self.waves.astype(points.dtype), self.phases.astype(points.dtype), strict=True
        ):
            total += np.cos(wave @ points + phase)
        return total * float(np.sqrt(2 / len(self.phases)))


def draw_texture(
    rng: np.random.Generator, count: int = 12, shortest: float = 14.0, longest: float = 70.0
) -> Texture:
    """Draw a pattern of ``count`` waves with lengths between ``shortest`` and ``longest`` mm."""
    directions = rng.standard_normal((count, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    lengths = np.geomspace(shortest, longest, count)[:, None]
    return Texture(directions * (2 * np.pi / lengths), rng.uniform(0, 2 * np.pi, count))


def hounsfield(
    anatomy: Anatomy,
    vessels: VesselIndex,
    texture: Texture,
    at: Surfaces,
    density: Array,
    voxel: float,
) -> Array:
    """Compute a noiseless CT.

    Args:
        at: surface distances of ``N`` points.
        density: ``(N,)``, the factor by which parenchyma is denser than at exhalation.
        voxel: edge length over which every surface is blurred, mm.

    Returns:
        ``(N,)`` HU.
    """
    hu = np.full_like(at.body, AIR)
    inside = np.flatnonzero(at.body < voxel)
    here = at.at(inside)
    tissue = np.full_like(here.body, AIR)
    _wall(tissue, anatomy, here, voxel)
    _abdomen(tissue, anatomy, here, voxel)
    _mediastinum(tissue, anatomy, here, voxel)
    tissue += 6 * texture(here.points)
    _lungs(tissue, anatomy, vessels, texture, here, density[inside], voxel)
    paint_bones(tissue, anatomy, here, voxel)
    _vessels_and_airways(tissue, anatomy, here.points, voxel)
    paint(hu, inside, coverage(here.body, voxel), tissue)
    return hu


def _wall(hu: Array, anatomy: Anatomy, at: Surfaces, voxel: float) -> None:
    """Skin, subcutaneous fat, muscle with fat in the armpits, and the fat inside the cage."""
    hu[:] = SKIN
    paint(hu, slice(None), coverage(at.body + 2.0, voxel), FAT)
    thickness = anatomy.fat * (0.75 + 0.5 * (at.points[0] / anatomy.half_width) ** 2)
    paint(hu, slice(None), coverage(at.body + 2.0 + thickness, voxel), MUSCLE)
    for side in (1.0, -1.0):
        pit = (side * (anatomy.half_width - 10), 4.0, 84.0)
        where = inside_box(at.points, pit, margin=46 + voxel)
        armpit = smooth_max(
            ellipsoid(at.points[:, where], pit, (32.0, 26.0, 40.0)), 7 - at.cage[where], 6.0
        )
        paint(hu, where, coverage(armpit, voxel), FAT)
    paint(hu, slice(None), coverage(at.cage + 7.0, voxel), FAT)


def _abdomen(hu: Array, anatomy: Anatomy, at: Surfaces, voxel: float) -> None:
    """The diaphragm, and below it liver, spleen and stomach with its bubble."""
    where = np.flatnonzero((at.diaphragm < voxel) & (at.cage < voxel))
    points, cage, below = at.points[:, where], at.cage[where], at.diaphragm[where]
    room = smooth_max(cage + 8, below + 4.0, 4.0)
    cavity = coverage(cage + 5, voxel)
    paint(hu, where, cavity * coverage(below, voxel), MUSCLE)
    paint(hu, where, cavity * coverage(below + 4.0, voxel), FAT)
    top, width, depth = anatomy.left_dome, anatomy.half_width, anatomy.half_depth
    spleen = ellipsoid(points, (-0.68 * width, -0.45 * depth, top - 46), (26.0, 40.0, 44.0))
    paint(hu, where, coverage(smooth_max(room, spleen, 6.0), voxel), MUSCLE)
    stomach = smooth_max(
        room, ellipsoid(points, (-0.45 * width, 0.2 * depth, top - 44), (40.0, 42.0, 42.0)), 8.0
    )
    paint(hu, where, coverage(stomach, voxel), MUSCLE - 10)
    paint(hu, where, coverage(stomach + 5, voxel), 18.0)
    paint(
        hu, where, coverage(smooth_max(stomach + 6, 0.42 * depth - points[1], 4.0), voxel), AIR + 20
    )
    liver = ellipsoid(
        points,
        (0.42 * width, 0.1 * depth, anatomy.right_dome - 66),
        (0.86 * width, 0.98 * depth, 78.0),
    )
    paint(hu, where, coverage(smooth_max(room, liver, 6.0), voxel), LIVER)


def _mediastinum(hu: Array, anatomy: Anatomy, at: Surfaces, voxel: float) -> None:
    """The heart in its fat, above the diaphragm."""
    where = np.flatnonzero(at.heart < voxel)
    heart = smooth_max(at.heart[where] + 4.0, -at.diaphragm[where], 6.0)
    paint(hu, where, coverage(heart, voxel), BLOOD - 3)


def _lungs(
    hu: Array,
    anatomy: Anatomy,
    vessels: VesselIndex,
    texture: Texture,
    at: Surfaces,
    density: Array,
    voxel: float,
) -> None:
    """Parenchyma, denser towards the back of a supine patient, its fissures and its vessels."""
    where = np.flatnonzero(at.lung < 0.5 * voxel)
    points, lung = at.points[:, where], at.lung[where]
    weight = (185 - 0.35 * points[1] + 13 * texture(1.7 * points)) * density[where]
    parenchyma = np.clip(AIR + weight, -980.0, -500.0)
    oblique, horizontal = fissures(anatomy, points)
    sheet = thin_coverage(oblique, 0.5, voxel)
    sheet = np.maximum(
        sheet, thin_coverage(horizontal, 0.5, voxel) * ((points[0] > 0) & (oblique > 0))
    )
    paint(parenchyma, slice(None), sheet, -500.0)
    paint(parenchyma, slice(None), vessels.coverage(points, voxel).astype(hu.dtype), BLOOD)
    paint(hu, where, coverage(lung, voxel), parenchyma)


def _vessels_and_airways(hu: Array, anatomy: Anatomy, points: Array, voxel: float) -> None:
    """Great vessels and oesophagus, then trachea and bronchi with their walls."""
    right, left, spine = anatomy.right_hilum, anatomy.left_hilum, anatomy.spine
    carina: Point = (2.0, -18.0, 44.0)
    arch: tuple[Point, Point, Point, Point] = (
        (4.0, 26.0, 12.0),
        (11.0, 16.0, 58.0),
        (-5.0, -6.0, 74.0),
        anatomy.descending_aorta[0],
    )
    trunk: Point = (-16.0, 8.0, 36.0)
    vessels: list[tuple[Point, Point, float]] = [
        ((-4.0, -33.0, 160.0), (-8.0, spine + 28, -90.0), 7.0),
        (arch[0], arch[1], 15.0),
        (arch[1], arch[2], 13.5),
        (arch[2], arch[3], 12.5),
        (*anatomy.descending_aorta, AORTA),
        ((15.0, 12.0, 92.0), (17.0, 12.0, 0.0), 8.5),
        ((17.0, -2.0, anatomy.right_dome + 14), (20.0, -14.0, -170.0), 11.0),
        ((-12.0, 32.0, 10.0), trunk, 13.0),
        (trunk, right, 9.5),
        (trunk, left, 10.0),
        ((10.0, 12.0, 72.0), (26.0, 0.0, 170.0), 6.5),
        ((-8.0, -4.0, 74.0), (-26.0, -6.0, 170.0), 6.0),
        ((15.0, 12.0, 92.0), (36.0, 4.0, 170.0), 6.5),
    ]
    airways: list[tuple[Point, Point, float]] = [
        ((0.0, -8.0, 170.0), carina, 8.5),
        (carina, (right[0] - 4, right[1] - 8, 16.0), 6.8),
        (carina, (left[0] + 2, left[1] - 8, 10.0), 6.0),
        ((right[0] - 4, right[1] - 8, 16.0), (right[0] + 12, right[1] - 22, -16.0), 4.6),
        ((right[0] - 16, right[1] - 8, 26.0), (right[0] + 16, right[1] - 6, 44.0), 4.2),
        ((left[0] + 2, left[1] - 8, 10.0), (left[0] - 10, left[1] - 22, -18.0), 4.4),
        ((left[0] + 2, left[1] - 8, 10.0), (left[0] - 16, left[1] + 4, 34.0), 4.2),
    ]
    for tubes, grown, value in (
        (vessels, 0.0, BLOOD),
        (airways, 1.5, MUSCLE),
        (airways, 0.0, AIR + 5),
    ):
        for start, end, radius in tubes:
            where = inside_box(points, start, end, margin=radius + grown + voxel)
            distance = segment_distance(points[:, where], start, end)
            paint(hu, where, tube_coverage(distance, radius + grown, voxel), value)
