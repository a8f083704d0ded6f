"""Report of one registered pair: a viewer with three linked planes, tables and figures."""

from __future__ import annotations

import base64
import gzip
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lightning_reg import figures as drawing
from lightning_reg.inference.report.page import Picture, ReportSection, Row, Section, number, render
from lightning_reg.inference.weights import Weights
from lightning_reg.metrics import evaluate
from lightning_reg.metrics.table import BY_KEY, COMPARED, WHEN
from lightning_reg.registry import blaming
from lightning_reg.spatial import (
    Displacement,
    Grid,
    Image,
    Pair,
    Transform,
    determinant_on,
    known_on,
)

SPREAD = "spread.nii.gz"
"""File of an ensemble's spread, in the folder of the report."""
Volumes = dict[str, Any]
"""Data of the viewer, by name."""
EXTENT = 144
"""Voxels along the longest edge of the images in the page."""
ALIKE = 0.8
"""Common part of two windows, as a fraction of both together, from which on both images are shown
in one window.
"""
COARSE = 4
"""Spacing of the displacement's samples in the page, in voxels of its images."""


def write_report(
    path: Path,
    pair: Pair,
    transform: Transform,
    start: Transform,
    record: Mapping[str, Any],
    shown: Mapping[str, Any] | None = None,
    more: Sequence[ReportSection] = (),
    spread: Tensor | None = None,
    weights: Weights | None = None,
) -> None:
    """Write the report of a pair.

    Args:
        path: of the HTML file.
        pair: with original intensities and grids.
        transform: fixed world to moving world.
        start: transform of the *before* state.
        record: content of ``metrics.json``.
        shown: result of :func:`volumes`, if it is already known.
        more: sections of other distributions, shown before the section on time.
        spread: of an ensemble's registrations, mm, ``(1, 1, I, J, K)`` on the fixed image's grid.
        weights: registrations for other weights.
    """
    shown = volumes(pair, transform, start) if shown is None else shown
    metrics, figures = record["metrics"], []
    if record.get("history"):
        figures.append(Picture.of("objective", drawing.objective_curves(record["history"])))
    sections = [
        Section(
            "Before and after",
            ("", "before", "after"),
            _summary(metrics),
            _smoothness(metrics),
            figures,
        )
    ]
    if "tre_mm" in metrics:
        sections.append(_landmarks(metrics["tre_mm"]["landmarks"], shown))
    if "dice" in metrics:
        sections.append(_labels(metrics))
    if spread is not None:
        sections.append(_spread(pair.fixed, spread, metrics["spread_mm"]))
    if weights is not None:
        sections.append(_by_weight(pair, weights))
    for extra in more:
        with blaming(extra, f"writing its section on {record['case']}"):
            sections.append(extra(pair, transform, record))
    seconds = [Row((name, number(value, ".2f"))) for name, value in record["seconds"].items()]
    sections.append(
        Section(
            "Time",
            ("part", "seconds"),
            [*seconds, Row(("all", number(sum(record["seconds"].values()), ".2f")), True)],
        )
    )
    settings = {"inputs": record["inputs"], **record["settings"]}
    fixed, _, moving = record["case"].partition(" < ")
    subtitle = f"{moving} (moving) is brought onto {fixed} (fixed)." if moving else ""
    path.write_text(
        render(
            f"Registration of {record['case']}",
            sections,
            settings,
            subtitle,
            record["warnings"],
            shown,
        ),
        encoding="utf-8",
    )


def volumes(
    pair: Pair,
    transform: Transform,
    start: Transform,
    field: Transform | None = None,
    jacobian: Tensor | None = None,
) -> Volumes:
    """Data of the viewer, on one isotropic grid around the fixed image with axes to the right,
    anterior and superior.

    Args:
        field: the transform used to resample images, if it is already known.
        jacobian: determinant of the Jacobian on the fixed image's grid, ``(1, 1, I, J, K)``, if it
            is already known.
    """
    grid = display_grid(pair.fixed.grid)
    with torch.no_grad():
        field = known_on(transform, pair.fixed.grid) if field is None else field
        jacobian = determinant_on(field, pair.fixed.grid) if jacobian is None else jacobian
        determinant = Image(jacobian, pair.fixed.grid, padding=1.0)
        smaller = [
            max(1, round(float(grid.spacing[0, 0]) / s))
            for s in pair.fixed.grid.spacing[0].tolist()
        ]
        fixed = pair.fixed.at_stride(smaller).resampled(grid).tensor
        moving = pair.moving.at_stride(
            [
                max(1, round(float(grid.spacing[0, 0]) / s))
                for s in pair.moving.grid.spacing[0].tolist()
            ]
        )
        images = {
            "fixed": fixed,
            "before": moving.warped(start, grid).tensor,
            "after": moving.warped(field, grid).tensor,
        }
        inside = pair.fixed.grid.contains(
            grid.to_world(grid.points(dtype=torch.float64))
        ).unsqueeze(1)
        folded = (
            Image((determinant.tensor <= 0).float(), determinant.grid)
            .at_stride(smaller)
            .resampled(grid)
            .tensor
            > 0
        )
        quantised = (determinant.resampled(grid).tensor.clamp(0, 2.54) * 100).round()
        coarse = grid.resized([-(-n // COARSE) for n in grid.shape])
        reach = {
            when: _in_voxels_of(t, coarse, grid)
            for when, t in (("before", start), ("after", field))
        }
        outlines = _outlines(pair, field, start, grid)
    sides = {"fixed": pair.fixed, "other": pair.moving}
    ranges = {side: _quantiles(image, 0.0005, 0.9995) for side, image in sides.items()}
    packed = {
        name: _pack(_bytes(tensor, *ranges["fixed" if name == "fixed" else "other"]))
        for name, tensor in images.items()
    }
    shown = quantised.where(inside, 100).masked_fill(folded & inside, 255)
    return {
        "shape": grid.shape,
        "coarse": coarse.shape,
        "spacing": float(grid.spacing[0, 0]),
        "origin": grid.affine[0, :3, 3].tolist(),
        "start": _middle(pair, grid),
        "range": ranges,
        "window": _windows({side: _quantiles(image, 0.01, 0.997) for side, image in sides.items()}),
        "resampled": _resampled(pair.fixed.grid, grid),
        **packed,
        "contoured": (
            ""
            if not outlines
            else "contours of labels"
            if pair.fixed_labels is not None
            else "contours of masks"
        ),
        "contours": {name: _pack(labels) for name, labels in outlines.items()},
        "jacobian": _pack(shown[0, 0].to(torch.uint8).numpy()),
        "reach": {when: _pack(far[0].float().numpy()) for when, far in reach.items()},
        "landmarks": _marks(pair, transform, start, grid),
    }


def display_grid(grid: Grid) -> Grid:
    """An isotropic grid along the world's axes that contains a grid.

    Its spacing is the finest one of the grid, or larger so that the longest axis has about
    :data:`EXTENT` voxels.
    """
    corners = torch.cartesian_prod(
        *torch.tensor([[-0.5, n - 0.5] for n in grid.shape], dtype=torch.float64)
    ).T.unsqueeze(0)
    world = grid.to_world(corners)[0]
    low, size = world.amin(1), world.amax(1) - world.amin(1)
    spacing = max(float(grid.spacing.min()), float(size.max()) / EXTENT)
    shape = [max(2, int(np.ceil(float(s) / spacing - 1e-6))) for s in size]
    return Grid.regular(shape, (spacing,) * 3, (low + spacing / 2).tolist())


def _in_voxels_of(transform: Transform, coarse: Grid, grid: Grid) -> Tensor:
    """Displacement at the points of ``coarse``, in voxels of ``grid``."""
    return Displacement(transform.displacement(coarse), coarse).field * torch.tensor(
        [g / c for g, c in zip(grid.shape, coarse.shape, strict=True)], dtype=torch.float32
    ).view(1, 3, 1, 1, 1)


def _outlines(pair: Pair, field: Transform, start: Transform, grid: Grid) -> dict[str, np.ndarray]:
    """Labels, or masks without labels, on the displayed grid: of the fixed image, and of the moving
    image before and after.
    """
    fixed, moving = (pair.fixed_labels, pair.moving_labels)
    if fixed is None or moving is None:
        fixed, moving = (pair.fixed_mask, pair.moving_mask)
    if fixed is None or moving is None:
        return {}
    found = {
        "fixed": fixed.resampled(grid),
        "before": moving.warped(start, grid),
        "after": moving.warped(field, grid),
    }
    return {
        name: (image.tensor[0, 0].round().long() % 256).to(torch.uint8).numpy()
        for name, image in found.items()
    }


def _windows(own: Mapping[str, tuple[float, float]]) -> dict[str, tuple[float, float]]:
    """One window for both images if theirs are nearly the same, as for two images in Hounsfield
    units; otherwise each its own.
    """
    (a, b), (c, d) = own.values()
    if min(b, d) - max(a, c) < ALIKE * (max(b, d) - min(a, c)):
        return dict(own)
    return dict.fromkeys(own, (min(a, c), max(b, d)))


def _resampled(fixed: Grid, grid: Grid) -> str:
    """Note on the voxels of the page's images."""
    sizes = fixed.spacing[0]
    if np.allclose(sizes, grid.spacing[0], rtol=0.01):
        return ""
    size = " x ".join(f"{s:.3g}" for s in sizes)
    return (
        f"Images are resampled to {grid.spacing[0, 0]:.3g} mm for this page; the fixed image has"
        f" voxels of {size} mm."
    )


def _quantiles(image: Image, lowest: float, highest: float) -> tuple[float, float]:
    """Quantiles of the values above the image's padding value."""
    values = image.tensor.flatten()
    values = values[:: max(1, values.numel() // 200_000)].float()
    above = values[values > image.padding]
    low, high = (
        (above if len(above) > 100 else values)
        .quantile(torch.tensor([lowest, highest], dtype=torch.float32))
        .tolist()
    )
    return low, max(high, low + 1e-6)


def _bytes(tensor: Tensor, low: float, high: float) -> np.ndarray:
    return ((tensor[0, 0] - low) / (high - low) * 255).clamp(0, 255).round().to(torch.uint8).numpy()


def _pack(values: np.ndarray) -> str:
    return base64.b64encode(
        gzip.compress(np.ascontiguousarray(values).tobytes(), 6, mtime=0)
    ).decode()


def _middle(pair: Pair, grid: Grid) -> list[int]:
    """Voxel of ``grid`` at the centre of the fixed mask, or of the fixed image."""
    point = pair.fixed.grid.center[0]
    if pair.fixed_mask is not None:
        point = replace(pair.fixed_mask, tensor=pair.fixed_mask.tensor > 0).center_of_mass()
    voxel = grid.to_voxel(torch.from_numpy(point).view(1, 3, 1))[0, :, 0].round().int().tolist()
    return [min(max(v, 0), n - 1) for v, n in zip(voxel, grid.shape, strict=True)]


def _marks(pair: Pair, transform: Transform, start: Transform, grid: Grid) -> list[dict[str, Any]]:
    """Position of each landmark, in voxels of ``grid``, and its error before and after, in voxels
    and in mm.
    """
    if pair.fixed_landmarks is None or pair.moving_landmarks is None:
        return []
    fixed, moving = (
        points[0].double().T.unsqueeze(0)
        for points in (pair.fixed_landmarks, pair.moving_landmarks)
    )
    errors = {
        when: (moving - t.map_world(fixed))[0].T
        for when, t in (("before", start), ("after", transform))
    }
    size = float(grid.spacing[0, 0])
    voxels = grid.to_voxel(fixed)[0].T
    return [
        {
            "fixed": [round(v, 2) for v in voxels[n].tolist()],
            **{
                when: [round(v / size, 2) for v in error[n].tolist()]
                for when, error in errors.items()
            },
            "mm": {when: round(float(error[n].norm()), 3) for when, error in errors.items()},
        }
        for n in range(len(voxels))
    ]


def _summary(metrics: Mapping[str, Any]) -> list[Row]:
    rows = [
        (BY_KEY[key].heading, value, f".{BY_KEY[key].digits}f")
        for key, value in metrics["similarity"].items()
    ]
    rows += [
        (metric.heading, metrics[metric.stored], f".{metric.digits}f")
        for metric in COMPARED
        if metric.stored in metrics
    ]
    rows += (
        [("objective of the optimisation", metrics["objective"], ".4f")]
        if "objective" in metrics
        else []
    )
    rows += [(title, value, ".3f") for title, value in metrics.get("extra", {}).items()]
    return [
        Row((title, *(number(value.get(when), form) for when in WHEN)))
        for title, value, form in rows
    ]


def _smoothness(metrics: Mapping[str, Any]) -> str:
    text = (
        f"Folding: {100 * metrics['folding']:.3f} % of the voxels. SDlogJ: {metrics['sdlogj']:.3f}."
    )
    if percentiles := metrics.get("jacobian_percentiles"):
        low, few, most, high = (f"{value:.2f}" for value in percentiles.values())
        text += (
            f" Local volumes change by factors (det J) of {few} to {most} in 90 %, and of {low} to"
            f" {high} in 98 % of the voxels."
        )
    if "inverse_residual_mm" in metrics:
        residual = metrics["inverse_residual_mm"]
        text += (
            f" The inverse misses by {residual['mean']:.3f} mm on average, at 95 % of the points by"
            f" less than {residual['p95']:.3f} mm."
        )
    return text


def _spread(fixed: Image, spread: Tensor, metrics: Mapping[str, float]) -> Section:
    """The map of an ensemble's disagreement."""
    grid = display_grid(fixed.grid)
    drawn = drawing.spread_map(
        fixed.resampled(grid), Image(spread, fixed.grid).resampled(grid).tensor
    )
    note = (
        "Root mean square distance of the registrations from their mean, which is the transform."
        " Small values mean that the registrations agree, not that they are correct. Mean"
        f" {metrics['mean']:.2f} mm, 95 % of the voxels below {metrics['p95']:.2f} mm, largest"
        f" {metrics['largest']:.2f} mm."
    )
    return Section("Spread", note=note, figures=[Picture.of("spread", drawn)])


def _by_weight(pair: Pair, weights: Weights) -> Section:
    """Results for several weights, with one figure per weight."""
    grid = display_grid(pair.fixed.grid)
    seen = Pair(pair.fixed.resampled(grid), pair.moving, name=pair.name)
    rows, slides = [], []
    measured = [metric for metric in COMPARED if metric.stored in ("dice", "tre_mm")]
    for weight in weights.offered:
        transform = weights.register(weight)
        case = evaluate(pair, transform)
        found = case.as_dict()
        values = [
            number(found[metric.stored]["after"], f".{metric.digits}f")
            for metric in measured
            if metric.stored in found
        ]
        cells = (f"{weight:.3g}", *values, f"{100 * case.folding:.3f}", f"{case.sdlogj:.3f}")
        rows.append(Row(cells, emphasis=weight == weights.chosen))
        slides.append(
            Picture.of(f"weight {weight:.3g}", drawing.registration_panel(seen, transform))
        )
    columns = [
        "weight",
        *(metric.heading for metric in measured if metric.stored in found),
        "folding, %",
        "SDlogJ",
    ]
    note = (
        "Registrations by the same model with other weights of the smoothness term. The result is"
        " the row in bold (--weight)."
    )
    return Section(
        "Weight of the smoothness",
        columns,
        rows,
        note,
        slides=slides,
        slide=weights.offered.index(weights.chosen),
    )


def _landmarks(errors: Mapping[str, list[float]], shown: Mapping[str, Any]) -> Section:
    order = sorted(range(len(errors["after"])), key=lambda n: -errors["after"][n])
    rows = [
        Row(
            (
                f"landmark {n + 1}",
                number(errors["before"][n], ".2f"),
                number(errors["after"][n], ".2f"),
            ),
            at=_at(shown, n),
        )
        for n in order
    ]
    return Section(
        "Landmarks, worst first",
        ("", "before, mm", "after, mm"),
        rows,
        "A click on a row shows the landmark.",
    )


def _at(shown: Mapping[str, Any], number: int) -> str | None:
    marks = shown["landmarks"]
    return ",".join(map(str, marks[number]["fixed"])) if number < len(marks) else None


def _labels(metrics: Mapping[str, Any]) -> Section:
    columns = ["label", "Dice before", "after"]
    keys = [("dice", ".3f")]
    if "hd95_mm" in metrics:
        columns += ["HD95 before, mm", "after", "ASSD before, mm", "after"]
        keys += [("hd95_mm", ".2f"), ("assd_mm", ".2f")]
    scores = metrics["dice"]["labels"]
    order = sorted(
        scores,
        key=lambda label: scores[label]["after"] if scores[label]["after"] is not None else -1.0,
    )
    rows = [
        Row(
            (
                label,
                *(
                    number(metrics[key]["labels"][label][when], form)
                    for key, form in keys
                    for when in ("before", "after")
                ),
            )
        )
        for label in order
    ]
    return Section("Labels, worst first", columns, rows)
