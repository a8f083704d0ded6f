"""Pair of images to be registered, with masks, labels, landmarks and the true transform."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from lightning_reg.functional import label_values, target_registration_error
from lightning_reg.registry import ArgumentError, require_kind
from lightning_reg.spatial.grid import Grid
from lightning_reg.spatial.image import Image
from lightning_reg.spatial.transforms import Displacement, Transform

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
        moved: dict[str, object] = {}
        for f in fields(self):
            value = getattr(self, f.name)
            if isinstance(value, Image):
                moved[f.name] = value.to(device, non_blocking)
            elif isinstance(value, Displacement):
                moved[f.name] = Displacement(
                    value.field.to(device, non_blocking=non_blocking), value.grid
                )
            elif isinstance(value, tuple) and f.name != "name":
                moved[f.name] = tuple(
                    points.to(device, non_blocking=non_blocking) for points in value
                )
        there = replace(self, **moved)  # type: ignore[arg-type]
        if self.fixed.tensor.device.type == "cpu":
            self.labels()  # found here: on a GPU this would wait for the device
        if "_foreground" in self.__dict__:
            there.__dict__["_foreground"] = self._foreground
        return there

    def cropped(self, fixed: Part, moving: Part) -> Pair:
        """Crop both images, each to ``(start, shape)`` in voxels; landmarks are dropped, as they
        may be outside.
        """
        changed: dict[str, object] = {"fixed_landmarks": None, "moving_landmarks": None}
        for side, (start, shape) in (("fixed", fixed), ("moving", moving)):
            for name in (side, f"{side}_mask", f"{side}_labels"):
                image: Image | None = getattr(self, name)
                changed[name] = None if image is None else image.cropped(start, shape)
        if self.truth is not None:
            part = Image(self.truth.field, self.truth.grid).cropped(*fixed)
            changed["truth"] = Displacement(part.tensor, part.grid)
        return replace(self, **changed)  # type: ignore[arg-type]

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
        return [self._element(b) for b in range(self.fixed.tensor.shape[0])]

    def _element(self, b: int) -> Pair:
        one: dict[str, object] = {}
        for f in fields(self):
            value = getattr(self, f.name)
            if isinstance(value, Image):
                one[f.name] = replace(
                    value, tensor=value.tensor[b : b + 1], grid=_element_grid(value.grid, b)
                )
            elif isinstance(value, Displacement):
                one[f.name] = Displacement(value.field[b : b + 1], _element_grid(value.grid, b))
            else:
                one[f.name] = None if value is None else (value[b],)
        return Pair(**one)  # type: ignore[arg-type]

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
            pairs[0].labels()  # found once, in the process that loads the pairs
            return pairs[0]
        joined: dict[str, object] = {}
        for f in fields(Pair):
            values = [getattr(p, f.name) for p in pairs]
            if any(v is None for v in values):
                joined[f.name] = None
            elif isinstance(values[0], Image):
                joined[f.name] = _join(values)
            elif isinstance(values[0], Displacement):
                image = _join([Image(v.field, v.grid) for v in values], border=True)
                joined[f.name] = Displacement(image.tensor, image.grid)
            else:
                joined[f.name] = tuple(item for value in values for item in value)
        batch = Pair(**joined)  # type: ignore[arg-type]
        batch.labels()
        return batch


def _element_grid(grid: Grid, b: int) -> Grid:
    return grid if grid.batch == 1 else Grid(grid.shape, grid.affine[b])


def _join(images: Sequence[Image], border: bool = False) -> Image:
    shape = [max(sizes) for sizes in zip(*(image.grid.shape for image in images), strict=True)]
    padded = [image.padded_to(shape, border) for image in images]
    affine = np.concatenate(
        [np.broadcast_to(p.grid.affine, (p.tensor.shape[0], 4, 4)) for p in padded]
    )
    first = padded[0]
    return replace(
        first, tensor=torch.cat([p.tensor for p in padded]), grid=replace(first.grid, affine=affine)
    )
