"""Figures of the import graph: rooms, arrows between them, circles, and each room's share of the
lines.

``python docs/import_graph.py`` reads the sources (nothing is imported) and prints a table. A room
is a package directly below ``lightning_reg``; an arrow from A to B says that some module of A
imports one of B when it runs (imports for type checkers alone do not count). Imports inside of
functions count. Circles are sets of modules that import each other when they are loaded.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

PACKAGE = "lightning_reg"
ROOT = Path(__file__).resolve().parents[1]


def modules() -> dict[str, Path]:
    """Modules of the package by dotted name."""
    found = {}
    for path in sorted((ROOT / PACKAGE).rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports(path: Path, known: dict[str, Path], inner: bool = True) -> Iterator[str]:
    """Modules of the package that a file imports; with ``inner`` those imported inside of
    functions, too.
    """

    def walk(node: ast.AST) -> Iterator[ast.AST]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
                continue
            if isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef)) and not inner:
                continue
            yield child
            yield from walk(child)

    for node in walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in known)
        elif isinstance(node, ast.ImportFrom) and node.module in known:
            for alias in node.names:
                name = f"{node.module}.{alias.name}"
                yield name if name in known else node.module


def room(module: str) -> str:
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else PACKAGE


def circles(edges: dict[str, set[str]]) -> list[set[str]]:
    """Sets of more than one node that reach each other."""

    def reached(start: str) -> set[str]:
        seen: set[str] = set()
        waiting = [start]
        while waiting:
            for after in edges.get(waiting.pop(), set()) - seen:
                seen.add(after)
                waiting.append(after)
        return seen

    reach = {node: reached(node) for node in edges}
    found: list[set[str]] = []
    for node in edges:
        together = {other for other in reach[node] if node in reach.get(other, set())}
        if len(together) > 1 and together not in found:
            found.append(together)
    return found


def main() -> None:
    known = modules()
    packages = {name for name, path in known.items() if path.name == "__init__.py"}
    lines: dict[str, int] = {}
    arrows: dict[str, set[str]] = {}
    for name, path in known.items():
        lines[room(name)] = lines.get(room(name), 0) + len(
            path.read_text(encoding="utf-8").splitlines()
        )
        arrows.setdefault(room(name), set()).update(
            room(other)
            for other in imports(path, known)
            if room(other) not in (room(name), PACKAGE)
        )
    loaded = {
        name: set(imports(path, known, inner=False)) - {name}
        for name, path in known.items()
        if name not in packages
    }
    total = sum(lines.values())
    for name, count in sorted(lines.items(), key=lambda item: -item[1]):
        print(
            f"{name:14} {count:6} lines {100 * count / total:4.0f} %   ->"
            f" {', '.join(sorted(arrows[name])) or '-'}"
        )
    inner = {name: after for name, after in arrows.items() if name != PACKAGE}
    print(
        f"{len(inner)} rooms, {sum(len(after) for after in inner.values())} arrows, {total} lines"
        f" in {len(known)} modules"
    )
    print(f"largest room: {100 * max(lines.values()) / total:.0f} %")
    print(f"circles of rooms: {circles(inner) or 'none'}")
    print(f"circles of modules: {circles(loaded) or 'none'}")


if __name__ == "__main__":
    main()
