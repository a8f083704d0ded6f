"""From raw intensities and grids to what a network reads, by TorchIO. The same steps are stored with a trained model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torchio as tio

from lightning_reg.data.scans import Scan, scan_from_subject


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
        if self.center:
            for image in result.get_images(intensity_only=False):
                middle = image.affine @ [*((n - 1) / 2 for n in image.spatial_shape), 1]
                image.affine[:3, 3] -= middle[:3]
        return scan_from_subject(result)
