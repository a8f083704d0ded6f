"""Growing network: computation, cost, and growth restored from the state dictionary."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from making import single
from torch import nn

from lightning_reg.components import Growable
from lightning_reg.components.backbones.progressive_unet import ProgressiveUNet
from lightning_reg.components.blocks import Convolution, InstanceNorm
from lightning_reg.components.composers import SingleComposer
from lightning_reg.functional import pool
from lightning_reg.registry import DataError
from lightning_reg.spatial import Grid, Image, Pair

LEVELS = 3
BACKBONE = {"name": "progressive_unet", "levels": LEVELS, "features": 4}


def composer(levels: int = LEVELS) -> SingleComposer:
    made = single(BACKBONE | {"levels": levels}, {"name": "dense", "levels": "weighted"})
    for parameter in made.parameters():  # the heads start near zero; make their outputs matter
        if parameter.abs().max() < 0.01:
            nn.init.normal_(parameter, std=0.3)
    return made


def grow(module: nn.Module, alpha: list[float]) -> None:
    for part in module.modules():
        if isinstance(part, Growable):
            part.grow(alpha)


@pytest.mark.parametrize(
    ("alpha", "computed"),
    [([1, 0, 0], 1), ([0.4, 0.6, 0], 2), ([0, 1, 0], 2), ([0, 0.5, 0.5], 3), ([0, 0, 1], 3)],
)
def test_levels_without_weight_are_not_computed(alpha: list[float], computed: int) -> None:
    net = ProgressiveUNet(levels=LEVELS, features=4)
    net.grow(alpha)
    features = net(torch.rand(1, 1, 16, 8, 12), torch.rand(1, 1, 16, 8, 12))
    assert [f is not None for f in features] == [i < computed for i in range(LEVELS)]
    for level, feature in enumerate(features[:computed]):
        assert feature is not None
        assert feature.shape == (
            1,
            net.channels[level],
            *(n // s for n, s in zip((16, 8, 12), net.strides[level], strict=True)),
        )


@pytest.mark.parametrize(
    "alpha", [[1.0, 0, 0], [0.4, 0.6, 0], [0, 1.0, 0], [0, 0.5, 0.5], [0, 0, 1.0]]
)
def test_gradients_reach_exactly_what_the_weights_use(alpha: list[float], pair: Pair) -> None:
    net = composer()
    grow(net, alpha)
    net(pair.fixed, pair.moving).transform.displacement().square().sum().backward()
    top = max(i for i, a in enumerate(alpha) if a > 0)
    backbone, head = net.network.backbone, net.network.heads[0]

    def used(module: nn.Module) -> bool:
        return all(p.grad is not None for p in module.parameters())

    assert [used(m) for m in head.fields] == [a > 0 for a in alpha]
    assert [used(m) for m in backbone.encoders] == [i <= top for i in range(LEVELS)]
    beta = [sum(alpha[: i + 1]) for i in range(LEVELS)]
    assert [used(m) for m in backbone.inputs] == [i <= top and beta[i] > 0 for i in range(LEVELS)]
    assert [used(m) for m in backbone.widen] == [i < top and beta[i] < 1 for i in range(LEVELS - 1)]


def test_the_output_is_the_weighted_sum_of_the_levels(pair: Pair) -> None:
    """With every input at its own level (beta = 1 below the top) a two-level state is a mixture of
    its parts.
    """
    net = composer().eval()
    head = net.network.heads[0]
    features = [
        torch.rand(1, n, *(s // stride for s in (20, 16, 12)))
        for n, stride in ((16, 4), (8, 2), (4, 1))
    ]
    single = []
    for level in range(LEVELS):
        head.grow([float(i == level) for i in range(LEVELS)])
        single.append(head(features, pair.fixed.grid)[0].field)
    head.grow([0.2, 0.5, 0.3])
    mixed = head(features, pair.fixed.grid)[0].field
    torch.testing.assert_close(mixed, 0.2 * single[0] + 0.5 * single[1] + 0.3 * single[2])


def test_growth_is_continuous_where_a_level_enters(pair: Pair) -> None:
    net = composer().eval()
    grow(net, [1, 0, 0])
    before = net(pair.fixed, pair.moving).transform.displacement()
    grow(net, [1 - 1e-5, 1e-5, 0])
    after = net(pair.fixed, pair.moving).transform.displacement()
    assert (after - before).abs().max() < 1e-3 * before.abs().max()


def test_the_state_dict_carries_the_growth(pair: Pair) -> None:
    source, target = composer(), composer()
    grow(source, [0.25, 0.75, 0])
    target.load_state_dict(source.state_dict())
    a, b = (
        net.eval()(pair.fixed, pair.moving).transform.displacement() for net in (source, target)
    )
    torch.testing.assert_close(a, b)


@pytest.mark.parametrize("alpha", [[0.5, 0.4, 0], [1, 0], [1.5, -0.5, 0]])
def test_weights_that_do_not_sum_to_one_are_refused(alpha: list[float]) -> None:
    with pytest.raises(ValueError, match="3 weights in"):
        ProgressiveUNet(levels=3).grow(alpha)


def test_sizes_that_do_not_divide_are_padded_and_cropped() -> None:
    grid = Grid.regular((18, 13, 11))
    net = composer()
    found = net(
        Image(torch.rand(1, 1, 18, 13, 11), grid), Image(torch.rand(1, 1, 18, 13, 11), grid)
    ).transform
    assert found.displacement().shape == (1, 3, 18, 13, 11)


def test_too_many_levels_for_the_image_is_one_sentence(pair: Pair) -> None:
    with pytest.raises(
        DataError, match=r"20 x 16 x 12 voxels are too small .* by 32 x 32 x 32: lower its levels"
    ):
        composer(6)(pair.fixed, pair.moving)


@pytest.mark.parametrize("dilation", [1, 3])
@pytest.mark.parametrize(
    "shape",
    [(1, 3, 8, 6, 5), (1, 3, 4, 6, 5), (1, 3, 7, 6, 5), (2, 3, 8, 6, 5), (1, 30, 40, 30, 3)],
)
def test_the_fast_convolution_is_a_convolution(shape: tuple[int, ...], dilation: int) -> None:
    fast = Convolution(shape[1], 4, dilation=dilation).double()
    plain = nn.Conv3d(shape[1], 4, 3, padding=dilation, dilation=dilation).double()
    plain.load_state_dict(fast.state_dict())
    x, y = (torch.rand(shape, dtype=torch.float64).requires_grad_() for _ in range(2))
    y.data.copy_(x.data)
    a, b = fast(x), plain(y)
    weight = torch.rand_like(a)
    (a * weight).sum().backward()
    (b * weight).sum().backward()
    torch.testing.assert_close(a, b)
    with torch.no_grad():
        torch.testing.assert_close(fast(x), b)
    torch.testing.assert_close(x.grad, y.grad)
    torch.testing.assert_close(fast.weight.grad, plain.weight.grad)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last_3d])
@pytest.mark.parametrize("batch", [1, 3])
def test_the_fast_normalisation_is_instance_normalisation(
    batch: int, layout: torch.memory_format
) -> None:
    """As a group per channel: the gradient of PyTorch 2.13's ``F.instance_norm`` is wrong where
    channels come last.
    """
    fast = InstanceNorm(4).double()
    for parameter in fast.parameters():
        nn.init.normal_(parameter)
    x = (
        (torch.rand(batch, 4, 6, 5, 7, dtype=torch.float64) * 3 + 1)
        .contiguous(memory_format=layout)
        .requires_grad_()
    )
    for module in (fast.train(), fast.eval()):
        found, expected = module(x), F.group_norm(x, 4, fast.weight, fast.bias)
        torch.testing.assert_close(found, expected)
        weight = torch.rand_like(found)
        wanted = (x, *fast.parameters())
        ours, theirs = (torch.autograd.grad((y * weight).sum(), wanted) for y in (found, expected))
        for a, b in zip(ours, theirs, strict=True):
            torch.testing.assert_close(a, b)


def test_inputs_are_the_images_pooled_to_the_level() -> None:
    """At alpha = [1, 0, 0] the network reads the images at the coarsest resolution and nothing
    finer.
    """
    net = ProgressiveUNet(levels=LEVELS, features=4).eval()
    net.grow([1, 0, 0])
    fixed, moving = torch.rand(1, 1, 16, 8, 12), torch.rand(1, 1, 16, 8, 12)
    blurred = pool(fixed, 4).repeat_interleave(4, 2).repeat_interleave(4, 3).repeat_interleave(4, 4)
    torch.testing.assert_close(net(fixed, moving)[0], net(blurred, moving)[0])


def test_a_refining_level_enters_without_changing_the_field(pair: Pair) -> None:
    """With ``refine``, a level whose own convolution is still zero passes on what the coarser ones
    found.
    """
    head = single(BACKBONE, {"name": "dense", "levels": "weighted", "refine": True}).network.heads[
        0
    ]
    features = [
        torch.rand(1, n, *(s // stride for s in (20, 16, 12)))
        for n, stride in ((16, 4), (8, 2), (4, 1))
    ]
    for field in head.fields:
        nn.init.zeros_(field.weight)
    nn.init.normal_(head.fields[0].bias)
    for alpha in ([1, 0, 0], [0.5, 0.5, 0], [0, 1, 0], [0, 0.3, 0.7], [0, 0, 1]):
        head.grow(alpha)
        field = head(features, pair.fixed.grid)[0].field
        torch.testing.assert_close(field, head.fields[0].bias.view(1, 3, 1, 1, 1).expand_as(field))
