"""Directives of the site that write reference pages from the package: configuration values,
components, metrics.
"""

from __future__ import annotations

import pkgutil
import re
from importlib import import_module
from pathlib import Path

from docutils import nodes
from docutils.parsers.rst import Directive
from docutils.statemachine import StringList
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.util.nodes import make_refnode

from lightning_reg.cli.options import plain
from lightning_reg.configuration.composition import explained
from lightning_reg.configuration.documentation import Documentation, documentation
from lightning_reg.configuration.folders import own_directory
from lightning_reg.configuration.values import Value, options
from lightning_reg.metrics import METRICS
from lightning_reg.registry import providers

PACKAGES = (
    "inference", "training", "components", "data", "curation", "models", "metrics", "io", "phantom",
    "spatial", "functional", "figures",
    "registry", "configuration", "optimization", "batch", "testing",
)  # fmt: skip
"""Packages whose API has pages."""


def cell(text: str) -> str:
    """Text of a table's cell."""
    return " ".join(text.replace("|", "\\|").replace("<", "&lt;").split())


def code(text: str) -> str:
    return f"`{' '.join(text.replace('|', chr(92) + '|').split())}`" if text else ""


def table(heads: list[str], rows: list[list[str]]) -> list[str]:
    lines = ["| " + " | ".join(row) + " |" for row in (heads, ["---"] * len(heads), *rows)]
    return ["", *lines, ""]


class Markdown(Directive):
    """A directive that writes Markdown."""

    def lines(self) -> list[str]:
        raise NotImplementedError

    def run(self) -> list[nodes.Node]:
        holder = nodes.section()
        holder.document = self.state.document
        self.state.nested_parse(
            StringList(self.lines(), "reference_pages.py"), 0, holder, match_titles=True
        )
        return list(holder.children)


class ConfigurationValues(Markdown):
    """Values of the default configuration in some of its groups, or those that an option of a group
    changes.

    Arguments: ``method=velocity``, or groups and keys.
    """

    required_arguments = 1
    optional_arguments = 20

    def lines(self) -> list[str]:
        chosen = [word for word in self.arguments if "=" in word]
        places = [word.partition("=")[0] for word in self.arguments]
        shown = [
            value
            for value in explained(chosen)
            if any(self.within(value.key, place) for place in places)
        ]
        return table(["key", "value", "type", "meaning"], [self.row(value) for value in shown])

    @staticmethod
    def within(key: str, place: str) -> bool:
        return key.isidentifier() if place == "top" else key.startswith((f"{place}.", f"{place}["))

    @staticmethod
    def row(value: Value) -> list[str]:
        return [code(value.key), code(plain(value.value)), code(value.type), cell(value.meaning)]


class GroupOptions(Markdown):
    """Options of a group of this project's configurations."""

    required_arguments = 1

    def lines(self) -> list[str]:
        (group,) = self.arguments
        own = {path.stem for path in (own_directory() / group).glob("*.yaml")}
        rows = [
            [f"`{group}={name}`", cell(text)]
            for name, text in options(group).items()
            if name in own
        ]
        return table(["option", "description"], rows)


class Components(Markdown):
    """Installed components of an entry-point group, each with its arguments and a piece of
    configuration.
    """

    required_arguments = 1

    def lines(self) -> list[str]:
        (group,) = self.arguments
        lines: list[str] = []
        for name, offered in sorted(providers(group).items()):
            if any(provider.distribution == "lightning-reg" for provider in offered):
                lines += self.component(documentation(group, name))
        return lines

    @staticmethod
    def component(told: Documentation) -> list[str]:
        rows = [
            [code(a.name), code(a.type), code(a.default or ""), cell(a.meaning)]
            for a in told.arguments
            if not a.supplied
        ]
        lines = [f"### {told.provider.name}", "", *told.text.splitlines(), ""]
        lines += table(["argument", "type", "default", "meaning"], rows) if rows else []
        if told.yaml():
            lines += ["```yaml", *told.yaml().splitlines(), "```", ""]
        return lines


class MetricsTable(Markdown):
    """The table of metrics."""

    def lines(self) -> list[str]:
        return table(
            ["key", "metric", "unit", "better"],
            [[code(m.key), m.title, m.unit, m.better] for m in METRICS],
        )


def write_api_pages(app: Sphinx) -> None:
    """A page per package of :data:`PACKAGES` and per package in it, with all its public modules."""
    folder = Path(app.srcdir) / "reference" / "api"
    folder.mkdir(exist_ok=True)
    for package in PACKAGES:
        write_package(folder, f"lightning_reg.{package}")


def write_package(folder: Path, name: str) -> None:
    inner = sorted(pkgutil.iter_modules(import_module(name).__path__), key=lambda found: found.name)
    title = name.removeprefix("lightning_reg.")
    lines = [title, "=" * len(title), "", f".. automodule:: {name}", ""]
    packages = [f"{name}.{found.name}" for found in inner if found.ispkg]
    if packages:
        lines += [
            ".. toctree::",
            "   :maxdepth: 1",
            "",
            *(f"   {package}" for package in packages),
            "",
        ]
    for module in (
        f"{name}.{found.name}"
        for found in inner
        if not found.ispkg and not found.name.startswith("_")
    ):
        title = module.removeprefix("lightning_reg.")
        lines += [title, "-" * len(title), "", f".. automodule:: {module}", ""]
    written, text = folder / f"{name}.rst", "\n".join(lines)
    # else the page would be built again
    if not written.exists() or written.read_text(encoding="utf-8") != text:
        written.write_text(text, encoding="utf-8")
    for package in packages:
        write_package(folder, package)


def resolve(
    app: Sphinx, env: BuildEnvironment, node: pending_xref, text: nodes.TextElement
) -> nodes.Element | None:
    """Link a name to the module that defines it, where a package exports it, or to its unique
    ending.

    What exists without documentation of its own is text; anything else stays a warning.
    """
    if node.get("refdomain") != "py":
        return None
    name, objects = node["reftarget"], env.domains.python_domain.objects
    places = [
        name,
        f"{node.get('py:module')}.{name}",
        f"{node.get('py:module')}.{node.get('py:class')}.{name}",
    ]
    origins = [origin for place in places if (origin := defined_as(place))]
    endings = [known for known in objects if known.endswith(f".{name}")]
    for candidate in (*origins, *(endings if len(endings) == 1 else [])):
        if candidate in objects:
            entry = objects[candidate]
            return make_refnode(
                app.builder, node["refdoc"], entry.docname, entry.node_id, [text], candidate
            )
    return text if origins else None


def defined_as(dotted: str) -> str:
    """Full name of an object where it is defined; empty where there is none of this name."""
    module, *inner = dotted.split(".")
    if module != "lightning_reg":
        return ""
    found = import_module(module)
    for number, part in enumerate(inner):
        try:
            found = getattr(found, part)
        except AttributeError:
            if part in getattr(found, "__annotations__", {}):  # a field of a dataclass
                return dotted
            try:
                found = import_module(".".join([module, *inner[: number + 1]]))
            except ImportError:
                return ""
    name = getattr(found, "__qualname__", "")
    return f"{found.__module__}.{name}" if name and getattr(found, "__module__", None) else dotted


def without_links_to_files(app: Sphinx, docname: str, source: list[str]) -> None:
    """Links to files of the repository that are no pages are text on the site."""
    source[0] = re.sub(
        r"\[([^\]]+)\]\((?:\.\./)+(?:plugins|conf|benchmarks|tests|[A-Z]+\b)[^)]*\)",
        r"\1",
        source[0],
    )


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("builder-inited", write_api_pages)
    app.connect("missing-reference", resolve)
    app.connect("source-read", without_links_to_files)
    app.add_directive("configuration-values", ConfigurationValues)
    app.add_directive("group-options", GroupOptions)
    app.add_directive("components", Components)
    app.add_directive("metrics-table", MetricsTable)
    return {"parallel_read_safe": True}
