"""``lightning-reg report``."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from lightning_reg.cli.arguments import loading
from lightning_reg.cli.signatures import add_options


def add_arguments(parser: ArgumentParser) -> None:
    add_options(parser, "inference.report.again:report_again", "folder", "[--section NAME]...")


def run(arguments: Namespace) -> int:
    from lightning_reg.registry import DataError, build

    if not arguments.folder.is_dir():
        raise DataError(f"There is no folder {arguments.folder}; correct the path.")
    with loading():
        from lightning_reg.inference.report.again import report_again
        from lightning_reg.inference.report.page import ReportSection
    sections = [build("report_sections", name, ReportSection) for name in arguments.section]
    print(f"Wrote {report_again(arguments.folder, sections)}")
    return 0
