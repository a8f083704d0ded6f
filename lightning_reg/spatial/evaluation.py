"""How good a transform is for a pair whose correspondence is known in part."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lightning_reg.functional import (
    SurfaceDistance,
    dice,
    folding_fraction,
    jacobian_determinant,
    masked_mean,
    ncc,
    sdlogj,
    surface_distances,
)
from lightning_reg.spatial.grid import Grid
from lightning_reg.spatial.image import Image
from lightning_reg.spatial.pair import Pair
from lightning_reg.spatial.transforms import Transform


@dataclass(frozen=True)
class Case:
    """The evaluation of one pair. Distances in mm; what the pair does not allow is ``None``.

    Args:
        name: the pair's.
        folding: fraction of voxels with ``det J <= 0``. This, SDlogJ and field errors count inside the fixed mask where there is one.
        sdlogj: standard deviation of ``log det J``.
        sd_j: standard deviation of ``det J``, as de Vos et al. (2019) give it.
        tre_before, tre_after: target registration error per landmark, ``(N,)``.
        motion_true, motion_predicted: displacement of the fixed landmarks, ``(N, 3)`` RAS.
        dice_before, dice_after: per foreground label; NaN for a label in neither image.
        surface_before, surface_after: per foreground label; NaN for a label that one image lacks.
        field_before, field_after: mean distance from the true displacement.
        mask_before, mask_after: Dice of the masks, where there are no labels.
        ncc_before, ncc_after: correlation of the images, inside the fixed mask where there is one.
    """

    name: str
    folding: float
    sdlogj: float
    tre_before: Tensor | None = None
    tre_after: Tensor | None = None
    motion_true: Tensor | None = None
    motion_predicted: Tensor | None = None
    dice_before: dict[int, float] | None = None
    dice_after: dict[int, float] | None = None
    surface_before: dict[int, SurfaceDistance] | None = None
    surface_after: dict[int, SurfaceDistance] | None = None
    field_before: float | None = None
    field_after: float | None = None
    mask_before: float | None = None
    mask_after: float | None = None
    ncc_before: float | None = None
    ncc_after: float | None = None
    sd_j: float | None = None

    def row(self) -> dict[str, str | float]:
        """One value per quantity, for a table: means over landmarks and labels."""
        values: dict[str, str | float] = {"case": self.name}
        for when in ("before", "after"):
            tre: Tensor | None = getattr(self, f"tre_{when}")
            if tre is not None:
                values[f"tre_{when}_mm"], values[f"tre_{when}_sd_mm"] = float(tre.mean()), float(tre.std(correction=0))
        for when in ("before", "after"):
            scores: dict[int, float] | None = getattr(self, f"dice_{when}")
            if scores:
                values[f"dice_{when}"] = float(torch.tensor(list(scores.values())).nanmean())
        for name in SurfaceDistance._fields:
            for when in ("before", "after"):
                found: dict[int, SurfaceDistance] | None = getattr(self, f"surface_{when}")
                if found:
                    values[f"{name}_{when}_mm"] = float(torch.tensor([getattr(d, name) for d in found.values()]).nanmean())
        for when in ("before", "after"):
            if getattr(self, f"field_{when}") is not None:
                values[f"field_error_{when}_mm"] = getattr(self, f"field_{when}")
        for name, key in (("mask", "mask_dice"), ("ncc", "ncc")):
            for when in ("before", "after"):
                if getattr(self, f"{name}_{when}") is not None:
                    values[f"{key}_{when}"] = getattr(self, f"{name}_{when}")
        return values | {"folding": self.folding, "sdlogj": self.sdlogj} | ({} if self.sd_j is None else {"sd_j": self.sd_j})


@torch.no_grad()
def evaluate(pair: Pair, transform: Transform, start: Transform | None = None, surfaces: bool = False) -> Case:
    """Evaluate a transform on one pair.

    Args:
        pair: of batch size 1.
        transform: fixed world to moving world.
        start: what *before* is; default: as the images' headers relate them.
        surfaces: measure surface distances too, which takes longer than all the rest.
    """
    grid = pair.fixed.grid
    displacement = transform.displacement(grid)
    determinant = jacobian_determinant(displacement)
    mask = None if pair.fixed_mask is None else pair.fixed_mask.on(grid).tensor
    inside = determinant if mask is None else determinant[mask.expand_as(determinant) > 0]
    found: dict[str, object] = {"sd_j": float(inside.std(correction=0)) if inside.numel() else float("nan")}
    if pair.fixed_landmarks is not None and pair.moving_landmarks is not None:
        fixed, moving = pair.fixed_landmarks[0], pair.moving_landmarks[0]
        mapped = transform.map_world(fixed.T.unsqueeze(0))[0].T
        found |= {"tre_before": pair.landmark_errors(start)[0].cpu(), "tre_after": pair.landmark_errors(transform)[0].cpu()}
        found |= {"motion_true": (moving - fixed).cpu(), "motion_predicted": (mapped - fixed).cpu()}
    labels = pair.labels()
    if labels and pair.fixed_labels is not None and pair.moving_labels is not None:
        fixed_labels = pair.fixed_labels.on(grid).tensor
        for when, other in _before_and_after(pair.moving_labels, transform, start, grid):
            found[f"dice_{when}"] = dict(zip(labels, dice(fixed_labels, other.tensor, labels)[0].tolist(), strict=True))
            if surfaces:
                distances = surface_distances(fixed_labels[0, 0], other.tensor[0, 0], labels, grid.spacing[0])
                found[f"surface_{when}"] = dict(zip(labels, distances, strict=True))
    if pair.truth is not None:
        true = pair.truth.displacement(grid)
        found |= {"field_before": _distance(true, grid, mask), "field_after": _distance(displacement - true, grid, mask)}
    if not labels and pair.fixed_mask is not None and pair.moving_mask is not None:
        fixed_mask = pair.fixed_mask.on(grid).tensor > 0
        for when, other in _before_and_after(pair.moving_mask, transform, start, grid):
            found[f"mask_{when}"] = float(dice(fixed_mask.short(), (other.tensor > 0).short(), [1])[0, 0])
    for when, other in _before_and_after(pair.moving, transform, start, grid):
        found[f"ncc_{when}"] = float(ncc(pair.fixed.tensor, other.tensor, mask))
    return Case(pair.name[0], float(folding_fraction(determinant, mask)), float(sdlogj(determinant, mask)), **found)  # type: ignore[arg-type]


def _before_and_after(moving: Image, transform: Transform, start: Transform | None, grid: Grid) -> list[tuple[str, Image]]:
    """The moving image on the fixed grid."""
    return [("before", moving.on(grid) if start is None else moving.warped(start, grid)), ("after", moving.warped(transform, grid))]


def _distance(displacement: Tensor, grid: Grid, mask: Tensor | None) -> float:
    """Mean length in mm of a displacement in voxels."""
    length = (displacement * grid.spacing.to(displacement).view(-1, 3, 1, 1, 1)).norm(dim=1, keepdim=True)
    return float(masked_mean(length, mask))


def totals(cases: list[Case]) -> dict[str, float]:
    """Means over the cases that have a quantity; for TRE the standard deviation is over all landmarks of all cases."""
    rows = [case.row() for case in cases]
    keys = list(dict.fromkeys(key for row in rows for key in row if key != "case"))
    means = {key: float(torch.tensor([float(row[key]) for row in rows if key in row]).mean()) for key in keys}
    for when in ("before", "after"):
        pooled = [getattr(case, f"tre_{when}") for case in cases if getattr(case, f"tre_{when}") is not None]
        if pooled:
            means[f"tre_{when}_sd_mm"] = float(torch.cat(pooled).std(correction=0))
    return means
