"""Help of ``train.py``: groups, options of a group, and values with their meanings."""

from __future__ import annotations

import re
import sys
from argparse import Namespace
from collections.abc import Sequence
from typing import Any

from rich.table import Table

from lightning_reg.cli.arguments import console
from lightning_reg.configuration.values import options
from lightning_reg.registry import UserError, did_you_mean

HELP = ("-h", "--help")
OPTIONS = (
    "-m", "--multirun", "-r", "--run", "-c", "--cfg", "--resolve", "-p", "--package", "-i",
    "--info", "-cn", "--config-name",
    "-cp", "--config-path", "-cd", "--config-dir", "-sc", "--shell-completion", "--version",
    "--hydra-help", "--experimental-rerun",
)  # fmt: skip
"""Options of Hydra."""
GROUPS = {
    "method": "what is trained: network, transform, loss, optimiser, schedule",
    "data": "images, preprocessing, augmentation, pairs",
    "size": "settings of the paper, or those for small images; each data set has its own choice",
    "experiment": "a method and data with the settings of a paper or a benchmark",
    "trainer": "arguments of lightning.Trainer: steps, devices, precision",
    "callbacks": "callbacks beside the method's",
    "logger": "record of the training",
    "launcher": "processes of a sweep",
    "sweep": "values of a sweep",
}
"""Groups of configurations, in the order in which they are looked for."""
USAGE = """Train a network that registers 3D images.

  {command} method=progressive data=phantom       the default
  {command} data=hippocampus data.root=FOLDER     own or public data
  {command} method.optimizer.lr=1e-4 budget=30    any value; minutes to train
  {command} -m run=NAME seed=1,2,3                a sweep; sent again, it goes on where it was
  {command} resume=RUN_FOLDER                     continue an interrupted run
  {command} --cfg job                             print the composed configuration

  {command} --help data                           options of a group, one line each
  {command} --help method=velocity                values of a method, with types and meanings
  {command} --help data.augmentation              values whose names begin so
  {command} --help method=dlir method.loss        of another method than the default

A component by name replaces the configured one: method.composer.backbone=voxelmorph, or two heads:
"method.composer.head=[{{name: affine}}, {{name: velocity}}]".
Half precision: trainer.precision=bf16-mixed.
"""


def show(words: Sequence[str], command: str) -> int:
    """Print the help for the words beside ``--help``.

    Args:
        words: groups, ``group=option`` or the beginning of keys; other overrides change the values
            that are shown.
        command: as it is called.

    Raises:
        UserError: a word names nothing.
    """
    words = [word for word in words if word not in HELP]
    if not words:
        return _groups(command)
    from lightning_reg.configuration.composition import explained

    terminal = console()
    given = [word for word in words if "=" in word]
    # keys, of what the other words choose
    wanted = [word for word in words if "=" not in word and word not in GROUPS]
    wanted = wanted or [group for word in given for group in _shown(word.partition("=")[0])]
    # these have one option each
    wanted += [word for word in words if word in ("trainer", "callbacks")]
    for group in (word for word in words if word in GROUPS):
        terminal.print(_table(f"{group}=", ("option", "description"), list(options(group).items())))
    if wanted:
        values = explained(given)
        begins = re.compile(f"({'|'.join(map(re.escape, wanted))})($|[.\\[])")
        rows = [value for value in values if begins.match(value.key)]
        if not rows:
            places = {v.key for v in values} | {v.key.rpartition(".")[0] for v in values}
            known = sorted(places | set(GROUPS))
            raise UserError(
                f"There is no option '{wanted[0]}'{did_you_mean(wanted[0], known)} List the groups"
                f" with {command} --help."
            )
        told = [(v.key, plain(v.value), v.type, v.meaning) for v in rows]
        terminal.print(_table(None, ("key", "value", "type", "meaning"), told))
    return 0


def overrides(prefix: str, parsed_args: Namespace | None = None, **kwargs: Any) -> list[str]:
    """Overrides of ``lightning-reg train`` that begin with a prefix, for tab completion.

    Args:
        parsed_args: options of the line so far: the values of other methods are not offered.
    """
    group, equals, _ = prefix.partition("=")
    if equals:
        return [f"{group}={option}" for option in options(group)] if group in GROUPS else []
    from lightning_reg.configuration.composition import explained

    words = [word.partition("=") for word in getattr(parsed_args, "overrides", None) or ()]
    line = [f"{name}={option}" for name, _, option in words if name in GROUPS and option]
    return [f"{name}=" for name in GROUPS] + [f"{value.key}=" for value in explained(line)]


def instances(prefix: str, **kwargs: Any) -> list[str]:
    """Names of instance optimisations, for tab completion."""
    return list(options("instance"))


def _shown(key: str) -> list[str]:
    """Values that an override is about."""
    key = key.lstrip("+~")
    if key in ("experiment", "size"):
        return ["method", "data"]
    return [key.partition(".")[0] if key in GROUPS else key]


def _groups(command: str) -> int:
    sys.stdout.write(USAGE.format(command=command) + "\nGroups:\n\n")
    for group, text in GROUPS.items():
        sys.stdout.write(f"  {group}: {text}\n      {', '.join(options(group))}\n")
    sys.stdout.write(
        "\nInstalled components: lightning-reg plugins. Tab completion: lightning-reg completion"
        " --help.\n"
    )
    return 0


def _table(title: str | None, heads: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    table = Table(*heads, title=title, title_justify="left", highlight=False)
    for row in rows:
        table.add_row(*row)
    return table


def plain(value: Any) -> str:
    """A value as a configuration writes it."""
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else str(value)
