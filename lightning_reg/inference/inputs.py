"""Images to be registered, and the interface of what registers them."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import torchio as tio

from lightning_reg.data.scans import read_pair, with_parts
from lightning_reg.inference.result import Result
from lightning_reg.io.images import Source, doubts
from lightning_reg.metrics.extra import ExtraMetric
from lightning_reg.registry import Checked, Range

if TYPE_CHECKING:
    from lightning_reg.inference.registrar import Registrar


@dataclass(frozen=True)
class Inputs:
    """Two images in memory, with what belongs to them.

    Args:
        fixed, moving: checked, in their original intensities and grids.
        name: of the pair; ``None``: those of the subjects.
        paths: of the files that were read, by role (``fixed, moving_mask, ...``).
        warnings: a sentence each.
        seconds: time of reading.
    """

    fixed: tio.Subject
    moving: tio.Subject
    name: str | None = None
    paths: Mapping[str, str] = field(default_factory=dict)
    warnings: Sequence[str] = ()
    seconds: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def read(cls, sources: Mapping[str, Any], name: str | None = None) -> Inputs:
        """Read and check a pair.

        Args:
            sources: by ``fixed, moving, fixed_mask, ...``, see
                :func:`~lightning_reg.data.scans.read_pair` and
                :func:`~lightning_reg.data.scans.with_parts`; ``None``: not given.
            name: of the pair; default the files' names.

        Raises:
            DataError: an image, mask, label map or landmark file is not valid.
        """
        started = time.perf_counter()
        given = with_parts(sources)
        fixed, moving = read_pair(given)
        paths = {
            key: str(Path(s).expanduser().resolve())
            for key, s in given.items()
            if isinstance(s, (str, Path))
        }
        names = [Path(paths[side]).name if side in paths else side for side in ("fixed", "moving")]
        warnings = [
            f"Only one of the images has {what}, so they are not scored; give those of both."
            for what in ("labels", "landmarks")
            if (f"fixed_{what}" in given) != (f"moving_{what}" in given)
        ]
        images = [
            subject[part]
            for subject in (fixed, moving)
            for part in ("image", "mask", "labels")
            if part in subject
        ]
        warnings += [doubt.text for image in images for doubt in doubts(image, image.path)]
        seconds = {"read": time.perf_counter() - started}
        return cls(fixed, moving, name or " < ".join(names), paths, warnings, seconds)


class AnyRegistrar(Checked, ABC):
    """One registrar, or the mean of several.

    Attributes:
        metrics: measured in addition to those of the table.
        members: the registrars.
    """

    metrics: Sequence[ExtraMetric]
    members: Sequence[Registrar]

    def register(
        self,
        fixed: Source | tio.Subject,
        moving: Source | tio.Subject,
        *,
        fixed_mask: Source | None = None,
        moving_mask: Source | None = None,
        fixed_labels: Source | None = None,
        moving_labels: Source | None = None,
        fixed_landmarks: str | Path | Any | None = None,
        moving_landmarks: str | Path | Any | None = None,
        refine: Annotated[int, Range(0, of="steps")] | None = None,
        progress: Callable[[str], None] | None = None,
    ) -> Result:
        """Register two images.

        Args:
            fixed: image: NIfTI, MetaImage, NRRD, or a folder with a DICOM series. Also an image of
                another library, or ``(array, affine)``, see
                :func:`~lightning_reg.io.images.read_image`; or a TorchIO subject with its mask,
                labels and landmarks, see :func:`~lightning_reg.data.scans.with_parts`.
            moving: image to align with the fixed image. Sizes, spacings and directions may differ.
            fixed_mask: region of interest of the fixed image. Masks are used by the optimisation
                and the metrics, never by a network.
            moving_mask: region of interest of the moving image.
            fixed_labels: label map of the fixed image, for Dice and surface distances. Labels and
                landmarks are for the metrics, and for loss terms that need them.
            moving_labels: label map of the moving image, for Dice and surface distances.
            fixed_landmarks: landmarks of the fixed image, for TRE. A file, see
                :mod:`lightning_reg.io.points`, or ``(N, 3)`` RAS mm.
            moving_landmarks: landmarks of the moving image, for TRE.
            refine: steps of instance optimisation after the network; default: none. Without a
                network: total number of steps, default that of the method.
            progress: called with a line of text for each part of the work.

        Raises:
            DataError: an image, mask, label map or landmark file is not valid, or the images do not
                overlap.
            UserError: the memory does not suffice.
        """
        given = {
            "fixed": fixed, "fixed_mask": fixed_mask, "fixed_labels": fixed_labels,
            "fixed_landmarks": fixed_landmarks,
            "moving": moving, "moving_mask": moving_mask, "moving_labels": moving_labels,
            "moving_landmarks": moving_landmarks,
        }  # fmt: skip
        return self.register_inputs(Inputs.read(given), refine=refine, progress=progress)

    def register_subjects(
        self,
        fixed: tio.Subject,
        moving: tio.Subject,
        *,
        refine: int | None = None,
        progress: Callable[[str], None] | None = None,
    ) -> Result:
        """As :meth:`register`, for checked subjects in their original intensities and grids."""
        return self.register_inputs(Inputs(fixed, moving), refine=refine, progress=progress)

    @abstractmethod
    def register_inputs(
        self,
        inputs: Inputs,
        *,
        refine: int | None = None,
        progress: Callable[[str], None] | None = None,
    ) -> Result:
        """As :meth:`register`, for images already in memory."""
