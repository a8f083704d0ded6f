"""Convolution blocks that backbones share."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

NORMS: dict[str, Callable[[int], nn.Module]] = {
    "batch": nn.BatchNorm3d,
    "instance": lambda n: nn.GroupNorm(n, n),  # one group a channel is instance normalisation, in less time
}


class Convolution(nn.Conv3d):
    """A 3D convolution with odd kernel that keeps the extents, and that stays fast on the CPU.

    PyTorch hands a float32 batch of one with ``C * I * J <= 20480`` to an unoptimised kernel, several times (up to twenty) slower than
    oneDNN's, which it uses for a batch of two. So such an image goes through as a batch of its two halves, each with the
    neighbouring slices of the other (``benchmarks/operators.py`` has the ratio).
    """

    def __init__(self, inputs: int, outputs: int, kernel: int = 3, bias: bool = True) -> None:
        super().__init__(inputs, outputs, kernel, padding=kernel // 2, bias=bias)

    def forward(self, input: Tensor) -> Tensor:
        batch, channels, i, j, _ = input.shape
        halo = self.kernel_size[0] // 2
        if input.device.type != "cpu" or batch > 1 or i % 2 or halo == 0 or channels * i * j > 20480:
            return super().forward(input)
        padded = F.pad(input, (0, 0, 0, 0, halo, halo))
        halves = torch.cat([padded[:, :, : i // 2 + 2 * halo], padded[:, :, i // 2 :]])
        result = F.conv3d(halves, self.weight, self.bias, padding=(0, halo, halo))
        return torch.cat([result[:1], result[1:]], dim=2)


class ConvBlock(nn.Sequential):
    """Convolution without bias, normalisation, ReLU; ``kernel`` voxels, extents kept.

    Args:
        norm: ``batch`` or ``instance``.
    """

    def __init__(self, inputs: int, outputs: int, kernel: int = 3, norm: str = "batch") -> None:
        if norm not in NORMS:
            raise ValueError(f"norm is '{norm}'; use one of {', '.join(NORMS)}")
        super().__init__(Convolution(inputs, outputs, kernel, bias=False), NORMS[norm](outputs), nn.ReLU(inplace=True))


class UpBlock(nn.Sequential):
    """Transposed convolution that doubles every extent, normalisation, ReLU."""

    def __init__(self, inputs: int, outputs: int, norm: str = "batch") -> None:
        super().__init__(nn.ConvTranspose3d(inputs, outputs, 2, stride=2, bias=False), NORMS[norm](outputs), nn.ReLU(inplace=True))


def fast_layout(module: nn.Module) -> None:
    """Bring a module's weights into the memory layout in which 3D convolutions are fastest."""
    module.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]


def stack_images(fixed: Tensor, moving: Tensor) -> Tensor:
    """Both images as channels of one tensor, in the memory layout in which 3D convolutions are fastest."""
    return torch.cat([fixed, moving], dim=1).contiguous(memory_format=torch.channels_last_3d)
