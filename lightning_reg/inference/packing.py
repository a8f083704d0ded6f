"""Packaging of a trained model for pip: weights, card, and package files."""

from __future__ import annotations

import io
import json
import re
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import jinja2
import torch
from packaging.licenses import InvalidLicenseExpression, canonicalize_license_expression
from torch import Tensor

from lightning_reg import __version__
from lightning_reg.configuration.sources import REQUIRED
from lightning_reg.data.datasets.identity import held_out_but_seen, keep_splits, trained_images
from lightning_reg.io.folders import reported, write_whole
from lightning_reg.io.reading import as_yaml
from lightning_reg.metrics import evaluate, totals
from lightning_reg.metrics.table import heading
from lightning_reg.models import Card, write_card
from lightning_reg.models.card import CARD
from lightning_reg.models.locate import WEIGHTS
from lightning_reg.registry import ArgumentError, UserError, providers
from lightning_reg.registry.entries import OWN
from lightning_reg.spatial import Pair
from lightning_reg.training.building import build_data
from lightning_reg.training.checkpoints import read_checkpoint
from lightning_reg.training.module import RegistrationModule
from lightning_reg.training.run_folder import read_config, with_root

TOLERANCE = 0.1
"""Largest change of a displacement, voxels, for which weights are stored in half precision."""
PAIRS = 4
"""Number of validation pairs on which the change is measured."""
TO_WRITE = "TO BE WRITTEN"


@dataclass(frozen=True)
class Packed:
    """A package: the model's name, its card, the card's path, the size of the weights file, and the
    card's entries still to be written.
    """

    name: str
    card: Card
    path: Path
    bytes: int
    missing: list[str]


def pack(
    run: Path,
    out: Path,
    *,
    licence: str,
    checkpoint: str = "best",
    title: str | None = None,
    data: str | None = None,
    not_for: str | None = None,
    training: str | None = None,
    citation: str = "",
    name: str | None = None,
) -> Packed:
    """Write a package that makes the model available after ``pip install``.

    Weights are stored in half precision if this changes no displacement by more than
    :data:`TOLERANCE` voxels on the first :data:`PAIRS` validation pairs of the run.

    Args:
        run: folder of a finished training.
        out: new folder for the package; its last part is the package's name, as ``my_model``.
        licence: licence of the weights, an SPDX expression such as ``CC-BY-SA-4.0``; a model
            needs one.
        checkpoint: ``best`` or ``last``.
        title: images that the model registers, in one line. A missing title is marked in the card
            as to be written, and so are missing ``data`` and ``not_for``.
        data: training data: source, subjects, modality.
        not_for: limits of use.
        training: command that trains the model; default: with the configuration in the package.
        citation: citation of data and methods.
        name: name of the model; default: the package's.

    Raises:
        UserError: the run is not finished, its data are missing, the folder exists or cannot be
            written, or its name cannot be that of a package.
    """
    package_name = out.name.replace("-", "_").lower()
    name = package_name if name is None else name
    title, data, not_for = (
        None if text is None else " ".join(text.split()) for text in (title, data, not_for)
    )
    try:
        licence = canonicalize_license_expression(licence)
    except InvalidLicenseExpression as cause:
        raise UserError(
            f"'{licence}' is no SPDX expression; write one, as CC-BY-4.0, or LicenseRef-My-Licence"
            " for your own."
        ) from cause
    for word, what in ((package_name, "package; end `out` in"), (name, "model; use")):
        if not re.fullmatch(r"[a-z][a-z0-9]*(_[a-z0-9]+)*", word):
            raise UserError(
                f"{word} cannot be the name of a {what} small letters, digits and _, as my_model."
            )
    ours = {
        provider.target.partition(".")[0]
        for offered in providers("models").values()
        for provider in offered
    }
    if package_name not in ours and find_spec(package_name) is not None:
        raise UserError(
            f"A package '{package_name}' is installed, which this one would replace; end `out` in"
            " another name."
        )
    if out.exists():
        raise UserError(f"{out} exists; choose another folder.")
    if run.suffix == ".ckpt":
        raise UserError(
            f"{run} is a checkpoint; give the run's folder, and `checkpoint` best or last."
        )
    if checkpoint not in ("best", "last"):
        raise ArgumentError(f"checkpoint is '{checkpoint}'; give best or last")
    config, path = read_config(run), run / "checkpoints" / f"{checkpoint}.ckpt"
    if not path.is_file():
        raise UserError(
            f"The run in {run} has no {path.name}; give `checkpoint`"
            f" {'last' if checkpoint == 'best' else 'best'}, or train it to its end."
        )
    stored = read_checkpoint(path)
    module = RegistrationModule.load_from_checkpoint(path).eval()
    pairs = _pairs(config, module.identity)
    state, told = _weights(module, stored["state_dict"], pairs[:PAIRS])
    module.load_state_dict(state)
    began = " except that of the model from which it started"
    seen = began if held_out_but_seen(module.identity) else ""
    described = {"title": title, "data": data, "not_for": not_for}
    card = Card(
        title=title or f"{name.replace('_', ' ')}: {TO_WRITE}",
        data=data or f"{TO_WRITE}: source, number of subjects, modality, licence",
        licence=licence,
        training=training or _command(config),
        accuracy={
            "on": f"On {len(pairs)} validation pairs, not used for training{seen}",
            **_accuracy(module, pairs),
        },
        not_for=not_for or f"{TO_WRITE}; not for clinical use",
        parameters=sum(p.numel() for p in module.parameters()),
        weights=told,
        components=module.components(),
        citation=" ".join(citation.split()),
    )
    with reported(f"{out} could not be written", "nothing was left behind"):
        out.parent.mkdir(parents=True, exist_ok=True)
        # the folder appears only if everything succeeds
        with tempfile.TemporaryDirectory(prefix=f".{out.name}-", dir=out.parent) as place:
            package = Path(place) / "package" / "src" / package_name
            package.mkdir(parents=True)
            content = io.BytesIO()  # a full disk is then an OSError
            anonymous = {"source": sorted(trained_images(module.identity))}  # no subjects' names
            described_by = {**stored["lightning_reg"], "data": anonymous}
            torch.save({"state_dict": state, "lightning_reg": described_by}, content)
            write_whole(package / WEIGHTS, content.getbuffer())
            write_card(card, package / CARD)
            (package / "training.yaml").write_text(as_yaml(portable(config)), encoding="utf-8")
            _write_texts(Path(place) / "package", package, name, card)
            (Path(place) / "package").rename(out)
    package = out / "src" / package_name
    missing = [key for key, value in described.items() if not value]
    return Packed(name, card, package / CARD, (package / WEIGHTS).stat().st_size, missing)


def _pairs(config: Mapping[str, Any], known: Mapping[str, Any]) -> list[Pair]:
    data = build_data(config)
    keep_splits(data.data, known)
    data.setup()
    return list(data.validation_pairs)


@torch.no_grad()
def _accuracy(module: RegistrationModule, pairs: list[Pair]) -> dict[str, float]:
    """Means over the pairs, rounded to four digits, by title of the metric."""
    found = totals([evaluate(pair, module(pair.fixed, pair.moving).transform) for pair in pairs])
    return {heading(key): float(f"{value:.4g}") for key, value in found.items()}


@torch.no_grad()
def _weights(
    module: RegistrationModule, state: Mapping[str, Any], pairs: list[Pair]
) -> tuple[dict[str, Any], str]:
    """The weights, in half precision within :data:`TOLERANCE`, and a note on it."""
    halved = {
        key: value.half() if isinstance(value, Tensor) and value.is_floating_point() else value
        for key, value in state.items()
    }

    def displacements() -> list[Tensor]:
        found = [module(pair.fixed, pair.moving).transform for pair in pairs]
        return [one.displacement(pair.fixed.grid) for one, pair in zip(found, pairs, strict=True)]

    before = displacements()
    module.load_state_dict(halved)
    after = displacements()
    module.load_state_dict(dict(state))
    change = max(float((a - b).abs().max()) for a, b in zip(before, after, strict=True))
    if not change <= TOLERANCE:
        note = f"float32 (float16 would change displacements by up to {change:.2g} voxels)"
        return dict(state), note
    on = f"float16, which changes no displacement on {len(pairs)} validation pairs by more than"
    return halved, f"{on} {change:.2g} voxels"


def _write_texts(out: Path, package: Path, name: str, card: Card) -> None:
    """Write ``pyproject.toml``, ``README.md`` and ``__init__.py``."""
    others = {c["distribution"]: c["version"] for c in card.components if c["distribution"] != OWN}
    context = {
        "name": name, "package": package.name, "distribution": package.name.replace("_", "-"),
        "card": card, "version": __version__,
        "summary": json.dumps(card.title, ensure_ascii=False),
        "others": [f"{key}=={value}" for key, value in others.items()],
    }  # fmt: skip
    blocks: dict[str, Any] = {
        "trim_blocks": True,
        "lstrip_blocks": True,
        "keep_trailing_newline": True,
    }
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, **blocks)
    templates = files("lightning_reg.models") / "templates"
    for file in ("pyproject.toml", "README.md"):
        template = (templates / f"{file}.jinja").read_text(encoding="utf-8")
        text = environment.from_string(template).render(context)
        (out / file).write_text(text, encoding="utf-8")
    text = '"""A trained model of lightning_reg; card.yaml describes it."""\n'
    (package / "__init__.py").write_text(text, encoding="utf-8")


def portable(config: Mapping[str, Any]) -> dict[str, Any]:
    """A run's configuration without paths; ``data.root`` becomes a required value."""
    kept = with_root(config, "${data.root}")
    root = {} if config["data"].get("root") is None else {"root": REQUIRED}
    return {**kept, "data": {**kept["data"], **root}, "run": None, "resume": None, "init": None}


def _command(config: Mapping[str, Any]) -> str:
    """Command line that trains the same method from the configuration in the package."""
    root = " data.root=FOLDER" if config["data"].get("root") is not None else ""
    begun = "; it started from another model's weights" if config.get("init") is not None else ""
    return (
        f"lightning-reg train --config-path PACKAGE --config-name training{root}   # lightning-reg"
        f" {__version__}{begun}"
    )
