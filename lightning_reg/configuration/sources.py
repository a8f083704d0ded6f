"""Arguments and docstrings of classes, read from their source by griffe without an import."""

from __future__ import annotations

import ast
import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import griffe

from lightning_reg.registry.constraints import Length, Range
from lightning_reg.registry.entries import spec_of

REQUIRED = "???"
"""Placeholder for a required value, as in Hydra."""
LIMITS: dict[str, type[Range | Length]] = {"Range": Range, "Length": Length}
_ROLE = re.compile(r":\w+:`~?([^`]*)`")


@dataclass(frozen=True)
class Argument:
    """An argument of a component's constructor.

    Args:
        name: name in a configuration.
        type: annotation, with its constraints in words, as ``int from 1 to 8``.
        default: default, as in the source; ``None`` if the argument is required.
        meaning: description from the docstring.
        supplied: the framework passes it.
    """

    name: str
    type: str
    default: str | None
    meaning: str
    supplied: bool

    def value(self) -> Any:
        """The default as a plain value, :data:`REQUIRED` without one.

        Raises:
            ValueError: the default is no plain value.
        """
        return REQUIRED if self.default is None else ast.literal_eval(self.default)


class Sources:
    """Modules read by griffe: the requested file, and those of base classes, one by one."""

    def __init__(self) -> None:
        self.modules: dict[str, griffe.Module | None] = {}

    def module(self, name: str) -> griffe.Module | None:
        if name not in self.modules:
            path = _file(name)
            if path is None:
                self.modules[name] = None
            else:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # invalid escapes in other people's docstrings
                    self.modules[name] = griffe.visit(
                        name, path, path.read_text(encoding="utf-8"), docstring_parser="google"
                    )
        return self.modules[name]

    def find(self, module: str, name: str, depth: int = 8) -> griffe.Object | None:
        """An object of a module, in the module that defines it."""
        loaded = self.module(module)
        member = None if loaded is None else loaded.members.get(name)
        if isinstance(member, griffe.Alias):
            return self.path(member.target_path, depth - 1) if depth else None
        return member

    def target(self, target: str) -> griffe.Object | None:
        """An object by ``module:name``."""
        module, _, name = target.partition(":")
        return self.find(module, name)

    def path(self, dotted: str, depth: int = 8) -> griffe.Object | None:
        module, _, name = dotted.rpartition(".")
        return self.find(module, name, depth)

    def bases(self, cls: griffe.Class) -> list[griffe.Class]:
        found = [
            self.path(base if isinstance(base, str) else base.canonical_path) for base in cls.bases
        ]
        return [base for base in found if isinstance(base, griffe.Class)]

    def constructor(self, cls: griffe.Class) -> list[griffe.Parameter]:
        """Parameters of a constructor or fields of a dataclass, inherited if it has none."""
        own = cls.members.get("__init__")
        if isinstance(own, griffe.Function):
            return list(own.parameters)
        if "dataclass" in cls.labels or any("dataclass" in str(d.value) for d in cls.decorators):
            fields = {
                field.name: field for base in self.bases(cls) for field in self.constructor(base)
            }
            return list((fields | {field.name: field for field in _fields(cls)}).values())
        return next((found for base in self.bases(cls) if (found := self.constructor(base))), [])

    def arguments(self, cls: griffe.Class, supplied: Sequence[str]) -> tuple[Argument, ...]:
        meanings = self.meanings(cls)
        return tuple(
            Argument(
                p.name,
                _in_words(str(p.annotation or ""), cls.module),
                None if p.default is None else str(p.default),
                meanings.get(p.name, ""),
                p.name in supplied,
            )
            for p in self.constructor(cls)
            if p.name != "self"
            and p.kind
            not in (griffe.ParameterKind.var_positional, griffe.ParameterKind.var_keyword)
        )

    def meanings(self, cls: griffe.Class, depth: int = 4) -> dict[str, str]:
        """Meaning of the arguments that docstrings name; ``see :class:`X``` is followed."""
        inherited: dict[str, str] = {}
        for base in reversed(self.bases(cls)):
            inherited |= self.meanings(base, depth - 1) if depth else {}
        own: dict[str, str] = {}
        for documented in (cls, cls.members.get("__init__")):
            text = (
                documented.docstring.value
                if isinstance(documented, griffe.Object) and documented.docstring
                else ""
            )
            own |= _arguments(text)
        for name, meaning in own.items():
            if reference := re.fullmatch(r"see (\S+?)\.?", meaning):
                own[name] = inherited.get(name) or self._elsewhere(cls, reference[1], depth).get(
                    name, meaning
                )
        return inherited | own

    def _elsewhere(self, cls: griffe.Class, name: str, depth: int) -> dict[str, str]:
        """Meanings of the arguments of another class, as the module of ``cls`` names it."""
        try:
            other = self.path(cls.resolve(name))
        except griffe.NameResolutionError:
            return {}
        return (
            self.meanings(other, depth - 1)
            if depth and isinstance(other, griffe.Class) and other is not cls
            else {}
        )


def _fields(cls: griffe.Class) -> list[griffe.Parameter]:
    """Fields that a dataclass adds, as parameters."""
    return [
        griffe.Parameter(
            m.name,
            annotation=m.annotation,
            kind=griffe.ParameterKind.positional_or_keyword,
            default=m.value,
        )
        for m in cls.members.values()
        if isinstance(m, griffe.Attribute)
        and m.annotation is not None
        and "property" not in m.labels
        and "ClassVar" not in str(m.annotation)
    ]


def _in_words(annotation: str, module: griffe.Module) -> str:
    """An annotation in which ``Annotated[int, Range(1, 8)]`` is ``int from 1 to 8``.

    Names that the module gives to annotations are replaced by their values.
    """

    def words(node: ast.expr) -> str:
        if isinstance(node, ast.Name):
            named = module.members.get(node.id)
            if not isinstance(named, griffe.Attribute) or named.value is None:
                return node.id
            return words(ast.parse(str(named.value), mode="eval").body)
        if isinstance(node, ast.BinOp):
            return f"{words(node.left)} | {words(node.right)}"
        if not isinstance(node, ast.Subscript):
            return ast.unparse(node)
        inner = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
        if ast.unparse(node.value) != "Annotated":
            return f"{words(node.value)}[{', '.join(map(words, inner))}]"
        return words(inner[0]) + "".join(map(limits, inner[1:]))

    def limits(node: ast.expr) -> str:
        if not isinstance(node, ast.Call) or ast.unparse(node.func) not in LIMITS:
            return ""
        given = [ast.literal_eval(one) for one in node.args]
        named = {str(one.arg): ast.literal_eval(one.value) for one in node.keywords}
        return LIMITS[ast.unparse(node.func)](*given, **named).limits()

    try:
        return words(ast.parse(annotation, mode="eval").body)
    except (SyntaxError, ValueError, TypeError):  # in another distribution's source
        return annotation


def _file(module: str) -> Path | None:
    """File of a module on Python's search path, found without an import."""
    top, *inner = module.split(".")
    spec = spec_of(top)
    if spec is None:
        return None
    if not spec.submodule_search_locations:
        path = Path(spec.origin or "")
        return path if path.suffix == ".py" and not inner else None
    for place in spec.submodule_search_locations:
        base = Path(place).joinpath(*inner)
        for candidate in (base / "__init__.py", base.with_suffix(".py")):
            if candidate.is_file():
                return candidate
    return None


def _sections(text: str) -> list[Any]:
    return griffe.Docstring(text).parse("google", warnings=False) if text else []


def _arguments(text: str) -> dict[str, str]:
    found = {}
    for section in _sections(text):
        if section.kind is griffe.DocstringSectionKind.parameters:
            for parameter in section.value:
                for name in parameter.name.split(","):  # several arguments described together
                    found[name.strip()] = _flat(parameter.description)
    return found


def text_of(cls: griffe.Class) -> str:
    sections = _sections(cls.docstring.value if cls.docstring else "")
    paragraphs = [s.value for s in sections if s.kind is griffe.DocstringSectionKind.text]
    return "\n\n".join(
        _flat(p)
        for text in paragraphs
        for p in text.split("\n\n")
        if ">>>" not in p and not p.lstrip().startswith(".. ")
    )


def _flat(text: str) -> str:
    """One line, without the markup of references."""
    # targets of 'see' keep their full name
    plain = re.sub(rf"(?<=see ){_ROLE.pattern}", r"\1", text)
    plain = _ROLE.sub(lambda match: match[1].rpartition(".")[2], plain)
    return " ".join(plain.replace("``", "'").split())
