"""Augmentation: truth, landmarks and masks remain consistent with the images."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torchio as tio
from making import data_of

from lightning_reg.data.augmentation import Augmentation
from lightning_reg.data.symmetry import rotated
from lightning_reg.functional import bspline, rotation_matrix
from lightning_reg.registry import ArgumentError, ComponentError
from lightning_reg.spatial import Displacement, Grid, Image, Pair

DEFORMED = {
    "affine": {"affine": {"scales": 0.1, "degrees": 8, "translation": 6}},
    "elastic": {"elastic": {"num_control_points": 6, "max_displacement": 5}},
    "both": {
        "affine": {"scales": 0.05, "degrees": 5},
        "elastic": {"num_control_points": 6, "max_displacement": 3},
    },
}


def colour(world: torch.Tensor) -> torch.Tensor:
    """A smooth pattern of the world ``(1, 3, I, J, K)``, mm."""
    x, y, z = (world[:, a : a + 1] for a in range(3))
    return (
        torch.sin(x / 11) + torch.cos(y / 13 + 1) + torch.sin(z / 12 + x / 37)
    ).float() / 6 + 0.5


def oblique_grid() -> Grid:
    linear = rotation_matrix(torch.tensor([[0.2, -0.3, 0.15]], dtype=torch.float64))[
        0
    ] @ torch.diag(torch.tensor([2.0, 2.4, 2.2]).double())
    affine = torch.eye(4, dtype=torch.float64)
    affine[:3, :3], affine[:3, 3] = linear, torch.tensor([12.0, -30.0, 7.0])
    return Grid((36, 30, 33), affine)


@pytest.fixture
def pair() -> Pair:
    """Different, oblique grids; ``fixed(x) = pattern(phi(x))`` and ``moving = pattern``, so that
    ``fixed = moving o phi`` exactly.
    """
    fixed_grid = oblique_grid()
    moving_grid = fixed_grid.resized([41, 36, 38]).cropped((1, -2, 2), fixed_grid.shape)
    generator = torch.Generator().manual_seed(3)
    control = (torch.rand(1, 3, 6, 6, 6, generator=generator) - 0.5) * 3
    truth = Displacement(
        bspline(control, fixed_grid.shape, [n / 5 for n in fixed_grid.shape], [0.0, 0.0, 0.0]),
        fixed_grid,
    )
    points = fixed_grid.to_world(fixed_grid.points(dtype=torch.float64))
    fixed = Image(colour(truth.map_world(points.flatten(2)).view(points.shape)), fixed_grid, 0.5)
    moving = Image(
        colour(moving_grid.to_world(moving_grid.points(dtype=torch.float64))), moving_grid, 0.5
    )
    inside = torch.tensor([n - 1.0 for n in fixed_grid.shape]) * (
        0.3 + 0.4 * torch.rand(15, 3, generator=generator)
    )
    landmarks = fixed_grid.to_world(inside.double().T[None])
    return Pair(
        fixed, moving,
        *(Image((image.tensor > 0.5).short(), image.grid, discrete=True) for image in (fixed, moving, fixed, moving)),
        (landmarks[0].T.float(),), (truth.map_world(landmarks)[0].T.float(),), truth,
    )  # fmt: skip


def require_consistent(pair: Pair, tolerance: float, voxels: float = 0.05) -> None:
    """Images through the truth, landmarks through the truth, masks on their images."""
    margin = 5
    inner = (slice(None), slice(None), *[slice(margin, -margin)] * 3)
    mapped = pair.truth.map_voxels(pair.fixed.grid.points())
    there = pair.fixed.grid.voxel_map(pair.moving.grid)
    at = (
        (
            torch.from_numpy(there[:, :3, :3]) @ mapped.flatten(2).double()
            + torch.from_numpy(there[:, :3, 3:])
        )
        .view(mapped.shape)
        .float()
    )
    upper = torch.tensor(pair.moving.grid.shape).view(1, 3, 1, 1, 1) - 1
    known = ((at > margin) & (at < upper - margin)).all(1, keepdim=True)[inner]
    assert float(known.float().mean()) > 0.1
    difference = (pair.moving.warped(pair.truth).tensor - pair.fixed.tensor).abs()[inner][known]
    assert float(difference.mean()) < tolerance
    errors = pair.landmark_errors(pair.truth)[0]
    assert len(errors) > 3
    assert float(errors.max()) < voxels * float(pair.fixed.grid.spacing.max())
    for image, mask in ((pair.fixed, pair.fixed_mask), (pair.moving, pair.moving_labels)):
        assert mask.tensor.dtype == torch.int16
        assert float(((image.tensor > 0.5) == (mask.tensor > 0))[inner].float().mean()) > 0.9


def test_the_pair_is_consistent_to_begin_with(pair: Pair) -> None:
    require_consistent(pair, 0.003)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_turns_and_flips_are_exact(pair: Pair, axis: int) -> None:
    """Four quarter turns are none, and each of them is a rotation; voxels are moved, not
    interpolated.
    """
    changes = set()
    for seed in range(30):
        changed = Augmentation(turn=[axis])(pair, [seed])
        assert sorted(changed.fixed.tensor.flatten().tolist()) == sorted(
            pair.fixed.tensor.flatten().tolist()
        )
        assert np.linalg.det(changed.fixed.grid.affine) * np.linalg.det(pair.fixed.grid.affine) > 0
        np.testing.assert_allclose(changed.fixed.grid.center, pair.fixed.grid.center)
        require_consistent(changed, 0.003)
        changes.add(tuple(changed.fixed.tensor[0, 0, :2, 0, 0].tolist()))
    assert len(changes) == 4
    mirrored = Augmentation(flip=[axis])
    results = [mirrored(pair, [seed]) for seed in range(12)]
    require_consistent(next(r for r in results if r is not pair), 0.003)
    assert {r is pair for r in results} == {True, False}


def test_a_flip_is_torchios(pair: Pair) -> None:
    changed = rotated(pair, [0, 1, 2], [True, False, False])
    expected = tio.Flip(axes=(0,))(
        tio.ScalarImage(tensor=pair.fixed.tensor[0], affine=pair.fixed.grid.affine[0])
    )
    torch.testing.assert_close(changed.fixed.tensor[0], expected.data)
    np.testing.assert_allclose(changed.fixed.grid.affine[0], expected.affine, atol=1e-9)


@pytest.mark.parametrize("separately", [[], ["affine", "elastic"]])
@pytest.mark.parametrize("name", DEFORMED)
def test_deformed_pairs_keep_their_truth_and_landmarks(
    pair: Pair, name: str, separately: list[str]
) -> None:
    for seed in range(3):
        changed = Augmentation(**DEFORMED[name], separately=separately)(pair, [seed])
        require_consistent(changed, 0.012, voxels=0.12)
        assert float((changed.fixed.tensor - pair.fixed.tensor).abs().mean()) > 0.005
        moves = [
            getattr(changed, f"{side}_landmarks")[0] - getattr(pair, f"{side}_landmarks")[0]
            for side in ("fixed", "moving")
        ]
        apart = float((moves[0].mean(0) - moves[1].mean(0)).norm())
        assert apart > 0.3 if separately else apart < 0.3


def test_an_affine_change_is_torchios(pair: Pair) -> None:
    """The image that TorchIO makes of the same draw."""
    arguments = {
        "scales": (1.1, 1.1, 0.9, 0.9, 1, 1),
        "degrees": (5, 5, 0, 0, -7, -7),
        "translation": (2, 2, -3, -3, 1, 1),
    }
    changed = Augmentation(affine=arguments)(pair, [0])
    image = tio.ScalarImage(tensor=pair.fixed.tensor[0], affine=pair.fixed.grid.affine[0])
    expected = tio.Affine((1.1, 0.9, 1), (5, 0, -7), (2, -3, 1), default_pad_value=0.5)(image).data
    difference = (changed.fixed.tensor[0] - expected).abs()[:, 3:-3, 3:-3, 3:-3]
    assert float(difference.median()) < 1e-4
    assert float(difference.mean()) < 0.01


@pytest.mark.parametrize("separately", [[], ["crop"]])
def test_crops_keep_what_lies_in_both(pair: Pair, separately: list[str]) -> None:
    shapes = set()
    for seed in range(6):
        changed = Augmentation(crop_mm=8.0, separately=separately)(pair, [seed])
        shapes.add(changed.fixed.grid.shape)
        most = np.floor(8.0 / pair.fixed.grid.spacing[0] + 1)
        assert (
            np.array(changed.fixed.grid.shape) >= np.array(pair.fixed.grid.shape) - 2 * most
        ).all()
        assert len(changed.fixed_landmarks[0]) == len(changed.moving_landmarks[0])
        torch.testing.assert_close(
            changed.landmark_errors(pair.truth)[0].max(), torch.tensor(0.0), atol=0.2, rtol=0
        )
    assert len(shapes) > 3
    in_plane = Augmentation(crop_voxels=[4, 4, 0])(pair, [1])
    assert in_plane.fixed.grid.shape[2] == pair.fixed.grid.shape[2]
    assert in_plane.fixed.grid.shape[0] < pair.fixed.grid.shape[0]


@pytest.mark.parametrize("name", ["noise", "gamma", "bias"])
def test_intensities_change_alike_or_separately(pair: Pair, name: str) -> None:
    same = replace(pair, moving=pair.fixed)
    alike = Augmentation(**{name: 0.4}, separately=[])(same, [4])
    apart = Augmentation(**{name: 0.4})(same, [4])
    assert torch.equal(alike.fixed.tensor, alike.moving.tensor)
    assert not torch.equal(apart.fixed.tensor, apart.moving.tensor)
    assert not torch.equal(alike.fixed.tensor, pair.fixed.tensor)
    assert alike.truth is pair.truth


def test_a_seed_says_it_all_and_nothing_global_changes(pair: Pair) -> None:
    everything = Augmentation(0.1, 0.2, 0.3, [0, 1], [2], **DEFORMED["both"], crop_mm=5)
    state = torch.get_rng_state()
    first, again, other = (
        everything(pair, [1, 2]),
        everything(pair, [1, 2]),
        everything(pair, [1, 3]),
    )
    assert torch.equal(state, torch.get_rng_state())
    assert torch.equal(first.fixed.tensor, again.fixed.tensor)
    assert first.fixed.tensor.shape != other.fixed.tensor.shape or not torch.equal(
        first.fixed.tensor, other.fixed.tensor
    )
    assert Augmentation()(pair, [1]) is pair


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"flip": [3]}, "flip is [3]; give some of 0, 1, 2"),
        ({"separately": ["noize"]}, "separately is ['noize']; give some of affine"),
        ({"crop_voxels": [4]}, "crop_voxels is [4]; give three whole numbers of voxels"),
        (
            {"affine": {"degree": 5}},
            "'affine' does not take an argument 'degree'; did you mean 'degrees'",
        ),
    ],
)
def test_settings_that_cannot_be(arguments: dict, message: str) -> None:
    with pytest.raises((ValueError, ComponentError)) as caught:
        Augmentation(**arguments)
    assert message in str(caught.value)


def test_on_the_device_a_batch_is_augmented_pair_by_pair_in_training_only(pair: Pair) -> None:
    data = data_of(
        "phantom",
        {"name": "groups"},
        augmentation={"turn": [2], "noise": 0.1, **DEFORMED["affine"]},
        augment_on="device",
    )
    stand = SimpleNamespace(
        training=True,
        fit_loop=SimpleNamespace(epoch_loop=SimpleNamespace(total_batch_idx=7)),
        global_rank=0,
    )
    data.trainer = stand
    batch = Pair.collate([pair, pair])
    first, again = data.on_after_batch_transfer(batch, 0), data.on_after_batch_transfer(batch, 0)
    assert torch.equal(first.fixed.tensor, again.fixed.tensor)
    a, b = first.elements()
    assert a.fixed.tensor.shape[0] == 1
    assert not torch.equal(a.moving.tensor, b.moving.tensor)
    for element in (
        Augmentation(**DEFORMED["affine"])(pair, [1]),
        *Pair.collate([pair, pair]).elements(),
    ):
        require_consistent(element, 0.012, voxels=0.12)
    stand.training = False
    assert data.on_after_batch_transfer(batch, 0) is batch
    with pytest.raises(ArgumentError, match=r"data\.augment_on is 'gpu'; give workers or device"):
        data_of("phantom", {"name": "groups"}, augment_on="gpu")


def test_gamma_makes_images_darker_and_brighter(pair: Pair) -> None:
    changes = [
        float((Augmentation(gamma=0.3)(pair, [seed]).fixed.tensor - pair.fixed.tensor).mean())
        for seed in range(12)
    ]
    assert min(changes) < -0.01 < 0.01 < max(changes)


@pytest.mark.parametrize("side", ["fixed", "moving"])
def test_crops_are_alike_or_separate(pair: Pair, side: str) -> None:
    one = getattr(pair, side)
    same = Pair(one, one)
    for seed in range(6):
        alike = Augmentation(crop_voxels=[5, 4, 6], separately=[])(same, [seed])
        assert alike.fixed.grid.matches(alike.moving.grid)
    apart = [
        Augmentation(crop_voxels=[5, 4, 6], separately=["crop"])(same, [seed]) for seed in range(6)
    ]
    assert not any(cropped.fixed.grid.matches(cropped.moving.grid) for cropped in apart)


def test_a_crop_in_mm_cuts_as_many_voxels_as_fit_into_it() -> None:
    """Of 8 mm in voxels of 1, 2 and 4 mm, at either end of each axis; half of an axis stays
    whatever is asked for.
    """
    grid = Grid.regular((40, 36, 32), (1.0, 2.0, 4.0), (3.0, -5.0, 8.0))
    image = Image(torch.rand(1, 1, *grid.shape), grid)
    starts, ends = [], []
    for seed in range(60):
        cropped = Augmentation(crop_mm=8.0)(Pair(image, image), [seed]).fixed.grid
        start = (
            grid.to_voxel(cropped.to_world(torch.zeros(1, 3, 1).double()))[0, :, 0].round().int()
        )
        starts.append(start)
        ends.append(torch.tensor(grid.shape) - start - torch.tensor(cropped.shape))
    for cut in (torch.stack(starts), torch.stack(ends)):
        assert cut.amin(0).tolist() == [0, 0, 0]
        assert cut.amax(0).tolist() == [8, 4, 2]
    for seed in range(8):
        left = Augmentation(crop_voxels=[100, 100, 100])(
            Pair(image, image), [seed]
        ).fixed.grid.shape
        assert all(n >= whole / 2 for n, whole in zip(left, grid.shape, strict=True))
