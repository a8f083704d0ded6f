"""Checks of composers. Factory: no arguments; use small networks, for images of 28 x 24 x 21
voxels.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_reg.components.contracts import require_registration
from lightning_reg.components.interfaces import Composer, Registration
from lightning_reg.functional import ssd
from lightning_reg.spatial import Image, Pair
from lightning_reg.testing.checks import Factory, check, made, require
from lightning_reg.testing.fixtures import (
    SHAPE,
    disturbed,
    grid,
    moved,
    pair,
    texture,
    turned_world,
    without_gradient,
)
from lightning_reg.testing.modules import (
    grown,
    meta_device,
    require_described,
    require_finite,
    require_growth,
    require_kept,
    require_stages,
)


def _made(factory: Factory) -> Composer:
    return made(factory, Composer)


def _registered(composer: Composer, pair: Pair) -> Registration:
    registration = composer(pair.fixed, pair.moving)
    require_registration(composer, registration)
    return registration


def _fields(composer: Composer, of: Pair | None = None) -> list[Tensor]:
    both = pair(batch=2, everything=False) if of is None else of
    return [
        level.transform.displacement(level.fixed.grid)
        for level in _registered(composer, both).levels
    ]


@check("composer")
def makes_a_registration(factory: Factory) -> None:
    """It returns levels, the last one with the complete transform, in training and in evaluation,
    also for odd extents.
    """
    for shape in (SHAPE, (27, 25, 23)):
        both = pair(shape, batch=2, everything=False)
        for training in (True, False):
            composer = _made(factory).train(training)
            registration = _registered(composer, both)
            field = registration.transform.displacement(both.fixed.grid)
            require(
                tuple(field.shape) == (2, 3, *shape), f"the displacement is {tuple(field.shape)}"
            )


@check("composer")
def arguments_are_kept(factory: Factory) -> None:
    """Constructor arguments are components, numbers, words, or lists of them, so that a checkpoint
    can store them.
    """
    require_described(_made(factory))


@check("composer")
def takes_images_of_different_grids(factory: Factory) -> None:
    """The moving image may have another size, spacing and direction; before training no point moves
    by more than a voxel.
    """
    both = pair(same_grid=False, everything=False)
    composer = _made(factory).eval()
    with torch.no_grad():
        transform = _registered(composer, both).transform
        points = both.fixed.grid.to_world(both.fixed.grid.points(dtype=torch.float64).flatten(2))
        shift = (transform.map_world(points) - points).norm(
            dim=1
        ).max() / both.fixed.grid.spacing.min()
    require(shift <= 1.0, f"a point of the world moves by {float(shift):.3g} voxels")


@check("composer")
def starts_near_the_identity(factory: Factory) -> None:
    """Before training, no point moves by more than a voxel."""
    with torch.no_grad():
        field = _fields(_made(factory).eval())[-1]
    require(field.abs().max() <= 1.0, f"a point moves by {float(field.abs().max()):.3g} voxels")


@check("composer")
def elements_are_independent(factory: Factory) -> None:
    """In evaluation, a pair in a batch gets the same transform as alone."""
    composer = _made(factory).eval()
    disturbed(composer)
    both = pair(batch=2, everything=False)
    with torch.no_grad():
        wrong = float(
            (_fields(composer, both)[-1][1:] - _fields(composer, both.elements()[1])[-1])
            .abs()
            .max()
        )
    require(wrong < 1e-2, f"the displacement differs by {wrong:.3g} voxels")


@check("composer")
def does_not_depend_on_directions(factory: Factory) -> None:
    """A pair that is rotated, mirrored and translated in the world as a whole gets the same
    displacement in voxels.
    """
    composer = _made(factory).eval()
    disturbed(composer)
    both = pair(everything=False)
    world = turned_world()
    fixed, moving = (Image(x.tensor, moved(x.grid, world)) for x in (both.fixed, both.moving))
    there = Pair(fixed, moving)
    with torch.no_grad():
        wrong = float((_fields(composer, both)[-1] - _fields(composer, there)[-1]).abs().max())
    require(wrong < 1e-2, f"the displacement changes by {wrong:.3g} voxels")


@check("composer")
def gradients_reach_every_parameter(factory: Factory) -> None:
    """Every trained parameter is used by one of the levels."""
    unused = without_gradient(lambda: grown(_made(factory).train()), _fields)
    require(not unused, f"no gradient reaches {', '.join(unused[:5])}")


@check("composer")
def learns_a_translation(factory: Factory) -> None:
    """Sixty steps of Adam on a pair shifted along one axis reduce the difference and move points
    that way, for each axis.
    """
    for axis in range(3):
        torch.manual_seed(axis)
        composer, both = _made(factory).train(), _shifted(axis, 2.0)
        optimizer = torch.optim.Adam([p for p in composer.parameters() if p.requires_grad], lr=2e-3)
        losses = []
        for _ in range(60):
            registration = _registered(composer, both)
            loss = torch.stack(
                [
                    ssd(level.fixed.tensor, level.warped.tensor).mean()
                    for level in registration.levels
                ]
            ).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(float(loss))
        mean = _fields(composer, both)[-1].mean((0, 2, 3, 4))
        require(
            losses[-1] < 0.8 * losses[0],
            f"along axis {axis} the squared difference goes from {losses[0]:.3g} to"
            f" {losses[-1]:.3g} only",
        )
        moves = ", ".join(f"{float(m):.2f}" for m in mean)
        require(
            mean[axis] > 0.1 and mean.argmax() == axis,
            f"a shift of 2 voxels along axis {axis} is found as ({moves})",
        )


def _shifted(axis: int, voxels: float) -> Pair:
    """A pair whose true displacement is ``voxels`` along an axis."""
    on = grid()
    points = on.points(dtype=torch.float64)
    shift = torch.zeros(1, 3, 1, 1, 1, dtype=torch.float64)
    shift[:, axis] = voxels
    fixed, moving = (texture(1.5 * (p - 10)).float() for p in (points + shift, points))
    return Pair(Image(fixed, on), Image(moving, on))


@check("composer")
def mixed_precision(factory: Factory) -> None:
    """Under bfloat16 autocast the displacement is finite and in float32."""
    with torch.autocast("cpu", dtype=torch.bfloat16), torch.no_grad():
        fields = _fields(_made(factory))
    require_finite(fields, "under autocast")
    require(all(f.dtype == torch.float32 for f in fields), f"displacements are {fields[-1].dtype}")


@check("composer")
def follows_its_device(factory: Factory) -> None:
    """All its outputs are on the device of its weights (checked on ``meta``)."""
    with meta_device():
        found = _fields(_made(factory).to("meta"), pair(batch=2, everything=False).to("meta"))
    require(found[-1].device.type == "meta", f"the displacement is on {found[-1].device}")


@check("composer")
def state_is_kept(factory: Factory) -> None:
    """A second composer with the same weights gives the same registration."""
    require_kept(lambda: _made(factory), _fields)


@check("composer")
def growth_and_stages(factory: Factory) -> None:
    """Parts that grow or train in stages follow the rules of :class:`Growable` and :class:`Staged`,
    also in their state.
    """
    composer = _made(factory).eval()
    require_growth(composer, _fields)
    require_stages(composer)
