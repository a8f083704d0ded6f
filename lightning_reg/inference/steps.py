"""Steps of a registration: objects that turn a pair and a transform into a transform."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field

import torch

from lightning_reg.components.interfaces import Composer
from lightning_reg.inference.memory import network_bytes, optimization_bytes
from lightning_reg.inference.starts import build_start
from lightning_reg.inference.weights import Weights
from lightning_reg.optimization import Optimization, Optimized, optimize
from lightning_reg.registry import blaming, require_kind
from lightning_reg.spatial import Displacement, Pair, Transform

Variant = Callable[[Pair], Pair]
"""Another storage of a pair (flipped, padded) in the same world; transforms fit both."""


@dataclass
class Notes:
    """Settings of one registration, and what its steps report.

    Args:
        refine: number of steps of an optimisation; ``None``: its own.
        progress: called with a line of text for each part of the work.
        seconds: by part.
        optimized: result of the last optimisation.
        weights: registrations for other weights, if the last step was a network with a weight.
    """

    refine: int | None = None
    progress: Callable[[str], None] | None = None
    seconds: dict[str, float] = field(default_factory=dict)
    optimized: Optimized | None = None
    weights: Weights | None = None
    last: float = field(default_factory=time.perf_counter)

    def lap(self, part: str) -> None:
        """Record the seconds since the last part."""
        now = time.perf_counter()
        self.seconds[part], self.last = now - self.last, now

    def say(self, line: str) -> None:
        if self.progress is not None:
            self.progress(line)


class Step(ABC):
    """Step of a registration.

    Attributes:
        part: its name in the table of seconds.
        centered: whether the centres of the two grids are aligned before the first step.
        optional: whether it runs only if steps of refinement are asked for.
        composer: the network that it uses.
    """

    part: str
    centered: bool = False
    optional: bool = False
    composer: Composer | None = None

    @abstractmethod
    def __call__(self, pair: Pair, transform: Transform, notes: Notes) -> Transform:
        """Compute the next transform, fixed world to moving world.

        Args:
            pair: preprocessed, of batch size 1.
            transform: result of the previous step, at first the identity.
        """

    @abstractmethod
    def bytes_per_voxel(self, pair: Pair) -> float:
        """Estimate the memory per voxel of the preprocessed fixed image."""


class Align(Step):
    """Initial alignment.

    Args:
        name: ``headers``; ``centers``, which aligns the centres of the grids; ``auto``, the best
            translation among these two and those of the centres of mass of intensities and masks;
            or one of another distribution, see :class:`~lightning_reg.inference.starts.Start`.
        optimization: its objective measures the alignment; ``None``: a network follows, and the
            start may not depend on the images' content.

    Raises:
        UserError: no such start, or it needs an optimisation.
    """

    part = "align"

    def __init__(self, name: str, optimization: Optimization | None = None) -> None:
        self.name, self.optimization = name, optimization
        self.start = build_start(name, optimization is None)
        self.centered = self.start.centered

    def __call__(self, pair: Pair, transform: Transform, notes: Notes) -> Transform:
        if self.optimization is None:
            return transform
        with blaming(self.start, f"aligning {pair.name[0]}"):
            return self.start(pair, self.optimization)

    def bytes_per_voxel(self, pair: Pair) -> float:
        return 0.0


@dataclass(frozen=True)
class Predict(Step):
    """Registration by a trained network, whatever the transform before.

    Args:
        variant: changes the storage of the pair for the network (test-time augmentation).
    """

    composer: Composer
    variant: Variant | None = None
    part = "network"

    def __post_init__(self) -> None:
        require_kind(self.composer, Composer, "composer", "give an object of Composer")

    def __call__(self, pair: Pair, transform: Transform, notes: Notes) -> Transform:
        stored = pair if self.variant is None else self.variant(pair)
        grid = pair.fixed.grid

        @torch.no_grad()
        def predicted() -> Transform:
            found = self.composer(stored.fixed, stored.moving).transform
            return found if stored is pair else Displacement(found.displacement(grid), grid)

        notes.weights = None if self.variant else Weights.of(self.composer, predicted)
        return predicted()

    def bytes_per_voxel(self, pair: Pair) -> float:
        return network_bytes(self.composer, pair)


@dataclass(frozen=True)
class Optimize(Step):
    """Instance optimisation from the transform before.

    Args:
        composer: the network whose result is refined, for stages that fit its weights; ``None``:
            the optimisation is the registration itself.
    """

    optimization: Optimization
    composer: Composer | None = None
    part = "refine"

    def __post_init__(self) -> None:
        kind = "give an object of Optimization"
        require_kind(self.optimization, Optimization, "optimization", kind)

    @property
    def optional(self) -> bool:  # type: ignore[override]
        return self.composer is not None

    def __call__(self, pair: Pair, transform: Transform, notes: Notes) -> Transform:
        notes.weights = None
        notes.optimized = optimize(
            pair, transform, self.optimization,
            steps=notes.refine, network=self.composer, progress=notes.progress,
        )  # fmt: skip
        return notes.optimized.transform

    def bytes_per_voxel(self, pair: Pair) -> float:
        return optimization_bytes(self.optimization, pair, self.composer)
