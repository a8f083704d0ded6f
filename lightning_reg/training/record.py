"""Record of a finished run: its cases, summary and figures."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.loggers import Logger
from matplotlib.figure import Figure

from lightning_reg import figures
from lightning_reg.components.losses.region import MaskedTerm
from lightning_reg.io.folders import write_whole
from lightning_reg.io.tables import write_table
from lightning_reg.metrics import PairMetrics, totals
from lightning_reg.registry.provenance import Entry
from lightning_reg.spatial import Pair
from lightning_reg.training.logging import log_outcome
from lightning_reg.training.metrics_file import read_metrics
from lightning_reg.training.module import RegistrationModule
from lightning_reg.training.run_folder import FAILURE, SUMMARY

PANELS = 4


def write_record(
    folder: Path,
    config: Mapping[str, Any],
    used: Sequence[Entry],
    module: RegistrationModule,
    pairs: Sequence[Pair],
    seconds: float,
    loggers: Sequence[Logger],
) -> None:
    """Write ``cases.csv``, ``summary.json`` and ``figures/`` of a finished run, and log figures and
    cases.

    Args:
        config: configuration of the run.
        used: components of the run.
        module: module with the weights for the figures, and the ``cases`` of its last validation on
            ``pairs``.
    """
    rows = [case.row() for case in module.cases]
    write_table(folder / "cases.csv", rows)
    summary = {
        "totals": totals(module.cases),
        "cases": len(rows),
        "seconds": round(seconds, 1),
        "parameters": sum(p.numel() for p in module.parameters()),
        "seed": config["seed"],
        "device": str(module.device),
        "versions": {
            name: version(name)
            for name in ("lightning-reg", "torch", "lightning", "torchio", "hydra-core", "kornia")
        }
        | {"python": platform.python_version()},
        "components": list(used),
    }
    drawn = draw(module, pairs, module.cases, read_metrics(folder))
    (folder / "figures").mkdir(exist_ok=True)
    for name, figure in drawn.items():
        figure.savefig(folder / "figures" / f"{name}.png", dpi=110)
    log_outcome(loggers, folder, drawn, rows, totals(module.cases), config)
    # last, because it marks the run as finished
    write_whole(folder / SUMMARY, (json.dumps(summary, indent=2) + "\n").encode())
    (folder / FAILURE).unlink(missing_ok=True)


def around(config: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return ``(group, name)`` of the components outside the model: data, metrics, callbacks and
    logger.
    """
    specs = {
        "datasets": config["data"]["dataset"],
        "samplers": config["method"]["sampling"],
        "loggers": config.get("logger") or "csv",
    }
    named = [
        (group, spec if isinstance(spec, str) else str(spec.get("name", "csv")))
        for group, spec in specs.items()
    ]
    wanted = {**(config.get("callbacks") or {}), **(config["method"].get("callbacks") or {})}
    named += [
        ("metrics", spec if isinstance(spec, str) else str(spec["name"]))
        for spec in config.get("metrics") or ()
    ]
    return named + [
        ("callbacks", (spec or {}).get("name", name))
        for name, spec in wanted.items()
        if spec is not None
    ]


@torch.no_grad()
def draw(
    module: RegistrationModule,
    pairs: Sequence[Pair],
    cases: Sequence[PairMetrics],
    rows: Sequence[Mapping[str, str]],
) -> dict[str, Figure]:
    """Draw all figures for which the run has data, by name, with panels of the first few pairs."""
    module.eval()
    drawn: dict[str, Figure | None] = {
        "learning_curve": figures.learning_curve(rows),
        "growth": figures.growth_weights(rows),
        "tre": figures.tre_boxes(cases),
        "motion": figures.motion_correlation(cases),
    }
    masked = any(
        isinstance(term, MaskedTerm) and term.mask in ("fixed", "intersection")
        for term in module.loss.terms.values()
    )
    for index, pair in enumerate(pairs[:PANELS]):
        on_device = pair.to(module.device)
        transform = module(on_device.fixed, on_device.moving).transform
        drawn[f"case_{index}"] = figures.registration_panel(on_device, transform, masked)
    return {name: figure for name, figure in drawn.items() if figure is not None}
