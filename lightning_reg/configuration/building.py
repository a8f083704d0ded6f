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
from typing import Any, get_args

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
    annotations_of,
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
KINDS: dict[type, str] = {
    Backbone: "backbones",
    Head: "heads",
    Composer: "composers",
    LossTerm: "losses",
}
"""Entry-point group of every interface that an annotation can name."""
PARTS = (Network, Member)
"""Classes that are built from their arguments alone, without a name."""
IN_YAML = {"network": "", "heads": ".head", "members": ".stages"}
"""Where a specification has the parts that a constructor calls otherwise."""
OF_A_NETWORK = ("backbone", "head", "init")
SUPPLIED = ("channels", "strides", "aspect")
"""Arguments of a head, which are those of its backbone and in no specification."""


def build_composer(spec: Spec, place: str = "composer") -> Composer:
    """Build a composer with its networks from ``{name, ...}``.

    Args:
        place: of the specification, with which messages begin.

    Raises:
        ComponentError: a part is missing, unknown, or refused by its constructor.
    """
    composer: Composer = built(Composer, spec, place)
    return composer


def built(kind: type, spec: Any, place: str, siblings: Sequence[object] = ()) -> Any:
    """Build an object from its specification, as the annotations of its constructor say.

    An argument whose annotation names a kind of component, or a sequence of them, is built first.
    A required argument that is not given, or one of :data:`SUPPLIED`, is the attribute of that name
    of an object built before for the same constructor: a head's ``channels`` and ``strides`` are
    those of its backbone.

    Args:
        kind: one of :data:`KINDS`, which the specification names, or of :data:`PARTS`.
        place: of the specification, with which messages begin.
        siblings: objects built before.

    Raises:
        ComponentError: as :func:`build_composer`.
    """
    cls: Any
    cls, arguments = _class_of(kind, spec, place)
    arguments = _in_full(cls, arguments, place)
    parts: dict[str, Any] = {}
    for key, hint in annotations_of(cls).items():
        inner = _component(hint)
        if inner is not None and key in arguments:
            given, made = arguments.pop(key), tuple(parts.values())
            at = f"{place}{IN_YAML.get(key, f'.{key}')}"
            parts[key] = (
                [built(inner, one, f"{at}[{n}]", made) for n, one in enumerate(given)]
                if isinstance(given, list)
                else built(inner, given, at, made)
            )
    for key, parameter in inspect.signature(cls).parameters.items():
        wanted = parameter.default is parameter.empty or key in SUPPLIED
        if wanted and key not in (*arguments, *parts):
            for one in siblings:
                if hasattr(one, key):
                    parts[key] = getattr(one, key)
    if kind not in KINDS:
        return construct(place, cls, arguments, **parts)
    made = build(KINDS[kind], {"name": spec_name(spec), **arguments}, kind, place, **parts)
    if isinstance(made, Backbone):
        require_backbone(made)  # before a head is made for it
    return made


def spec_name(spec: Any) -> Any:
    """Name that a specification gives, as text or under ``name``; ``None`` without one."""
    return spec.get("name") if isinstance(spec, Mapping) else spec


def _class_of(kind: type, spec: Any, place: str) -> tuple[type, dict[str, Any]]:
    """The class that a specification is about, and its arguments."""
    arguments = dict(spec) if isinstance(spec, Mapping) else {}
    if kind in KINDS:
        name = spec_name(spec)
        if not isinstance(name, str):
            build(KINDS[kind], spec, kind)  # raises the error
        arguments.pop("name", None)
        return load(KINDS[kind], name, kind), arguments
    if not isinstance(spec, Mapping):
        raise ComponentError(f"{place} is {spec!r}, where 'backbone: ..., head: ...' are meant.")
    return kind, arguments


def _component(hint: Any) -> type | None:
    """The kind of component in an annotation, as ``Head`` in ``Head | Sequence[Head]``."""
    if hint in KINDS or hint in PARTS:
        return hint
    return next((kind for one in get_args(hint) if (kind := _component(one))), None)


def _in_full(cls: type, arguments: dict[str, Any], place: str) -> dict[str, Any]:
    """Write out the short forms of a specification.

    A composer's network may be given beside its other arguments, also where it has one per stride;
    ``stages`` are its members, each a network with its placement, and share an ``init``.
    """
    parameters = inspect.signature(cls).parameters

    def network(beside: dict[str, Any]) -> dict[str, Any]:
        return {part: beside.pop(part) for part in OF_A_NETWORK if part in beside}

    if cls is Network:
        require_known_arguments(place, arguments, OF_A_NETWORK)
        for part in ("backbone", "head"):
            if part not in arguments:
                raise ComponentError(
                    f"'{place}' needs an argument '{part}'; add '{part}: ...' to its configuration."
                )
        heads = arguments.pop("head")
        arguments["heads"] = list(heads) if isinstance(heads, tuple) else heads
    elif "network" in parameters and cls is not Member:
        arguments.setdefault("network", network(arguments))
    elif "networks" in parameters and "networks" not in arguments:
        default = parameters["strides"].default if "strides" in parameters else ()
        count = len(arguments.get("strides", default))
        arguments["networks"] = [network(arguments)] * count
    elif "members" in parameters:
        stages, common = arguments.pop("stages", None), network(arguments)
        if isinstance(stages, (str, Mapping)) or not isinstance(stages, Sequence):
            given = "is missing" if stages is None else f"is {stages!r}"
            raise ComponentError(
                f"'{place}' needs a list 'stages' of 'backbone, head, stride, patch' (it {given})."
            )
        arguments["members"] = []
        for number, stage in enumerate(stages):
            if not isinstance(stage, Mapping):
                raise ComponentError(
                    f"'{place}.stages[{number}]' is {stage!r}, where 'key: value' pairs are meant."
                )
            known = (*OF_A_NETWORK, "stride", "patch")
            require_known_arguments(f"{place}.stages[{number}]", stage, known)
            placed = {key: value for key, value in stage.items() if value is not None}
            arguments["members"].append({"network": common | network(placed), **placed})
    return arguments


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
    group = next(group for interface, group in KINDS.items() if isinstance(component, interface))
    return {"name": registered_name(type(component), group)} | _arguments(component)


def provenance(*modules: nn.Module) -> list[dict[str, str]]:
    """Return ``{group, name, distribution, version}`` of every component in these modules, each
    class once.

    Raises:
        ComponentError: a class that no installed distribution registers.
    """
    found: dict[type, dict[str, str]] = {}
    for part in (part for module in modules for part in module.modules()):
        group = next(
            (group for interface, group in KINDS.items() if isinstance(part, interface)), None
        )
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
