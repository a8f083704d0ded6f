"""Pair of images to be registered, with masks, labels, landmarks and the true transform."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property, partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lightning_reg.functional import label_values, target_registration_error
from lightning_reg.registry import ArgumentError, require_kind
from lightning_reg.spatial.fields import Displacement
from lightning_reg.spatial.grid import Grid
from lightning_reg.spatial.image import Image
from lightning_reg.spatial.transforms import Transform
from lightning_reg.spatial.tree import mapped

Part = tuple[Sequence[int], Sequence[int]]


@dataclass(frozen=True, eq=False)
class Pair:
    """Fixed and moving image (batched), with optional masks, labels, landmarks and true transform.

    Landmarks are tuples of ``(N, 3)`` RAS mm, one per batch element, because their number differs
    between cases. ``truth`` maps the fixed to the moving world, like every transform.

    Raises:
        ArgumentError: a field is of another class, or the batches are of different length.
    """

    fixed: Image
    moving: Image
    fixed_mask: Image | None = None
    moving_mask: Image | None = None
    fixed_labels: Image | None = None
    moving_labels: Image | None = None
    fixed_landmarks: tuple[Tensor, ...] | None = None
    moving_landmarks: tuple[Tensor, ...] | None = None
    truth: Displacement | None = None
    name: tuple[str, ...] = ("pair",)

    def __post_init__(self) -> None:
        lengths = {}
        for f in fields(self)[:-1]:
            value = getattr(self, f.name)
            if value is None and f.name not in ("fixed", "moving"):
                continue
            if f.name.endswith("landmarks"):
                require_kind(
                    value,
                    tuple,
                    f"Pair: {f.name}",
                    "give a tuple of (N, 3) tensors in RAS mm, one per element of the batch",
                )
                lengths[f.name] = len(value)
            elif f.name == "truth":
                require_kind(value, Displacement, "Pair: truth", "give a Displacement")
                lengths[f.name] = value.field.shape[0]
            else:
                require_kind(value, Image, f"Pair: {f.name}", "give an Image(tensor, grid)")
                lengths[f.name] = value.tensor.shape[0]
        if len(set(lengths.values())) > 1:
            raise ArgumentError(
                "Pair: batches of different length:"
                f" {', '.join(f'{name} {n}' for name, n in lengths.items())}"
            )

    def described(self) -> dict[str, str]:
        """Both images and what else there is, in words."""
        words = {"name": ", ".join(self.name)}
        for name in ("fixed", "moving"):
            words[name] = "; ".join(getattr(self, name).described().values())
        others = sorted(self.has() - {"fixed", "moving", "name"})
        return words | (
            {"also": ", ".join(other.replace("_", " ") for other in others)} if others else {}
        )

    def __repr__(self) -> str:
        return f"Pair({', '.join(f'{name}: {text}' for name, text in self.described().items())})"

    def has(self) -> frozenset[str]:
        """Names of the fields that are present."""
        return frozenset(f.name for f in fields(self) if getattr(self, f.name) is not None)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Pair:
        moved = mapped(self, lambda tensor: tensor.to(device, non_blocking=non_blocking))
        if self.fixed.tensor.device.type == "cpu":
            self.labels()  # computed here: on a GPU this would wait for the device
        if "_foreground" in self.__dict__:
            moved.__dict__["_foreground"] = self._foreground
        return moved

    def changed(
        self,
        image: Callable[[str, Image], Image],
        points: Callable[[str, Tensor], Tensor] | None = None,
        **others: Any,
    ) -> Pair:
        """The pair with other images and landmarks.

        Args:
            image: from the side, ``fixed`` or ``moving``, and its image, mask or labels.
            points: from the side and the landmarks ``(N, 3)`` of one element; without it, landmarks
                are dropped.
            others: other fields, as ``truth``.
        """
        for side in ("fixed", "moving"):
            for name in (side, f"{side}_mask", f"{side}_labels"):
                others[name] = mapped(getattr(self, name), partial(image, side), Image)
            name = f"{side}_landmarks"
            others[name] = points and mapped(getattr(self, name), partial(points, side))
        return replace(self, **others)

    def cropped(self, fixed: Part, moving: Part) -> Pair:
        """Crop both images, each to ``(start, shape)`` in voxels; landmarks are dropped, as they
        may be outside.
        """
        parts, truth = {"fixed": fixed, "moving": moving}, self.truth
        if truth is not None:
            inside = Image(truth.field, truth.grid).cropped(*fixed)
            truth = Displacement(inside.tensor, inside.grid)
        return self.changed(lambda side, image: image.cropped(*parts[side]), truth=truth)

    def labels(self) -> list[int]:
        """The foreground labels of the fixed and moving label maps, ascending; empty if one of the
        maps is missing.
        """
        if self.fixed_labels is None or self.moving_labels is None:
            return []
        return list(self._foreground)

    @cached_property
    def _foreground(self) -> tuple[int, ...]:
        maps = [
            image.tensor for image in (self.fixed_labels, self.moving_labels) if image is not None
        ]
        return tuple(sorted({value for labels in maps for value in label_values(labels)} - {0}))

    def landmark_errors(self, transform: Transform | None = None) -> tuple[Tensor, ...]:
        """Target registration error per landmark in mm, one ``(N,)`` per batch element; before
        registration by default.
        """
        if self.fixed_landmarks is None or self.moving_landmarks is None:
            raise ValueError("Pair: no landmarks on both images")
        errors = []
        for b, (fixed, moving) in enumerate(
            zip(self.fixed_landmarks, self.moving_landmarks, strict=True)
        ):
            mapped = fixed.T.unsqueeze(0)
            if transform is not None:
                batch = max(transform.grid.batch, len(self.fixed_landmarks))
                mapped = transform.map_world(mapped.expand(batch, -1, -1))[b : b + 1]
            errors.append(target_registration_error(mapped, moving.T.unsqueeze(0))[0])
        return tuple(errors)

    def elements(self) -> list[Pair]:
        """The pairs of the batch, one by one; images that :meth:`collate` padded stay padded."""
        count = self.fixed.tensor.shape[0]
        return [
            Pair(**{f.name: _element(getattr(self, f.name), b) for f in fields(self)})
            for b in range(count)
        ]

    @staticmethod
    def collate(pairs: Sequence[Pair]) -> Pair:
        """Join pairs into one batch. Images of different sizes are padded after their last voxel to
        the largest.

        Raises:
            ArgumentError: there is no pair, or something else than pairs.
        """
        if not pairs:
            raise ArgumentError("Pair.collate: pairs is empty; give one Pair or more")
        for pair in pairs:
            require_kind(
                pair, Pair, "Pair.collate: one of pairs", "give Pair(fixed, moving) objects"
            )
        if len(pairs) == 1:
            pairs[0].labels()  # computed once, in the process that loads the pairs
            return pairs[0]
        joined = {f.name: _joined([getattr(pair, f.name) for pair in pairs]) for f in fields(Pair)}
        batch = Pair(**joined)
        batch.labels()
        return batch


def _element(value: Any, b: int) -> Any:
    """Element of the batch of a field, which stays a batch of one."""
    if isinstance(value, Displacement):
        image = _element(Image(value.field, value.grid), b)
        return Displacement(image.tensor, image.grid)
    if isinstance(value, Image):
        grid = value.grid
        grid = grid if grid.batch == 1 else Grid(grid.shape, grid.affine[b])
        return replace(value, tensor=value.tensor[b : b + 1], grid=grid)
    return None if value is None else (value[b],)


def _joined(values: Sequence[Any]) -> Any:
    """Values of a field in one batch; ``None`` if one is missing."""
    if any(value is None for value in values):
        return None
    if isinstance(values[0], tuple):
        return tuple(item for value in values for item in value)
    fields = isinstance(values[0], Displacement)
    images = [Image(value.field, value.grid) if fields else value for value in values]
    shape = [max(sizes) for sizes in zip(*(image.grid.shape for image in images), strict=True)]
    padded = [image.padded_to(shape, border=fields) for image in images]
    affines = [np.broadcast_to(p.grid.affine, (p.tensor.shape[0], 4, 4)) for p in padded]
    tensor = torch.cat([p.tensor for p in padded])
    grid = replace(padded[0].grid, affine=np.concatenate(affines))
    return Displacement(tensor, grid) if fields else replace(padded[0], tensor=tensor, grid=grid)
