"""Conversion of specifications to components and back.

A specification describes a component by plain values, in a configuration or a checkpoint: its name
and the arguments of its constructor, ``{name: unet, levels: 4}``, or the name alone. If an argument
is itself a component, the specification of that component is given:

    composer:
      name: single
      backbone: {name: unet}
      head: {name: velocity}
      symmetric: true

A constructor's argument ``network`` is given by its backbone, head (or a list of them) and init.
``networks`` (one per entry of ``strides``) are given in the same way if they are alike, otherwise
as a list of ``{backbone, head, init}``. ``members`` are given as a list ``stages`` of
``{backbone, head, stride, patch}``.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from torch import nn

from lightning_reg.components.composers import Member
from lightning_reg.components.contracts import require_backbone
from lightning_reg.components.interfaces import Backbone, Composer, Head, LossTerm
from lightning_reg.components.losses.bundle import LossBundle
from lightning_reg.components.network import Network
from lightning_reg.registry import (
    ComponentError,
    Described,
    arguments_of,
    build,
    construct,
    load,
    registered_name,
    registration,
    require_known_arguments,
)
from lightning_reg.registry.provenance import entry

Spec = Mapping[str, Any] | str
SUPPLIED = ("channels", "strides")
"""Arguments of a head that are taken from the backbone of its network."""
OF_A_NETWORK = ("backbone", "head", "init")
GROUP_OF: tuple[tuple[type, str], ...] = (
    (Backbone, "backbones"),
    (Head, "heads"),
    (Composer, "composers"),
    (LossTerm, "losses"),
)


def build_network(spec: Mapping[str, Any], name: str = "network") -> Network:
    """Build a network from ``{backbone, head, init}``.

    Raises:
        ComponentError: a part is missing, unknown, or refused by its constructor; the message names
            ``name``.
    """
    if not isinstance(spec, Mapping):
        raise ComponentError(f"'{name}' is {spec!r}, where 'backbone: ..., head: ...' are meant.")
    require_known_arguments(name, spec, OF_A_NETWORK)
    for part in ("backbone", "head"):
        if part not in spec:
            raise ComponentError(
                f"'{name}' needs an argument '{part}'; add '{part}: ...' to its configuration."
            )
    backbone = build("backbones", spec["backbone"], Backbone)
    require_backbone(backbone)  # before a head is made for it
    heads = [spec["head"]] if isinstance(spec["head"], (str, Mapping)) else spec["head"]
    if not isinstance(heads, Sequence):
        raise ComponentError(
            f"The head of '{name}' is {heads!r}, where a name or 'name: ..., key: value' pairs are"
            " meant."
        )
    supplied = {key: getattr(backbone, key) for key in SUPPLIED if hasattr(backbone, key)}
    made = [build("heads", head, Head, **supplied) for head in heads]
    return construct(
        name, Network, {"init": spec.get("init", "default")}, backbone=backbone, heads=made
    )


def build_composer(spec: Spec) -> Composer:
    """Build a composer with its networks from ``{name, ...}``.

    Raises:
        ComponentError: as :func:`build_network`.
    """
    arguments = (
        {"name": spec} if isinstance(spec, str) else dict(spec) if isinstance(spec, Mapping) else {}
    )
    if not isinstance(arguments.get("name"), str):
        return build("composers", spec, Composer)  # raises the error
    name = arguments["name"]
    declared = inspect.signature(load("composers", name, Composer)).parameters
    supplied: dict[str, Any] = {}
    if "network" in declared:
        supplied["network"] = build_network(_taken(arguments, "network", name), name)
    if "networks" in declared:
        strides = arguments.get(
            "strides", declared["strides"].default if "strides" in declared else ()
        )
        given = arguments.pop("networks", None)
        specs = [_taken(arguments, "network", name)] * len(strides) if given is None else given
        supplied["networks"] = [
            build_network(each, f"{name}, network {number}") for number, each in enumerate(specs)
        ]
    if "members" in declared:
        supplied["members"] = _members(arguments, name)
    own = [key for key in declared if key not in supplied]
    require_known_arguments(
        name,
        arguments,
        ["name", *own],
        [*(() if "members" in supplied else OF_A_NETWORK), *own] if supplied else own,
    )
    return build("composers", arguments, Composer, **supplied)


def _taken(arguments: dict[str, Any], key: str, name: str) -> Mapping[str, Any]:
    """Remove the network's specification from a composer's arguments and return it; it has its own
    key, or is given beside the others.
    """
    if key in arguments:
        return arguments.pop(key)
    return {part: arguments.pop(part) for part in OF_A_NETWORK if part in arguments}


def _members(arguments: dict[str, Any], name: str) -> list[Member]:
    stages, common = (
        arguments.pop("stages", None),
        {key: arguments.pop(key) for key in ("init",) if key in arguments},
    )
    if isinstance(stages, (str, Mapping)) or not isinstance(stages, Sequence):
        given = "is missing" if stages is None else f"is {stages!r}"
        raise ComponentError(
            f"'{name}' needs a list 'stages' of 'backbone, head, stride, patch' (it {given})."
        )
    members = []
    for number, stage in enumerate(stages):
        if not isinstance(stage, Mapping):
            raise ComponentError(
                f"'stage {number}' is {stage!r}, where 'key: value' pairs are meant."
            )
        require_known_arguments(f"stage {number}", stage, [*OF_A_NETWORK, "stride", "patch"])
        network = build_network(
            common | {key: stage[key] for key in OF_A_NETWORK if key in stage}, f"stage {number}"
        )
        placed = {key: stage[key] for key in ("stride", "patch") if stage.get(key) is not None}
        members.append(construct(f"stage {number}", Member, placed, network=network))
    return members


def build_loss(spec: Mapping[str, Any], name: str = "method.loss") -> LossBundle:
    """Build a loss bundle from ``{terms: {name: {weight, **arguments}}, level_weights}``.

    The key of a term is its entry-point name, unless the term has a ``name`` of its own (for two
    terms of one class).

    Raises:
        ComponentError: see :class:`LossBundle`; or a term is unknown or refuses an argument.
    """
    rest = dict(spec)
    terms = rest.pop("terms", None)
    if terms and not isinstance(terms, Mapping):
        raise ComponentError(
            f"{name}.terms is {terms!r}, where 'name: weight and arguments' are meant."
        )
    made: dict[str, tuple[float, LossTerm]] = {}
    skipped = 0
    for key, own in _separated(terms or {}).items():
        weight = own.pop("weight", 1.0)
        if weight == 0 and not isinstance(weight, bool):
            skipped += 1  # a term that is switched off may lack what it needs
            continue
        made[key] = (weight, build("losses", {"name": key, **own}, LossTerm))
    if skipped and not made:
        raise ComponentError(
            f"Every term of the loss has weight 0; give one of {name}.terms another weight."
        )
    return construct(name, LossBundle, rest, terms=made)


def _separated(terms: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Terms and their arguments. ``predicted`` of ``label_dice``, in configurations and checkpoints
    before 0.3, becomes the term ``segmentation``, of ``predicted`` times the term's weight.
    """
    made = {key: dict(arguments or {}) for key, arguments in terms.items()}
    for key, own in list(made.items()):
        if own.get("name", key) == "label_dice" and isinstance(own.get("predicted"), (int, float)):
            weight = own.pop("predicted") * own.get("weight", 1.0)
            name = "segmentation" if key == "label_dice" else f"{key}_segmentation"
            made[name] = {"name": "segmentation", "weight": weight}
    return made


def describe(component: Described) -> Any:
    """Return the specification of a component: plain values from which the functions above build it
    again.

    Raises:
        ComponentError: a class that no installed distribution registers, or an argument that is
            neither a component nor a plain value.
    """
    if isinstance(component, Network):
        arguments = arguments_of(component)
        heads = [describe(head) for head in component.heads]  # type: ignore[arg-type]
        described = {
            "backbone": describe(component.backbone),
            "head": heads[0] if len(heads) == 1 else heads,
        }
        return described | {"init": arguments["init"]}
    if isinstance(component, Member):
        placed = {key: value for key, value in arguments_of(component).items() if key != "network"}
        return describe(component.network) | plain(placed, "a member of a composer")
    if isinstance(component, LossBundle):
        terms = {}
        for name, term in component.terms.items():
            assert isinstance(term, LossTerm)
            made = describe(term)
            own = made.pop("name")
            terms[name] = (
                {"weight": component.weights[name]} | ({} if own == name else {"name": own}) | made
            )
        weights = component.level_weights
        return {"terms": terms} | (
            {} if weights is None else {"level_weights": [float(w) for w in weights]}
        )
    group = next(group for interface, group in GROUP_OF if isinstance(component, interface))
    return {"name": registered_name(type(component), group)} | _arguments(component)


def provenance(*modules: nn.Module) -> list[dict[str, str]]:
    """Return ``{group, name, distribution, version}`` of every component in these modules, each
    class once.

    Raises:
        ComponentError: a class that no installed distribution registers.
    """
    found: dict[type, dict[str, str]] = {}
    for part in (part for module in modules for part in module.modules()):
        group = next((group for interface, group in GROUP_OF if isinstance(part, interface)), None)
        if group is not None and type(part) not in found:
            found[type(part)] = entry(group, registration(type(part), group))
    return list(found.values())


def _arguments(component: Described) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in arguments_of(component).items():
        if isinstance(component, Head) and key in SUPPLIED:
            continue
        if key == "members":
            made = [member if isinstance(member, Member) else Member(member) for member in value]
            found["stages"] = [describe(member) for member in made]
        else:
            found[key] = plain(value, type(component).__name__)
    return found


def without_numpy(value: Any) -> Any:
    """Convert NumPy values to Python numbers and lists, also inside lists and mappings."""
    if isinstance(value, (np.generic, np.ndarray)):
        return value.tolist()
    if isinstance(value, Mapping):
        return {key: without_numpy(inner) for key, inner in value.items()}
    return (
        type(value)(without_numpy(inner) for inner in value)
        if type(value) in (list, tuple)
        else value
    )


def plain(value: Any, owner: str) -> Any:
    """Convert a value to plain values; components become their specifications.

    Args:
        owner: name of the value's owner, for the message.

    Raises:
        ComponentError: the value is neither plain nor a component.
    """
    value = without_numpy(value)
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, Described):
        return describe(value)
    if isinstance(value, Mapping):
        return {str(key): plain(inner, owner) for key, inner in value.items()}
    if isinstance(value, (Sequence, nn.ModuleList)):
        return [plain(inner, owner) for inner in value]
    raise ComponentError(
        f"{owner} was made from {type(value).__name__}, which a checkpoint cannot hold; give its"
        " constructor numbers, words, lists of them, or components."
    )
