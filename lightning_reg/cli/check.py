"""``lightning-reg check``."""

from __future__ import annotations

import shlex
from argparse import ArgumentParser, Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning_reg.cli.failures import in_place

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from lightning_reg.curation.check.group import Check
    from lightning_reg.curation.prepare import Prepared

SHOWN = 4
"""Findings of one sort that are printed in full; all of them go to --table."""

MEASURED = (
    ("tre_before_mm", "TRE before, mm", "{:.2f}"),
    ("dice_before", "Dice before", "{:.3f}"),
    ("mask_dice_before", "Dice of masks before", "{:.3f}"),
    ("overlap", "overlap in the world", "{:.2f}"),
)
"""Measurements of a pair: key, title, form."""

COLUMNS = (
    "scan", "split", "image", "voxels", "voxel_size_mm", "low", "high", "units", "parts",
    "findings",
)  # fmt: skip
"""Columns of the table of scans."""


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument(
        "data",
        metavar="DIR | MANIFEST",
        help="prepared data, a folder of scans, a manifest, or a table of pairs",
    )
    parser.add_argument(
        "--as",
        dest="name",
        metavar="DATASET",
        help="read DATA as this data configuration (raw files: dirlab, acdc, ...)",
    )
    parser.add_argument(
        "--fix",
        metavar="NEW",
        help="write the repaired data into this new folder (safe repairs only)",
    )
    parser.add_argument(
        "--method", help="estimate the memory of a training step of this method (conf/method)"
    )
    parser.add_argument(
        "--table",
        metavar="CSV",
        help="write a table with a row and the findings of each scan into this file",
    )
    parser.add_argument(
        "--pairs",
        type=int,
        default=100,
        metavar="N",
        help="maximum number of pairs to measure (default 100)",
    )
    parser.add_argument("--workers", type=int, default=1, help="processes (default 1)")
    parser.add_argument(
        "overrides", nargs="*", metavar="data.key=value", help="values of the data configuration"
    )


def run(arguments: Namespace) -> int:
    """Print the table, the findings and the verdict; exit code 1 where there are errors."""
    from rich.progress import Progress

    from lightning_reg.cli.arguments import console, loading, require_files, require_processes
    from lightning_reg.configuration.composition import compose, require_option
    from lightning_reg.io.folders import refuse_file
    from lightning_reg.registry import UserError

    require_files(arguments.data)
    require_processes(arguments.workers)
    for group, option in (("data", arguments.name), ("method", arguments.method)):
        if option is not None:
            require_option(group, option)
    if arguments.pairs < 0:
        raise UserError(f"--pairs is {arguments.pairs}; give a number of pairs, 0 for none.")
    if arguments.table:
        refuse_file(Path(arguments.table).expanduser(), overwrite=True)
    terminal = console()
    with loading():
        from lightning_reg.configuration.datasets import open_configured
        from lightning_reg.curation.check.group import check
        from lightning_reg.curation.check.repair import repair
        from lightning_reg.training.memory import step_memory
    method = (
        compose([f"method={arguments.method}", "size=paper"])["method"]
        if arguments.method
        else None
    )
    name = arguments.name or kind_of(Path(arguments.data).expanduser())
    if arguments.name is None and name not in ("prepared", "folder", "pairs"):
        terminal.print(f"Read as data={name}; --as folder reads it as any folder.")
    data, config = open_configured(name, arguments.overrides, arguments.data)
    with Progress(console=terminal, transient=True, disable=not terminal.is_terminal) as progress:
        bar = progress.add_task("scans", total=None)

        def seen(number: int, count: int) -> None:
            progress.update(bar, completed=number, total=count)

        found = check(data, arguments.workers, arguments.pairs, seen)
        fixed = (
            repair(data, Path(arguments.fix).expanduser(), arguments.workers, seen)
            if arguments.fix
            else None
        )
    terminal.print(_summary(found))
    for line in _roles(found):
        terminal.print(line, soft_wrap=True, markup=False, highlight=False)
    _print_findings(found, terminal)
    if arguments.table:
        _write(Path(arguments.table).expanduser(), found)
    shape = _largest(found, config)
    if method is not None and shape is not None:
        text = (
            f"A training step of method={arguments.method} on images of"
            f" {' x '.join(map(str, shape))} voxels wants about"
        )
        terminal.print(
            f"{text} {step_memory(method, shape):.1f} GiB; on a CPU, up to twice as much.",
            soft_wrap=True,
        )
    if fixed is not None:
        for problem in fixed.problems:
            terminal.print(problem, style="red", soft_wrap=True)
        for line in _left_out(found, fixed):
            terminal.print(line, style="yellow", soft_wrap=True)
        text = (
            f"{len(fixed.rows)} of {len(found.scans)} scans are in {arguments.fix}, repaired where"
            " that is safe; look again:"
        )
        terminal.print(
            f"{text}\n  lightning-reg check {shlex.quote(arguments.fix)}", soft_wrap=True
        )
    errors, warnings = found.errors(), len(found.findings) - found.errors()
    counts = (
        f"{errors} error{'' if errors == 1 else 's'}, {warnings}"
        f" warning{'' if warnings == 1 else 's'}"
    )
    terminal.print(
        f"{'Not ready to train' if errors else 'Ready to train'}: {counts}.",
        style="bold red" if errors else "bold green",
    )
    return 1 if errors else 0


def kind_of(path: Path) -> str:
    """The data configuration that reads a folder or a table."""
    from lightning_reg.data.datasets.manifest import MANIFEST
    from lightning_reg.io.tables import read_table

    if path.is_dir():
        return "prepared" if (path / MANIFEST).is_file() else _provider(path) or "folder"
    columns = read_table(path, ())[0][1]
    return "pairs" if "fixed" in columns else "prepared"


def _provider(path: Path) -> str | None:
    """The data set whose provider's files these are, of those that no other folder looks like."""
    from lightning_reg.data.datasets.splits import open_dataset
    from lightning_reg.registry import DataError

    for name in ("dirlab", "creatis", "copdgene", "sunnybrook", "acdc"):
        try:
            open_dataset({"name": name, "root": str(path)})
        except DataError:
            continue
        return name
    return None


def _summary(found: Check) -> Table:
    """A column per split, a row per property."""
    from rich.table import Table

    splits = [
        split
        for split in ("train", "validation", "test")
        if any(scan.record.split == split for scan in found.scans)
    ]
    table = Table("", *splits)
    inside = {
        split: [scan for scan in found.scans if scan.record.split == split] for split in splits
    }

    def row(name: str, cells: list[str]) -> None:
        if any(cells):
            table.add_row(name, *cells)

    row(
        "scans (of subjects)",
        [f"{len(s)} ({len({scan.record.subject for scan in s})})" for s in inside.values()],
    )
    row("pairs", [str(found.pairs.get(split, 0)) for split in splits])
    for part in ("mask", "labels", "landmarks"):
        row(
            f"with {part}",
            [str(sum(part in scan.parts for scan in s) or "") for s in inside.values()],
        )
    grids = [[scan.grid for scan in s if scan.grid is not None] for s in inside.values()]
    row("voxels", [_range([list(map(float, g.shape)) for g in s], "{:.0f}") for s in grids])
    row("voxel size, mm", [_range([g.spacing[0].tolist() for g in s], "{:.3g}") for s in grids])
    row(
        "field of view, mm",
        [
            _range(
                [[n * v for n, v in zip(g.shape, g.spacing[0].tolist(), strict=True)] for g in s],
                "{:.0f}",
            )
            for s in grids
        ],
    )
    readable = [[scan for scan in s if scan.grid is not None] for s in inside.values()]
    row(
        "intensities",
        [f"{min(x.low for x in s):g} to {max(x.high for x in s):g}" if s else "" for s in readable],
    )
    row("units", [", ".join(sorted({x.units for x in s})) for s in readable])
    for key, title, form in MEASURED:
        values = [
            [float(m[key]) for m in found.measured if key in m and m["split"] == split]
            for split in splits
        ]
        row(
            title,
            [
                (
                    f"{form.format(sum(v) / len(v))} ({form.format(min(v))} to"
                    f" {form.format(max(v))})"
                    if v
                    else ""
                )
                for v in values
            ],
        )
    return table


def _roles(found: Check) -> list[str]:
    """Roles of the files that were read: the number of files of each part, and one of them."""
    lines = []
    for part, word in (
        ("image", "scans"),
        ("mask", "masks"),
        ("labels", "label maps"),
        ("landmarks", "landmarks"),
    ):
        files = [path for scan in found.scans if (path := getattr(scan.record, part)) is not None]
        lines += [f"Read as {word}: {len(files)}, as {files[0]}"] if files else []
    return lines


def _range(values: list[list[float]], form: str) -> str:
    """Smallest and largest along each axis; one of them where all are alike."""
    if not values:
        return ""
    low, high = (
        [form.format(pick(axis)) for axis in zip(*values, strict=True)] for pick in (min, max)
    )
    return " x ".join(low) if low == high else f"{' x '.join(low)} to {' x '.join(high)}"


def _print_findings(found: Check, terminal: Console) -> None:
    """Errors first; of many findings of one sort the first few."""
    sorts = dict.fromkeys((f.level, f.kind) for f in sorted(found.findings, key=lambda f: f.level))
    for level, kind in sorts:
        color = "red" if level == "error" else "yellow"
        texts = list(
            dict.fromkeys(f.text for f in found.findings if (f.level, f.kind) == (level, kind))
        )
        for text in texts[:SHOWN]:
            line = in_place(f"{level.upper()}: {text}")
            terminal.print(line, style=color, soft_wrap=True, highlight=False)
        if len(texts) > SHOWN:
            terminal.print(
                f"  ... and {len(texts) - SHOWN} more about {kind} (--table FILE.csv has them all)"
            )


def _largest(found: Check, config: Mapping[str, Any]) -> list[int] | None:
    """The extents that training will see: those of the configuration, or the largest there are."""
    shape, spacing = config["preprocessing"].get("shape"), config["preprocessing"].get("spacing")
    grids = [scan.grid for scan in found.scans if scan.grid is not None]
    if shape is not None or not grids:
        return shape
    if spacing is None:
        return [max(axis) for axis in zip(*(grid.shape for grid in grids), strict=True)]
    wanted = [spacing] * 3 if isinstance(spacing, (int, float)) else spacing
    extents = [
        [n * s for n, s in zip(grid.shape, grid.spacing[0].tolist(), strict=True)] for grid in grids
    ]
    return [
        round(max(axis) / w) for axis, w in zip(zip(*extents, strict=True), wanted, strict=True)
    ]


def _left_out(found: Check, fixed: Prepared) -> list[str]:
    """Masks, labels and landmarks that the repaired copy is without."""
    made = {row.record.name: row.record for row in fixed.rows}
    lines = []
    for part in ("mask", "labels", "landmarks"):
        lacking = [
            s.record
            for s in found.scans
            if s.record.name in made
            and getattr(s.record, part)
            and not getattr(made[s.record.name], part)
        ]
        if lacking:
            lines.append(
                f"Left out of the copy, as they are unusable: {part} of {len(lacking)} scans, as"
                f" {getattr(lacking[0], part)}."
            )
    return lines


def _write(path: Path, found: Check) -> None:
    from lightning_reg.io.tables import write_table

    rows: list[dict[str, object]] = []
    told: set[str] = set()
    for scan in found.scans:
        grid = scan.grid
        texts = [f"{f.level}: {f.text}" for f in scan.findings]
        told |= set(texts)
        rows.append(
            {
                "scan": scan.record.name,
                "split": scan.record.split,
                "image": scan.record.image,
                "voxels": " ".join(map(str, grid.shape)) if grid else "",
                "voxel_size_mm": (
                    " ".join(f"{v:.4g}" for v in grid.spacing[0].tolist()) if grid else ""
                ),
                "low": scan.low,
                "high": scan.high,
                "units": scan.units,
                "parts": " ".join(scan.parts),
                "findings": " | ".join(texts),
            }
        )
    of_several = (f"{f.level}: {f.text}" for f in found.findings)
    rows += [{"findings": text} for text in of_several if text not in told]
    write_table(path, rows, COLUMNS)
