"""Values of a configuration with their meanings, from the comments of its files and the docstrings
of its components.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from lightning_reg.configuration.documentation import arguments, documentation
from lightning_reg.configuration.folders import own_directory, plugin_packages
from lightning_reg.configuration.groups import GROUPS
from lightning_reg.configuration.sources import Argument
from lightning_reg.registry.errors import ComponentError

OBJECTS = {
    "trainer": "lightning.pytorch.trainer.trainer:Trainer",
    "data": "lightning_reg.data.datamodule:RegistrationData",
    "data.cache": "lightning_reg.data.cache:CacheSettings",
    "data.preprocessing": "lightning_reg.data.preprocessing:Preprocessing",
    "data.augmentation": "lightning_reg.data.augmentation:Augmentation",
    "method.composer.stages": "lightning_reg.components.composers:Member",
    "method.stages": "lightning_reg.training.callbacks.stages:TrainingStage",
    "method.schedule": "lightning_reg.training.schedules:DecaySchedule",
    "method.sampling": "lightning_reg.data.synthetic:SyntheticDeformation",
    "method.sampling.augment": "lightning_reg.data.synthetic:RandomBSpline",
    "method.sampling.learned": "lightning_reg.data.synthetic:RandomBSpline",
}
"""Parts of a configuration that are the arguments of one class, where they do not name a component.
"""
NAMED = {
    group.key.rpartition(".")[2]: name
    for name, group in GROUPS.items()
    if group.key.startswith(("method.", "data.")) and group.key != "method.loss.terms"
}
"""Entry-point group of a component by the last word of its place in a configuration."""
MAPPINGS = {
    "method.loss.terms": "losses",
    "method.callbacks": "callbacks",
    "callbacks": "callbacks",
}
"""Places that hold components by name."""

FIELDS = {
    "name": "name of the component; lightning-reg plugins lists them.",
    "backbone": "name of the component; lightning-reg plugins lists them.",
    "head": "name of the component; lightning-reg plugins lists them.",
    "weight": "of the term in the loss.",
    "steps": "iterations.",
    "init": "scheme of the initial weights: default (PyTorch's) or xavier.",
    "seed": "of the initial weights and of everything that is drawn.",
    "batch_size": "pairs per step.",
    "root": "folder of the data.",
    "lr": "learning rate.",
    "momentum": "of SGD.",
    "betas": "of Adam: decay of its two running means.",
    "alpha_growth": "grows the network level by level; null: all of it from the first step on.",
    "plateau": (
        "{factor: 0.1, patience: 50}: the rate falls where the validation error no longer does."
    ),
    "early_stopping": (
        "{patience: 20}: ends the training where the validation error no longer falls."
    ),
    "weight_decay": "of the optimiser.",
    "nesterov": "Nesterov's momentum.",
}
"""Meanings of keys that no docstring of this project has."""


@dataclass(frozen=True)
class Value:
    """A value of a configuration.

    Args:
        key: dotted, as on the command line.
        value: in the composed configuration.
        type: annotation of the component's argument, or the type of the value.
        meaning: one sentence; empty where neither a comment nor a docstring has one.
    """

    key: str
    value: Any
    type: str
    meaning: str


def described(config: Mapping[str, Any], choices: Mapping[str, str]) -> list[Value]:
    """All values of a composed configuration.

    Args:
        config: plain values, by group.
        choices: the option chosen of each group, whose file has the comments.
    """
    comments: dict[str, str] = {}
    for file, prefix in _files(choices):
        comments |= {f"{prefix}{key}": text for key, text in _comments(file).items()}
    return [_with_comment(value, comments) for value in _walk(dict(config), "")]


def _with_comment(value: Value, comments: Mapping[str, str]) -> Value:
    place = _anywhere(value.key)
    return replace(
        value,
        meaning=value.meaning or comments.get(place) or FIELDS.get(place.rpartition(".")[2], ""),
    )


def _anywhere(key: str) -> str:
    return re.sub(r"\[\d+\]", "", key)


def _files(choices: Mapping[str, str]) -> Iterator[tuple[Path, str]]:
    """Files of the chosen options and the package of each, later ones more particular."""
    yield own_directory() / "train.yaml", ""
    yield own_directory() / "base" / "data.yaml", "data."
    for group, option in choices.items():
        for folder in (own_directory(), *plugin_packages().values()):
            file = folder / group / f"{option}.yaml"
            if file.is_file():
                yield (
                    file,
                    "" if "@package _global_" in file.read_text(encoding="utf-8") else f"{group}.",
                )
                break


@cache
def _comments(path: Path) -> dict[str, str]:
    """Comments behind the keys and values of a YAML file, by dotted key."""
    text = path.read_text(encoding="utf-8")
    lines, found = text.splitlines(), {}

    def visit(node: yaml.Node, prefix: str) -> None:
        # one line, whose comment is that of the whole
        if not isinstance(node, yaml.MappingNode) or node.flow_style:
            return
        for key, value in node.value:
            name = f"{prefix}{key.value}"
            mark = (
                key.end_mark
                if isinstance(value, yaml.CollectionNode) and not value.flow_style
                else value.end_mark
            )
            comment = (
                re.search(r"(?:^|\s)#\s*(.+)$", lines[mark.line][mark.column :])
                if mark.line == key.end_mark.line
                else None
            )
            if comment:
                found[name] = comment[1]
            visit(value, f"{name}.")

    root = yaml.compose(text)
    if root is not None:
        visit(root, "")
    return found


def options(group: str) -> dict[str, str]:
    """Options of a group of configurations, each with the sentence that its file begins with."""
    files = [
        file
        for folder in (own_directory(), *plugin_packages().values())
        for file in (folder / group).glob("*.yaml")
    ]
    return {file.stem: _heading(file) for file in sorted(files, key=lambda file: file.stem)}


def _heading(path: Path) -> str:
    """First sentence of a file's opening comment."""
    lines = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        if not line.startswith("# @package"):
            lines.append(line.lstrip("# "))
    return re.split(r"(?<! al)(?<!Med)(?<!Anal)\. ", " ".join(lines), maxsplit=1)[0].rstrip(".")


def _walk(value: Mapping[str, Any], key: str) -> Iterator[Value]:
    """Leaves below ``key``."""
    documented = _documented(value, key)
    for name, inner in value.items():
        below = f"{key}.{name}" if key else str(name)
        argument = documented.get(str(name))
        if isinstance(inner, Mapping) and (
            argument is None or _anywhere(below) in OBJECTS or name in NAMED
        ):
            yield from _walk(inner, below)
        elif (
            isinstance(inner, Sequence)
            and inner
            and all(isinstance(part, Mapping) for part in inner)
        ):
            for number, part in enumerate(inner):
                yield from _walk(part, f"{below}[{number}]")
        else:
            yield Value(below, inner, _type(argument, inner), argument.meaning if argument else "")


def named(config: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Entry-point group and name of every component that a composed configuration names, but for
    terms of weight 0.
    """
    yield from _named(config, "")


def _named(value: Any, key: str) -> Iterator[tuple[str, str]]:
    place = _anywhere(key)
    parent, _, last = place.rpartition(".")
    if parent in MAPPINGS:
        left_out = (
            value is None
            if MAPPINGS[parent] == "callbacks"
            else (value.get("weight") if isinstance(value, Mapping) else value) == 0
        )
        if not left_out:
            yield (
                MAPPINGS[parent],
                str(value.get("name", last)) if isinstance(value, Mapping) else last,
            )
        return
    group = NAMED.get(last) if place.startswith(("method.", "data.")) else None
    name = value.get("name") if isinstance(value, Mapping) else value
    if group is not None and isinstance(name, str):
        yield group, name
    if isinstance(value, Mapping):
        for below, inner in value.items():
            yield from _named(inner, f"{key}.{below}".strip("."))
    elif isinstance(value, (list, tuple)):
        for inner in value:
            yield from _named(inner, key)


def _type(argument: Argument | None, value: Any) -> str:
    if argument is not None and argument.type:
        return argument.type
    return "" if value is None else type(value).__name__


def _documented(value: Mapping[str, Any], key: str) -> dict[str, Argument]:
    """Arguments of the class whose values these are; none where it is no component, or one that
    cannot be read.
    """
    place = _anywhere(key)
    found = {a.name: a for a in arguments(OBJECTS[place])} if place in OBJECTS else {}
    parent, _, last = place.rpartition(".")
    group, name = (
        (MAPPINGS[parent], value.get("name", last))
        if parent in MAPPINGS
        else (NAMED.get(last), value.get("name"))
    )
    if group is None or not isinstance(name, str):
        return found
    try:
        return found | {a.name: a for a in documentation(group, name).arguments}
    except ComponentError:  # lightning-reg plugins says what is wrong with it
        return found
