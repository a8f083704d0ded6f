"""``lightning-reg register``."""

from __future__ import annotations

import functools
from argparse import ArgumentParser, Namespace
from pathlib import Path

from lightning_reg.cli.arguments import console, require_files

SIDES = ("mask", "labels", "landmarks")


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--fixed", required=True, help="image: NIfTI, MetaImage, NRRD, or a folder with a DICOM series")
    parser.add_argument("--moving", required=True, help="image that is brought onto the fixed one")
    who = parser.add_argument_group("by whom (--model, --instance, or both: the instance optimisation then refines what the model found)")
    who.add_argument(
        "--model", action="append", help="a trained network: best.ckpt, the name of an installed model, or an address; several: their mean"
    )
    who.add_argument("--tta", action="store_true", help="test-time augmentation: the mean over flips and a small shift of the images")
    who.add_argument("--instance", help="instance optimisation of conf/instance (bspline, lung_ct, ...), or a YAML file")
    who.add_argument("--refine", type=int, metavar="N", help="steps of instance optimisation; default with a model 0")
    who.add_argument("overrides", nargs="*", metavar="key=value", help="its values, as optimization.loss.bending.weight=5")
    parser.add_argument("--out", required=True, help="new folder for everything that is written")
    for part, text in zip(SIDES, ("where the image counts", "for Dice and surface distances", "for TRE"), strict=True):
        for side in ("fixed", "moving"):
            parser.add_argument(f"--{side}-{part}", help=text if side == "fixed" else None)
    parser.add_argument("--start", help="where to begin: headers, centers or auto (default headers, or the method's own)")
    parser.add_argument("--metric", action="append", default=[], metavar="NAME", help="a metric of another distribution (repeatable)")
    parser.add_argument("--section", action="append", default=[], metavar="NAME", help="a section of the report, likewise")
    parser.add_argument("--inverse", action="store_true", help="write the inverse transform too")
    parser.add_argument("--device", default="cpu", help="cpu (default), cuda, cuda:N")
    parser.add_argument("--overwrite", action="store_true", help="replace the results in --out")
    parser.add_argument("--no-report", action="store_true", help="leave out report.html")


def run(arguments: Namespace) -> int:
    extra = {f"{side}_{part}": getattr(arguments, f"{side}_{part}") for side in ("fixed", "moving") for part in SIDES}
    require_files(arguments.fixed, arguments.moving, *extra.values())
    from lightning_reg.cli.models import fetched
    from lightning_reg.cli.tables import metrics_table
    from lightning_reg.discovery import UserError, build
    from lightning_reg.inference.ensemble import Ensemble, models
    from lightning_reg.inference.registrar import Registrar, conventional, load
    from lightning_reg.inference.report.page import ReportSection
    from lightning_reg.io.folders import refuse_existing
    from lightning_reg.metrics.extra import build_metrics

    terminal, out = console(), Path(arguments.out).expanduser()
    if arguments.refine is not None and arguments.refine < 0:
        raise UserError(f"--refine is {arguments.refine}; give a number of steps, or leave it out.")
    refuse_existing(out, arguments.overwrite, "register", space=_bytes(arguments.fixed))
    if arguments.tta and (arguments.refine or arguments.instance):
        raise UserError("--tta is of the network's own result; leave out --refine and --instance, or --tta.")
    if arguments.overrides and arguments.model and not arguments.refine and not arguments.instance:
        raise UserError(f"{arguments.overrides[0]} is of the refinement, which does not run; add --refine N, or leave it out.")
    registrar: Registrar | Ensemble
    if arguments.model:
        settings = {"device": arguments.device, "start": arguments.start or "headers", "overrides": arguments.overrides}
        opened = functools.partial(load, refinement=arguments.instance or "refine", **settings)
        registrar = models([fetched(model, terminal) for model in arguments.model], opened, arguments.tta)
    elif arguments.tta:
        raise UserError("--tta is of a network; give --model, or leave it out.")
    else:
        registrar = conventional(arguments.instance or "bspline", arguments.overrides, device=arguments.device, start=arguments.start)
    registrar.metrics = build_metrics(arguments.metric)
    sections = [build("report_sections", name, ReportSection) for name in arguments.section]
    refine = arguments.refine
    if arguments.model and arguments.instance and refine is None and registrar.optimization is not None:
        refine = sum(stage.steps for stage in registrar.optimization.stages)
    result = registrar.register(arguments.fixed, arguments.moving, refine=refine, progress=terminal.print, **extra)
    result.save(out, overwrite=arguments.overwrite, inverse=arguments.inverse, report=not arguments.no_report, sections=sections)
    for warning in result.warnings:
        terminal.print(f"Warning: {warning}", style="yellow")
    terminal.print(metrics_table(result.metrics()))
    seconds = ", ".join(f"{name} {value:.1f}" for name, value in result.seconds.items())
    terminal.print(f"Seconds: {seconds}. Everything is in {arguments.out}", soft_wrap=True)
    if not arguments.no_report:
        terminal.print(f"Look at {out / 'report.html'}", soft_wrap=True)
    return 0


BYTES_PER_VOXEL = 40
"""Of the fixed image: the warped image, its Jacobian, the transform and the displacement, little of which can be compressed."""


def _bytes(fixed: str) -> int:
    """Estimated size of the results in bytes, from the fixed image's header; 0 where that cannot be read."""
    from lightning_reg.io.images import voxels

    return BYTES_PER_VOXEL * voxels(Path(fixed).expanduser())
