"""One network per pyramid level."""

from __future__ import annotations

from collections.abc import Sequence

from lightning_reg.components.composers.sequential import Member, SequentialComposer
from lightning_reg.components.network import Network
from lightning_reg.registry import ArgumentError


class MultilevelComposer(SequentialComposer):
    """Networks of one architecture from coarse to fine (Hering et al., 2019, Algorithm 1).

    The input of level *l* is the fixed image and the moving image warped by all coarser results,
    both average-pooled by ``strides[l]``. Transforms are composed, displacements are not added. As
    the networks have the same architecture, a finer one can start from the weights of the next
    coarser one.

    Args:
        networks: one per level, coarsest first.
        strides: of the images, coarsest first.

    Raises:
        ValueError: the numbers of networks and strides differ.
    """

    def __init__(self, networks: Sequence[Network], strides: Sequence[int] = (8, 4, 2)) -> None:
        if len(networks) != len(strides):
            raise ArgumentError(
                f"{len(networks)} networks for strides {list(strides)}; give one per stride"
            )
        super().__init__(
            [Member(network, stride) for network, stride in zip(networks, strides, strict=True)]
        )
