"""A U-net for each image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

import torch
from torch import Tensor, nn

from lightning_reg.components.backbones.unet import UNet
from lightning_reg.components.blocks import Convolution, channels_last
from lightning_reg.components.interfaces import Backbone, Features, Growable
from lightning_reg.components.resolution import between, kernel_at
from lightning_reg.functional import pool
from lightning_reg.registry import ArgumentError, Range


class DualStream(Backbone, Growable):
    """A U-net applied to each image separately. The maps of every level are those of the fixed
    image, then those of the moving image.

    The features do not depend on the alignment of the images; the head (``pyramid``) combines them.
    While the network grows, levels above the last one with a non-zero weight are not computed.

    With ``labels``, a convolution of the finest features predicts each image's labels, and every
    level gets their probabilities in addition to its maps. The loss term ``segmentation`` trains
    them.

    Source: the dual-stream encoder of Kang et al., Med. Image Anal. 78, 2022; here with a decoder.

    Args:
        levels, features, convolutions, input_stride, output_stride: of the network, see
            :class:`~lightning_reg.components.backbones.unet.UNet`.
        norm, slope, conditioned, widest: of the network, as there.
        channels: channels of one image.
        shared: whether one network processes both images. If not, each image has its own weights,
            for two modalities of which the fixed image is always the same one.
        labels: values of labels to be predicted for each image; 0 is the background.
        aspect: see :class:`~lightning_reg.components.backbones.unet.UNet`.

    Raises:
        ArgumentError: ``labels`` are not different whole numbers above 0.
    """

    def __init__(
        self,
        levels: Annotated[int, Range(1, 8)] = 4,
        features: Annotated[int, Range(1)] = 16,
        convolutions: int = 1,
        input_stride: int = 1,
        output_stride: int | None = None,
        channels: int = 1,
        norm: Literal["batch", "instance", "none"] = "instance",
        slope: float = 0.2,
        conditioned: Sequence[float] | None = None,
        shared: bool = True,
        labels: Sequence[int] = (),
        widest: int | None = None,
        aspect: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        whole = all(isinstance(value, int) and value > 0 for value in labels)
        if not whole or len(set(labels)) < len(labels):
            raise ArgumentError(
                f"labels is {list(labels)}; give different whole numbers above 0, the values in the"
                " label maps"
            )
        sizes = (levels, features, convolutions, input_stride, output_stride, channels)
        settings = (*sizes, norm, slope, conditioned, widest, aspect)
        self.stream = UNet(*settings)
        self.aspect = self.stream.aspect
        self.other = None if shared else UNet(*settings)
        self.labels = tuple(labels)
        classes = 1 + len(labels) if labels else 0
        streams = [self.stream] if self.other is None else [self.stream, self.other]
        self.classifiers = nn.ModuleList(
            nn.ModuleList(
                Convolution(n, classes, kernel_at(stride, self.aspect))
                for n, stride in zip(s.channels, s.strides, strict=True)
            )
            for s in streams
            if labels
        )
        self.channels = tuple(2 * (n + classes) for n in self.stream.channels)
        self.strides, self.multiple = self.stream.strides, self.stream.multiple
        self.alpha = (0.0,) * (len(self.channels) - 1) + (1.0,)

    def forward(self, fixed: Tensor, moving: Tensor) -> Sequence[Tensor | None]:
        computed = 1 + max(level for level, weight in enumerate(self.alpha) if weight > 0)
        streams = [self.stream, self.stream if self.other is None else self.other]
        images = zip(streams, (fixed, moving), strict=True)
        both = [stream.maps(image, computed) for stream, image in images]
        if not self.labels:
            return self._joined(both)
        logits, stride = [], self.strides[computed - 1]
        sides = (self.classifiers[0], self.classifiers[-1])
        for maps, classifiers in zip(both, sides, strict=True):
            logits.append(classifiers[computed - 1](maps[-1]))  # type: ignore[index]
            probabilities = logits[-1].softmax(1)
            maps[:] = [
                torch.cat([level, pool(probabilities, between(coarse, stride))], dim=1)
                for level, coarse in zip(maps, self.strides, strict=False)
            ]
        return Features(self._joined(both), self.labels, (logits[0], logits[1]), stride)

    def _joined(self, both: Sequence[list[Tensor]]) -> list[Tensor | None]:
        """Join the maps of both images by level; ``None`` for levels that are not computed."""
        joined = [channels_last(torch.cat(maps, dim=1)) for maps in zip(*both, strict=True)]
        return [*joined, *[None] * (len(self.channels) - len(joined))]
