"""Ensembles of registrations: mean, spread, and variants that keep the pair's position in the
world.
"""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from untrained import VELOCITY, checkpoint

import lightning_reg
from lightning_reg.inference.ensemble import Ensemble, flipped, models, padded_in_front, variants
from lightning_reg.inference.report.again import report_again
from lightning_reg.io.transform_reading import read_transform
from lightning_reg.registry import UserError
from lightning_reg.spatial import Grid, Image, Pair


@pytest.fixture
def files(tmp_path: Path, fixed_grid: Grid, moving_grid: Grid) -> dict[str, Path]:
    found = {}
    for side, grid in (("fixed", fixed_grid), ("moving", moving_grid)):
        world = grid.to_world(grid.points(dtype=torch.float64).flatten(2))[0].numpy()
        values = np.sin(world / 6.0).sum(0).reshape(grid.shape)
        found[side] = tmp_path / f"{side}.nii.gz"
        nib.Nifti1Image(values.astype(np.float32), grid.affine[0]).to_filename(found[side])
    return found


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_flip_leaves_every_voxel_where_it_is(
    axis: int, fixed_grid: Grid, moving_grid: Grid
) -> None:
    pair = Pair(*(Image(torch.rand(1, 1, *grid.shape), grid) for grid in (fixed_grid, moving_grid)))  # type: ignore[arg-type]
    turned = flipped(pair, axis)
    assert not turned.fixed.grid.matches(fixed_grid)
    for one, other in ((pair.fixed, turned.fixed), (pair.moving, turned.moving)):
        torch.testing.assert_close(other.resampled(one.grid).tensor, one.tensor, atol=1e-4, rtol=0)


def test_padding_in_front_leaves_every_voxel_where_it_is(
    fixed_grid: Grid, moving_grid: Grid
) -> None:
    pair = Pair(
        *(
            Image(torch.rand(1, 1, *grid.shape), grid, padding=0.25)
            for grid in (fixed_grid, moving_grid)
        )
    )  # type: ignore[arg-type]
    wider = padded_in_front(pair)
    assert wider.fixed.grid.shape == tuple(n + 2 for n in fixed_grid.shape)
    assert float(wider.fixed.tensor[0, 0, 0, 0, 0]) == 0.25
    torch.testing.assert_close(
        wider.fixed.resampled(fixed_grid).tensor, pair.fixed.tensor, atol=1e-4, rtol=0
    )


def test_the_transform_is_the_mean_and_the_spread_what_they_differ_by(
    tmp_path: Path, files: dict[str, Path]
) -> None:
    paths = [checkpoint(tmp_path / f"{seed}.ckpt", seed=seed) for seed in (1, 2, 3)]
    alone = [lightning_reg.load(path).register(**files) for path in paths]
    result = Ensemble([lightning_reg.load(path) for path in paths]).register(**files)
    fields = torch.cat([one.displacement for one in alone])
    torch.testing.assert_close(result.displacement, fields.mean(0, keepdim=True), atol=1e-4, rtol=0)
    spacing = torch.tensor(result.pair.fixed.grid.spacing[0]).float().view(1, 3, 1, 1, 1)
    wanted = ((fields - fields.mean(0)) * spacing).square().sum(1).mean(0).sqrt()
    assert result.spread is not None
    torch.testing.assert_close(result.spread[0, 0], wanted, atol=1e-4, rtol=1e-3)
    assert float(result.spread.max()) > 0.1


def test_a_model_three_times_has_no_spread(tmp_path: Path, files: dict[str, Path]) -> None:
    registrar = lightning_reg.load(checkpoint(tmp_path / "a.ckpt"))
    result = Ensemble([registrar] * 3).register(**files)
    assert result.spread is not None
    assert float(result.spread.max()) < 1e-4
    torch.testing.assert_close(
        result.displacement, registrar.register(**files).displacement, atol=1e-4, rtol=0
    )


def test_augmented_members_agree_where_the_network_does_not_care(
    tmp_path: Path, files: dict[str, Path]
) -> None:
    """A head without weights gives the identity however the pair is presented: the variants are
    mapped back to one world.
    """
    path = checkpoint(tmp_path / "a.ckpt")
    kept = torch.load(path, weights_only=True)
    for name, value in kept["state_dict"].items():
        if "heads" in name:
            value.zero_()
            if name.endswith("bias"):
                value[0] = 0.0
    torch.save(kept, path)
    result = models([path], lightning_reg.load, True).register(**files)
    assert result.spread is not None
    assert float(result.spread.max()) < 1e-3
    assert len(variants()) == 5


def test_a_constant_velocity_keeps_its_direction_in_the_world_of_each_variant(
    tmp_path: Path, files: dict[str, Path]
) -> None:
    """A constant output of the network is along the *stored* axes: flipped twice along one axis the
    mean keeps the two others.
    """
    path = checkpoint(tmp_path / "a.ckpt")
    kept = torch.load(path, weights_only=True)
    for name, value in kept["state_dict"].items():
        if "heads" in name:
            value.zero_()
            if name.endswith("bias"):
                value.copy_(torch.tensor([1.0, 0.5, -0.25]))
    torch.save(kept, path)
    registrar = lightning_reg.load(path)
    plain = registrar.register(**files).displacement[..., 4:-4, 4:-4, 4:-4].mean((0, 2, 3, 4))
    mean = (
        models([path], lightning_reg.load, True)
        .register(**files)
        .displacement[..., 4:-4, 4:-4, 4:-4]
        .mean((0, 2, 3, 4))
    )
    # of five members one has each axis turned
    torch.testing.assert_close(mean, plain * 3 / 5, atol=0.05, rtol=0)


def test_files_report_and_record(tmp_path: Path, files: dict[str, Path]) -> None:
    paths = [checkpoint(tmp_path / f"{seed}.ckpt", seed=seed) for seed in (1, 2)]
    result = Ensemble([lightning_reg.load(path) for path in paths]).register(**files)
    folder = result.save(tmp_path / "out")
    written = nib.load(folder / "spread.nii.gz").get_fdata()
    np.testing.assert_allclose(written, result.spread[0, 0].numpy(), atol=1e-3)  # type: ignore[index]
    record = json.loads((folder / "metrics.json").read_text())
    assert record["metrics"]["spread_mm"]["largest"] == pytest.approx(
        float(result.spread.max()), rel=1e-4
    )  # type: ignore[union-attr]
    assert len(record["settings"]["members"]) == 2
    page = (folder / "report.html").read_text()
    assert "<h2>Spread</h2>" in page
    assert report_again(folder).read_text().count("<h2>Spread</h2>") == 1
    points = torch.tensor([[-210.0, 133.0, 410.0]], dtype=torch.float64).T.unsqueeze(0)
    transform = read_transform(folder / "transform.h5")
    torch.testing.assert_close(
        transform.map_world(points), result.transform.map_world(points), atol=1e-2, rtol=0
    )


def test_one_member_is_none(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="give two or more"):
        Ensemble([lightning_reg.load(checkpoint(tmp_path / "a.ckpt", VELOCITY))])
