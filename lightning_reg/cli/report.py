"""``lightning-reg report``."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("folder", help="of a training run, a registration or an evaluation")


def run(arguments: Namespace) -> int:
    from lightning_reg.inference.report.again import report_again

    print(f"Wrote {report_again(Path(arguments.folder).expanduser())}")
    return 0
