"""Start of a training from a model's weights."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from lightning_reg.components.building import build_composer
from lightning_reg.discovery import ArgumentError, TrainingError, construct
from lightning_reg.discovery.provenance import require_installed
from lightning_reg.models import locate
from lightning_reg.training.checkpoints import read_checkpoint
from lightning_reg.training.module import RegistrationModule

PARTS = ("all", "backbone", "head")


@dataclass(frozen=True)
class Initialization:
    """Weights to start from, with a fresh optimiser.

    Args:
        model: a name, file or address, see :func:`lightning_reg.models.locate`.
        part: ``all``; ``backbone`` or ``head`` of every network; numbers of stages, as ``[0, 1]``; or a prefix of the weights' names, as
            ``composer.network.backbone``.
        preprocessing: of the images: ``model``, as the weights expect them, or ``data``, as ``data.preprocessing`` says.
    """

    model: str
    part: str | Sequence[int] = "all"
    preprocessing: str = "model"

    def __post_init__(self) -> None:
        if self.preprocessing not in ("model", "data"):
            raise ArgumentError(f"preprocessing is '{self.preprocessing}'; give model or data")
        if not isinstance(self.part, str) and not all(isinstance(stage, int) and stage >= 0 for stage in self.part):
            raise ArgumentError(f"part is {list(self.part)}; give all, backbone, head, numbers of stages, or a prefix")

    def wants(self, name: str) -> bool:
        """Whether a weight of this name is among those to start from."""
        words = name.split(".")
        if self.part == "all":
            return words[0] == "composer"
        if self.part == "backbone":
            return "backbone" in words
        if self.part == "head":
            return "heads" in words
        if isinstance(self.part, str):
            return name == self.part or name.startswith(f"{self.part}.")
        return words[:2] == ["composer", "networks"] and int(words[2]) in self.part


@dataclass(frozen=True)
class Source:
    """A model's weights and preprocessing, read once.

    Args:
        settings: of the start.
        state: weights by name; tensors alone.
        preprocessing: as plain values.
    """

    settings: Initialization
    state: Mapping[str, Tensor]
    preprocessing: Mapping[str, Any] = field(default_factory=dict)

    def load(self, module: RegistrationModule) -> list[str]:
        """Put the weights that fit into a module; sentences that say what fitted and what did not.

        Raises:
            TrainingError: none fits.
        """
        own = {name: value for name, value in module.state_dict().items() if isinstance(value, Tensor) and self.settings.wants(name)}
        given = {name: value for name, value in self.state.items() if self.settings.wants(name)}
        if not own or not given:
            prefixes = sorted({name.rpartition(".")[0].rpartition(".")[0] for name in module.state_dict() if name.count(".") > 2})
            close = difflib.get_close_matches(str(self.settings.part), prefixes, n=1, cutoff=0.3)
            raise TrainingError(
                f"{self.settings.model} and the method have no weights '{self.settings.part}' in common"
                + (f"; did you mean '{close[0]}'?" if close else "; set init.part to all, or to a prefix of both.")
            )
        fits = {name: value for name, value in given.items() if name in own and value.shape == own[name].shape}
        if not fits:
            name = next(iter(own))
            other = f"{tuple(given[name].shape)} there and {tuple(own[name].shape)} here" if name in given else "not there"
            raise TrainingError(
                f"No weight of {self.settings.model} fits the method ({name} is {other}); use its architecture (method=...)."
            )
        with torch.no_grad():
            for name, value in fits.items():
                own[name].copy_(value)
        lines = [f"Started from {self.settings.model}: {len(fits)} of {len(own)} weights."]
        left = [name for name in own if name not in fits]
        lines += [f"Not there, or of another size, and left as they were: {_listed(left)}."] if left else []
        spare = [name for name in given if name not in own]
        lines += [f"Of the model and not used: {_listed(spare)}."] if spare else []
        return lines


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")


def read_source(spec: Mapping[str, Any] | str) -> Source:
    """The weights that a configuration's ``init`` names.

    Args:
        spec: a model's name, or ``{model, part, preprocessing}``.

    Raises:
        UserError: no such model, or an option is not what it can be.
    """
    arguments = {"model": spec} if isinstance(spec, str) else dict(spec)
    settings = construct("init", Initialization, arguments)
    located = locate(settings.model)
    checkpoint = read_checkpoint(located.path)
    stored = checkpoint["lightning_reg"]
    require_installed(stored.get("components", []), settings.model)
    build_composer(stored["model"]["composer"])  # refuses what cannot be understood here
    state = {name: value for name, value in checkpoint["state_dict"].items() if isinstance(value, Tensor)}
    return Source(settings, state, stored["preprocessing"])


def with_preprocessing(config: Mapping[str, Any], source: Source) -> tuple[dict[str, Any], list[str]]:
    """A configuration whose images are prepared as the model's were, and a sentence that says what that changes.

    Args:
        config: of a run, plain values.
        source: whose settings may say that the data's own preprocessing stays.
    """
    if source.settings.preprocessing == "data":
        return dict(config), []
    own = dict(config["data"].get("preprocessing") or {})
    changed = [
        f"{key} {own[key]} to {value}" for key, value in source.preprocessing.items() if key in own and _plain(own[key]) != _plain(value)
    ]
    data = {**config["data"], "preprocessing": {**own, **source.preprocessing}}
    told = [f"Images are prepared as the model's were ({', '.join(changed)}); init.preprocessing=data keeps data.preprocessing."]
    return {**config, "data": data}, told if changed else []


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, (list, tuple)) else value
