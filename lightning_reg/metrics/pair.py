"""Metrics of one pair."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
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
Value = float | Tensor | dict[int, float]
"""A number, one number per landmark ``(N,)``, or one per foreground label."""
UNSAVED = ("ncc", "sd_j")
"""Metrics of ``cases.csv`` that ``metrics.json`` leaves out; it has the correlation of the images
under ``similarity``.
"""
SHORT = {"field": "field_error", "mask": "mask_dice"}
"""Metrics whose attributes, ``field_after``, have shorter names."""


@dataclass(frozen=True)
class PairMetrics:
    """Metrics of one pair. Distances in mm.

    A value is also an attribute, ``tre_before``, ``dice_after`` or ``folding``, ``None`` where the
    pair lacks the data; ``surface_after`` has the three surface distances of each label.

    Args:
        name: name of the pair.
        values: ``{metric: {"before": value, "after": value}}``, in the order of the table, and
            those of other distributions. Per label, NaN stands for a label in neither image, or for
            the distance to a label that one image lacks. Field errors, folding, SDlogJ and
            correlation are taken inside the fixed mask, if there is one; masks are compared if
            there are no labels.
        motion_true, motion_predicted: displacement of the fixed landmarks, ``(N, 3)`` RAS.
        jacobian: percentiles of ``det J`` by their numbers, :data:`PERCENTILES`.
    """

    name: str
    values: Mapping[Metric, Mapping[When, Value]] = field(default_factory=dict)
    motion_true: Tensor | None = None
    motion_predicted: Tensor | None = None
    jacobian: dict[str, float] | None = None

    def __getattr__(self, name: str) -> Any:
        key, _, when = name.rpartition("_")
        key, when = (SHORT.get(key, key), when) if when in WHEN else (name, "after")
        if key == "surface":
            distances = [self.stored(each, when) or {} for each in SurfaceDistance._fields]
            return {n: SurfaceDistance(*(d[n] for d in distances)) for n in distances[0]} or None
        if key not in BY_KEY:
            raise AttributeError(f"PairMetrics has no attribute '{name}'")
        return self.stored(key, when)

    def stored(self, key: str, when: When = "after") -> Any:
        """The value of a metric of the table per landmark or label, see :data:`Value`."""
        return self.values.get(BY_KEY[key], {}).get(when)

    def value(self, key: str, when: When = "after") -> float | None:
        """Value of a metric of the table, the mean over landmarks or labels; ``None`` if the pair
        lacks the data.

        Raises:
            KeyError: no such metric.
        """
        stored = self.stored(key, when)
        return None if stored is None else _mean(stored)

    def by_label(self, key: str, when: When = "after") -> dict[int, float]:
        """Dice or a surface distance per foreground label; empty where the pair has no labels."""
        return self.stored(key, when) or {}

    def row(self) -> dict[str, str | float]:
        """One value per metric, for ``cases.csv``: :meth:`value` by the name of its column."""
        row: dict[str, str | float] = {"case": self.name}
        for metric, values in self.values.items():
            for when, value in values.items():
                row[metric.column(when)] = _mean(value)
                if isinstance(value, Tensor):
                    row[f"{metric.key}_{when}_sd_mm"] = float(value.std(correction=0))
        return row

    def as_dict(self) -> dict[str, Any]:
        """The serialised form, for ``metrics.json``: ``{key: {before, after}}`` with the values per
        landmark and label, and folding.
        """
        stored: dict[str, Any] = {}
        extra: dict[str, Any] = {}
        for metric, values in self.values.items():
            if metric not in METRICS:
                extra[metric.heading] = dict(values)
            elif metric.key not in UNSAVED:
                stored[metric.stored] = _in_full(values) if metric.compared else values["after"]
        stored |= {"extra": extra} if extra else {}
        return stored | {"jacobian_percentiles": self.jacobian}


def _mean(value: Value) -> float:
    """Mean over landmarks, or over the labels that have a value."""
    if isinstance(value, dict):
        return float(torch.tensor(list(value.values()), dtype=torch.float64).nanmean())
    return float(value.mean()) if isinstance(value, Tensor) else value


def _in_full(values: Mapping[When, Any]) -> dict[str, Any]:
    """Means before and after, and the values of which they are the means."""
    means: dict[str, Any] = {when: _mean(value) for when, value in values.items()}
    if isinstance(values["after"], Tensor):
        means["landmarks"] = {when: errors.tolist() for when, errors in values.items()}
    if isinstance(values["after"], dict):
        means["labels"] = {
            str(label): {when: scores[label] for when, scores in values.items()}
            for label in values["after"]
        }
    return means


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
    sides = {when: side.values(grid) for when, side in seen.items()}
    motion: dict[str, Tensor] = {}
    if pair.fixed_landmarks is not None and pair.moving_landmarks is not None:
        fixed, moving = pair.fixed_landmarks[0], pair.moving_landmarks[0]
        mapped = transform.map_world(fixed.T.unsqueeze(0))[0].T
        sides["before"]["tre"] = pair.landmark_errors(start)[0].cpu()
        sides["after"]["tre"] = pair.landmark_errors(transform)[0].cpu()
        motion = {"motion_true": (moving - fixed).cpu(), "motion_predicted": (mapped - fixed).cpu()}
    before = (
        Affine(torch.eye(4).unsqueeze(0).to(pair.fixed.tensor.device), grid)
        if start is None
        else start
    )
    values: dict[Metric, Mapping[When, Value]] = {
        metric: {when: sides[when][metric.key] for when in WHEN}
        for metric in COMPARED
        if metric.key in sides["after"]
    }
    values |= {other.metric: _extra(other, pair, before, transform) for other in extra}
    values |= {BY_KEY[key]: {"after": value} for key, value in jacobian.values(grid, mask).items()}
    return PairMetrics(pair.name[0], values, **motion, jacobian=jacobian.percentiles())


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
        if slab.planes + slab.after > 1 or slab.whole.shape[0] == 1:
            self.volume += float(folded_volume(wide[:, :, slab.before :], corners))

    def values(self, grid: Grid, mask: Tensor | None) -> dict[str, float]:
        """Values by the keys of the table, in its order."""
        cubes = (
            math.prod(max(n - 1, 1) for n in grid.shape)
            if mask is None
            else max(self.determinant.count, 1)
        )
        return {
            "folding": self.folded.mean if self.folded.count else 0.0,
            "ndv": self.volume / cubes,
            "sdlogj": self.logarithm.sd if self.logarithm.count else 0.0,
            "sd_j": self.determinant.sd,
        }

    def percentiles(self) -> dict[str, float] | None:
        """Percentiles of the determinant by their numbers; ``None`` of an empty mask."""
        drawn = torch.cat(self.drawn).double().numpy()
        if not len(drawn):
            return None
        return {str(p): float(np.percentile(drawn, p)) for p in PERCENTILES}


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
        """Add a slab with its displacement in voxels; ``None``: by the images' headers."""

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

    def values(self, grid: Grid) -> dict[str, Value]:
        """Values by the keys of the table."""
        values: dict[str, Value] = {"ncc": self.correlation.value}
        if self.error.count:
            values["field_error"] = self.error.mean
        if self.counts is not None:
            scores = dice_of_counts(self.counts)[0].tolist()
            values |= (
                {"mask_dice": scores[0]}
                if self.masks
                else {"dice": dict(zip(self.labels, scores, strict=True))}
            )
        if self.warped is not None and self.fixed_labels is not None:
            distances = surface_distances(
                self.fixed_labels[0, 0], self.warped[0, 0], self.labels, grid.spacing[0]
            )
            for key, each in zip(
                SurfaceDistance._fields, zip(*distances, strict=True), strict=True
            ):
                values[key] = dict(zip(self.labels, each, strict=True))
        return values


def _extra(
    extra: ExtraMetric, pair: Pair, before: Transform, after: Transform
) -> dict[When, float]:
    transforms: dict[When, Transform] = (
        {"before": before, "after": after} if extra.metric.compared else {"after": after}
    )
    values = {when: measured(extra, pair, transform) for when, transform in transforms.items()}
    return {when: value for when, value in values.items() if value is not None}


def totals(cases: Sequence[PairMetrics]) -> dict[str, float]:
    """Means over the cases that have a quantity; the deviation of TRE is over all landmarks."""
    rows = [case.row() for case in cases]
    keys = list(dict.fromkeys(key for row in rows for key in row if key != "case"))
    means = {
        key: float(torch.tensor([float(row[key]) for row in rows if key in row]).mean())
        for key in keys
    }
    for when in WHEN:
        pooled = [errors for case in cases if (errors := case.stored("tre", when)) is not None]
        if pooled:
            means[f"tre_{when}_sd_mm"] = float(torch.cat(pooled).std(correction=0))
    return means
