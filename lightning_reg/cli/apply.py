"""``lightning-reg apply``."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from lightning_reg.cli.arguments import require_files
from lightning_reg.cli.signatures import add_options


def add_arguments(parser: ArgumentParser) -> None:
    add_options(
        parser, "inference.applying:apply_to_image", "--transform", "--inverse", "[--input]",
        "[--reference]", "--labels", "--out", "--overwrite", input="image",
    )  # fmt: skip
    add_options(parser, "inference.applying:apply_to_points", "[--points]")


def run(arguments: Namespace) -> int:
    require_files(arguments.input, arguments.reference, arguments.points)
    from lightning_reg.inference.applying import apply_to_image, apply_to_points
    from lightning_reg.registry import UserError

    if bool(arguments.input) == bool(arguments.points):
        raise UserError("Give either --input (an image) or --points (a file of points).")
    if arguments.input and not arguments.reference:
        raise UserError("An image needs --reference, the image whose grid the result lies on.")
    transform, reference, out = arguments.transform, arguments.reference, arguments.out
    settings = {"inverse": arguments.inverse, "overwrite": arguments.overwrite}
    if arguments.points:
        apply_to_points(transform, arguments.points, out, reference=reference, **settings)
        warning = None
    else:
        settings["labels"] = arguments.labels
        warning = apply_to_image(transform, arguments.input, reference, out, **settings)
    print(f"Wrote {out}")
    if warning is not None:
        print(f"Warning: {warning}")
    return 0
