"""Reader of bounded YAML and JSON, which runs and resolves nothing; writer of YAML."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from lightning_reg.registry.errors import DataError

LARGEST_YAML, LARGEST_JSON = 2**20, 2**27
"""Largest sizes of files, bytes."""
DEPTH = 50
"""Largest nesting of lists and mappings."""
VALUES = 100_000
"""Largest number of values in a YAML file; an alias counts as all the values that it stands for."""
NUMBER = re.compile(r"^[-+]?\d[\d_]*(?:\.[\d_]*)?[eE][-+]?\d+$")
"""Numbers such as ``1e-5``, which YAML 1.1 takes for text, and Hydra for numbers."""
ROOT = "${data.root}"
"""The only reference in a file: the data of a packed training, given on the command line."""


def read_yaml(path: Path, remedy: str = "correct it", references: bool = False) -> Any:
    """Read a YAML file as plain values.

    Args:
        remedy: last part of the message of an error.
        references: allow ``${...}``, as in the configurations of installed packages; otherwise
            :data:`ROOT` alone.

    Raises:
        FileNotFoundError: there is no such file.
        DataError: the file is too large, not valid, nested too deeply, has aliases that stand for
            too many values, makes objects, or refers to other values or the environment.
    """

    def parsed(text: str) -> Any:
        loader = _Loader(text, references)
        try:
            return loader.get_single_data()
        finally:
            loader.dispose()

    return _read(path, "YAML", LARGEST_YAML, parsed, remedy)


def read_json(path: Path, remedy: str = "correct it") -> Any:
    """Read a JSON file.

    Args:
        remedy: last part of the message of an error.

    Raises:
        FileNotFoundError: there is no such file.
        DataError: the file is too large, not valid, or nested too deeply.
    """

    def parsed(text: str) -> Any:
        value = json.loads(text)
        inner = [value]
        for _ in range(DEPTH + 1):
            inner = [
                one
                for of in inner
                if isinstance(of, (dict, list))
                for one in (of.values() if isinstance(of, dict) else of)
            ]
        if inner:
            raise RecursionError
        return value

    return _read(path, "JSON", LARGEST_JSON, parsed, remedy)


def _read(path: Path, kind: str, largest: int, parsed: Callable[[str], Any], remedy: str) -> Any:
    try:
        if path.exists() and not path.is_file():
            raise ValueError("it is not a file")
        with path.open("rb") as file:
            content = file.read(largest + 1)
        if len(content) > largest:
            raise ValueError(f"it is larger than {largest // 2**20} MiB")
        return parsed(content.decode("utf-8-sig"))
    except FileNotFoundError:
        raise
    except RecursionError as cause:
        raise DataError(
            f"{path} cannot be read as {kind} (it is nested more than {DEPTH} deep); {remedy}."
        ) from cause
    except OSError as cause:
        raise DataError(f"{path} cannot be read ({cause.strerror or cause}); {remedy}.") from cause
    except (
        yaml.YAMLError,
        ValueError,
        LookupError,
        TypeError,
        AttributeError,
    ) as cause:  # the last three: '!!bool x' and the like
        raise DataError(
            f"{path} cannot be read as {kind} ({' '.join(str(cause).split())[:200]}); {remedy}."
        ) from cause


def as_yaml(value: Any, **options: Any) -> str:
    """Plain values as YAML that :func:`read_yaml` reads as the same values."""
    return str(yaml.dump(value, Dumper=_Dumper, sort_keys=False, **options))


class _Loader(yaml.SafeLoader):
    """Numbers as Hydra reads them, dates as text."""

    def __init__(self, text: str, references: bool) -> None:
        super().__init__(text)
        self.references, self.depth, self.values = references, 0, 0
        self.sizes: dict[int, int] = {}

    def compose_node(self, parent: Any, index: Any) -> Any:
        before, aliased = self.values, self.check_event(yaml.AliasEvent)
        self.depth += 1
        if self.depth > DEPTH:
            raise RecursionError
        node = super().compose_node(parent, index)
        self.depth -= 1
        if aliased and id(node) not in self.sizes:
            raise ValueError("an alias stands for the value that contains it")
        self.values += self.sizes[id(node)] if aliased else 1
        self.sizes.setdefault(id(node), self.values - before)
        if self.values > VALUES:
            raise ValueError(f"it has more than {VALUES:,} values, aliases included")
        return node

    def compose_scalar_node(self, anchor: Any) -> Any:
        node = super().compose_scalar_node(anchor)
        if not self.references and "${" in node.value and node.value != ROOT:
            raise ValueError(
                f"'{node.value[:60]}' refers to the environment or another value; write the value"
                " itself"
            )
        return node


class _Dumper(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        return True


for _kind in (_Loader, _Dumper):
    _kind.add_implicit_resolver("tag:yaml.org,2002:float", NUMBER, [*"-+0123456789"])
_Loader.add_constructor("tag:yaml.org,2002:timestamp", _Loader.construct_yaml_str)
