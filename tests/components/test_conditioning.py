"""Networks conditioned on the weight of a loss term."""

from __future__ import annotations

import copy

import pytest
import torch

from lightning_reg.components.backbones.dual_stream import DualStream
from lightning_reg.components.backbones.unet import UNet
from lightning_reg.components.blocks import ConditionalNorm, InstanceNorm
from lightning_reg.components.conditioning import Conditioning, conditionings
from lightning_reg.registry import ComponentError

MAPS = [torch.rand(2, 1, 8, 8, 8, generator=torch.Generator().manual_seed(n)) for n in range(2)]


def network(kind: type = UNet) -> UNet | DualStream:
    torch.manual_seed(0)
    return kind(levels=2, features=4, norm="instance", conditioned=[0.1, 10.0])


def told(net: UNet | DualStream) -> None:
    for part in net.modules():
        if isinstance(part, ConditionalNorm):
            torch.nn.init.normal_(part.modulation.weight, std=0.1)


@pytest.mark.parametrize("kind", [UNet, DualStream])
def test_features_follow_the_weight_once_it_is_learned(kind: type) -> None:
    net = network(kind)
    (conditioning,) = conditionings(net)
    assert conditioning.weight == pytest.approx(1.0)
    first = net(*MAPS)[-1]
    conditioning.weight = 0.1
    torch.testing.assert_close(net(*MAPS)[-1], first)  # of an untrained one they do not
    told(net)
    low = net(*MAPS)[-1]
    conditioning.weight = 10.0
    assert not torch.allclose(net(*MAPS)[-1], low, atol=1e-2)


def test_it_begins_as_plain_instance_normalisation() -> None:
    norms = ConditionalNorm(3), InstanceNorm(3)
    maps = torch.rand(2, 3, 4, 5, 6)
    norms[0].latent = torch.rand(1, 64)
    torch.testing.assert_close(norms[0](maps), norms[1](maps))


def test_the_weight_is_part_of_the_state() -> None:
    net, other = network(), network()
    conditionings(net)[0].weight = 3.0
    other.load_state_dict(net.state_dict())
    assert conditionings(other)[0].weight == 3.0


def test_a_network_can_be_copied_after_a_pass() -> None:
    """Nothing of the graph stays behind in it."""
    net = network()
    net(*MAPS)[-1].sum().backward()
    copy.deepcopy(net)(*MAPS)


def test_weights_have_one_ratio_between_neighbours() -> None:
    assert Conditioning([0.01, 100.0]).spaced(5) == pytest.approx([0.01, 0.1, 1.0, 10.0, 100.0])


@pytest.mark.parametrize("weights", [[0.0, 1.0], [2.0, 1.0], [1.0], [0.1, float("inf")]])
def test_other_ranges_are_refused(weights: list[float]) -> None:
    with pytest.raises(ComponentError, match="smallest and the largest"):
        Conditioning(weights)


@pytest.mark.parametrize("value", [0.05, 20.0])
def test_a_weight_outside_the_range_is_refused(value: float) -> None:
    with pytest.raises(ComponentError, match=r"the network takes weights from 0.1 to 10"):
        conditionings(network())[0].weight = value


@pytest.mark.parametrize("arguments", [{"norm": "batch", "conditioned": [0.1, 1]}])
def test_a_network_without_instance_normalisation_cannot_be_told(arguments: dict) -> None:
    with pytest.raises(ComponentError, match="has norm instance"):
        UNet(levels=2, features=4, **arguments)
