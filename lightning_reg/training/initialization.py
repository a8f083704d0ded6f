"""Initialisation of a training with a model's weights."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from lightning_reg.configuration.building import build_composer
from lightning_reg.models import locate
from lightning_reg.registry import ArgumentError, Checked, TrainingError, construct, did_you_mean
from lightning_reg.registry.provenance import require_installed
from lightning_reg.training.checkpoints import read_checkpoint
from lightning_reg.training.module import RegistrationModule
from lightning_reg.training.run_folder import as_read

PARTS = ("all", "backbone", "head")


@dataclass(frozen=True)
class Initialization(Checked):
    """Weights to start from, with a new optimiser.

    Args:
        model: a name, file or address, see :func:`lightning_reg.models.locate`.
        part: ``all``; ``backbone`` or ``head`` of every network; numbers of stages, as ``[0, 1]``;
            or a prefix of the weights' names, as ``composer.network.backbone``.
        preprocessing: ``model`` uses the model's preprocessing, ``data`` that of the configuration
            (``data.preprocessing``).
    """

    model: str
    part: str | Sequence[int] = "all"
    preprocessing: Literal["model", "data"] = "model"

    def __post_init__(self) -> None:
        if not isinstance(self.model, str) or not self.model:
            raise ArgumentError(f"model is {self.model!r}; give a name, a file or an address")
        known = (
            "give all, backbone, head, numbers of stages as [0, 1], or the beginning of weights'"
            " names as composer.network.backbone"
        )
        if isinstance(self.part, str):
            if "." not in self.part and self.part not in (*PARTS, "composer"):
                raise ArgumentError(
                    f"part is '{self.part}'{did_you_mean(self.part, PARTS).rstrip('.')}; {known}"
                )
        elif (
            not isinstance(self.part, Sequence)
            or not self.part
            or not all(type(n) is int and n >= 0 for n in self.part)
        ):
            raise ArgumentError(f"part is {self.part!r}; {known}")

    def wants(self, name: str) -> bool:
        """Return whether the weight of this name is to be initialised."""
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
        settings: the initialisation.
        state: weights by name, only tensors.
        preprocessing: preprocessing of the model, plain values.
        data: identity of the data of the model's training, see
            :func:`lightning_reg.data.datasets.identity.joined`.
    """

    settings: Initialization
    state: Mapping[str, Tensor]
    preprocessing: Mapping[str, Any] = field(default_factory=dict)
    data: Mapping[str, Any] = field(default_factory=dict)

    def load(self, module: RegistrationModule) -> list[str]:
        """Copy the weights that fit into a module; return sentences that report which were copied.

        Raises:
            TrainingError: no weight fits.
        """
        own = {
            name: value
            for name, value in module.state_dict().items()
            if isinstance(value, Tensor) and self.settings.wants(name)
        }
        given = {name: value for name, value in self.state.items() if self.settings.wants(name)}
        if not isinstance(self.settings.part, str):
            there = {int(name.split(".")[2]) for name in given}
            missing = [stage for stage in self.settings.part if stage not in there]
            if missing:
                raise TrainingError(
                    f"{self.settings.model} has no stage {missing[0]}; it has"
                    f" {', '.join(map(str, sorted(there))) or 'none'}."
                )
        if not own or not given:
            names = [name for name in module.state_dict() if name.count(".") > 2]
            prefixes = sorted({name.rsplit(".", 2)[0] for name in names})
            close = difflib.get_close_matches(str(self.settings.part), prefixes, n=1, cutoff=0.3)
            remedy = (
                f"did you mean '{close[0]}'?"
                if close
                else "set `part` to all, or to a prefix of both."
            )
            raise TrainingError(
                f"{self.settings.model} and the method have no weights '{self.settings.part}' in"
                f" common; {remedy}"
            )
        fits = {
            name: value
            for name, value in given.items()
            if name in own and value.shape == own[name].shape
        }
        if not fits:
            name = next(iter(own))
            other = (
                f"{tuple(given[name].shape)} there and {tuple(own[name].shape)} here"
                if name in given
                else "not there"
            )
            raise TrainingError(
                f"No weight of {self.settings.model} fits the method ({name} is {other}); use its"
                " architecture (`method`)."
            )
        with torch.no_grad():
            for name, value in fits.items():
                own[name].copy_(value)
        lines = [f"Started from {self.settings.model}: {len(fits)} of {len(own)} weights."]
        if 2 * len(fits) < len(own):
            lines += ["Few weights fit: does the method have the model's architecture?"]
        left = [name for name in own if name not in fits]
        if left:
            lines.append(f"Missing in the model or of another size, not changed: {_listed(left)}.")
        spare = [name for name in given if name not in own]
        if spare:
            lines.append(f"Unused weights of the model: {_listed(spare)}.")
        return lines


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")


def read_source(spec: Mapping[str, Any] | str) -> Source:
    """Read the weights that a configuration's ``init`` names.

    Args:
        spec: a model's name, or ``{model, part, preprocessing}``.

    Raises:
        UserError: there is no such model, or an option is invalid.
    """
    if not isinstance(spec, (str, Mapping)):
        raise TrainingError(
            f"init is {spec!r}; give a model's name, a file, or {{model: ..., part: ...,"
            " preprocessing: ...}."
        )
    arguments = {"model": spec} if isinstance(spec, str) else dict(spec)
    settings = construct("init", Initialization, arguments)
    checkpoint = read_checkpoint(locate(settings.model).path)
    stored = checkpoint["lightning_reg"]
    require_installed(stored.get("components", []), settings.model)
    build_composer(stored["model"]["composer"])  # refuses an unknown composer
    state = {
        name: value for name, value in checkpoint["state_dict"].items() if isinstance(value, Tensor)
    }
    return Source(settings, state, stored["preprocessing"], stored.get("data", {}))


def started_from(config: Mapping[str, Any], source: Source) -> tuple[dict[str, Any], list[str]]:
    """Adapt a configuration to a start from a model; return it with sentences about the changes.

    The model's preprocessing is used, unless the source's settings keep that of the data.
    ``warm_start`` is switched off in stages whose networks get their weights from the model.

    Args:
        config: configuration of a run, plain values.
    """
    changed, notes = dict(config), []
    if source.settings.preprocessing == "model":
        own = dict(config["data"].get("preprocessing") or {})
        differs = [
            f"{key} {own[key]} to {v}"
            for key, v in source.preprocessing.items()
            if key in own and as_read(own[key]) != as_read(v)
        ]
        changed["data"] = {**config["data"], "preprocessing": {**own, **source.preprocessing}}
        if differs:
            keep = '"`init={model: ..., preprocessing: data}`"'
            notes.append(
                f"Images are preprocessed as for the model ({', '.join(differs)}); {keep} keeps"
                " the preprocessing of the data."
            )
    stages = [dict(stage) for stage in config["method"].get("stages") or []]
    given = {
        int(name.split(".")[2])
        for name in source.state
        if name.startswith("composer.networks.") and source.settings.wants(name)
    }
    warm, earlier = [], set[int]()
    for number, stage in enumerate(stages):
        trained = given if stage.get("train", "all") == "all" else set(stage["train"])
        if stage.get("warm_start") and (trained - earlier) & given:
            warm.append(number)
        earlier |= trained
    for number in warm:
        stages[number]["warm_start"] = False
    if warm:
        changed["method"] = {**config["method"], "stages": stages}
        notes.append(
            "Initialised from the model instead of the previous stage: stage"
            f" {', '.join(map(str, warm))}."
        )
    return changed, notes
