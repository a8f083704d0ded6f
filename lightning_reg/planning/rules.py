"""Rules of the planner: pure functions from a data set's fingerprint to settings of a training,
each with the sentence that explains it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lightning_reg.components.resolution import aspect_of
from lightning_reg.planning.fingerprint import Fingerprint

STEPS = 2000
"""Steps that a training should have: the small trainings of docs/benchmarks.md need as many."""
SMALLEST = 8
"""Voxels along an axis of the working grid, at least, if the images have as many."""
UNLIKE = 0.1
"""Relative difference of voxel sizes from which scans are resampled to a common one."""
REACH = 2.0
"""Voxels of its own grid by which a level of the pyramid moves an image: its two convolutions of
3 x 3 x 3 see as much.
"""
ENOUGH_LABELLED = 10
"""Labelled training scans from which a network learns to predict the labels."""
MOST_LABELS = 40
"""Structures that a network is asked to predict; every further one takes memory at all voxels."""
FEW_SUBJECTS = 200
"""Training subjects below which intensities are augmented."""


@dataclass(frozen=True)
class Decision:
    """Settings of a training, and why.

    Args:
        subject: what is decided, in words.
        settings: values by their keys in a configuration.
        reason: one or two sentences.
    """

    subject: str
    settings: Mapping[str, Any]
    reason: str


@dataclass(frozen=True)
class Machine:
    """Cost of a training step here, measured in a real step on a small image.

    Args:
        seconds_per_voxel: time of a step per voxel of the working grid.
        bytes_per_voxel: memory of a step per voxel.
        memory: bytes that may be used.
    """

    seconds_per_voxel: float
    bytes_per_voxel: float
    memory: float

    def affordable(self, minutes: float) -> float:
        """Number of voxels for which :data:`STEPS` steps take ``minutes`` and fit into the
        memory.
        """
        of_time = 60 * minutes / (STEPS * self.seconds_per_voxel)
        return min(of_time, self.memory / self.bytes_per_voxel)


def network(known: Fingerprint) -> Decision:
    """Network and optimiser: features of each image by itself and a residual pyramid of velocities,
    Adam with a cool-down over the last 60 % of the steps.

    On labelled images, exchanging the two is not the inverse; on others, equal images give the
    identity (``antisymmetric``), at a slightly lower overlap.
    """
    same = not supervised(known)
    return Decision(
        "network",
        {
            "method.composer.backbone": {
                "name": "dual_stream",
                "features": 16,
                "input_stride": 1,
                "norm": "instance",
                "slope": 0.2,
                "aspect": "${data.aspect}",
            },
            "method.composer.head": {
                "name": "pyramid",
                "steps": 5,
                "features": 24,
                "antisymmetric": same,
            },
            "method.optimizer.lr": 1.0e-3,
            "method.schedule": {"cooldown": 0.6},
            "method.steps": 5000,
            "method.batch_size": 1,
            "data.samples_per_epoch": 250,
        },
        "Features of each image by itself and a residual pyramid of velocities: the most accurate"
        " of this project's networks on the hippocampus, with labels and without"
        " (docs/benchmarks.md).",
    )


def grid(known: Fingerprint, voxels: float, minutes: float) -> Decision:
    """Voxel size of the working grid: that of the scans, or the finest one that is affordable.

    The finest axes are enlarged first, to a common size, so that voxels become as cubic as
    possible. No axis gets finer than that of the median scan.

    Args:
        voxels: affordable number, see :meth:`Machine.affordable`.
        minutes: duration of the training.
    """
    native, extent = np.array(known.spacing.median), np.array(known.extent.median)
    edges = np.maximum(native, _edge(native, extent, voxels))
    shape = [max(1, round(e / s)) for e, s in zip(extent, edges, strict=True)]
    size, shown = _times(edges), _times(shape)
    unlike = _spread(known.spacing.least, known.spacing.most) > UNLIKE
    if bool((edges > 1.05 * native).any()):
        return Decision(
            "voxel size",
            {"data.preprocessing.spacing": [round(float(e), 3) for e in edges]},
            f"Voxels of {size} mm, because {shown} of them are what {minutes:g} minutes and the"
            f" memory allow for {STEPS:,} steps; the scans have voxels of {_times(native)} mm.",
        )
    if unlike:
        return Decision(
            "voxel size",
            {"data.preprocessing.spacing": [round(float(e), 3) for e in native]},
            f"Voxels of {_times(native)} mm, the median of scans whose voxel sizes differ (from"
            f" {_times(known.spacing.least)} to {_times(known.spacing.most)} mm).",
        )
    return Decision(
        "voxel size",
        {"data.preprocessing.spacing": None},
        f"The scans' own voxels of {_times(native)} mm: {minutes:g} minutes suffice for {STEPS:,}"
        f" steps on {shown} voxels.",
    )


def placement(known: Fingerprint) -> Decision:
    """Orientation and centring: as the headers have them, unless aligned centres are clearly more
    similar.
    """
    if known.headers is None or known.centers is None:
        text = "There is no pair to compare headers and centres with; the headers are kept."
    else:
        better = "Centres align the images better" if known.centered else "The headers are kept"
        text = (
            f"{better}: the correlation is {known.headers:.2f} by the"
            f" headers and {known.centers:.2f} with aligned centres."
        )
    return Decision("placement", {"data.preprocessing.center": known.centered}, text)


def intensities(known: Fingerprint) -> Decision:
    """Intensity range: for CT one window of Hounsfield units for all scans, from the percentiles
    0.5 and 99.5 of the foreground (as in nnU-Net), down to air if there are lungs; otherwise the
    percentiles of each image.
    """
    if not known.units.startswith("HU"):
        return Decision(
            "intensities",
            {"data.preprocessing.window": None, "data.preprocessing.percentiles": [0.5, 99.5]},
            f"Each image is scaled by its own percentiles, because its intensities have no units"
            f" ({known.units}).",
        )
    offset = 0.0 if known.units == "HU" else 1024.0
    low, high = known.intensities
    bottom = -1000 + offset if known.lungs else 50 * math.floor(low / 50)
    top = 50 * math.ceil(high / 50)
    what = "the lungs are air, and " if known.lungs else ""
    return Decision(
        "intensities",
        {"data.preprocessing.window": [bottom, top]},
        f"CT ({known.units}): one window from {bottom:g} to {top:g} for all scans, because {what}"
        f"99 % of the foreground lies between {low:.0f} and {high:.0f}.",
    )


def pairing(known: Fingerprint) -> Decision:
    """Sampler of training pairs: time points of one subject if subjects have several scans, listed
    pairs if the data are pairs, otherwise two subjects.
    """
    texts = {
        "groups": (
            f"Pairs of time points of one subject, because subjects have up to"
            f" {known.time_points} scans."
        ),
        "inter_subject": "Pairs of two subjects, because every subject has one scan.",
        "pairs": "The pairs of the list.",
    }
    return Decision("pairs", {"data.pairing": known.pairing}, texts[known.pairing])


def levels(known: Fingerprint, spacing: Sequence[float], shape: Sequence[int]) -> Decision:
    """Levels of the network: enough that its coarsest level reaches the measured motion, and not
    more than the images have voxels for.

    Level *l* has a stride of ``2^l`` voxels and moves the image by about two of its own voxels; the
    motion has to be within the reach of all levels together, ``2 (2^levels - 1)`` voxels.

    Args:
        spacing, shape: of the working grid.
    """
    motion = known.motion.large_mm if known.motion is not None else 0.1 * max(known.extent.median)
    in_voxels = motion / min(spacing)
    wanted = math.ceil(math.log2(in_voxels / REACH + 1))
    largest = 1 + max(0, int(math.log2(max(shape) / 4)))
    count = min(max(3, wanted), largest, 6)
    reason = (
        f"{count} levels: the motion is {motion:.1f} mm ({in_voxels:.1f} voxels; 95 % of the"
        f" foreground move less), and levels up to a stride of {2 ** (count - 1)} voxels reach"
        f" {REACH * (2**count - 1):.0f} voxels."
    )
    if count < wanted:
        reason += f" More levels would leave less than four voxels of {_times(shape)}."
    return Decision("levels", {"method.composer.backbone.levels": count}, reason)


def aspect(spacing: Sequence[float], shape: Sequence[int], levels: int) -> Decision:
    """Strides and kernels per axis: an axis with thick slices, or few of them, is neither pooled
    nor convolved before its voxels are as large as the others'; one slice never is.

    Args:
        spacing, shape: of the working grid.
        levels: of the network.
    """
    values = list(aspect_of(shape, spacing, 2 ** (levels - 1)))
    if values == [1, 1, 1]:
        text = "Equal along all axes: no voxel is twice as large along one axis as along another."
        return Decision("strides", {"data.aspect": None}, text)
    slices = "one slice" if 0 in values else f"{min(shape)} slices"
    return Decision(
        "strides",
        {"data.aspect": values},
        f"Kernels and strides of their own along each axis (aspect {_times(values)}), because the"
        f" images have {slices} with voxels of {_times(spacing)} mm.",
    )


def resolution(known: Fingerprint, shape: Sequence[int]) -> Decision:
    """Stride of the predicted velocity: 1 where labels supervise a small image, because small
    structures need it, otherwise 2, with which a step takes a third of the time.
    """
    fine = supervised(known) and math.prod(shape) <= 64**3
    text = (
        "Velocities at every voxel: labels tell where small structures end."
        if fine
        else "Velocities at every second voxel: with a level more, a step takes three times as long"
        " (docs/benchmarks.md)."
    )
    return Decision(
        "resolution", {"method.composer.backbone.output_stride": 1 if fine else 2}, text
    )


def supervised(known: Fingerprint) -> bool:
    """Whether the labels of the training scans supervise the network."""
    return known.parts["labels"] >= 2 and known.relation != "unrelated"


def supervision(known: Fingerprint) -> Decision:
    """Labels as supervision: their overlap if two scans or more have them; the network learns to
    predict them, too, if enough scans have them and there are not too many.

    Landmarks supervise nothing: they are few, and are kept to judge the result.
    """
    labelled, values = known.parts["labels"], list(known.label_values)
    if not supervised(known):
        also = " Landmarks are kept to judge the result." if known.parts["landmarks"] else ""
        return Decision("supervision", {}, f"The images alone: no labels.{also}")
    settings: dict[str, Any] = {"method.loss.terms.label_dice.weight": 6.0}
    text = f"Labels of {labelled} of {known.measured} scans supervise the overlap"
    if labelled >= ENOUGH_LABELLED and len(values) <= MOST_LABELS:
        settings |= {
            "method.composer.backbone.labels": values,
            "method.loss.terms.segmentation.weight": 3.0,
        }
        return Decision("supervision", settings, f"{text}, and the network learns to predict them.")
    why = (
        f"{len(values)} structures are too many"
        if len(values) > MOST_LABELS
        else f"{labelled} scans are too few"
    )
    return Decision("supervision", settings, f"{text}; to predict them, {why}.")


def similarity(known: Fingerprint) -> Decision:
    """Similarity of the images: local correlation for one contrast; MIND and mutual information for
    two, as in the instance optimisation; a smaller weight beside labels.
    """
    after = "" if known.motion is None else f" ({known.motion.correlation['after']:.2f})"
    if known.relation == "one contrast":
        weight = 0.3 if supervised(known) else 1.0
        return Decision(
            "similarity",
            {
                "method.loss.terms.lncc.weight": weight,
                "method.loss.terms.lncc.window": 7,
                "method.loss.terms.lncc.mask": "overlap",
            },
            f"Local correlation in windows of 7 voxels: the images correlate after"
            f" registration{after}, so that they are of one contrast.",
        )
    weight = 1.0 if supervised(known) else 10.0
    return Decision(
        "similarity",
        {
            "method.loss.terms.lncc.weight": 0,
            "method.loss.terms.mind.weight": weight,
            "method.loss.terms.mind.mask": "overlap",
        },
        f"MIND descriptors: the images do not correlate even after registration{after}, so that"
        " they are of two contrasts.",
    )


def smoothness(known: Fingerprint) -> Decision:
    """Smoothness: total variation and a penalty of folding, which allow organs to slide; diffusion
    beside labels, whose boundaries total variation would follow.
    """
    if supervised(known):
        return Decision(
            "smoothness",
            {"method.loss.terms.diffusion.weight": 0.2},
            "Diffusion with a weight of 0.2, as in the trainings with labels of"
            " docs/benchmarks.md.",
        )
    return Decision(
        "smoothness",
        {
            "method.loss.terms.diffusion.weight": 0,
            "method.loss.terms.tv.weight": 0.07,
            "method.loss.terms.tv.isotropic": True,
            "method.loss.terms.folding.weight": 20.0,
            "method.loss.terms.folding.margin": 0.4,
        },
        "Total variation, which leaves sharp changes where organs slide, and a penalty of folding.",
    )


def augmentation(known: Fingerprint) -> Decision:
    """Augmentation: intensities for few subjects; the geometry of each image as well where labels
    supervise, because such a network overfits otherwise.
    """
    settings: dict[str, Any] = {}
    if known.subjects < FEW_SUBJECTS:
        settings |= {"data.augmentation.noise": 0.02, "data.augmentation.gamma": 0.2}
    if not supervised(known):
        text = (
            f"Noise and gamma: {known.subjects} subjects are few."
            if settings
            else f"None: {known.subjects} subjects suffice."
        )
        return Decision("augmentation", settings, text)
    extent = min(known.extent.median)
    settings |= {
        "data.augmentation.affine": {"scales": 0.15, "degrees": 15, "translation": 0},
        "data.augmentation.elastic": {
            "num_control_points": 7,
            "max_displacement": round(0.14 * extent, 1),
        },
        "data.augmentation.separately": ["affine", "elastic", "gamma", "bias", "noise"],
    }
    return Decision(
        "augmentation",
        settings,
        "Geometry and intensities of each image separately: a network that is supervised by"
        f" labels overfits to {known.subjects} subjects otherwise.",
    )


def validation(known: Fingerprint) -> Decision:
    """Validation: on the held-out pairs if they can be scored by labels or landmarks, otherwise on
    synthetic deformations, too.
    """
    scored = known.parts["labels"] + known.parts["landmarks"] > 0 and known.validation_pairs > 0
    text = (
        f"On {min(known.validation_pairs, 20)} held-out pairs, by labels or landmarks."
        if scored
        else "On held-out pairs and 8 synthetic deformations, whose true field is known: there are"
        " no labels or landmarks."
    )
    return Decision(
        "validation",
        {"data.synthetic_validation": 0 if scored else 8, "data.max_validation_pairs": 20},
        text,
    )


def _edge(native: np.ndarray, extent: np.ndarray, voxels: float) -> float:
    """Voxel size below which no axis may be for ``voxels`` voxels; no axis gets fewer voxels than
    :data:`SMALLEST` for it.
    """
    low, high = float(native.min()), float(extent.max()) / SMALLEST
    for _ in range(60):
        edge = (low + high) / 2
        count = float(np.prod(np.maximum(1, extent / np.maximum(native, edge))))
        low, high = (edge, high) if count > voxels else (low, edge)
    return 0.0 if high <= 1.01 * float(native.min()) else high


def _spread(least: Sequence[float], most: Sequence[float]) -> float:
    """Largest relative difference of two triples."""
    return max(b / a - 1 for a, b in zip(least, most, strict=True))


def _times(values: Sequence[float] | np.ndarray) -> str:
    """``96 x 80 x 88``, with at most three digits each."""
    return " x ".join(f"{float(value):.3g}" for value in values)
