"""Networks of different kinds, applied one after the other."""

from __future__ import annotations

from collections.abc import Sequence

from lightning_reg.components.composers.sequential import Member, SequentialComposer
from lightning_reg.components.network import Network


class StackedComposer(SequentialComposer):
    """Members of different kinds, image resolutions and control-point distances (de Vos et al.,
    2019, Section 2.3).

    Args:
        members: first to last; a network without :class:`Member` takes the whole images at full
            resolution.
    """

    def __init__(self, members: Sequence[Member | Network]) -> None:
        super().__init__(
            [member if isinstance(member, Member) else Member(member) for member in members]
        )
