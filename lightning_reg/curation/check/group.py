"""Check of a whole data set: every scan, then comparisons between scans."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Annotated, get_args

import numpy as np
import torch

from lightning_reg.curation.check.scan import (
    CONVENTIONS,
    Finding,
    ScanReport,
    as_convention,
    error,
    fitting_conventions,
    look_at,
    raw_landmarks,
    warning,
)
from lightning_reg.data.datasets.interface import SPLITS, Record, RegistrationDataset, Split
from lightning_reg.data.datasets.loading import load_record
from lightning_reg.data.datasets.own import FolderDataset
from lightning_reg.data.datasets.splits import Splits
from lightning_reg.data.parallel import each
from lightning_reg.data.preprocessing import CLEARLY, alignments
from lightning_reg.data.scans import make_pair, scan_from_subject
from lightning_reg.functional import sample
from lightning_reg.metrics import evaluate
from lightning_reg.registry import DataError, Range
from lightning_reg.spatial import Identity, Image, Pair

PATCH = 2
"""Half the width, in voxels, of the patches compared around landmarks."""


@dataclass
class Check:
    """Findings of a check.

    Args:
        scans: a report per scan, in the order of the data set.
        findings: problems of scans, pairs and the whole data set.
        measured: values per measured pair: ``case``, ``split``, ``overlap`` and, if available,
            ``tre_before_mm``, ``tre_before_sd_mm``, ``dice_before`` and ``mask_dice_before``.
        pairs: number of pairs by split.
    """

    scans: list[ScanReport]
    findings: list[Finding] = field(default_factory=list)
    measured: list[dict[str, str | float]] = field(default_factory=list)
    pairs: dict[str, int] = field(default_factory=dict)

    def errors(self) -> int:
        return sum(finding.level == "error" for finding in self.findings)


def check(
    data: Splits,
    workers: Annotated[int, Range(1, of="processes")] = 1,
    max_pairs: Annotated[int, Range(0, of="pairs")] = 100,
    seen: Callable[[int, int], None] | None = None,
) -> Check:
    """Check a data set.

    Args:
        workers: number of processes.
        max_pairs: maximum number of pairs, evenly chosen, whose TRE and Dice before registration
            are measured; 0: none.
        seen: callback with the number of finished scans and pairs and of all of them.
    """
    records, splits = data.records(), [split for split in get_args(Split) if data.records(split)]
    indices = data.pairs()
    count = min(max_pairs, len(indices))
    chosen = [indices[round(k * (len(indices) - 1) / max(1, count - 1))] for k in range(count)]
    total = len(records) + len(chosen)
    reports: dict[int, ScanReport] = {}
    for number, report in each(look_at, data.dataset, records, workers):
        reports[number] = report
        if seen is not None:
            seen(len(reports), total)
    result = Check([reports[k] for k in range(len(records))])
    result.pairs = {split: len(data.pairs(split)) for split in splits}
    for report in result.scans:
        result.findings += report.findings
    for of_all in (_splits, _doubles, _spread, _parts, _names):
        result.findings += of_all(result.scans)
    result.findings += _roles(data.dataset, result.scans)
    for f, m in indices:
        result.findings += _pair(result.scans[f], result.scans[m])
    usable = [
        (records[f], records[m])
        for f, m in chosen
        if result.scans[f].grid is not None and result.scans[m].grid is not None
    ]
    aligned = []
    for done, (_, (values, findings, correlations)) in enumerate(
        each(_measure, data.dataset, usable, workers)
    ):
        result.measured += [values] if values else []
        result.findings += findings
        aligned += [correlations] if correlations else []
        if seen is not None:
            seen(len(records) + done + 1, total)
    result.findings += _alignment(aligned)
    return result


def _alignment(correlations: Sequence[tuple[float, float]]) -> Iterator[Finding]:
    """Headers that align the images less well than the centres of their grids."""
    headers, centers = np.mean(correlations, axis=0).tolist() if correlations else (0.0, 0.0)
    # images apart in the world are reported by pair
    if centers > headers + CLEARLY and headers != -1.0:
        yield warning(
            "alignment",
            f"The headers do not align the images (mean correlation {headers:.2f}, with aligned"
            f" centres {centers:.2f}): train with `center=True`, or auto; register with"
            " `start='centers'`.",
        )


def _roles(dataset: RegistrationDataset, scans: Sequence[ScanReport]) -> Iterator[Finding]:
    """Label maps listed as scans; masks and label maps of a folder that belong to no scan."""
    readable = [scan for scan in scans if scan.grid is not None]
    alike = [scan for scan in readable if scan.label_like]
    if alike and len(alike) == len(readable):
        yield warning(
            "roles",
            f"All scans have few whole values, as label maps have (as {_file(alike[0])}); give the"
            " folder of the images, if they are.",
        )
    elif not isinstance(dataset, FolderDataset):  # which tells them apart itself
        text = "is listed as an image and has the values of a label map; list it as labels"
        yield from (error("roles", f"{_file(scan)} {text}.") for scan in alike)
    if isinstance(dataset, FolderDataset) and dataset.left_out:
        yield warning(
            "roles",
            f"{len(dataset.left_out)} masks or label maps are not used, as {dataset.left_out[0]}:"
            " they are of no image's space, or second ones; name those that count in a table"
            " (data=pairs), if they are wanted.",
        )


def _splits(scans: Sequence[ScanReport]) -> Iterator[Finding]:
    """Subjects in two splits; splits without scans."""
    places: dict[str, set[str]] = {}
    for scan in scans:
        places.setdefault(scan.record.subject, set()).add(scan.record.split)
    for subject, of in places.items():
        if len(of) > 1:
            yield error(
                "splits",
                f"The subject {subject} is in the splits {' and '.join(sorted(of))}; keep all scans"
                " of a subject in one.",
            )
    present = set().union(*places.values())
    for split in ("train", "validation"):
        if split not in present:
            yield error(
                "splits",
                f"No scan is in the split {split}; set `held_out` to some subjects, or change the"
                " manifest.",
            )


def _doubles(scans: Sequence[ScanReport]) -> Iterator[Finding]:
    """Scans with the same voxels."""
    same: dict[str, list[ScanReport]] = {}
    for scan in scans:
        if scan.digest:
            same.setdefault(scan.digest, []).append(scan)
    for group in same.values():
        apart = len({scan.record.split for scan in group}) > 1
        if len({scan.record.image for scan in group}) > 1:
            names = ", ".join(_file(scan) for scan in group[:3])
            where = ", in different splits" if apart else ""
            text = f"{len(group)} scans have the same voxels ({names}){where}; remove all but one."
            yield (error if apart else warning)("doubles", text)
        elif len(group) > 1 and apart:
            yield warning(
                "doubles",
                f"{_file(group[0])} is {len(group)} scans, in different splits; keep it in one"
                " split, unless it is an atlas.",
            )


def _spread(scans: Sequence[ScanReport]) -> Iterator[Finding]:
    """Scans that differ from the others: voxel size, field of view, units."""
    readable = [(scan, scan.grid) for scan in scans if scan.grid is not None]
    if len(readable) < 3:
        return
    spacing = np.stack([grid.spacing[0] for _, grid in readable])
    extent = np.stack([grid.spacing[0] * grid.shape for _, grid in readable])
    for what, values, remedy in (
        ("voxel size", spacing, "check its header, or resample all scans (lightning-reg prepare)"),
        ("field of view", extent, "check that it shows the same region"),
    ):
        usual = np.median(values, axis=0)
        for (scan, _), value in zip(readable, values, strict=True):
            if bool(((value > 2 * usual) | (value < usual / 2)).any()):
                shown, others = (
                    " x ".join(f"{float(v):.3g}" for v in row) for row in (value, usual)
                )
                yield warning(
                    what,
                    f"{_file(scan)} has a {what} of {shown} mm where half of the scans have about"
                    f" {others} mm; {remedy}.",
                )
    yield from _units([scan for scan, _ in readable])


def _units(scans: Sequence[ScanReport]) -> Iterator[Finding]:
    """CT that is not in HU, judged from all scans: a single MR image may look like shifted CT."""
    units = [scan.units for scan in scans]
    if "HU" not in units and units.count("HU + 1024") < 0.8 * len(units):
        for scan in scans:
            scan.units = scan.units.replace("HU + 1024", "arbitrary")
        return
    for scan in scans:
        if scan.units == "HU + 1024":
            yield warning(
                "units",
                f"{_file(scan)} looks like CT shifted by 1024 (air near 0, soft tissue near 1000);"
                " subtract 1024, or set `window` for these values.",
            )
        elif scan.units == "arbitrary":
            yield warning(
                "units",
                f"{_file(scan)} is not in HU ({scan.low:g} to {scan.high:g}) as other scans are;"
                " convert it.",
            )


def _parts(scans: Sequence[ScanReport]) -> Iterator[Finding]:
    """Masks, labels or landmarks that only some scans of a split have."""
    for split in SPLITS:
        inside = [scan for scan in scans if scan.record.split == split and scan.grid is not None]
        for part, word in (("mask", "masks"), ("labels", "labels"), ("landmarks", "landmarks")):
            lacking = [scan for scan in inside if part not in scan.parts]
            if lacking and len(lacking) < len(inside):
                yield warning(
                    "parts",
                    f"{len(lacking)} of {len(inside)} {split} scans have no {word}, as"
                    f" {_file(lacking[0])}; methods that need them refuse to start: add them, or"
                    " leave these scans out.",
                )


def _names(scans: Sequence[ScanReport]) -> Iterator[Finding]:
    """Scans that are read as subjects but may be time points: their names begin alike."""
    subjects = [scan.record.subject for scan in scans]
    if len(set(subjects)) < len(subjects):
        return
    beginnings: dict[str, list[str]] = {}
    for subject in subjects:
        beginnings.setdefault(subject.rpartition("_")[0], []).append(subject)
    shared = {begin: names for begin, names in beginnings.items() if begin and 1 < len(names) <= 10}
    if len(shared) < 2 or sum(map(len, shared.values())) < len(subjects) / 2:
        return
    first, second = next(iter(shared.values()))[:2]
    yield warning(
        "names",
        f"{len(subjects)} subjects have one scan each, and their names have {len(beginnings)}"
        f" beginnings (such as {first}, {second}); if these are time points, separate both by"
        " `pattern`.",
    )


def _pair(fixed: ScanReport, moving: ScanReport) -> Iterator[Finding]:
    """Findings about the headers and landmarks of a pair."""
    if fixed.grid is None or moving.grid is None:
        return
    name = f"{fixed.record.name} and {moving.record.name}"
    if fixed.record.split != moving.record.split:
        yield error(
            "splits",
            f"{name} are a pair and in two splits ({fixed.record.split}, {moving.record.split}), so"
            " it is not used; put them in one.",
        )
    share = fixed.grid.overlap(moving.grid)
    if share == 0:
        apart = float(np.linalg.norm(fixed.grid.center - moving.grid.center))
        yield error(
            "overlap",
            f"{name} do not overlap in the world (their centres are {apart:.0f} mm apart); correct"
            " the origins in their headers, or set `center=True`.",
        )
    elif share < 0.5:
        yield warning(
            "overlap",
            f"{name}: only {100 * share:.0f} % of the fixed image lies in the moving one; align or"
            " crop them.",
        )
    counts = [len(scan.landmarks) for scan in (fixed, moving) if scan.landmarks is not None]
    if len(set(counts)) > 1:
        yield error(
            "landmarks",
            f"{name} have {counts[0]} and {counts[1]} landmarks; they must correspond one to one,"
            " in the same order.",
        )


def _measure(
    dataset: RegistrationDataset, records: tuple[Record, Record]
) -> tuple[dict[str, str | float], list[Finding], tuple[float, float] | None]:
    """TRE and Dice before registration, conventions of landmarks, and correlations of a pair."""
    try:
        fixed, moving = (scan_from_subject(load_record(dataset, record)) for record in records)
        pair = make_pair(fixed, moving)
    except DataError:
        return {}, [], None  # reported for the scans or their headers
    case = evaluate(pair, Identity(pair.fixed.grid, torch.zeros(1)))
    row = case.row()
    kept = ("case", "tre_before_mm", "tre_before_sd_mm", "dice_before", "mask_dice_before")
    values = {key: row[key] for key in kept if key in row} | {
        "overlap": fixed.image.grid.overlap(moving.image.grid)
    }
    values["split"] = records[0].split
    return values, [*_conventions(records, pair)], alignments(fixed, moving)


def _conventions(records: tuple[Record, Record], pair: Pair) -> Iterator[Finding]:
    """Landmarks around which the images agree better under another convention."""
    if pair.fixed_landmarks is None or pair.moving_landmarks is None:
        return
    points = (pair.fixed_landmarks[0], pair.moving_landmarks[0])
    given = agreement(pair.fixed, pair.moving, points[0].double(), points[1].double())
    raw = [
        raw_landmarks(record, landmarks).double()
        for record, landmarks in zip(records, points, strict=True)
    ]
    scores = {}
    sides = list(zip(raw, (pair.fixed, pair.moving), strict=True))
    for convention in set.intersection(
        *(set(fitting_conventions(values, image.grid)) for values, image in sides)
    ):
        read = [as_convention(values, convention, image.grid) for values, image in sides]
        scores[convention] = agreement(pair.fixed, pair.moving, read[0], read[1])
    best = max(scores, key=lambda c: scores[c], default=None)
    # at least halves the distance to 1
    if best is None or scores[best] < given + 0.1 or 1 - scores[best] > 0.5 * (1 - given):
        return
    alike = " or ".join(c for c in CONVENTIONS if scores.get(c, -1.0) > scores[best] - 0.05)
    yield (error if scores[best] > given + 0.3 else warning)(
        "landmarks",
        f"Around the landmarks of {records[0].name} and {records[1].name} the images agree better"
        f" (correlation {scores[best]:.2f} instead of {given:.2f}) if they are {alike}; check"
        f" {records[0].landmarks}.",
    )


def agreement(
    fixed: Image, moving: Image, fixed_points: torch.Tensor, moving_points: torch.Tensor
) -> float:
    """Mean correlation of patches around points ``(N, 3)``, RAS mm; 0 for points outside."""
    if len(fixed_points) != len(moving_points):
        return 0.0
    offsets = torch.cartesian_prod(*[torch.arange(-PATCH, PATCH + 1, dtype=torch.float64)] * 3)
    offsets = offsets * float(fixed.grid.spacing.mean())
    patches = []
    for image, points in ((fixed, fixed_points), (moving, moving_points)):
        world = (points.unsqueeze(1) + offsets).reshape(-1, 3).T.unsqueeze(0)
        voxels = image.grid.to_voxel(world).float().view(1, 3, len(points), 1, -1)
        patches.append(sample(image.tensor, voxels, padding=float(image.tensor.min()))[0, 0, :, 0])
    a, b = (patch - patch.mean(1, keepdim=True) for patch in patches)
    correlation = (a * b).sum(1) / (a.norm(dim=1) * b.norm(dim=1)).clamp_min(1e-6)
    return float(correlation.mean())


def _file(scan: ScanReport) -> str:
    return str(scan.record.image or scan.record.name)
