"""Tests of the Swin backbone: conformance kit, attention in windows against explicit formulas, and
training from its configurations.
"""

from __future__ import annotations

import functools

import pytest
import torch
from lightning_reg_transformer.attention import SwinBlock, WindowAttention, _mask
from lightning_reg_transformer.swin import SwinBackbone

from lightning_reg import ArgumentError, compose, train
from lightning_reg.testing import parametrize_with_checks

SMALL = functools.partial(
    SwinBackbone, embedding=8, depths=(2, 2), heads=(2, 2), window=3, features=4
)


@parametrize_with_checks(
    "backbone", {"swin": SMALL, "half": functools.partial(SMALL, output_stride=2)}
)
def test_backbone(check) -> None:
    check()


@pytest.mark.parametrize("shifted", [False, True])
@pytest.mark.parametrize("extents", [(6, 3, 2), (7, 5, 4)])
def test_a_token_is_moved_by_those_that_share_its_window_alone(
    extents: tuple[int, int, int], shifted: bool
) -> None:
    """Windows counted by hand: token ``x`` lies in window ``(x + shift) // 3`` along an axis that
    is longer than a window.
    """
    torch.manual_seed(0)
    block = SwinBlock(4, 2, 3, shifted).double().eval()
    x = torch.randn(1, *extents, 4, dtype=torch.float64)
    source = (extents[0] // 2, 1, 1)
    moved = x.clone()
    moved[(0, *source, 0)] += 1
    changed = (block(moved) - block(x)).abs().sum(-1)[0] > 1e-12

    def window(place: int, n: int) -> int:
        return 0 if n <= 3 else (place - (1 if shifted else 0)) // 3

    for place in torch.cartesian_prod(*(torch.arange(n) for n in extents)).tolist():
        same = all(
            window(p, n) == window(s, n) for p, s, n in zip(place, source, extents, strict=True)
        )
        assert bool(changed[tuple(place)]) == same, place


def test_attention_is_that_of_the_formula() -> None:
    """``softmax(q k / sqrt(d) + bias) v`` of one window, written out with loops."""
    torch.manual_seed(0)
    attention = WindowAttention(4, 2, 2).double()
    tokens = torch.randn(1, 1, 8, 4, dtype=torch.float64)
    everything = torch.ones(1, 8, 8, dtype=torch.bool)
    q, k, v = attention.query_key_value(tokens)[0, 0].view(8, 3, 2, 2).unbind(1)
    places = [(i, j, n) for i in range(2) for j in range(2) for n in range(2)]
    found = torch.zeros(8, 2, 2, dtype=torch.float64)
    for head in range(2):
        for a, here in enumerate(places):
            bias = torch.stack(
                [
                    attention.bias[head][tuple(h - t + 1 for h, t in zip(here, there, strict=True))]
                    for there in places
                ]
            )
            weights = torch.softmax(
                torch.stack([q[a, head] @ k[b, head] / 2**0.5 for b in range(8)]) + bias, 0
            )
            found[a, head] = (weights[:, None] * v[:, head]).sum(0)
    torch.testing.assert_close(
        attention(tokens, (2, 2, 2), everything)[0, 0], attention.output(found.flatten(1))
    )


def test_what_is_padded_sees_itself_alone() -> None:
    mask = _mask((3, 2, 2), (4, 2, 2), (2, 2, 2), (0, 0, 0), torch.device("cpu"))
    assert mask.shape == (2, 8, 8)
    assert mask[0].all()
    assert mask[1].sum() == 32  # four tokens that are there, four that are not


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"depths": (2,)}, "one of each per stage"), ({"patch": 3}, "powers of two"),
        ({"output_stride": 4}, "the patch the larger"),
        ({"heads": (5, 5)}, "do not divide"),
    ],
)  # fmt: skip
def test_what_makes_no_backbone_is_refused(arguments: dict, message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        SwinBackbone(**arguments)


def test_the_papers_size_is_the_papers() -> None:
    """46 million parameters in its table; the decoder here is smaller."""
    backbone = SwinBackbone(
        embedding=96, depths=(2, 2, 4, 2), heads=(4, 4, 8, 8), window=6, features=16
    )
    assert backbone.channels[:4] == (768, 384, 192, 96)
    assert [s[0] for s in backbone.strides] == [32, 16, 8, 4, 2, 1]
    assert 25e6 < sum(p.numel() for p in backbone.parameters()) < 60e6


@pytest.mark.parametrize("method", ["transmorph", "transmorph_small"])
def test_the_methods_train(method: str, tmp_path) -> None:
    smaller = (
        ["method.composer.backbone.embedding=8", "method.composer.backbone.window=2"]
        if method == "transmorph"
        else []
    )
    tiny = [
        "data.dataset.shape=[64,32,32]",
        "data.dataset.crop=null",
        "data.dataset.subjects=1",
        "data.dataset.validation=1",
        "data.workers=0",
    ]
    steps = [
        "trainer.max_steps=2",
        "data.samples_per_epoch=2",
        "trainer.accelerator=cpu",
        "callbacks.progress_bar=null",
    ]
    outcome = train(
        compose([f"method={method}", "data=phantom", *smaller, *tiny, *steps]), tmp_path / "run"
    )
    assert outcome.totals()["tre_after_mm"] > 0
