"""Augmentation of training pairs: intensities and geometry."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

import numpy as np
import torch
import torchio as tio
from torch import Tensor
from torch.utils.data import Dataset

from lightning_reg.data.symmetry import rotated
from lightning_reg.functional import in_plane, resize_displacement
from lightning_reg.io.transform_reading import from_itk
from lightning_reg.registry import Checked, Length, Range, construct
from lightning_reg.spatial import Composition, Displacement, Grid, Image, Pair, Transform

STEPS = ("flip", "turn", "affine", "elastic", "crop", "bias", "gamma", "noise")


@dataclass(frozen=True)
class Augmentation(Checked):
    """Random changes of a pair, mostly by TorchIO. Masks, labels, landmarks and the true transform
    change with the images.

    Flips and turns always change both images in the same way. The other steps are drawn once for
    both images, except those listed in
    ``separately``: they are drawn independently for the fixed and the moving image (a difference to
    be learned, or to be ignored).

    Args:
        noise: largest standard deviation of the Gaussian noise (intensities are in [0, 1]).
        gamma: intensities are raised to the power of ``exp(g)``, with ``g`` uniform within plus and
            minus this.
        bias: largest coefficient of a smooth bias field (TorchIO: ``RandomBiasField``).
        flip: axes of the fixed image (0 right, 1 front, 2 top, if it is canonical), each mirrored
            in half of the cases.
        turn: axes about each of which the pair is turned by 0, 90, 180 or 270 degrees (de Vos et
            al., 2019, Section 6.1: ``[2]``).
        affine: arguments of TorchIO's ``RandomAffine``: ``{scales, degrees, translation}`` (factor,
            degrees, mm).
        elastic: arguments of TorchIO's ``RandomElasticDeformation``:
            ``{num_control_points, max_displacement}`` (mm).
        crop_mm: largest width cut off at every face, mm (de Vos et al., 2019, Section 7.1: 32).
        crop_voxels: the same in voxels, per axis (Section 6.1: ``[16, 16, 0]``).
        separately: steps drawn for each image: some of
            ``affine, elastic, crop, bias, gamma, noise``.
    """

    noise: Annotated[float, Range(0)] = 0.0
    gamma: Annotated[float, Range(0)] = 0.0
    bias: Annotated[float, Range(0)] = 0.0
    flip: Sequence[Literal[0, 1, 2]] = ()
    turn: Sequence[Literal[0, 1, 2]] = ()
    affine: Mapping[str, Any] | None = None
    elastic: Mapping[str, Any] | None = None
    crop_mm: Annotated[float, Range(0)] = 0.0
    crop_voxels: Annotated[Sequence[Annotated[int, Range(0, of="voxels")]], Length(3)] | None = None
    separately: Sequence[Literal["affine", "elastic", "crop", "bias", "gamma", "noise"]] = (
        "bias",
        "gamma",
        "noise",
    )

    def __post_init__(self) -> None:
        for name, kind in (("affine", _affine), ("elastic", _elastic)):
            if getattr(self, name) is not None:
                # refuses unknown arguments
                construct(name, kind, dict(getattr(self, name)))

    def __call__(self, pair: Pair, seed: Sequence[int]) -> Pair:
        """Augment a pair of batch size 1. The same seed gives the same pair."""
        rng = np.random.default_rng(list(seed))
        pair = self._rotated(pair, rng)
        if self.affine is not None or self.elastic is not None:
            pair = self._deformed(pair, seed)
        if self.crop_mm > 0 or self.crop_voxels is not None:
            pair = self._cropped(pair, rng)
        return self._recoloured(pair, seed)

    def _rotated(self, pair: Pair, rng: np.random.Generator) -> Pair:
        axes, flips = [0, 1, 2], [False, False, False]
        for axis in self.turn:
            a, b = [other for other in range(3) if other != axis]
            for _ in range(int(rng.integers(4))):
                axes[a], axes[b] = axes[b], axes[a]
                flips[a], flips[b] = not flips[b], flips[a]
        for axis in self.flip:
            flips[axis] ^= bool(rng.random() < 0.5)
        return pair if axes == [0, 1, 2] and not any(flips) else rotated(pair, axes, flips)

    def _deformed(self, pair: Pair, seed: Sequence[int]) -> Pair:
        """Warp the images by random transforms of the world, shared or one per image."""
        steps: dict[str, list[Transform]] = {"fixed": [], "moving": []}
        for number, (name, draw) in enumerate(
            (("affine", _random_affine), ("elastic", _random_elastic))
        ):
            arguments = getattr(self, name)
            if arguments is not None:
                with _drawing([*seed, 10 + number]):
                    steps["fixed"].append(draw(arguments, pair.fixed.grid))
                    own = (
                        draw(arguments, pair.moving.grid)
                        if name in self.separately
                        else steps["fixed"][-1]
                    )
                    steps["moving"].append(own)
        transforms = {side: Composition(of) for side, of in steps.items()}
        on, same_grid = pair.fixed.tensor.device, pair.moving.grid.matches(pair.fixed.grid)
        pulled = {"fixed": _displacement(transforms["fixed"], pair.fixed.grid).to(on)}
        pulled["moving"] = (
            pulled["fixed"]
            if steps["moving"] == steps["fixed"] and same_grid
            else _displacement(transforms["moving"], pair.moving.grid).to(on)
        )
        changed = pair.changed(
            lambda side, image: _warped(image, pulled[side]),
            lambda side, points: _origin(transforms[side], points),
        )
        if pair.truth is None:
            return changed
        fixed, moving = transforms.values()
        truth = Displacement(pair.truth.field.cpu(), pair.truth.grid)
        whole = Composition([moving.inverse(), truth, fixed]).displacement(pair.fixed.grid)
        return replace(changed, truth=Displacement(whole.to(pair.truth.field), pair.fixed.grid))

    def _cropped(self, pair: Pair, rng: np.random.Generator) -> Pair:
        shares = rng.random((2, 2, 3))  # image, face, axis
        shares[1] = shares[1] if "crop" in self.separately else shares[0]
        parts = [
            self._part(image.grid, share)
            for image, share in zip((pair.fixed, pair.moving), shares, strict=True)
        ]
        cropped = pair.cropped(parts[0], parts[1])
        if pair.fixed_landmarks is None or pair.moving_landmarks is None:
            return cropped
        fixed, moving = pair.fixed_landmarks[0], pair.moving_landmarks[0]
        kept = _inside(cropped.fixed.grid, fixed) & _inside(cropped.moving.grid, moving)
        kept = kept.to(fixed.device)
        if not bool(kept.any()):
            return cropped
        return replace(cropped, fixed_landmarks=(fixed[kept],), moving_landmarks=(moving[kept],))

    def _part(self, grid: Grid, share: np.ndarray) -> tuple[list[int], list[int]]:
        """Return start and extents of the remaining part; at least half of each axis remains."""
        most = np.array(self.crop_voxels or [0, 0, 0], dtype=float)
        most = np.maximum(most, self.crop_mm / grid.spacing[0])
        most = np.minimum(most, np.array(grid.shape) // 4)
        before, after = np.floor(share * (most + 1)).clip(max=most).astype(int)
        return before.tolist(), (np.array(grid.shape) - before - after).tolist()

    def _recoloured(self, pair: Pair, seed: Sequence[int]) -> Pair:
        steps: list[tuple[str, tio.Transform]] = []
        if self.bias > 0:
            steps.append(("bias", tio.RandomBiasField(coefficients=self.bias)))
        if self.gamma > 0:
            steps.append(("gamma", tio.RandomGamma(log_gamma=(-self.gamma, self.gamma))))
        if self.noise > 0:
            steps.append(("noise", tio.RandomNoise(std=(0, self.noise))))
        images = [pair.fixed, pair.moving]
        for number, (name, transform) in enumerate(steps):
            for side, image in enumerate(images):
                with _drawing([*seed, 20 + number, side if name in self.separately else 0]):
                    changed = torch.stack([transform(item.cpu()) for item in image.tensor])
                images[side] = replace(image, tensor=changed.to(image.tensor))
        return replace(pair, fixed=images[0], moving=images[1]) if steps else pair


@contextmanager
def _drawing(seed: Sequence[int]) -> Iterator[None]:
    """Seed the global generator, from which TorchIO draws, inside a ``with`` block, and restore its
    state afterwards.

    Only the CPU's generator is seeded: ``torch.manual_seed`` would store a stack trace for every
    kind of device that is not initialised yet, and the process would grow.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(
            int(np.random.SeedSequence(list(seed)).generate_state(1)[0])
        )
        yield


def _blank(grid: Grid) -> tio.ScalarImage:
    return tio.ScalarImage(tensor=torch.zeros(1, *grid.shape), affine=grid.affine[0])


def _affine(
    scales: Any = 0.1, degrees: Any = 10, translation: Any = 0, isotropic: bool = False
) -> tio.RandomAffine:
    return tio.RandomAffine(scales, degrees, translation, isotropic)


def _elastic(
    num_control_points: Any = 7, max_displacement: Any = 7.5, locked_borders: int = 2
) -> tio.RandomElasticDeformation:
    return tio.RandomElasticDeformation(num_control_points, max_displacement, locked_borders)


def _random_affine(arguments: Mapping[str, Any], grid: Grid) -> Transform:
    """Draw an affine map from the augmented to the original world, about the grid's centre."""
    random = _affine(**arguments)
    drawn = random.get_params(random.scales, random.degrees, random.translation, random.isotropic)
    scales, degrees, translation = (tuple(float(v) for v in values) for values in drawn)
    affine = tio.Affine(scales, degrees, translation)
    return _in_plane(from_itk(affine.get_affine_transform(_blank(grid))), grid)


def _random_elastic(arguments: Mapping[str, Any], grid: Grid) -> Transform:
    """Draw an elastic map from the augmented to the original world, for this grid."""
    random = _elastic(**arguments)
    control = random.get_params(
        random.num_control_points, random.max_displacement, random.num_locked_borders
    )
    elastic = tio.ElasticDeformation(control, random.max_displacement)
    # ITK's lattice needs an extent along every axis
    thick = grid.cropped((0, 0, 0), [max(n, 2) for n in grid.shape])
    return _in_plane(from_itk(elastic.get_bspline_transform(_blank(thick).as_sitk())), grid)


def _in_plane(transform: Transform, grid: Grid) -> Transform:
    """The transform; of one slice, its displacement in the plane."""
    if min(grid.shape) > 1:
        return transform
    return Displacement(in_plane(transform.displacement(grid).float(), grid.shape), grid)


def _displacement(transform: Transform, grid: Grid) -> Tensor:
    """Displacement of a smooth transform: every other voxel is computed, the rest interpolated."""
    coarse = grid.resized([-(-n // 2) for n in grid.shape])
    return resize_displacement(transform.displacement(coarse).float(), grid.shape)


def _warped(image: Image, displacement: Tensor) -> Image:
    warped = image.warped_by(displacement, image.grid)
    return replace(warped, tensor=warped.tensor.to(image.tensor.dtype))


def _origin(transform: Transform, points: Tensor) -> Tensor:
    """Points ``(N, 3)`` that a transform, which does not fold, maps to ``points``."""
    there = points.double().cpu().T.unsqueeze(0)
    here = there
    for _ in range(40):
        here = here + (there - transform.map_world(here))
    return here[0].T.to(points)


def _inside(grid: Grid, points: Tensor) -> Tensor:
    return grid.contains(points.double().cpu().T.unsqueeze(0), margin=0)[0]


class AugmentedPairs(Dataset[Pair]):
    """The pairs of another data set, augmented. Every item has its own seed.

    Args:
        length: number of items in an epoch, returned by ``len``; larger item numbers are valid as
            well.
    """

    def __init__(
        self,
        pairs: Dataset[Pair],
        augmentation: Callable[[Pair, Sequence[int]], Pair],
        seed: int,
        length: int,
    ) -> None:
        self.pairs, self.augmentation, self.seed, self.length = pairs, augmentation, seed, length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, item: int) -> Pair:
        return self.augmentation(self.pairs[item], [self.seed, 2, item])
