"""Convolution blocks that backbones share."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from lightning_reg.discovery import ArgumentError

LATENT = 64
"""Numbers by which a network is told a weight, see :mod:`lightning_reg.components.conditioning`."""


class InstanceNorm(nn.GroupNorm):
    """Every map of every element to mean 0 and variance 1, then weighted: instance normalisation as a group per channel.

    A single element on the CPU goes through batch normalisation by its own statistics, which is the same there: PyTorch's group
    normalisation takes up to twenty times as long for the gradient of maps whose channels come last.
    """

    def __init__(self, channels: int) -> None:
        super().__init__(channels, channels)

    def forward(self, input: Tensor) -> Tensor:
        if not _alone(input):
            return super().forward(input)
        return F.batch_norm(input, None, None, self.weight, self.bias, training=True, eps=self.eps)


class ConditionalNorm(InstanceNorm):
    """Instance normalisation whose scale and shift follow a weight; the plain one where training starts.

    Source: Mok & Chung, MICCAI 2021, Section 2.2 (conditional instance normalisation).
    """

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.modulation = nn.Linear(LATENT, 2 * channels)
        nn.init.zeros_(self.modulation.weight)
        nn.init.zeros_(self.modulation.bias)
        self.latent: Tensor | None = None

    def forward(self, input: Tensor) -> Tensor:
        if self.latent is None:
            raise ArgumentError("a conditional normalisation outside of the backbone that gives it the weight")
        scale, shift = self.modulation(self.latent).float().view(1, -1, 1, 1, 1).chunk(2, dim=1)
        return torch.addcmul(shift, super().forward(input), 1 + scale)


def _alone(maps: Tensor) -> bool:
    """Whether these maps are one element's on the CPU, for which there are faster ways."""
    return maps.shape[0] == 1 and maps.device.type == "cpu"


NORMS: dict[str, Callable[[int], nn.Module]] = {"batch": nn.BatchNorm3d, "instance": InstanceNorm, "conditional": ConditionalNorm}


class Convolution(nn.Conv3d):
    """A 3D convolution with odd kernel that keeps the extents, and that stays fast on the CPU.

    PyTorch hands a float32 batch of one with ``C * I * J <= 20480`` to an unoptimised kernel, several times (up to twenty) slower than
    oneDNN's, which it uses for a batch of two. So such an image goes through as a batch of its two halves, each with the
    neighbouring slices of the other (``benchmarks/operators.py`` has the ratio).
    """

    def __init__(self, inputs: int, outputs: int, kernel: int = 3, bias: bool = True, dilation: int = 1) -> None:
        super().__init__(inputs, outputs, kernel, padding=kernel // 2 * dilation, bias=bias, dilation=dilation)

    def forward(self, input: Tensor) -> Tensor:
        return self.with_weight(input, self.weight, self.bias)

    def with_weight(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """The same convolution with another weight: ``(outputs, channels of the input, k, k, k)``."""
        _, channels, i, j, _ = input.shape
        halo, dilation = self.padding[0], self.dilation[0]
        assert isinstance(halo, int)
        input = channels_last(input)
        if not _alone(input) or i % 2 or halo == 0 or channels * i * j > 20480:
            return F.conv3d(input, weight, bias, padding=halo, dilation=dilation)
        rest = halo - i // 2  # negative: slices of the other half that are left out
        halves = torch.cat([F.pad(input, (0, 0, 0, 0, halo, rest)), F.pad(input, (0, 0, 0, 0, rest, halo))])
        result = F.conv3d(halves, weight, bias, padding=(0, halo, halo), dilation=dilation)
        if not torch.is_grad_enabled():  # what is exported must not depend on the layout
            return torch.cat([result[:1], result[1:]], dim=2)
        whole = result.permute(0, 2, 3, 4, 1).reshape(1, *input.shape[2:], -1)  # nothing is copied where channels come last
        return whole.permute(0, 4, 1, 2, 3)


class ConvBlock(nn.Sequential):
    """Convolution, normalisation, (leaky) ReLU; extents kept.

    Args:
        kernel: voxels, odd.
        norm: ``batch``, ``instance`` or ``none`` (the convolution has a bias then).
        slope: of the ReLU below 0.
    """

    def __init__(self, inputs: int, outputs: int, kernel: int = 3, norm: str = "batch", dilation: int = 1, slope: float = 0.0) -> None:
        super().__init__(Convolution(inputs, outputs, kernel, norm == "none", dilation), *_after(outputs, norm, slope))


class UpBlock(nn.Sequential):
    """Transposed convolution that doubles every extent, normalisation, (leaky) ReLU.

    Args:
        kernel: 2, or 4 (overlapping).
        norm, slope: see :class:`ConvBlock`.
    """

    def __init__(self, inputs: int, outputs: int, norm: str = "batch", kernel: int = 2, slope: float = 0.0) -> None:
        up = nn.ConvTranspose3d(inputs, outputs, kernel, stride=2, padding=(kernel - 2) // 2, bias=norm == "none")
        super().__init__(up, *_after(outputs, norm, slope))


def _after(channels: int, norm: str, slope: float) -> list[nn.Module]:
    """Normalisation and activation behind a convolution."""
    if norm not in (*NORMS, "none"):
        raise ArgumentError(f"norm is '{norm}'; use one of batch, instance, none")
    activation = nn.LeakyReLU(slope, inplace=True) if slope else nn.ReLU(inplace=True)
    return [activation] if norm == "none" else [NORMS[norm](channels), activation]


def recomputed(enabled: bool, function: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
    """A function's result. Where ``enabled``, what it computes on the way is not kept for the backward pass but computed again there."""
    if not enabled or not torch.is_grad_enabled():
        return function(*inputs)
    result: Tensor = checkpoint(function, *inputs, use_reentrant=False)
    return result


def fast_layout(module: nn.Module) -> None:
    """Bring a module's weights into the memory layout in which 3D convolutions are fastest."""
    module.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]


def channels_last(maps: Tensor) -> Tensor:
    """``(B, C, I, J, K)`` in the layout that fast layers keep from one to the next on the CPU, forwards and backwards."""
    return maps.contiguous(memory_format=torch.channels_last_3d) if maps.device.type == "cpu" else maps


def small_output(layer: nn.Conv3d | nn.Linear) -> None:
    """Weights and biases from which training starts next to the identity."""
    nn.init.normal_(layer.weight, std=1e-3)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)


def stack_images(fixed: Tensor, moving: Tensor) -> Tensor:
    """Both images as channels of one tensor, in the memory layout in which 3D convolutions are fastest."""
    return torch.cat([fixed, moving], dim=1).contiguous(memory_format=torch.channels_last_3d)


def require_sizes(levels: int, features: int) -> None:
    """Refuse what makes no network, or one whose coarsest voxel is larger than any image and whose weights fill any memory.

    Raises:
        ValueError: naming the value and its range.
    """
    if not isinstance(levels, int) or not 1 <= levels <= 8:
        raise ArgumentError(f"levels is {levels}; give 1 to 8: every level halves the images")
    if not isinstance(features, int) or features < 1:
        raise ArgumentError(f"features is {features}; give a number of feature maps, 1 or more")
