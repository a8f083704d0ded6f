"""Checks of components beyond their signatures. Messages name component and distribution."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from lightning_reg.components.interfaces import (
    Backbone,
    Composer,
    Features,
    Head,
    LossTerm,
    Registration,
)
from lightning_reg.registry import ComponentError, arguments_of, origin, require_kind
from lightning_reg.registry.loading import public_name
from lightning_reg.spatial import Transform


def require_backbone(backbone: Backbone) -> None:
    """Refuse a backbone without ``channels``, ``strides`` and ``multiple`` as documented for
    :class:`Backbone`.

    Raises:
        ComponentError: names the first invalid attribute.
    """
    who = origin(backbone)
    for name in ("channels", "strides", "multiple"):
        if not hasattr(backbone, name):
            raise ComponentError(
                f"{who} has no attribute '{name}', which its constructor has to set; see"
                f" {_page(Backbone)}."
            )
    channels, strides, multiple = backbone.channels, backbone.strides, backbone.multiple
    if not _whole(channels) or not channels:
        raise ComponentError(
            f"{who} has channels {channels!r}; set one number of feature maps per output level,"
            " coarsest first."
        )
    if not _whole(multiple) or len(multiple) != 3:
        raise ComponentError(
            f"{who} has multiple {multiple!r}; set three numbers of voxels, one per axis."
        )
    if (
        not isinstance(strides, Sequence)
        or len(strides) != len(channels)
        or not all(_whole(s) and len(s) == 3 for s in strides)
    ):
        raise ComponentError(
            f"{who} has strides {strides!r} and channels {channels!r}; set three numbers of voxels"
            f" for each of the {len(channels)} levels."
        )


def _whole(values: object) -> bool:
    return (
        isinstance(values, Sequence)
        and not isinstance(values, str)
        and all(isinstance(v, int) and v > 0 for v in values)
    )


def require_fitting(backbone: Backbone, heads: Sequence[Head]) -> None:
    """Refuse an empty list of heads, and heads made for the channels, strides or aspect of
    another backbone.

    Raises:
        ComponentError: names the head and the backbone, with their values.
    """
    for head in heads:
        require_kind(
            head,
            Head,
            "A network's head",
            f"give objects of classes that derive from {_page(Head)}",
        )
        for name in ("channels", "strides", "aspect"):
            made_for, own = arguments_of(head).get(name), getattr(backbone, name)
            if made_for is not None and _plain(made_for) != _plain(own):
                raise ComponentError(
                    f"{type(head).__name__} was made for {name} {_plain(made_for)}, and"
                    f" {type(backbone).__name__} has {_plain(own)}; make it with"
                    f" {name}=backbone.{name}."
                )
    if not heads:
        raise ComponentError("A network has no head; give one, or several.")


def _plain(values: Any) -> Any:
    return [_plain(v) for v in values] if isinstance(values, Sequence) else values


def require_features(backbone: Backbone, features: object, images: Tensor) -> None:
    """Refuse features that do not have one tensor per level, of the size given by the backbone's
    ``channels`` and ``strides``.

    Args:
        images: the input, ``(B, C, I, J, K)``. For a backbone that takes images of different size,
            only the numbers of maps are checked.

    Raises:
        ComponentError: names the level.
    """
    who = origin(backbone)
    features = features.maps if isinstance(features, Features) else features
    if not isinstance(features, Sequence) or len(features) != len(backbone.channels):
        count = len(features) if isinstance(features, Sequence) else f"a {type(features).__name__}"
        raise ComponentError(
            f"{who} returned {count} where features of {len(backbone.channels)} levels are meant;"
            f" see {_page(Backbone)}."
        )
    for level, (found, channels, strides) in enumerate(
        zip(features, backbone.channels, backbone.strides, strict=True)
    ):
        if found is None:
            continue
        size = tuple(n // s for n, s in zip(images.shape[2:], strides, strict=True))
        wanted = (images.shape[0], channels, *size)
        if isinstance(found, Tensor) and found.dim() == 5 and backbone.separate:
            wanted = (images.shape[0], channels, *found.shape[2:])
        if not isinstance(found, Tensor) or tuple(found.shape) != wanted:
            came = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
            raise ComponentError(
                f"{who} returned features of {came} at level {level}, where its channels and"
                f" strides say {wanted}."
            )


def require_transforms(head: nn.Module, outputs: object) -> None:
    """Refuse an output that is not a sequence of transforms.

    Raises:
        ComponentError: names the type of the output.
    """
    who = origin(head)
    if (
        not isinstance(outputs, Sequence)
        or not outputs
        or not all(isinstance(t, Transform) for t in outputs)
    ):
        came = (
            f"[{', '.join(type(t).__name__ for t in outputs)}]"
            if isinstance(outputs, Sequence)
            else type(outputs).__name__
        )
        raise ComponentError(
            f"{who} returned {came}; return a list of transforms (lightning_reg.spatial), the"
            f" result last. See {_page(Head)}."
        )


def require_registration(composer: Composer, registration: object) -> None:
    """Refuse an output that is not a registration with levels.

    Raises:
        ComponentError: names the type of the output.
    """
    if not isinstance(registration, Registration) or not registration.levels:
        came = (
            "one without levels"
            if isinstance(registration, Registration)
            else type(registration).__name__
        )
        raise ComponentError(
            f"{origin(composer)} returned {came}; return a Registration with one Level or more. See"
            f" {_page(Composer)}."
        )


def require_values(term: LossTerm, values: object, batch: int) -> Tensor:
    """Return the values of a loss term; refuse them if there is not one per element of the batch.

    Raises:
        ComponentError: names the shape or type of the values.
    """
    if not isinstance(values, Tensor) or tuple(values.shape) != (batch,):
        came = tuple(values.shape) if isinstance(values, Tensor) else type(values).__name__
        raise ComponentError(
            f"{origin(term)} returned {came}; return one value per element of the batch, of the"
            f" shape ({batch},)."
        )
    return values


def _page(interface: type) -> str:
    return public_name(interface)
