"""Registration of a pair by a list of steps: a network, instance optimisation, or both."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Any

import numpy as np
import torch
import torchio as tio

from lightning_reg import __version__
from lightning_reg.components.interfaces import Composer
from lightning_reg.data.lungs import shows_lungs
from lightning_reg.data.preprocessing import Preprocessing
from lightning_reg.data.scans import make_pair, original
from lightning_reg.data.statistics import unlike
from lightning_reg.figures.views import card
from lightning_reg.inference import doubts
from lightning_reg.inference.inputs import AnyRegistrar, Inputs
from lightning_reg.inference.memory import Need
from lightning_reg.inference.result import Result
from lightning_reg.inference.starts import between_worlds, identity, shifted
from lightning_reg.inference.steps import Align, Notes, Optimize, Step
from lightning_reg.io.lps import require_perpendicular
from lightning_reg.metrics.extra import ExtraMetric
from lightning_reg.optimization import Optimization
from lightning_reg.registry import (
    Range,
    UserError,
    require_count,
    require_kind,
    within_memory,
)
from lightning_reg.spatial import Grid, Pair, Transform, slabs


@dataclass
class Registrar(AnyRegistrar):
    """Registration of pairs by a list of steps: a network, an optimisation, or both.

    Args:
        preprocessing: of both images, before the registration.
        steps: in order; none: the images stay where they are.
        statistics: of the training images, see :func:`lightning_reg.data.statistics.statistics`.
        settings: of the registrar, for the record.
        device: ``cpu``, ``cuda`` or ``cuda:N``.
        metrics: measured in addition to those of the table.
        memory: approximate limit of the process, GiB. Images that would need more are registered at
            coarser voxels (only without a network); the transform is applied to the original
            images. ``None``: the free memory.
        lungs: registrar used instead if both images are CT of the lungs.
        trained_on: contents of the training images, see
            :func:`lightning_reg.data.datasets.identity.content`.
    """

    preprocessing: Preprocessing
    steps: Sequence[Step] = ()
    statistics: Mapping[str, Any] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    device: str = "cpu"
    metrics: Sequence[ExtraMetric] = ()
    memory: Annotated[float, Range(above=0, of="GiB")] | None = None
    lungs: Registrar | None = None
    trained_on: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        require_kind(self.preprocessing, Preprocessing, "preprocessing", "give Preprocessing(...)")
        require_kind(self.steps, (list, tuple), "steps", "give a list of steps")
        for step in self.steps:
            require_kind(step, Step, "one of steps", "give Align, Predict or Optimize objects")
        instead = (Registrar, type(None))
        require_kind(self.lungs, instead, "lungs", "give an object of Registrar, or None")
        self.device = checked_device(self.device)
        if self.composer is not None:
            self.composer.to(self.device).eval()

    @property
    def members(self) -> list[Registrar]:  # type: ignore[override]
        return [self]

    @property
    def composer(self) -> Composer | None:
        """The network, if there is one."""
        return next((step.composer for step in self.steps if step.composer is not None), None)

    @property
    def optimization(self) -> Optimization | None:
        """The instance optimisation, if there is one."""
        return next((s.optimization for s in self.steps if isinstance(s, Optimize)), None)

    @property
    def start(self) -> str:
        """Name of the initial alignment."""
        return next((step.name for step in self.steps if isinstance(step, Align)), "headers")

    def described(self) -> dict[str, str]:
        """Network, optimisation, preprocessing and device, in words."""
        words = {}
        composer, optimization = self.composer, self.optimization
        if composer is not None:
            parameters = sum(p.numel() for p in composer.parameters())
            kind = type(composer).__name__
            words["network"] = f"{kind} of {parameters:,} parameters, on {self.device}"
        for name, value in self.settings.items():
            if value is not None and not isinstance(value, (dict, list)):
                words[name] = str(value)
        if optimization is not None:
            kinds = [stage.transform for stage in optimization.stages]
            counts = ", ".join(f"{kind} ({kinds.count(kind)})" for kind in dict.fromkeys(kinds))
            words["optimisation" if composer is None else "refinement"] = f"{counts} stages"
        used = [f"{k} {v}" for k, v in vars(self.preprocessing).items() if v not in (None, False)]
        return words | {"preprocessing": ", ".join(used), "start": self.start}

    def __repr__(self) -> str:
        words = [f"{name}: {text}" for name, text in self.described().items()]
        return f"Registrar({'; '.join(words)})"

    def _repr_html_(self) -> str:
        return card("Registrar", self.described())

    @within_memory(
        "for this registration; register at a larger spacing, a part of the images (crop), or with"
        " a limit (memory)"
    )
    @torch.inference_mode(False)
    @torch.random.fork_rng([])  # TorchIO's transforms draw from PyTorch's global random state
    def register_inputs(
        self,
        inputs: Inputs,
        *,
        refine: int | None = None,
        progress: Callable[[str], None] | None = None,
    ) -> Result:
        refine = int(refine) if isinstance(refine, np.integer) else refine
        if refine is not None:
            require_count(refine, "refine", least=0)
        notes = Notes(refine, progress)
        lungs = self.lungs
        if lungs is not None and all(map(_shows_lungs, (inputs.fixed, inputs.moving))):
            notes.say(f"CT of the lungs: {lungs.settings['instance']}")
            lungs = replace(lungs, metrics=self.metrics)
            return lungs.register_inputs(inputs, refine=refine, progress=progress)
        steps = [step for step in self.steps if refine or not step.optional]
        prepared = self._prepared(inputs, steps, notes)
        before = identity(prepared.pair)
        transform: Transform = before
        for step in steps:
            transform = step(prepared.pair, transform, notes)
            notes.lap(step.part)
        prepared.need.registered()
        _require_finite(transform, prepared.pair.fixed.grid)
        return self._result(inputs, prepared, transform, before, notes)

    def _prepared(self, inputs: Inputs, steps: Sequence[Step], notes: Notes) -> Prepared:
        """Read the grids, fit the images into the memory, preprocess them and align centres."""
        ours, theirs = original(inputs.fixed), original(inputs.moving)
        require_perpendicular(ours.image.grid)
        centered = self.preprocessing.center is True or any(step.centered for step in self.steps)
        raw = make_pair(ours, theirs, overlapping=not centered)
        need = Need.over(
            self.memory, inputs.fixed, inputs.moving,
            lambda: max((step.bytes_per_voxel(raw) for step in steps), default=0.0),
            model=self.composer is not None,
        )  # fmt: skip
        voxels = need.working()
        preprocessing = replace(self.preprocessing, center=False)
        scans = [preprocessing(subject, voxels) for subject in (inputs.fixed, inputs.moving)]
        warnings = [unlike(scan, self.statistics) for scan in scans] if self.statistics else []
        working = make_pair(scans[0], scans[1], overlapping=False)
        need.require(working.fixed.grid)
        if voxels is not None:
            notes.say(f"coarser, to keep within {self.memory:g} GiB: {working.fixed.grid}")
        pair, origins = working, np.zeros((2, 3))
        if centered:
            grids = working.fixed.grid, working.moving.grid
            origins = np.concatenate([grid.center for grid in grids])
            pair = shifted(working, -origins[0], -origins[1])
        notes.lap("preprocess")
        return Prepared(raw, working, pair.to(self.device), origins, need, warnings)

    def _result(
        self,
        inputs: Inputs,
        prepared: Prepared,
        transform: Transform,
        before: Transform,
        notes: Notes,
    ) -> Result:
        """Convert the transforms to the world of the images, and note what is doubtful."""
        raw, working, optimized = prepared.raw, prepared.working, notes.optimized
        phi, start = prepared.in_the_world(transform), prepared.in_the_world(before)
        weights = notes.weights
        if weights is not None:
            at = weights.register
            weights = replace(weights, register=lambda w: prepared.in_the_world(at(w)))
        notes.lap("compose")
        alone = self.composer is not None and optimized is None
        sentences = [
            *prepared.warnings,
            doubts.two_modalities(optimized),
            doubts.undetermined(prepared.pair, optimized, self.start),
            doubts.few(raw),
            doubts.missed(raw, phi),
            doubts.turned(working, phi),
            doubts.worse(working, start, phi) if alone else None,
            doubts.nothing_common(raw),
            *inputs.warnings,
        ]
        return Result(
            pair=raw if inputs.name is None else replace(raw, name=(inputs.name,)),
            transform=phi,
            start=start,
            working=working,
            optimized=optimized,
            seconds={**inputs.seconds, **notes.seconds},
            settings={"version": __version__, **self.settings, "refine_steps": notes.refine},
            warnings=[sentence for sentence in sentences if sentence],
            inputs=dict(inputs.paths),
            extra=self.metrics,
            weights=weights,
        )


@dataclass(frozen=True)
class Prepared:
    """A pair ready to be registered.

    Args:
        raw: in its original intensities and grids.
        working: preprocessed.
        pair: the same on the device, with the points ``origins`` moved to the origin.
        origins: of the two worlds, ``(2, 3)`` RAS mm.
        need: memory of the registration.
        warnings: a sentence each, or ``None``.
    """

    raw: Pair
    working: Pair
    pair: Pair
    origins: np.ndarray
    need: Need
    warnings: Sequence[str | None]

    def in_the_world(self, transform: Transform) -> Transform:
        """A transform of ``pair``, between the worlds of the original images."""
        return between_worlds(
            transform, self.pair.fixed.grid, self.working.fixed.grid, *self.origins
        )


def _shows_lungs(subject: tio.Subject) -> bool:
    return shows_lungs(subject["image"])


def _require_finite(transform: Transform, grid: Grid) -> None:
    fields = (transform.displacement(slab.grid) for slab in slabs(grid))
    if not all(bool(torch.isfinite(field).all()) for field in fields):
        raise UserError(
            "The registration became NaN or infinite; use another checkpoint or instance"
            " optimisation."
        )


def checked_device(device: str) -> str:
    """The device, if it is available.

    Raises:
        UserError: it is not available.
    """
    require_kind(device, (str, torch.device), "device", "give a name, as cpu or cuda")
    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as cause:
        known = (
            "cpu, cuda"
            if torch.cuda.is_available()
            else "cpu; this machine (or this installation of PyTorch) has no CUDA"
        )
        raise UserError(f"The device '{device}' cannot be used; use {known}.") from cause
    return device
