"""Check of one scan: header, intensities, mask, labels and landmarks, with all problems."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import torchio as tio
from torch import Tensor

from lightning_reg.data.datasets.interface import Record, RegistrationDataset
from lightning_reg.data.datasets.loading import load_record
from lightning_reg.data.datasets.manifest import PreparedDataset
from lightning_reg.data.datasets.roles import has_labels, is_image
from lightning_reg.data.scans import add_landmarks, subject_problems
from lightning_reg.io.images import doubts, read_image
from lightning_reg.io.points import PointFile, read_points
from lightning_reg.registry import DataError
from lightning_reg.spatial import Grid

Level = Literal["error", "warning"]
CONVENTIONS = ("RAS mm", "LPS mm", "voxels counted from 0", "voxels counted from 1")


@dataclass(frozen=True)
class Finding:
    """Problem of a data set: an ``error`` stops or spoils training, a ``warning`` may be intended.

    Args:
        kind: word for the category of the finding.
        text: sentence with the file and the remedy.
    """

    level: Level
    kind: str
    text: str


def error(kind: str, text: str) -> Finding:
    """A problem that stops or spoils training."""
    return Finding("error", kind, text)


def warning(kind: str, text: str) -> Finding:
    """A problem that may be intended."""
    return Finding("warning", kind, text)


@dataclass
class ScanReport:
    """Findings and properties of one scan.

    Args:
        record: the scan.
        grid: ``None`` if the scan or its grid cannot be read; the intensities and landmarks are
            then not set.
        low, high: smallest and largest intensity.
        units: ``HU``, ``HU + 1024``, ``0 to 1`` or ``arbitrary``, judged from the values.
        digest: hash of the voxels; equal for equal images.
        label_like: whether the image has the values of a label map.
        parts: those of ``mask, labels, landmarks`` that are present.
        landmarks: ``(N, 3)`` RAS mm.
    """

    record: Record
    findings: list[Finding] = field(default_factory=list)
    grid: Grid | None = None
    low: float = 0.0
    high: float = 0.0
    units: str = ""
    digest: str = ""
    label_like: bool = False
    parts: tuple[str, ...] = ()
    landmarks: Tensor | None = None


def look_at(dataset: RegistrationDataset, record: Record) -> ScanReport:
    """Check a single scan."""
    try:
        subject, findings = load_leniently(dataset, record)
    except DataError as cause:
        return ScanReport(record, [error("unreadable", str(cause))])
    except Exception as cause:  # a reader may raise anything; the other scans are still checked
        why = f"{type(cause).__name__}: {cause}"
        text = f"{record.name} cannot be read ({why}); look at {record.image}."
        return ScanReport(record, [error("unreadable", text)])
    report = ScanReport(record, findings)
    findings += [error("image", problem) for problem in subject_problems(subject)]
    for part in ("image", "mask", "labels"):
        if part in subject:
            for doubt in doubts(subject[part], getattr(record, part)):
                findings.append((error if doubt.sizes else warning)("header", doubt.text))
    report.parts = tuple(part for part in ("mask", "labels", "landmarks") if part in subject)
    image = subject["image"]
    try:
        report.grid = Grid(image.spatial_shape, image.affine)
    except ValueError:
        return report  # already among the problems
    _intensities(report, image)
    if "landmarks" in subject:
        report.landmarks = subject["landmarks"]
        # cropping may have cut some off
        if not (isinstance(dataset, PreparedDataset) and dataset.geometry.crop is not None):
            _landmarks(report, subject)
    return report


def load_leniently(
    dataset: RegistrationDataset, record: Record
) -> tuple[tio.Subject, list[Finding]]:
    """Load a scan despite problems, and list the parts of it that cannot be read.

    A scan that only the data set can read (its file is no image, or holds several scans) is loaded
    by the data set alone.

    Raises:
        DataError: the image itself cannot be read.
    """
    if (
        record.image is None
        or record.number is not None
        or not (record.image.is_dir() or is_image(record.image, pictures=True))
    ):
        return load_record(dataset, record), []
    try:
        return load_record(dataset, record), []
    except DataError:
        parts: dict[str, tio.Image] = {"image": read_image(record.image)}
    lacking = []
    for part in ("mask", "labels"):
        path: Path | None = getattr(record, part)
        if path is not None:
            try:
                parts[part] = read_image(path, tio.LabelMap)
            except DataError as cause:
                lacking.append(error("unreadable", str(cause)))
    subject = tio.Subject(name=record.name, group=record.subject, **parts)
    if record.landmarks is not None:
        try:
            add_landmarks(subject, read_points(record.landmarks), cropped=True)
        except DataError as cause:
            lacking.append(error("landmarks", str(cause)))
    return subject, lacking


def _intensities(report: ScanReport, image: tio.Image) -> None:
    values = image.data.float()
    finite = values[torch.isfinite(values)]
    if not finite.numel():
        return
    report.low, report.high = float(finite.min()), float(finite.max())
    report.digest = hashlib.sha256(np.ascontiguousarray(image.data.numpy()).tobytes()).hexdigest()
    report.label_like = has_labels(image.data[0].numpy())
    report.units = units(finite, report.low, report.high)
    clipped = float((finite == report.high).float().mean())
    if report.high > report.low and clipped > 0.01:
        where = image.path or report.record.name
        text = (
            f"{where} has its largest value ({report.high:g}) in {100 * clipped:.1f} % of its"
            " voxels: intensities are clipped; export it with its full range, or check that nothing"
            " of interest is that bright."
        )
        report.findings.append(warning("intensities", text))


def units(values: Tensor, low: float, high: float) -> str:
    """Guess the units of intensities, see :class:`ScanReport`."""
    if -4100 <= low <= -800 and high > 200:
        return "HU"
    if low >= -0.01 and high <= 1.01:
        return "0 to 1"
    sampled = values[:: max(1, values.numel() // 200_000)]
    tissue, air = (
        float(((sampled > 950) & (sampled < 1150)).float().mean()),
        float((sampled < 300).float().mean()),
    )
    return "HU + 1024" if low > -100 and tissue > 0.1 and air > 0.1 and high > 1200 else "arbitrary"


def _landmarks(report: ScanReport, subject: tio.Subject) -> None:
    """Report landmarks outside the image or the mask, and the conventions that would fit."""
    assert report.landmarks is not None
    assert report.grid is not None
    mask = subject["mask"].data[0] > 0 if "mask" in subject else None
    here = _share(report.landmarks, report.grid, None)
    in_mask = _share(report.landmarks, report.grid, mask)
    if here == 1.0 and in_mask > 0.5:
        return
    fits = fitting_conventions(raw_landmarks(report.record, report.landmarks), report.grid, mask)
    where = report.record.landmarks or f"The landmarks of {report.record.name}"
    outside = (
        f"{where}: {round((1 - here) * len(report.landmarks))} of {len(report.landmarks)} landmarks"
        " lie outside the image"
    )
    if here == 1.0:
        outside = f"{where}: {100 * (1 - in_mask):.0f} % of the landmarks lie outside the mask"
    if fits:
        advice = (
            f"they fit if they are {' or '.join(fits)}: name their columns accordingly (x,y,z RAS;"
            " x_lps,y_lps,z_lps; i,j,k from 0)"
        )
    else:
        advice = "they fit neither as RAS or LPS mm nor as voxels: they may belong to another image"
    found = (error if here < 1.0 else warning)("landmarks", f"{outside}; {advice}.")
    report.findings.append(found)


def raw_landmarks(record: Record, landmarks: Tensor) -> Tensor:
    """Unconverted numbers of the landmark file; ``landmarks`` if only the data set can read it."""
    try:
        return read_points(record.landmarks).values if record.landmarks is not None else landmarks
    except DataError:
        return landmarks


def as_convention(values: Tensor, convention: str, grid: Grid) -> Tensor:
    """Convert numbers ``(N, 3)`` from one of :data:`CONVENTIONS`, as RAS mm."""
    first, space = 1.0 if convention.endswith("1") else 0.0, convention.split()[0].removesuffix("s")
    return PointFile(values.double() - first, space).world(grid)


def fitting_conventions(values: Tensor, grid: Grid, mask: Tensor | None = None) -> list[str]:
    """Conventions under which all points are in the image and 90 % of them in any mask."""
    found = []
    for convention in CONVENTIONS:
        world = as_convention(values.double(), convention, grid)
        if _share(world, grid, None) == 1.0 and _share(world, grid, mask) >= 0.9:
            found.append(convention)
    return found


def _share(world: Tensor, grid: Grid, mask: Tensor | None) -> float:
    """Share of the points that are in the image and, if given, in the mask."""
    points = world.double().T.unsqueeze(0)
    inside = grid.contains(points)[0]
    if mask is not None:
        last = torch.tensor(grid.shape).view(3, 1) - 1
        i, j, k = grid.to_voxel(points)[0].round().long().clamp_min(0).minimum(last)
        inside = inside & mask[i, j, k]
    return float(inside.double().mean())
