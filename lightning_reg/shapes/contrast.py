"""Random contrasts: an image of any modality, or of none, from a label map."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_reg.functional import resize
from lightning_reg.shapes.noise import chance, log_uniform, smooth_noise, uniform


@dataclass(frozen=True)
class RandomContrast:
    """Distribution of contrasts, after SynthMorph (Hoffmann et al., IEEE TMI 41, 2022), SynthSeg
    (Billot et al., Med. Image Anal. 86, 2023) and anatomix (Dey et al., ICLR 2025).

    Every structure gets a mean intensity and a texture; then come partial volumes, bias field,
    blur, thick slices, noise, gamma, saturation, a background that is 0, constant or noise, and
    slabs without signal at the faces of the image. The result is in [0, 1].

    Args:
        texture: largest standard deviation of the texture in a structure (intensities are in [0,
            1]).
        variation: standard deviation of the change of a mean between two images of one modality.
        bias: largest standard deviation of the logarithm of the bias field.
        blur: largest standard deviation of the blur, voxels.
        thick: largest slice thickness, voxels; a random axis has thick slices in one image of
            three.
        noise: largest standard deviation of the noise.
        gamma: largest logarithm of the exponent, natural.
        saturation: largest fraction of the range that is cut off at either end, in one image of
            four.
        cut: largest thickness of a slab without signal, fraction of the extent, in one image of
            four.
    """

    texture: float = 0.1
    variation: float = 0.08
    bias: float = 0.3
    blur: float = 1.0
    thick: float = 4.0
    noise: float = 0.06
    gamma: float = 0.4
    saturation: float = 0.1
    cut: float = 0.2

    def means(self, count: int, generator: torch.Generator) -> Tensor:
        """Draw the mean intensity of each of ``count`` structures, the background first,
        ``(count,)``.
        """
        means = torch.rand(count, generator=generator, device=generator.device)
        if chance(generator, 0.8):
            means[0] = 0.0
        return means

    def related(self, means: Tensor, generator: torch.Generator) -> Tensor:
        """Draw the means of a second image of the same modality."""
        change = torch.randn(means.shape, generator=generator, device=generator.device)
        return torch.where(means > 0, (means + self.variation * change).clamp(0, 1), means)

    def paint(
        self, index: Tensor, means: Tensor, texture: Tensor, generator: torch.Generator
    ) -> Tensor:
        """Paint an image.

        Args:
            index: ``(1, 1, I, J, K)``, number of the structure at every voxel, an index of
                ``means``.
            means: mean intensities, ``(count,)``.
            texture: ``(1, 1, I, J, K)`` of about unit variance.

        Returns:
            ``(1, 1, I, J, K)`` in [0, 1].
        """
        shape = index.shape[2:]
        spreads = self.texture * torch.rand(len(means), generator=generator, device=means.device)
        spreads[0] = 0.0
        index = index.long()
        image = means[index] + spreads[index] * texture
        image = self._blurred(image, generator)
        if chance(generator, 1 / 3):
            image = self._thick(image, generator)
        scale = uniform(generator, 0.3, 0.8) * min(shape)
        strength = self.bias * uniform(generator, 0, 1)
        image = image * torch.exp(strength * smooth_noise(shape, scale, 1, generator))
        image = _in_unit_range(image)
        if chance(generator, 0.25):
            low, high = (uniform(generator, 0, self.saturation) for _ in range(2))
            image = ((image - low) / (1 - low - high)).clamp(0, 1)
        image = image ** math.exp(uniform(generator, -self.gamma, self.gamma))
        drawn = torch.randn(image.shape, generator=generator, device=image.device)
        noisy = (image + self.noise * uniform(generator, 0, 1) * drawn).clamp(0, 1)
        image = torch.where(index == 0, image, noisy) if chance(generator, 0.3) else noisy
        return self._cut(image, generator) if chance(generator, 0.25) else image

    def _blurred(self, image: Tensor, generator: torch.Generator) -> Tensor:
        """Blur along each axis; a little always, because a voxel averages over its extent."""
        for axis in range(3):
            sigma = uniform(generator, 0.3, max(0.3, self.blur))
            reach = max(1, math.ceil(2.5 * sigma))
            offsets = torch.arange(-reach, reach + 1, device=image.device)
            kernel = torch.exp(-0.5 * (offsets / sigma) ** 2)
            sizes = [1, 1, 1, 1, 1]
            sizes[2 + axis] = len(kernel)
            padding = [0] * 6
            padding[4 - 2 * axis : 6 - 2 * axis] = [reach, reach]
            padded = F.pad(image, padding, mode="replicate")
            image = F.conv3d(padded, (kernel / kernel.sum()).view(sizes))
        return image

    def _thick(self, image: Tensor, generator: torch.Generator) -> Tensor:
        """Average over thick slices across a random axis, then interpolate."""
        axis = int(uniform(generator, 0, 3))
        shape = list(image.shape[2:])
        fewer = list(shape)
        fewer[axis] = max(2, round(shape[axis] / log_uniform(generator, 1.0, max(1.0, self.thick))))
        return resize(F.adaptive_avg_pool3d(image, (fewer[0], fewer[1], fewer[2])), shape)

    def _cut(self, image: Tensor, generator: torch.Generator) -> Tensor:
        """Remove the signal from a slab at a random face."""
        axis = 2 + int(uniform(generator, 0, 3))
        slab = int(uniform(generator, 0, self.cut) * image.shape[axis])
        start = 0 if chance(generator, 0.5) else image.shape[axis] - slab
        kept = image.clone()
        kept.narrow(axis, start, slab).zero_()
        return kept


def _in_unit_range(image: Tensor) -> Tensor:
    """Map the 0.5th and 99.5th percentiles, of every fifth voxel, to 0 and 1, with clipping."""
    ordered = image.flatten()[::5].sort().values
    last = len(ordered) - 1
    low, high = ordered[round(0.005 * last)], ordered[round(0.995 * last)]
    return ((image - low) / (high - low).clamp_min(1e-6)).clamp(0, 1)
