"""Whoever registers a pair: a trained network, an optimisation, or one after the other."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from lightning_reg import __version__
from lightning_reg.components.interfaces import Composer
from lightning_reg.data.point_files import read_points
from lightning_reg.data.preprocessing import Preprocessing
from lightning_reg.data.reading import Source
from lightning_reg.data.scans import Scan, check_landmarks, make_pair, read_subject, scan_from_subject, subject_from_scan
from lightning_reg.data.statistics import unlike
from lightning_reg.data.transform_files import require_perpendicular
from lightning_reg.discovery import DataError, UserError, construct, nearest
from lightning_reg.inference.alignment import best_translation, translation
from lightning_reg.inference.methods import read_method
from lightning_reg.inference.optimization import Optimization, Optimized, optimize
from lightning_reg.inference.result import Result
from lightning_reg.spatial import Affine, BSpline, Composition, Displacement, Grid, Pair, Transform, split_affine
from lightning_reg.training.module import RegistrationModule

Start = Literal["headers", "centers", "auto"]
STARTS = ("headers", "centers", "auto")


@dataclass
class Registrar:
    """Registers one pair after another.

    Args:
        preprocessing: of both images, before anything looks at them.
        composer: the trained network, in evaluation mode; ``None``: start from the images as they lie.
        optimization: what ``refine`` runs, and what stands in for the network where there is none.
        start: without a network: from the ``headers``, with the grids' ``centers`` on each other, or ``auto``, the better of these and of
            the intensities' and masks' centres of mass.
        statistics: of the training images, see :func:`lightning_reg.data.statistics.statistics`.
        settings: what the registrar was made from, for the record.
        device: ``cpu``, ``cuda`` or ``cuda:N``.
    """

    preprocessing: Preprocessing
    composer: Composer | None = None
    optimization: Optimization | None = None
    start: Start = "headers"
    statistics: Mapping[str, Any] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    device: str = "cpu"

    def __post_init__(self) -> None:
        if self.start not in STARTS:
            raise UserError(f"start is '{self.start}'{nearest(self.start, STARTS)} Use one of {', '.join(STARTS)}.")
        self.device = checked_device(self.device)
        if self.composer is not None:
            self.composer = self.composer.to(self.device).eval()

    def register(
        self,
        fixed: Source,
        moving: Source,
        *,
        fixed_mask: Source | None = None,
        moving_mask: Source | None = None,
        fixed_labels: Source | None = None,
        moving_labels: Source | None = None,
        fixed_landmarks: str | Path | Any | None = None,
        moving_landmarks: str | Path | Any | None = None,
        refine: int | None = None,
        report: Callable[[str], None] | None = None,
    ) -> Result:
        """Register two images.

        Args:
            fixed, moving: files, folders of DICOM slices, or images of other libraries, see
                :func:`~lightning_reg.data.reading.read_image`. Sizes, spacings and directions may differ.
            fixed_mask, moving_mask: where the images count; read by the optimisation and the metrics, never by a network.
            fixed_labels, moving_labels, fixed_landmarks, moving_landmarks: for the metrics (and loss terms that ask for them).
                Landmarks: a file (see :mod:`lightning_reg.data.point_files`) or ``(N, 3)`` RAS mm.
            refine: steps of instance optimisation after the network; ``None`` or 0: none. Without a network: steps in all, default the
                method's own.
            report: told what goes on, a line at a time.

        Raises:
            DataError: an image, mask, label map or landmark is not what it has to be, or the images do not overlap.
        """
        started = time.perf_counter()
        scans = [
            read_scan("fixed", fixed, fixed_mask, fixed_labels, fixed_landmarks),
            read_scan("moving", moving, moving_mask, moving_labels, moving_landmarks),
        ]
        result = self.register_scans(*scans, refine=refine, report=report)
        result.inputs = {
            name: str(Path(source).expanduser().resolve())
            for name, source in (
                ("fixed", fixed), ("moving", moving), ("fixed_mask", fixed_mask), ("moving_mask", moving_mask),
                ("fixed_labels", fixed_labels), ("moving_labels", moving_labels),
                ("fixed_landmarks", fixed_landmarks), ("moving_landmarks", moving_landmarks),
            )
            if isinstance(source, (str, Path))
        }  # fmt: skip
        result.seconds = {"read": time.perf_counter() - started - sum(result.seconds.values())} | result.seconds
        return result

    @torch.inference_mode(False)
    def register_scans(
        self, fixed: Scan, moving: Scan, *, refine: int | None = None, report: Callable[[str], None] | None = None
    ) -> Result:
        """As :meth:`register`, for scans in their original intensities and grids."""
        if refine is not None and refine < 0:
            raise UserError(f"refine is {refine}; give a number of steps.")
        clock = _Clock()
        require_perpendicular(fixed.image.grid)
        working = [replace(self.preprocessing, center=False)(subject_from_scan(scan)) for scan in (fixed, moving)]
        centers = [scan.image.grid.center[0] for scan in working]
        centered = self.preprocessing.center or self.start == "centers"
        if not centered:
            make_pair(fixed, moving)  # refuses images that do not overlap
        lying = [_shifted(s, -c) for s, c in zip(working, centers, strict=True)] if centered else working
        pair = make_pair(lying[0], lying[1])
        shift = centers[1] - centers[0] if centered else torch.zeros(3, dtype=torch.float64)
        raw = make_pair(fixed, moving, overlapping=False)
        warnings = [unlike(scan, self.statistics) for scan in working] if self.statistics else []
        pair = pair.to(self.device)
        clock.lap("preprocess")

        found, start = self._first(pair)
        clock.lap("network" if self.composer is not None else "align")
        optimized: Optimized | None = None
        if self.optimization is not None and (self.composer is None or refine):
            optimized = optimize(pair, found, self.optimization, steps=refine, network=self.composer, report=report)
            found = optimized.transform
            clock.lap("refine")
        if not bool(torch.isfinite(found.displacement(pair.fixed.grid)).all()):
            raise UserError("The registration became NaN or infinite; use another checkpoint or method.")
        where = working[0].image.grid
        shifted = [centers[0] if centered else torch.zeros(3, dtype=torch.float64)] * 2
        shifted[1] = shifted[0] + shift
        phi, before = (_in_the_world(t, where, pair.fixed.grid, *shifted) for t in (found, start))
        clock.lap("compose")
        return Result(
            pair=raw,
            phi=phi,
            start=before,
            working=make_pair(working[0], working[1], overlapping=False),
            optimized=optimized,
            seconds=clock.seconds,
            settings={"version": __version__, **self.settings, "refine_steps": refine},
            warnings=[w for w in [*warnings, missed(raw, phi)] if w],
        )

    def _first(self, pair: Pair) -> tuple[Transform, Transform]:
        """Where the optimisation begins (for a network: its result), and what *before* is."""
        identity = Affine(torch.eye(4, device=pair.fixed.tensor.device).unsqueeze(0), pair.fixed.grid)
        if self.composer is not None:
            with torch.inference_mode(False), torch.no_grad():
                return self.composer(pair.fixed, pair.moving).transform, identity
        if self.start != "auto" or self.optimization is None:
            return identity, identity
        return best_translation(pair, self.optimization), identity


def read_scan(name: str, image: Source, mask: Source | None = None, labels: Source | None = None, landmarks: Any = None) -> Scan:
    """An image with what belongs to it, its padding value the image's minimum.

    Args:
        name: how messages call it.
        image, mask, labels: see :func:`~lightning_reg.data.reading.read_image`.
        landmarks: a file (see :mod:`lightning_reg.data.point_files`) or ``(N, 3)`` RAS mm.

    Raises:
        DataError: one of them is not what it has to be.
    """
    subject = read_subject(name, image, mask, labels)
    scan = scan_from_subject(subject, padding=float(subject["image"].data.min()))
    if landmarks is None:
        return scan
    if isinstance(landmarks, (str, Path)):
        points = read_points(Path(landmarks).expanduser()).world(scan.image.grid)
    else:
        array = np.asarray(landmarks)
        if array.ndim != 2 or array.shape[1] != 3 or array.dtype.kind not in "iuf" or not np.isfinite(array).all():
            raise DataError(f"The {name} landmarks are {array.shape} of {array.dtype}; give (N, 3) finite numbers in RAS mm.")
        points = torch.from_numpy(array.astype(np.float64))
    scan = replace(scan, landmarks=points)
    check_landmarks(scan)
    return scan


def read_pair(
    fixed: Source,
    moving: Source,
    *,
    fixed_mask: Source | None = None,
    moving_mask: Source | None = None,
    fixed_labels: Source | None = None,
    moving_labels: Source | None = None,
    fixed_landmarks: Any = None,
    moving_landmarks: Any = None,
) -> Pair:
    """The pair that :meth:`Registrar.register` reads, whether or not the images overlap; raises as :func:`read_scan`."""
    first = read_scan("fixed", fixed, fixed_mask, fixed_labels, fixed_landmarks)
    second = read_scan("moving", moving, moving_mask, moving_labels, moving_landmarks)
    return make_pair(first, second, overlapping=False)


@torch.no_grad()
def missed(pair: Pair, transform: Transform) -> str | None:
    """A sentence where less than a quarter of the fixed image (of its mask, if it has one) lands inside the moving one."""
    grid = pair.fixed.grid
    points = grid.points(dtype=torch.float64).flatten(2)
    if pair.fixed_mask is not None:
        points = points[:, :, (pair.fixed_mask.tensor > 0).flatten()]
    points = points[:, :, :: max(1, points.shape[2] // 20_000)]
    lands = pair.moving.grid.to_voxel(transform.map_world(grid.to_world(points)))[0]
    upper = torch.tensor(pair.moving.grid.shape, dtype=torch.float64).view(3, 1) - 0.5
    inside = float(((lands > -0.5) & (lands < upper)).all(0).double().mean())
    if inside >= 0.25:
        return None
    return (
        f"Only {100 * inside:.0f} % of the fixed image lands inside the moving one: do not trust this registration; try another start "
        "(--start), a mask, or a fixed image cropped to what both show."
    )


def load(
    path: str | Path, *, device: str = "cpu", start: Start = "headers", refinement: str = "refine", overrides: Sequence[str] = ()
) -> Registrar:
    """The model of a checkpoint, ready to register.

    Args:
        path: ``best.ckpt`` of a run: configuration, preprocessing and weights in one file. Loading it runs no code of the file;
            components are found by name among the installed packages.
        device: where to compute.
        start: ``headers`` or ``centers``, see :class:`Registrar`.
        refinement: the method of ``conf/instance`` that ``register(..., refine=N)`` runs.
        overrides: of its values, ``key=value`` as on a command line.

    Raises:
        UserError: no such file, not a model of this project, a component that is not installed, no such device.
    """
    if start == "auto":
        raise UserError("A model starts from the headers or from the centers; auto is for methods without a model.")
    module = RegistrationModule.from_checkpoint(str(Path(path).expanduser()))
    method = read_method(refinement, overrides)
    settings = {
        "model": str(Path(path).expanduser().resolve()),
        "method": module.method,
        "preprocessing": dict(module.preprocessing),
        "refinement": method,
    }
    return Registrar(
        construct("preprocessing", Preprocessing, dict(module.preprocessing)),
        module.composer,
        construct("optimization", Optimization, method["optimization"]),
        start,
        module.statistics,
        settings,
        device,
    )


def conventional(name: str = "bspline", overrides: Sequence[str] = (), *, device: str = "cpu", start: Start | None = None) -> Registrar:
    """Registration without a trained network: instance optimisation from the images as they lie.

    Args:
        name: a method of ``conf/instance``.
        overrides: of its values, ``key=value`` as on a command line.
        device: where to compute.
        start: see :class:`Registrar`; default the method's.

    Raises:
        UserError: no such method, option or device.
    """
    method = read_method(name, overrides)
    return Registrar(
        construct("preprocessing", Preprocessing, method["preprocessing"]),
        None,
        construct("optimization", Optimization, method["optimization"]),
        start or method["start"],
        settings={"method": name, **method},
        device=device,
    )


def checked_device(device: str) -> str:
    """The device, if it is there.

    Raises:
        UserError: it is not.
    """
    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as cause:
        known = "cpu, cuda" if torch.cuda.is_available() else "cpu; this machine (or this installation of PyTorch) has no CUDA"
        raise UserError(f"The device '{device}' cannot be used; use {known}.") from cause
    return device


def _shifted(scan: Scan, move: Tensor) -> Scan:
    """The scan elsewhere in the world."""
    affine = translation(move) @ scan.image.grid.affine
    there = Grid(scan.image.grid.shape, affine)
    parts = {k: None if i is None else replace(i, grid=there) for k, i in (("mask", scan.mask), ("labels", scan.labels))}
    landmarks = None if scan.landmarks is None else scan.landmarks + move.to(scan.landmarks)
    return replace(scan, image=replace(scan.image, grid=there), landmarks=landmarks, **parts)  # type: ignore[arg-type]


def _in_the_world(transform: Transform, grid: Grid, found_on: Grid, fixed_center: Tensor, moving_center: Tensor) -> Transform:
    """A transform found between two worlds whose origins lay at these points, on the fixed grid where it really is."""
    affine, rest = split_affine(transform, found_on)
    affine = translation(moving_center) @ affine.cpu() @ translation(-fixed_center)
    inner: Transform | None = None
    if isinstance(rest, BSpline):
        inner = BSpline(rest.control.cpu(), grid, rest.stride, rest.offset)
    elif rest is not None:
        inner = Displacement(rest.displacement(found_on).cpu(), grid)
    outer = Affine(affine, grid)
    if inner is None:
        return outer
    return Composition([outer, inner]) if not torch.allclose(affine[0], torch.eye(4, dtype=affine.dtype), atol=1e-12) else inner


class _Clock:
    """Seconds by part."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.last = time.perf_counter()

    def lap(self, name: str) -> None:
        now = time.perf_counter()
        self.seconds[name], self.last = now - self.last, now
