"""Figures of the page on geometry: ``python docs/images/geometry.py`` writes them beside itself."""

from __future__ import annotations

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.patches import ConnectionPatch

HERE = Path(__file__).parent
FIXED, MOVING = "#0072b2", "#d55e00"


def direction() -> None:
    """A transform maps points of the fixed image to points of the moving image; intensities come
    the other way.
    """
    figure, axes = plt.subplots(1, 2, figsize=(8.2, 3.6), sharex=True, sharey=True)
    t = np.linspace(0, 2 * np.pi, 200)
    shape = np.stack([2.2 * np.cos(t), 1.5 * np.sin(t)]) + np.array([[3.2], [3.0]])

    def phi(x: np.ndarray) -> np.ndarray:
        return np.stack(
            [x[0] + 0.6 + 0.25 * np.sin(0.9 * x[1]), x[1] - 0.5 + 0.3 * np.sin(0.8 * x[0])]
        )

    drawn = (
        (axes[0], shape, FIXED, "fixed image, grid of the result"),
        (axes[1], phi(shape), MOVING, "moving image"),
    )
    for axis, points, color, title in drawn:
        axis.fill(*points, color=color, alpha=0.2)
        axis.plot(*points, color=color)
        axis.set_title(title, fontsize=11)
        axis.set_aspect("equal")
        axis.set_xticks([])
        axis.set_yticks([])
    lines = [np.stack([np.full(60, c), np.linspace(0, 6, 60)]) for c in range(8)]
    lines += [np.stack([np.linspace(0, 7, 60), np.full(60, c)]) for c in range(7)]
    for line in lines:
        axes[0].plot(*line, color="0.8", lw=0.7, zorder=0)
        axes[1].plot(*phi(line), color="0.8", lw=0.7, zorder=0)
    x = np.array([4.0, 4.0])
    y = phi(x[:, None])[:, 0]
    axes[0].plot(*x, "o", color=FIXED)
    axes[0].annotate("x", x, xytext=(-12, 6), textcoords="offset points", fontsize=12)
    axes[1].plot(*y, "o", color=MOVING)
    axes[1].annotate("φ(x) = x + u(x)", y, xytext=(8, 4), textcoords="offset points", fontsize=11)
    arrow = {
        "coordsA": "data",
        "coordsB": "data",
        "axesA": axes[0],
        "axesB": axes[1],
        "shrinkA": 5,
        "shrinkB": 5,
        "mutation_scale": 14,
    }
    figure.add_artist(
        ConnectionPatch(
            x, y, connectionstyle="arc3,rad=-0.25", color="black", arrowstyle="-|>", **arrow
        )
    )
    figure.add_artist(
        ConnectionPatch(
            x,
            y,
            connectionstyle="arc3,rad=0.3",
            color="0.45",
            linestyle=":",
            arrowstyle="<|-",
            **arrow,
        )
    )
    white = {"facecolor": "white", "edgecolor": "none", "pad": 2}
    figure.text(0.5, 0.86, "points, landmarks", ha="center", fontsize=10, bbox=white)
    figure.text(
        0.5,
        0.2,
        "intensities: warped(x) = moving(φ(x))",
        ha="center",
        fontsize=10,
        color="0.35",
        bbox=white,
    )
    figure.tight_layout()
    figure.savefig(HERE / "geometry_direction.svg")


def voxels() -> None:
    """Voxel centres are whole numbers; pooling by f puts coarse centres between fine ones, and the
    extent stays.
    """
    figure, axes = plt.subplots(2, 1, figsize=(8.2, 2.7), sharex=True)
    for axis, count, factor, color, name in (
        (axes[0], 8, 1, FIXED, "8 voxels"),
        (axes[1], 4, 2, MOVING, "4 voxels, pooled by f = 2"),
    ):
        edges = np.arange(count + 1) * factor - 0.5
        for c in range(count):
            axis.add_patch(plt.Rectangle((edges[c], 0), factor, 1, fill=False, ec=color, lw=1.5))
            center = factor * c + (factor - 1) / 2
            axis.plot(center, 0.5, "o", color=color, ms=5)
            axis.annotate(
                str(c),
                (center, 0.5),
                xytext=(0, 7),
                textcoords="offset points",
                ha="center",
                fontsize=10,
            )
        axis.set_ylabel(name, rotation=0, ha="right", va="center", fontsize=10)
        axis.set_ylim(-0.1, 1.25)
        axis.set_yticks([])
        for side in ("left", "right", "top"):
            axis.spines[side].set_visible(False)
    axes[1].set_xlim(-0.7, 7.7)
    axes[1].set_xlabel(
        "position in fine voxels: coarse index c is at f c + (f - 1) / 2", fontsize=10
    )
    figure.tight_layout()
    figure.savefig(HERE / "geometry_voxels.svg")


if __name__ == "__main__":
    plt.rcParams["svg.hashsalt"] = "geometry"
    direction()
    voxels()
