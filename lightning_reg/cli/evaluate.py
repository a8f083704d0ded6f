"""``lightning-reg evaluate``."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--model", required=True, action="append", help="a trained network: best.ckpt, a model's name, or an address")
    parser.add_argument("--data", required=True, help="data configuration: a file of conf/data or of an installed package")
    parser.add_argument("overrides", nargs="*", metavar="data.key=value", help="values of the data configuration, as data.root=FOLDER")
    parser.add_argument("--out", required=True, help="new folder for the table, the totals and the report")
    parser.add_argument("--against", metavar="MODEL", help="a second checkpoint, compared case by case (paired Wilcoxon test)")
    parser.add_argument(
        "--split", default="validation", choices=("train", "validation", "test", "all"), help="whose pairs (default validation)"
    )
    parser.add_argument("--metric", action="append", default=[], metavar="NAME", help="a metric of another distribution (repeatable)")
    parser.add_argument("--limit", type=int, help="at most this many pairs")
    parser.add_argument("--refine", type=int, metavar="N", help="steps of instance optimisation after the network")
    parser.add_argument("--instance", default="refine", help="the instance optimisation that they run, of conf/instance (default refine)")
    parser.add_argument("--learn2reg", action="store_true", help="write the challenge's displacement files and its variants of two metrics")
    parser.add_argument("--device", default="cpu", help="cpu (default), cuda, cuda:N")
    parser.add_argument("--overwrite", action="store_true", help="replace the results in --out")


def run(arguments: Namespace) -> int:
    from rich.progress import Progress

    from lightning_reg.cli.arguments import console
    from lightning_reg.cli.tables import totals_table
    from lightning_reg.data.datasets.splits import open_configured
    from lightning_reg.discovery import UserError
    from lightning_reg.inference import learn2reg
    from lightning_reg.inference.evaluation import Evaluation, evaluate_dataset
    from lightning_reg.inference.registrar import load
    from lightning_reg.inference.result import Result
    from lightning_reg.io.folders import refuse_existing
    from lightning_reg.metrics import summaries
    from lightning_reg.metrics.extra import build_metrics

    terminal, out = console(), Path(arguments.out).expanduser()
    if len(arguments.model) > 1:
        raise UserError("evaluate takes one --model; --against compares it with a second.")
    if arguments.limit is not None and arguments.limit < 1:
        raise UserError(f"--limit is {arguments.limit}; give a number of pairs, or leave it out.")
    refuse_existing(out, arguments.overwrite, "evaluate")
    models = [
        load(m, device=arguments.device, refinement=arguments.instance) for m in (*arguments.model, arguments.against) if m is not None
    ]
    for model in models:
        model.metrics = build_metrics(arguments.metric)
    data, config = open_configured(arguments.data, arguments.overrides)
    split = None if arguments.split == "all" else arguments.split
    fields: dict[str, Tensor] = {}
    warnings: list[str] = []
    rows: list[list[dict[str, Any]]] = []
    limit = arguments.limit if arguments.limit is not None else config.get("max_validation_pairs")
    for model in models:
        first = not rows
        with Progress(console=terminal, transient=True, disable=not terminal.is_terminal) as progress:
            task = progress.add_task("pairs", total=None)

            def seen(number: int, count: int, row: object, result: Result, first: bool = first, progress: Progress = progress) -> None:
                progress.update(task, total=count, completed=number + 1)  # noqa: B023 - called inside the loop's body
                warnings.extend(warning.split(" (after")[0] for warning in result.warnings)  # the numbers differ from case to case
                if arguments.learn2reg and first:
                    grids = result.pair.fixed.grid, result.pair.moving.grid
                    name = "disp_" + "_".join(result.pair.name[0].replace(" ", "-").split("-<-")) + ".nii.gz"
                    fields[name] = learn2reg.voxel_displacement(result.transform, *grids)

            found = evaluate_dataset(
                model, data, split=split, limit=limit, refine=arguments.refine, challenge=arguments.learn2reg, progress=seen
            )
        rows.append(found)
    settings = {"data": config, "split": arguments.split, "refine": arguments.refine, "models": [model.settings for model in models]}
    evaluation = Evaluation(rows[0], rows[1] if len(rows) > 1 else None, settings)
    evaluation.save(out, arguments.overwrite, fields)
    against = summaries(rows[1]) if len(rows) > 1 else None
    terminal.print(totals_table(evaluation.totals(), against, evaluation.comparison()))
    for warning in dict.fromkeys(warnings):
        terminal.print(f"Warning ({warnings.count(warning)} of {sum(map(len, rows))} registrations): {warning}", style="yellow")
    terminal.print(f"{len(rows[0])} pairs. Everything is in {arguments.out}; look at {out / 'report.html'}", soft_wrap=True)
    return 0
