"""Convolution blocks used by the backbones."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from lightning_reg.components.interfaces import Stride
from lightning_reg.registry import ArgumentError

LATENT = 64
"""Length of the vector that tells a network the weight of a loss term, see
:mod:`lightning_reg.components.conditioning`.
"""


class InstanceNorm(nn.GroupNorm):
    """Instance normalisation, implemented as group normalisation with one group per channel.

    For a single element on the CPU, batch normalisation with the element's own statistics is used
    instead. The result is the same, but PyTorch's group normalisation takes up to twenty times as
    long for the gradient if the memory layout is channels-last.
    """

    def __init__(self, channels: int) -> None:
        super().__init__(channels, channels)

    def forward(self, input: Tensor) -> Tensor:
        if not _alone(input):
            return super().forward(input)
        return F.batch_norm(input, None, None, self.weight, self.bias, training=True, eps=self.eps)


class ConditionalNorm(InstanceNorm):
    """Instance normalisation whose scale and shift depend on the weight of a loss term; plain
    instance normalisation at the start.

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
            raise ArgumentError(
                "a conditional normalisation is used outside the backbone that gives it the weight"
            )
        scale, shift = self.modulation(self.latent).float().view(1, -1, 1, 1, 1).chunk(2, dim=1)
        return torch.addcmul(shift, super().forward(input), 1 + scale)


def _alone(maps: Tensor) -> bool:
    """Return whether the maps are of a single element on the CPU, for which there are faster
    implementations.
    """
    return maps.shape[0] == 1 and maps.device.type == "cpu"


NORMS: dict[str, Callable[[int], nn.Module]] = {
    "batch": nn.BatchNorm3d,
    "instance": InstanceNorm,
    "conditional": ConditionalNorm,
}


class Convolution(nn.Conv3d):
    """A 3D convolution with an odd kernel that keeps the extents and is fast on the CPU.

    For a float32 batch of one with ``C * I * J <= 20480``, PyTorch uses an unoptimised kernel that
    is several times (up to twenty) slower than oneDNN's, which it uses for a batch of two. Such an
    image is therefore computed as a batch of its two halves, each with the neighbouring slices of
    the other (``benchmarks/operators.py`` measures the ratio).
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int | Stride = 3,
        bias: bool = True,
        dilation: int = 1,
    ) -> None:
        edges = (kernel,) * 3 if isinstance(kernel, int) else kernel
        i, j, k = (n // 2 * dilation for n in edges)
        super().__init__(inputs, outputs, edges, padding=(i, j, k), bias=bias, dilation=dilation)
        self.halo: Stride = (i, j, k)

    def forward(self, input: Tensor) -> Tensor:
        return self.with_weight(input, self.weight, self.bias)

    def with_weight(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Apply the convolution with another weight, ``(outputs, inputs, *kernel)``."""
        _, channels, i, j, _ = input.shape
        (halo, *others), dilation = self.halo, self.dilation
        input = channels_last(input)
        if not _alone(input) or i % 2 or halo == 0 or channels * i * j > 20480:
            return F.conv3d(input, weight, bias, padding=self.halo, dilation=dilation)
        rest = halo - i // 2  # negative: this many slices of the other half are left out
        halves = torch.cat(
            [F.pad(input, (0, 0, 0, 0, halo, rest)), F.pad(input, (0, 0, 0, 0, rest, halo))]
        )
        result = F.conv3d(halves, weight, bias, padding=(0, *others), dilation=dilation)
        if not torch.is_grad_enabled():  # an exported network must not depend on the memory layout
            return torch.cat([result[:1], result[1:]], dim=2)
        # no copy if the channels come last
        whole = result.permute(0, 2, 3, 4, 1).reshape(1, *input.shape[2:], -1)
        return whole.permute(0, 4, 1, 2, 3)


class ConvBlock(nn.Sequential):
    """Convolution, normalisation, (leaky) ReLU; keeps the extents.

    Args:
        kernel: voxels, odd; one number, or one per axis.
        norm: ``batch``, ``instance`` or ``none`` (then the convolution has a bias).
        slope: of the ReLU below 0.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int | Stride = 3,
        norm: str = "batch",
        dilation: int = 1,
        slope: float = 0.0,
    ) -> None:
        super().__init__(
            Convolution(inputs, outputs, kernel, norm == "none", dilation),
            *_after(outputs, norm, slope),
        )


class UpBlock(nn.Sequential):
    """Transposed convolution that doubles extents, normalisation, (leaky) ReLU.

    Args:
        kernel: 2, or 4 (overlapping).
        norm, slope: see :class:`ConvBlock`.
        factor: per axis, 2, or 1 for an extent that is kept; there the kernel is 1.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        norm: str = "batch",
        kernel: int = 2,
        slope: float = 0.0,
        factor: Stride = (2, 2, 2),
    ) -> None:
        i, j, k = (kernel if f == 2 else 1 for f in factor)
        around = [(n - f) // 2 for n, f in zip((i, j, k), factor, strict=True)]
        padding = (around[0], around[1], around[2])
        up = nn.ConvTranspose3d(inputs, outputs, (i, j, k), factor, padding, bias=norm == "none")
        super().__init__(up, *_after(outputs, norm, slope))


def _after(channels: int, norm: str, slope: float) -> list[nn.Module]:
    """Return the normalisation and activation that follow a convolution."""
    activation = nn.LeakyReLU(slope, inplace=True) if slope else nn.ReLU(inplace=True)
    return [activation] if norm == "none" else [NORMS[norm](channels), activation]


def recomputed(enabled: bool, function: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
    """Call a function. If ``enabled``, its intermediate results are not stored for the backward
    pass but recomputed there.
    """
    if not enabled or not torch.is_grad_enabled():
        return function(*inputs)
    result: Tensor = checkpoint(function, *inputs, use_reentrant=False)
    return result


def fast_layout(module: nn.Module) -> None:
    """Bring a module's weights into the memory layout in which 3D convolutions are fastest."""
    module.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]


def channels_last(maps: Tensor) -> Tensor:
    """Convert ``(B, C, I, J, K)`` to channels-last on the CPU, the layout that is fast there and
    that the layers keep.
    """
    return (
        maps.contiguous(memory_format=torch.channels_last_3d) if maps.device.type == "cpu" else maps
    )


def small_output(layer: nn.Conv3d | nn.Linear) -> None:
    """Initialise a layer with small weights, so that training starts close to the identity."""
    nn.init.normal_(layer.weight, std=1e-3)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)


def stack_images(fixed: Tensor, moving: Tensor) -> Tensor:
    """Concatenate both images as channels, in the memory layout in which 3D convolutions are
    fastest.
    """
    return torch.cat([fixed, moving], dim=1).contiguous(memory_format=torch.channels_last_3d)
