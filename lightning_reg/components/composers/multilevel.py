"""One network per pyramid level."""

from __future__ import annotations

from collections.abc import Sequence

from lightning_reg.components.composers.stacked import StackedComposer
from lightning_reg.components.network import Spec


class MultilevelComposer(StackedComposer):
    """Networks of one architecture from coarse to fine (Hering et al., 2019, Algorithm 1).

    Level *l* sees the fixed image and the moving one pulled through all coarser results, both average-pooled by ``strides[l]``;
    functions are composed, displacements are not added. As the networks are alike, a finer one can start from the coarser one's
    weights.

    Args:
        backbone, head: of every level's network.
        strides: of the images, coarsest first.
        init: of the coarsest network's weights, see :class:`~lightning_reg.components.network.Network`.
    """

    def __init__(self, backbone: Spec, head: Spec | Sequence[Spec], strides: Sequence[int] = (8, 4, 2), init: str = "default") -> None:
        super().__init__([{"backbone": backbone, "head": head, "stride": stride} for stride in strides], init)
