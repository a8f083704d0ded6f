"""Interface of subcommands that other distributions add."""

from __future__ import annotations

from abc import ABC, abstractmethod
from argparse import ArgumentParser, Namespace


class Command(ABC):
    """A subcommand ``lightning-reg NAME``, registered under ``lightning_reg.commands``; imported
    and made when it is called.
    """

    @abstractmethod
    def add_arguments(self, parser: ArgumentParser) -> None:
        """Declare options; long ones are not abbreviated."""

    @abstractmethod
    def run(self, arguments: Namespace) -> int:
        """Do it; the exit code. A :class:`~lightning_reg.registry.UserError` is shown as one
        sentence.
        """
