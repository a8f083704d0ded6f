"""A scene in two oblique images on different grids, as files, and a small model."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from untrained import VELOCITY, checkpoint

from lightning_reg import functional as LF
from lightning_reg.io.images import write_image
from lightning_reg.io.points import write_points
from lightning_reg.spatial import Affine, BSpline, Composition, Grid, Transform


def turned(
    shape: tuple[int, int, int],
    spacing: tuple[float, float, float],
    rotation: tuple[float, float, float],
    flip: int,
) -> Grid:
    linear = LF.rotation_matrix(torch.tensor([rotation], dtype=torch.float64))[0] @ torch.diag(
        torch.tensor(spacing, dtype=torch.float64)
    )
    linear[:, flip] *= -1
    affine = torch.eye(4, dtype=torch.float64)
    affine[:3, :3] = linear
    affine[:3, 3] = torch.tensor([-40.0, 25.0, 310.0]) - linear @ torch.tensor(
        [(n - 1) / 2 for n in shape], dtype=torch.float64
    )
    return Grid(shape, affine)


FIXED = turned((30, 26, 22), (2.0, 2.3, 2.8), (0.15, -0.1, 0.2), 0)
MOVING = turned((26, 33, 28), (2.5, 1.9, 2.2), (-0.1, 0.2, -0.15), 1)


def truth() -> Transform:
    """An affine map of a B-spline, some millimetres each."""
    parameters = torch.tensor(
        [[3.0, -2.0, 2.5, 0.05, -0.04, 0.06, 1.04, 0.97, 1.02, 0.0, 0.02, 0.0]]
    )
    affine = Affine(LF.affine_matrix(parameters.double(), FIXED.center[0]), FIXED)
    stride = (10.0, 10.0, 10.0)
    control = torch.randn(
        1, 3, *LF.lattice_shape(FIXED.shape, stride), generator=torch.Generator().manual_seed(3)
    )
    return Composition([affine, BSpline(control, FIXED, stride)])


def scene(points: Tensor) -> tuple[Tensor, Tensor]:
    """Intensity and label of points ``(1, 3, *S)`` of the moving world."""
    generator = np.random.default_rng(5)
    intensity = torch.full_like(points[:, :1], 20.0)
    label = torch.zeros_like(points[:, :1])
    for number in range(24):
        center = torch.tensor(
            [-40.0, 25.0, 310.0] + generator.normal(0, 13, 3), dtype=points.dtype
        ).view(1, 3, 1, 1, 1)
        width, height = generator.uniform(4, 8), generator.uniform(50, 200)
        distance = (points - center).norm(dim=1, keepdim=True)
        intensity = intensity + height * torch.exp(-((distance / width) ** 2))
        if number < 3:
            label[distance < width] = number + 1
    return intensity, label


@pytest.fixture(scope="session")
def files(tmp_path_factory) -> dict[str, Path]:
    """``fixed`` (NIfTI), ``moving`` (MetaImage), labels, masks and landmarks of both."""
    folder = tmp_path_factory.mktemp("pair with spaces")
    phi, paths = truth(), {}
    fixed_points = FIXED.to_world(FIXED.points(dtype=torch.float64))
    lands = phi.map_world(fixed_points.float()).double()
    sides = {
        "fixed": (FIXED, lands),
        "moving": (MOVING, MOVING.to_world(MOVING.points(dtype=torch.float64))),
    }
    for side, (grid, points) in sides.items():
        intensity, label = scene(points)
        paths[side] = folder / (f"{side}.nii.gz" if side == "fixed" else f"{side}.mha")
        write_image(paths[side], intensity.float(), grid)
        for part, values in (
            ("labels", label.to(torch.int16)),
            ("mask", (intensity > 40).to(torch.uint8)),
        ):
            paths[f"{side}_{part}"] = folder / f"{side}_{part}.nii.gz"
            write_image(paths[f"{side}_{part}"], values, grid)
    landmarks = FIXED.to_world(
        torch.tensor(
            [[8.0, 9, 7], [20, 15, 12], [14, 12, 10], [10, 18, 15]], dtype=torch.float64
        ).T.unsqueeze(0)
    )
    for side, values in (("fixed", landmarks), ("moving", phi.map_world(landmarks))):
        paths[f"{side}_landmarks"] = folder / f"{side}.csv"
        write_points(paths[f"{side}_landmarks"], values[0].T)
    return paths


@pytest.fixture
def model(tmp_path: Path) -> Callable[..., Path]:
    """Writes the checkpoint of an untrained network that deforms visibly."""

    def make(
        method: dict[str, Any] = VELOCITY,
        preprocessing: dict[str, Any] | None = None,
        **statistics: Any,
    ) -> Path:
        return checkpoint(tmp_path / "best.ckpt", method, preprocessing, **statistics)

    return make


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Chromium, for the pages of reports; tests that ask for it skip with one line where there is
    none.
    """
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    chromium = next(
        (
            path
            for name in ("chromium", "chromium-browser", "google-chrome")
            if (path := shutil.which(name))
        ),
        None,
    )
    if chromium is None:
        pytest.skip("no Chromium on this machine to open the report with")
    with playwright.sync_playwright() as run:
        browser = run.chromium.launch(
            executable_path=chromium,
            args=["--no-sandbox", "--disable-gpu", "--disable-background-networking"],
        )
        yield browser
        browser.close()
