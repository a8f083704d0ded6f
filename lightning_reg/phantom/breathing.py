"""The breathing map, in closed form: body coordinates at inhalation to body coordinates at
exhalation.

Points are ``(3, N)`` mm in the body's right, anterior and superior directions.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lightning_reg.phantom.shapes import Array, smoothstep


@dataclass(frozen=True)
class Breathing:
    """Parameters of a subject. Lengths and amplitudes in mm.

    Args:
        right, left: how far the two domes of the diaphragm move down on inhalation.
        forward, sideways: how far the chest wall moves out in front and on either side.
        half_width, half_depth: semi-axes of the rib cage; the vertical motion fades towards it.
        spine: anterior coordinate of the spine, which does not move.
        base, apex: heights between which the vertical motion fades to zero.
        waves: ``(K, 3)`` wave vectors (radians per mm), ``phases`` ``(K,)``, ``swings`` ``(K, 3)``
            amplitudes of the irregular part.
    """

    right: float
    left: float
    forward: float
    sideways: float
    half_width: float
    half_depth: float
    spine: float
    base: float
    apex: float
    waves: Array
    phases: Array
    swings: Array

    def displacement(self, points: Array) -> Array:
        """``u`` of ``phi(x) = x + u(x)``, ``(3, N)`` mm."""
        x, y, z = points
        rest = 1 - np.exp(-((x / 34) ** 2) - ((y - self.spine) / 38) ** 2)
        radius = np.sqrt((x / self.half_width) ** 2 + (y / self.half_depth) ** 2)
        inner = rest / (1 + np.exp((radius - 1.04) / 0.075))
        fade = 1 - smoothstep(self.base, self.apex, z)
        dome = 0.5 * (self.right + self.left) + 0.5 * (self.right - self.left) * np.tanh(x / 45)
        wall = 0.35 + 0.65 * (1 - smoothstep(20.0, self.apex + 20, z))
        loose = inner * (1 - smoothstep(40.0, self.apex + 15, z))
        irregular = self.swings.T @ np.cos(self.waves @ points + self.phases[:, None]) * loose
        irregular[0] -= self.sideways * wall * np.tanh(x / 90) * rest
        irregular[1] -= self.forward * wall * smoothstep(self.spine, 110.0, y)
        irregular[2] += dome * inner * fade
        return irregular

    def map(self, points: Array) -> Array:
        """``phi``: inhalation to exhalation."""
        return points + self.displacement(points)

    def inverse(self, points: Array, tolerance: float = 1e-8, iterations: int = 200) -> Array:
        """``phi^-1``: exhalation to inhalation, by fixed-point iteration until
        ``|phi(x) - y| < tolerance`` (mm).
        """
        guess = points - self.displacement(points)
        for _ in range(iterations):
            error = self.map(guess) - points
            if not error.size or float(np.abs(error).max()) < tolerance:
                return guess
            guess = guess - error
        raise ArithmeticError(
            f"Breathing: the inverse did not reach {tolerance} mm in {iterations} iterations"
        )

    def jacobian_determinant(self, points: Array, step: float = 0.05) -> Array:
        """``det d phi / d x``, ``(N,)``, by central differences of the closed form over ``step``
        mm.
        """
        columns = []
        for axis in range(3):
            shift = np.zeros((3, 1))
            shift[axis] = step
            columns.append((self.map(points + shift) - self.map(points - shift)) / (2 * step))
        a, b, c = columns
        return (a * np.cross(b, c, axis=0)).sum(0)


def draw_breathing(
    rng: np.random.Generator,
    half_width: float,
    half_depth: float,
    spine: float,
    base: float,
    apex: float,
) -> Breathing:
    """Draw the breathing of a subject whose body has these dimensions (mm)."""
    depth = rng.uniform(15.0, 24.0)
    difference = rng.uniform(-1.0, 1.0)
    count = 6
    directions = rng.standard_normal((count, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    swings = rng.standard_normal((count, 3))
    swings *= rng.uniform(1.0, 2.5) / np.sqrt((swings**2).sum())
    return Breathing(
        right=float(depth + difference),
        left=float(depth - difference),
        forward=float(rng.uniform(3.0, 6.5)),
        sideways=float(rng.uniform(1.0, 3.0)),
        half_width=half_width,
        half_depth=half_depth,
        spine=spine,
        base=base,
        apex=apex,
        waves=directions * (2 * np.pi / rng.uniform(100.0, 180.0, (count, 1))),
        phases=rng.uniform(0, 2 * np.pi, count),
        swings=swings,
    )
