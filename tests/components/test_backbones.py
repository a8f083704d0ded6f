"""Backbones: shapes, receptive fields, and properties given in the papers."""

from __future__ import annotations

import pytest
import torch

from lightning_reg.components.interfaces import Backbone, Features, Head
from lightning_reg.registry import ArgumentError, ComponentError, build
from lightning_reg.spatial import Grid

SPECS = {
    "progressive_unet": {"levels": 3, "features": 2},
    "unet": {"levels": 3, "features": 2},
    "unet at half resolution": {
        "levels": 3,
        "features": 2,
        "output_stride": 2,
        "norm": "instance",
        "convolutions": 2,
    },
    "unet of pooled images": {"levels": 2, "features": 2, "input_stride": 2, "output_stride": 4},
    "lattice": {"spacing": [8, 4, 2], "features": 4},
    "dilated": {"features": [2, 3], "dilations": [1, 2]},
    "dilated at half resolution": {"features": [2, 3], "dilations": [1, 2], "stride": 2},
    "fcn": {"features": 2},
    "dual_stream": {"levels": 2, "features": 3, "output_stride": 2},
    "voxelmorph": {"encoder": [2, 3], "decoder": [4, 2], "last": [3, 2]},
}


def make(name: str, **arguments) -> Backbone:
    return build(
        "backbones", {"name": name.split()[0], **SPECS.get(name, {}), **arguments}, Backbone
    ).eval()


def test_voxelmorph_has_the_weights_of_its_published_code() -> None:
    """327,331 with the convolution to three components, as MONAI's VoxelMorph of the same layers."""
    backbone = build("backbones", {"name": "voxelmorph"}, Backbone)
    assert sum(p.numel() for p in backbone.parameters()) + 16 * 3 * 27 + 3 == 327_331


def test_dual_streams_levels_without_weight_are_not_computed() -> None:
    net = build("backbones", {"name": "dual_stream", "levels": 3, "features": 2}, Backbone).eval()
    images = [torch.rand(1, 1, 8, 8, 8) for _ in range(2)]
    whole = net(*images)
    net.grow([0.2, 0.8, 0.0])
    first, second, third = net(*images)
    assert third is None
    torch.testing.assert_close(first, whole[0])
    torch.testing.assert_close(second, whole[1])


def test_voxelmorph_refuses_lists_that_do_not_fit() -> None:
    with pytest.raises(ComponentError, match="give encoder and decoder the same number of layers"):
        build("backbones", {"name": "voxelmorph", "encoder": [2, 2], "decoder": [2]}, Backbone)


@pytest.mark.parametrize("name", SPECS)
@pytest.mark.parametrize("times", [(1, 2, 3), (2, 1, 2)])
def test_features_have_the_declared_channels_and_strides(
    name: str, times: tuple[int, int, int]
) -> None:
    net = make(name)
    shape = [2 * t * m for t, m in zip(times, net.multiple, strict=True)]
    features = net(torch.rand(2, 1, *shape), torch.rand(2, 1, *shape))
    assert len(features) == len(net.channels) == len(net.strides)
    for feature, channels, stride in zip(features, net.channels, net.strides, strict=True):
        if feature is not None:
            assert feature.shape == (
                2,
                channels,
                *(n // s for n, s in zip(shape, stride, strict=True)),
            )
    assert list(net.strides) == sorted(net.strides, reverse=True)


@pytest.mark.parametrize("name", sorted(set(SPECS) - {"progressive_unet"}))
def test_every_parameter_is_used_and_both_images_are_read(name: str) -> None:
    net = make(name).train()
    shape = [4 * m for m in net.multiple]
    images = [torch.rand(2, 1, *shape, requires_grad=True) for _ in range(2)]
    torch.stack([f.square().sum() for f in net(*images) if f is not None]).sum().backward()
    assert all(p.grad is not None for p in net.parameters())
    assert all(image.grad.abs().sum() > 0 for image in images)


def reach(net: Backbone, shape: tuple[int, int, int], level: int = -1) -> list[int]:
    """Voxels per axis that one voxel in the middle of a level's features depends on."""
    image = torch.rand(1, 1, *shape, dtype=torch.float64, requires_grad=True)
    feature = net.double()(image, image)[level]
    i, j, k = (n // 2 for n in feature.shape[2:])
    feature[0, :, i, j, k].sum().backward()
    seen = (image.grad[0, 0] != 0).nonzero()
    return (seen.amax(0) - seen.amin(0) + 1).tolist()


def test_the_dilated_encoder_has_the_papers_maps_and_receptive_field() -> None:
    assert sum(make("dilated").channels) == 7
    paper = build("backbones", {"name": "dilated", "norm": "none"}, Backbone)
    assert sum(paper.channels) == 290
    assert set(paper.strides) == {(1, 1, 1)}
    assert reach(paper, (27, 27, 27)) == [25, 25, 25]


@pytest.mark.parametrize("spacing", [8, [8, 4, 2]])
def test_the_lattice_encoder_sees_the_support_of_its_splines(spacing: int | list[int]) -> None:
    net = make("lattice", spacing=spacing)
    seen = reach(net, (80, 80, 80) if spacing == 8 else (80, 48, 32))
    assert all(n >= 4 * s for n, s in zip(seen, net.strides[0], strict=True))


def test_the_dual_stream_sees_each_image_alone() -> None:
    net = make("dual_stream")
    fixed, moving = torch.rand(2, 1, 1, 16, 12, 8)
    both, other_way = net(fixed, moving), net(moving, fixed)
    for maps, exchanged, elsewhere in zip(
        both, other_way, net(fixed, torch.rand(1, 1, 16, 12, 8)), strict=True
    ):
        (first, second), (third, fourth) = maps.chunk(2, dim=1), exchanged.chunk(2, dim=1)
        torch.testing.assert_close((first, second), (fourth, third))
        torch.testing.assert_close(elsewhere.chunk(2, dim=1)[0], first)
        assert not torch.allclose(elsewhere.chunk(2, dim=1)[1], second, atol=1e-3)


def test_a_dual_stream_with_weights_of_each_image_treats_them_differently() -> None:
    net, image = make("dual_stream", shared=False), torch.rand(1, 1, 16, 12, 8)
    first, second = net(image, image)[-1].chunk(2, dim=1)
    assert not torch.allclose(first, second, atol=1e-3)
    assert sum(p.numel() for p in net.parameters()) == 2 * sum(
        p.numel() for p in make("dual_stream").parameters()
    )
    net = make("dual_stream", shared=False, labels=[1])
    for layer in net.classifiers[1]:
        torch.nn.init.zeros_(layer.weight)
        torch.nn.init.zeros_(layer.bias)
    fixed, moving = net(image, image).logits
    assert fixed.abs().max() > 1e-3
    assert moving.abs().max() == 0


@pytest.mark.parametrize("shared", [True, False])
def test_a_dual_stream_predicts_labels_and_gives_their_probabilities_to_every_level(
    shared: bool,
) -> None:
    net = build(
        "backbones",
        {"name": "dual_stream", "levels": 3, "features": 2, "labels": [3, 7], "shared": shared},
        Backbone,
    ).eval()
    fixed, moving = torch.rand(2, 1, 1, 16, 12, 8)
    for alpha, stride in (([0.0, 0.0, 1.0], 1), ([0.5, 0.5, 0.0], 2)):
        net.grow(alpha)
        features = net(fixed, moving)
        assert isinstance(features, Features)
        assert (features.labels, features.stride) == ((3, 7), (stride,) * 3)
        for position, logits in enumerate(features.logits):
            assert logits.shape == (1, 3, 16 // stride, 12 // stride, 8 // stride)
            for maps in features.maps:
                if maps is not None:
                    pooled = torch.nn.functional.interpolate(
                        logits.softmax(1), maps.shape[2:], mode="area"
                    )
                    torch.testing.assert_close(maps.chunk(2, dim=1)[position][:, -3:], pooled)


@pytest.mark.parametrize("labels", [[0, 1], [2, 2], [1.5]])
def test_a_dual_stream_refuses_values_that_are_no_labels(labels: list[float]) -> None:
    with pytest.raises(ComponentError, match="give different whole numbers above 0"):
        make("dual_stream", labels=labels)


def test_the_siamese_encoder_takes_images_of_different_size() -> None:
    net = make("siamese", levels=2, features=3)
    fixed, moving = torch.rand(2, 1, 8, 12, 16), torch.rand(2, 1, 12, 8, 8)
    (both,) = net(fixed, moving)
    assert both.shape == (2, 6, 1, 1, 1)
    (swapped,) = net(moving, fixed)
    torch.testing.assert_close(both, swapped.roll(3, dims=1))  # the pipelines share their weights


def test_the_siamese_encoder_gives_the_fixed_images_averages_first() -> None:
    net = make("siamese", levels=2, features=3)
    fixed, one, other = torch.rand(3, 1, 1, 8, 12, 16).unbind(0)
    (first,), (second,) = net(fixed, one), net(fixed, other)
    assert torch.equal(first[:, :3], second[:, :3])
    assert not torch.equal(first[:, 3:], second[:, 3:])


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("lattice", {"spacing": 6}, "power of two"),
        ("unet", {"output_stride": 8}, "output_stride is 8; with 3 levels use one of 1, 2, 4"),
        ("dilated", {"features": [2]}, "one per layer"),
        ("unet", {"norm": "layer"}, "norm is 'layer'; give batch, instance or none"),
    ],
)
def test_what_makes_no_network_is_refused(name: str, arguments: dict, message: str) -> None:
    with pytest.raises(ComponentError, match=message):
        make(name, **arguments)


@pytest.mark.parametrize("form", ["multiresolution", "no_pooling", "interpolated"])
def test_the_forms_of_the_fcn(form: str) -> None:
    net = build(
        "backbones", {"name": "fcn", "features": 3, "norm": "instance", "form": form}, Backbone
    )
    images = torch.rand(2, 1, 1, 16, 8, 12)
    found = net(*images)
    assert [tuple(level.shape[2:]) for level in found] == [
        tuple(n // s for n, s in zip((16, 8, 12), st, strict=True)) for st in net.strides
    ]
    assert [level.shape[1] for level in found] == list(net.channels)
    assert {"multiresolution": 3, "no_pooling": 1, "interpolated": 1}[form] == len(found)
    assert {"multiresolution": (1, 1, 1), "no_pooling": (1, 1, 1), "interpolated": (4, 4, 4)}[
        form
    ] == net.strides[-1]


def test_a_form_that_is_not_there() -> None:
    with pytest.raises(
        ComponentError,
        match="form is 'pooled'; give multiresolution, no_pooling or interpolated",
    ):
        build("backbones", {"name": "fcn", "form": "pooled"}, Backbone)


def test_a_level_that_is_not_computed_is_refused_where_it_is_read() -> None:
    maps = torch.rand(1, 2, 2, 2, 2)
    features = Features([maps, maps, None])
    assert len(features) == 3
    assert features[1] is maps
    assert len(features[:2]) == 2
    for level in (2, -1, slice(1, None)):
        with pytest.raises(ArgumentError, match=r"did not compute \(of levels 0 to 2, .*: 2\)"):
            features[level]


@pytest.mark.parametrize(
    "head", ["affine", "bspline", "velocity", "dense", "integrated_gradient", "pyramid"]
)
def test_heads_refuse_a_level_that_the_backbone_did_not_compute(head: str) -> None:
    strides = ((2, 2, 2), (1, 1, 1))
    made = build("heads", head, Head, channels=(2, 2), strides=strides)
    with pytest.raises(ArgumentError, match="the head reads a level"):
        made(Features([None, None]), Grid.regular((8, 8, 8)))
