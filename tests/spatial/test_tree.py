"""The walk over tensors."""

from __future__ import annotations

from dataclasses import replace

import torch

from lightning_reg import functional as LF
from lightning_reg.components.interfaces import Level, Prediction, Registration
from lightning_reg.spatial import (
    Affine,
    BSpline,
    Composition,
    Displacement,
    Grid,
    Image,
    Pair,
    Velocity,
    mapped,
)


def double(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.double()


def test_every_tensor_of_a_pair_is_changed_and_nothing_else(pair: Pair) -> None:
    points = (torch.rand(4, 3),)
    truth = Displacement(torch.rand(1, 3, *pair.fixed.grid.shape), pair.fixed.grid)
    whole = replace(pair, fixed_landmarks=points, moving_landmarks=points, truth=truth, name=("a",))
    there = mapped(whole, double)
    assert there.name == ("a",)
    assert there.truth is not None
    assert there.fixed_landmarks is not None
    assert there.fixed_labels is not None
    tensors = [there.fixed.tensor, there.moving.tensor, there.fixed_labels.tensor]
    for tensor in [*tensors, there.truth.field, there.fixed_landmarks[0]]:
        assert tensor.dtype == torch.float64
    assert there.fixed.grid is pair.fixed.grid
    assert there.fixed_labels.discrete


def test_a_registration_is_walked_to_its_reverse_and_its_predictions(pair: Pair) -> None:
    grid = pair.fixed.grid
    stride = (4.0, 4.0, 4.0)
    members = [
        Affine(torch.eye(4)[None], grid),
        BSpline(torch.zeros(1, 3, *LF.lattice_shape(grid.shape, stride)), grid, stride),
        Velocity(torch.rand(1, 3, *grid.shape), grid, squarings=2),
    ]
    transform = Composition(members)
    logits = Image(torch.rand(1, 2, *grid.shape), grid)
    back = Level(pair.moving, pair.fixed, members[2], members[2])
    level = Level(
        pair.fixed, pair.moving, transform, members[0], back, Prediction((1,), logits, logits)
    )
    there = mapped(Registration((level,)), double).levels[0]
    assert [type(part) for part in there.transform.members] == [Affine, BSpline, Velocity]  # type: ignore[attr-defined]
    assert {part.like.dtype for part in there.transform.members} == {torch.float64}  # type: ignore[attr-defined]
    assert there.transform.members[2].squarings == 2  # type: ignore[attr-defined]
    assert there.reverse is not None
    assert there.reverse.transform.like.dtype == torch.float64
    assert there.predicted is not None
    assert there.predicted.labels == (1,)
    assert there.predicted.moving.tensor.dtype == torch.float64


def test_parts_of_a_class_are_replaced_whole(pair: Pair) -> None:
    moved = Grid.regular(pair.fixed.grid.shape)
    assert mapped(pair.fixed, lambda _: moved, Grid).grid is moved
    assert mapped((pair.fixed, None), lambda image: image.grid, Image) == (pair.fixed.grid, None)


def test_a_pair_changed_by_side(pair: Pair) -> None:
    points = (torch.zeros(2, 3),)
    whole = replace(pair, fixed_mask=None, fixed_landmarks=points, moving_landmarks=points)
    seen: list[str] = []

    def image(side: str, image: Image) -> Image:
        seen.append(side)
        return replace(image, tensor=image.tensor + (1 if side == "moving" else 0))

    there = whole.changed(image, lambda side, points: points + len(side))
    assert seen == ["fixed"] * 2 + ["moving"] * 3
    assert there.fixed_mask is None
    assert torch.equal(there.moving.tensor, pair.moving.tensor + 1)
    assert there.fixed_landmarks is not None
    assert there.moving_landmarks is not None
    assert float(there.fixed_landmarks[0][0, 0]) == 5
    assert float(there.moving_landmarks[0][0, 0]) == 6
    assert whole.changed(image).moving_landmarks is None
