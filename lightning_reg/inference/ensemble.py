"""Several registrations of one pair: their mean and their spread."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from lightning_reg.data.symmetry import reordered
from lightning_reg.inference.inputs import AnyRegistrar, Inputs
from lightning_reg.inference.registrar import Registrar
from lightning_reg.inference.result import Result
from lightning_reg.inference.steps import Predict, Step, Variant
from lightning_reg.registry import ArgumentError
from lightning_reg.spatial import Displacement, Image, Pair

SHIFT = 2
"""Voxels padded before the first one, so that networks pool other groups of voxels."""


def flipped(pair: Pair, axis: int) -> Pair:
    """Both images stored in reverse order along an axis, at their places in the world."""
    flips = [other == axis for other in range(3)]
    fixed, moving = (reordered(image, range(3), flips) for image in (pair.fixed, pair.moving))
    return Pair(fixed, moving, name=pair.name)


def padded_in_front(pair: Pair, voxels: int = SHIFT) -> Pair:
    """Both images padded before the first voxel of each axis, at their places in the world."""

    def moved(image: Image) -> Image:
        tensor = torch.nn.functional.pad(image.tensor, [voxels, 0] * 3, value=image.padding)
        start, shape = [-voxels] * 3, [n + voxels for n in image.grid.shape]
        return replace(image, tensor=tensor, grid=image.grid.cropped(start, shape))

    return Pair(moved(pair.fixed), moved(pair.moving), name=pair.name)


def variants() -> list[Variant]:
    """Variants for test-time augmentation: unchanged, flipped by axis, padded in front."""
    return [lambda pair: pair, *(partial(flipped, axis=axis) for axis in range(3)), padded_in_front]


class Ensemble(AnyRegistrar):
    """Mean of the displacements of several models, or of one model in several variants.

    The mean of similar smooth maps is smooth. :attr:`Result.spread` gives the disagreement of the
    members in mm.

    Args:
        members: two registrars or more.

    Raises:
        ArgumentError: fewer than two members.
    """

    def __init__(self, members: Sequence[Registrar]) -> None:
        if len(members) < 2:
            raise ArgumentError(f"{len(members)} members; give two or more")
        self.members, self.metrics = list(members), members[0].metrics

    def register_inputs(
        self,
        inputs: Inputs,
        *,
        refine: int | None = None,
        progress: Callable[[str], None] | None = None,
    ) -> Result:
        results: list[Result] = []
        for number, member in enumerate(self.members, 1):
            measured = replace(member, metrics=self.metrics)
            results.append(measured.register_inputs(inputs, refine=refine))
            if progress is not None:
                progress(f"member {number} of {len(self.members)}")
        first, grid = results[0], results[0].grid
        fields = torch.cat([result.displacement.float() for result in results])
        mean = fields.mean(0, keepdim=True)
        spacing = torch.as_tensor(grid.spacing).to(fields).view(1, 3, 1, 1, 1)
        squares = ((fields - mean) * spacing).square().sum(1, keepdim=True)
        members, version = [each.settings for each in results], first.settings.get("version")
        return replace(
            first,
            transform=Displacement(mean, grid),
            optimized=None,
            weights=None,
            spread=squares.mean(0, keepdim=True).sqrt(),
            seconds={key: sum(r.seconds.get(key, 0.0) for r in results) for key in first.seconds},
            settings={"members": members, "version": version},
            warnings=list(dict.fromkeys(text for result in results for text in result.warnings)),
        )


def varied(registrar: Registrar) -> list[Registrar]:
    """A registrar with its network in each of the :func:`variants`."""

    def of(step: Step, variant: Variant) -> Step:
        return replace(step, variant=variant) if isinstance(step, Predict) else step

    return [
        replace(registrar, steps=[of(step, variant) for step in registrar.steps])
        for variant in variants()
    ]


def models(
    paths: Sequence[str | Path], load: Callable[[str | Path], Registrar], augment: bool
) -> AnyRegistrar:
    """A registrar for one model; an ensemble for several or for test-time augmentation.

    Args:
        augment: test-time augmentation: mean over flips and a small shift of the images.
    """
    registrars = [load(path) for path in paths]
    if augment:
        registrars = [each for registrar in registrars for each in varied(registrar)]
    return registrars[0] if len(registrars) == 1 else Ensemble(registrars)
