"""``lightning-reg apply``."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path

from lightning_reg.cli.arguments import require_files


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--transform",
        required=True,
        help=(
            "transform.h5 of a registration or its folder, another ITK transform, or a displacement"
            " field"
        ),
    )
    parser.add_argument(
        "--inverse",
        action="store_true",
        help=(
            "apply the inverse: the fixed image onto the moving grid, moving points to fixed points"
        ),
    )
    parser.add_argument("--input", help="image to resample")
    parser.add_argument(
        "--reference",
        help=(
            "image that gives the grid of the result: the fixed image (with --inverse the moving"
            " image)"
        ),
    )
    parser.add_argument(
        "--labels", action="store_true", help="the input is a label map (nearest neighbour)"
    )
    parser.add_argument("--points", help="points instead of an image; see docs/apply.md")
    parser.add_argument("--out", required=True, help="file to write")
    parser.add_argument("--overwrite", action="store_true", help="replace the file")


def run(arguments: Namespace) -> int:
    require_files(arguments.input, arguments.reference, arguments.points)
    from lightning_reg.inference.applying import apply_to_image, apply_to_points
    from lightning_reg.registry import UserError

    if bool(arguments.input) == bool(arguments.points):
        raise UserError("Give either --input (an image) or --points (a file of points).")
    if arguments.input and not arguments.reference:
        raise UserError("An image needs --reference, the image whose grid the result lies on.")
    transform, out = Path(arguments.transform).expanduser(), Path(arguments.out).expanduser()
    warning = None
    if arguments.input:
        warning = apply_to_image(
            transform, arguments.input, arguments.reference, out,
            labels=arguments.labels, inverse=arguments.inverse, overwrite=arguments.overwrite,
        )  # fmt: skip
    else:
        apply_to_points(
            transform,
            Path(arguments.points).expanduser(),
            out,
            reference=arguments.reference,
            inverse=arguments.inverse,
            overwrite=arguments.overwrite,
        )
    print(f"Wrote {arguments.out}")
    if warning is not None:
        print(f"Warning: {warning}")
    return 0
