"""Result of a registration, and its files."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torchio as tio
from torch import Tensor

from lightning_reg.figures.views import card, thumbnail
from lightning_reg.inference.applying import read_to_resample
from lightning_reg.inference.outputs import INVERSE, OF_ONE, outputs
from lightning_reg.inference.report.page import ReportSection
from lightning_reg.inference.report.registration import write_report
from lightning_reg.inference.weights import Weights
from lightning_reg.io.folders import MARK, Beside, written_whole
from lightning_reg.io.images import Source
from lightning_reg.io.points import as_points
from lightning_reg.io.transforms import displacement_array
from lightning_reg.metrics import METRICS, PairMetrics, evaluate
from lightning_reg.metrics.extra import ExtraMetric
from lightning_reg.metrics.similarity import similarities
from lightning_reg.optimization.descent import Optimized
from lightning_reg.registry import ArgumentError
from lightning_reg.spatial import (
    LARGE,
    Affine,
    Grid,
    Pair,
    Transform,
    assembled,
    determinant_on,
    known_on,
    parts,
    resampled,
    split_affine,
)


@dataclass(frozen=True)
class Inverted:
    """Inverse of a transform, with its residual.

    Args:
        transform: moving world to fixed world.
        domain: part of the moving grid that contains the mapped voxels of the fixed image, with a
            margin of some voxels.
        residual: ``mean, p95, largest`` of ``|phi(phi^-1(y)) - y|`` at the mapped voxels, mm.
    """

    transform: Transform
    domain: Grid
    residual: dict[str, float]


@torch.no_grad()
def invert(transform: Transform, grid: Grid, moving: Grid) -> Inverted:
    """Invert a transform, and measure the residual at the mapped voxels of the fixed ``grid``.

    Args:
        transform: fixed world to moving world.
        grid, moving: of the two images.
    """
    inverse = transform.inverse()
    landed = transform.map_world(grid.to_world(grid.scattered(200_000)))
    distance = (transform.map_world(inverse.map_world(landed)) - landed).norm(dim=1)[0]
    voxels = moving.to_voxel(landed)[0]
    low = [
        min(max(int(v) - 8, 0), n - 2) for v, n in zip(voxels.amin(1), moving.shape, strict=True)
    ]
    high = [
        max(min(int(v) + 9, n), a + 2)
        for v, n, a in zip(voxels.amax(1), moving.shape, low, strict=True)
    ]
    domain = moving.cropped(low, [b - a for a, b in zip(low, high, strict=True)])
    return Inverted(inverse, domain, spread_of(distance))


def spread_of(distances: Tensor) -> dict[str, float]:
    """Mean, 95th percentile and maximum."""
    p95 = float(distances.quantile(0.95))
    return {"mean": float(distances.mean()), "p95": p95, "largest": float(distances.max())}


@dataclass
class Result:
    """A registered pair.

    Args:
        pair: the two images in their original intensities and grids, with masks, labels and
            landmarks.
        transform: fixed world to moving world, RAS mm.
        start: transform of the *before* state: identity, or the translation that aligns the
            centres.
        working: the preprocessed pair, input of the network and the optimisation.
        optimized: result of the instance optimisation, if any.
        seconds: by part.
        settings: model, method, versions.
        warnings: a sentence each.
        inputs: paths of the files that were read.
        extra: metrics in addition to those of the table.
        spread: of an ensemble's registrations about their mean (``transform``): root mean square
            distance, mm, ``(1, 1, I, J, K)`` on the fixed image's grid.
        weights: registrations of the pair for other weights, by a model trained for a range of
            weights.
    """

    pair: Pair
    transform: Transform
    start: Transform
    working: Pair
    optimized: Optimized | None = None
    seconds: dict[str, float] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    inputs: dict[str, str] = field(default_factory=dict)
    extra: Sequence[ExtraMetric] = ()
    spread: Tensor | None = None
    weights: Weights | None = None

    @property
    def grid(self) -> Grid:
        """The fixed image's original grid."""
        return self.pair.fixed.grid

    @property
    def affine_part(self) -> Affine | None:
        """The leading affine part of the transform, if it has one."""
        first = parts(self.transform)[0]
        return first if isinstance(first, Affine) else None

    def __repr__(self) -> str:
        took = f", {sum(self.seconds.values()):.1f} s" if self.seconds else ""
        facts = [f"{self.pair.name[0]}: {self.transform}", f"fixed {self.grid}{took}"]
        return f"Result({'; '.join([*facts, *self.warnings])})"

    def _repr_html_(self) -> str:
        """Metrics before and after; rows of fixed image, warped image, difference and folding."""
        case = self.case
        rows = {
            "fixed": str(self.grid),
            "moving": str(self.pair.moving.grid),
            "transform": str(self.transform),
        }
        found = case.row()
        for metric in METRICS:
            before, after = found.get(metric.column("before")), found.get(metric.column("after"))
            if metric.compared and after is not None:
                start = "" if before is None else f"{float(before):.{metric.digits}f} → "
                title = "NCC, original intensities" if metric.key == "ncc" else metric.title
                rows[title] = f"{start}{float(after):.{metric.digits}f} {metric.unit}"
        rows |= {"folding": f"{100 * case.folding:.3f} %", "SDlogJ": f"{case.sdlogj:.3f}"}
        rows |= {"seconds": f"{sum(self.seconds.values()):.1f}"} if self.seconds else {}
        rows |= {"warning": " ".join(self.warnings)} if self.warnings else {}
        drawn = thumbnail(self.pair, self.field, self.determinant)
        return card(f"Registration of {self.pair.name[0]}", rows, drawn)

    def map_points(self, points: Any) -> np.ndarray:
        """Map points of the fixed image into the moving one: ``(N, 3)`` RAS mm to ``(N, 3)`` RAS
        mm.

        Raises:
            DataError: not ``(N, 3)`` finite numbers, in an array, a tensor or a list.
        """
        given = as_points(points, "The points")
        return self.transform.map_world(given.T.unsqueeze(0))[0].T.detach().cpu().numpy()

    def warp(self, image: Source, labels: bool = False) -> tio.Image:
        """Resample another image of the moving side on the fixed image's grid.

        Args:
            image: in the moving image's world, on any grid; see
                :func:`~lightning_reg.io.images.read_image`.
            labels: nearest neighbour, values unchanged; otherwise linear, float32, the image's
                minimum outside.

        Raises:
            DataError: it is no 3D image, or has NaN or infinite values.
        """
        moving = read_to_resample(image, labels)
        warped = resampled(moving, self.field, self.grid)
        kind = tio.LabelMap if labels else tio.ScalarImage
        return kind(tensor=warped.tensor[0], affine=warped.grid.affine[0])

    def displacement_mm(self, space: Literal["lps", "ras"]) -> np.ndarray:
        """Displacement at every voxel of the fixed image, from its place to that in the moving
        image, ``(I, J, K, 3)`` mm in float32.

        Args:
            space: axes of the vectors: ``lps``, as in ITK's files, or ``ras``, as in NIfTI's
                affines.

        Raises:
            ArgumentError: another space.
        """
        if space not in ("lps", "ras"):
            raise ArgumentError(f"space is {space!r}; give 'lps' or 'ras'")
        return displacement_array(self.field, self.grid, space == "ras")

    @cached_property
    def warped(self) -> tio.ScalarImage:
        """The moving image's original intensities on the fixed image's grid (linear)."""
        image = resampled(self.pair.moving, self.field, self.grid)
        return tio.ScalarImage(tensor=image.tensor[0], affine=image.grid.affine[0])

    @property
    def warped_labels(self) -> Tensor | None:
        """The moving image's labels on the fixed image's grid (nearest), ``(1, 1, I, J, K)``."""
        labels = self.pair.moving_labels
        return None if labels is None else resampled(labels, self.field, self.grid).tensor

    @cached_property
    def displacement(self) -> Tensor:
        """Displacement on the fixed image's original grid, ``(1, 3, I, J, K)`` in its voxels;
        several gigabytes for a large image.
        """
        with torch.no_grad():
            return assembled(self.grid, lambda slab: self.field.displacement(slab.grid))

    @cached_property
    def field(self) -> Transform:
        """The transform, computed once for every voxel of the fixed image unless it is large."""
        return known_on(self.transform, self.grid)

    @cached_property
    def determinant(self) -> Tensor:
        """Determinant of the Jacobian on the fixed image's original grid, ``(1, 1, I, J, K)``."""
        return determinant_on(self.field, self.grid)

    @cached_property
    def case(self) -> PairMetrics:
        """Metrics of the pair on its original grids."""
        return evaluate(
            self.pair, self.transform, self.start, surfaces=True, field=self.field, extra=self.extra
        )

    @cached_property
    def similarity(self) -> dict[str, dict[str, float]]:
        """See :func:`~lightning_reg.metrics.similarity.similarities`."""
        return similarities(self.working, self.start, self.transform)

    @cached_property
    def inverted(self) -> Inverted:
        """The inverse transform and its residual."""
        return invert(self.transform, self.grid, self.pair.moving.grid)

    def metrics(self) -> dict[str, Any]:
        """Before and after: similarity, overlap, surface distances, TRE; folding and SDlogJ; the
        objective; seconds by part.
        """
        values: dict[str, Any] = {"similarity": self.similarity, **self.case.as_dict()}
        if self.optimized is not None:
            values["objective"] = {"before": self.optimized.before, "after": self.optimized.after}
        if self.spread is not None:
            inside = self.spread.flatten()[:: max(1, self.spread.numel() // 200_000)]
            values["spread_mm"] = spread_of(inside) | {"largest": float(self.spread.max())}
        if "inverted" in self.__dict__:
            values["inverse_residual_mm"] = self.inverted.residual
        return values

    def save(
        self,
        folder: str | Path,
        *,
        overwrite: bool = False,
        inverse: bool = False,
        report: bool = True,
        sections: Sequence[ReportSection] = (),
        files: Collection[str] = OF_ONE,
    ) -> Path:
        """Write the results into a folder; it appears only if everything succeeds.

        Args:
            folder: new folder for the results; ``docs/register.md`` describes its content.
            overwrite: replace earlier results.
            inverse: write the inverse transform, too.
            report: write ``report.html``.
            sections: report sections of other distributions.
            files: names of :data:`~lightning_reg.inference.outputs.OUTPUTS`, or of outputs of other
                distributions; ``metrics.json`` is always written.

        Raises:
            ArgumentError: there is no such output.
            DataError: the folder exists, or cannot be written.
        """
        started, chosen = time.perf_counter(), outputs(files)
        folder = Path(folder).expanduser()
        with (
            written_whole(folder, overwrite) as partial,
            Beside(enabled=math.prod(self.grid.shape) <= LARGE) as beside,
        ):
            for output in chosen:
                output.save(partial, self, beside)
            if inverse:
                INVERSE.save(partial, self, beside)
            metrics = self.metrics()
            beside.wait()
            seconds = self.seconds | {"write": time.perf_counter() - started}
            record = {
                "case": self.pair.name[0],
                "metrics": metrics,
                "row": self.case.row(),
                "seconds": {part: round(value, 3) for part, value in seconds.items()},
                "warnings": self.warnings,
                "inputs": self.inputs,
                "settings": self.settings,
                "start": split_affine(self.start, self.grid)[0][0].tolist(),
                "history": self.optimized.history if self.optimized is not None else [],
            }
            record = finite(record)
            (partial / MARK).write_text(json.dumps(record, indent=2, default=list) + "\n")
            if report:
                write_report(partial / "report.html", self, record, sections)
        return folder


def finite(value: Any) -> Any:
    """Replace NaN and infinite numbers, which JSON cannot represent, by ``None``."""
    if isinstance(value, dict):
        return {key: finite(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
