"""Intensities and sizes of a training set, stored with the model to warn about others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from lightning_reg.data.scans import Scan

LEVELS = tuple(0.05 * k for k in range(1, 20))
SLACK = 0.12
"""Tolerance of quantiles beyond those of the training images, in intensities of 0 to 1."""


def statistics(scans: Sequence[Scan]) -> dict[str, list[list[float]]]:
    """Compute the ranges, over the scans, of the intensity quantiles (5 % to 95 %) and of the
    extents.

    Args:
        scans: preprocessed scans, with intensities in [0, 1].

    Returns:
        ``quantiles``: per level ``[smallest, largest]``; ``extent_mm``: per axis
            ``[smallest, largest]``. Plain numbers, for a checkpoint.
    """
    quantiles = torch.stack([_quantiles(scan) for scan in scans])
    extents = torch.stack([_extent(scan) for scan in scans])
    return {
        name: torch.stack([v.amin(0), v.amax(0)], dim=1).tolist()
        for name, v in (("quantiles", quantiles), ("extent_mm", extents))
    }


def unlike(scan: Scan, known: Mapping[str, Any]) -> str | None:
    """Return a sentence if a preprocessed scan differs from the training scans."""
    low, high = torch.tensor(known["quantiles"]).unbind(1)
    found = _quantiles(scan)
    beyond = torch.maximum(low - SLACK - found, found - high - SLACK)
    worst = int(beyond.argmax())
    if float(beyond[worst]) > 0:
        return (
            f"The intensities of the {scan.name} image are unlike those the model was trained on"
            f" (after preprocessing, {100 * LEVELS[worst]:.0f} % of its voxels lie below"
            f" {float(found[worst]):.2f}; in training it was {float(low[worst]):.2f} to"
            f" {float(high[worst]):.2f}): another modality, contrast or crop? Expect a poor"
            " registration."
        )
    small, large = torch.tensor(known["extent_mm"]).unbind(1)
    extent = _extent(scan)
    if bool(((extent > 1.5 * large) | (extent < small / 1.5)).any()):
        shown, first, last = (
            " x ".join(f"{float(v):.0f}" for v in values) for values in (extent, small, large)
        )
        return (
            f"The {scan.name} image covers {shown} mm; those the model was trained on covered"
            f" {first} to {last} mm: crop it to the same region, or expect a poor registration."
        )
    return None


def _quantiles(scan: Scan) -> torch.Tensor:
    values = scan.image.tensor.flatten()
    values = values[:: max(1, values.numel() // 100_000)]
    return values.float().quantile(torch.tensor(LEVELS, dtype=torch.float32))


def _extent(scan: Scan) -> torch.Tensor:
    return torch.from_numpy(scan.image.grid.spacing[0] * scan.image.grid.shape)
