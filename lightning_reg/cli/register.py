"""``lightning-reg register``: two images; :mod:`lightning_reg.cli.cohort` registers many pairs."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from pathlib import Path

from lightning_reg.cli.arguments import console, loading, require_files
from lightning_reg.cli.failures import in_place
from lightning_reg.cli.methods import registrar_of, require_method
from lightning_reg.cli.options import instances
from lightning_reg.cli.signatures import add_options, path
from lightning_reg.inference.outputs import OF_MANY, OF_ONE, OUTPUTS, outputs
from lightning_reg.registry import DataError

SOURCES = ("pairs", "folder", "series")
"""Options that give many pairs."""
OF_SEVERAL = ("to", "shard", "only", "verdicts", "consecutive", "report")
"""Options beside them."""
PARTS = tuple(f"{s}_{p}" for p in ("mask", "labels", "landmarks") for s in ("fixed", "moving"))
"""Files beside the two images."""
BYTES_PER_VOXEL = 40
"""Of the fixed image: the warped image, its Jacobian, the transform and the displacement, little of
which can be compressed.
"""


def add_arguments(parser: ArgumentParser) -> None:
    pair, save = "inference.inputs:AnyRegistrar.register", "inference.result:Result.save"
    cohort = "batch.cohort.register:register_cohort"
    model, instance = "inference.loading:load", "inference.loading:conventional"
    add_options(parser, pair, "[--fixed]", "[--moving]")
    many = parser.add_argument_group("many pairs", "Instead of --fixed and --moving.")
    add_options(many, "batch.cohort.pairs:pairs_from_table", "[--pairs TABLE]", pairs="table")
    add_options(many, "batch.cohort.pairs:pairs_from_folder", "[--folder]", "--consecutive")
    add_options(many, "batch.cohort.pairs:pairs_from_series", "[--series]")
    many.add_argument(
        "--to",
        metavar="SCAN",
        help="fixed image: a scan or file (--folder), or a number, default 0, or mean (--series)",
    )
    add_options(many, cohort, "--shard I/N", "--report")
    many.add_argument(
        "--only",
        action="append",
        default=[],
        metavar="PAIR",
        help="register this pair again (repeatable); failed: all failed or judged as failed",
    )
    add_options(many, "batch.cohort.ledger:Ledger.verdicts", "[--verdicts FILE]", verdicts="path")
    who = parser.add_argument_group(
        "method",
        "A model (several: their mean), an instance optimisation (default auto), or both: the"
        " optimisation then refines the model's result.",
    )
    add_options(who, model, "[--model]...", "--weight W")
    add_options(who, "inference.ensemble:models", "--tta", tta="augment")
    chosen = add_options(who, instance, "[--instance]", instance="name")
    chosen["instance"].completer = instances  # type: ignore[attr-defined]
    add_options(who, pair, "--refine N")
    add_options(who, instance, "[overrides key=value ...]")
    parser.add_argument(
        "--out",
        required=True,
        type=path,
        help="new folder for the results; for many pairs also an existing one, to continue",
    )
    add_options(parser, pair, *(f"--{part.replace('_', '-')}" for part in PARTS))
    add_options(parser, instance, "--start", "--device", "--memory GIB")
    add_options(parser, "metrics.extra:build_metrics", "[--metric NAME]...", metric="names")
    parser.add_argument(
        "--files",
        metavar="A,B",
        help=f"files to write: all, or some of {', '.join(OUTPUTS)} (default for many pairs:"
        f" {', '.join(OF_MANY)})",
    )
    add_options(parser, save, "[--section NAME]...", "--inverse", "--overwrite", "--no-report")


def run(arguments: Namespace) -> int:
    many = [name for name in SOURCES if getattr(arguments, name) is not None]
    if not many and (arguments.fixed is None or arguments.moving is None):
        raise DataError(
            "Give two images (--fixed, --moving), or many pairs (--pairs, --folder or --series)."
        )
    given = [name for name in ("fixed", "moving", *PARTS) if getattr(arguments, name) is not None]
    if len(many) > 1 or (many and given):
        other = (many[1:] + given)[0].replace("_", "-")
        raise DataError(f"--{many[0]} and --{other} exclude each other; leave one out.")
    alone = [n for n in OF_SEVERAL if getattr(arguments, n) not in (None, [], False, (1, 1))]
    if alone and not many:
        raise DataError(
            f"--{alone[0]} is of many pairs (--pairs, --folder or --series); leave it out."
        )
    require_files(*(getattr(arguments, name) for name in (*given, *many, "verdicts")))
    require_method(arguments)
    if many:
        from lightning_reg.cli.cohort import register_many

        return register_many(arguments, files_of(arguments.files, OF_MANY))
    return _register(arguments)


def files_of(text: str | None, default: Sequence[str]) -> Sequence[str]:
    """Names of outputs that ``--files`` gives."""
    if text is None:
        return default
    names = [name.strip() for name in text.split(",") if name.strip()]
    files = tuple(OUTPUTS) if text == "all" else names
    outputs(files, "--files")
    return files


def _register(arguments: Namespace) -> int:
    """Register two images."""
    from lightning_reg.io.folders import refuse_existing
    from lightning_reg.registry import build

    terminal, out, overwrite = console(), arguments.out, arguments.overwrite
    files = files_of(arguments.files, OF_ONE)
    refuse_existing(out, overwrite, "register")
    with loading():
        from lightning_reg.cli.tables import metrics_table
        from lightning_reg.inference.report.page import ReportSection
        from lightning_reg.io.images import voxels
    space = BYTES_PER_VOXEL * voxels(Path(arguments.fixed).expanduser())
    refuse_existing(out, overwrite, "register", space=space)
    registrar, refine = registrar_of(arguments)
    sections = [build("report_sections", name, ReportSection) for name in arguments.section]
    parts = {name: getattr(arguments, name) for name in PARTS}
    result = registrar.register(
        arguments.fixed, arguments.moving, refine=refine, progress=terminal.print, **parts
    )
    result.save(
        out, overwrite=overwrite, inverse=arguments.inverse, report=not arguments.no_report,
        sections=sections, files=files,
    )  # fmt: skip
    for warning in result.warnings:
        terminal.print(in_place(f"Warning: {warning}"), style="yellow")
    terminal.print(metrics_table(result.metrics()))
    seconds = ", ".join(f"{name} {value:.1f}" for name, value in result.seconds.items())
    terminal.print(f"Seconds: {seconds}. Everything is in {out}")
    if not arguments.no_report:
        terminal.print(f"Look at {out / 'report.html'}")
    return 0
