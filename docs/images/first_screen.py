"""Animation of the README's first screen: a generated breathing thorax before, during and after
registration.

Usage: ``python docs/images/first_screen.py``; writes ``first_screen.gif`` beside itself, in a
    minute or two.
"""

from __future__ import annotations

import io
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from PIL import Image as Picture

import lightning_reg as reg
from lightning_reg.functional import warp

FRAMES, SHAPE = 12, [144, 120, 144]
# colours that colour-blind readers tell apart (Okabe and Ito, 2008)
GRID, CONTOUR = ("#e69f00", "#56b4e9")


def main() -> None:
    phantom = reg.PhantomDataset(subjects=1, validation=0, shape=SHAPE, crop=None)
    fixed, moving = (phantom.load(record) for record in phantom.records()[:2])
    result = reg.conventional("lung_ct").register(
        fixed["image"], moving["image"], fixed_mask=fixed["mask"], moving_mask=moving["mask"]
    )
    scan, lungs = moving["image"].data[None].float(), fixed["mask"].data[0].numpy()
    points = np.asarray(fixed["landmarks"])
    motion = result.map_points(points) - points
    displacement = result.displacement
    folding = float((result.determinant <= 0).float().mean())
    target = fixed["image"].data[0].numpy()
    pictures = []
    for step in [0] * 4 + list(range(FRAMES + 1)) + [FRAMES] * 8:
        part = (1 - np.cos(np.pi * step / FRAMES)) / 2
        warped = warp(scan, displacement * part)[0, 0].numpy()
        error = float(
            np.linalg.norm(points + part * motion - np.asarray(moving["landmarks"]), axis=1).mean()
        )
        pictures.append(
            frame(
                target,
                warped,
                lungs,
                (displacement * part)[0].numpy(),
                fixed["image"].spacing,
                error,
                step == 0,
                step == FRAMES,
            )
        )
    pictures[0].save(
        Path(__file__).with_name("first_screen.gif"),
        save_all=True,
        append_images=pictures[1:],
        duration=110,
        loop=0,
        optimize=True,
    )
    print(f"landmark error at the end {error:.2f} mm, folded voxels {100 * folding:.2f} %")


def frame(target, warped, lungs, displacement, spacing, error, first, last) -> Picture.Image:
    """One picture: fixed image, moving image on its way, difference, grid; coronal planes."""
    plane = target.shape[1] // 2 - 6
    aspect = spacing[2] / spacing[0]
    figure, axes = plt.subplots(1, 4, figsize=(9.6, 2.9), dpi=80, facecolor="white")
    titles = (
        "fixed (inhale)",
        "moving (exhale)" if first else "warped" if last else "moving, warped",
        "difference",
        "transform",
    )
    for axis, title in zip(axes, titles, strict=True):
        axis.set_title(title, fontsize=10)
        axis.set_xticks([])
        axis.set_yticks([])
    window = {"cmap": "gray", "vmin": -1000, "vmax": 300, "origin": "lower", "aspect": aspect}
    axes[0].imshow(target[::-1, plane].T, **window)
    axes[1].imshow(warped[::-1, plane].T, **window)
    axes[2].imshow(
        (warped - target)[::-1, plane].T,
        cmap="RdBu_r",
        vmin=-900,
        vmax=900,
        origin="lower",
        aspect=aspect,
    )
    axes[3].imshow(warped[::-1, plane].T, alpha=0.55, **window)
    for axis in axes[:3]:
        axis.contour(lungs[::-1, plane].T, levels=[0.5], colors=CONTOUR, linewidths=0.9)
    i, k = np.meshgrid(np.arange(target.shape[0]), np.arange(target.shape[2]), indexing="ij")
    x, z = i + displacement[0, :, plane], k + displacement[2, :, plane]
    x = target.shape[0] - 1 - x
    for line in range(0, target.shape[0], 8):
        axes[3].plot(x[line], z[line], color=GRID, linewidth=0.6)
    for line in range(0, target.shape[2], 8):
        axes[3].plot(x[:, line], z[:, line], color=GRID, linewidth=0.6)
    axes[3].set_xlim(-0.5, target.shape[0] - 0.5)
    axes[3].set_ylim(-0.5, target.shape[2] - 0.5)
    figure.text(0.5, 0.03, f"mean landmark error {error:.1f} mm", ha="center", fontsize=11)
    figure.subplots_adjust(left=0.01, right=0.99, top=0.9, bottom=0.12, wspace=0.04)
    buffer = io.BytesIO()
    figure.savefig(buffer)
    plt.close(figure)
    return Picture.open(buffer).convert("P", palette=Picture.Palette.ADAPTIVE, colors=96)


if __name__ == "__main__":
    main()
