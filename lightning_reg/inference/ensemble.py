"""Several registrations of one pair: their mean and their spread."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lightning_reg.inference.registrar import Inputs, Registrar
from lightning_reg.inference.result import Result
from lightning_reg.registry import ArgumentError
from lightning_reg.spatial import Displacement, Grid, Image, Pair

Variant = Callable[[Pair], Pair]
"""Another storage of a preprocessed pair (flipped, padded) in the same world: a transform between
its images also fits the pair.
"""
SHIFT = 2
"""Voxels padded before the first one, so that networks pool other groups of voxels."""


def flipped(pair: Pair, axis: int) -> Pair:
    """Both images stored in reverse order along an axis; every voxel keeps its position in the
    world.
    """

    def turned(image: Image) -> Image:
        turn = np.eye(4)
        turn[axis, axis], turn[axis, 3] = -1, image.grid.shape[axis] - 1
        return replace(
            image,
            tensor=image.tensor.flip(2 + axis),
            grid=Grid(image.grid.shape, image.grid.affine @ turn),
        )

    return Pair(turned(pair.fixed), turned(pair.moving), name=pair.name)


def padded_in_front(pair: Pair, voxels: int = SHIFT) -> Pair:
    """Both images padded by ``voxels`` before the first voxel of each axis; every voxel keeps its
    position in the world.
    """

    def moved(image: Image) -> Image:
        tensor = torch.nn.functional.pad(image.tensor, [voxels, 0] * 3, value=image.padding)
        start, shape = [-voxels] * 3, [n + voxels for n in image.grid.shape]
        return replace(image, tensor=tensor, grid=image.grid.cropped(start, shape))

    return Pair(moved(pair.fixed), moved(pair.moving), name=pair.name)


def variants() -> list[Variant]:
    """Variants for test-time augmentation: unchanged, flipped by axis, padded in front."""
    return [lambda pair: pair, *(partial(flipped, axis=axis) for axis in range(3)), padded_in_front]


class Ensemble:
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
        self.members = list(members)
        self.optimization = members[0].optimization
        self.metrics = members[0].metrics

    @classmethod
    def of(cls, registrars: Sequence[Registrar], augment: bool) -> Ensemble:
        """Make an ensemble of several models; with ``augment``, each in all :func:`variants`."""
        if not augment:
            return cls(registrars)
        return cls(
            [
                replace(registrar, variant=variant)
                for registrar in registrars
                for variant in variants()
            ]
        )

    def register(
        self,
        fixed: Any,
        moving: Any,
        *,
        progress: Callable[[str], None] | None = None,
        **given: Any,
    ) -> Result:
        """As :meth:`Registrar.register`; the result has a :attr:`~Result.spread`."""
        refine = given.pop("refine", None)
        return self.register_inputs(
            Inputs.read({"fixed": fixed, "moving": moving, **given}),
            refine=refine,
            progress=progress,
        )

    def register_inputs(
        self,
        inputs: Inputs,
        *,
        refine: int | None = None,
        progress: Callable[[str], None] | None = None,
    ) -> Result:
        """As :meth:`Registrar.register_inputs`; the result has a :attr:`~Result.spread`."""
        results: list[Result] = []
        for number, member in enumerate(self.members):
            results.append(
                replace(member, metrics=self.metrics).register_inputs(inputs, refine=refine)
            )
            if progress is not None:
                progress(f"member {number + 1} of {len(self.members)}")
        first, grid = results[0], results[0].pair.fixed.grid
        fields = torch.cat([result.displacement.float() for result in results])
        mean = fields.mean(0, keepdim=True)
        spacing = torch.as_tensor(grid.spacing).to(fields).view(1, 3, 1, 1, 1)
        spread = (
            ((fields - mean) * spacing).square().sum(1, keepdim=True).mean(0, keepdim=True).sqrt()
        )
        seconds = {
            key: sum(result.seconds.get(key, 0.0) for result in results) for key in first.seconds
        }
        settings = {
            "members": [result.settings for result in results],
            "version": first.settings.get("version"),
        }
        warnings = list(dict.fromkeys(warning for result in results for warning in result.warnings))
        return replace(
            first,
            transform=Displacement(mean, grid),
            optimized=None,
            weights=None,
            spread=spread,
            seconds=seconds,
            settings=settings,
            warnings=warnings,
        )


def models(
    paths: Sequence[str | Path], load: Callable[[str | Path], Registrar], augment: bool
) -> Registrar | Ensemble:
    """A registrar for one model; an ensemble for several or for test-time augmentation."""
    registrars = [load(path) for path in paths]
    return (
        registrars[0] if len(registrars) == 1 and not augment else Ensemble.of(registrars, augment)
    )
