"""Images of one slice, and of thick slices, in every backbone, head, composer and loss term."""

from __future__ import annotations

import pytest
import torch

from lightning_reg.components.backbones.unet import UNet
from lightning_reg.components.blocks import Convolution
from lightning_reg.components.composers import MultilevelComposer, SingleComposer
from lightning_reg.components.heads.fields import VelocityHead
from lightning_reg.components.network import Network
from lightning_reg.components.resolution import aspect_of, kernel_at, stride_at
from lightning_reg.configuration.building import build_composer, build_loss
from lightning_reg.configuration.describing import describe
from lightning_reg.functional import bspline
from lightning_reg.registry import ArgumentError, providers
from lightning_reg.spatial import Displacement, Grid, Image, Pair
from lightning_reg.testing.fixtures import disturbed, grid

PLANE = (40, 28)
NETWORKS = {
    "unet-dense": ({"name": "unet", "features": 4, "norm": "instance"}, "dense"),
    "unet-velocity": (
        {"name": "unet", "levels": 4, "features": 4, "output_stride": 2, "norm": "none"},
        {"name": "velocity", "reduce": 2},
    ),
    "voxelmorph": (
        {"name": "voxelmorph", "encoder": [4, 4, 4], "decoder": [4, 4, 4], "last": [4]},
        {"name": "velocity", "reduce": 2},
    ),
    "progressive": (
        {"name": "progressive_unet", "levels": 3, "features": 4, "norm": "instance"},
        {"name": "dense", "levels": "weighted", "equalized": True},
    ),
    "fcn": (
        {"name": "fcn", "features": 4, "norm": "instance"},
        {"name": "dense", "levels": "all"},
    ),
    "fcn-no_pooling": ({"name": "fcn", "features": 4, "form": "no_pooling"}, "dense"),
    "dilated": (
        {"name": "dilated", "features": [4, 4], "dilations": [1, 2]},
        ["affine", {"name": "integrated_gradient", "features": [4]}],
    ),
    "siamese": ({"name": "siamese", "levels": 3, "features": 4}, "affine"),
    "lattice": ({"name": "lattice", "spacing": 8, "features": 4}, "bspline"),
    "dual_stream": (
        {"name": "dual_stream", "levels": 3, "features": 4, "labels": [1, 2]},
        {"name": "pyramid", "features": 4, "levels": "all"},
    ),
    "keypoints": (
        {"name": "dual_stream", "levels": 2, "features": 4},
        {"name": "pyramid", "features": 4, "keypoints": 4, "antisymmetric": True},
    ),
}


def network(name, aspect):
    backbone, head = NETWORKS[name]
    torch.manual_seed(1)
    composer = build_composer(
        {"name": "single", "backbone": {**backbone, "aspect": aspect}, "head": head}
    )
    disturbed(composer, 0.05)
    return composer


def inserted(values, axis, value):
    values = list(values)
    values.insert(axis, value)
    return values


def images(axis, size, plane=PLANE):
    """Two images of ``size`` identical slices across an axis, on an oblique grid."""
    on = grid(inserted(plane, axis, size), inserted((1.3, 1.0), axis, 4.0))
    coarse = torch.rand(2, 1, 6, 6, generator=torch.Generator().manual_seed(2))
    flat = bspline(coarse, plane, [(n - 1) / 5 for n in plane], [0.0, 0.0])
    stacks = flat.unsqueeze(2 + axis).repeat_interleave(size, dim=2 + axis)
    return Image(stacks[:1], on), Image(stacks[1:], on)


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_slice_moves_in_its_plane_as_the_slices_of_a_stack(axis, name):
    composer = network(name, inserted((1, 1), axis, 0)).eval()
    plane = [a for a in range(3) if a != axis]
    with torch.no_grad():
        one, stack = (composer(*images(axis, size)).levels for size in (1, 5))
    for here, there in zip(one, stack, strict=True):
        assert here.fixed.grid.shape[axis] == 1
        assert here.displacement[:, axis].abs().max() < 1e-4
        assert here.displacement[:, plane].abs().max() > 1e-3
        # affine maps of a stack turn it out of the plane
        if name not in ("siamese", "dilated", "keypoints"):
            of_middle = there.displacement.narrow(2 + axis, 2, 1)[:, plane]
            torch.testing.assert_close(here.displacement[:, plane], of_middle, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", NETWORKS)
def test_kernels_and_strides_are_those_of_the_plane(name):
    composer = network(name, [1, 0, 1])
    kernels = [part.kernel_size for part in composer.modules() if isinstance(part, Convolution)]
    assert all(kernel[1] == 1 for kernel in kernels)
    assert any(kernel == (3, 1, 3) for kernel in kernels)
    backbone = composer.network.backbone
    assert backbone.multiple[1] == 1
    assert all(stride[1] == 1 for stride in backbone.strides)
    again = build_composer(describe(composer))
    assert again.network.backbone.aspect == (1, 0, 1)
    again.load_state_dict(composer.state_dict())


@pytest.mark.parametrize("name", NETWORKS)
def test_thick_slices_are_pooled_last(name):
    composer = network(name, [1, 1, 4]).train()
    on = Grid.regular((40, 28, 10), (1.5, 1.5, 8.0))
    fixed, moving = (Image(torch.rand(1, 1, 40, 28, 10), on) for _ in range(2))
    levels = composer(fixed, moving).levels
    sum(level.displacement.square().mean() for level in levels).backward()
    gradients = [p.grad for p in composer.parameters() if p.grad is not None]
    assert len(gradients) > 5
    assert all(torch.isfinite(gradient).all() for gradient in gradients)
    backbone = composer.network.backbone
    assert all(
        stride == stride_at(max(stride), (1, 1, 4))
        for stride in (*backbone.strides, backbone.multiple)
    )


def test_a_thick_unet_has_the_strides_and_kernels_of_its_voxel_sizes():
    unet = UNet(levels=4, aspect=(1, 1, 4))
    assert unet.strides == ((8, 8, 2), (4, 4, 1), (2, 2, 1), (1, 1, 1))
    kernels = [encoder[0][0].kernel_size for encoder in unet.encoders]
    assert kernels == [(3, 3, 1), (3, 3, 1), (3, 3, 3), (3, 3, 3)]
    assert [up[0].kernel_size for up in unet.up] == [(2, 2, 2), (2, 2, 1), (2, 2, 1)]


@pytest.mark.parametrize(
    ("shape", "spacing", "expected"),
    [
        ((64, 64, 64), (1.0, 1.0, 1.0), (1, 1, 1)),
        ((64, 64, 64), (1.0, 1.5, 1.9), (1, 1, 1)),
        ((256, 256, 10), (1.5, 1.5, 8.0), (1, 1, 4)),
        ((256, 256, 10), (1.25, 1.25, 10.0), (1, 1, 8)),
        ((64, 48, 40), (4.0, 2.0, 2.0), (2, 1, 1)),
        ((64, 64, 3), (1.5, 1.5, 1.5), (1, 1, 4)),
        ((64, 1, 48), (0.7, 0.1, 0.7), (1, 0, 1)),
    ],
)
def test_the_aspect_of_a_grid(shape, spacing, expected):
    assert aspect_of(shape, spacing) == expected


def test_kernels_grow_where_voxels_are_as_large_as_the_others():
    assert kernel_at((2, 2, 1), (1, 1, 4)) == (3, 3, 1)
    assert kernel_at((4, 4, 1), (1, 1, 4), 5) == (5, 5, 5)
    assert kernel_at((8, 8, 1), (1, 1, 0)) == (3, 3, 1)


@pytest.mark.parametrize("aspect", [(1, 1), (1, 1, 3), (2, 2, 2), (1, 1, -4), (1, 1, 1.0)])
def test_another_aspect_is_refused(aspect):
    with pytest.raises(ArgumentError, match="aspect is"):
        UNet(aspect=aspect)


def test_a_multilevel_registration_of_a_slice_pools_the_plane():
    networks = [
        Network(backbone, VelocityHead(backbone.channels, backbone.strides, aspect=backbone.aspect))
        for backbone in (UNet(levels=2, features=4, aspect=(1, 1, 0)) for _ in range(2))
    ]
    composer = MultilevelComposer(networks, strides=[4, (2, 2, 1)]).train()
    levels = composer(*images(2, 1)).levels
    assert [level.fixed.grid.shape for level in levels] == [(10, 7, 1), (20, 14, 1)]
    assert levels[-1].displacement[:, 2].abs().max() < 1e-6


def pair_of_a_slice(axis):
    fixed, moving = images(axis, 1)
    masks = [Image((x.tensor > 0.5).short(), x.grid, discrete=True) for x in (fixed, moving)]
    truth = Displacement(torch.zeros(1, 3, *fixed.grid.shape), fixed.grid)
    points = fixed.grid.to_world(fixed.grid.scattered(9))[0].T
    return Pair(fixed, moving, *masks, *masks, (points,), (points,), truth)


@pytest.mark.parametrize("name", sorted(providers("losses")))
@pytest.mark.parametrize("axis", [0, 2])
def test_every_loss_term_trains_on_a_slice(axis, name):
    of = {
        "affine_identity": "siamese",
        "gradient_identity": "dilated",
        "segmentation": "dual_stream",
    }
    composer = network(of.get(name, "unet-velocity"), inserted((1, 1), axis, 0)).train()
    pair, loss = pair_of_a_slice(axis), build_loss({"terms": {name: {"weight": 1.0}}})
    registration = composer(pair.fixed, pair.moving)
    if name == "inverse_consistency":
        registration = registration.with_reverse(composer(pair.moving, pair.fixed))
    value = loss(registration, pair).total
    value.backward()
    assert torch.isfinite(value)
    gradients = [p.grad for p in composer.parameters() if p.grad is not None]
    assert gradients
    assert all(torch.isfinite(gradient).all() for gradient in gradients)
    assert isinstance(composer, SingleComposer)
