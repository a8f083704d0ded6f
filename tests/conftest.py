"""Shared by all rooms: small pairs, and where the public data sets lie."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

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
        pytest.skip("no public data sets: set LIGHTNING_REG_DATA to the folder that holds hippocampus/")
    return folder
