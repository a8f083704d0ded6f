"""Objects built from their specifications.

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
``{backbone, head, stride, patch}``. The terms of a loss are given by name, ``{lncc: {weight: 0.5,
window: 9}}`` or, with a weight alone, ``{lncc: 0.5}``; the arguments of a deformation beside those
of its sampler.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, get_args, get_origin

import torch
from torch import nn
from torch.optim import Optimizer

from lightning_reg.components.composers import Member
from lightning_reg.components.contracts import require_backbone
from lightning_reg.components.interfaces import Backbone, Composer, LossTerm
from lightning_reg.components.losses.bundle import LossBundle
from lightning_reg.components.network import Network
from lightning_reg.configuration.groups import group_of
from lightning_reg.registry import (
    Checked,
    ComponentError,
    annotations_of,
    build,
    construct,
    load,
    require_known_arguments,
)

Spec = Mapping[str, Any] | str
PLAIN = (str, int, float, Mapping, Sequence, type(None))
"""Types of specifications; every other value is an object, which is taken as it is."""
IN_YAML = {"network": "", "heads": ".head", "members": ".stages", "deformation": ""}
"""Places in a specification of the parts that a constructor calls otherwise."""
OF_A_NETWORK = ("backbone", "head", "init")
DEFAULTS = {"optimizers": None, "schedules": "decay", "samplers": "synthetic"}
"""Groups in whose specifications ``null`` stands for a class's own default, and the name that a
specification without one means.
"""


def build_composer(spec: Spec, place: str = "composer") -> Composer:
    """Build a composer with its networks from ``{name, ...}``.

    Args:
        place: of the specification, with which messages begin.

    Raises:
        ComponentError: a part is missing, unknown, or refused by its constructor.
    """
    composer: Composer = built(Composer, spec, place)
    return composer


def build_loss(spec: Mapping[str, Any], place: str = "loss") -> LossBundle:
    """Build a loss bundle from ``{terms: {name: {weight, **arguments}}, level_weights}``, or from
    its terms alone.

    The key of a term is its entry-point name, unless the term has a ``name`` of its own (for two
    terms of one class). A number stands for a term with this weight.

    Raises:
        ComponentError: see :class:`LossBundle`; or a term is unknown or refuses an argument.
    """
    loss: LossBundle = built(LossBundle, spec, place)
    return loss


def built(
    kind: type, spec: Any, place: str, siblings: Sequence[object] = (), /, **supplied: Any
) -> Any:
    """Build an object from its specification, as the annotations of its constructor say.

    An argument whose annotation names a kind of object, a sequence of them, or a function that
    returns one, is built first. A required argument that is not given, or one that the framework
    supplies, is the attribute of that name
    of an object built before for the same constructor: a head's ``channels`` and ``strides`` are
    those of its backbone.

    Args:
        kind: the interface of a group of components, of which the specification names one; or the
            class itself.
        place: of the specification, with which messages begin.
        siblings: objects built before.
        supplied: arguments that are in no specification.

    Raises:
        ComponentError: as :func:`build_composer`.
    """
    if not isinstance(spec, PLAIN):
        return spec
    cls, name, arguments = _class_of(kind, spec, place)
    arguments, parts = _parts(cls, arguments, place)
    parts |= supplied
    group = group_of(kind)
    of_others = () if group is None else group.supplied
    for key, parameter in inspect.signature(cls).parameters.items():
        wanted = parameter.default is parameter.empty or key in of_others
        if wanted and key not in (*arguments, *parts):
            for one in siblings:
                if hasattr(one, key):
                    parts[key] = getattr(one, key)
    if group is None:
        return construct(place, cls, arguments, **parts)
    made: Any = build(group.name, {"name": name, **arguments}, kind, place, **parts)
    if isinstance(made, Backbone):
        require_backbone(made)  # before a head is made for it
    return made


def factory(kind: type, spec: Any, place: str) -> Any:
    """Build the function that makes an object from the arguments that the framework supplies:
    ``functools.partial`` of the class with the specification's arguments.

    Raises:
        ComponentError: as :func:`build_composer`.
    """
    if not isinstance(spec, PLAIN):
        return spec
    group = group_of(kind)
    assert group is not None
    cls, name, arguments = _class_of(kind, spec, place)
    arguments, parts = _parts(cls, arguments, place)
    own = [key for key in inspect.signature(cls).parameters if key not in group.supplied]
    require_known_arguments(name, arguments, own)
    if issubclass(cls, Optimizer):  # refuses invalid arguments
        construct(name, cls, arguments, place, params=[nn.Parameter(torch.zeros(1))])
    return functools.partial(cls, **arguments, **parts)


def _class_of(kind: type, spec: Any, place: str) -> tuple[type, str, dict[str, Any]]:
    """The class that a specification is about, its name, and its arguments."""
    arguments = dict(spec) if isinstance(spec, Mapping) else {}
    group = group_of(kind)
    if group is None:
        if not isinstance(spec, Mapping):
            raise ComponentError(f"{place} is {spec!r}, where 'key: value' pairs are meant.")
        return kind, "", arguments
    if group.name in DEFAULTS:
        arguments = {key: value for key, value in arguments.items() if value is not None}
    if group.name == "schedules" and isinstance(arguments.get("plateau"), Mapping):
        plateau = arguments.pop("plateau")
        if arguments:
            raise ComponentError(f"{place} has plateau and something else; keep one of them.")
        arguments = {"name": "plateau", **plateau}
    name = arguments.pop("name", DEFAULTS.get(group.name)) if isinstance(spec, Mapping) else spec
    if not isinstance(name, str):
        build(group.name, spec, kind, place)  # raises the error
    return load(group.name, str(name), kind), str(name), arguments


def _parts(
    cls: type, arguments: dict[str, Any], place: str
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Divide arguments into plain ones and objects, which are built."""
    arguments = _in_full(cls, arguments, place)
    parts: dict[str, Any] = {}
    for key, hint in annotations_of(cls).items():
        forms, given = _forms(hint), arguments.get(key)
        optional = given is None and type(None) in get_args(hint)
        if not forms or key not in arguments or optional or not isinstance(given, PLAIN):
            continue
        del arguments[key]
        at, before = f"{place}{IN_YAML.get(key, f'.{key}')}", tuple(parts.values())
        if "many" in forms and isinstance(given, (list, tuple)):
            kind = forms["many"]
            parts[key] = [built(kind, s, f"{at}[{n}]", before) for n, s in enumerate(given)]
        elif "function" in forms:
            parts[key] = factory(forms["function"], given, at)
        elif "one" in forms:
            parts[key] = built(forms["one"], given, at, before)
        else:
            raise ComponentError(f"{at} is {given!r}, where a list is meant.")
    return arguments, parts


def _forms(hint: Any) -> dict[str, type]:
    """The kinds of object in an annotation: ``one``, ``many``, and what a ``function`` returns, as
    in ``Head | Sequence[Head]``.
    """
    origin = get_origin(hint)
    if origin is None and isinstance(hint, type):
        return {"one": hint} if group_of(hint) or issubclass(hint, Checked) else {}
    inner = [_forms(one) for one in get_args(hint)]
    kinds = [kind for forms in inner for kind in forms.values()]
    if origin is Callable:
        return {"function": kinds[-1]} if kinds else {}
    if isinstance(origin, type) and issubclass(origin, Sequence):
        return {"many": kinds[0]} if kinds else {}
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return {}
    return {form: kind for forms in reversed(inner) for form, kind in forms.items()}


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
    elif cls is LossBundle:
        if not arguments.keys() & {"terms", "level_weights"}:
            return {"terms": _terms(arguments, place)}
        arguments["terms"] = _terms(arguments.get("terms"), f"{place}.terms")
    elif "deformation" in parameters and "deformation" not in arguments:
        beside = [key for key in arguments if key not in parameters]
        arguments["deformation"] = {key: arguments.pop(key) for key in beside}
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


def _terms(terms: Any, place: str) -> dict[str, tuple[float, LossTerm]]:
    """Terms by name, each with its weight; those that are switched off may lack what they need."""
    if terms and not isinstance(terms, Mapping):
        raise ComponentError(f"{place} is {terms!r}, where 'name: weight and arguments' are meant.")
    made: dict[str, tuple[float, LossTerm]] = {}
    separated = _separated(terms or {})
    for key, own in separated.items():
        weight = own.pop("weight", 1.0)
        if weight != 0 or isinstance(weight, bool):
            made[key] = (weight, built(LossTerm, {"name": key, **own}, f"{place}.{key}"))
    if separated and not made:
        raise ComponentError(
            f"Every term of the loss has weight 0; give one of {place} another weight."
        )
    return made


def _separated(terms: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Arguments of every term. ``predicted`` of ``label_dice``, in configurations and checkpoints
    before 0.3, becomes the term ``segmentation``, of ``predicted`` times the term's weight.
    """
    made: dict[str, dict[str, Any]] = {}
    for key, own in terms.items():
        made[key] = dict(own or {}) if isinstance(own, (Mapping, type(None))) else {"weight": own}
    for key, own in list(made.items()):
        if own.get("name", key) == "label_dice" and isinstance(own.get("predicted"), (int, float)):
            weight = own.pop("predicted") * own.get("weight", 1.0)
            name = "segmentation" if key == "label_dice" else f"{key}_segmentation"
            made[name] = {"name": "segmentation", "weight": weight}
    return made
