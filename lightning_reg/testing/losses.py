"""Checks of loss terms. Factory: no arguments."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lightning_reg.components.contracts import require_values
from lightning_reg.components.interfaces import Level, LossTerm, Prediction
from lightning_reg.functional import one_hot
from lightning_reg.registry import TrainingError
from lightning_reg.spatial import (
    Affine,
    Composition,
    Displacement,
    Grid,
    Image,
    IntegratedGradient,
    Pair,
    Transform,
)
from lightning_reg.testing.checks import ConformanceError, Factory, check, made, require
from lightning_reg.testing.fixtures import SHAPE, only, pair, truth
from lightning_reg.testing.modules import require_described

FIELDS = frozenset(Pair.__dataclass_fields__) - {"fixed", "moving", "name"}


def _made(factory: Factory) -> LossTerm:
    term = made(factory, LossTerm)
    require(
        term.needs <= FIELDS,
        f"it needs {', '.join(sorted(term.needs - FIELDS))}, which is no field of a pair",
    )
    return term


def _kinds(field: Tensor, on: Grid) -> list[Transform]:
    """Transforms of several kinds that contain a field: a term may accept only one kind."""
    affine = torch.eye(4).repeat(field.shape[0], 1, 1)
    affine[:, 0, 3] = field.mean((1, 2, 3, 4))
    steps = 1 + 0.1 * field
    return [
        Displacement(field, on),
        Composition([Displacement(field, on), Affine(affine, on)]),
        IntegratedGradient(steps, on),
    ]


def _level(pair: Pair, transform: Transform, reverse: bool) -> Level:
    back = Level(pair.moving, pair.fixed, transform, transform) if reverse else None
    return Level(pair.fixed, pair.moving, transform, transform, back, _predicted(pair, transform))


def _predicted(pair: Pair, transform: Transform) -> Prediction | None:
    """The moving labels as predictions for both images, for the fixed one warped."""
    if pair.moving_labels is None:
        return None
    logits = Image(4 * one_hot(pair.moving_labels.tensor, (0, 1, 2)), pair.moving_labels.grid)
    grid = pair.fixed.grid
    return Prediction((1, 2), logits.warped(transform, grid), logits.resampled(grid))


def _value(term: LossTerm, pair: Pair, field: Tensor) -> Tensor:
    """Values ``(B,)`` of a displacement, in a transform of the first kind that the term accepts."""
    refused: TrainingError | None = None
    for transform in _kinds(field, pair.fixed.grid):
        try:
            return require_values(
                term, term(_level(pair, transform, term.reverse), pair), pair.fixed.tensor.shape[0]
            )
        except TrainingError as cause:  # it needs another kind of transform
            refused = cause
    raise ConformanceError(f"it takes no kind of transform ({refused})")


def _identity(pair: Pair) -> Tensor:
    return torch.zeros(pair.fixed.tensor.shape[0], 3, *pair.fixed.grid.shape)


def _rough(pair: Pair) -> Tensor:
    """Displacements that fold."""
    return 3 * torch.randn(_identity(pair).shape, generator=torch.Generator().manual_seed(8))


@check("loss")
def one_value_per_element(factory: Factory) -> None:
    """It returns one finite value per element of the batch, ``(B,)``."""
    term, both = _made(factory), pair(batch=2)
    values = _value(term, both, truth(both.fixed.grid, 2).field / 2)
    require(torch.isfinite(values).all(), f"values are {values.tolist()}")


@check("loss")
def arguments_are_kept(factory: Factory) -> None:
    """Constructor arguments are numbers, words, or lists of them, so that a checkpoint can store
    them.
    """
    require_described(_made(factory))


@check("loss")
def needs_what_it_declares(factory: Factory) -> None:
    """It reads only the images of a pair and the fields named in ``needs``."""
    term = _made(factory)
    both = only(pair(), term.needs)
    _value(term, both, truth(both.fixed.grid).field / 2)


@check("loss")
def elements_are_independent(factory: Factory) -> None:
    """An element of a batch gets the same value as alone."""
    term, both = _made(factory), pair(batch=2)
    field = truth(both.fixed.grid, 2).field / 2
    together, alone = _value(term, both, field), _value(term, both.elements()[1], field[1:])
    require(
        torch.allclose(together[1:], alone, rtol=1e-3, atol=1e-5),
        f"{float(together[1]):.5g} in a batch, {float(alone[0]):.5g} alone",
    )


@check("loss")
def prefers_the_truth(factory: Factory) -> None:
    """It is smaller for the true displacement than for none (a similarity), or smaller for none
    than for noise (a regulariser).
    """
    term, both = _made(factory), pair()
    identity, true, rough = (
        float(_value(term, both, f))
        for f in (_identity(both), truth(both.fixed.grid).field, _rough(both))
    )
    told = f"{true:.5g} for the truth, {identity:.5g} for the identity, {rough:.5g} for noise"
    require(true < identity or identity < rough, told)


@check("loss")
def is_differentiable(factory: Factory) -> None:
    """Gradients exist, are finite, and are not all 0 for a wrong displacement."""
    term, both = _made(factory), pair()
    total = 0.0
    for wrong in (truth(both.fixed.grid).field / 2, _rough(both)):
        field = wrong.clone().requires_grad_()
        _value(term, both, field).sum().backward()
        require(
            field.grad is not None and torch.isfinite(field.grad).all(),
            "the gradient is missing, NaN or infinite",
        )
        assert field.grad is not None
        total += float(field.grad.abs().sum())
    require(total > 0, "the gradient is 0")


@check("loss")
def is_a_mean(factory: Factory) -> None:
    """Its value does not grow with the number of voxels: with twice the voxels along each axis it
    changes by less than a factor of 3.
    """
    term = _made(factory)
    values = []
    for times in (1, 2):
        both = pair([times * n for n in SHAPE])
        values.append(float(_value(term, both, truth(both.fixed.grid).field / 2)))
    if max(map(abs, values)) > 1e-4:
        ratio = abs(values[1]) / max(abs(values[0]), 1e-9)
        require(1 / 3 < ratio < 3, f"{values[0]:.5g} becomes {values[1]:.5g}")


@check("loss")
def mixed_precision(factory: Factory) -> None:
    """Under bfloat16 autocast its value is finite, and within 5 % of that in float32."""
    term, both = _made(factory), pair()
    field = truth(both.fixed.grid).field / 2
    full = float(_value(term, both, field))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = float(_value(term, both, field))
    require(
        abs(half - full) <= 0.05 * abs(full) + 1e-3,
        f"{full:.5g} in float32, {half:.5g} under autocast",
    )


@check("loss")
def leaves_its_input_alone(factory: Factory) -> None:
    """Images and displacements are unchanged afterwards."""
    term, both = _made(factory), pair()
    field = truth(both.fixed.grid).field / 2
    given: Sequence[Tensor] = (both.fixed.tensor, both.moving.tensor, field)
    before = [tensor.clone() for tensor in given]
    _value(term, both, field)
    require(
        all(torch.equal(a, b) for a, b in zip(given, before, strict=True)),
        "a tensor that it was given has changed",
    )
