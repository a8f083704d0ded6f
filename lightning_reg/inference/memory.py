"""Memory of a registration: an estimate, and the number of voxels that fits into a given memory."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import torchio as tio

from lightning_reg.components.interfaces import Composer
from lightning_reg.inference.starts import identity
from lightning_reg.optimization import Optimization
from lightning_reg.optimization.descent import run_stages
from lightning_reg.optimization.objective import LINEAR, with_margin
from lightning_reg.optimization.parameters import State
from lightning_reg.registry import UserError
from lightning_reg.spatial import LARGE, Grid, Pair
from lightning_reg.spatial.slabs import SLAB as SLAB_VOXELS
from lightning_reg.training.allocator import give_memory_back
from lightning_reg.training.peak import PeakMemory, per_voxel

GIB = 2**30
PROCESS = 0.9 * GIB
"""The process with its libraries, and the memory that the allocator retains."""
SLAB = 400
"""Bytes per voxel of the slab in which metrics are measured."""
READ, RESAMPLED = 12, 17
"""Bytes of temporary memory in preprocessing, per voxel as read, and as preprocessed."""
WRITTEN, HELD = 12, 20
"""Bytes per voxel of the fixed image. ``WRITTEN``: the warped image, the Jacobian, and one
component of the displacement while its file is written. ``HELD``, additionally for an image that is
not large: the whole displacement, and two more components.
"""
KEPT = 1.2
"""Ratio of the growth of the process to the memory of the optimisation."""
FIELD = 100
"""Bytes per working voxel of a field while it is written by ITK, in 64 bits."""
FEWEST = 250_000
"""Smallest number of working voxels for a useful registration."""


@dataclass(frozen=True)
class Need:
    """Memory needed to register a pair, in bytes, and its limit.

    "Working" images are the preprocessed ones.

    Args:
        held: during the whole registration: both images with their masks and label maps, as read
            and converted for computation.
        fixed, largest: voxels of the fixed image, and of the larger image.
        per_voxel: for network and optimisation, per voxel of the fixed working image.
        given: limit; ``None``: the free memory.
        model: whether a network registers; it cannot work on coarser voxels.
    """

    held: int
    fixed: int
    largest: int
    per_voxel: float
    given: float | None = None
    model: bool = False

    def at(self, voxels: int) -> float:
        """Bytes needed with this number of working voxels."""
        working = 8 * voxels
        preparing = READ * self.largest + RESAMPLED * voxels
        registering = working + KEPT * self.per_voxel * voxels
        kept = WRITTEN if self.fixed > LARGE else WRITTEN + HELD
        measuring = working + kept * self.fixed + SLAB * min(self.fixed, SLAB_VOXELS)
        return PROCESS + self.held + max(preparing, registering, measuring)

    def voxels(self, memory: float) -> int | None:
        """Largest number of working voxels that fits into ``memory`` bytes; ``None`` if the larger
        image fits at its own voxels.

        Raises:
            UserError: the memory does not suffice for :data:`FEWEST` voxels.
        """
        if self.at(self.largest) <= memory:
            return None
        if self.at(FEWEST) > memory:
            raise UserError(
                f"{memory / GIB:.1f} GiB of memory are too little for these images, which take"
                f" {self.at(FEWEST) / GIB:.1f} GiB at least, however coarsely they are registered;"
                " give more `memory`, or a part of the images."
            )
        low, high = FEWEST, self.largest
        while high - low > 1000:
            middle = (low + high) // 2
            low, high = (middle, high) if self.at(middle) <= memory else (low, middle)
        return low

    @classmethod
    def over(
        cls,
        memory: float | None,
        fixed: tio.Subject,
        moving: tio.Subject,
        per_voxel: Callable[[], float],
        model: bool,
    ) -> Need:
        """Estimate the memory of a pair; nothing if there is no limit and the images are not large.

        Args:
            memory: limit, GiB.
            fixed, moving: as they were read.
            per_voxel: see :class:`Need`; called if it matters.
        """
        sizes = [subject["image"].data.numel() for subject in (fixed, moving)]
        if memory is None and max(sizes) < LARGE:
            return cls(0, 0, 0, 0.0, math.inf, model)
        images = [*fixed.get_images(intensity_only=False), *moving.get_images(intensity_only=False)]
        held = sum(
            image.data.numel()
            * (image.data.element_size() + (4 if isinstance(image, tio.ScalarImage) else 2))
            for image in images
        )
        given = None if memory is None else memory * GIB
        need = cls(held, sizes[0], max(sizes), per_voxel(), given, model)
        give_memory_back()  # freed after reading
        return need

    def working(self) -> int | None:
        """Largest number of working voxels, see :meth:`voxels`; ``None`` if it is not limited."""
        return None if self.given is None or self.model else self.voxels(self.given)

    def require(self, working: Grid) -> None:
        """Refuse a registration that would run out of memory.

        Args:
            working: grid of the fixed image after preprocessing.

        Raises:
            UserError: it needs more memory than is free or allowed.
        """
        needed, free = self.at(math.prod(working.shape)), self.given
        if free is None:
            free = available()
            free = None if free is None else free + PROCESS
        if free is None or needed <= free or (self.given is not None and not self.model):
            return
        mend = f"pass `memory={math.floor(free / GIB)}`"
        if self.model:
            mend = (
                "register without the model, by an `instance` optimisation, or a part of the images"
            )
        raise UserError(
            f"Registering these images at {' x '.join(map(str, working.shape))} voxels takes some"
            f" {needed / GIB:.1f} GiB, and {free / GIB:.1f} GiB of memory are"
            f" {'allowed' if self.given is not None else 'free'}; {mend}."
        )

    def registered(self) -> None:
        """Give the memory of the registration back, if the images are large."""
        if self.largest:
            give_memory_back()


def optimization_bytes(
    optimization: Optimization, like: Pair, network: Composer | None = None
) -> float:
    """Bytes per working voxel of the fixed image for the stage that needs most memory, measured on
    small images.

    Args:
        optimization: its replacement for two modalities (``unlike``) is measured, too.
        like: the pair; only its extents, its voxel size and the presence of masks, labels and
            landmarks matter.
    """
    stages = [replace(stage, steps=1) for stage in optimization.stages if stage.steps]
    fine = float(like.fixed.grid.spacing.min()) <= optimization.fine
    alike = replace(optimization, small=1.0, fine=float(fine))  # the trial's voxels are 1 mm

    def trial(pair: Pair) -> None:
        for stage in stages:  # separately: the state passed from stage to stage is small
            with torch.enable_grad():
                begin = State.of(identity(pair), pair.fixed.grid)
                masked = with_margin(pair, alike.mask_margin)
                list(run_stages(masked, begin, [stage], alike, network))

    needs = [_measured(trial, like)]
    if any(stage.transform not in (*LINEAR, "bspline") for stage in stages):
        needs.append(FIELD)
    if optimization.unlike is not None:
        needs.append(optimization_bytes(optimization.unlike, like, network))
    return max(needs)


def network_bytes(network: Composer, like: Pair) -> float:
    """Bytes per voxel of the fixed image for a network, measured on small images."""

    def trial(pair: Pair) -> None:
        with torch.no_grad():
            network(pair.fixed, pair.moving)

    return max(_measured(trial, like), FIELD)


def _measured(trial: Callable[[Pair], None], like: Pair) -> float:
    def peak(pair: Pair) -> float:
        pair = replace(pair, **dict.fromkeys(pair.has() - like.has()))  # type: ignore[arg-type]
        with PeakMemory() as memory:
            trial(pair.to(like.fixed.tensor.device))
        return memory.peak

    return per_voxel(like.fixed.grid.shape, peak)


def available() -> int | None:
    """Bytes of memory that the system has free for this process; ``None`` if unknown."""
    try:
        words = Path("/proc/meminfo").read_text().split()
        free = 1024 * int(words[words.index("MemAvailable:") + 1])
    except (OSError, IndexError, ValueError):
        return None
    group = Path("/sys/fs/cgroup")
    try:
        limit, used = (int((group / name).read_text()) for name in ("memory.max", "memory.current"))
        words = (group / "memory.stat").read_text().split()
        return min(free, max(limit - used + int(words[words.index("file") + 1]), 0))
    except (OSError, ValueError):  # no control group, or one without a limit
        return free
