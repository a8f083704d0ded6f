"""Generated anatomy: determinism, variety, invertible motions, and contrasts in range."""

from __future__ import annotations

import pytest
import torch

from lightning_reg.functional import identity_points, jacobian_determinant
from lightning_reg.shapes import RandomContrast, RandomMotion, random_map
from lightning_reg.shapes.noise import smooth_noise

SHAPE = (24, 20, 28)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_a_map_is_made_by_its_seed_alone() -> None:
    first, again, other = (random_map(SHAPE, seeded(seed)) for seed in (3, 3, 4))
    assert first.shape == (1, 1, *SHAPE)
    assert first.dtype == torch.int16
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_maps_have_several_structures_with_and_without_a_background() -> None:
    maps = [random_map(SHAPE, seeded(seed)) for seed in range(24)]
    assert all(len(one.unique()) >= 3 for one in maps)
    empty = [float((one == 0).float().mean()) for one in maps]
    assert min(empty) == 0
    assert max(empty) > 0.3


def test_smooth_noise_has_unit_variance_and_the_stated_scale() -> None:
    noise = smooth_noise((40, 40, 40), 5.0, 32, seeded(1))
    assert float(noise.mean()) == pytest.approx(0, abs=0.05)
    assert float(noise.std()) == pytest.approx(1, abs=0.1)
    apart = [float((noise * noise.roll(shift, 2)).mean()) for shift in (2, 20)]
    assert apart[0] > 0.5
    assert abs(apart[1]) < 0.1


@pytest.mark.parametrize("sliding", [0.0, 1.0])
def test_a_motion_and_its_inverse_cancel(sliding: float) -> None:
    motion = RandomMotion(sliding=sliding)
    worst = []
    for seed in range(6):
        generator = seeded(seed)
        canvas = random_map([n + 16 for n in SHAPE], generator)
        drawn = motion.draw(SHAPE, generator, canvas, offset=8)
        there = drawn.points()
        assert (drawn.slide is not None) == bool(sliding)
        error = (drawn.back_from(there) - identity_points(SHAPE))[..., 6:-6, 6:-6, 6:-6]
        worst.append(float(error.norm(dim=1).quantile(0.9)))
    assert max(worst) < 0.3  # voxels; sliding surfaces are sharper than the grid


def test_smooth_motions_do_not_fold() -> None:
    still = RandomMotion(0, 0, 0, 0, amplitude=0.05, sliding=0)
    for seed in range(6):
        drawn = still.draw(SHAPE, seeded(seed))
        assert float(jacobian_determinant(drawn.there).min()) > 0
        torch.testing.assert_close(drawn.matrix, torch.eye(4)[None])


def test_an_affine_motion_turns_about_the_centre_within_its_limits() -> None:
    turning = RandomMotion(rotation=30, scale=0, shear=0, shift=0, amplitude=0, sliding=0)
    centre = torch.tensor([(n - 1) / 2 for n in SHAPE] + [1.0])
    angles = []
    for seed in range(40):
        matrix = turning.draw(SHAPE, seeded(seed)).matrix[0]
        torch.testing.assert_close(matrix @ centre, centre, rtol=0, atol=1e-4)
        cosine = ((matrix[:3, :3].trace() - 1) / 2).clamp(-1, 1)
        angles.append(float(torch.rad2deg(torch.arccos(cosine))))
    assert max(angles) < 30
    assert max(angles) > 15


def test_sliding_moves_tissue_along_a_boundary_and_nothing_outside() -> None:
    canvas = torch.zeros(1, 1, 32, 32, 32, dtype=torch.int16)
    canvas[..., 8:24, 8:24, 8:24] = 1
    sliding = RandomMotion(0, 0, 0, 0, amplitude=0, sliding=1, slip=0.04)
    drawn = [sliding.draw((16, 16, 16), seeded(seed), canvas, offset=8) for seed in range(8)]
    moved = [d.slide for d in drawn if d.slide is not None and float(d.slide.abs().max()) > 0.3]
    assert moved
    for slide in moved:
        assert float(slide[..., :4, :, :].abs().max()) < 0.05
        face = slide[0, :, 10, 12:20, 12:20]  # just inside the boundary across the first axis
        across, along = face[0].abs().mean(), face[1:].norm(dim=0).mean()
        assert float(across) < 0.3 * float(along) + 0.02


def test_images_are_in_range_and_show_the_structures() -> None:
    labels = random_map(SHAPE, seeded(5))
    contrast = RandomContrast()
    images = []
    for seed in range(12):
        generator = seeded(seed)
        means = contrast.means(int(labels.max()) + 1, generator)
        texture = smooth_noise(SHAPE, 3, 1, generator)
        image = contrast.paint(labels, means, texture, generator)
        assert image.shape == labels.shape
        assert float(image.min()) >= 0
        assert float(image.max()) <= 1
        assert float(image.std()) > 0.02
        images.append(image)
    assert not torch.equal(images[0], images[1])


def test_without_disturbances_a_contrast_keeps_the_order_of_its_means() -> None:
    labels = torch.zeros(1, 1, 12, 12, 12, dtype=torch.int16)
    labels[..., 4:] = 1
    labels[..., 8:] = 2
    plain = RandomContrast(0, 0, 0, 0, 1, 0, 0, 0, 0)
    means = torch.tensor([0.1, 0.8, 0.4])
    image = plain.paint(labels, means, torch.zeros(1, 1, 12, 12, 12), seeded(2))
    inside = [float(image[..., k].mean()) for k in (1, 6, 10)]
    assert inside[0] < inside[2] < inside[1]


def test_related_means_differ_little_and_keep_an_empty_background() -> None:
    contrast = RandomContrast(variation=0.05)
    means = torch.tensor([0.0, 0.3, 0.9])
    changes = torch.stack([contrast.related(means, seeded(k)) - means for k in range(50)])
    assert float(changes[:, 0].abs().max()) == 0
    assert 0.02 < float(changes[:, 1].std()) < 0.08
