"""A new package that extends lightning_reg: complete, small, and training as it comes out."""

from __future__ import annotations

import re
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import jinja2

from lightning_reg.configuration.groups import GROUPS
from lightning_reg.registry.contract import CONTRACT
from lightning_reg.registry.errors import UserError

PARTS = {
    "backbone": "with a backbone",
    "head": "with a head (the default, where nothing is named)",
    "composer": "with a composer",
    "loss": "with a loss term",
    "callback": "with a callback",
    "dataset": "with a data set, and conf/data",
}
"""Components that a package may be started with, and their help."""


def write_package(name: str, out: Path = Path("."), parts: Sequence[str] = ()) -> Path:
    """Write a package; returns its folder.

    Args:
        name: name of the package, of its method and of its components, as ``my_method``.
        out: parent folder of the package.
        parts: some of :data:`PARTS`; none: a head.

    Raises:
        UserError: the name is none, or taken; the folder is there.
    """
    if not re.fullmatch(r"[a-z][a-z0-9]*(_[a-z0-9]+)*", name):
        raise UserError(
            f"'{name}' cannot be the name of a package; use small letters, digits and single _, as"
            " my_method."
        )
    if find_spec(name) is not None:
        raise UserError(
            f"A package '{name}' is installed already, or lies here; choose another name."
        )
    folder = out / name
    if folder.exists():
        raise UserError(f"{folder} exists; choose another name, or another folder by --out.")
    for path, text in sorted(rendered(name, parts or ["head"], folder).items()):
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text, encoding="utf-8")
    return folder


def rendered(name: str, parts: Sequence[str], folder: Path) -> dict[str, str]:
    """The files of a package, text by path."""
    camel = "".join(word.capitalize() for word in name.split("_"))
    classes = {
        one: camel if camel.endswith(one.capitalize()) else f"{camel}{one.capitalize()}"
        for one in PARTS
    }
    chosen = [one for one in PARTS if one in parts]
    known = {entry.one: (group, entry.what) for group, entry in GROUPS.items()}
    components = [
        {"one": one, "cls": classes[one], "group": known[one][0], "does": known[one][1]}
        for one in chosen
    ]
    spoken = {"loss": "loss term", "dataset": "data set"}
    kinds = [spoken.get(one, one) for one in chosen]
    listed = kinds[0] if len(kinds) == 1 else f"{', '.join(kinds[:-1])} and a {kinds[-1]}"
    major = int(CONTRACT.partition(".")[0])
    context: dict[str, Any] = {
        "name": name, "distribution": name.replace("_", "-"), "cls": classes,
        "title": name.replace("_", " ").capitalize(),
        "sentence": f"A {listed}, and a method with {'it' if len(kinds) == 1 else 'them'}",
        "components": components,
        "has": {one: one in parts for one in PARTS}, "folder": str(folder), "contract": CONTRACT,
        "next_major": major + 1,
    }  # fmt: skip
    package = f"src/{name}"
    wanted = {
        "pyproject.toml": "pyproject.toml", "README.md": "README.md",
        ".github/workflows/test.yml": "workflow.yml",
        f"{package}/__init__.py": "init.py", f"{package}/conf/method/{name}.yaml": "method.yaml",
        "tests/test_conformance.py": "test_conformance.py",
        "tests/test_training.py": "test_training.py",
        **{f"{package}/{one}.py": f"{one}.py" for one in chosen},
        **({f"{package}/conf/data/{name}.yaml": "data.yaml"} if context["has"]["dataset"] else {}),
    }  # fmt: skip
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("lightning_reg.cli"),
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        undefined=jinja2.StrictUndefined,
    )
    return {
        path: environment.get_template(f"{template}.jinja").render(context)
        for path, template in wanted.items()
    }
