"""Comparison of features at neighbouring positions."""

from __future__ import annotations

import itertools

import pytest
import torch

from lightning_reg.functional import correlation_volume


@pytest.mark.parametrize("shape", [(5, 4, 6), (7, 5)])
@pytest.mark.parametrize("radius", [1, 2])
def test_a_correlation_volume_is_the_cosine_of_centred_features_at_every_offset(
    shape: tuple[int, ...], radius: int
) -> None:
    generator = torch.Generator().manual_seed(3)
    one, other = (torch.randn(2, 3, *shape, generator=generator) for _ in range(2))
    volume = correlation_volume(one, other, radius)
    offsets = list(itertools.product(range(-radius, radius + 1), repeat=len(shape)))
    assert volume.shape == (2, len(offsets), *shape)
    axes = tuple(range(2, 2 + len(shape)))
    a, b = (x.double() - x.double().mean(axes, keepdim=True) for x in (one, other))
    for number, offset in enumerate(offsets):
        for place in itertools.product(*(range(n) for n in shape)):
            there = tuple(
                min(max(p + o, 0), n - 1) for p, o, n in zip(place, offset, shape, strict=True)
            )
            wanted = torch.cosine_similarity(a[(..., *place)], b[(..., *there)], dim=1)
            torch.testing.assert_close(
                volume[:, number][(..., *place)].double(), wanted, atol=2e-3, rtol=2e-3
            )


def test_a_correlation_volume_does_not_depend_on_brightness_and_contrast() -> None:
    one, other = torch.rand(1, 4, 6, 5, 4), torch.rand(1, 4, 6, 5, 4)
    volume = correlation_volume(one, other)
    torch.testing.assert_close(
        correlation_volume(50 * one + 3, 20 * other - 1), volume, atol=5e-3, rtol=0
    )


def test_the_largest_correlation_is_at_the_shift_between_two_images() -> None:
    features = torch.randn(1, 8, 9, 9, 9, generator=torch.Generator().manual_seed(0))
    volume = correlation_volume(features, features.roll((1, 0, -1), (2, 3, 4)))
    assert set(volume[:, :, 2:-2, 2:-2, 2:-2].argmax(1).unique().tolist()) == {9 * 2 + 3 * 1 + 0}
