"""``lightning-reg export``."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path

from lightning_reg.cli.arguments import loading, require_methods


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--model", required=True, help="checkpoint of a trained network (best.ckpt)"
    )
    parser.add_argument(
        "--onnx",
        required=True,
        metavar="FILE",
        help="file to write; its inputs are two images, its output is the displacement",
    )
    parser.add_argument(
        "--shape",
        required=True,
        type=int,
        nargs=3,
        metavar=("I", "J", "K"),
        help="extents of both images, voxels",
    )
    parser.add_argument(
        "--spacing",
        type=float,
        nargs=3,
        metavar="MM",
        default=(1.0, 1.0, 1.0),
        help="voxel size of both images, mm",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace the file")


def run(arguments: Namespace) -> int:
    from lightning_reg.io.folders import refuse_file

    refuse_file(Path(arguments.onnx).expanduser(), arguments.overwrite)
    require_methods([arguments.model], ())
    with loading():
        from lightning_reg.inference.export import export_onnx
    difference = export_onnx(
        arguments.model,
        Path(arguments.onnx).expanduser(),
        arguments.shape,
        arguments.spacing,
        overwrite=arguments.overwrite,
    )
    checked = (
        "not checked: onnxruntime is not installed"
        if difference is None
        else f"differs from PyTorch by at most {difference:.2g} voxels"
    )
    print(f"Wrote {arguments.onnx} ({checked})")
    return 0
