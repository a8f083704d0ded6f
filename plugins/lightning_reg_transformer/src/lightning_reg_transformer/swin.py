"""A Swin encoder with a convolutional decoder."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_reg import ArgumentError, Backbone
from lightning_reg.components.blocks import ConvBlock
from lightning_reg_transformer.attention import SwinBlock


class SwinBackbone(Backbone):
    """Swin encoder on patches of both images, and a convolutional decoder with skip connections.

    Source: TransMorph (Chen et al., Med. Image Anal. 82, 2022), whose size is
    ``embedding=96, depths=[2, 2, 4, 2], heads=[4, 4, 8, 8]``, with windows of 5 x 6 x 7 for its
    images of 160 x 192 x 224. Deviations: windows are cubes; skip connections from the images have
    one convolution; the number of maps halves with each level of the decoder, down to ``features``.

    Args:
        embedding: channels of the first stage; they double with every further stage.
        depths: blocks of each stage, finest first; windows of every second block are shifted.
        heads: of attention, per stage.
        window: edge of a window, tokens.
        patch: edge of a patch, voxels, a power of two.
        features: maps of the finest level.
        output_stride: of the finest level, 1 or a power of two below ``patch``.
    """

    def __init__(
        self,
        embedding: int = 24,
        depths: Sequence[int] = (2, 2),
        heads: Sequence[int] = (2, 4),
        window: int = 4,
        patch: int = 4,
        features: int = 8,
        output_stride: int = 1,
    ) -> None:
        super().__init__()
        if len(depths) != len(heads) or not depths:
            raise ArgumentError(
                f"depths is {list(depths)} and heads {list(heads)}; give one of each per stage"
            )
        if (
            patch < 2
            or patch & (patch - 1)
            or output_stride < 1
            or output_stride & (output_stride - 1)
            or output_stride >= patch
        ):
            raise ArgumentError(
                f"patch is {patch} and output_stride {output_stride}; give powers of two, the patch"
                " the larger"
            )
        if any((embedding << stage) % n for stage, n in enumerate(heads)):
            raise ArgumentError(
                f"embedding is {embedding}, which {list(heads)} heads do not divide at every stage"
            )
        sizes = [embedding << stage for stage in range(len(depths))]
        self.patches = nn.Conv3d(2, embedding, patch, stride=patch)
        self.first = nn.LayerNorm(embedding)
        self.stages = nn.ModuleList(
            nn.Sequential(*(SwinBlock(size, n, window, number % 2 == 1) for number in range(depth)))
            for size, depth, n in zip(sizes, depths, heads, strict=True)
        )
        self.merges = nn.ModuleList(Merge(size) for size in sizes[:-1])
        self.norms = nn.ModuleList(nn.LayerNorm(size) for size in sizes)

        strides, stride = [patch << stage for stage in reversed(range(len(depths)))], patch
        outputs, skips = list(reversed(sizes)), list(reversed(sizes))[1:]
        while stride > output_stride:
            stride //= 2
            strides.append(stride)
            skips.append(features)
            outputs.append(max(outputs[-1] // 2, features))
        self.channels, self.strides = tuple(outputs), tuple((s, s, s) for s in strides)
        self.multiple = self.strides[0]
        self.images = nn.ModuleList(
            ConvBlock(2, features, norm="instance", slope=0.2)
            for _ in range(len(strides) - len(depths))
        )
        self.decoder = nn.ModuleList(
            nn.Sequential(
                ConvBlock(before + skip, after, norm="instance", slope=0.2),
                ConvBlock(after, after, norm="instance", slope=0.2),
            )
            for before, skip, after in zip(outputs[:-1], skips, outputs[1:], strict=True)
        )

    def forward(self, fixed: Tensor, moving: Tensor) -> list[Tensor]:
        both = torch.cat([fixed, moving], dim=1)
        x = self.first(self.patches(both).permute(0, 2, 3, 4, 1))
        encoded = []
        for number, (stage, norm) in enumerate(zip(self.stages, self.norms, strict=True)):
            x = self.merges[number - 1](x) if number else x
            x = stage(x)
            encoded.append(norm(x).permute(0, 4, 1, 2, 3))
        x, *skips = reversed(encoded)
        for image, (stride, _, _) in zip(
            self.images, self.strides[len(self.stages) :], strict=True
        ):
            skips.append(image(F.avg_pool3d(both, stride)))
        levels = [x]
        for block, skip in zip(self.decoder, skips, strict=True):
            x = F.interpolate(x, size=skip.shape[2:], mode="trilinear", align_corners=False)
            x = block(torch.cat([x, skip], dim=1))
            levels.append(x)
        return levels


class Merge(nn.Module):
    """Merging of eight neighbouring tokens into one with twice the channels (Liu et al., 2021,
    Section 3.1).
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm, self.reduce = (
            nn.LayerNorm(8 * channels),
            nn.Linear(8 * channels, 2 * channels, bias=False),
        )

    def forward(self, x: Tensor) -> Tensor:
        batch, i, j, k, channels = x.shape
        x = x.view(batch, i // 2, 2, j // 2, 2, k // 2, 2, channels).permute(0, 1, 3, 5, 2, 4, 6, 7)
        return self.reduce(self.norm(x.reshape(batch, i // 2, j // 2, k // 2, 8 * channels)))
