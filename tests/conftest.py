"""Fixtures shared by all tests: small pairs, oblique grids, smooth fields, and folders of public
data sets.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from hydra.core.global_hydra import GlobalHydra
from torch import Tensor

from lightning_reg import functional as LF
from lightning_reg.spatial import Grid, Image, Pair


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture
def grid() -> Grid:
    """Different extents, anisotropic, away from the origin."""
    return Grid.regular((20, 16, 12), (2.0, 2.5, 3.0), (-30.0, 12.0, 7.0))


@pytest.fixture
def pair(grid: Grid) -> Pair:
    """Smooth images with masks and labels, no truth."""

    def image(shift: float) -> Image:
        i, j, k = grid.points()[0]
        blob = torch.exp(-(((i - 9 - shift) / 5) ** 2 + ((j - 8) / 4) ** 2 + ((k - 6) / 3) ** 2))
        return Image(blob[None, None], grid)

    fixed, moving = image(0.0), image(1.5)
    masks = [Image((x.tensor > 0.3).to(torch.int16), grid, discrete=True) for x in (fixed, moving)]
    return Pair(fixed, moving, *masks, *masks)


@pytest.fixture(scope="session")
def public_data() -> Path:
    """Folder of the public data sets, from the environment variable LIGHTNING_REG_DATA."""
    folder = Path(os.environ.get("LIGHTNING_REG_DATA", "no folder given"))
    if not (folder / "hippocampus").is_dir():
        pytest.skip(
            "no public data sets: set LIGHTNING_REG_DATA to the folder that holds hippocampus/"
        )
    return folder


def oblique(
    shape: Sequence[int],
    spacing: Sequence[float],
    rotation: Sequence[float],
    center: Sequence[float],
    flip: int = 0,
) -> Grid:
    """A grid turned by a rotation vector about its ``center`` (RAS mm); ``flip`` mirrors that axis."""
    linear = LF.rotation_matrix(torch.tensor([rotation], dtype=torch.float64))[0] @ torch.diag(
        torch.tensor(spacing, dtype=torch.float64)
    )
    linear[:, flip] *= -1
    affine = torch.eye(4, dtype=torch.float64)
    affine[:3, :3] = linear
    affine[:3, 3] = torch.tensor(center, dtype=torch.float64) - linear @ torch.tensor(
        [(n - 1) / 2 for n in shape], dtype=torch.float64
    )
    return Grid(tuple(shape), affine)


@pytest.fixture
def fixed_grid() -> Grid:
    return oblique((12, 15, 17), (1.4, 1.1, 2.0), (0.3, -0.2, 0.4), (-210.0, 133.0, 410.0))


@pytest.fixture
def moving_grid() -> Grid:
    """Overlaps the middle of :func:`fixed_grid`, but has its own shape, spacing and directions."""
    return oblique((19, 16, 14), (1.2, 1.9, 1.6), (-0.2, 0.35, 0.1), (-208.0, 131.0, 412.0), flip=1)


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(7)


@pytest.fixture
def smooth_field(generator: torch.Generator) -> Callable[..., Tensor]:
    """A smooth float32 field ``(batch, channels, *shape)`` whose largest value is ``size``."""

    def make(shape: Sequence[int], size: float = 1.5, channels: int = 3, batch: int = 1) -> Tensor:
        coarse = torch.randn(batch, channels, 4, 4, 4, generator=generator, dtype=torch.float64)
        field = LF.bspline(coarse, shape, [(n - 1) / 3 for n in shape], [0.0] * 3)
        return (field * (size / field.abs().max())).float()

    return make


@pytest.fixture
def world_points(generator: torch.Generator) -> Callable[..., Tensor]:
    """``(batch, 3, count)`` RAS mm inside a grid, ``margin`` voxels off its border, in double
    precision.
    """

    def make(grid: Grid, count: int = 60, margin: float = 1.0) -> Tensor:
        extent = torch.tensor(grid.shape, dtype=torch.float64).view(1, 3, 1) - 1 - 2 * margin
        inside = margin + extent * torch.rand(
            grid.batch, 3, count, generator=generator, dtype=torch.float64
        )
        return grid.to_world(inside)

    return make


@pytest.fixture
def rigid() -> Tensor:
    """A moderate affine map of the world about the middle of the grids."""
    parameters = torch.tensor(
        [[2.0, -1.5, 1.0, 0.05, -0.08, 0.1, 1.05, 0.95, 1.02, 0.03, -0.02, 0.04]],
        dtype=torch.float64,
    )
    return LF.affine_matrix(parameters, torch.tensor([-209.0, 132.0, 411.0], dtype=torch.float64))


Outcome = tuple[int, str, str]


@pytest.fixture
def command(tmp_path: Path, monkeypatch, capsys) -> Callable[..., Outcome]:
    """Calls an entry point with the words of a command line; returns its exit code and what it
    printed to stdout and stderr.
    """
    monkeypatch.chdir(tmp_path)

    def call(main: Callable[[], None], *words: object) -> Outcome:
        GlobalHydra.instance().clear()
        monkeypatch.setattr(sys, "argv", [str(word) for word in words])
        code = 0
        try:
            main()
        except SystemExit as exit_:
            code = int(exit_.code or 0)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call
