"""``lightning-reg plugins``: what is installed, from where, and what is wrong with it."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

import lightning as L
from rich.table import Table

from lightning_reg.cli.arguments import console
from lightning_reg.components import Backbone, Composer, Head, LossTerm
from lightning_reg.data.datasets.interface import RegistrationDataset
from lightning_reg.discovery import GROUPS, ComponentError, load, providers
from lightning_reg.discovery.conf import plugin_packages, shadowed

INTERFACES: dict[str, type] = {
    "backbones": Backbone,
    "heads": Head,
    "composers": Composer,
    "losses": LossTerm,
    "callbacks": L.Callback,
    "datasets": RegistrationDataset,
}


def add_arguments(parser: ArgumentParser) -> None:
    """None."""


def run(arguments: Namespace) -> int:
    """Print the table; exit code 1 where a component cannot be used."""
    table = Table("group", "name", "distribution", "class")
    problems: list[str] = []
    for group in GROUPS:
        for name, offered in sorted(providers(group).items()):
            try:
                load(group, name, INTERFACES[group])
            except ComponentError as error:
                problems.append(str(error))
            for provider in offered:
                table.add_row(group, name, f"{provider.distribution} {provider.version}", provider.target)
    try:
        for package in plugin_packages():
            table.add_row("conf", "", "", package)
        problems += shadowed()
    except ComponentError as error:
        problems.append(str(error))
    terminal = console()
    terminal.print(table)
    for problem in problems:
        terminal.print(problem, style="red", soft_wrap=True)
    return 1 if problems else 0
