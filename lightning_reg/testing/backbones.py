"""Checks of backbones. Factory: no arguments."""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_reg.components.contracts import require_backbone, require_features
from lightning_reg.components.interfaces import Backbone, Features
from lightning_reg.testing.checks import Factory, check, made, require
from lightning_reg.testing.fixtures import disturbed, without_gradient
from lightning_reg.testing.modules import (
    grown,
    meta_device,
    require_described,
    require_finite,
    require_growth,
    require_kept,
)

_CHANNELS = 1


def _made(factory: Factory) -> Backbone:
    backbone = made(factory, Backbone)
    require_backbone(backbone)
    return backbone


def _images(backbone: Backbone, batch: int = 1, device: str = "cpu") -> tuple[Tensor, Tensor]:
    """Random images of 8 voxels or more, different multiples of ``backbone.multiple``."""
    shape = [m * max(2 + axis, -(-8 // m)) for axis, m in enumerate(backbone.multiple)]
    generator = torch.Generator().manual_seed(3)
    both = torch.rand(2, batch, _CHANNELS, *shape, generator=generator)
    return both[0].to(device), both[1].to(device)


def _features(backbone: Backbone, batch: int = 1) -> list[Tensor]:
    features = backbone(*_images(backbone, batch))
    maps = features.maps if isinstance(features, Features) else features
    return [level for level in maps if level is not None]


@check("backbone")
def declares_levels(factory: Factory) -> None:
    """The constructor sets ``channels``, ``strides`` and ``multiple``: whole numbers, coarsest
    level first.
    """
    backbone = _made(factory)
    strides = [s[0] * s[1] * s[2] for s in backbone.strides]
    require(
        strides == sorted(strides, reverse=True),
        f"strides {backbone.strides} are not coarsest first",
    )
    for stride in backbone.strides:
        require(
            all(m % s == 0 for m, s in zip(backbone.multiple, stride, strict=True)),
            f"stride {stride} does not divide {backbone.multiple}",
        )


@check("backbone")
def features_as_declared(factory: Factory) -> None:
    """Features have the declared channels and strides, for a batch of two and extents that differ
    between axes.
    """
    backbone = _made(factory)
    images = _images(backbone, 2)
    require_features(backbone, backbone(*images), images[0])


@check("backbone")
def arguments_are_kept(factory: Factory) -> None:
    """Constructor arguments are numbers, words, or lists of them, so that a checkpoint can store
    them.
    """
    require_described(_made(factory))


@check("backbone")
def elements_are_independent(factory: Factory) -> None:
    """In evaluation, an element of a batch gets the same features as alone."""
    backbone = _made(factory).eval()
    disturbed(backbone)
    fixed, moving = _images(backbone, 2)
    with torch.no_grad():
        both, alone = backbone(fixed, moving), backbone(fixed[1:], moving[1:])
    for level, (a, b) in enumerate(zip(both, alone, strict=True)):
        if a is not None and b is not None:
            require(
                torch.allclose(a[1:], b, atol=1e-4, rtol=1e-3),
                f"level {level} differs by {float((a[1:] - b).abs().max()):.3g}",
            )


@check("backbone")
def both_images_are_read(factory: Factory) -> None:
    """Features depend on both images and on their order."""
    backbone = _made(factory).eval()
    disturbed(backbone)
    fixed, moving = _images(backbone)
    with torch.no_grad():
        here = backbone(fixed, moving)
        others = {
            "the fixed image": backbone(moving, moving),
            "the moving image": backbone(fixed, fixed),
            "their order": backbone(moving, fixed),
        }
    for what, there in others.items():
        changed = any(
            not torch.equal(a, b)
            for a, b in zip(here, there, strict=True)
            if a is not None and b is not None
        )
        require(changed, f"features do not depend on {what}")


@check("backbone")
def is_deterministic(factory: Factory) -> None:
    """In evaluation, the same images give the same features."""
    backbone = _made(factory).eval()
    with torch.no_grad():
        for a, b in zip(_features(backbone), _features(backbone), strict=True):
            require(torch.equal(a, b), "two calls differ")


@check("backbone")
def gradients_reach_every_parameter(factory: Factory) -> None:
    """Every parameter gets a gradient."""
    unused = without_gradient(
        lambda: grown(_made(factory)), lambda backbone: _features(backbone, 2)
    )
    require(not unused, f"no gradient reaches {', '.join(unused[:5])}")


@check("backbone")
def mixed_precision(factory: Factory) -> None:
    """Features are finite under bfloat16 autocast."""
    backbone = _made(factory)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        require_finite(_features(backbone, 2), "under autocast")


@check("backbone")
def follows_its_device(factory: Factory) -> None:
    """All its outputs are on the device of its weights (checked on ``meta``)."""
    backbone = _made(factory).to("meta")
    images = _images(backbone, 2, "meta")
    with meta_device():
        features = backbone(*images)
    for feature in features:
        require(
            feature is None or feature.device.type == "meta",
            "features are not on the images' device",
        )


@check("backbone")
def state_is_kept(factory: Factory) -> None:
    """A second backbone with the same weights gives the same features."""
    require_kept(lambda: _made(factory), _features)


@check("backbone")
def growth(factory: Factory) -> None:
    """A backbone that grows accepts all level weights that sum to 1, stores them in its state, and
    refuses others.
    """
    require_growth(_made(factory), _features)
