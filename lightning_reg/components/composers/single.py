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
        init: of the backbone's weights, see :class:`~lightning_reg.components.network.Network`.
    """

    def __init__(self, backbone: Spec, head: Spec | Sequence[Spec], init: str = "default") -> None:
        super().__init__()
        self.network = Network(backbone, head, init)

    def forward(self, fixed: Image, moving: Image) -> Registration:
        *coarser, result = self.network(fixed, moving)
        levels = [Level(fixed.at_resolution(t.grid), moving.at_stride(fixed.grid.stride_to(t.grid)), t, t) for t in coarser]
        return Registration((*levels, Level(fixed, moving, result, result)))
