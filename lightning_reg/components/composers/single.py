"""One network, one pass."""

from __future__ import annotations

from collections.abc import Sequence

from lightning_reg.components.interfaces import Composer, Level, Registration
from lightning_reg.components.network import Network, Spec
from lightning_reg.spatial import Image


class SingleComposer(Composer):
    """The registration is what one network finds.

    Args:
        backbone: ``{name, ...}``, see :class:`~lightning_reg.components.interfaces.Backbone`.
        head: ``{name, ...}`` or a list of them; several compose in order.
    """

    def __init__(self, backbone: Spec, head: Spec | Sequence[Spec]) -> None:
        super().__init__()
        self.network = Network(backbone, head)

    def forward(self, fixed: Image, moving: Image) -> Registration:
        transforms = self.network(fixed, moving.on(fixed.grid))
        levels = []
        for transform in transforms:
            at = fixed if transform.grid.matches(fixed.grid) else fixed.resized(transform.grid.shape)
            levels.append(Level(at, moving, transform, transform))
        return Registration(tuple(levels))
