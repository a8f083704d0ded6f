"""Comparison of operators with those of other libraries: first the values, then ratios of times.

    python benchmarks/operators.py [--shape 64 56 48] [--repeat 10] [--device cpu] [--threads N]
    [--markdown]

A ratio is the peer's median time divided by ours: above 1, ours is faster. Both are measured
alternately in one loop. Forward includes recording of the graph; backward is autograd with a fixed
random cotangent. Values and gradients are compared first in float64, and values in float32, as
timed. Conversions between conventions (units, order of the components, sign) are not timed: each
peer receives inputs in its own convention, and constants that it can store (identity grids,
kernels) are computed beforehand.
"""

from __future__ import annotations

import argparse
import os
import sys
import warnings
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from timing import (
    TOLERANCES,
    Comparison,
    Function,
    device_name,
    generator,
    imported,
    row,
    table,
    version,
)
from torch import Tensor, nn

from lightning_reg import functional as lr
from lightning_reg.components.blocks import Convolution

WINDOW, STEPS, STRIDE, MARGIN = 9, 7, 4, 8
LEFT_OUT = (
    (
        "bending energy, deepali `bending_loss`: its second derivatives are first differences taken"
        " twice, (1, 0, -2, 0, 1) / 4 (or Sobel filters), one-sided at the border; ours and MONAI's"
        " are (1, -2, 1) in the interior. Other values everywhere."
    ),
    (
        "LNCC, deepali `lcc_loss`: subtracts from each voxel the mean of the window around that"
        " voxel, instead of the mean of the window that is summed over. Not the correlation in a"
        " window."
    ),
    (
        "B-spline: MONAI and VoxelMorph have none. Jacobian determinant: MONAI has none. Bending"
        " energy: VoxelMorph has none."
    ),
)


def per_axis(like: Tensor) -> Tensor:
    """Voxels per unit, ``(1, D, 1, 1, 1)``, of coordinates with the outer voxel centres at -1 and
    1.
    """
    shape = like.shape[2:]
    return torch.tensor([(n - 1) / 2 for n in shape], dtype=like.dtype, device=like.device).view(
        1, -1, *[1] * len(shape)
    )


def to_corners(displacement: Tensor) -> Tensor:
    """Convert voxels to the units of ``align_corners=True``, with reversed components."""
    return (displacement / per_axis(displacement)).flip(1)


def from_corners(flow: Tensor) -> Tensor:
    """The inverse of :func:`to_corners`."""
    return flow.flip(1) * per_axis(flow)


def points(like: Tensor) -> Tensor:
    """Voxel coordinates with the dtype and device of a tensor."""
    return lr.identity_points(like.shape[2:], dtype=like.dtype, device=like.device)


def corner_grid(like: Tensor) -> Tensor:
    """Identity coordinates ``(1, I, J, K, D)`` in the convention of
    ``grid_sample(align_corners=True)``.
    """
    return (to_corners(points(like)) - 1).movedim(1, -1).contiguous()


def stays_inside(_: Tensor, inner: Tensor) -> Tensor:
    """Mask: 1 where ``x + inner(x)`` is between the outer voxel centres."""
    target = (points(inner) + inner).detach()
    return ((target >= 0) & (target <= 2 * per_axis(inner))).all(1, keepdim=True)


def smooth_field(shape: Sequence[int], amplitude: float, seed: int, device: torch.device) -> Tensor:
    """A random smooth displacement in voxels; near the border it also points out of the grid."""
    stride = [8.0] * len(shape)
    lattice = lr.lattice_shape(shape, stride)
    control = torch.randn(1, len(shape), *lattice, generator=generator(seed, device), device=device)
    return (amplitude * lr.bspline(control, shape, stride, [-8.0] * len(shape))).requires_grad_()


def warps(shape: Sequence[int], device: torch.device) -> list[Comparison]:
    """Cases of warping: linear interpolation, zeros outside; the gradient is that of the
    displacement.
    """

    def deepali(image: Tensor, _: Tensor) -> Function:
        warp_image, grid = imported("deepali.core.functional", "warp_image"), corner_grid(image)
        return lambda data, flow: warp_image(
            data, grid, flow.movedim(1, -1), padding="zeros", align_corners=True
        )

    def bare(*_: Tensor) -> Function:
        return partial(F.grid_sample, mode="bilinear", padding_mode="zeros", align_corners=True)

    displacement, cases = smooth_field(shape, 6.0, 1, device), []
    for name, channels in (("warp, 1 channel", 1), ("warp, 3 channels", 3)):
        image = torch.rand(1, channels, *shape, generator=generator(2, device), device=device)
        case = partial(Comparison, name, ours=lr.warp, inputs=(image, displacement))
        cases += [
            case(
                "torch `grid_sample`, ready grid",
                theirs=bare,
                convert=lambda i, u: (i, corner_grid(u) + to_corners(u).movedim(1, -1)),
            ),
            case(
                "MONAI `Warp`",
                theirs=lambda *_: imported("monai.networks.blocks", "Warp")("bilinear", "zeros"),
            ),
            case(
                "VoxelMorph `SpatialTransformer`",
                theirs=lambda *_: imported("voxelmorph.nn.modules", "SpatialTransformer")(),
            ),
            case("deepali `warp_image`", theirs=deepali, convert=lambda i, u: (i, to_corners(u))),
        ]
    return cases


def compositions(shape: Sequence[int], device: torch.device) -> list[Comparison]:
    """Cases of composition and exponential; border values outside."""

    def monai(*_: Tensor) -> Function:
        warp = imported("monai.networks.blocks", "Warp")("bilinear", "border")
        return lambda outer, inner: inner + warp(outer, inner)

    def voxelmorph(*_: Tensor) -> Function:
        compose = imported("voxelmorph.nn.functional", "compose")
        return lambda outer, inner: compose([outer, inner])

    def deepali(*_: Tensor) -> Function:
        compose_flows = imported("deepali.core.functional", "compose_flows")
        return lambda outer, inner: compose_flows(inner, outer, align_corners=True)

    def voxelmorph_exponential(velocity: Tensor) -> Function:
        transform = imported("voxelmorph.nn.functional", "spatial_transform")
        transform = partial(transform, meshgrid=points(velocity)[0], padding_mode="border")
        return partial(
            imported("voxelmorph.nn.functional", "integrate_vec"),
            steps=STEPS,
            transformer=transform,
        )

    pair = smooth_field(shape, 4.0, 1, device), smooth_field(shape, 4.0, 4, device)
    compose = partial(Comparison, "compose", ours=lr.compose, inputs=pair)
    exponential = partial(
        Comparison,
        f"exponential, {STEPS} steps",
        ours=partial(lr.exponentiate, steps=STEPS),
        inputs=pair[:1],
    )
    corners: dict[str, Any] = {
        "convert": lambda *displacements: tuple(to_corners(u) for u in displacements),
        "restore": from_corners,
    }
    return [
        compose("MONAI `Warp`, plus", theirs=monai),
        compose(
            "VoxelMorph `compose`",
            theirs=voxelmorph,
            region=stays_inside,
            checked="interior (it has zeros outside)",
        ),
        compose("deepali `compose_flows`", theirs=deepali, **corners),
        exponential(
            "MONAI `DVF2DDF`",
            theirs=lambda _: imported("monai.networks.blocks", "DVF2DDF")(
                STEPS, "bilinear", "border"
            ),
        ),
        exponential("VoxelMorph `integrate_vec`, border", theirs=voxelmorph_exponential),
        exponential(
            "deepali `expv`",
            theirs=lambda _: partial(imported("deepali.core.functional", "expv"), steps=STEPS),
            **corners,
        ),
    ]


def derivatives(shape: Sequence[int], device: torch.device) -> list[Comparison]:
    """Cases of B-spline, bending energy and Jacobian determinant."""

    def spline(control: Tensor) -> Function:
        weights, evaluate = (
            imported("deepali.core.bspline", f)
            for f in ("cubic_bspline_interpolation_weights", "evaluate_cubic_bspline")
        )
        return partial(
            evaluate,
            shape=tuple(shape),
            kernel=weights([STRIDE] * 3, dtype=control.dtype, device=control.device),
        )

    def voxelmorph(_: Tensor) -> Function:
        determinant = imported("voxelmorph.py.utils", "jacobian_determinant")
        return lambda field: torch.from_numpy(determinant(field.detach().cpu().numpy())).to(field)

    strides = [float(STRIDE)] * 3
    control = torch.randn(
        1, 3, *lr.lattice_shape(shape, strides), generator=generator(5, device), device=device
    ).requires_grad_()
    ours = partial(lr.bspline, shape=shape, stride=strides, offset=[-s for s in strides])
    field = smooth_field(shape, 4.0, 1, device)
    bending = partial(
        Comparison,
        "bending energy",
        ours=lr.bending,
        inputs=(field,),
        restore=lambda e: 3 * e.view(1),
    )
    determinant = partial(
        Comparison, "Jacobian determinant", ours=lr.jacobian_determinant, inputs=(field,)
    )
    deepali = lambda _: partial(imported("deepali.core.functional", "jacobian_det"), spacing=1)  # noqa: E731
    arrays: dict[str, Any] = {
        "convert": lambda u: (u[0].movedim(0, -1).contiguous(),),
        "restore": lambda d: d[None, None],
        "differentiable": False,
    }
    return [
        Comparison(
            f"B-spline, stride {STRIDE}",
            "deepali `evaluate_cubic_bspline`",
            ours,
            spline,
            (control,),
        ),
        bending(
            "MONAI `BendingEnergyLoss`",
            theirs=lambda _: imported("monai.losses", "BendingEnergyLoss")(),
        ),
        determinant("deepali `jacobian_det`", theirs=deepali, convert=lambda u: (u.flip(1),)),
        determinant("VoxelMorph `jacobian_determinant` (NumPy)", theirs=voxelmorph, **arrays),
    ]


def similarities(shape: Sequence[int], device: torch.device) -> list[Comparison]:
    """Cases of LNCC, on images with an empty margin, for which zeros outside (the peers) and
    partial windows (ours) give the same values.

    Ours adds ``eps`` to a product of window means, VoxelMorph to a product of window sums; the two
    are made equal. MONAI bounds window sums from below, which has no effect here.
    """
    inside = (
        torch.rand(
            2, *[n - 2 * MARGIN for n in shape], generator=generator(6, device), device=device
        )
        * 0.8
        + 0.2
    )
    fixed, noise = F.pad(inside, [MARGIN] * 6)[:, None, None]
    warped = (0.5 * fixed + 0.5 * noise).requires_grad_()
    monai = partial(imported, "monai.losses", "LocalNormalizedCrossCorrelationLoss")
    voxelmorph = partial(imported, "neurite.nn.modules", "NCC")
    case = partial(
        Comparison,
        f"LNCC, window {WINDOW}",
        inputs=(fixed, warped),
        checked="all (images with empty margin)",
    )
    return [
        case(
            "MONAI `LocalNormalizedCrossCorrelationLoss`",
            ours=partial(lr.lncc, window=WINDOW, eps=1e-16),
            theirs=lambda *_: monai()(kernel_size=WINDOW, smooth_dr=1e-5),
            restore=lambda e: -e.view(1),
        ),
        case(
            "VoxelMorph (neurite) `NCC`",
            ours=partial(lr.lncc, window=WINDOW, eps=1e-8),
            theirs=lambda *_: voxelmorph()(window_size=WINDOW, eps=1e-8 * WINDOW**6),
            restore=lambda e: e.view(1),
        ),
    ]


def convolutions(device: torch.device) -> list[Comparison]:
    """Cases of the convolution block and its base class: batch of one, in the memory layout of the
    backbones.
    """

    def call(module: nn.Module, *_: Tensor) -> Function:
        return lambda image, weight: torch.func.functional_call(
            module, {"weight": weight}, (image,)
        )

    cases = []
    for inputs, outputs, size in ((16, 16, 32), (2, 8, 64), (64, 32, 16)):
        image = torch.randn(
            1, inputs, size, size, size, generator=generator(7, device), device=device
        )
        weight = (
            torch.randn(outputs, inputs, 3, 3, 3, generator=generator(8, device), device=device)
            / (27 * inputs) ** 0.5
        )
        tensors = tuple(
            t.to(memory_format=torch.channels_last_3d).requires_grad_() for t in (image, weight)
        )
        ours, theirs = (
            Convolution(inputs, outputs, bias=False),
            nn.Conv3d(inputs, outputs, 3, padding=1, bias=False),
        )
        name = f"Convolution, {inputs} to {outputs} channels, {size}^3"
        cases.append(
            Comparison(name, "torch `nn.Conv3d`", call(ours), partial(call, theirs), tensors)
        )
    return cases


def main() -> None:
    """Parse the command line, compare, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument(
        "--shape",
        nargs=3,
        type=int,
        default=[64, 56, 48],
        help=f"voxels per axis, above {2 * MARGIN}",
    )
    parser.add_argument("--repeat", type=int, default=10, help="rounds that count")
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"))
    parser.add_argument("--threads", type=int, help="of the CPU; default: torch's choice")
    parser.add_argument("--markdown", action="store_true", help="print a Markdown table")
    arguments = parser.parse_args()
    shape, device = arguments.shape, arguments.device
    if min(shape) <= 2 * MARGIN:
        parser.error(
            f"--shape: every axis needs more than {2 * MARGIN} voxels, for the margin of the LNCC"
            " images"
        )
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    load = os.getloadavg()[0] if device.type == "cpu" and hasattr(os, "getloadavg") else 0.0
    if load and load + torch.get_num_threads() > (os.cpu_count() or 1) + 0.5:
        print(
            f"the machine is busy (load {load:.1f}): threads wait for each other, and the ratios"
            " say little",
            file=sys.stderr,
        )
    warnings.simplefilter("ignore")
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False

    cases = [
        *warps(shape, device),
        *compositions(shape, device),
        *derivatives(shape, device),
        *similarities(shape, device),
    ]
    rows = [row(case, arguments.repeat) for case in [*cases, *convolutions(device)]]
    versions = ", ".join(
        version(p) for p in ("torch", "monai", "voxelmorph", "neurite", "hf-deepali")
    )
    print(
        f"Peer time / our time (above 1: ours is faster); medians of {arguments.repeat};"
        f" {' x '.join(map(str, shape))} voxels, float32."
    )
    print(f"{versions}; {torch.get_num_threads()} threads; {device_name(device)}.")
    print(
        "Deviation: of values and gradients in float64, over the largest one; tolerance",
        f"{TOLERANCES[torch.float64]:g}",
        end=" ",
    )
    print(f"(values in float32: {TOLERANCES[torch.float32]:g}).\n")
    print(table(rows, arguments.markdown))
    print("\nLeft out:\n\n" + "\n".join(f"- {reason}" for reason in LEFT_OUT))


if __name__ == "__main__":
    main()
