"""Similarity of two images on one grid. Every function returns one value per batch element.

Shapes: images ``(B, C, *S)``, masks ``(B, 1, *S)`` with weights in [0, 1].
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_reg.functional.box import box_mean
from lightning_reg.functional.jacobian import Spacing, gradient
from lightning_reg.functional.points import beside
from lightning_reg.functional.reduce import masked_mean


def ssd(fixed: Tensor, warped: Tensor, mask: Tensor | None = None) -> Tensor:
    """Mean squared difference, ``(B,)``; 0 for equal images."""
    return masked_mean((fixed - warped) ** 2, mask)


def ncc(fixed: Tensor, warped: Tensor, mask: Tensor | None = None, eps: float = 1e-12) -> Tensor:
    """Global normalised cross-correlation (Pearson), ``(B,)`` in [-1, 1]; 1 for images equal up to
    gain and offset.
    """
    shape = (-1, *[1] * (fixed.dim() - 1))
    f = fixed - masked_mean(fixed, mask).view(shape)
    w = warped - masked_mean(warped, mask).view(shape)
    covariance = masked_mean(f * w, mask)
    return covariance / (masked_mean(f * f, mask) * masked_mean(w * w, mask) + eps).sqrt()


def ssim(fixed: Tensor, warped: Tensor, window: int = 7, mask: Tensor | None = None) -> Tensor:
    """Mean structural similarity of images in [0, 1] in a Gaussian window, ``(B,)`` in [-1, 1]; 1
    for equal images.

    Args:
        window: edge of the window in voxels, odd; standard deviation 1.5 voxels.

    Source: Wang et al., IEEE TIP 13(4), 2004; the map is kornia's.
    """
    from kornia.metrics import ssim3d  # imported late for a faster start-up

    i, j, k = fixed.shape[2:]
    filled = [window if n == 1 else 1 for n in (i, j, k)]  # repeats a slice across the window
    fixed, warped = (image.repeat(1, 1, *filled) for image in (fixed, warped))
    return masked_mean(ssim3d(fixed, warped, window)[:, :, :i, :j, :k], mask)


def ngf(
    fixed: Tensor,
    warped: Tensor,
    edges: tuple[Tensor | float, Tensor | float] = (0.05, 0.05),
    spacing: Spacing = 1.0,
    mask: Tensor | None = None,
) -> Tensor:
    """Normalised gradient fields,
    ``1 - (|<grad F, grad W>| + e_F e_W)^2 / ((|grad F|^2 + e_F^2) (|grad W|^2 + e_W^2))``,
    ``(B,)``.

    In [0, 1]; 0 for equal images and for images of inverted contrast.

    Args:
        edges: ``e_F`` and ``e_W``: gradients much smaller than this count as noise, intensity per
            mm; numbers, or ``(B,)``. See :func:`mean_gradient`.
        spacing: voxel size, mm.

    With the edge parameters in the inner product, regions that are flat in both images cost
    nothing. Without them (Haber & Modersitzki, MICCAI 2006) each voxel of such a region costs 1,
    which hides the edges: at coarse levels the identity then costs less than the truth
    (docs/benchmarks.md).

    Source: Rühaak et al., ISBI 2013; Hering et al., 2019 (method 2).
    """
    f, w = gradient(fixed, spacing), gradient(warped, spacing)
    inner, ff, ww = (f * w).sum(2), (f * f).sum(2), (w * w).sum(2)
    shape = (-1, *[1] * (fixed.dim() - 1))
    there, here = (beside(edge, f).view(shape) for edge in edges)
    return masked_mean(
        1 - (inner.abs() + there * here) ** 2 / ((ff + there**2) * (ww + here**2)), mask
    )


def mean_gradient(image: Tensor, spacing: Spacing = 1.0, mask: Tensor | None = None) -> Tensor:
    """Mean magnitude of the gradient, intensity per mm, ``(B,)``: the scale that separates edges
    from noise.

    Source: Haber & Modersitzki, MICCAI 2006, equation 6.
    """
    return masked_mean(gradient(image, spacing).square().sum(2).sqrt(), mask)


def mutual_information(
    fixed: Tensor, warped: Tensor, bins: int = 32, mask: Tensor | None = None
) -> Tensor:
    """Mutual information in nats of two images of one channel, ``(B,)``, at least 0.

    The joint histogram is soft: a value contributes linearly to its two neighbouring bins. Bins
    span each image's own range.

    Args:
        bins: bins per image.

    Source: Mattes et al., IEEE TMI 22(1), 2003. (kornia's takes boolean masks that are common to
        the batch.)
    """
    weight = torch.ones_like(fixed[:, :1]) if mask is None else mask
    (batch, voxels), size, parts = fixed.flatten(1).shape, bins * bins, 64
    joint = torch.zeros(batch * parts * size, dtype=torch.float32, device=fixed.device)
    # one histogram per part: float32 counts up to 16 million
    part = torch.arange(voxels, device=fixed.device) * parts // voxels
    first = size * (parts * torch.arange(batch, device=fixed.device).unsqueeze(1) + part)
    (f, f_above), (w, w_above) = (
        _soft_bins(image.float().flatten(1), bins) for image in (fixed, warped)
    )
    weight = weight.float().expand_as(fixed).flatten(1)
    for row, of_row in ((f, weight * (1 - f_above)), (f + 1, weight * f_above)):
        for column, of_column in ((w, 1 - w_above), (w + 1, w_above)):
            joint = joint.index_add(
                0, (first + row * bins + column).flatten(), (of_row * of_column).flatten()
            )
    joint = joint.view(batch, parts, bins, bins).sum(1)
    joint = joint / joint.sum((1, 2), keepdim=True).clamp_min(1e-12)
    independent = joint.sum(2, keepdim=True) * joint.sum(1, keepdim=True)
    return (joint * (joint.clamp_min(1e-12) / independent.clamp_min(1e-12)).log()).sum((1, 2))


def _soft_bins(values: Tensor, bins: int) -> tuple[Tensor, Tensor]:
    """Lower one of the two bins of each value ``(B, voxels)``, and the weight of the value in the
    upper one.
    """
    low, high = values.detach().amin(1, keepdim=True), values.detach().amax(1, keepdim=True)
    position = (values - low) / (high - low).clamp_min(1e-6) * (bins - 1)
    lower = position.detach().floor().clamp(0, bins - 2)
    return lower.long(), position - lower


_NEIGHBOURS = ((1, 0, 0), (-1, 0, 0), (0, 1, 0), (0, -1, 0), (0, 0, 1), (0, 0, -1))


def mind_ssc(image: Tensor, radius: int = 1, dilation: int = 2) -> Tensor:
    """Self-similarity context: similarities between the patches around every voxel, ``(B, 12, *S)``
    in (0, 1].

    Comparable between modalities: the mean squared distance of the descriptors of two images is a
    similarity measure.

    Args:
        image: ``(B, 1, I, J, K)``.
        radius: of the patches, voxels.
        dilation: distance of the six patches' centres from the voxel.

    Beyond the border of the image, its values and their squared differences are repeated.

    Source: Heinrich et al., MICCAI 2013; the border is that of Learn2Reg's published code.
    """
    d, (i, j, k) = dilation, image.shape[2:]
    wide = F.pad(image, [d] * 6, "replicate")
    seen = [
        wide[:, :, d + d * a : d + d * a + i, d + d * b : d + d * b + j, d + d * c : d + d * c + k]
        for a, b, c in _NEIGHBOURS
    ]
    pairs = [
        (p, q)
        for p in range(6)
        for q in range(p)
        if sum(x * y for x, y in zip(_NEIGHBOURS[p], _NEIGHBOURS[q], strict=True)) == 0
    ]
    squared = F.pad(
        torch.cat([(seen[p] - seen[q]) ** 2 for p, q in pairs], dim=1), [radius] * 6, "replicate"
    )
    r, distance = radius, box_mean(squared, 2 * radius + 1)
    distance = distance[:, :, r : r + i, r : r + j, r : r + k]
    distance = distance - distance.amin(1, keepdim=True)
    variance = distance.mean(1, keepdim=True)
    scale = variance.detach().mean((2, 3, 4), keepdim=True)
    return (
        -distance
        / torch.minimum(torch.maximum(variance, 1e-3 * scale), 1e3 * scale).clamp_min(1e-8)
    ).exp()
