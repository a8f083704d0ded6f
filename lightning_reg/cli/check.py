"""``lightning-reg check``."""

from __future__ import annotations

import shlex
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning_reg.cli.arguments import console, counting, loading, require_files
from lightning_reg.cli.failures import in_place
from lightning_reg.cli.signatures import add_options, path

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from lightning_reg.curation.check.group import Check
    from lightning_reg.curation.prepare import Prepared
    from lightning_reg.spatial import Grid

SPLITS = ("train", "validation", "test")
ROLES = {"image": "scans", "mask": "masks", "labels": "label maps", "landmarks": "landmarks"}
PARTS = tuple(ROLES)[1:]
SHOWN = 4
"""Findings of one sort that are printed in full; all of them go to --table."""

MEASURED = (
    ("tre_before_mm", "TRE before, mm", ".2f"),
    ("dice_before", "Dice before", ".3f"),
    ("mask_dice_before", "Dice of masks before", ".3f"),
    ("overlap", "overlap in the world", ".2f"),
)
"""Measurements of a pair: key, title, form."""

COLUMNS = (
    "scan", "split", "image", "voxels", "voxel_size_mm", "low", "high", "units", "parts",
    "findings",
)  # fmt: skip
"""Columns of the table of scans."""


def add_arguments(parser: ArgumentParser) -> None:
    add_options(
        parser, "configuration.datasets:open_configured", "data DIR|MANIFEST", "[--as DATASET]",
        "[overrides data.key=value ...]", data="root", **{"as": "name"},
    )  # fmt: skip
    add_options(parser, "curation.check.group:check", "--pairs N", "--workers", pairs="max_pairs")
    add_options(parser, "curation.check.repair:repair", "[--fix NEW]", fix="out")
    parser.add_argument(
        "--method", help="estimate the memory of a training step of this method (conf/method)"
    )
    parser.add_argument(
        "--table", metavar="CSV", type=path, help="write a row with the findings of each scan"
    )


def run(arguments: Namespace) -> int:
    """Print the table, the findings and the verdict; exit code 1 where there are errors."""
    from lightning_reg.configuration.composition import compose, require_option
    from lightning_reg.io.folders import refuse_file

    require_files(arguments.data)
    name = arguments.name
    for group, option in (("data", name), ("method", arguments.method)):
        if option is not None:
            require_option(group, option)
    if arguments.table:
        refuse_file(arguments.table, overwrite=True)
    terminal = console()
    with loading():
        from lightning_reg.configuration.datasets import open_configured
        from lightning_reg.curation.check.group import check
        from lightning_reg.curation.check.repair import repair
        from lightning_reg.training.memory import step_memory
    if name is None:
        name = kind_of(Path(arguments.data).expanduser())
        if name not in ("prepared", "folder", "pairs"):
            terminal.print(f"Read as data={name}; --as folder reads it as any folder.")
    data, config = open_configured(name, arguments.overrides, arguments.data)
    with counting(terminal, "scans") as seen:
        found = check(data, arguments.workers, arguments.pairs, seen)
        fixed = repair(data, arguments.fix, arguments.workers, seen) if arguments.fix else None
    terminal.print(_summary(found))
    for line in _roles(found):
        terminal.print(line, markup=False, highlight=False)
    _print_findings(found, terminal)
    if arguments.table:
        _write(arguments.table, found)
    shape = _largest(found, config)
    if arguments.method and shape is not None:
        method = compose([f"method={arguments.method}", "size=paper"])["method"]
        terminal.print(
            f"A training step of method={arguments.method} on images of"
            f" {' x '.join(map(str, shape))} voxels wants about {step_memory(method, shape):.1f}"
            " GiB; on a CPU, up to twice as much."
        )
    if fixed is not None:
        for problem in fixed.problems:
            terminal.print(problem, style="red")
        for line in _left_out(found, fixed):
            terminal.print(line, style="yellow")
        terminal.print(
            f"{len(fixed.rows)} of {len(found.scans)} scans are in {arguments.fix}, repaired where"
            " that is safe; look again:\n  lightning-reg check"
            f" {shlex.quote(str(arguments.fix))}"
        )
    errors, warnings = found.errors(), len(found.findings) - found.errors()
    counts = f"{_counted(errors, 'error')}, {_counted(warnings, 'warning')}"
    verdict, color = ("Not ready", "red") if errors else ("Ready", "green")
    terminal.print(f"{verdict} to train: {counts}.", style=f"bold {color}")
    return 1 if errors else 0


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


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

    scans = {split: [s for s in found.scans if s.record.split == split] for split in SPLITS}
    scans = {split: of for split, of in scans.items() if of}
    readable = {split: [s for s in of if s.grid is not None] for split, of in scans.items()}
    table = Table("", *scans)

    def row(name: str, cells: Iterable[object]) -> None:
        texts = [str(cell or "") for cell in cells]
        if any(texts):
            table.add_row(name, *texts)

    def grids(name: str, form: str, values: Callable[[Grid], Sequence[float]]) -> None:
        row(name, (_range([values(s.grid) for s in of if s.grid], form) for of in scans.values()))

    subjects = [len({s.record.subject for s in of}) for of in scans.values()]
    row("scans (of subjects)", map("{} ({})".format, map(len, scans.values()), subjects))
    row("pairs", (str(found.pairs.get(split, 0)) for split in scans))
    for part in PARTS:
        row(f"with {part}", (sum(part in s.parts for s in of) for of in scans.values()))
    grids("voxels", "{:.0f}", lambda grid: grid.shape)
    grids("voxel size, mm", "{:.3g}", lambda grid: grid.spacing[0].tolist())
    grids("field of view, mm", "{:.0f}", _extents)
    ends = ([(s.low, s.high) for s in of] for of in readable.values())
    row("intensities", (of and f"{min(of)[0]:g} to {max(h for _, h in of):g}" for of in ends))
    row("units", (", ".join(sorted({s.units for s in of})) for of in readable.values()))
    for key, title, form in MEASURED:
        cells = []
        for split in scans:
            of = [float(m[key]) for m in found.measured if key in m and m["split"] == split]
            numbers = [format(v, form) for v in (sum(of) / len(of), min(of), max(of))] if of else ()
            cells.append("{} ({} to {})".format(*numbers) if of else "")
        row(title, cells)
    return table


def _extents(grid: Grid) -> list[float]:
    """Field of view along each axis, mm."""
    return [n * v for n, v in zip(grid.shape, grid.spacing[0].tolist(), strict=True)]


def _roles(found: Check) -> list[str]:
    """Roles of the files that were read: the number of files of each part, and one of them."""
    lines = []
    for part, word in ROLES.items():
        files = [path for scan in found.scans if (path := getattr(scan.record, part)) is not None]
        lines += [f"Read as {word}: {len(files)}, as {files[0]}"] if files else []
    return lines


def _range(values: Sequence[Sequence[float]], form: str) -> str:
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
        alike = [f.text for f in found.findings if (f.level, f.kind) == (level, kind)]
        texts = list(dict.fromkeys(alike))
        for text in texts[:SHOWN]:
            line = in_place(f"{level.upper()}: {text}")
            terminal.print(line, style=color, highlight=False)
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
    extents = [_extents(grid) for grid in grids]
    return [
        round(max(axis) / w) for axis, w in zip(zip(*extents, strict=True), wanted, strict=True)
    ]


def _left_out(found: Check, fixed: Prepared) -> list[str]:
    """Masks, labels and landmarks that the repaired copy is without."""
    made = {row.record.name: row.record for row in fixed.rows}
    lines = []
    for part in PARTS:
        records = [scan.record for scan in found.scans if getattr(scan.record, part)]
        lacking = [r for r in records if r.name in made and not getattr(made[r.name], part)]
        if lacking:
            lines.append(
                f"Left out of the copy, as they are unusable: {part} of {len(lacking)} scans, as"
                f" {getattr(lacking[0], part)}."
            )
    return lines


def _write(path: Path, found: Check) -> None:
    from lightning_reg.io.tables import write_table

    rows: list[dict[str, object]] = []
    written: set[str] = set()
    for scan in found.scans:
        grid, texts = scan.grid, [f"{f.level}: {f.text}" for f in scan.findings]
        written |= set(texts)
        shape = " ".join(map(str, grid.shape)) if grid else ""
        size = " ".join(f"{v:.4g}" for v in grid.spacing[0].tolist()) if grid else ""
        cells = (
            scan.record.name, scan.record.split, scan.record.image, shape, size, scan.low,
            scan.high, scan.units, " ".join(scan.parts), " | ".join(texts),
        )  # fmt: skip
        rows.append(dict(zip(COLUMNS, cells, strict=True)))
    of_several = (f"{f.level}: {f.text}" for f in found.findings)
    rows += [{"findings": text} for text in of_several if text not in written]
    write_table(path, rows, COLUMNS)
