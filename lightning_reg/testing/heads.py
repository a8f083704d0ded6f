"""Checks of heads. Factory: ``channels`` and ``strides`` of a backbone's levels."""

from __future__ import annotations

import inspect

import torch
from torch import Tensor

from lightning_reg.components.contracts import require_transforms
from lightning_reg.components.interfaces import Head
from lightning_reg.functional import bspline
from lightning_reg.spatial import Grid, Transform
from lightning_reg.testing.checks import Factory, check, made, require
from lightning_reg.testing.fixtures import (
    difference,
    disturbed,
    grid,
    moved,
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
)

CHANNELS = (16, 12, 8)
STRIDES = ((4, 4, 4), (2, 2, 2), (1, 1, 1))


def _made(factory: Factory) -> Head:
    given = {"channels": CHANNELS, "strides": STRIDES}
    parameters = inspect.signature(factory).parameters
    anything = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    taken = {key: value for key, value in given.items() if anything or key in parameters}
    return made(factory, Head, **taken)


def _features(shape: tuple[int, ...], batch: int = 1, device: str = "cpu") -> list[Tensor]:
    """Smooth random features of unit variance, of images padded to the coarsest stride."""
    generator = torch.Generator().manual_seed(4)
    padded = [-(-n // 4) * 4 for n in shape]
    found = []
    for channels, stride in zip(CHANNELS, STRIDES, strict=True):
        size = [n // s for n, s in zip(padded, stride, strict=True)]
        coarse = torch.randn(batch, channels, 4, 4, 4, generator=generator)
        smooth = bspline(coarse, size, [(n - 1) / 3 for n in size], [0.0] * 3)
        found.append((smooth / smooth.std()).to(device))
    return found


def _found(head: Head, on: Grid, batch: int = 1) -> list[Transform]:
    transforms = head(_features(on.shape, batch), on)
    require_transforms(head, transforms)
    return list(transforms)


def _fields(head: Head) -> list[Tensor]:
    on = grid()
    return [t.displacement(on) for t in _found(head, on, 2)]


def _moving(factory: Factory) -> Head:
    """A head that moves points, with disturbed parameters."""
    head = _made(factory).eval()
    disturbed(head, 0.05)
    return head


@check("head")
def makes_transforms(factory: Factory) -> None:
    """It returns transforms, the result last; their displacement on the fixed grid is
    ``(B, 3, I, J, K)`` for any image size.
    """
    head = _made(factory)
    for shape in ((28, 24, 21), (17, 22, 19)):
        on = grid(shape)
        found = _found(head, on, 2)[-1].displacement(on)
        require(
            tuple(found.shape) == (2, 3, *shape),
            f"the displacement on {on} is {tuple(found.shape)}",
        )
        require(found.dtype == torch.float32, f"the displacement is {found.dtype}")
        require(torch.isfinite(found).all(), "the displacement is NaN or infinite")


@check("head")
def arguments_are_kept(factory: Factory) -> None:
    """Constructor arguments are numbers, words, or lists of them, so that a checkpoint can store
    them.
    """
    require_described(_made(factory), ("channels", "strides"))


@check("head")
def starts_near_the_identity(factory: Factory) -> None:
    """Before training, no point moves by more than a voxel."""
    with torch.no_grad():
        for field in _fields(_made(factory)):
            require(
                field.abs().max() <= 1.0, f"a point moves by {float(field.abs().max()):.3g} voxels"
            )


@check("head")
def can_move(factory: Factory) -> None:
    """Points move once the parameters have changed."""
    with torch.no_grad():
        require(_fields(_moving(factory))[-1].abs().max() > 1e-3, "nothing moves")


@check("head")
def elements_are_independent(factory: Factory) -> None:
    """An element of a batch gets the same transform as alone."""
    head, on = _moving(factory), grid()
    features = _features(on.shape, 2)
    with torch.no_grad():
        both, alone = (
            head(features, on)[-1].displacement(on),
            head([f[1:] for f in features], on)[-1].displacement(on),
        )
    require(
        torch.allclose(both[1:], alone, atol=1e-4),
        f"the displacement differs by {float((both[1:] - alone).abs().max()):.3g} voxels",
    )


@check("head")
def component_a_moves_along_axis_a(factory: Factory) -> None:
    """Component *a* of the displacement is the world points' motion along voxel axis *a*."""
    head, on = _moving(factory), grid()
    with torch.no_grad():
        transform = _found(head, on)[-1]
        points = on.points(dtype=torch.float64).flatten(2)
        there = on.to_voxel(transform.map_world(on.to_world(points))) - points
        field = transform.displacement(on).flatten(2)
    for axis in range(3):
        wrong = float((there[:, axis] - field[:, axis]).abs().max())
        require(wrong < 1e-2, f"component {axis} and the world map differ by {wrong:.3g} voxels")


@check("head")
def does_not_depend_on_directions(factory: Factory) -> None:
    """The same features on a grid rotated, mirrored and translated in the world give the same
    displacement in voxels.
    """
    head, on = _moving(factory), grid()
    there = moved(on, turned_world())
    features = _features(on.shape)
    with torch.no_grad():
        wrong = difference(head(features, on)[-1], head(features, there)[-1], on, there)
    require(wrong < 1e-2, f"the displacement changes by {wrong:.3g} voxels")


@check("head")
def has_an_inverse(factory: Factory) -> None:
    """Inside the image, the inverse maps points back to within a tenth of a voxel."""
    head, on = _made(factory).eval(), grid()
    disturbed(head, 0.01)
    with torch.no_grad():
        transform = _found(head, on)[-1]
        points = on.to_world(
            on.points(dtype=torch.float64)[:, :, 6:-6:3, 6:-6:3, 6:-6:3].flatten(2)
        )
        back = on.to_voxel(transform.inverse().map_world(transform.map_world(points)))
        wrong = float((back - on.to_voxel(points)).abs().max())
    require(wrong < 0.1, f"points come back {wrong:.3g} voxels away from where they were")


@check("head")
def gradients_reach_every_parameter(factory: Factory) -> None:
    """Every parameter gets a gradient."""
    unused = without_gradient(lambda: grown(_made(factory)), _fields)
    require(not unused, f"no gradient reaches {', '.join(unused[:5])}")


@check("head")
def mixed_precision(factory: Factory) -> None:
    """Under bfloat16 autocast the displacement is finite and in float32."""
    head = _moving(factory)
    with torch.autocast("cpu", dtype=torch.bfloat16), torch.no_grad():
        fields = _fields(head)
    require_finite(fields, "under autocast")
    require(all(f.dtype == torch.float32 for f in fields), f"displacements are {fields[-1].dtype}")


@check("head")
def follows_its_device(factory: Factory) -> None:
    """All its outputs are on the device of its weights (checked on ``meta``)."""
    head, on = _made(factory).to("meta"), grid()
    with meta_device():
        found = head(_features(on.shape, 2, "meta"), on)[-1].displacement(on)
    require(found.device.type == "meta", f"the displacement is on {found.device}")


@check("head")
def state_is_kept(factory: Factory) -> None:
    """A second head with the same weights gives the same transforms."""
    require_kept(lambda: _made(factory), _fields)


@check("head")
def growth(factory: Factory) -> None:
    """A head that grows accepts all level weights that sum to 1, stores them in its state, and
    refuses others.
    """
    require_growth(_made(factory), _fields)
