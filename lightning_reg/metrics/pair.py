"""Metrics of one pair."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from lightning_reg.functional import (
    SurfaceDistance,
    dice,
    folding_fraction,
    jacobian_determinant,
    masked_mean,
    ncc,
    non_diffeomorphic_volume,
    sdlogj,
    surface_distances,
)
from lightning_reg.metrics.extra import ExtraMetric, measured
from lightning_reg.metrics.table import BY_KEY, COMPARED, METRICS, WHEN, Metric, When
from lightning_reg.spatial import Affine, Grid, Image, Pair, Transform


@dataclass(frozen=True)
class PairMetrics:
    """Metrics of one pair. Distances in mm; what the pair does not allow is ``None``.

    Args:
        name: the pair's.
        folding: fraction of voxels with ``det J <= 0``. This, SDlogJ and field errors count inside the fixed mask where there is one.
        sdlogj: standard deviation of ``log det J``.
        sd_j: standard deviation of ``det J``, as de Vos et al. (2019) give it.
        ndv: non-diffeomorphic volume as a fraction, see :func:`lightning_reg.functional.non_diffeomorphic_volume`.
        tre_before, tre_after: target registration error per landmark, ``(N,)``.
        motion_true, motion_predicted: displacement of the fixed landmarks, ``(N, 3)`` RAS.
        dice_before, dice_after: per foreground label; NaN for a label in neither image.
        surface_before, surface_after: per foreground label; NaN for a label that one image lacks.
        field_before, field_after: mean distance from the true displacement.
        mask_before, mask_after: Dice of the masks, where there are no labels.
        ncc_before, ncc_after: correlation of the images, inside the fixed mask where there is one.
        extra: other distributions' metrics, see :class:`~lightning_reg.metrics.extra.ExtraMetric`.
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
    ndv: float | None = None
    extra: dict[Metric, dict[When, float]] = field(default_factory=dict)

    def value(self, key: str, when: When = "after") -> float | None:
        """A metric of the table, the mean over landmarks or labels; ``None`` where the pair does not allow it.

        Raises:
            KeyError: no such metric, or one that is not of this class (LNCC, mutual information).
        """
        if not BY_KEY[key].compared:
            return getattr(self, key)
        if key == "tre":
            errors: Tensor | None = getattr(self, f"tre_{when}")
            return None if errors is None else float(errors.mean())
        if key in ("dice", *SurfaceDistance._fields):
            scores = self.by_label(key, when)
            return float(torch.tensor(list(scores.values()), dtype=torch.float64).nanmean()) if scores else None
        single = {"field_error": "field", "mask_dice": "mask", "ncc": "ncc"}
        return getattr(self, f"{single[key]}_{when}")

    def by_label(self, key: str, when: When = "after") -> dict[int, float]:
        """Dice or a surface distance per foreground label; empty where the pair has no labels."""
        if key == "dice":
            return getattr(self, f"dice_{when}") or {}
        found: dict[int, SurfaceDistance] = getattr(self, f"surface_{when}") or {}
        return {label: getattr(distance, key) for label, distance in found.items()}

    def row(self) -> dict[str, str | float]:
        """One value per metric, for ``cases.csv``: :meth:`value` by :meth:`~lightning_reg.metrics.table.Metric.column`."""
        values: dict[str, str | float] = {"case": self.name}
        for metric in COMPARED:
            if metric.key in ("lncc", "mi"):
                continue
            for when in WHEN:
                value = self.value(metric.key, when)
                if value is not None:
                    values[metric.column(when)] = value
                errors: Tensor | None = getattr(self, f"tre_{when}")
                if metric.key == "tre" and errors is not None:
                    values[f"tre_{when}_sd_mm"] = float(errors.std(correction=0))
        for metric, found in self.extra.items():
            values |= {metric.column(when): value for when, value in found.items()}
        return values | {metric.key: value for metric in METRICS if not metric.compared and (value := self.value(metric.key)) is not None}

    def as_dict(self) -> dict[str, Any]:
        """The serialised form, for ``metrics.json``: ``{key: {before, after}}`` with the values per landmark and label, and folding."""
        values: dict[str, Any] = {}
        for metric in COMPARED:
            if metric.key in ("ncc", "lncc", "mi") or self.value(metric.key) is None:
                continue
            values[metric.stored] = {when: self.value(metric.key, when) for when in WHEN}
            if metric.key == "tre":
                values[metric.stored]["landmarks"] = {when: getattr(self, f"tre_{when}").tolist() for when in WHEN}
            if metric.key in ("dice", *SurfaceDistance._fields):
                before, after = self.by_label(metric.key, "before"), self.by_label(metric.key)
                values[metric.stored]["labels"] = {str(label): {"before": before[label], "after": after[label]} for label in after}
        if self.extra:
            values["extra"] = {metric.heading: dict(found) for metric, found in self.extra.items()}
        return values | {"folding": self.folding, "ndv": self.ndv, "sdlogj": self.sdlogj}


@torch.no_grad()
def evaluate(
    pair: Pair,
    transform: Transform,
    start: Transform | None = None,
    surfaces: bool = False,
    displacement: Tensor | None = None,
    extra: Sequence[ExtraMetric] = (),
) -> PairMetrics:
    """Evaluate a transform on one pair.

    Args:
        pair: of batch size 1.
        transform: fixed world to moving world.
        start: what *before* is; default: as the images' headers relate them.
        surfaces: measure surface distances too, which takes longer than all the rest.
        displacement: of the transform on the fixed grid, where it is known already, ``(1, 3, I, J, K)`` voxels.
        extra: metrics beside those of the table.
    """
    grid = pair.fixed.grid
    displacement = transform.displacement(grid) if displacement is None else displacement
    determinant = jacobian_determinant(displacement)
    mask = None if pair.fixed_mask is None else pair.fixed_mask.resampled(grid).tensor
    inside = determinant if mask is None else determinant[mask.expand_as(determinant) > 0]
    found: dict[str, object] = {"sd_j": float(inside.std(correction=0)) if inside.numel() else float("nan")}
    found["ndv"] = float(non_diffeomorphic_volume(displacement.float(), mask))
    if pair.fixed_landmarks is not None and pair.moving_landmarks is not None:
        fixed, moving = pair.fixed_landmarks[0], pair.moving_landmarks[0]
        mapped = transform.map_world(fixed.T.unsqueeze(0))[0].T
        found |= {"tre_before": pair.landmark_errors(start)[0].cpu(), "tre_after": pair.landmark_errors(transform)[0].cpu()}
        found |= {"motion_true": (moving - fixed).cpu(), "motion_predicted": (mapped - fixed).cpu()}
    labels = pair.labels()
    if labels and pair.fixed_labels is not None and pair.moving_labels is not None:
        fixed_labels = pair.fixed_labels.resampled(grid).tensor
        for when, other in _before_and_after(pair.moving_labels, displacement, start, grid):
            found[f"dice_{when}"] = dict(zip(labels, dice(fixed_labels, other.tensor, labels)[0].tolist(), strict=True))
            if surfaces:
                distances = surface_distances(fixed_labels[0, 0], other.tensor[0, 0], labels, grid.spacing[0])
                found[f"surface_{when}"] = dict(zip(labels, distances, strict=True))
    if pair.truth is not None:
        true = pair.truth.displacement(grid)
        found |= {"field_before": _distance(true, grid, mask), "field_after": _distance(displacement - true, grid, mask)}
    if not labels and pair.fixed_mask is not None and pair.moving_mask is not None:
        fixed_mask = pair.fixed_mask.resampled(grid).tensor > 0
        for when, other in _before_and_after(pair.moving_mask, displacement, start, grid):
            found[f"mask_{when}"] = float(dice(fixed_mask.short(), (other.tensor > 0).short(), [1])[0, 0])
    for when, other in _before_and_after(pair.moving, displacement, start, grid):
        found[f"ncc_{when}"] = float(ncc(pair.fixed.tensor, other.tensor, mask))
    before = Affine(torch.eye(4).unsqueeze(0).to(pair.fixed.tensor.device), grid) if start is None else start
    found["extra"] = {other.metric: _extra(other, pair, before, transform) for other in extra}
    return PairMetrics(pair.name[0], float(folding_fraction(determinant, mask)), float(sdlogj(determinant, mask)), **found)  # type: ignore[arg-type]


def _extra(extra: ExtraMetric, pair: Pair, before: Transform, after: Transform) -> dict[When, float]:
    transforms: dict[When, Transform] = {"before": before, "after": after} if extra.metric.compared else {"after": after}
    values = {when: measured(extra, pair, transform) for when, transform in transforms.items()}
    return {when: value for when, value in values.items() if value is not None}


def _before_and_after(moving: Image, displacement: Tensor, start: Transform | None, grid: Grid) -> list[tuple[str, Image]]:
    """The moving image on the fixed grid."""
    return [
        ("before", moving.resampled(grid) if start is None else moving.warped(start, grid)),
        ("after", moving.warped_by(displacement, grid)),
    ]


def _distance(displacement: Tensor, grid: Grid, mask: Tensor | None) -> float:
    """Mean length in mm of a displacement in voxels."""
    length = (displacement * torch.as_tensor(grid.spacing).to(displacement).view(-1, 3, 1, 1, 1)).norm(dim=1, keepdim=True)
    return float(masked_mean(length, mask))


def totals(cases: Sequence[PairMetrics]) -> dict[str, float]:
    """Means over the cases that have a quantity; for TRE the standard deviation is over all landmarks of all cases."""
    rows = [case.row() for case in cases]
    keys = list(dict.fromkeys(key for row in rows for key in row if key != "case"))
    means = {key: float(torch.tensor([float(row[key]) for row in rows if key in row]).mean()) for key in keys}
    for when in ("before", "after"):
        pooled = [getattr(case, f"tre_{when}") for case in cases if getattr(case, f"tre_{when}") is not None]
        if pooled:
            means[f"tre_{when}_sd_mm"] = float(torch.cat(pooled).std(correction=0))
    return means
