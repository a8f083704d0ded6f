"""A branching vessel tree that fills a lung.

Each branch runs from its parent towards the middle of the tissue it supplies; that tissue is then
divided in two, and each half gets a branch of its own. Source: Tawhai, Pullan & Hunter, Ann.
Biomed. Eng. 28, 2000.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.spatial import cKDTree

from lightning_reg.phantom.shapes import Array, tube_coverage


class Vessels(NamedTuple):
    """Centre lines as dense points ``(M, 3)`` mm with radii ``(M,)`` mm, and the branchings
    ``(N, 3)`` with their generation ``(N,)``.
    """

    points: Array
    radii: Array
    branchings: Array
    generations: Array


class _Branch(NamedTuple):
    start: Array
    heading: Array
    tissue: Array
    radius: float
    generation: int


def grow(
    rng: np.random.Generator,
    tissue: Array,
    root: Array,
    heading: Array,
    radius: float,
    generations: int = 8,
    step: float = 1.2,
) -> Vessels:
    """Grow a tree.

    Args:
        tissue: ``(M, 3)`` points spread evenly over the lung, mm.
        root: point where the tree enters the lung (the hilum), ``(3,)`` mm.
        heading: direction in which it enters, a unit vector ``(3,)``.
        radius: of the first branch, mm; divided among its children so that the sum of cubed radii
            is preserved (Murray's law).
        step: distance of the points along the centre lines, mm.
    """
    lines, radii, branchings, depth = [], [], [], []
    waiting = [_Branch(root, heading, tissue, radius, 0)]
    while waiting:
        branch = waiting.pop()
        last = branch.generation == generations or len(branch.tissue) < 4
        reach = rng.uniform(0.85, 1.0) if last else rng.uniform(0.42, 0.55)
        way = reach * (branch.tissue.mean(0) - branch.start)
        end = branch.start + way
        length = float(np.linalg.norm(way)) + 1e-6
        t = np.linspace(0.0, 1.0, int(length / step) + 2)[:, None]
        bend = branch.start + 0.35 * length * branch.heading
        lines.append((1 - t) ** 2 * branch.start + 2 * t * (1 - t) * bend + t**2 * end)
        radii.append(branch.radius * (1 - (0.5 if last else 0.12) * t[:, 0]))
        if last:
            continue
        branchings.append(end)
        depth.append(branch.generation)
        leaving = end - bend
        leaving /= np.linalg.norm(leaving) + 1e-6
        for part in _divide(rng, branch.tissue, end, leaving):
            share = len(part) / len(branch.tissue)
            waiting.append(
                _Branch(
                    end,
                    leaving,
                    part,
                    branch.radius * float(share) ** (1 / 3),
                    branch.generation + 1,
                )
            )
    return Vessels(
        np.concatenate(lines),
        np.concatenate(radii),
        np.array(branchings).reshape(-1, 3),
        np.array(depth, dtype=int),
    )


def _divide(
    rng: np.random.Generator, tissue: Array, at: Array, heading: Array
) -> tuple[Array, Array]:
    """Divide the tissue into two unequal parts, by a plane through its longest extent across the
    ``heading``.
    """
    around = tissue - at
    across = around - (around @ heading)[:, None] * heading
    normal = np.linalg.eigh(across.T @ across)[1][:, -1] + 0.25 * rng.standard_normal(3)
    side = around @ normal
    order = np.argsort(side, kind="stable")
    cut = int(np.clip(round(len(tissue) * rng.uniform(0.36, 0.64)), 1, len(tissue) - 1))
    return tissue[order[:cut]], tissue[order[cut:]]


def join(trees: list[Vessels]) -> Vessels:
    """Join several trees into one."""
    return Vessels(*(np.concatenate(parts) for parts in zip(*trees, strict=True)))


class VesselIndex:
    """Index of vessels, separate for wide and narrow ones: the nearest centre line need not be that
    of the widest vessel.
    """

    def __init__(self, vessels: Vessels, wide: float = 2.6) -> None:
        groups = (vessels.radii >= wide, vessels.radii < wide)
        self._groups = [(cKDTree(vessels.points[g]), vessels.radii[g]) for g in groups if g.any()]

    def coverage(self, points: Array, voxel: float) -> Array:
        """Share of voxels of edge ``voxel`` (mm) at points ``(3, N)`` inside a vessel, ``(N,)``."""
        places = np.ascontiguousarray(points.T, dtype=np.float64)
        covered = np.zeros(len(places))
        for tree, radii in self._groups:
            reach = max(float(radii.max()), 0.5 * voxel) + 0.5 * voxel
            distance, nearest = tree.query(places, distance_upper_bound=reach)
            found = np.flatnonzero(np.isfinite(distance))
            share = tube_coverage(distance[found], radii[nearest[found]], voxel)
            covered[found] = np.maximum(covered[found], share)
        return covered
