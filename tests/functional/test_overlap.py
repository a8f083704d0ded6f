"""Overlap of labels, distance of landmarks."""

from __future__ import annotations

import math

import pytest
import torch

from lightning_reg import functional as LF


def boxes():
    first, second = (
        torch.zeros(2, 1, 6, 7, 8, dtype=torch.int64),
        torch.zeros(2, 1, 6, 7, 8, dtype=torch.int64),
    )
    first[:, :, 0:4, 0:2, 0:2] = 1
    second[:, :, 1:5, 0:2, 0:2] = 1
    first[0, :, :, 6, 7] = 4
    return first, second


def test_dice_of_shifted_boxes():
    first, second = boxes()
    scores = LF.dice(first, second, [1, 4, 9])
    assert scores.shape == (2, 3)
    assert scores[:, 0].tolist() == pytest.approx([0.75, 0.75])
    assert scores[0, 1].item() == 0
    assert [math.isnan(v) for v in scores[1].tolist()] == [False, True, True]
    assert math.isnan(scores[0, 2].item())


def test_one_hot():
    first, _ = boxes()
    channels = LF.one_hot(first, [0, 4, 1])
    assert channels.shape == (2, 3, 6, 7, 8)
    assert channels.dtype == torch.float32
    torch.testing.assert_close(channels.sum(1), torch.ones(2, 6, 7, 8))
    assert torch.equal(channels[:, 2:].bool(), first == 1)


@pytest.mark.parametrize("values", [[0, 2, 7], [-3, 0, 4], [0, 70_000], [0.0, 1.0]])
def test_label_values_are_those_of_the_map(values):
    labels = torch.tensor(values)[
        torch.randint(len(values), (1, 1, 9, 8, 7), generator=torch.Generator().manual_seed(0))
    ]
    assert LF.label_values(labels) == sorted(values)
    assert LF.label_values(labels[..., :0]) == []


def test_soft_dice_of_labels_is_dice():
    first, second = boxes()
    for values in ([1], [1, 4]):
        soft = LF.soft_dice(LF.one_hot(first, values), LF.one_hot(second, values))
        torch.testing.assert_close(soft, LF.dice(first, second, values).nanmean(1).float())


def test_a_structure_empty_in_both_does_not_count():
    first, second = boxes()
    soft = LF.soft_dice(LF.one_hot(first, [1, 9]), LF.one_hot(second, [1, 9]))
    assert soft.tolist() == pytest.approx([0.75, 0.75])
    assert LF.soft_dice(LF.one_hot(first, [9]), LF.one_hot(second, [9])).tolist() == [0, 0]


def test_soft_dice_is_that_of_milletari(noise):
    a, b = noise(2, 3, 4, 5, 6).sigmoid(), noise(2, 3, 4, 5, 6).sigmoid()
    dims = (2, 3, 4)
    expected = (2 * (a * b).sum(dims) / ((a**2).sum(dims) + (b**2).sum(dims))).mean(1)
    torch.testing.assert_close(LF.soft_dice(a, b), expected)


def test_target_registration_error():
    mapped = torch.zeros(1, 3, 2)
    target = torch.tensor([[3.0, 0.0], [4.0, 0.0], [12.0, -2.0]])[None]
    assert LF.target_registration_error(mapped, target).tolist() == [[13.0, 2.0]]
    with pytest.raises(ValueError, match="correspond"):
        LF.target_registration_error(mapped, target[..., :1])
