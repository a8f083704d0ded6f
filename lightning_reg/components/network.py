"""A network: a backbone and one or more heads."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from torch import nn

from lightning_reg.components.contracts import (
    require_backbone,
    require_features,
    require_fitting,
    require_transforms,
)
from lightning_reg.components.interfaces import Backbone, Features, Head
from lightning_reg.registry import ComponentError, DataError, Described, blaming, require_kind
from lightning_reg.spatial import Composition, Grid, Image, Transform


class Network(Described, nn.Module):
    """A backbone and heads that map two images to transforms. Several heads compose in order: the
    first acts on the fixed points first.

    Args:
        backbone: computes features of the two images.
        heads: one or several, made for the backbone's ``channels`` and ``strides``, as
            ``VelocityHead(backbone.channels, backbone.strides)``.
        init: initialisation of the backbone's weights, ``default`` (unchanged) or ``xavier``
            (uniform; Glorot & Bengio, 2010). Heads start close to the identity in both cases.

    Raises:
        ComponentError: the backbone lacks attributes of :class:`Backbone`, there is no head, or a
            head was made for another backbone.
    """

    def __init__(
        self,
        backbone: Backbone,
        heads: Head | Sequence[Head],
        init: Literal["default", "xavier"] = "default",
    ) -> None:
        super().__init__()
        require_kind(
            backbone,
            Backbone,
            "backbone",
            "give an object of a backbone's class, as UNet(levels=4)",
        )
        require_backbone(backbone)
        heads = list(heads) if isinstance(heads, Sequence) else [heads]
        require_fitting(backbone, heads)
        self.backbone, self.heads = backbone, nn.ModuleList(heads)
        if init == "xavier":
            self.backbone.apply(_xavier)
        self._checked = False

    def forward(self, fixed: Image, moving: Image) -> list[Transform]:
        """Args: fixed, moving: images; unless the backbone is ``separate``, the moving image is
        resampled to the fixed grid.
        Returns: transforms of the fixed grid, coarsest first; the last is the result."""
        return self.transforms(self.features(fixed, moving), fixed.grid)

    def features(self, fixed: Image, moving: Image) -> Features:
        """Return the backbone's features of two images as of :meth:`forward`."""
        moving = moving if self.backbone.separate else moving.resampled(fixed.grid)
        one, other = self._padded(fixed).tensor, self._padded(moving).tensor
        with blaming(self.backbone, _doing(one.shape[2:])):
            features = self.backbone(one, other)
        if not self._checked:
            require_features(self.backbone, features, one)
        return features if isinstance(features, Features) else Features(features)

    def transforms(self, features: Features, grid: Grid) -> list[Transform]:
        """Return the transforms of the heads, as :meth:`forward`, from features of images on the
        fixed grid.
        """
        transforms: list[Transform] = []
        before: Transform | None = None
        for head in self.heads:
            with blaming(head, _doing(grid.shape)):
                outputs = head(features, grid)
            if not self._checked:
                require_transforms(head, outputs)
            if len(outputs) > 1 and len(self.heads) > 1:
                raise ComponentError(
                    f"{type(head).__name__} gives a transform at each of {len(outputs)} levels,"
                    " which does not compose with other heads; let it give one (levels=finest), or"
                    " make it the only head."
                )
            transforms = [t if before is None else Composition([t, before]) for t in outputs]
            before = transforms[-1]
        self._checked = True
        return transforms

    def _padded(self, image: Image) -> Image:
        """Pad an image behind its last voxel to multiples of the backbone's ``multiple``."""
        sizes = list(zip(image.grid.shape, self.backbone.multiple, strict=True))
        if all(n < 2 * m for n, m in sizes) and max(self.backbone.multiple) > 1:
            size = " x ".join(map(str, image.grid.shape))
            multiple = " x ".join(map(str, self.backbone.multiple))
            raise DataError(
                f"Images of {size} voxels are too small for a backbone that divides them by"
                f" {multiple}: lower its levels or spacing, or resample the images to more voxels."
            )
        return image.padded_to([-(-n // m) * m for n, m in sizes])


def _doing(shape: Sequence[int]) -> str:
    return f"images of {' x '.join(map(str, shape))} voxels"


def _xavier(module: nn.Module) -> None:
    if isinstance(module, (nn.Conv3d, nn.ConvTranspose3d, nn.Linear)):
        nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
