"""Attention in shifted windows of a volume."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Size = tuple[int, int, int]


class WindowAttention(nn.Module):
    """Multi-head self-attention inside windows, with a learned bias per relative position (Liu et
    al., ICCV 2021, equation 4).

    Args:
        channels: of the tokens; a multiple of ``heads``.
        heads: of attention.
        window: largest edge of a window, tokens.
    """

    def __init__(self, channels: int, heads: int, window: int) -> None:
        super().__init__()
        self.heads, self.window = heads, window
        self.bias = nn.Parameter(torch.zeros(heads, *(2 * window - 1,) * 3))
        nn.init.trunc_normal_(self.bias, std=0.02)
        self.query_key_value = nn.Linear(channels, 3 * channels)
        self.output = nn.Linear(channels, channels)

    def forward(self, tokens: Tensor, size: Size, mask: Tensor) -> Tensor:
        """Compute attention inside each window.

        Args:
            tokens: ``(B, windows, tokens, channels)``, in windows of ``size``.
            size: edges of a window, tokens.
            mask: ``(windows, tokens, tokens)``, whether a token attends to another.

        Returns:
            Tokens of the same shape.
        """
        batch, windows, count, channels = tokens.shape
        query, key, value = (
            self.query_key_value(tokens)
            .view(batch, windows, count, 3, self.heads, -1)
            .permute(3, 0, 1, 4, 2, 5)
        )
        bias = self._bias(size).masked_fill(~mask.unsqueeze(1), float("-inf")).to(query.dtype)
        found = F.scaled_dot_product_attention(query, key, value, attn_mask=bias)
        return self.output(found.transpose(2, 3).reshape(batch, windows, count, channels))

    def _bias(self, size: Size) -> Tensor:
        """Bias ``(heads, tokens, tokens)`` for a window that may be smaller than the largest."""
        places = torch.stack(
            torch.meshgrid(*(torch.arange(n, device=self.bias.device) for n in size), indexing="ij")
        ).flatten(1)
        i, j, k = places.unsqueeze(2) - places.unsqueeze(1) + self.window - 1
        return self.bias[:, i, j, k]


class SwinBlock(nn.Module):
    """Attention in windows and a perceptron, each with layer normalisation before it and a residual
    connection (Liu et al., 2021, eq. 3).

    Args:
        channels, heads, window: see :class:`WindowAttention`.
        shifted: whether windows are moved by half their edge.
        expansion: of the perceptron's hidden layer.
    """

    def __init__(
        self, channels: int, heads: int, window: int, shifted: bool, expansion: int = 4
    ) -> None:
        super().__init__()
        self.window, self.shifted = window, shifted
        self.before, self.between = nn.LayerNorm(channels), nn.LayerNorm(channels)
        self.attention = WindowAttention(channels, heads, window)
        self.perceptron = nn.Sequential(
            nn.Linear(channels, expansion * channels),
            nn.GELU(),
            nn.Linear(expansion * channels, channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Apply the block to ``(B, I, J, K, channels)``; the result has the same shape."""
        x = x + self._attended(self.before(x))
        return x + self.perceptron(self.between(x))

    def _attended(self, x: Tensor) -> Tensor:
        extents = x.shape[1:4]
        size, shift = _window(extents, self.window, self.shifted)
        padded = [-(-n // w) * w for n, w in zip(extents, size, strict=True)]
        x = F.pad(
            x,
            [
                0,
                0,
                *itertools.chain(
                    *((0, p - n) for p, n in zip(reversed(padded), reversed(extents), strict=True))
                ),
            ],
        )
        x = x.roll([-s for s in shift], (1, 2, 3))
        mask = _mask(extents, padded, size, shift, x.device)
        x = _joined(self.attention(_windows(x, size), size, mask), padded, size)
        i, j, k = extents
        return x.roll(shift, (1, 2, 3))[:, :i, :j, :k]


def _window(extents: Sequence[int], window: int, shifted: bool) -> tuple[Size, Size]:
    """Edges and shifts of windows; an axis no longer than a window has one window and no shift."""
    size = tuple(min(window, n) for n in extents)
    shift = tuple(window // 2 if shifted and n > window else 0 for n in extents)
    return size, shift  # type: ignore[return-value]


def _windows(x: Tensor, size: Size) -> Tensor:
    """Divide ``(B, I, J, K, C)`` into windows, ``(B, windows, tokens, C)``."""
    batch, channels = x.shape[0], x.shape[4]
    i, j, k = (n // w for n, w in zip(x.shape[1:4], size, strict=True))
    x = x.view(batch, i, size[0], j, size[1], k, size[2], channels).permute(0, 1, 3, 5, 2, 4, 6, 7)
    return x.reshape(batch, i * j * k, size[0] * size[1] * size[2], channels)


def _joined(windows: Tensor, extents: Sequence[int], size: Size) -> Tensor:
    """The reverse of :func:`_windows`."""
    batch, channels = windows.shape[0], windows.shape[3]
    i, j, k = (n // w for n, w in zip(extents, size, strict=True))
    x = windows.view(batch, i, j, k, *size, channels).permute(0, 1, 4, 2, 5, 3, 6, 7)
    return x.reshape(batch, *extents, channels)


def _mask(
    extents: Sequence[int], padded: Sequence[int], size: Size, shift: Size, device: torch.device
) -> Tensor:
    """Mask of attention, ``(windows, tokens, tokens)``.

    Tokens attend only to tokens of the same part of the volume: parts joined by the cyclic shift
    are kept separate, and padded tokens attend only to padded tokens.
    """
    part = torch.zeros(1, *padded, 1, device=device)
    for axis, (n, p, w, s) in enumerate(zip(extents, padded, size, shift, strict=True)):
        place = (torch.arange(p, device=device) + s) % p
        number = (place >= n).float() * 2 + (
            (torch.arange(p, device=device) >= p - w) & (place < s)
        ).float()
        part = 4 * part + number.view([-1 if a == axis + 1 else 1 for a in range(5)])
    windows = _windows(part, size)[0, :, :, 0]
    return windows.unsqueeze(1) == windows.unsqueeze(2)
