"""Minimum of a method's loss over the parameters of its transform, without a network, on images
with known truth.

    python benchmarks/attainable.py [--method M ...] [--data D] [--shape I J K] [--cases N] [--steps
    N] [--json F]

The method has its usual configuration, and its stages are fitted in the order of training; only the
layers that predict the parameters of a transform are replaced by free parameters. The table has,
per stage or level, the loss of the identity and of the true transform and the "price of the truth",
and the landmark error before and after. The price is the cost of the true transform's regularity
divided by its gain in similarity over the identity, in which the dissimilarity due to noise and
density changes cancels. It should be below 0.8; otherwise the loss does not favour the truth.
Images are those of the breathing phantom.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lightning_reg.components.composers import SingleComposer
from lightning_reg.components.heads.affine import AffineHead
from lightning_reg.components.heads.fields import BSplineHead, DenseHead, VelocityHead
from lightning_reg.components.heads.integrated_gradient import IntegratedGradientHead
from lightning_reg.components.interfaces import Backbone, Growable, Level, Registration, Staged
from lightning_reg.components.losses import regularity
from lightning_reg.components.network import Network
from lightning_reg.configuration.composition import compose
from lightning_reg.data.preprocessing import Preprocessing
from lightning_reg.data.scans import Scan, make_pair, subject_from_scan
from lightning_reg.functional import resize
from lightning_reg.metrics import evaluate
from lightning_reg.phantom.thorax import breathing_thorax
from lightning_reg.spatial import (
    Affine,
    Composition,
    Identity,
    IntegratedGradient,
    Pair,
    Transform,
    parts,
)
from lightning_reg.training.module import RegistrationModule

SIZES: dict[str, tuple[str, tuple[int, int, int]]] = {
    "progressive": ("creatis", (128, 128, 128)),
    "multilevel": ("copdgene", (160, 160, 160)),
    "dlir": ("nlst", (160, 128, 144)),
    "linear_deformable": ("lung_mri", (192, 64, 192)),
    "deep_supervision": ("adni_hippocampus", (32, 48, 48)),
    "velocity": ("folder", (128, 128, 128)),
}
"""Data for which each method is configured, and the size of their images, voxels."""

RATES = {IntegratedGradientHead: 0.01}
"""Learning rates other than the default 0.2, in the units of the heads' parameters (mostly voxels).
"""


class Free(nn.Module):
    """Free parameters in place of a layer's output: a sum of tensors from fine to coarse, so that
    descent finds small and large motion.

    Args:
        channels: of the output.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels, self.values = channels, nn.ParameterList()

    def forward(self, features: Tensor) -> Tensor:
        shape = features.shape[2:]
        if not self.values:
            while True:
                self.values.append(
                    nn.Parameter(torch.zeros(features.shape[0], self.channels, *shape))
                )
                if not shape or max(shape) <= 4:
                    break
                shape = torch.Size(-(-n // 2) for n in shape)
        parts = [
            value if value.shape[2:] == features.shape[2:] else resize(value, features.shape[2:])
            for value in self.values
        ]
        return torch.stack(parts).sum(0)


class NoFeatures(Backbone):
    """Backbone that returns zeros with the shapes of another backbone's features."""

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.channels, self.strides, self.multiple, self.separate = (
            backbone.channels, backbone.strides, backbone.multiple, backbone.separate,
        )  # fmt: skip

    def forward(self, fixed: Tensor, moving: Tensor) -> Sequence[Tensor | None]:
        return [
            fixed.new_zeros(1).expand(
                fixed.shape[0],
                n,
                *(-(-e // s) for e, s in zip(fixed.shape[2:], stride, strict=True)),
            )
            for n, stride in zip(self.channels, self.strides, strict=True)
        ]


def freed(module: RegistrationModule) -> RegistrationModule:
    """Replace the outputs of a module's networks by free parameters; returns the module."""
    for network in module.modules():
        if isinstance(network, Network):
            network.backbone = NoFeatures(network.backbone)
            for head in network.heads:
                _free(head)
        if isinstance(network, Growable):
            network.grow([*[0.0] * (len(network.alpha) - 1), 1.0])
    return module


def _free(head: nn.Module) -> None:
    if isinstance(head, AffineHead):
        head.hidden, head.last = nn.Identity(), Free(12)
    elif isinstance(head, BSplineHead):
        head.control = Free(3)
    elif isinstance(head, DenseHead):
        head.fields, head.gains = (
            nn.ModuleList(Free(3) for _ in head.fields),
            [1.0] * len(head.fields),
        )
    elif isinstance(head, VelocityHead):
        head.velocity = Free(3)
    elif isinstance(head, IntegratedGradientHead):
        head._excited = lambda weights, *features: features[0]  # type: ignore[method-assign]
        head.convolutions, head.gradients = nn.ModuleList(), Free(3)
    else:
        raise SystemExit(
            f"attainable.py does not know the parameters of a {type(head).__name__}; add them to"
            " _free"
        )


@dataclass(frozen=True)
class LevelReport:
    """Values of a loss at one stage or level.

    Args:
        where: stage or level, and the extents of its images.
        identity, truth: total loss of the identity and of the true transform.
        price: cost of the truth's regularity divided by its gain in similarity; infinite if there
            is no gain.
    """

    where: str
    identity: float
    truth: float
    price: float


@dataclass(frozen=True)
class Report:
    """Minimisation of a method's loss in one case: a :class:`LevelReport` per level, TRE in mm,
    folding, and time in seconds.
    """

    method: str
    data: str
    shape: tuple[int, int, int]
    levels: tuple[LevelReport, ...]
    before: float
    after: float
    folding: float
    seconds: float

    def row(self) -> str:
        """A line of the table."""
        losses = ", ".join(
            f"{level.identity:.3f} / {level.truth:.3f} ({level.price:.2f})" for level in self.levels
        )
        return (
            f"| {self.method} | {self.data} | {' x '.join(map(str, self.shape))} | {losses} |"
            f" {self.before:.2f} | {self.after:.2f} | {self.after / self.before:.2f} |"
            f" {100 * self.folding:.2f} | {self.seconds:.0f} |"
        )


HEADER = (
    "| method | data | voxels | loss of identity / truth (price of the truth) | TRE before, mm |"
    " after | ratio | folding, % | s |\n| --- | --- | --- | --- | --- | --- | --- | --- | --- |"
)


def composed(overrides: Sequence[str]) -> dict[str, Any]:
    """A configuration as plain values; data that need a folder get the name of a missing one."""

    def choose(config: Any) -> None:
        if "root" in config.data.keys():  # noqa: SIM118 - a missing value counts as not in it
            config.data.root = "absent"

    return compose(overrides, choose)


def phantom(shape: tuple[int, int, int], seed: int) -> Pair:
    """A breathing thorax with intensities in [0, 1], and the true transform."""
    pair = breathing_thorax(seed, shape)
    assert pair.fixed_landmarks is not None
    assert pair.moving_landmarks is not None
    preprocessing = Preprocessing(window=(-1000.0, 500.0))
    fixed = Scan("fixed", pair.fixed, pair.fixed_mask, pair.fixed_labels, pair.fixed_landmarks[0])
    moving = Scan(
        "moving", pair.moving, pair.moving_mask, pair.moving_labels, pair.moving_landmarks[0]
    )
    return make_pair(
        *(preprocessing(subject_from_scan(scan)) for scan in (fixed, moving)), truth=pair.truth
    )


def level_reports(
    module: RegistrationModule, registration: Registration, pair: Pair, where: str
) -> list[LevelReport]:
    """Loss of the identity and of the truth at every supervised level."""
    assert pair.truth is not None
    truth: Transform = pair.truth
    same: Transform = Identity(pair.fixed.grid, pair.fixed.tensor)
    if any(isinstance(part, IntegratedGradient) for part in parts(registration.transform)):
        truth, same = (
            Composition([_integrated(t), Affine(torch.eye(4).unsqueeze(0), pair.fixed.grid)])
            for t in (truth, same)
        )
    found = []
    for level in registration.levels:
        similarity, price, totals = 0.0, 0.0, []
        for transform, sign in ((same, 1.0), (truth, -1.0)):
            seen = Level(level.fixed, level.moving, transform, transform)
            total = 0.0
            for name, term in module.loss.terms.items():
                value = module.loss.weights[name] * float(term(seen, pair).mean())
                total += value
                if type(term).__module__ == regularity.__name__:
                    price -= sign * value
                else:
                    similarity += sign * value
            totals.append(total)
        extents = " x ".join(map(str, level.fixed.grid.shape))
        found.append(
            LevelReport(
                f"{where} {extents}".strip(),
                *totals,
                price / similarity if similarity > 0 else float("inf"),
            )
        )
    return found


def _integrated(transform: Transform) -> IntegratedGradient:
    """A transform as integrated gradients on its own grid."""
    field = transform.displacement()
    steps = [
        1 + field[:, a].diff(dim=1 + a, prepend=torch.zeros_like(field[:, a].narrow(1 + a, 0, 1)))
        for a in range(3)
    ]
    return IntegratedGradient(torch.stack(steps, dim=1), transform.grid)


def minimise(
    config: Mapping[str, Any], pair: Pair, steps: int = 120
) -> tuple[list[LevelReport], Transform]:
    """Minimise a method's loss for one pair, stage by stage.

    Args:
        config: a composed configuration.
        pair: with its truth.
        steps: of Adam, per stage; the learning rate decreases to 0 along a half cosine.

    Returns:
        A report per stage or level, and the final transform.
    """
    method = config["method"]
    module = freed(RegistrationModule.from_configuration(method)).train()
    composer, reports = module.composer, []
    if isinstance(composer, SingleComposer):
        composer.symmetric = False  # free parameters fit one direction only
    stages = [stage["train"] for stage in method.get("stages") or []]
    for number, trained in enumerate(stages or ["all"]):
        if isinstance(composer, Staged):
            composer.activate(range(len(composer.networks)) if trained == "all" else trained)
        with torch.no_grad():
            registration = module(pair.fixed, pair.moving)  # creates the free parameters
            reports += level_reports(
                module, registration, pair, f"stage {number}" if stages else ""
            )
        groups = [
            {"params": list(head.parameters()), "lr": RATES.get(type(head), 0.2)}
            for network in module.modules() if isinstance(network, Network)
            for head in network.heads if any(p.requires_grad for p in head.parameters())
        ]  # fmt: skip
        optimizer = torch.optim.Adam(groups, betas=(0.9, 0.99))
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        for _ in range(steps):
            optimizer.zero_grad()
            registration = module(pair.fixed, pair.moving)
            if module.loss.reverse:
                registration = registration.with_reverse(module(pair.moving, pair.fixed))
            module.loss(registration, pair).total.backward()
            optimizer.step()
            schedule.step()
    with torch.no_grad():
        return reports, module.eval()(pair.fixed, pair.moving).transform


def attained(
    method: str,
    data: str,
    shape: tuple[int, int, int],
    seed: int,
    steps: int,
    overrides: Sequence[str] = (),
) -> Report:
    """Minimise the loss of a method in one case."""
    started = time.perf_counter()
    pair = phantom(shape, seed)
    levels, transform = minimise(
        composed([f"method={method}", f"data={data}", *overrides]), pair, steps
    )
    case = evaluate(pair, transform)
    assert case.tre_before is not None
    assert case.tre_after is not None
    seconds = time.perf_counter() - started
    return Report(
        method,
        data,
        shape,
        tuple(levels),
        float(case.tre_before.mean()),
        float(case.tre_after.mean()),
        case.folding,
        seconds,
    )


def main() -> None:
    """Parse the command line, minimise, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--method", nargs="+", default=list(SIZES), choices=list(SIZES))
    parser.add_argument("--data", help="data configuration; default that of the method's paper")
    parser.add_argument(
        "--shape",
        nargs=3,
        type=int,
        metavar=("I", "J", "K"),
        help="voxels; default those of the method's paper",
    )
    parser.add_argument("--cases", type=int, default=1, help="phantoms")
    parser.add_argument("--steps", type=int, default=120, help="of every stage")
    parser.add_argument("--json", type=Path, help="write all figures there")
    parser.add_argument(
        "overrides", nargs="*", help="of the configuration: method.loss.terms.bending.weight=0.01"
    )
    arguments = parser.parse_args()
    print(HEADER, flush=True)
    reports = []
    for method in arguments.method:
        data, shape = SIZES[method]
        shape = shape if arguments.shape is None else tuple(arguments.shape)
        for case in range(arguments.cases):
            reports.append(
                attained(
                    method,
                    arguments.data or data,
                    shape,
                    1000 + case,
                    arguments.steps,
                    arguments.overrides,
                )
            )
            print(reports[-1].row(), flush=True)
    if arguments.json:
        arguments.json.write_text(
            json.dumps([asdict(report) for report in reports], indent=1) + "\n"
        )


if __name__ == "__main__":
    main()
