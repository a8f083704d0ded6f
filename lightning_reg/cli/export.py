"""``lightning-reg export``."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from lightning_reg.cli.arguments import loading
from lightning_reg.cli.methods import require_methods
from lightning_reg.cli.signatures import add_options


def add_arguments(parser: ArgumentParser) -> None:
    add_options(
        parser, "inference.export:export_onnx", "--model", "--onnx FILE", "--shape I J K",
        "--spacing MM MM MM", "--overwrite", onnx="path",
    )  # fmt: skip


def run(arguments: Namespace) -> int:
    from lightning_reg.io.folders import refuse_file

    refuse_file(arguments.onnx, arguments.overwrite)
    require_methods([arguments.model], ())
    with loading():
        from lightning_reg.inference.export import export_onnx
    difference = export_onnx(
        arguments.model, arguments.onnx, arguments.shape, arguments.spacing,
        overwrite=arguments.overwrite,
    )  # fmt: skip
    checked = (
        "not checked: onnxruntime is not installed"
        if difference is None
        else f"differs from PyTorch by at most {difference:.2g} voxels"
    )
    print(f"Wrote {arguments.onnx} ({checked})")
    return 0
