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
from lightning_reg.discovery import UserError
from lightning_reg.io.folders import written_file
from lightning_reg.io.images import first_line
from lightning_reg.models import locate
from lightning_reg.spatial import Grid, Image
from lightning_reg.training.module import RegistrationModule

OPSET = 20
"""The first in which ``GridSample`` takes volumes."""


class FieldOf(nn.Module):
    """A composer between tensors: intensities of the fixed and the moving image on one grid to the displacement on it.

    Args:
        composer: in evaluation mode.
        grid: of both images.
    """

    def __init__(self, composer: Composer, grid: Grid) -> None:
        super().__init__()
        self.composer, self.grid = composer, grid

    def forward(self, fixed: Tensor, moving: Tensor) -> Tensor:
        """``(1, 1, I, J, K)`` each, preprocessed; returns ``(1, 3, I, J, K)`` voxels."""
        return self.composer(Image(fixed, self.grid), Image(moving, self.grid)).transform.displacement(self.grid)


def export_onnx(
    model: str | Path, path: Path, shape: Sequence[int], spacing: Sequence[float] = (1.0, 1.0, 1.0), *, overwrite: bool = False
) -> float | None:
    """Write the network up to the field: inputs ``fixed``, ``moving`` ``(1, 1, I, J, K)`` in the model's intensities (0 to 1), output
    ``displacement`` ``(1, 3, I, J, K)`` in voxels, tensor axes those of the file.

    Args:
        model: checkpoint, or a model's name, see :func:`lightning_reg.models.locate`.
        path: of the ONNX file.
        shape: extents of both images, which the file fixes.
        spacing: their voxel size, mm.

    Returns:
        The largest difference to PyTorch on random images, voxels; ``None`` where ONNX Runtime is not installed.

    Raises:
        UserError: the packages for it are not installed, or an operation of the network has no counterpart in ONNX.
    """
    try:
        import onnx  # noqa: F401 - what torch.onnx writes with
        import onnxscript  # noqa: F401
    except ImportError as cause:
        raise UserError("Exporting needs the packages onnx and onnxscript; pip install 'lightning-reg[onnx]'.") from cause
    if min(shape) < 1 or not all(0 < size < math.inf for size in spacing):
        raise UserError(f"--shape {list(shape)} and --spacing {list(spacing)} have to be finite numbers above 0.")
    module = RegistrationModule.load_from_checkpoint(locate(model).path)
    wrapped = FieldOf(module.composer, Grid.regular(shape, spacing)).eval()
    example = (torch.rand(1, 1, *shape), torch.rand(1, 1, *shape))
    with written_file(path, overwrite) as partial:
        try:
            with warnings.catch_warnings(), torch.no_grad():
                warnings.simplefilter("ignore")  # the exporter's notes on constants, which are meant
                graph = make_fx(wrapped)(*example)
                program = torch.onnx.export(
                    graph.eval(), example, input_names=["fixed", "moving"], output_names=["displacement"], opset_version=OPSET,
                    dynamo=True, verbose=False, custom_translation_table={torch.ops.aten.grid_sampler_3d.default: _grid_sample()},
                )  # fmt: skip
                assert program is not None
                program.save(str(partial), external_data=False)
        except OSError:
            raise
        except Exception as cause:  # the exporter raises many kinds for an operation it cannot express
            raise UserError(f"The network of {model} cannot be written as ONNX for images of this shape: {first_line(cause)}") from cause
        return _difference(partial, wrapped, example)


def _grid_sample() -> Any:
    """PyTorch's sampling of volumes in ONNX, which the exporter knows for pictures alone."""
    from onnxscript.onnx_opset import opset20 as op

    def grid_sampler_3d(image: Any, grid: Any, mode: int, padding: int, align_corners: bool) -> Any:
        return op.GridSample(
            image, grid, mode=("linear", "nearest")[mode], padding_mode=("zeros", "border")[padding], align_corners=int(align_corners)
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
