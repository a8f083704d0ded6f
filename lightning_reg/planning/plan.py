"""The plan of a training: decisions of the rules, and the configuration that they make."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from omegaconf import DictConfig, OmegaConf

from lightning_reg.configuration.composition import compose
from lightning_reg.data.datasets.splits import Splits
from lightning_reg.inference.memory import available
from lightning_reg.inference.report.page import Row, Section, render
from lightning_reg.io.folders import written_whole
from lightning_reg.io.reading import as_yaml
from lightning_reg.planning import rules
from lightning_reg.planning.cost import step_cost
from lightning_reg.planning.fingerprint import Fingerprint, fingerprint
from lightning_reg.planning.rules import Decision, Machine
from lightning_reg.registry import DataError, Range

BASE = ("method=velocity", "size=paper")
"""Configuration on which the decisions are set."""
TRIAL = 48
"""Voxels along each axis of the image in whose training step the cost is measured."""


@dataclass(frozen=True)
class Plan:
    """A planned training.

    Args:
        fingerprint: of the data.
        decisions: in the order of the page.
        config: the complete configuration, as that of a run.
        minutes: duration of the training.
    """

    fingerprint: Fingerprint
    decisions: Sequence[Decision]
    config: Mapping[str, Any]
    minutes: float


def plan(
    data: Splits,
    overrides: Sequence[str],
    *,
    minutes: Annotated[float, Range(above=0)] = 60.0,
    memory: Annotated[float, Range(above=0)] | None = None,
    pairs: Annotated[int, Range(1)] = 4,
    workers: Annotated[int, Range(1)] = 1,
    progress: Callable[[str], None] | None = None,
) -> Plan:
    """Plan the training for a data set.

    Args:
        data: only its training split is measured.
        overrides: values that have priority over the plan, as ``data.held_out=2``. Those of the
            data are among them, ``["data=folder", "data.root=my_scans"]``.
        minutes: duration of the training on this machine.
        memory: limit of a training step, GiB (half of the free memory, if there is none).
        pairs: number of sample pairs that are registered to measure the motion.
        workers: number of processes that read scans.
        progress: called with a line of text for each part of the work.

    Raises:
        DataError: there is nothing to train on, or nothing that could be held out.
        UserError: an override is invalid.
    """
    known = fingerprint(data, pairs=pairs, workers=workers, progress=progress)
    _require_trainable(known)
    content = [
        rules.placement(known),
        rules.intensities(known),
        rules.pairing(known),
        rules.supervision(known),
        rules.similarity(known),
        rules.smoothness(known),
        rules.augmentation(known),
        rules.validation(known),
    ]
    if progress is not None:
        progress("measuring a training step")
    network = rules.network(known)
    config = composed([network, *content], overrides, minutes)
    seconds, bytes_ = step_cost(config["method"], [TRIAL] * 3)
    free = available() or 4 * 2**30
    limit = memory * 2**30 if memory is not None else free / 2
    machine = Machine(seconds, bytes_, limit)
    grid = rules.grid(known, machine.affordable(minutes), minutes)
    spacing = grid.settings["data.preprocessing.spacing"] or known.spacing.median
    shape = np.maximum(1, np.round(np.array(known.extent.median) / spacing)).astype(int).tolist()
    levels = rules.levels(known, spacing, shape)
    count = levels.settings["method.composer.backbone.levels"]
    sizes = [levels, rules.aspect(spacing, shape, count), rules.resolution(known, shape)]
    decisions = [grid, network, *sizes, *content]
    return Plan(known, decisions, composed(decisions, overrides, minutes), minutes)


def _require_trainable(known: Fingerprint) -> None:
    """Refuse data from which no network can be trained and judged.

    Raises:
        DataError: says what to do instead.
    """
    instead = "register the scans without a model instead"
    if known.motion is None:
        raise DataError(f"The training scans make no pair; {instead}, or add scans.")
    if known.validation_pairs == 0:
        raise DataError(
            f"{known.subjects} training subjects and no validation pair: a network could not be"
            f" judged; hold out subjects (`held_out`), or {instead}."
        )


def composed(
    decisions: Sequence[Decision], overrides: Sequence[str], minutes: float
) -> dict[str, Any]:
    """The configuration that decisions make; ``overrides`` have priority over them."""
    keys = [override.partition("=")[0].lstrip("+~") for override in overrides]
    given = [key for key in keys if "." in key or key == "budget"]  # others choose a group
    settings = {"budget": minutes}
    for decision in decisions:
        settings |= decision.settings

    def choose(config: DictConfig) -> None:
        for key, value in settings.items():
            if not any(key == one or key.startswith(f"{one}.") for one in given):
                OmegaConf.update(config, key, value, merge=False, force_add=True)

    return compose([*BASE, *overrides], choose)


def write_plan(made: Plan, folder: Path, overwrite: bool = False) -> None:
    """Write ``fingerprint.json``, ``plan.yaml`` and ``plan.html`` into a folder.

    Args:
        overwrite: replace a plan that is there.

    Raises:
        UserError: the folder has other contents, and ``overwrite`` is false.
    """
    lines = []
    for decision in made.decisions:
        lines += [f"# {decision.subject}: {decision.reason}"]
        lines += [f"#   {key} = {json.dumps(value)}" for key, value in decision.settings.items()]
    text = as_yaml(made.config)
    with written_whole(folder, overwrite, by="plan") as inside:
        (inside / "fingerprint.json").write_text(
            json.dumps(made.fingerprint.as_dict(), indent=2) + "\n", encoding="utf-8"
        )
        (inside / "plan.yaml").write_text("\n".join(lines) + "\n" + text, encoding="utf-8")
        (inside / "plan.html").write_text(page(made), encoding="utf-8")


def page(made: Plan) -> str:
    """The page that explains the plan."""
    known = made.fingerprint
    decided = [
        Section(
            decision.subject,
            ["setting", "value"],
            [Row([key, json.dumps(value)]) for key, value in decision.settings.items()],
            decision.reason,
        )
        for decision in made.decisions
    ]
    return render(
        "Plan of a training",
        [
            Section("Measured", ["", "fingerprint"], [Row(cells) for cells in facts(known)]),
            *decided,
        ],
        made.config,
        f"{known.scans} training scans of {known.subjects} subjects; {made.minutes:g} minutes",
    )


def facts(known: Fingerprint) -> list[list[str]]:
    """The fingerprint as a table: name and value in words."""
    lines = [
        ["scans", f"{known.scans} of {known.subjects} subjects"],
        ["intensities", f"{known.units}, {known.intensities[0]:.4g} to {known.intensities[1]:.4g}"],
    ]
    for name in ("voxels", "spacing", "extent", "foreground"):
        spread = getattr(known, name)
        unit = "" if name == "voxels" else " mm"
        least, median, most = (
            " x ".join(f"{v:.4g}" for v in row)
            for row in (spread.least, spread.median, spread.most)
        )
        lines.append([name, f"{median}{unit} (median; {least} to {most})"])
    parts = ", ".join(f"{count} with {part}" for part, count in known.parts.items() if count)
    lines.append(["of the scans", parts or "no mask, labels or landmarks"])
    motion = known.motion
    if motion is not None:
        lines += [
            ["motion", f"{motion.median_mm:.1f} mm (median), {motion.large_mm:.1f} mm (95 %)"],
            ["affine part", f"{100 * motion.affine:.0f} % of the squared motion"],
            [
                "rest",
                f"{motion.residual_mm:.1f} mm (95 %), changing over {motion.length_mm:.0f} mm",
            ],
            ["intensities of a pair", motion.relation],
        ]
        lines += [
            [
                f"instance optimisation, {name}",
                f"{both['before']:.3f} before, {both['after']:.3f} after,"
                f" {motion.pairs} pairs of {motion.seconds:.0f} s",
            ]
            for name, both in motion.reference.items()
        ]
    return lines
