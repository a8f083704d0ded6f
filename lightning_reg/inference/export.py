"""A trained network as an ONNX file."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx.experimental.proxy_tensor import make_fx

from lightning_reg.components.interfaces import Composer
from lightning_reg.io.folders import written_file
from lightning_reg.io.images import first_line
from lightning_reg.models import locate
from lightning_reg.registry import UserError
from lightning_reg.spatial import Grid, Image
from lightning_reg.training.module import RegistrationModule

OPSET = 20
"""First version of ONNX's operators in which ``GridSample`` accepts volumes."""


class FieldOf(nn.Module):
    """A composer as a module on tensors: from the two images' intensities on one grid to the
    displacement on that grid.

    Args:
        composer: in evaluation mode.
        grid: of both images.
    """

    def __init__(self, composer: Composer, grid: Grid) -> None:
        super().__init__()
        self.composer, self.grid = composer, grid

    def forward(self, fixed: Tensor, moving: Tensor) -> Tensor:
        """``(1, 1, I, J, K)`` each, preprocessed; returns ``(1, 3, I, J, K)`` voxels."""
        images = Image(fixed, self.grid), Image(moving, self.grid)
        return self.composer(*images).transform.displacement(self.grid)


def export_onnx(
    model: str | Path,
    path: Path,
    shape: Sequence[int],
    spacing: Sequence[float] = (1.0, 1.0, 1.0),
    *,
    overwrite: bool = False,
) -> float | None:
    """Write the network as an ONNX file.

    Inputs are ``fixed`` and ``moving``, ``(1, 1, I, J, K)`` in the model's intensities (0 to 1).
    The output is ``displacement``, ``(1, 3, I, J, K)`` in voxels. The tensor axes are those of the
    image file.

    Args:
        model: checkpoint of a trained network, or a model's name, see
            :func:`lightning_reg.models.locate`.
        path: ONNX file to write; its inputs are two images, its output is the displacement.
        shape: extents of both images, voxels; the exported network accepts only these.
        spacing: voxel size of both images, mm.
        overwrite: replace the file.

    Returns:
        The largest difference from PyTorch on random images, voxels; ``None`` if ONNX Runtime is
        not installed.

    Raises:
        UserError: the required packages are not installed, or an operation of the network has no
            counterpart in ONNX.
    """
    try:
        import onnx  # noqa: F401 - used by torch.onnx
        import onnxscript  # noqa: F401
    except ImportError as cause:
        raise UserError(
            "Exporting needs the packages onnx and onnxscript; pip install 'lightning-reg[onnx]'."
        ) from cause
    if min(shape) < 1 or not all(0 < size < math.inf for size in spacing):
        raise UserError(
            f"`shape` {list(shape)} and `spacing` {list(spacing)} have to be finite numbers"
            " above 0."
        )
    module = RegistrationModule.load_from_checkpoint(locate(model).path)
    wrapped = FieldOf(module.composer, Grid.regular(shape, spacing)).eval()
    example = (torch.rand(1, 1, *shape), torch.rand(1, 1, *shape))
    with written_file(path, overwrite) as partial:
        try:
            with warnings.catch_warnings(), torch.no_grad():
                warnings.simplefilter("ignore")  # of constants, which are intended
                graph = make_fx(wrapped)(*example)
                program = torch.onnx.export(
                    graph.eval(), example, input_names=["fixed", "moving"],
                    output_names=["displacement"], opset_version=OPSET,
                    dynamo=True, verbose=False,
                    custom_translation_table={
                        torch.ops.aten.grid_sampler_3d.default: _grid_sample()
                    },
                )  # fmt: skip
                assert program is not None
                program.save(str(partial), external_data=False)
        except OSError:
            raise
        except Exception as cause:  # an unsupported operation raises one of many types
            raise UserError(
                f"The network of {model} cannot be written as ONNX for images of this shape:"
                f" {first_line(cause)}"
            ) from cause
        return _difference(partial, wrapped, example)


def _grid_sample() -> Any:
    """Translation of PyTorch's 3D grid sampling to ONNX; the exporter itself supports 2D only."""
    from onnxscript.onnx_opset import opset20 as op

    def grid_sampler_3d(image: Any, grid: Any, mode: int, padding: int, align_corners: bool) -> Any:
        return op.GridSample(
            image,
            grid,
            mode=("linear", "nearest")[mode],
            padding_mode=("zeros", "border")[padding],
            align_corners=int(align_corners),
        )

    return grid_sampler_3d


def _difference(path: Path, wrapped: FieldOf, example: tuple[Tensor, Tensor]) -> float | None:
    try:
        import onnxruntime
    except ImportError:
        return None
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {"fixed": example[0].numpy(), "moving": example[1].numpy()})
    with torch.no_grad():
        return float((torch.from_numpy(found) - wrapped(*example)).abs().max())
