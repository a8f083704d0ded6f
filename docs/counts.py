"""Counts of the house: ``python docs/counts.py`` prints lines and what they are for, by room.

Executable lines are those of statements, without imports, docstrings, comments and empty lines.
Validation is every ``raise``, the ``if`` around a block that ends in one, handlers that raise
again, functions called ``require_*``, ``check_*``, ``refuse_*`` or ``*_problems`` with their calls,
and modules that exist for nothing else. Lines are at most as long as ``pyproject.toml`` says, so
that two states of the code can be compared only if they are formatted alike.
"""

from __future__ import annotations

import ast
import re
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "lightning_reg"
CHECKING = re.compile(r"_?(require|check|refuse)_\w+|\w*_problems?|problems?")
MODULES = (
    "curation/check/",
    "components/contracts.py",
    "registry/contract.py",
    "registry/blame.py",
)
SHOWN = ("files", "lines", "executable", "validation", "raises", "public")


def counts(path: Path) -> Counter[str]:
    """Counts of a module, by the names in :data:`SHOWN`."""
    text = path.read_text(encoding="utf-8")
    tree = ast.parse(text)
    executable, validation = set(), set()
    for node in ast.walk(tree):
        if isinstance(node, ast.stmt):
            executable |= lines_of(node)
        if is_validation(node):
            validation |= lines_of(node)
    for node in ast.walk(tree):  # strings that stand alone are documentation
        if isinstance(node, (ast.Import, ast.ImportFrom)) or is_docstring(node):
            executable -= lines_of(node)
    written = {n for n, line in enumerate(text.splitlines(), 1) if line.strip(" \t")}
    comments = {n for n, line in enumerate(text.splitlines(), 1) if line.lstrip().startswith("#")}
    executable &= written - comments
    if path.relative_to(PACKAGE).as_posix().startswith(MODULES):
        validation = executable
    public = [node for node in tree.body for name in names(node) if not name.startswith("_")]
    return Counter(
        files=1,
        lines=len(text.splitlines()),
        executable=len(executable),
        validation=len(validation & executable),
        raises=sum(isinstance(node, ast.Raise) for node in ast.walk(tree)),
        public=len(public),
    )


def lines_of(node: ast.AST) -> set[int]:
    """Numbers of a node's lines, decorators included."""
    decorators = getattr(node, "decorator_list", [])
    first = min([node.lineno, *(one.lineno for one in decorators)])  # type: ignore[attr-defined]
    return set(range(first, node.end_lineno + 1))  # type: ignore[attr-defined]


def is_docstring(node: ast.AST) -> bool:
    """Whether a node is a string that stands alone."""
    return (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    )


def is_validation(node: ast.AST) -> bool:
    """Whether a node does nothing but refuse."""
    if isinstance(node, ast.Raise):
        return True
    if isinstance(node, ast.If) and not node.orelse:
        return isinstance(node.body[-1], ast.Raise)
    if isinstance(node, ast.ExceptHandler):
        return isinstance(node.body[-1], ast.Raise)
    if isinstance(node, ast.FunctionDef):
        return CHECKING.fullmatch(node.name) is not None
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
        called = node.value.func
        name = called.attr if isinstance(called, ast.Attribute) else getattr(called, "id", "")
        return CHECKING.fullmatch(name) is not None
    return False


def names(node: ast.stmt) -> list[str]:
    """Names that a statement of a module defines."""
    if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
        return [node.name]
    targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
    return [target.id for target in targets if isinstance(target, ast.Name)]


if __name__ == "__main__":
    rooms: dict[str, Counter[str]] = {}
    for module in sorted(PACKAGE.rglob("*.py")):
        parts = module.relative_to(PACKAGE).parts
        room = parts[0] if len(parts) > 1 else "lightning_reg"
        rooms[room] = rooms.get(room, Counter()) + counts(module)
    rooms["all"] = sum(rooms.values(), Counter())
    print(f"{'room':16}" + "".join(f"{name:>12}" for name in SHOWN) + f"{'%':>6}")
    for room, count in sorted(rooms.items(), key=lambda item: item[1]["lines"]):
        share = 100 * count["validation"] / max(count["executable"], 1)
        print(f"{room:16}" + "".join(f"{count[name]:>12,}" for name in SHOWN) + f"{share:6.1f}")
    exported = (PACKAGE / "__init__.pyi").read_text(encoding="utf-8").count(" as ")
    print(f"names exported from lightning_reg: {exported}")
    print(f"files of conf/: {len(list((ROOT / 'conf').rglob('*.yaml')))}")
