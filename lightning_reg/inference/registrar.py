"""Registration of a pair by a network, instance optimisation, or both."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchio as tio

from lightning_reg import __version__
from lightning_reg.components.interfaces import Composer
from lightning_reg.data.lungs import shows_lungs
from lightning_reg.data.preprocessing import Preprocessing
from lightning_reg.data.scans import make_pair, original, read_pair, with_parts
from lightning_reg.data.statistics import unlike
from lightning_reg.figures.views import card
from lightning_reg.inference.alignment import between_worlds, shifted
from lightning_reg.inference.doubts import (
    few,
    missed,
    nothing_common,
    turned,
    two_modalities,
    undetermined,
    worse,
)
from lightning_reg.inference.memory import Watched
from lightning_reg.inference.result import Result
from lightning_reg.inference.starts import Start, identity
from lightning_reg.inference.weights import Weights, set_weight
from lightning_reg.io.images import Source, doubts
from lightning_reg.io.transform_files import TRANSFORM_ENDINGS
from lightning_reg.io.transforms import require_perpendicular
from lightning_reg.metrics.extra import ExtraMetric
from lightning_reg.models import locate
from lightning_reg.optimization import Optimization, Optimized, optimize
from lightning_reg.optimization.configuration import build_optimization, read_instance
from lightning_reg.registry import (
    ArgumentError,
    UserError,
    blaming,
    build,
    construct,
    require_count,
    require_kind,
    within_memory,
)
from lightning_reg.spatial import Displacement, Pair, Transform, slabs
from lightning_reg.training.allocator import give_memory_back
from lightning_reg.training.model import read_model


@dataclass(frozen=True)
class Inputs:
    """Two images in memory, with what belongs to them.

    Args:
        fixed, moving: checked, in their original intensities and grids.
        name: of the pair.
        paths: of the files that were read, by role (``fixed, moving_mask, ...``).
        warnings: a sentence each.
        seconds: time of reading.
    """

    fixed: tio.Subject
    moving: tio.Subject
    name: str
    paths: Mapping[str, str] = field(default_factory=dict)
    warnings: Sequence[str] = ()
    seconds: float = 0.0

    @classmethod
    def read(cls, sources: Mapping[str, Any], name: str | None = None) -> Inputs:
        """Read and check a pair.

        Args:
            sources: by ``fixed, moving, fixed_mask, ...``, see
                :func:`~lightning_reg.data.scans.read_pair` and
                :func:`~lightning_reg.data.scans.with_parts`; ``None``: not given.
            name: of the pair; default the files' names.

        Raises:
            DataError: an image, mask, label map or landmark file is not valid.
        """
        started = time.perf_counter()
        given = with_parts(sources)
        fixed, moving = read_pair(given)
        paths = {
            key: str(Path(s).expanduser().resolve())
            for key, s in given.items()
            if isinstance(s, (str, Path))
        }
        names = [Path(paths[side]).name if side in paths else side for side in ("fixed", "moving")]
        warnings = [
            f"Only one of the images has {what}, so they are not scored; give those of both."
            for what in ("labels", "landmarks")
            if (f"fixed_{what}" in given) != (f"moving_{what}" in given)
        ]
        images = [
            subject[part]
            for subject in (fixed, moving)
            for part in ("image", "mask", "labels")
            if part in subject
        ]
        warnings += [doubt.text for image in images for doubt in doubts(image, image.path)]
        return cls(
            fixed, moving, name or " < ".join(names), paths, warnings, time.perf_counter() - started
        )


@dataclass
class Registrar:
    """Registration of pairs with a network, an optimisation, or both.

    Args:
        preprocessing: of both images, before the registration.
        composer: the trained network, in evaluation mode; ``None``: registration without a network.
        optimization: the refinement of ``refine``; without a network, the registration itself.
        start: initial alignment: ``headers``; ``centers``, which aligns the centres of the grids;
            ``auto`` (only without a network), the best translation among these two and those of the
            centres of mass of intensities and masks; or one of another distribution, see
            :class:`~lightning_reg.inference.starts.Start`.
        statistics: of the training images, see :func:`lightning_reg.data.statistics.statistics`.
        settings: of the registrar, for the record.
        device: ``cpu``, ``cuda`` or ``cuda:N``.
        metrics: measured in addition to those of the table.
        memory: approximate limit of the process, GiB. Images that would need more are registered at
            coarser voxels (only without a network); the transform is applied to the original
            images. ``None``: the free memory.
        lungs: registrar used instead if both images are CT of the lungs.
        variant: changes the storage of the preprocessed pair, in the same world, for the network
            (test-time augmentation).
        trained_on: contents of the training images, see
            :func:`lightning_reg.data.datasets.identity.content`.
    """

    preprocessing: Preprocessing
    composer: Composer | None = None
    optimization: Optimization | None = None
    start: str = "headers"
    statistics: Mapping[str, Any] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    device: str = "cpu"
    metrics: Sequence[ExtraMetric] = ()
    memory: float | None = None
    lungs: Registrar | None = None
    variant: Callable[[Pair], Pair] | None = None
    trained_on: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        require_kind(self.preprocessing, Preprocessing, "preprocessing", "give Preprocessing(...)")
        for name, kind in (
            ("composer", Composer),
            ("optimization", Optimization),
            ("lungs", Registrar),
        ):
            require_kind(
                getattr(self, name),
                (kind, type(None)),
                name,
                f"give an object of {kind.__name__}, or None",
            )
        require_kind(self.memory, (int, float, type(None)), "memory", "give GiB, a number above 0")
        self._start = _start(self.start, self.composer is not None)
        self.device = checked_device(self.device)
        if self.memory is not None and not 0 < self.memory < math.inf:
            raise ArgumentError(f"memory is {self.memory}; give GiB, a number above 0")
        if self.composer is not None:
            self.composer = self.composer.to(self.device).eval()

    def described(self) -> dict[str, str]:
        """Network, optimisation, preprocessing and device, in words."""
        words = {}
        if self.composer is not None:
            parameters = sum(p.numel() for p in self.composer.parameters())
            words["network"] = (
                f"{type(self.composer).__name__} of {parameters:,} parameters, on {self.device}"
            )
        words |= {
            name: str(value)
            for name, value in self.settings.items()
            if value is not None and not isinstance(value, (dict, list))
        }
        if self.optimization is not None:
            transforms = [stage.transform for stage in self.optimization.stages]
            told = "refinement" if self.composer is not None else "optimisation"
            words[told] = (
                ", ".join(
                    f"{name} ({transforms.count(name)})" for name in dict.fromkeys(transforms)
                )
                + " stages"
            )
        steps = {
            key: value
            for key, value in vars(self.preprocessing).items()
            if value not in (None, False)
        }
        return words | {
            "preprocessing": ", ".join(f"{key} {value}" for key, value in steps.items()),
            "start": self.start,
        }

    def __repr__(self) -> str:
        return (
            f"Registrar({'; '.join(f'{name}: {text}' for name, text in self.described().items())})"
        )

    def _repr_html_(self) -> str:
        return card("Registrar", self.described())

    def register(
        self,
        fixed: Source | tio.Subject,
        moving: Source | tio.Subject,
        *,
        fixed_mask: Source | None = None,
        moving_mask: Source | None = None,
        fixed_labels: Source | None = None,
        moving_labels: Source | None = None,
        fixed_landmarks: str | Path | Any | None = None,
        moving_landmarks: str | Path | Any | None = None,
        refine: int | None = None,
        progress: Callable[[str], None] | None = None,
    ) -> Result:
        """Register two images.

        Args:
            fixed, moving: files, folders of DICOM slices, images of other libraries, or
            ``(array, affine)``, see
                :func:`~lightning_reg.io.images.read_image`; or TorchIO subjects with their masks,
                labels and landmarks, see :func:`~lightning_reg.data.scans.with_parts`. Sizes,
                spacings and directions may differ.
            fixed_mask, moving_mask: regions of interest, used by the optimisation and the metrics,
            never by a network. fixed_labels, moving_labels, fixed_landmarks, moving_landmarks: for
            the metrics (and loss terms that need them).
                Landmarks: a file (see :mod:`lightning_reg.io.points`) or ``(N, 3)`` RAS mm.
            refine: steps of instance optimisation after the network; ``None`` or 0: none. Without a
                network: total number of steps, default that of the method.
            progress: called with a line of text for each part of the work.

        Raises:
            DataError: an image, mask, label map or landmark file is not valid, or the images do not
                overlap.
            UserError: the memory does not suffice.
        """
        given = {
            "fixed": fixed, "fixed_mask": fixed_mask, "fixed_labels": fixed_labels,
            "fixed_landmarks": fixed_landmarks,
            "moving": moving, "moving_mask": moving_mask, "moving_labels": moving_labels,
            "moving_landmarks": moving_landmarks,
        }  # fmt: skip
        return self.register_inputs(Inputs.read(given), refine=refine, progress=progress)

    def register_inputs(
        self,
        inputs: Inputs,
        *,
        refine: int | None = None,
        progress: Callable[[str], None] | None = None,
    ) -> Result:
        """As :meth:`register`, for images already in memory."""
        result = self.register_subjects(
            inputs.fixed, inputs.moving, refine=refine, progress=progress
        )
        result.inputs = dict(inputs.paths)
        result.pair = replace(result.pair, name=(inputs.name,))
        result.warnings += inputs.warnings
        result.seconds = {"read": inputs.seconds} | result.seconds
        return result

    @within_memory(
        "for this registration; register at a larger spacing, a part of the images (crop), or with"
        " a limit (memory)"
    )
    @torch.inference_mode(False)
    @torch.random.fork_rng([])  # TorchIO's transforms draw from PyTorch's global random state
    def register_subjects(
        self,
        fixed: tio.Subject,
        moving: tio.Subject,
        *,
        refine: int | None = None,
        progress: Callable[[str], None] | None = None,
    ) -> Result:
        """As :meth:`register`, for checked subjects in their original intensities and grids."""
        refine = int(refine) if isinstance(refine, np.integer) else refine
        if refine is not None:
            require_count(refine, "refine", least=0)
        if self.lungs is not None and all(
            shows_lungs(subject["image"]) for subject in (fixed, moving)
        ):
            if progress is not None:
                progress(f"CT of the lungs: {self.lungs.settings['instance']}")
            return replace(self.lungs, metrics=self.metrics).register_subjects(
                fixed, moving, refine=refine, progress=progress
            )
        clock = _Clock()
        ours, theirs = original(fixed), original(moving)
        require_perpendicular(ours.image.grid)
        centered = self.preprocessing.center is True or self._start.centered
        raw = make_pair(ours, theirs, overlapping=not centered)
        optimization = self.optimization if self.composer is None or refine else None
        watched = Watched.over(self.memory, fixed, moving, raw, self.composer, optimization)
        voxels = None if watched is None or self.composer is not None else watched.voxels()
        scans = [
            replace(self.preprocessing, center=False)(subject, voxels)
            for subject in (fixed, moving)
        ]
        warnings = [unlike(scan, self.statistics) for scan in scans] if self.statistics else []
        working = make_pair(scans[0], scans[1], overlapping=False)
        if watched is not None:
            watched.require(working.fixed.grid)
        if voxels is not None and progress is not None:
            progress(f"coarser, to keep within {self.memory:g} GiB: {working.fixed.grid}")
        origins = np.zeros((2, 3))
        if centered:
            origins = np.concatenate(
                [image.grid.center for image in (working.fixed, working.moving)]
            )
        pair = (shifted(working, -origins[0], -origins[1]) if centered else working).to(self.device)
        clock.lap("preprocess")

        found, start = self._first(pair)
        clock.lap("network" if self.composer is not None else "align")
        optimized: Optimized | None = None
        if optimization is not None:
            optimized = optimize(
                pair, found, optimization, steps=refine, network=self.composer, progress=progress
            )
            found = optimized.transform
            clock.lap("refine")
        if watched is not None:
            give_memory_back()
        if not all(
            bool(torch.isfinite(found.displacement(slab.grid)).all())
            for slab in slabs(pair.fixed.grid)
        ):
            raise UserError(
                "The registration became NaN or infinite; use another checkpoint or instance"
                " optimisation."
            )

        def in_the_world(transform: Transform) -> Transform:
            return between_worlds(transform, pair.fixed.grid, working.fixed.grid, *origins)

        phi, before = in_the_world(found), in_the_world(start)
        weights = None
        if self.composer is not None and optimized is None and self.variant is None:
            weights = Weights.of(self.composer, lambda: in_the_world(self._first(pair)[0]))
        clock.lap("compose")
        told = [
            *warnings,
            two_modalities(optimized),
            undetermined(pair, optimized, self.start),
            few(raw),
            missed(raw, phi),
            turned(working, phi),
        ]
        told += [
            (
                worse(working, before, phi)
                if self.composer is not None and optimized is None
                else None
            ),
            nothing_common(raw),
        ]
        return Result(
            pair=raw,
            transform=phi,
            start=before,
            working=working,
            optimized=optimized,
            seconds=clock.seconds,
            settings={"version": __version__, **self.settings, "refine_steps": refine},
            extra=self.metrics,
            weights=weights,
            warnings=[sentence for sentence in told if sentence],
        )

    def _first(self, pair: Pair) -> tuple[Transform, Transform]:
        """The network's result or, without a network, the initial alignment; and the transform
        reported as *before*.
        """
        unmoved = identity(pair)
        if self.composer is not None:
            seen = pair if self.variant is None else self.variant(pair)
            with torch.no_grad():
                found = self.composer(seen.fixed, seen.moving).transform
                grid = pair.fixed.grid
                return (
                    found if seen is pair else Displacement(found.displacement(grid), grid)
                ), unmoved
        if self.optimization is None:
            return unmoved, unmoved
        with blaming(self._start, f"aligning {pair.name[0]}"):
            return self._start(pair, self.optimization), unmoved


@within_memory("for the model; use another model, or another machine")
def load(
    model: str | Path,
    *,
    device: str = "cpu",
    start: str = "headers",
    refinement: str = "refine",
    overrides: Sequence[str] = (),
    memory: float | None = None,
    weight: float | None = None,
) -> Registrar:
    """Load a trained model for registration.

    Args:
        model: ``best.ckpt`` of a run: configuration, preprocessing and weights in one file; or the
            name of an installed model, or an address, see :func:`lightning_reg.models.locate`.
            Loading executes no code from the file; components are looked up by name in the
            installed packages.
        device: where to compute.
        start: ``headers`` or ``centers``, see :class:`Registrar`.
        refinement: the configuration of ``conf/instance`` that ``register(..., refine=N)`` runs.
        overrides: of its values, ``key=value`` as on a command line.
        memory: GiB, see :class:`Registrar`.
        weight: of the loss term, for a model trained for a range of weights; default that of its
            configuration.

    Raises:
        UserError: no such file, not a model of this project, a component is not installed, no such
            device, or the model does not accept the weight.
    """
    _start(start, True)  # reports an error before anything is read
    located = locate(model)
    with torch.random.fork_rng([]):  # the weights are initialised before they are read
        trained = read_model(located.path)
    if weight is not None:
        set_weight(trained.composer, weight)
    instance = read_instance(refinement, overrides)
    optimization = build_optimization(instance["optimization"], trained.loss)
    settings = {
        "model": str(located.path.resolve()) if located.card is None else located.name,
        "method": trained.description,
        "preprocessing": asdict(trained.preprocessing),
        "refinement": instance,
    } | ({} if weight is None else {"weight": weight})
    applied = (
        trained.preprocessing,
        trained.composer,
        optimization,
        start,
        trained.statistics,
        settings,
        device,
    )
    return Registrar(*applied, memory=memory, trained_on=trained.trained_on)


def conventional(
    name: str = "auto",
    overrides: Sequence[str] = (),
    *,
    device: str = "cpu",
    start: str | None = None,
    memory: float | None = None,
) -> Registrar:
    """Registration without a trained network: instance optimisation from the initial alignment.

    Args:
        name: a configuration of ``conf/instance``; ``auto`` chooses by the content of the images.
        overrides: of its values, ``key=value`` as on a command line.
        device: where to compute.
        start: see :class:`Registrar`; default the configuration's.
        memory: GiB, see :class:`Registrar`.

    Raises:
        UserError: no such configuration, option or device.
    """
    instance = read_instance(name, overrides)
    if instance["optimization"].get("loss") is None:
        raise UserError(
            f"The instance optimisation '{name}' takes its loss from a model; give --model, or"
            " another --instance."
        )
    others = [
        override
        for override in overrides
        if not override.startswith(("lungs=", "optimization.unlike=", "optimization.likeness="))
    ]
    lungs = instance.pop("lungs", None)
    return Registrar(
        construct("preprocessing", Preprocessing, instance["preprocessing"]),
        None,
        build_optimization(instance["optimization"]),
        start or instance["start"],
        settings={"instance": name, **instance} | ({} if memory is None else {"memory": memory}),
        device=device,
        memory=memory,
        lungs=(
            None
            if lungs is None
            else conventional(lungs, others, device=device, start=start, memory=memory)
        ),
    )


def _start(name: str, network: bool) -> Start:
    """Build a start.

    Raises:
        UserError: no such start, or a start that searches is combined with a network.
    """
    if name.endswith(TRANSFORM_ENDINGS):
        raise UserError(
            f"start is {name}, and a registration does not start from a file: give headers, centers"
            " or auto. To continue from a transform, apply it to the moving image first, and"
            " register the result."
        )
    start = build("starts", name, Start)
    if network and start.searches:
        raise UserError(
            f"A model starts from the headers or from the centers; {name} is for methods without a"
            " model."
        )
    return start


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


class _Clock:
    """Seconds by part."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.last = time.perf_counter()

    def lap(self, name: str) -> None:
        now = time.perf_counter()
        self.seconds[name], self.last = now - self.last, now
