"""Metrics of a pair against closed forms, for a shift by two voxels along the last axis of an
oblique grid.
"""

from __future__ import annotations

import copy
import math
import pickle
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from lightning_reg import functional as LF
from lightning_reg.metrics import PairMetrics, evaluate, totals
from lightning_reg.metrics.table import BY_KEY
from lightning_reg.spatial import (
    Affine,
    Composition,
    Displacement,
    Grid,
    Identity,
    Image,
    Pair,
    Transform,
    slabs,
)

VOXELS, MM = 2, 4.0  # the shift, on voxels of 1.4 x 1.1 x 2.0 mm


def shift(grid: Grid, voxels: float = VOXELS) -> Affine:
    """A translation of the world along the grid's last axis."""
    matrix = torch.eye(4, dtype=torch.float64)
    matrix[:3, 3] = torch.from_numpy(voxels * grid.affine[0, :3, 2])
    return Affine(matrix.unsqueeze(0), grid)


@pytest.fixture
def scene(fixed_grid, generator) -> Pair:
    """Noise, a plane of label 3, landmarks and a true field. Only inside the mask are the moving
    image and the truth the shifted ones.
    """
    i, j, k = fixed_grid.points()[:, [0]], fixed_grid.points()[:, [1]], fixed_grid.points()[:, [2]]
    wide = torch.rand(1, 1, 12, 15, 19, generator=generator)
    mask = (i > 1) & (i < 7) & (j > 2) & (k > 2) & (k < 12)
    moving = wide[..., :17]
    fixed = wide[..., VOXELS:].where(mask, torch.rand(1, 1, *fixed_grid.shape, generator=generator))
    truth = torch.zeros(1, 3, *fixed_grid.shape)
    truth[:, 2] = torch.where(mask, VOXELS, 7.0)[:, 0]
    landmarks = fixed_grid.to_world(
        torch.tensor([[3.0, 4, 5], [6, 12, 9], [5, 7, 4]], dtype=torch.float64).T.unsqueeze(0)
    )
    return Pair(
        fixed=Image(fixed, fixed_grid),
        moving=Image(moving, fixed_grid),
        fixed_mask=Image(mask.short(), fixed_grid, discrete=True),
        fixed_labels=Image(
            3 * (k == 6).expand(1, 1, 12, 15, 17).short(), fixed_grid, discrete=True
        ),
        moving_labels=Image(
            3 * (k == 8).expand(1, 1, 12, 15, 17).short(), fixed_grid, discrete=True
        ),
        fixed_landmarks=(landmarks[0].T,),
        moving_landmarks=(shift(fixed_grid).map_world(landmarks)[0].T,),
        truth=Displacement(truth, fixed_grid),
        name=("shifted",),
    )


def identity(grid: Grid) -> Transform:
    return Identity(grid, torch.zeros(()))


def test_before_is_without_and_after_with_the_transform(scene, fixed_grid) -> None:
    found = evaluate(scene, shift(fixed_grid), surfaces=True)
    assert found.tre_before.tolist() == pytest.approx([MM] * 3)
    assert found.tre_after.tolist() == pytest.approx([0] * 3, abs=1e-6)
    assert (found.dice_before, found.dice_after) == ({3: 0.0}, {3: 1.0})
    faces = (MM, (MM + MM - 2) / 2, MM)  # those of a label of one voxel, 2 mm
    assert tuple(found.surface_before[3]) == pytest.approx(faces)
    assert tuple(found.surface_after[3]) == (0, 0, 0)
    assert [found.by_label(key, "before")[3] for key in ("hd95", "assd", "hd")] == [
        *found.surface_before[3]
    ]
    assert found.field_before == pytest.approx(MM)
    assert found.field_after == pytest.approx(0, abs=1e-5)
    assert abs(found.ncc_before) < 0.3
    assert found.ncc_after == pytest.approx(1, abs=1e-4)


def test_before_is_with_the_start_where_there_is_one(scene, fixed_grid) -> None:
    """Half of the way, from which one voxel, 2 mm, is missing."""
    found = evaluate(scene, shift(fixed_grid), start=shift(fixed_grid, 1), surfaces=True)
    assert found.tre_before.tolist() == pytest.approx([MM / 2] * 3)
    assert found.tre_after.tolist() == pytest.approx([0] * 3, abs=1e-6)
    assert tuple(found.surface_before[3]) == pytest.approx((MM / 2, MM / 4, MM / 2))
    whole = evaluate(scene, identity(fixed_grid), start=shift(fixed_grid), surfaces=True)
    assert (whole.dice_before, whole.dice_after) == ({3: 1.0}, {3: 0.0})
    assert whole.ncc_before == pytest.approx(1, abs=1e-4)


def test_motion_is_that_of_the_fixed_landmarks_in_the_world(scene, fixed_grid) -> None:
    found = evaluate(scene, shift(fixed_grid, 0.5))
    step = torch.from_numpy(fixed_grid.affine[0, :3, 2]).expand(3, 3)
    torch.testing.assert_close(found.motion_true, VOXELS * step)
    torch.testing.assert_close(found.motion_predicted, 0.5 * step)
    assert (found.field_before, found.field_after) == (pytest.approx(MM), pytest.approx(0.75 * MM))


def test_folding_counts_inside_the_fixed_mask(scene, fixed_grid) -> None:
    """A field that folds behind the mask and stretches inside it by a quarter."""
    k = torch.arange(17.0)
    field = torch.zeros(1, 3, *fixed_grid.shape)
    field[:, 2] = torch.where(k < 13, 0.25 * k, 3.25 - 4 * (k - 13))
    inside, everywhere = (
        evaluate(pair, Displacement(field, fixed_grid))
        for pair in (scene, replace(scene, fixed_mask=None))
    )
    assert (inside.folding, inside.sd_j) == (0, pytest.approx(0, abs=1e-5))
    assert inside.sdlogj == pytest.approx(0, abs=1e-5)
    assert everywhere.folding == pytest.approx(4 / 17)  # from voxel 13 on
    assert everywhere.sd_j > 1
    assert list(inside.jacobian.values()) == pytest.approx([1.25] * 4, abs=1e-5)
    assert list(everywhere.jacobian) == ["1", "5", "95", "99"]
    # central differences at voxel 13: (1.25 - 3) / 2
    determinants = np.repeat([1.25, -0.875, -3.0], [13, 1, 3])
    assert list(everywhere.jacobian.values()) == pytest.approx(
        np.percentile(determinants, [1, 5, 95, 99]).tolist(), abs=0.02
    )


def test_label_numbers_of_the_moving_image_may_need_more_bits_than_the_fixed_images(
    scene, fixed_grid
) -> None:
    """65539 is 3 in 16 bits."""
    large = scene.moving_labels.tensor.int() // 3 * 65539
    found = evaluate(
        replace(scene, moving_labels=replace(scene.moving_labels, tensor=large)),
        shift(fixed_grid),
        surfaces=True,
    )
    assert found.dice_after == {3: 0.0, 65539: 0.0}
    assert all(
        math.isnan(value) for distances in found.surface_after.values() for value in distances
    )


@pytest.mark.parametrize("planes", [1, 5])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("start", [None, 1.0])
def test_slabs_are_counted_together(
    monkeypatch, scene, fixed_grid, smooth_field, planes: int, masked: bool, start: float | None
) -> None:
    """Every metric of an image that is evaluated a few planes at a time is the one it has at once,
    next to a fold, too.
    """
    field = smooth_field(fixed_grid.shape, 12.0)
    transform = Composition([shift(fixed_grid, 0.7), Displacement(field, fixed_grid)])
    masks = {"moving_mask": scene.fixed_mask} if masked else {"fixed_mask": None}
    pairs = [
        replace(scene, **masks),
        replace(scene, **masks, fixed_labels=None, moving_labels=None),
    ]
    before = None if start is None else shift(fixed_grid, start)
    at_once = [evaluate(pair, transform, before, surfaces=True) for pair in pairs]
    assert at_once[0].folding > 0
    inside = scene.fixed_mask.tensor if masked else None
    assert at_once[0].ndv == pytest.approx(
        float(LF.non_diffeomorphic_volume(transform.displacement(fixed_grid), inside))
    )
    monkeypatch.setattr(sys.modules[slabs.__module__], "SLAB", planes * 15 * 17)
    for pair, whole in zip(pairs, at_once, strict=True):
        found = evaluate(pair, transform, before, surfaces=True)
        values, expected = (
            {key: value for key, value in case.row().items() if key != "case"}
            for case in (found, whole)
        )
        assert values == pytest.approx(expected, rel=1e-5, abs=1e-7)


def test_masks_are_compared_where_there_are_no_labels(scene, fixed_grid) -> None:
    moved = scene.fixed_mask.warped(shift(fixed_grid, -VOXELS))
    pair = replace(
        scene,
        fixed_labels=None,
        moving_labels=None,
        moving_mask=replace(moved, tensor=7 * moved.tensor),
    )
    found = evaluate(pair, shift(fixed_grid), start=shift(fixed_grid, 1))
    assert found.mask_after == 1
    assert found.mask_before == pytest.approx(8 / 9)  # nine slices, one slice apart
    assert evaluate(pair, shift(fixed_grid)).mask_before == pytest.approx(7 / 9)
    assert evaluate(replace(scene, moving_mask=moved), shift(fixed_grid)).mask_after is None


def test_a_row_has_the_means_over_landmarks_and_labels() -> None:
    tre = {"before": torch.tensor([3.0, 5.0]), "after": torch.tensor([1.0, 1.0])}
    dice = {"before": {1: 0.2, 2: math.nan, 5: 0.4}, "after": {1: 0.9}}
    case = PairMetrics("a", {BY_KEY["tre"]: tre, BY_KEY["dice"]: dice})
    row = case.row()
    assert (row["tre_before_mm"], row["tre_after_mm"]) == (4, 1)
    assert (row["tre_before_sd_mm"], row["tre_after_sd_mm"]) == (1, 0)
    assert (row["dice_before"], row["dice_after"]) == (pytest.approx(0.3), pytest.approx(0.9))


def test_values_are_attributes_of_a_case_also_after_pickling() -> None:
    case = PairMetrics("a", {BY_KEY["field_error"]: {"before": 2.0, "after": 1.0}})
    for one in (case, pickle.loads(pickle.dumps(case)), copy.deepcopy(case)):
        assert (one.field_before, one.field_after, one.field_error_after) == (2.0, 1.0, 1.0)
        assert one.tre_after is None
        assert one.surface_after is None
        assert one.value("mi") is None
        assert not hasattr(one, "nothing_after")
    with pytest.raises(KeyError):
        case.value("nothing")


def test_totals_are_means_over_cases_and_spread_over_landmarks() -> None:
    folding = BY_KEY["folding"]
    cases = [
        PairMetrics(
            name,
            {
                BY_KEY["tre"]: {"before": torch.tensor(tre), "after": torch.tensor(tre) / 2},
                folding: {"after": folded},
            },
        )
        for name, folded, tre in (("a", 0.0, [1.0, 3.0]), ("b", 0.5, [6.0, 6.0, 6.0, 6.0]))
    ]
    found = totals([*cases, PairMetrics("c", {folding: {"after": 0.25}})])
    assert found["folding"] == pytest.approx(0.25)
    assert (found["tre_before_mm"], found["tre_after_mm"]) == (4, 2)
    every = [1.0, 3.0, 6.0, 6.0, 6.0, 6.0]
    mean = sum(every) / 6
    assert found["tre_before_sd_mm"] == pytest.approx(
        math.sqrt(sum((v - mean) ** 2 for v in every) / 6)
    )
