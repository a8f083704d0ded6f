"""Strides and kernels per axis, for thick slices and for one slice."""

from __future__ import annotations

import math
from collections.abc import Sequence

from lightning_reg.components.interfaces import Stride
from lightning_reg.registry import ArgumentError

ISOTROPIC: Stride = (1, 1, 1)


def aspect_of(shape: Sequence[int], spacing: Sequence[float], coarsest: int = 16) -> Stride:
    """Relative size of a grid's voxels along each axis, the ``aspect`` of backbones and heads.

    Args:
        shape: extents, voxels.
        spacing: voxel size, mm.
        coarsest: stride of the network's coarsest level; an axis of fewer voxels counts as one of
            larger voxels, so that it is not padded to this stride.

    Returns:
        Per axis, the voxel size in units of the finest, rounded down to a power of two; 0 for an
        axis of one voxel.
    """
    finest = min((s for s, n in zip(spacing, shape, strict=True) if n > 1), default=1.0)

    def along(n: int, size: float) -> int:
        ratio = max(size / finest * (1 + 1e-6), coarsest / n, 1.0)
        return 0 if n == 1 else 1 << int(math.log2(ratio))

    i, j, k = (along(n, size) for n, size in zip(shape, spacing, strict=True))
    return i, j, k


def stride_at(stride: int, aspect: Stride) -> Stride:
    """Strides per axis at which voxels are as large as ``stride`` finest ones: an axis is not
    pooled before its voxels are as large as the others'.
    """
    i, j, k = (max(1, stride // a) if a else 1 for a in aspect)
    return i, j, k


def strides_at(strides: Sequence[int], aspect: Stride) -> tuple[Stride, ...]:
    """:func:`stride_at` of several levels."""
    return tuple(stride_at(stride, aspect) for stride in strides)


def between(coarse: Stride, fine: Stride) -> Stride:
    """Factors per axis by which a finer level is pooled to a coarser one."""
    i, j, k = (c // f for c, f in zip(coarse, fine, strict=True))
    return i, j, k


def kernel_at(stride: Stride, aspect: Stride, size: int = 3) -> Stride:
    """Kernel of a level: ``size`` voxels, and 1 along axes whose voxels are still larger than the
    others'.
    """
    i, j, k = (size if 0 < a <= max(stride) else 1 for a in aspect)
    return i, j, k


def required_aspect(aspect: Sequence[int] | None) -> Stride:
    """An ``aspect`` argument, checked; ``None``: voxels of equal edges.

    Raises:
        ArgumentError: not three powers of two or zeros, of which one is 1.
    """
    i, j, k = aspect if aspect is not None and len(aspect) == 3 else ISOTROPIC
    if (aspect is not None and len(aspect) != 3) or any(
        not isinstance(a, int) or a < 0 or a & (a - 1) for a in (i, j, k)
    ):
        raise ArgumentError(f"aspect is {aspect}; give three powers of two, or 0 for one voxel")
    if 1 not in (i, j, k):
        raise ArgumentError(f"aspect is {aspect}; the axis of the finest voxels has 1")
    return i, j, k
