"""Instance optimisation of one slice: recovery in the plane, and no motion across it."""

from __future__ import annotations

import pytest
import torch

from lightning_reg import functional as LF
from lightning_reg.components.losses.bundle import LossBundle
from lightning_reg.components.losses.regularity import Bending
from lightning_reg.components.losses.similarity import NCC
from lightning_reg.optimization.descent import optimize
from lightning_reg.optimization.objective import FitStage, Optimization
from lightning_reg.registry import DataError
from lightning_reg.spatial import Affine, Displacement, Image, Pair
from lightning_reg.testing.fixtures import grid

PLANE = (40, 32)


def pair_of(axis, shape=PLANE):
    """A slice of an oblique grid, and its motion in the plane, up to two voxels."""
    generator = torch.Generator().manual_seed(4)
    extents, spacing = list(shape), [1.4, 1.1]
    extents.insert(axis, 1)
    spacing.insert(axis, 0.2)  # thinner than the pixels
    on = grid(extents, spacing)
    stride = [(n - 1) / 8 for n in shape]
    image = LF.bspline(torch.rand(1, 1, 9, 9, generator=generator), shape, stride, [0.0, 0.0])
    drawn = torch.rand(1, 2, 4, 4, generator=generator) * 4 - 2
    field = LF.bspline(drawn, shape, [(n - 1) / 3 for n in shape], [0.0, 0.0])
    fixed = LF.warp(image, field, padding="border")
    components = list(field.unbind(1))
    components.insert(axis, torch.zeros_like(components[0]))
    truth = Displacement(torch.stack(components, dim=1).unsqueeze(2 + axis), on)
    images = (Image(values.unsqueeze(2 + axis), on) for values in (fixed, image))
    return Pair(*images, truth=truth)


def optimized(pair, *stages, **settings):
    start = Affine(torch.eye(4)[None], pair.fixed.grid)
    loss = LossBundle({"ncc": (1.0, NCC()), "bending": (1e-4, Bending())})
    return optimize(pair, start, Optimization(stages, loss, **settings))


STAGES = {
    "rigid": [FitStage("rigid", 20, stride=2)],
    "affine": [FitStage("affine", 30, stride=2, optimizer="lbfgs", lr=1.0)],
    "bspline": [FitStage("bspline", 60, spacing=16), FitStage("bspline", 40, spacing=8)],
    "dense": [FitStage("dense", 60, spacing=6)],
}


@pytest.mark.parametrize("kind", STAGES)
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_slice_is_registered_in_its_plane(axis, kind):
    pair = pair_of(axis)
    found = optimized(pair, *STAGES[kind])
    assert found.after < found.before
    field = found.transform.displacement(pair.fixed.grid)
    assert field[:, axis].abs().max() < 1e-4
    if kind in ("bspline", "dense"):
        error = (field - pair.truth.field).norm(dim=1).mean()
        assert error < 0.4 * pair.truth.field.norm(dim=1).mean()


@pytest.mark.parametrize("axis", [0, 2])
def test_several_starts_of_a_slice_lie_in_its_plane(axis):
    pair = pair_of(axis)
    found = optimized(pair, FitStage("affine", 3, stride=2), starts=3)
    assert found.transform.displacement(pair.fixed.grid)[:, axis].abs().max() < 1e-4


def test_a_line_is_refused():
    with pytest.raises(DataError, match="voxels thick"):
        optimized(pair_of(2, (40, 1)), *STAGES["dense"])
