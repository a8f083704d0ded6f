"""Fingerprint of a data set: what is measured of its training scans and of the motion between
them.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
import torchio as tio

from lightning_reg.curation.check.scan import units
from lightning_reg.data.datasets.interface import Record, RegistrationDataset
from lightning_reg.data.datasets.loading import load_record
from lightning_reg.data.datasets.splits import Splits
from lightning_reg.data.lungs import shows_lungs
from lightning_reg.data.parallel import each
from lightning_reg.data.preprocessing import CLEARLY, Preprocessing, alignments
from lightning_reg.functional import label_values
from lightning_reg.planning.motion import Motion, foreground, measure_motion
from lightning_reg.registry import DataError

Pairing = Literal["inter_subject", "groups", "pairs"]
LARGEST_SAMPLE = 60
"""Scans that are looked at, evenly chosen from the training scans."""
BODY = -500.0
"""Hounsfield units above which a voxel of a CT belongs to the body."""
COARSE = 60_000
"""Voxels of the images with which headers and centres are compared."""


@dataclass(frozen=True)
class Spread:
    """Smallest, median and largest value per axis (right, front, top) over the scans."""

    least: tuple[float, float, float]
    median: tuple[float, float, float]
    most: tuple[float, float, float]

    @staticmethod
    def of(rows: Sequence[Sequence[float]]) -> Spread:
        """Spread of ``(N, 3)`` values."""
        values = np.array(rows, dtype=float)
        three = (values.min(0), np.median(values, axis=0), values.max(0))
        return Spread(*(tuple(round(float(v), 4) for v in row) for row in three))  # type: ignore[arg-type]


@dataclass(frozen=True)
class Fingerprint:
    """A data set in numbers. Lengths are mm along the axes right, front, top; only training scans
    are measured.

    Args:
        scans, subjects: of the training split.
        time_points: largest number of scans of a subject.
        pairing: how scans make pairs: two subjects, two time points of one, or a list of pairs.
        validation_pairs: number of pairs of the validation split.
        units: of the intensities: ``HU``, ``HU + 1024``, ``0 to 1`` or ``arbitrary``.
        lungs: whether most scans are CT that shows lungs.
        intensities: percentiles 0.5 and 99.5 of the foreground, median over the scans.
        voxels, spacing, extent, foreground: extents in voxels, voxel size, extents, and extents of
            the foreground.
        orientations: number of different orientations of the voxel axes.
        parts: number of measured scans with ``mask``, ``labels`` and ``landmarks``.
        measured: number of measured scans.
        label_values: values of the label maps, without 0.
        headers: mean correlation of sample pairs as their headers align them.
        centers: the same with the centres of their grids aligned.
        motion: of sample pairs; ``None``: there is no pair.
    """

    scans: int
    subjects: int
    time_points: int
    pairing: Pairing
    validation_pairs: int
    units: str
    lungs: bool
    intensities: tuple[float, float]
    voxels: Spread
    spacing: Spread
    extent: Spread
    foreground: Spread
    orientations: int
    parts: Mapping[str, int]
    measured: int
    label_values: Sequence[int]
    headers: float | None
    centers: float | None
    motion: Motion | None

    @property
    def centered(self) -> bool:
        """Whether aligned centres are clearly more similar than the headers' alignment."""
        if self.headers is None or self.centers is None:
            return False
        return self.centers > self.headers + CLEARLY

    @property
    def relation(self) -> str:
        """Relation of the intensities of a pair; one contrast, if no pair was registered."""
        return "one contrast" if self.motion is None else self.motion.relation

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for ``fingerprint.json``."""
        return dataclasses.asdict(self)


@dataclass(frozen=True)
class _Look:
    """Measurements of one scan."""

    voxels: tuple[int, ...]
    spacing: tuple[float, ...]
    extent: tuple[float, ...]
    foreground: tuple[float, ...]
    orientation: str
    units: str
    lungs: bool
    intensities: tuple[float, float]
    parts: tuple[str, ...]
    label_values: tuple[int, ...]


def fingerprint(
    data: Splits,
    *,
    pairs: int = 4,
    workers: int = 1,
    progress: Callable[[str], None] | None = None,
) -> Fingerprint:
    """Measure a data set.

    Args:
        data: of which only the training split is read.
        pairs: number of sample pairs that are registered by instance optimisation, to measure the
            motion.
        workers: number of processes that read scans.
        progress: called with a line of text for each part of the work.

    Raises:
        DataError: there are no training scans, or one cannot be read.
    """
    say = progress or (lambda line: None)
    records = data.records("train")
    if not records:
        raise DataError("The data have no training scans; give a folder with two scans or more.")
    sample = _evenly(records, LARGEST_SAMPLE)
    say(f"reading {len(sample)} of {len(records)} training scans")
    looks = [look for _, look in each(_look, data.dataset, sample, workers)]
    per_subject = Counter(record.subject for record in records)
    pairing = _pairing(data, per_subject)
    chosen = _sample_pairs(data, records, pairing, max(pairs, 8))
    alike = [_alignments(data.dataset, *pair) for pair in chosen]
    headers, centers = np.mean(alike, axis=0).tolist() if alike else (None, None)
    values = sorted(set().union(*(look.label_values for look in looks)))
    known = Fingerprint(
        scans=len(records),
        subjects=len(per_subject),
        time_points=max(per_subject.values()),
        pairing=pairing,
        validation_pairs=len(data.pairs("validation")),
        units=Counter(look.units for look in looks).most_common(1)[0][0],
        lungs=2 * sum(look.lungs for look in looks) > len(looks),
        intensities=(
            float(np.median([look.intensities[0] for look in looks])),
            float(np.median([look.intensities[1] for look in looks])),
        ),
        voxels=Spread.of([look.voxels for look in looks]),
        spacing=Spread.of([look.spacing for look in looks]),
        extent=Spread.of([look.extent for look in looks]),
        foreground=Spread.of([look.foreground for look in looks]),
        orientations=len({look.orientation for look in looks}),
        parts={
            part: sum(part in look.parts for look in looks)
            for part in ("mask", "labels", "landmarks")
        },
        measured=len(looks),
        label_values=values,
        headers=headers,
        centers=centers,
        motion=None,
    )
    loaded = (
        (load_record(data.dataset, fixed), load_record(data.dataset, moving))
        for fixed, moving in _evenly(chosen, pairs)
    )
    return dataclasses.replace(known, motion=measure_motion(loaded, known.centered, say))


def _evenly(items: Sequence[Any], count: int) -> list[Any]:
    """At most ``count`` items, evenly chosen."""
    step = max(1.0, len(items) / max(1, count))
    return [items[int(k * step)] for k in range(min(count, len(items)))]


def _pairing(data: Splits, per_subject: Mapping[str, int]) -> Pairing:
    """The kind of pairs that the training scans make."""
    if max(per_subject.values()) == 1:
        return "inter_subject"
    within = {(fixed.subject, moving.subject) for fixed, moving in data.named_pairs()}
    return "groups" if all(fixed == moving for fixed, moving in within) else "pairs"


def _sample_pairs(
    data: Splits, records: Sequence[Record], pairing: Pairing, count: int
) -> list[tuple[Record, Record]]:
    """Training pairs, evenly chosen; of the kind that the training draws."""
    listed = [(records[fixed], records[moving]) for fixed, moving in data.pairs("train")]
    if not listed and pairing == "inter_subject":
        listed = list(itertools.pairwise(records))
    return _evenly(listed, count)


def _look(dataset: RegistrationDataset, record: Record) -> _Look:
    """Measure one scan."""
    subject = load_record(dataset, record)
    orientation = "".join(subject["image"].orientation)
    subject = tio.ToCanonical()(subject)
    image = subject["image"]
    values = image.data[0].float()
    low, high = float(values.min()), float(values.max())
    kind = units(values.flatten(), low, high)
    spacing = tuple(float(s) for s in image.spacing)
    inside = _foreground(values, kind)
    shown = values[inside][:: max(1, int(inside.sum()) // 200_000)]
    ends = shown.quantile(torch.tensor([0.005, 0.995])).tolist() if len(shown) else (low, high)
    return _Look(
        tuple(image.spatial_shape),
        spacing,
        tuple(n * s for n, s in zip(image.spatial_shape, spacing, strict=True)),
        _box(inside, spacing),
        orientation,
        kind,
        kind == "HU" and shows_lungs(image),
        (ends[0], ends[1]),
        tuple(part for part in ("mask", "labels", "landmarks") if part in subject),
        tuple(set(label_values(subject["labels"].data)) - {0}) if "labels" in subject else (),
    )


def _foreground(values: torch.Tensor, kind: str) -> torch.Tensor:
    """Mask of the foreground of an image ``(I, J, K)``."""
    if kind.startswith("HU"):
        return values > (BODY if kind == "HU" else BODY + 1024)
    return torch.from_numpy(foreground(values.numpy()))


def _box(inside: torch.Tensor, spacing: Sequence[float]) -> tuple[float, ...]:
    """Extents of the box around a mask, mm; without its outermost hundredths, which noise fills."""
    extents = []
    for axis, edge in enumerate(spacing):
        others = [other for other in range(3) if other != axis]
        profile = inside.sum(others).double().cumsum(0)
        if float(profile[-1]) == 0:
            return tuple(n * s for n, s in zip(inside.shape, spacing, strict=True))
        kept = (profile > 0.005 * profile[-1]) & (profile < 0.995 * profile[-1])
        extents.append((int(kept.sum()) + 1) * edge)
    return tuple(extents)


def _alignments(dataset: RegistrationDataset, fixed: Record, moving: Record) -> tuple[float, float]:
    """Correlations of a pair, see :func:`~lightning_reg.data.preprocessing.alignments`."""
    scans = [Preprocessing()(load_record(dataset, record), COARSE) for record in (fixed, moving)]
    return alignments(scans[0], scans[1])
