"""A backbone and the heads on its features."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from lightning_reg.components.interfaces import Backbone, Head
from lightning_reg.discovery import DataError, build
from lightning_reg.spatial import Composition, Image, Transform

Spec = Mapping[str, Any] | str


class Network(nn.Module):
    """Two images in, transforms out. Several heads compose in order: the first acts on the fixed points first.

    Args:
        backbone: ``{name, ...}``.
        head: ``{name, ...}``, or a list of them.
    """

    def __init__(self, backbone: Spec, head: Spec | Sequence[Spec]) -> None:
        super().__init__()
        self.backbone = build("backbones", backbone, Backbone)
        specs = [head] if isinstance(head, (str, Mapping)) else list(head)
        context = {"channels": self.backbone.channels, "strides": self.backbone.strides}
        self.heads = nn.ModuleList(build("heads", spec, Head, **context) for spec in specs)

    def forward(self, fixed: Image, moving: Image) -> list[Transform]:
        """Args: fixed, moving: images on one grid. Returns: transforms on it or coarser, coarsest first; the last is the result."""
        multiple = self.backbone.multiple
        if max(fixed.grid.shape) < 2 * multiple:
            size = " x ".join(map(str, fixed.grid.shape))
            raise DataError(
                f"Images of {size} voxels are too small for {len(self.backbone.strides)} resolution levels, which divide by {multiple}: "
                "lower method.composer.backbone.levels, or resample the images to more voxels (data.preprocessing)."
            )
        shape = [-(-n // multiple) * multiple for n in fixed.grid.shape]
        features = self.backbone(fixed.padded_to(shape).tensor, moving.padded_to(shape).tensor)
        found: list[Transform] = []
        before: Transform | None = None
        for head in self.heads:
            outputs = head(features, fixed.grid)
            found = [t if before is None else Composition([t, before]) for t in outputs]
            before = found[-1]
        return found
