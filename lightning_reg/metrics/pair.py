"""Metrics of one pair."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lightning_reg.functional import (
    SurfaceDistance,
    dice_of_counts,
    folded_volume,
    jacobian_determinant,
    log_determinant,
    overlap_counts,
    surface_distances,
)
from lightning_reg.metrics.extra import ExtraMetric, measured
from lightning_reg.metrics.sums import Correlation, Moments
from lightning_reg.metrics.table import BY_KEY, COMPARED, METRICS, WHEN, Metric, When
from lightning_reg.spatial import Affine, Grid, Image, Pair, Slab, Transform, slabs, warped_slab

PERCENTILES = (1, 5, 95, 99)
"""Percentiles of the determinant of the Jacobian."""
DRAWN = 500_000
"""Approximate number of voxels of which percentiles are taken, at equal distances."""


@dataclass(frozen=True)
class PairMetrics:
    """Metrics of one pair. Distances in mm; ``None`` where the pair lacks the data.

    Args:
        name: name of the pair.
        folding: fraction of voxels with ``det J <= 0``. This, SDlogJ and field errors are taken
            inside the fixed mask, if there is one.
        sdlogj: standard deviation of ``log det J``.
        jacobian: percentiles of ``det J`` by their numbers, :data:`PERCENTILES`.
        sd_j: standard deviation of ``det J``, as reported by de Vos et al. (2019).
        ndv: non-diffeomorphic volume as a fraction, see
            :func:`lightning_reg.functional.non_diffeomorphic_volume`.
        tre_before, tre_after: target registration error per landmark, ``(N,)``.
        motion_true, motion_predicted: displacement of the fixed landmarks, ``(N, 3)`` RAS.
        dice_before, dice_after: per foreground label; NaN for a label in neither image.
        surface_before, surface_after: per foreground label; NaN for a label that one image lacks.
        field_before, field_after: mean distance from the true displacement.
        mask_before, mask_after: Dice of the masks, if there are no labels.
        ncc_before, ncc_after: correlation of the images, inside the fixed mask if there is one.
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
    jacobian: dict[str, float] | None = None
    extra: dict[Metric, dict[When, float]] = field(default_factory=dict)

    def value(self, key: str, when: When = "after") -> float | None:
        """Value of a metric of the table, the mean over landmarks or labels; ``None`` if the pair
        lacks the data.

        Raises:
            KeyError: no such metric, or not a metric of this class (LNCC, mutual information).
        """
        if not BY_KEY[key].compared:
            return getattr(self, key)
        if key == "tre":
            errors: Tensor | None = getattr(self, f"tre_{when}")
            return None if errors is None else float(errors.mean())
        if key in ("dice", *SurfaceDistance._fields):
            scores = self.by_label(key, when)
            return (
                float(torch.tensor(list(scores.values()), dtype=torch.float64).nanmean())
                if scores
                else None
            )
        single = {"field_error": "field", "mask_dice": "mask", "ncc": "ncc"}
        return getattr(self, f"{single[key]}_{when}")

    def by_label(self, key: str, when: When = "after") -> dict[int, float]:
        """Dice or a surface distance per foreground label; empty where the pair has no labels."""
        if key == "dice":
            return getattr(self, f"dice_{when}") or {}
        found: dict[int, SurfaceDistance] = getattr(self, f"surface_{when}") or {}
        return {label: getattr(distance, key) for label, distance in found.items()}

    def row(self) -> dict[str, str | float]:
        """One value per metric, for ``cases.csv``: :meth:`value` by
        :meth:`~lightning_reg.metrics.table.Metric.column`.
        """
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
        return values | {
            metric.key: value
            for metric in METRICS
            if not metric.compared and (value := self.value(metric.key)) is not None
        }

    def as_dict(self) -> dict[str, Any]:
        """The serialised form, for ``metrics.json``: ``{key: {before, after}}`` with the values per
        landmark and label, and folding.
        """
        values: dict[str, Any] = {}
        for metric in COMPARED:
            if metric.key in ("ncc", "lncc", "mi") or self.value(metric.key) is None:
                continue
            values[metric.stored] = {when: self.value(metric.key, when) for when in WHEN}
            if metric.key == "tre":
                values[metric.stored]["landmarks"] = {
                    when: getattr(self, f"tre_{when}").tolist() for when in WHEN
                }
            if metric.key in ("dice", *SurfaceDistance._fields):
                before, after = self.by_label(metric.key, "before"), self.by_label(metric.key)
                values[metric.stored]["labels"] = {
                    str(label): {"before": before[label], "after": after[label]} for label in after
                }
        if self.extra:
            values["extra"] = {metric.heading: dict(found) for metric, found in self.extra.items()}
        return values | {
            "folding": self.folding,
            "ndv": self.ndv,
            "sdlogj": self.sdlogj,
            "jacobian_percentiles": self.jacobian,
        }


@torch.no_grad()
def evaluate(
    pair: Pair,
    transform: Transform,
    start: Transform | None = None,
    surfaces: bool = False,
    field: Transform | None = None,
    extra: Sequence[ExtraMetric] = (),
) -> PairMetrics:
    """Evaluate a transform on one pair, slab by slab, with little more memory than the images take.

    Args:
        pair: of batch size 1.
        transform: fixed world to moving world.
        start: transform for the values *before*; default: the images are related by their headers.
        surfaces: also measure surface distances, which takes longer than all the rest.
        field: the transform sampled on the fixed grid, if available already; landmarks are mapped
            by ``transform``.
        extra: metrics in addition to those of the table.
    """
    grid, labels, fixed_labels = pair.fixed.grid, pair.labels(), None
    field = transform if field is None else field
    mask = None if pair.fixed_mask is None else pair.fixed_mask.resampled(grid).tensor > 0
    if labels and pair.fixed_labels is not None:
        fixed_labels = pair.fixed_labels.resampled(grid).tensor
    jacobian = _Jacobian()
    seen: dict[When, _Overlaid] = {
        when: _Overlaid(pair, mask, fixed_labels, labels, surfaces) for when in WHEN
    }
    for slab in slabs(grid, halo=1):
        wide = field.displacement(slab.wide).float()  # the dtype of the images
        jacobian.add(slab, wide, mask)
        seen["before"].add(slab, None if start is None else start.displacement(slab.grid).float())
        seen["after"].add(slab, slab.inner(wide))
    found: dict[str, object] = {}
    for when, one in seen.items():
        found |= {f"{name}_{when}": value for name, value in one.found(grid).items()}
    if pair.fixed_landmarks is not None and pair.moving_landmarks is not None:
        fixed, moving = pair.fixed_landmarks[0], pair.moving_landmarks[0]
        mapped = transform.map_world(fixed.T.unsqueeze(0))[0].T
        found |= {
            "tre_before": pair.landmark_errors(start)[0].cpu(),
            "tre_after": pair.landmark_errors(transform)[0].cpu(),
        }
        found |= {"motion_true": (moving - fixed).cpu(), "motion_predicted": (mapped - fixed).cpu()}
    before = (
        Affine(torch.eye(4).unsqueeze(0).to(pair.fixed.tensor.device), grid)
        if start is None
        else start
    )
    found["extra"] = {other.metric: _extra(other, pair, before, transform) for other in extra}
    return PairMetrics(pair.name[0], **jacobian.found(grid, mask), **found)  # type: ignore[arg-type]


class _Jacobian:
    """Sums over a field's Jacobian determinants, inside the mask if there is one."""

    def __init__(self) -> None:
        self.determinant, self.logarithm, self.folded, self.volume = (
            Moments(),
            Moments(),
            Moments(),
            0.0,
        )
        self.drawn: list[Tensor] = []

    def add(self, slab: Slab, wide: Tensor, mask: Tensor | None) -> None:
        """Add a slab; ``wide`` is its displacement with one more plane on either side."""
        inside = slab.inner(jacobian_determinant(wide))
        inside = inside if mask is None else inside[slab.of(mask).expand_as(inside)]
        self.determinant.add(inside)
        self.logarithm.add(log_determinant(inside))
        self.folded.add(inside <= 0)
        self.drawn.append(inside.flatten()[:: max(1, math.prod(slab.whole.shape) // DRAWN)].cpu())
        cubes = replace(slab, before=0)  # between neighbouring planes
        corners = None if mask is None else cubes.wide_of(mask)
        self.volume += float(folded_volume(wide[:, :, slab.before :], corners))

    def found(self, grid: Grid, mask: Tensor | None) -> dict[str, Any]:
        drawn = torch.cat(self.drawn).double().numpy()
        cubes = (
            math.prod(n - 1 for n in grid.shape) if mask is None else max(self.determinant.count, 1)
        )
        return {
            "folding": self.folded.mean if self.folded.count else 0.0,
            "sdlogj": self.logarithm.sd if self.logarithm.count else 0.0,
            "sd_j": self.determinant.sd,
            "ndv": self.volume / cubes,
            "jacobian": (
                {str(p): float(np.percentile(drawn, p)) for p in PERCENTILES}
                if len(drawn)
                else None
            ),
        }


class _Overlaid:
    """Sums over the fixed image and the moving image on its grid, before or after registration."""

    def __init__(
        self,
        pair: Pair,
        mask: Tensor | None,
        fixed_labels: Tensor | None,
        labels: list[int],
        surfaces: bool,
    ) -> None:
        self.pair, self.mask, self.fixed_labels, self.labels = pair, mask, fixed_labels, labels
        self.correlation, self.error = Correlation(), Moments()
        self.counts: Tensor | None = None
        self.masks = not labels and mask is not None and pair.moving_mask is not None
        self.warped: Tensor | None = None
        if surfaces and fixed_labels is not None and pair.moving_labels is not None:
            self.warped = torch.empty_like(fixed_labels, dtype=pair.moving_labels.tensor.dtype)

    def add(self, slab: Slab, displacement: Tensor | None) -> None:
        """Add a slab with its displacement in voxels; ``None``: the images are related by their
        headers.
        """

        def seen(image: Image) -> Tensor:
            return (
                image.resampled(slab.grid)
                if displacement is None
                else warped_slab(image, displacement, slab.grid)
            ).tensor

        pair, inside = self.pair, None if self.mask is None else slab.of(self.mask)
        self.correlation.add(slab.of(pair.fixed.tensor), seen(pair.moving), inside)
        if self.masks and inside is not None and pair.moving_mask is not None:
            self._count(overlap_counts(inside.short(), (seen(pair.moving_mask) > 0).short(), [1]))
        if self.fixed_labels is not None and pair.moving_labels is not None:
            labels = seen(pair.moving_labels)
            self._count(overlap_counts(slab.of(self.fixed_labels), labels, self.labels))
            if self.warped is not None:
                slab.of(self.warped).copy_(labels)
        if pair.truth is not None:
            true = pair.truth.displacement(slab.grid)
            spacing = torch.as_tensor(slab.whole.spacing).to(true).view(-1, 3, 1, 1, 1)
            missing = ((true if displacement is None else displacement - true) * spacing).norm(
                dim=1, keepdim=True
            )
            self.error.add(missing if inside is None else missing[inside])

    def _count(self, counts: Tensor) -> None:
        self.counts = counts if self.counts is None else self.counts + counts

    def found(self, grid: Grid) -> dict[str, object]:
        """Results by the names in :class:`PairMetrics`, without *before* or *after*."""
        found: dict[str, object] = {"ncc": self.correlation.value}
        if self.error.count:
            found["field"] = self.error.mean
        if self.counts is not None:
            scores = dice_of_counts(self.counts)[0].tolist()
            found |= (
                {"mask": scores[0]}
                if self.masks
                else {"dice": dict(zip(self.labels, scores, strict=True))}
            )
        if self.warped is not None and self.fixed_labels is not None:
            distances = surface_distances(
                self.fixed_labels[0, 0], self.warped[0, 0], self.labels, grid.spacing[0]
            )
            found["surface"] = dict(zip(self.labels, distances, strict=True))
        return found


def _extra(
    extra: ExtraMetric, pair: Pair, before: Transform, after: Transform
) -> dict[When, float]:
    transforms: dict[When, Transform] = (
        {"before": before, "after": after} if extra.metric.compared else {"after": after}
    )
    values = {when: measured(extra, pair, transform) for when, transform in transforms.items()}
    return {when: value for when, value in values.items() if value is not None}


def totals(cases: Sequence[PairMetrics]) -> dict[str, float]:
    """Means over the cases that have a quantity; for TRE the standard deviation is over all
    landmarks of all cases.
    """
    rows = [case.row() for case in cases]
    keys = list(dict.fromkeys(key for row in rows for key in row if key != "case"))
    means = {
        key: float(torch.tensor([float(row[key]) for row in rows if key in row]).mean())
        for key in keys
    }
    for when in ("before", "after"):
        pooled = [
            getattr(case, f"tre_{when}")
            for case in cases
            if getattr(case, f"tre_{when}") is not None
        ]
        if pooled:
            means[f"tre_{when}_sd_mm"] = float(torch.cat(pooled).std(correction=0))
    return means
