"""Overrides of a command line as Hydra reads them."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence

GIVEN_WHOLE = re.compile(r"(method\.composer\.(?:backbone|head))(?:\.name)?")
"""Keys of components that an override replaces if its value names a component."""
ADDED = re.compile(
    r"(method\.(?:loss\.terms|callbacks)\.\w+)(?:\.weight|(?<=\.label_dice)\.predicted)?"
)
"""Keys of terms and callbacks that an override adds if they are missing; ``predicted`` of 0.2."""
A_WEIGHT = re.compile(r"(method\.loss\.terms\.\w+)=([\d.,eE+-]+)")
"""Override of a term by a number, which is its weight."""


def in_full(overrides: Sequence[str]) -> list[str]:
    """Rewrite overrides so that Hydra replaces components and adds terms and arguments.

    ``method.composer.head=[{name: affine}, {name: velocity}]`` replaces the configured head with
    all its arguments, and ``method.composer.backbone=voxelmorph`` the backbone
    (``=unet,voxelmorph`` in a sweep). A value without a name, such as ``{levels: 3}``, changes the
    configured component. ``method.loss.terms.ngf=0.5`` adds a term of this weight. Later overrides
    may add arguments to these new components. Arguments of configured components must be in the
    configuration or start with ``+``, so that a misspelt one is refused.
    """
    written: list[str] = []
    new: list[str] = []
    for override in overrides:
        override = A_WEIGHT.sub(r"\1.weight=\2", override)
        key, equals, value = override.partition("=")
        whole = GIVEN_WHOLE.fullmatch(key)
        if equals and whole is not None and _names_a_component(value):
            named = (
                value
                if value.strip()[:1] in ("[", "{")
                else ",".join(f"{{name: {name.strip()}}}" for name in value.split(","))
            )
            written += [f"~{whole[1]}", f"+{whole[1]}={named}"]
            new.append(whole[1])
        elif equals and (added := ADDED.fullmatch(key)):
            written.append(f"++{override}")
            new.append(added[1])
        elif equals and any(key.startswith(f"{part}.") for part in new):
            written.append(f"++{override}")
        else:
            written.append(override)
    return written


def quoted(text: str) -> str:
    """A text as a value in Hydra's syntax, which is read as this very text."""
    text = re.sub(r"(\\*)\$\{", lambda match: f"{2 * match[1]}\\${{", text)
    return (
        "'"
        + re.sub(r"(\\*)('|$)", lambda match: 2 * match[1] + ("\\'" if match[2] else ""), text)
        + "'"
    )


def as_word(key: str, text: str) -> str:
    """``key=text`` as the shell and Hydra read it; quoted unless it is a simple path."""
    simple = "/" in text and re.fullmatch(r"[A-Za-z./][\w./-]*", text, re.ASCII)
    return f"{key}={text}" if simple else shlex.quote(f"{key}={quoted(text)}")


def _names_a_component(value: str) -> bool:
    value = value.strip()
    if value[:1] in ("[", "{"):
        return value.startswith("[") or bool(re.search(r"\bname\s*:", value))
    return (
        value != "null"
        and re.fullmatch(r"[A-Za-z][\w.:-]*(\s*,\s*[A-Za-z][\w.:-]*)*", value) is not None
    )
