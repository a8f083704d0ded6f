"""``lightning-reg report``."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path

from lightning_reg.cli.arguments import loading


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("folder", help="folder of a training run, a registration or an evaluation")
    parser.add_argument(
        "--section",
        action="append",
        default=[],
        metavar="NAME",
        help="report section of another distribution (repeatable)",
    )


def run(arguments: Namespace) -> int:
    from lightning_reg.registry import DataError, build

    folder = Path(arguments.folder).expanduser()
    if not folder.is_dir():
        raise DataError(f"There is no folder {folder}; correct the path.")
    with loading():
        from lightning_reg.inference.report.again import report_again
        from lightning_reg.inference.report.page import ReportSection
    sections = [build("report_sections", name, ReportSection) for name in arguments.section]
    print(f"Wrote {report_again(folder, sections)}")
    return 0
