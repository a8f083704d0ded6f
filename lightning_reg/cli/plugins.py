"""``lightning-reg plugins``: what is installed, from where, and what is wrong with it."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

import lightning as L
import torch
from lightning.pytorch.loggers import Logger
from rich.table import Table

from lightning_reg.cli.arguments import console
from lightning_reg.components import Backbone, Composer, Head, LossTerm
from lightning_reg.data.datasets.interface import RegistrationDataset
from lightning_reg.data.sampling import SampledPairs
from lightning_reg.discovery import GROUPS, ComponentError, load, providers
from lightning_reg.discovery.conf import conf_problems, distributions, plugin_packages
from lightning_reg.discovery.registry import OWN, singular
from lightning_reg.inference.optimization.parameters import Fit
from lightning_reg.training.optimizers import Schedule

INTERFACES: dict[str, type] = {
    "backbones": Backbone,
    "heads": Head,
    "composers": Composer,
    "losses": LossTerm,
    "callbacks": L.Callback,
    "datasets": RegistrationDataset,
    "optimizers": torch.optim.Optimizer,
    "schedules": Schedule,
    "samplers": SampledPairs,
    "loggers": Logger,
    "fits": Fit,
}


def add_arguments(parser: ArgumentParser) -> None:
    """None."""


def run(arguments: Namespace) -> int:
    """Print the table; exit code 1 where a component cannot be used."""
    table = Table("group", "name", "distribution", "class")
    problems: list[str] = []
    for group in GROUPS:
        for name, offered in sorted(providers(group).items()):
            for distribution in [f"{p.distribution}:" for p in offered] if len(offered) > 1 else [""]:
                try:
                    load(group, f"{distribution}{name}", INTERFACES[group])
                except ComponentError as error:
                    problems.append(str(error))
            if len(offered) > 1 and all(provider.distribution != OWN for provider in offered):
                problems.append(
                    f"The {singular(group)} '{name}' is provided by {' and '.join(p.distribution for p in offered)}; "
                    "one of them has to be named with it, as distribution:name."
                )
            if len(offered) > 1 and any(provider.distribution == OWN for provider in offered):
                hidden = " and ".join(f"{p.distribution} {p.version}" for p in offered if p.distribution != OWN)
                problems.append(
                    f"The {singular(group)} '{name}' of {hidden} has the name of a built-in one, which is used; write "
                    f"{next(p.distribution for p in offered if p.distribution != OWN)}:{name} for the other."
                )
            for provider in offered:
                table.add_row(group, name, f"{provider.distribution} {provider.version}", provider.target)
    for package in plugin_packages():
        table.add_row("conf", "", distributions(package), package)
    problems += conf_problems()
    terminal = console()
    terminal.print(table)
    for problem in problems:
        terminal.print(problem, style="red", soft_wrap=True)
    return 1 if problems else 0
