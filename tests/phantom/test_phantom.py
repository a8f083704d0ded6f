"""The breathing thorax: exact where it says so, and a thorax."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from lightning_reg.data.datasets.adapters.generated import PhantomDataset, cropped_to_lungs
from lightning_reg.functional import dice, jacobian_determinant, ncc
from lightning_reg.phantom import breathing_thorax
from lightning_reg.phantom.breathing import draw_breathing
from lightning_reg.phantom.shapes import tube_coverage
from lightning_reg.phantom.thorax import draw_subject
from lightning_reg.spatial import Grid, Image, Pair


@pytest.fixture(scope="module", params=[0, 7])
def pair(request: pytest.FixtureRequest) -> Pair:
    return breathing_thorax(request.param)


def tensors(pair: Pair) -> list[torch.Tensor]:
    images = [
        pair.fixed,
        pair.moving,
        pair.fixed_mask,
        pair.moving_mask,
        pair.fixed_labels,
        pair.moving_labels,
    ]
    return [i.tensor for i in images] + [
        pair.truth.field,
        torch.from_numpy(pair.fixed.grid.affine),
        *pair.fixed_landmarks,
        *pair.moving_landmarks,
    ]


def test_the_seed_decides_everything_and_nothing_else_is_touched() -> None:
    np.random.seed(3)  # noqa: NPY002
    torch.manual_seed(3)
    before = np.random.get_state()[1].copy(), torch.get_rng_state()  # noqa: NPY002
    first, again, other = (breathing_thorax(seed, (20, 18, 22)) for seed in (5, 5, 6))
    assert all(torch.equal(a, b) for a, b in zip(tensors(first), tensors(again), strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(tensors(first), tensors(other), strict=True))
    assert first.name == ("phantom-5",)
    assert np.array_equal(before[0], np.random.get_state()[1])  # noqa: NPY002
    assert torch.equal(before[1], torch.get_rng_state())


def test_the_phases_have_different_noise() -> None:
    noisy, clean = breathing_thorax(2, (24, 24, 24)), breathing_thorax(2, (24, 24, 24), noise=0.0)
    fixed, moving = (
        getattr(noisy, f).tensor - getattr(clean, f).tensor for f in ("fixed", "moving")
    )
    assert fixed.std().item() == pytest.approx(17, rel=0.1)
    assert abs(float((fixed * moving).mean())) < 0.1 * 17**2


def test_everything_is_there_on_one_oblique_anisotropic_grid(pair: Pair) -> None:
    assert pair.has() == {f.name for f in dataclasses.fields(Pair)}
    grid = pair.fixed.grid
    spacing = grid.spacing[0]
    cosines = grid.affine[0, :3, :3] / spacing
    assert pair.moving.grid.matches(grid)
    assert np.abs(spacing[:, None] - spacing)[~np.eye(3, dtype=bool)].min() > 0.05
    np.testing.assert_allclose(cosines.T @ cosines, np.eye(3), atol=1e-9)
    assert np.linalg.det(cosines) > 0
    assert (cosines.diagonal() > 0.9).all()
    assert np.abs(cosines - np.diag(cosines.diagonal())).max() > 0.03
    assert np.abs(grid.affine[0, :3, 3]).min() > 1
    assert pair.fixed.padding == pair.moving.padding == -1000
    assert pair.fixed.tensor.dtype == torch.float32
    assert all(
        i.discrete and i.tensor.dtype == torch.uint8 for i in (pair.fixed_mask, pair.moving_labels)
    )


@pytest.mark.parametrize("seed", [0, 7])
def test_landmarks_follow_the_closed_form(seed: int) -> None:
    pair = breathing_thorax(seed, (20, 24, 22))
    fixed, moving = pair.fixed_landmarks[0], pair.moving_landmarks[0]
    assert 40 <= len(fixed) <= 100
    assert (
        np.abs(draw_subject(seed).map_world(fixed.double().numpy().T).T - moving.numpy()).max()
        < 1e-3
    )
    for points, image in ((fixed, pair.fixed), (moving, pair.moving)):
        inside = image.grid.to_voxel(points.T.double().unsqueeze(0))[0]
        assert bool(
            ((inside >= 0) & (inside <= torch.tensor(image.grid.shape).view(3, 1) - 1)).all()
        )


def test_landmarks_are_vessels_in_the_lungs_and_truth_maps_them(pair: Pair) -> None:
    assert float(pair.landmark_errors(pair.truth)[0].max()) < 0.3
    motion = pair.landmark_errors()[0]
    assert 5 < float(motion.mean()) < 20
    assert float(motion.max()) < 30
    for points, mask, image in (
        (pair.fixed_landmarks[0], pair.fixed_mask, pair.fixed),
        (pair.moving_landmarks[0], pair.moving_mask, pair.moving),
    ):
        index = mask.grid.to_voxel(points.T.double().unsqueeze(0))[0].round().long()
        where = (0, 0, *index)
        assert float((mask.tensor[where] > 0).double().mean()) > 0.97
        assert image.tensor[where].median() > image.tensor[mask.tensor > 0].median() + 200


def test_truth_neither_folds_nor_comes_near(pair: Pair) -> None:
    determinant = jacobian_determinant(pair.truth.field)
    assert float(determinant.min()) > 0.4
    assert 0.7 < float(determinant[pair.fixed_mask.tensor > 0].mean()) < 0.97


def test_the_diaphragm_moves_up_and_the_apex_hardly(pair: Pair) -> None:
    upward = (
        torch.from_numpy(pair.fixed.grid.affine[0, :3, :3]).float() @ pair.truth.field[0].flatten(1)
    )[2].view(pair.fixed.grid.shape)
    lung = pair.fixed_mask.tensor[0, 0] > 0
    heights = lung.nonzero()[:, 2].float()
    levels = torch.arange(lung.shape[2]).expand_as(upward)
    assert upward[lung & (levels < heights.quantile(0.1))].max() > 13
    assert upward[lung & (levels > heights.quantile(0.98))].abs().mean() < 2


def test_truth_registers_the_images(pair: Pair) -> None:
    mask = pair.fixed_mask.tensor.float()
    warped = pair.moving.warped(pair.truth).tensor
    density = jacobian_determinant(pair.truth.field)
    assert ncc(pair.fixed.tensor, density * (warped + 1000) - 1000, mask) > 0.85
    assert ncc(pair.fixed.tensor, pair.moving.tensor, mask) < 0.6
    moving_mask = dataclasses.replace(
        pair.moving_mask, tensor=pair.moving_mask.tensor.float(), discrete=False
    )
    assert dice(moving_mask.warped(pair.truth).tensor > 0.5, mask > 0.5, [1]) > 0.97
    assert (
        dice(
            pair.moving_labels.warped(pair.truth).tensor, pair.fixed_labels.tensor, [1, 2, 3, 4, 5]
        ).min()
        > 0.85
    )


def test_hounsfield_units_are_those_of_a_thorax(pair: Pair) -> None:
    assert pair.fixed.tensor[0, 0, 0, 0, -1] == pytest.approx(-1000, abs=90)
    medians = [
        i.tensor[m.tensor > 0].median()
        for i, m in ((pair.fixed, pair.fixed_mask), (pair.moving, pair.moving_mask))
    ]
    assert -900 < medians[0] < medians[1] - 10 < -740
    hu = pair.fixed.tensor
    soft, bone = ((hu > 0) & (hu < 120)).float().mean(), ((hu > 250) & (hu < 800)).float().mean()
    assert 0.1 < soft < 0.5
    assert 0.01 < bone < 0.1
    assert hu.min() > -1120
    assert hu.max() < 800
    litres = pair.fixed_mask.tensor.sum() * pair.fixed.grid.spacing.prod() / 1e6
    assert 2.5 < litres < 6


def test_lobes_fill_the_lungs(pair: Pair) -> None:
    for labels, mask in (
        (pair.fixed_labels, pair.fixed_mask),
        (pair.moving_labels, pair.moving_mask),
    ):
        assert labels.tensor.unique().tolist() == [0, 1, 2, 3, 4, 5]
        assert torch.equal(labels.tensor > 0, mask.tensor > 0)
    centers = [
        (pair.fixed_labels.tensor[0, 0] == n).nonzero().double().mean(0) for n in range(1, 6)
    ]
    # the first axis runs to the right
    assert min(c[0] for c in centers[:3]) > max(c[0] for c in centers[3:])
    assert centers[0][2] > centers[2][2]
    assert centers[1][1] > centers[2][1]
    assert centers[3][2] > centers[4][2]
    assert (
        pair.fixed_labels.tensor.eq(1).sum() + pair.fixed_labels.tensor.eq(2).sum()
        > 0.5 * pair.fixed_labels.tensor.eq(4).sum()
    )
    right, left = (
        sum(int(pair.fixed_labels.tensor.eq(n).sum()) for n in side) for side in ((1, 2, 3), (4, 5))
    )
    assert right > left


@pytest.mark.parametrize("shape", [(12, 10, 9), (48, 20, 30)])
def test_any_shape_shows_the_same_subject(shape: tuple[int, int, int]) -> None:
    reference, pair = breathing_thorax(1, (32, 32, 32)), breathing_thorax(1, shape)
    assert tuple(pair.fixed.tensor.shape) == (1, 1, *shape)
    np.testing.assert_allclose(pair.fixed.grid.center, reference.fixed.grid.center, atol=1e-6)
    for name in ("fixed", "moving"):
        ours, theirs = getattr(pair, name).tensor, getattr(reference, name).tensor
        assert float(ours.mean()) == pytest.approx(float(theirs.mean()), abs=15)
    volumes = [
        float(p.fixed_mask.tensor.sum() * p.fixed.grid.spacing.prod()) for p in (pair, reference)
    ]
    assert volumes[0] == pytest.approx(volumes[1], rel=0.08)


@pytest.mark.parametrize("seed", range(4))
def test_breathing_inverts_and_keeps_the_spine(seed: int) -> None:
    breathing = draw_breathing(
        np.random.default_rng(seed),
        half_width=122.0,
        half_depth=86.0,
        spine=-60.0,
        base=-80.0,
        apex=115.0,
    )
    points = np.random.default_rng(seed).uniform(-1, 1, (3, 3000)) * np.array(
        [[160.0], [125.0], [150.0]]
    )
    assert np.abs(breathing.map(breathing.inverse(points)) - points).max() < 1e-6
    assert breathing.jacobian_determinant(points).min() > 0.3
    spine = np.stack([np.zeros(50), np.full(50, -60.0), np.linspace(-140, 140, 50)])
    assert np.abs(breathing.displacement(spine)).max() < 1.0


@pytest.mark.parametrize("radius", [0.4, 1.0, 3.0, 8.0])
def test_a_tube_keeps_its_cross_section_whatever_the_voxel(radius: float) -> None:
    distance = np.linspace(0, 20, 20001)
    for voxel in (1.0, 4.0):
        area = float((2 * np.pi * distance * tube_coverage(distance, radius, voxel)).sum()) * 1e-3
        assert area == pytest.approx(np.pi * radius**2, rel=0.35)


def test_scans_are_cut_to_the_lungs_of_both_phases() -> None:
    whole, cut = (PhantomDataset(1, 1, (40, 32, 40), crop=crop) for crop in (None, 12.0))
    for time in (0, 1):
        before, after = (dataset.load(dataset.records()[time]) for dataset in (whole, cut))
        assert all(
            a < b
            for a, b in zip(
                after["image"].spatial_shape, before["image"].spatial_shape, strict=True
            )
        )
        # nothing of the lungs is lost
        assert int(after["mask"].data.sum()) == int(before["mask"].data.sum())
        torch.testing.assert_close(after["landmarks"], before["landmarks"])
        spacing = torch.tensor(after["image"].spacing)
        inside = after["mask"].data[0].nonzero()
        margins = (
            torch.stack(
                [inside.amin(0), torch.tensor(after["image"].spatial_shape) - 1 - inside.amax(0)]
            )
            * spacing
        )
        assert float(margins.min()) > 12 - float(spacing.max())
    fixed, moving = (cut.load(record)["image"] for record in cut.records()[:2])
    assert fixed.spatial_shape == moving.spatial_shape  # one box for both
    assert float(abs(fixed.affine - moving.affine).max()) < 1e-9


@pytest.mark.parametrize("seed", range(4))
def test_on_exhalation_the_chest_falls_and_narrows(seed: int) -> None:
    """Points of the front go back and those of the sides inwards, beside what moves irregularly
    inside.
    """
    breathing = draw_breathing(
        np.random.default_rng(seed),
        half_width=122.0,
        half_depth=86.0,
        spine=-60.0,
        base=-80.0,
        apex=115.0,
    )
    right, left, front = np.array(
        [[165.0, -165.0, 0.0], [0.0, 0.0, 116.0], [-10.0, -10.0, -10.0]]
    ).T
    moved = breathing.displacement(np.stack([right, left, front], axis=1))
    assert moved[0, 0] < -0.5 < 0.5 < moved[0, 1]
    assert moved[1, 2] < -2


def test_inhaled_lungs_are_larger_and_come_first_in_pairs() -> None:
    data = PhantomDataset(2, 2, (24, 20, 22))
    (fixed, moving), *_ = data.pairs()
    assert (fixed.time, moving.time) == ("inhale", "exhale")
    assert fixed.subject == moving.subject
    volumes = [int(data.load(record)["mask"].data.sum()) for record in (fixed, moving)]
    assert volumes[0] > 1.05 * volumes[1]
    subjects = [
        {record.subject for record in data.records() if record.split == split}
        for split in ("train", "validation")
    ]
    assert [len(names) for names in subjects] == [2, 2]
    assert not subjects[0] & subjects[1]


def test_the_box_of_both_lungs_has_its_margin_in_mm() -> None:
    """Voxels of 2, 3 and 4 mm; 7 mm are 4, 3 and 2 of them, where there is room."""
    grid = Grid.regular((30, 24, 20), (2.0, 3.0, 4.0), (-20.0, 10.0, 5.0))
    image, masks = Image(torch.rand(1, 1, *grid.shape), grid), []
    for first, last in (((10, 8, 2), (14, 15, 9)), ((12, 6, 5), (20, 10, 19))):
        mask = torch.zeros(1, 1, *grid.shape, dtype=torch.uint8)
        mask[:, :, first[0] : last[0] + 1, first[1] : last[1] + 1, first[2] : last[2] + 1] = 1
        masks.append(Image(mask, grid, discrete=True))
    points = (torch.tensor([[0.0, 40.0, 30.0]]),)
    cut = cropped_to_lungs(
        Pair(image, image, *masks, fixed_landmarks=points, moving_landmarks=points), 7.0
    )
    for part in (cut.fixed, cut.moving, cut.fixed_mask, cut.moving_mask):
        assert part.grid.shape == (20 - 10 + 1 + 8, 15 - 6 + 1 + 6, 19 - 2 + 1 + 2)
        torch.testing.assert_close(
            part.grid.to_world(torch.zeros(1, 3, 1).double()),
            grid.to_world(torch.tensor([[[6.0], [3], [0]]]).double()),
        )
    assert cut.fixed_landmarks == points
