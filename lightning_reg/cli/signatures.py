"""Options of a command from the signature and the docstring of the function that it calls.

The source is read without importing it: help and mistakes need no PyTorch.
"""

from __future__ import annotations

import ast
import re
import types
from argparse import Action
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from keyword import iskeyword
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from lightning_reg.registry import DataError, Length, Range
from lightning_reg.registry.constraints import fits, in_words

NAMES = {
    kind.__name__: kind
    for kind in (bool, int, float, str, tuple, Path, Collection, Mapping, Sequence, Length, Range)
} | {"Annotated": Annotated, "Literal": Literal}
"""Names in the annotations of options; an annotation with other names takes any text."""
ENTRY = re.compile(r"^    (\w[\w, ]*): ?(.*(?:\n {5,}.*)*)", re.MULTILINE)
REFERENCE = re.compile(r" \(:\w+:`[^`]*`\)|,? see :\w+:`[^`]*`|:\w+:`~?(?:[^`]*\.)?([^`.]*)`")
LITERAL = re.compile(r"``([^`]*)``")


@dataclass(frozen=True)
class Argument:
    """An argument of a function.

    Args:
        hint: annotation.
        required: it has no default.
        default: ``None`` if it is no plain value.
        meaning: first sentence of its description in the docstring, without markup.
    """

    hint: Any
    required: bool
    default: Any
    meaning: str


def add_options(parser: Any, target: str, *usages: str, **arguments: str) -> dict[str, Action]:
    """Add options whose type, choices, default and help are those of a function's arguments.

    A Boolean is a flag; ``--no-x`` is one for an argument ``x`` that is true by default.

    Args:
        parser: a parser, or a group of its options.
        target: ``module:function``, ``module:Class`` or ``module:Class.method`` of this package,
            as ``io.images:read_image``.
        usages: as in a line of usage: ``folder``, ``--out FILE``, ``--shape I J K``, ``--spacing MM
            ...`` for one value or several. An option in brackets may be left out, and then is
            ``None``, whatever the argument's default; ``[--section NAME]...`` is repeatable.
        arguments: names of the arguments that differ from those of their options (and, if
            repeatable, from their plural). An option named as a keyword of Python is stored under
            its argument's name.
    """
    known, actions = arguments_of(target), {}
    for usage in usages:
        option = usage.strip("[].").split()[0]
        dest = option.lstrip("-").replace("-", "_")
        name = arguments.get(dest, dest.removeprefix("no_"))
        settings = _settings(usage, known[name if name in known else f"{name}s"])
        if iskeyword(dest):
            settings["dest"] = name
        actions[dest] = parser.add_argument(option, **settings)
    return actions


def _settings(usage: str, argument: Argument) -> dict[str, Any]:
    """Settings of an option for ``add_argument``."""
    option, *metavars = usage.strip("[].").split()
    kind, text, default = _kind(argument.hint), argument.meaning, argument.default
    if kind is bool:
        text = f"do not {text}" if option.startswith("--no-") else text
        return {"action": "store_true", "help": text}
    settings: dict[str, Any] = {"metavar": tuple(metavars) or None}
    if len(metavars) == 1:
        settings["metavar"] = metavars[0]
    if get_origin(kind) is Literal:
        none = ("none",) if type(None) in get_args(argument.hint) else ()
        settings["choices"] = (*get_args(kind), *none)
    elif kind is not str:
        settings["type"] = _reader(option, kind)
    if usage.endswith("]..."):
        return settings | {"action": "append", "default": [], "help": f"{text} (repeatable)"}
    if len(metavars) > 1:
        settings["nargs"] = len(metavars)
    elif "..." in usage:
        settings["nargs"] = "+" if option.startswith("-") else "*"
    if not usage.startswith("["):
        settings["default"] = default
        if argument.required and option.startswith("-"):
            settings["required"] = True
        if default not in (None, "", ()) and kind is not tuple:
            values = default if isinstance(default, tuple) else (default,)
            shown = (f"{one:g}" if isinstance(one, float) else str(one) for one in values)
            text = f"{text} (default {' '.join(shown)})"
    return settings | {"help": text}


def _kind(hint: Any) -> Any:
    """Type of one value of an argument: a class, a ``Literal``, or a number with its range."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        kinds = [_kind(one) for one in inner if one is not type(None)]
        return str if str in kinds else kinds[0]
    if origin is Annotated:
        return _kind(inner[0]) if isinstance(inner[1], Length) else hint
    if origin is tuple:
        return tuple
    return _kind(inner[0]) if isinstance(origin, type) and inner else hint


def _reader(option: str, kind: Any) -> Callable[[str], Any]:
    """Function from the text of an option to its value."""
    if kind is tuple:
        return share
    if kind is Path:
        return path
    number = get_args(kind)[0] if get_origin(kind) is Annotated else kind

    def read(text: str) -> Any:
        value = number(text)
        if not fits(value, kind):
            raise DataError(f"{option} is {text}; give {in_words(kind)}.")
        return value

    read.__name__ = number.__name__  # for the message of argparse
    return read


def path(text: str) -> Path:
    """The value of an option that is a path."""
    return Path(text).expanduser()


def share(text: str) -> tuple[int, int]:
    """The value ``I/N`` of an option."""
    match = re.fullmatch("([0-9]+)/([0-9]+)", text)
    if match is None:
        raise DataError(f"--shard is '{text}'; give I/N, as 3/16.")
    return int(match[1]), int(match[2])


def arguments_of(target: str) -> dict[str, Argument]:
    """Arguments of a function, a method or a dataclass by name, see :func:`add_options`."""
    module, _, path = target.partition(":")
    tree = node = _parsed(module)
    for part in path.split("."):
        node = next(one for one in node.body if getattr(one, "name", None) == part)
    declared, names = _declared(node), _names(tree)
    meanings = _meanings(ast.get_docstring(node) or "", [name for name, *_ in declared])
    return {
        name: Argument(
            _value(hint, names, str),
            default is None,
            _value(default, names, None),
            meanings.get(name, ""),
        )
        for name, hint, default in declared
    }


@cache
def _parsed(module: str) -> Any:
    file = Path(__file__).parents[1].joinpath(*module.split(".")).with_suffix(".py")
    return ast.parse(file.read_text(encoding="utf-8"))


def _declared(node: Any) -> list[tuple[str, Any, Any]]:
    """Name, annotation and default of the arguments of a function or the fields of a class."""
    if isinstance(node, ast.ClassDef):
        fields = [one for one in node.body if isinstance(one, ast.AnnAssign)]
        return [(ast.unparse(field.target), field.annotation, field.value) for field in fields]
    of = node.args
    named, defaults = [*of.posonlyargs, *of.args, *of.kwonlyargs], [*of.defaults, *of.kw_defaults]
    defaults = [None] * (len(named) - len(defaults)) + defaults
    return [(a.arg, a.annotation, default) for a, default in zip(named, defaults, strict=True)]


def _names(tree: ast.Module) -> dict[str, Any]:
    """:data:`NAMES`, and the names that a module gives to annotations of them."""
    names = dict(NAMES)
    for node in tree.body:
        if isinstance(node, ast.Assign):
            names[ast.unparse(node.targets[0])] = _value(node.value, names, str)
    return names


def _value(node: ast.expr | None, names: Mapping[str, Any], otherwise: Any) -> Any:
    """Value of an expression; ``otherwise`` if there is none, or if it has other names."""
    try:
        return otherwise if node is None else eval(ast.unparse(node), {"__builtins__": {}}, names)
    except NameError:
        return otherwise


def _meanings(docstring: str, arguments: Collection[str]) -> dict[str, str]:
    """First sentences of the entries under ``Args:`` in a docstring, by argument; arguments are
    spelled as options in them, and ``null`` as the word ``none``.
    """

    def word(match: re.Match[str]) -> str:
        option = f"--{match[1].replace('_', '-')}" if match[1] in arguments else match[1]
        return "none" if option == "null" else option

    def plain(meaning: str) -> str:
        sentence = re.split(r"(?<!\.)\.(?: (?=[A-Z])|$)", " ".join(meaning.split()))[0]
        return LITERAL.sub(word, REFERENCE.sub(r"\1", sentence)).replace("%", "%%")

    section = re.search(r"^Args:\n((?:    .*\n|\n)*)", docstring + "\n", re.MULTILINE)
    return {
        name.strip(): plain(meaning)
        for names, meaning in (ENTRY.findall(section[1]) if section else ())
        for name in names.split(",")
    }
