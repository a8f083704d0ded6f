"""Local correlation of two images on one grid, with its gradient."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lightning_reg.functional.box import box_sum, voxels_inside
from lightning_reg.functional.derivative import first_only
from lightning_reg.functional.reduce import masked_mean


def lncc(
    fixed: Tensor, warped: Tensor, window: int = 9, mask: Tensor | None = None, eps: float = 1e-8
) -> Tensor:
    """Mean over voxels of the squared local correlation in a cubic window, ``(B,)`` in [0, 1].

    Args:
        fixed, warped: ``(B, C, *S)``. An offset of an image does not matter, also in float32.
        window: edge of the cube in voxels, odd.
        mask: ``(B, 1, *S)``, weights in [0, 1].
        eps: added to the product of the local variances, so that windows with a standard deviation
            below about 0.01 (for intensities in [0, 1]) hardly count.

    The gradient is computed together with the value; only the gradient is stored for the backward
    pass. There is no second derivative.

    Source: Avants et al., Med. Image Anal. 12(1), 2008.
    """
    if window % 2 == 0:
        raise ValueError(f"lncc: window is {window}; use an odd number of voxels")
    value: Tensor = _LocalCorrelation.apply(fixed, warped, mask, window, eps)
    return value


class _LocalCorrelation(torch.autograd.Function):
    """Correlation and its derivatives with respect to both images and the mask; only the requested
    ones are computed.
    """

    @staticmethod
    def forward(
        ctx: Any, fixed: Tensor, warped: Tensor, mask: Tensor | None, window: int, eps: float
    ) -> Tensor:
        part = voxels_inside(fixed.shape[2:], window, fixed).reciprocal_()
        # variances and covariances are differences of means of squares, which an offset would
        # cancel
        space = tuple(range(2, fixed.dim()))
        fixed, warped = (image - image.mean(space, keepdim=True) for image in (fixed, warped))
        products = torch.cat([fixed, warped, fixed * fixed, warped * warped, fixed * warped], dim=1)
        f, w, ff, ww, fw = box_sum(products, window).mul_(part).split(fixed.shape[1], dim=1)
        covariance = fw.addcmul(f, w, value=-1)
        variance, other = _variance(f, ff), _variance(w, ww)
        product = variance * other
        bound = product.sqrt()  # exceeded by rounding only
        covariance.clamp_(-bound, bound)
        scale = product.add_(eps).reciprocal_()
        slope = covariance * scale
        squared = covariance * slope
        value = masked_mean(squared, mask)
        gradients: list[Tensor | None] = [None, None, None]
        if not any(ctx.needs_input_grad):
            return value
        share: Tensor | float = 1 / squared[0].numel()
        if mask is not None:
            weight = mask.to(squared.dtype).expand_as(squared)
            share = weight / _total(weight)
        curvature = slope * slope * (2 * share)
        slope = slope * (2 * share)
        for number, (own, own_mean, own_variance, else_, else_mean, else_variance) in enumerate(
            [(fixed, f, variance, warped, w, other), (warped, w, other, fixed, f, variance)]
        ):
            if ctx.needs_input_grad[number]:
                curved = torch.where(own_variance > 0, curvature * else_variance, 0)
                constant = (curved * own_mean).addcmul_(slope, else_mean, value=-1)
                spread = box_sum(torch.cat([slope, curved, constant], dim=1).mul_(part), window)
                linear, curved, constant = spread.split(fixed.shape[1], dim=1)
                gradients[number] = (else_ * linear).addcmul_(own, curved, value=-1).add_(constant)
        if mask is not None and ctx.needs_input_grad[2]:
            gradients[2] = (
                (squared - value.view(-1, *[1] * (squared.dim() - 1))) / _total(weight)
            ).sum(1, keepdim=True)
        ctx.save_for_backward(*gradients)
        return value

    @staticmethod
    @first_only("lncc")
    def backward(
        ctx: Any, upstream: Tensor
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None, None, None]:
        along = [
            None if g is None else g * upstream.view(-1, *[1] * (g.dim() - 1))
            for g in ctx.saved_tensors
        ]
        return along[0], along[1], along[2], None, None


def _variance(mean: Tensor, square: Tensor) -> Tensor:
    """Variance from the means of the values and of their squares; 0 below the rounding error."""
    variance = square.addcmul(mean, mean, value=-1)
    return variance.mul_(variance > 4 * torch.finfo(variance.dtype).eps * square)


def _total(weight: Tensor) -> Tensor:
    """Sum of the weights per batch element, the divisor of
    :func:`~lightning_reg.functional.reduce.masked_mean`, ``(B, 1, ...)``.
    """
    return weight.flatten(1).sum(1).clamp_min(1e-6).view(-1, *[1] * (weight.dim() - 1))
