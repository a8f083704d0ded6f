"""Arguments in messages, spelled as on a command line.

Messages of the rooms below name an argument as Python does, in backticks: `overwrite=True`, or
`head.levels` where several objects have one of this name. An option of a command becomes
``--overwrite``; a value of the configuration gets its place and YAML's spelling,
``data.held_out=2``. What is neither stays as it is.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

from lightning_reg.configuration.composition import compose
from lightning_reg.configuration.folders import own_directory
from lightning_reg.configuration.overrides import as_word
from lightning_reg.io.reading import as_yaml
from lightning_reg.registry import UserError

ARGUMENT = re.compile(r"`([\w.]+)(?:=([^`]+))?`")
FIRST = ("", "data", "data.preprocessing", "method", "trainer", "method.composer.backbone")
"""Places that are meant first where a name stands in several."""


def spelled(
    text: str, options: Collection[str], keys: Callable[[], Iterable[str]] = lambda: ()
) -> str:
    """Spell the arguments in a message.

    Args:
        options: of the command, as ``--overwrite``.
        keys: dotted keys of the configuration; called only if an argument is not an option.
    """

    def word(match: re.Match[str]) -> str:
        name, value = match.groups()
        option = f"--{name.replace('_', '-')}"
        if option in options:
            return option if value in (None, "True") else f"{option} {_plain(value)}"
        places = [key for key in keys() if f".{key}".endswith(f".{name}")]
        if not places and "." in name:  # an argument that may be added to what is configured
            place, _, last = name.rpartition(".")
            places = [f"+{key}.{last}" for key in keys() if f".{key}".endswith(f".{place}")]
        if not places:
            return match[0]
        key = min(places, key=_rank)
        if value is None:
            return key.lstrip("+")
        removed = value == "None" and key.startswith(("method.loss.terms.", "method.callbacks."))
        return f"~{key}" if removed else _assigned(key, value)

    return ARGUMENT.sub(word, text)


def keys_of(overrides: Sequence[str]) -> list[str]:
    """Dotted keys of the configuration that a command line gives, or of the default one if that
    cannot be composed.
    """
    for words in (overrides, ()):
        try:
            groups = (path.name for path in own_directory().iterdir() if path.is_dir())
            return [*_dotted(compose(words)), *groups]
        except UserError:
            continue
    return []


def _dotted(values: Mapping[str, Any], before: str = "") -> Iterator[str]:
    for name, value in values.items():
        yield f"{before}{name}"
        if isinstance(value, Mapping):
            yield from _dotted(value, f"{before}{name}.")


def _rank(key: str) -> tuple[int, int, str]:
    place = key.rpartition(".")[0]
    return FIRST.index(place) if place in FIRST else len(FIRST), key.count("."), key


def _assigned(key: str, value: str) -> str:
    plain = _plain(value)
    is_path = value[0] in "'\"" and not re.fullmatch(r"[\w.-]+", plain)
    return as_word(key, ast.literal_eval(value)) if is_path else f"{key}={plain}"


def _plain(value: str) -> str:
    """A Python value as a command line has it: ``True`` is ``true``, ``"auto"`` is ``auto``."""
    try:
        plain = as_yaml(ast.literal_eval(value), default_flow_style=True)
    except (ValueError, SyntaxError):
        return value
    return plain.removesuffix("\n...\n").strip().replace(", ", ",")
