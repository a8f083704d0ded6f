"""``lightning-reg register``."""

from __future__ import annotations

import functools
import shlex
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, TextColumn
from rich.progress import Progress as Bar

from lightning_reg.cli.arguments import (
    Lines,
    console,
    loading,
    require_files,
    require_methods,
    shard_of,
)
from lightning_reg.cli.failures import in_place
from lightning_reg.cli.options import instances
from lightning_reg.inference.outputs import OF_MANY, OF_ONE, OUTPUTS, outputs
from lightning_reg.io.names import duration
from lightning_reg.registry import DataError, UserError

if TYPE_CHECKING:
    from lightning_reg.batch.cohort.pairs import CohortPair
    from lightning_reg.batch.cohort.register import Progress
    from lightning_reg.inference.inputs import AnyRegistrar

SHOWN = 8
"""Failed pairs that are printed."""
SIDES = ("mask", "labels", "landmarks")


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--fixed", help="image: NIfTI, MetaImage, NRRD, or a folder with a DICOM series"
    )
    parser.add_argument("--moving", help="image to align with the fixed image")
    many = parser.add_argument_group("many pairs", "Instead of --fixed and --moving.")
    many.add_argument(
        "--pairs",
        metavar="TABLE",
        help="a CSV file with the columns fixed, moving (and pair, fixed_mask, ...)",
    )
    many.add_argument(
        "--folder",
        help="folder of scans: its usual pairs, all scans --to one of them, or --consecutive",
    )
    many.add_argument(
        "--series",
        help=(
            "time points: a 4D NIfTI file, or a folder with one file each; all are registered --to"
            " one of them"
        ),
    )
    many.add_argument(
        "--to",
        metavar="SCAN",
        help="fixed image: a scan or file (--folder), or a number, default 0, or mean (--series)",
    )
    many.add_argument(
        "--consecutive",
        action="store_true",
        help="with --folder: register each scan of a subject to the previous one",
    )
    many.add_argument(
        "--shard",
        metavar="I/N",
        help="every N-th pair from the I-th: for N processes or machines that share --out",
    )
    many.add_argument(
        "--only",
        action="append",
        metavar="PAIR",
        help=(
            "register this pair again (repeatable); failed: all that failed or were judged as"
            " failed"
        ),
    )
    many.add_argument(
        "--verdicts",
        metavar="FILE",
        help="quality.csv for --only failed (default: the one in --out)",
    )
    who = parser.add_argument_group(
        "method",
        "A model, an instance optimisation, or both: the optimisation then refines the model's"
        " result.",
    )
    who.add_argument(
        "--model",
        action="append",
        help=(
            "trained network: best.ckpt, the name of an installed model, or an address (several:"
            " their mean)"
        ),
    )
    who.add_argument(
        "--tta",
        action="store_true",
        help="test-time augmentation: mean over flips and a small shift of the images",
    )
    who.add_argument(
        "--weight",
        type=float,
        metavar="W",
        help="weight of the smoothness, for a model that was trained for a range of weights",
    )
    instance = who.add_argument(
        "--instance",
        help=(
            "instance optimisation: auto (default without a model), bspline, lung_ct, rigid, ...,"
            " or a YAML file"
        ),
    )
    instance.completer = instances  # type: ignore[attr-defined]
    who.add_argument(
        "--refine",
        type=int,
        metavar="N",
        help="steps of instance optimisation (default 0 with a model)",
    )
    who.add_argument(
        "overrides",
        nargs="*",
        metavar="key=value",
        help="values of the instance optimisation, as optimization.loss.bending.weight=5",
    )
    parser.add_argument(
        "--out",
        required=True,
        help="new folder for the results; for many pairs also an existing one, to continue",
    )
    for part, text in zip(
        SIDES,
        ("region of interest", "label map, for Dice and surface distances", "landmarks, for TRE"),
        strict=True,
    ):
        for side in ("fixed", "moving"):
            parser.add_argument(f"--{side}-{part}", help=f"{text}, of the {side} image")
    parser.add_argument(
        "--start",
        help=(
            "initial alignment: headers, centers or auto (default: headers, or that of the instance"
            " optimisation)"
        ),
    )
    parser.add_argument(
        "--metric",
        action="append",
        default=[],
        metavar="NAME",
        help="metric of another distribution (repeatable)",
    )
    parser.add_argument(
        "--section",
        action="append",
        default=[],
        metavar="NAME",
        help="report section of another distribution (repeatable)",
    )
    parser.add_argument(
        "--files",
        metavar="A,B",
        help=(
            f"files to write: all, or some of {', '.join(OUTPUTS)} (default for many pairs:"
            f" {', '.join(OF_MANY)})"
        ),
    )
    parser.add_argument("--inverse", action="store_true", help="write the inverse transform too")
    parser.add_argument("--device", default="cpu", help="cpu (default), cuda, cuda:N")
    parser.add_argument(
        "--memory",
        type=float,
        metavar="GIB",
        help="approximate memory limit; large images are registered at coarser voxels",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace the results in --out")
    parser.add_argument("--no-report", action="store_true", help="leave out report.html")
    parser.add_argument(
        "--report", action="store_true", help="write a report for each of many pairs"
    )


def run(arguments: Namespace) -> int:
    many = [name for name in ("pairs", "folder", "series") if getattr(arguments, name) is not None]
    extra = {
        f"{side}_{part}": getattr(arguments, f"{side}_{part}")
        for side in ("fixed", "moving")
        for part in SIDES
    }
    if not many and (arguments.fixed is None or arguments.moving is None):
        raise DataError(
            "Give two images (--fixed, --moving), or many pairs (--pairs, --folder or --series)."
        )
    given = [name for name in ("fixed", "moving", *extra) if getattr(arguments, name) is not None]
    if len(many) > 1 or (many and given):
        both = f"--{many[0]}", f"--{(many[1:] + given)[0].replace('_', '-')}"
        raise DataError(f"{both[0]} and {both[1]} exclude each other; leave one out.")
    of_many = ("to", "shard", "only", "verdicts")
    alone = [name for name in of_many if getattr(arguments, name) is not None] + [
        n for n in ("consecutive", "report") if getattr(arguments, n)
    ]
    if alone and not many:
        raise DataError(
            f"--{alone[0]} is of many pairs (--pairs, --folder or --series); leave it out."
        )
    require_files(
        *(getattr(arguments, name) for name in ("fixed", "moving", *many, "verdicts")),
        *extra.values(),
    )
    _refuse_contradictions(arguments)
    return _cohort(arguments) if many else _pair(arguments, extra)


def _registrar(arguments: Namespace) -> tuple[AnyRegistrar, int | None]:
    """Registrar of the command, and its number of steps of instance optimisation."""
    from lightning_reg.cli.models import fetched

    with loading():
        from lightning_reg.inference.ensemble import models
        from lightning_reg.inference.loading import conventional, load
        from lightning_reg.metrics.extra import build_metrics
    registrar: AnyRegistrar
    instance, overrides = arguments.instance, arguments.overrides
    settings = {"device": arguments.device, "memory": arguments.memory}
    if arguments.model:
        settings |= {"start": arguments.start or "headers", "weight": arguments.weight}
        settings |= {"refinement": instance or "refine", "overrides": overrides}
        paths = [fetched(model, console()) for model in arguments.model]
        registrar = models(paths, functools.partial(load, **settings), arguments.tta)
    else:
        settings["start"] = arguments.start
        registrar = conventional(instance or "auto", overrides, **settings)
    registrar.metrics = build_metrics(arguments.metric)
    refine, optimization = arguments.refine, registrar.members[0].optimization
    if arguments.model and instance and refine is None and optimization is not None:
        refine = sum(stage.steps for stage in optimization.stages)
    return registrar, refine


def _refuse_contradictions(arguments: Namespace) -> None:
    """Refuse options that do not go together, models and methods that there are not."""
    if arguments.refine is not None and arguments.refine < 0:
        raise UserError(f"--refine is {arguments.refine}; give a number of steps, or leave it out.")
    if arguments.refine == 0 and not arguments.model:
        raise UserError(
            "--refine 0 without a model registers nothing; give a number of steps, or leave it out."
        )
    if arguments.tta and (arguments.refine or arguments.instance):
        raise UserError(
            "--tta is of the network's own result; leave out --refine and --instance, or --tta."
        )
    if arguments.overrides and arguments.model and not arguments.refine and not arguments.instance:
        raise UserError(
            f"{arguments.overrides[0]} is of the refinement, which does not run; add --refine N, or"
            " leave it out."
        )
    several = arguments.tta or len(arguments.model or ()) > 1
    if arguments.model and arguments.memory is not None and several:
        raise UserError(
            "--memory is of one registration, and not of a mean of several; leave it out."
        )
    if not arguments.model and (arguments.tta or arguments.weight is not None):
        option = "--tta" if arguments.tta else "--weight"
        raise UserError(f"{option} is of a network; give --model, or leave it out.")
    require_methods(arguments.model or (), [arguments.instance] if arguments.instance else ())


def _pair(arguments: Namespace, extra: dict[str, str | None]) -> int:
    from lightning_reg.io.folders import refuse_existing
    from lightning_reg.registry import build

    terminal, out = console(), Path(arguments.out).expanduser()
    files = _files(arguments.files, OF_ONE)
    refuse_existing(out, arguments.overwrite, "register")
    with loading():
        from lightning_reg.cli.tables import metrics_table
        from lightning_reg.inference.report.page import ReportSection
    refuse_existing(out, arguments.overwrite, "register", space=_bytes(arguments.fixed))
    registrar, refine = _registrar(arguments)
    sections = [build("report_sections", name, ReportSection) for name in arguments.section]
    result = registrar.register(
        arguments.fixed, arguments.moving, refine=refine, progress=terminal.print, **extra
    )
    made = {"inverse": arguments.inverse, "report": not arguments.no_report, "files": files}
    result.save(out, overwrite=arguments.overwrite, sections=sections, **made)
    for warning in result.warnings:
        terminal.print(in_place(f"Warning: {warning}"), style="yellow")
    terminal.print(metrics_table(result.metrics()))
    seconds = ", ".join(f"{name} {value:.1f}" for name, value in result.seconds.items())
    terminal.print(f"Seconds: {seconds}. Everything is in {arguments.out}", soft_wrap=True)
    if not arguments.no_report:
        terminal.print(f"Look at {out / 'report.html'}", soft_wrap=True)
    return 0


def _cohort(arguments: Namespace) -> int:
    """Register many pairs; 1 where some of this process's failed."""
    terminal, out = console(), Path(arguments.out).expanduser()
    if arguments.overwrite:
        raise UserError(
            "Many pairs go on in a folder that is there, and --only PAIR registers one again; leave"
            " out --overwrite."
        )
    if arguments.no_report or arguments.section:
        raise UserError(
            "Of many pairs no reports are written; leave out --no-report and --section"
            " (lightning-reg report PAIR_FOLDER)."
        )
    files = _files(arguments.files, OF_MANY)
    with loading():
        from lightning_reg.batch.cohort.ledger import Ledger
        from lightning_reg.batch.cohort.register import register_cohort
    pairs, shard = _pairs(arguments, out), shard_of(arguments.shard)
    only = None
    if arguments.only:
        ledger, given = Ledger(out), arguments.verdicts
        verdicts = ledger.verdicts(Path(given).expanduser() if given else None)
        only = {name for name in arguments.only if name != "failed"}
        only |= set(ledger.failed(verdicts)) if "failed" in arguments.only else set()
        if not only:
            terminal.print("No pair has failed.")
            return 0
    registrar, refine = _registrar(arguments)
    with ShownProgress(terminal) as shown:
        told = register_cohort(
            registrar, pairs, out, refine=refine, shard=shard, only=only, inverse=arguments.inverse,
            report=arguments.report, files=files,
            progress=shown,
        )  # fmt: skip
    before = f", {told.earlier:,} had been before" if told.earlier else ""
    terminal.print(
        f"{told.done:,} pairs registered, {told.failed:,} failed{before}. Everything is in"
        f" {arguments.out}",
        soft_wrap=True,
    )
    if told.failed:
        ledger = Ledger(out)
        for name in ledger.failed({})[:SHOWN]:
            terminal.print(f"  {name}: {(ledger.row(name) or {}).get('message')}", soft_wrap=True)
    terminal.print(
        f"Look at all of them: lightning-reg collect {shlex.quote(arguments.out)}", soft_wrap=True
    )
    return 1 if told.failed else 0


def _files(text: str | None, default: Sequence[str]) -> Sequence[str]:
    """Files that ``--files`` names."""
    if text is None:
        return default
    names = [name.strip() for name in text.split(",") if name.strip()]
    files = tuple(OUTPUTS) if text == "all" else names
    outputs(files, "--files")
    return files


def _pairs(arguments: Namespace, out: Path) -> list[CohortPair]:
    from lightning_reg.batch.cohort.pairs import (
        pairs_from_folder,
        pairs_from_series,
        pairs_from_table,
    )

    if arguments.consecutive and (arguments.folder is None or arguments.to is not None):
        raise UserError("--consecutive is of --folder, without --to; leave it out.")
    if arguments.pairs is not None:
        if arguments.to is not None:
            raise UserError(
                "--to is of --folder or --series; a table names each pair's fixed image."
            )
        return pairs_from_table(Path(arguments.pairs).expanduser())
    if arguments.folder is not None:
        return pairs_from_folder(
            Path(arguments.folder).expanduser(), arguments.to, arguments.consecutive
        )
    return pairs_from_series(
        Path(arguments.series).expanduser(), arguments.to or "0", out / "mean.nii.gz"
    )


class ShownProgress:
    """Pairs, pairs per minute and the rest of the time: a bar in a terminal, else a line every half
    minute.
    """

    def __init__(self, terminal: Console) -> None:
        columns = (
            TextColumn("{task.completed:,} of {task.total:,} pairs"),
            BarColumn(),
            TextColumn("{task.fields[told]}"),
        )
        self.lines, quiet = Lines(terminal), not terminal.is_terminal
        self.bar = Bar(*columns, console=terminal, transient=True, disable=quiet)
        self.task = self.bar.add_task("", total=0, told="")

    def __enter__(self) -> ShownProgress:
        self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.stop()

    def __call__(self, now: Progress) -> None:
        made = now.earlier + now.done + now.failed
        rest = "" if now.remaining != now.remaining else f", {duration(now.remaining)} left"
        failed = f", {now.failed:,} failed" if now.failed else ""
        told = f"{now.per_minute:.1f} pairs a minute{rest}{failed}"
        self.bar.update(self.task, total=now.total, completed=made, told=told)
        if made:
            self.lines(f"{made:,} of {now.total:,}: {told}")


BYTES_PER_VOXEL = 40
"""Of the fixed image: the warped image, its Jacobian, the transform and the displacement, little of
which can be compressed.
"""


def _bytes(fixed: str) -> int:
    """Estimated size of the results in bytes, from the fixed image's header; 0 where that cannot be
    read.
    """
    from lightning_reg.io.images import voxels

    return BYTES_PER_VOXEL * voxels(Path(fixed).expanduser())
