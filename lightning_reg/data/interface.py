"""What a data set offers: scans by split, and which of them belong together."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Literal

import torchio as tio

Split = Literal["train", "validation"]


class RegistrationDataset(ABC):
    """A source of scans, registered under ``lightning_reg.datasets``. It loads; preprocessing and sampling are others' work."""

    @abstractmethod
    def subjects(self, split: Split) -> Sequence[tio.Subject]:
        """The raw scans of a split, each with ``name``, ``image`` and, where known, ``mask``, ``labels``, ``landmarks`` (RAS mm), and
        ``group`` (a word that the scans of one subject share).

        Raises:
            DataError: a path, file or header is not what it has to be; the message names it.
        """

    @abstractmethod
    def pairs(self, split: Split) -> Sequence[tuple[int, int]]:
        """Indices ``(fixed, moving)`` into :meth:`subjects` of the real pairs of a split; empty where there are none."""
