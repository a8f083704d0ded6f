"""``lightning-reg plugins``: what is installed, from where, what it does, what is wrong with it,
and the start of a new one.
"""

from __future__ import annotations

import json
from argparse import SUPPRESS, ArgumentParser, Namespace
from pathlib import Path

from rich.table import Table
from rich.text import Text

from lightning_reg.cli.arguments import console
from lightning_reg.cli.signatures import add_options
from lightning_reg.configuration.folders import conf_problems, plugin_packages
from lightning_reg.configuration.groups import GROUPS
from lightning_reg.registry.entries import Provider, hidden, namespace, providers, strangers
from lightning_reg.registry.errors import ComponentError, UserError, did_you_mean
from lightning_reg.registry.loading import load


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--group", help=f"list these components only: {', '.join(GROUPS)}, conf")
    add_options(parser, "cli.plugins:listing", "--from DISTRIBUTION", **{"from": "distribution"})
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument(
        "--check",
        action="store_true",
        help="import every component and check it against its interface",
    )
    actions = parser.add_subparsers(dest="action", metavar="ACTION", help="instead of the list:")
    describe = actions.add_parser(
        "describe", help="show arguments, meaning, source and use of one component"
    )
    add_options(describe, "configuration.documentation:documentation", "group GROUP", "name")
    describe.add_argument("--json", action="store_true", default=SUPPRESS, help="print JSON")
    new = actions.add_parser(
        "new", help="write a small package that extends lightning_reg, with tests"
    )
    add_options(new, "cli.scaffold:write_package", "name", "--out")
    from lightning_reg.cli.scaffold import PARTS

    for part, text in PARTS.items():
        new.add_argument(f"--{part}", action="store_true", help=text)


def run(arguments: Namespace) -> int:
    """The exit code; 1 where the list shows a problem."""
    if arguments.action == "describe":
        return _describe(arguments)
    if arguments.action == "new":
        from lightning_reg.cli.scaffold import PARTS, write_package

        parts = [part for part in PARTS if getattr(arguments, part)]
        folder = write_package(arguments.name, arguments.out, parts)
        console().print(f"Wrote {folder}. Next:\n{next_steps(folder)}")
        return 0
    return _list(arguments)


def next_steps(folder: Path) -> str:
    """Commands for the one who has just made a package."""
    text = (folder / "README.md").read_text(encoding="utf-8")
    return text.partition("```bash\n")[2].partition("```")[0].rstrip()


def _list(arguments: Namespace) -> int:
    if arguments.group is not None and arguments.group not in (*GROUPS, "conf"):
        arguments.group = _group(arguments.group)
    rows, problems = listing(arguments.group, arguments.distribution)
    if arguments.distribution is not None and not rows:
        raise UserError(
            f"The distribution {arguments.distribution} is not installed, or offers nothing to"
            " lightning_reg."
        )
    if arguments.check:
        problems = [*problems, *_broken(rows)]
    if arguments.json:
        print(json.dumps({"components": rows, "problems": problems}, indent=2))
    else:
        table = Table("group", "name", "distribution", "class")
        for row in rows:
            origin = f"{row['distribution']} {row['version']}"
            table.add_row(row["group"], row["name"], origin, row["class"])
        terminal = console()
        terminal.print(table)
        for problem in problems:
            terminal.print(problem, style="red")
        if not arguments.check:
            terminal.print(
                "Nothing was imported; --check imports all and says what cannot be used."
            )
        elif not problems:
            terminal.print("All of them can be used.")
    return 1 if problems else 0


def listing(
    group: str | None = None, distribution: str | None = None
) -> tuple[list[dict[str, str]], list[str]]:
    """Rows of what is installed, and the problems that show without importing anything.

    Args:
        group: one of :data:`GROUPS`, or ``conf``; default all.
        distribution: list this distribution only.
    """
    rows, problems = [], []

    def wanted(provider: Provider) -> bool:
        return distribution is None or namespace(provider.distribution) == namespace(distribution)

    for name_of_group in GROUPS:
        if group not in (None, name_of_group):
            continue
        for name, offered in sorted(providers(name_of_group).items()):
            rows += [_row(name_of_group, provider) for provider in offered if wanted(provider)]
            if len(offered) > 1 and any(map(wanted, offered)):
                problems.append(_ambiguous(name_of_group, name, offered))
    if group in (None, "conf"):
        conf = [provider for offered in providers("conf").values() for provider in offered]
        for package in plugin_packages():
            rows += [_row("conf", p) for p in conf if p.target == package and wanted(p)]
        problems += [p for p in conf_problems() if distribution is None or f" {distribution} " in p]
    if group is None:
        problems += [told for provider, told in strangers() if wanted(provider)]
    return rows, problems


def _row(group: str, provider: Provider) -> dict[str, str]:
    return {
        "group": group, "name": provider.name, "qualified": provider.qualified,
        "distribution": provider.distribution,
        "version": provider.version, "class": provider.target,
    }  # fmt: skip


def _ambiguous(group: str, name: str, offered: list[Provider]) -> str:
    both = " and ".join(provider.origin for provider in offered)
    told = (
        f"The {GROUPS[group].one} '{name}' is provided by {both}; write"
        f" {' or '.join(p.qualified for p in offered)}."
    )
    return hidden(group, name) or told


def _broken(rows: list[dict[str, str]]) -> list[str]:
    """A sentence per component that cannot be imported or does not fit its interface."""
    problems = []
    for row in rows:
        group, name = row["group"], row["qualified"]
        if group not in GROUPS or not GROUPS[group].interface:
            continue
        try:
            load(group, name, GROUPS[group].interface_class())
        except ComponentError as error:
            problems.append(str(error))
    return problems


def _group(word: str) -> str:
    """The group that a word names, singular or plural.

    Raises:
        UserError: none.
    """
    named = {group: group for group in GROUPS} | {
        entry.one.replace(" ", "_"): group for group, entry in GROUPS.items()
    }
    if word not in named:
        raise UserError(
            f"There is no group of components named '{word}'{did_you_mean(word, named)} Groups:"
            f" {', '.join(GROUPS)}."
        )
    return named[word]


def _describe(arguments: Namespace) -> int:
    from lightning_reg.configuration.documentation import documentation

    if arguments.group == "conf":
        raise UserError(
            "Configurations are files; lightning-reg plugins --group conf lists the packages that"
            " have some."
        )
    group = _group(arguments.group)
    if not GROUPS[group].interface:
        raise UserError(
            f"A {GROUPS[group].one} is no class; lightning-reg models describe {arguments.name}"
            " shows its card."
        )
    found = documentation(group, arguments.name)
    if arguments.json:
        print(json.dumps(found.plain(), indent=2))
        return 0
    terminal = console()
    provider = found.provider
    name = Text(f"{GROUPS[group].one} {provider.name}", style="bold")
    terminal.print(name, f"of {provider.origin}: {GROUPS[group].what}")
    terminal.print(f"\n{found.text}\n" if found.text else "")
    if found.arguments:
        table = Table("argument", "type", "default", "meaning")
        for argument in found.arguments:
            default = "(required)" if argument.default is None else argument.default
            default = "(supplied)" if argument.supplied else default
            table.add_row(argument.name, argument.type, default, argument.meaning)
        terminal.print(table)
    key = GROUPS[group].key
    used = key.replace("NAME", provider.qualified) if " " in key else ""
    used = f"{key} {provider.qualified}" if key.startswith("--") else used
    for title, text in (
        ("On a command line", used),
        ("In a configuration", found.yaml()),
        ("In Python", found.python()),
    ):
        if text:
            terminal.print(f"\n{title}:")
            terminal.print("  " + text.rstrip().replace("\n", "\n  "), highlight=False)
    terminal.print(f"\nSource: {found.path}, line {found.line}")
    return 0
