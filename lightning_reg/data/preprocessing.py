"""From raw intensities and grids to what a network reads, by TorchIO. The same steps are stored with a trained model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torchio as tio

from lightning_reg.data.scans import Scan, scan_from_subject
from lightning_reg.spatial import Grid, Image


@dataclass(frozen=True)
class Preprocessing:
    """The steps, in this order. The result lies in [0, 1], with 0 outside the image.

    Args:
        canonical: reorder and flip the voxel axes to the nearest of right, anterior, superior.
        center: put the world's origin into the middle of each image, for scans whose headers do not relate them.
        spacing: resample to this voxel size, mm (one number or three); ``null`` keeps it.
        shape: resize to these extents, voxels; ``null`` keeps them.
        window: intensities mapped to 0 and 1, what is beyond is clipped (CT: HU); ``null`` maps ``percentiles`` instead.
        percentiles: intensity percentiles of each image that are mapped to 0 and 1.
    """

    canonical: bool = True
    center: bool = False
    spacing: float | Sequence[float] | None = None
    shape: Sequence[int] | None = None
    window: Sequence[float] | None = None
    percentiles: Sequence[float] = (0.5, 99.5)

    def __post_init__(self) -> None:
        for name, values in (("window", self.window), ("percentiles", self.percentiles)):
            if values is not None and (len(values) != 2 or not values[0] < values[1]):
                raise ValueError(f"{name} is {list(values)}; give two numbers, the smaller one first")

    def transform(self) -> tio.Transform:
        steps: list[tio.Transform] = []
        if self.canonical:
            steps.append(tio.ToCanonical())
        if self.spacing is not None:
            steps.append(tio.Resample(self.spacing if isinstance(self.spacing, (int, float)) else tuple(self.spacing)))
        if self.shape is not None:
            steps.append(tio.Resize(tuple(self.shape)))
        if self.window is not None:
            low, high = self.window
            steps.append(tio.RescaleIntensity(out_min_max=(0, 1), in_min_max=(low, high)))
        else:
            low, high = self.percentiles
            steps.append(tio.RescaleIntensity(out_min_max=(0, 1), percentiles=(low, high)))
        steps.append(tio.Clamp(0, 1))
        return tio.Compose(steps)

    def __call__(self, subject: tio.Subject) -> Scan:
        """Apply to a raw subject.

        Raises:
            DataError: landmarks outside the image.
        """
        result = self.transform()(subject)
        scan = scan_from_subject(result)
        return _centered(scan) if self.center else scan


def _centered(scan: Scan) -> Scan:
    """The scan with the world's origin in the middle of its grid."""
    grid = scan.image.grid
    affine = grid.affine.clone()
    affine[:, :3, 3] -= grid.center
    there = Grid(grid.shape, affine)

    def moved(image: Image | None) -> Image | None:
        return None if image is None else replace(image, grid=there)

    landmarks = None if scan.landmarks is None else (scan.landmarks - grid.center).float()
    return replace(scan, image=replace(scan.image, grid=there), mask=moved(scan.mask), labels=moved(scan.labels), landmarks=landmarks)
