"""Check of a whole data set: every scan, then comparisons between scans."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Annotated, get_args

import numpy as np
import torch

from lightning_reg.curation.check.scan import (
    CONVENTIONS,
    Finding,
    ScanReport,
    as_convention,
    fitting_conventions,
    look_at,
    raw_landmarks,
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
    result.findings += [finding for report in result.scans for finding in report.findings]
    for of_all in (_splits, _doubles, _spread, _parts, _names):
        result.findings += of_all(result.scans)
    result.findings += _roles(data.dataset, result.scans)
    result.findings += [
        finding for f, m in indices for finding in _pair(result.scans[f], result.scans[m])
    ]
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


def _alignment(correlations: Sequence[tuple[float, float]]) -> list[Finding]:
    """Headers that align the images less well than the centres of their grids."""
    headers, centers = np.mean(correlations, axis=0).tolist() if correlations else (0.0, 0.0)
    # images apart in the world are reported by pair
    if centers <= headers + CLEARLY or headers == -1.0:
        return []
    text = (
        f"The headers do not align the images (mean correlation {headers:.2f}, with aligned centres"
        f" {centers:.2f}): train with"
    )
    return [
        Finding(
            "warning",
            "alignment",
            f"{text} `center=True`, or auto; register with `start='centers'`.",
        )
    ]


def _roles(dataset: RegistrationDataset, scans: Sequence[ScanReport]) -> list[Finding]:
    """Label maps listed as scans; masks and label maps of a folder that belong to no scan."""
    readable = [scan for scan in scans if scan.grid is not None]
    alike = [scan for scan in readable if scan.label_like]
    found = []
    if alike and len(alike) == len(readable):
        text = (
            f"All scans have few whole values, as label maps have (as {_file(alike[0])}); give the"
            " folder of the images, if they are."
        )
        found.append(Finding("warning", "roles", text))
    elif not isinstance(dataset, FolderDataset):  # which tells them apart itself
        text = "is listed as an image and has the values of a label map; list it as labels"
        found += [Finding("error", "roles", f"{_file(scan)} {text}.") for scan in alike]
    if isinstance(dataset, FolderDataset) and dataset.left_out:
        count, first = len(dataset.left_out), dataset.left_out[0]
        text = (
            f"{count} masks or label maps are not used, as {first}: they are of no image's space,"
            " or second ones; name those that count"
        )
        found.append(
            Finding("warning", "roles", f"{text} in a table (data=pairs), if they are wanted.")
        )
    return found


def _splits(scans: Sequence[ScanReport]) -> list[Finding]:
    """Subjects in two splits; splits without scans."""
    places: dict[str, set[str]] = {}
    for scan in scans:
        places.setdefault(scan.record.subject, set()).add(scan.record.split)
    found = [
        Finding(
            "error",
            "splits",
            f"The subject {subject} is in the splits {' and '.join(sorted(of))}; keep all scans of"
            " a subject in one.",
        )
        for subject, of in places.items()
        if len(of) > 1
    ]
    there = {scan.record.split for scan in scans}
    return found + [
        Finding(
            "error",
            "splits",
            f"No scan is in the split {split}; set `held_out` to some subjects, or change the"
            " manifest.",
        )
        for split in ("train", "validation")
        if split not in there
    ]


def _doubles(scans: Sequence[ScanReport]) -> list[Finding]:
    """Scans with the same voxels."""
    same: dict[str, list[ScanReport]] = {}
    for scan in scans:
        if scan.digest:
            same.setdefault(scan.digest, []).append(scan)
    found = []
    for group in same.values():
        apart = len({scan.record.split for scan in group}) > 1
        if len({scan.record.image for scan in group}) > 1:
            names = ", ".join(_file(scan) for scan in group[:3])
            text = (
                f"{len(group)} scans have the same voxels"
                f" ({names}){', in different splits' if apart else ''}; remove all but one."
            )
            found.append(Finding("error" if apart else "warning", "doubles", text))
        elif len(group) > 1 and apart:
            text = (
                f"{_file(group[0])} is {len(group)} scans, in different splits; keep it in one"
                " split, unless it is an atlas."
            )
            found.append(Finding("warning", "doubles", text))
    return found


def _spread(scans: Sequence[ScanReport]) -> list[Finding]:
    """Scans that differ from the others: voxel size, field of view, units."""
    readable = [(scan, scan.grid) for scan in scans if scan.grid is not None]
    if len(readable) < 3:
        return []
    found = []
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
                text = (
                    f"{_file(scan)} has a {what} of {shown} mm where half of the scans have about"
                    f" {others} mm; {remedy}."
                )
                found.append(Finding("warning", what, text))
    return found + _units([scan for scan, _ in readable])


def _units(scans: Sequence[ScanReport]) -> list[Finding]:
    """CT that is not in HU, judged from all scans: a single MR image may have the values of a
    shifted CT.
    """
    found = []
    units = [scan.units for scan in scans]
    if "HU" not in units and units.count("HU + 1024") < 0.8 * len(units):
        for scan in scans:
            scan.units = scan.units.replace("HU + 1024", "arbitrary")
        return []
    for scan in scans:
        if scan.units == "HU + 1024":
            text = (
                f"{_file(scan)} looks like CT shifted by 1024 (air near 0, soft tissue near 1000);"
                " subtract 1024, or set"
            )
            found.append(Finding("warning", "units", f"{text} `window` for these values."))
        elif scan.units == "arbitrary":
            text = (
                f"{_file(scan)} is not in HU ({scan.low:g} to {scan.high:g}) as other scans are;"
                " convert it."
            )
            found.append(Finding("warning", "units", text))
    return found


def _parts(scans: Sequence[ScanReport]) -> list[Finding]:
    """Masks, labels or landmarks that only some scans of a split have."""
    found = []
    for split in SPLITS:
        inside = [scan for scan in scans if scan.record.split == split and scan.grid is not None]
        for part, word in (("mask", "masks"), ("labels", "labels"), ("landmarks", "landmarks")):
            lacking = [scan for scan in inside if part not in scan.parts]
            if lacking and len(lacking) < len(inside):
                text = (
                    f"{len(lacking)} of {len(inside)} {split} scans have no {word}, as"
                    f" {_file(lacking[0])}; methods that need them refuse"
                )
                found.append(
                    Finding(
                        "warning", "parts", f"{text} to start: add them, or leave these scans out."
                    )
                )
    return found


def _names(scans: Sequence[ScanReport]) -> list[Finding]:
    """Scans that are read as separate subjects but may be time points, because their names begin
    alike.
    """
    subjects = [scan.record.subject for scan in scans]
    if len(set(subjects)) < len(subjects):
        return []
    beginnings: dict[str, list[str]] = {}
    for subject in subjects:
        beginnings.setdefault(subject.rpartition("_")[0], []).append(subject)
    shared = {begin: names for begin, names in beginnings.items() if begin and 1 < len(names) <= 10}
    if len(shared) < 2 or sum(map(len, shared.values())) < len(subjects) / 2:
        return []
    first, second = next(iter(shared.values()))[:2]
    names = f"their names have {len(beginnings)} beginnings (such as {first}, {second})"
    text = (
        f"{len(subjects)} subjects have one scan each, and {names}; if these are time points,"
        " separate both by `pattern`."
    )
    return [Finding("warning", "names", text)]


def _pair(fixed: ScanReport, moving: ScanReport) -> list[Finding]:
    """Findings about the headers and landmarks of a pair."""
    if fixed.grid is None or moving.grid is None:
        return []
    found = []
    name = f"{fixed.record.name} and {moving.record.name}"
    if fixed.record.split != moving.record.split:
        text = (
            f"{name} are a pair and in two splits ({fixed.record.split}, {moving.record.split}), so"
            " it is not used; put them in one."
        )
        found.append(Finding("error", "splits", text))
    share = fixed.grid.overlap(moving.grid)
    if share == 0:
        apart = float(np.linalg.norm(fixed.grid.center - moving.grid.center))
        text = (
            f"{name} do not overlap in the world (their centres are {apart:.0f} mm apart); correct"
            " the origins in their headers, or set"
        )
        found.append(Finding("error", "overlap", f"{text} `center=True`."))
    elif share < 0.5:
        text = (
            f"{name}: only {100 * share:.0f} % of the fixed image lies in the moving one; align or"
            " crop them."
        )
        found.append(Finding("warning", "overlap", text))
    counts = [len(scan.landmarks) for scan in (fixed, moving) if scan.landmarks is not None]
    if len(set(counts)) > 1:
        text = (
            f"{name} have {counts[0]} and {counts[1]} landmarks; they must correspond one to one,"
            " in the same order."
        )
        found.append(Finding("error", "landmarks", text))
    return found


def _measure(
    dataset: RegistrationDataset, records: tuple[Record, Record]
) -> tuple[dict[str, str | float], list[Finding], tuple[float, float] | None]:
    """TRE and Dice before registration; whether the images agree at their landmarks; their
    correlation by headers and by centres.
    """
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
    return values, _conventions(records, pair), alignments(fixed, moving)


def _conventions(records: tuple[Record, Record], pair: Pair) -> list[Finding]:
    """Landmarks inside both images that seem to be in another convention, under which patches
    around them agree better.
    """
    if pair.fixed_landmarks is None or pair.moving_landmarks is None:
        return []
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
        return []
    alike = " or ".join(c for c in CONVENTIONS if scores.get(c, -1.0) > scores[best] - 0.05)
    names = f"{records[0].name} and {records[1].name}"
    better = f"agree better (correlation {scores[best]:.2f} instead of {given:.2f})"
    text = (
        f"Around the landmarks of {names} the images {better} if they are {alike}; check"
        f" {records[0].landmarks}."
    )
    return [Finding("error" if scores[best] > given + 0.3 else "warning", "landmarks", text)]


def agreement(
    fixed: Image, moving: Image, fixed_points: torch.Tensor, moving_points: torch.Tensor
) -> float:
    """Mean correlation of patches around corresponding points ``(N, 3)``, RAS mm; 0 for points
    outside.
    """
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
