"""Initial alignment, checks of overlap, and resampling between worlds, against closed forms."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch
from making import optimization_of
from scipy.spatial.transform import Rotation
from torch import Tensor

from lightning_reg import functional as LF
from lightning_reg.inference.doubts import few, missed, turned, undetermined, worse
from lightning_reg.inference.starts import best_translation
from lightning_reg.metrics.similarity import similarities
from lightning_reg.optimization import Optimized
from lightning_reg.spatial import Affine, Displacement, Grid, Identity, Image, Pair, resampled

GRID = Grid.regular((20, 18, 16), (2.0, 2.5, 3.0), (-230.0, 110.0, 380.0))
FAR = (40.0, -30.0, 25.0)


def translation(*mm: float) -> Affine:
    matrix = torch.eye(4, dtype=torch.float64)
    matrix[:3, 3] = torch.tensor(mm, dtype=torch.float64)
    return Affine(matrix.unsqueeze(0), GRID)


def blobs(points: Tensor, *places: tuple[float, float, float, float]) -> Tensor:
    """Gaussians of 3 mm and some height at places about the grid's centre."""
    at = [
        torch.from_numpy(GRID.center).view(1, 3, 1, 1, 1)
        + torch.tensor(place[:3]).view(1, 3, 1, 1, 1)
        for place in places
    ]
    return sum(
        p[3] * torch.exp(-((points - a) ** 2).sum(1, keepdim=True) / 18)
        for a, p in zip(at, places, strict=True)
    ).float()


ORGAN = ((-6.0, 2.0, -4.0, 1.0), (5.0, -3.0, 6.0, 0.8), (1.0, 6.0, -1.0, 0.5))
OTHER = (32.0, 4.0, 3.0, 3.0)  # bright, and outside the fixed image


@pytest.mark.parametrize(
    ("right", "move", "first", "other", "masks"),
    [
        ("as the headers say", (0.0, 0.0, 0.0), -2, True, False),
        ("centres of the grids", FAR, -10, True, False),
        ("centres of the intensities", FAR, -14, False, False),
        ("centres of the masks", FAR, -14, True, True),
    ],
)
def test_the_best_of_a_few_translations_is_taken(right, move, first, other, masks) -> None:
    """The moving image has 40 voxels along its first axis, from ``first`` on, and moves in the
    world; only one translation is right.
    """
    shown = GRID.cropped((first, 0, 0), (40, 18, 16))
    points = shown.to_world(shown.points(dtype=torch.float64))
    organ, everything = blobs(points, *ORGAN), blobs(points, *ORGAN, *((OTHER,) if other else ()))
    affine = shown.affine.copy()
    affine[0, :3, 3] += move
    moving_grid = Grid(shown.shape, affine)
    fixed = blobs(GRID.to_world(GRID.points(dtype=torch.float64)), *ORGAN)
    pair = Pair(Image(fixed, GRID), Image(everything, moving_grid))
    if masks:
        both = ((fixed, GRID), (organ, moving_grid))
        pair = Pair(
            pair.fixed,
            pair.moving,
            *(Image((values > 0.2).short(), grid, discrete=True) for values, grid in both),
        )
    optimization = optimization_of(
        {"ncc": {"mask": "auto"}}, [{"transform": "affine", "steps": 1, "stride": 1}]
    )
    found = best_translation(pair, optimization).matrix[0, :3]
    torch.testing.assert_close(found[:, :3].double(), torch.eye(3, dtype=torch.float64))
    torch.testing.assert_close(
        found[:, 3].double(), torch.tensor(move, dtype=torch.float64), atol=0.3, rtol=0
    )


@pytest.mark.parametrize(
    ("voxels", "percent"), [(14, None), (16, "20 %"), (-16, "20 %"), (40, "0 %")]
)
def test_images_that_miss_each_other_are_said(voxels: int, percent: str | None) -> None:
    """A quarter of the fixed image has to land in the moving one: here of 20 voxels those that are
    not moved out.
    """
    pair = Pair(*[Image(torch.rand(1, 1, *GRID.shape), GRID)] * 2)
    sentence = missed(pair, translation(2.0 * voxels, 0, 0))
    assert (sentence is None) == (percent is None)
    assert percent is None or f"Only {percent} of the fixed image" in str(sentence)


def test_of_a_masked_image_the_mask_has_to_land() -> None:
    """Four of twenty voxels stay, and in them the mask; of another one nothing does."""
    image, mask = (
        Image(torch.rand(1, 1, *GRID.shape), GRID),
        torch.zeros(1, 1, *GRID.shape, dtype=torch.int16),
    )
    mask[:, :, :3] = 1
    masks = [Image(tensor, GRID, discrete=True) for tensor in (mask, mask.flip(2))]
    assert missed(Pair(image, image, masks[0]), translation(2.0 * 16, 0, 0)) is None
    assert "Only 0 %" in str(missed(Pair(image, image, masks[1]), translation(2.0 * 6, 0, 0)))


def test_voxels_of_the_moving_image_decide_what_lands() -> None:
    """One of the images has 200 voxels along its first axis, of which the other one's 20 begin at
    the 90th.
    """
    small, large = (
        Image(torch.rand(1, 1, *grid.shape), grid)
        for grid in (GRID, GRID.cropped((-90, 0, 0), (200, 18, 16)))
    )
    assert missed(Pair(small, large), translation(2.0 * 100, 0, 0)) is None  # to voxels 190 to 209
    assert "Only 10 %" in str(missed(Pair(small, large), translation(2.0 * 108, 0, 0)))
    # a crop, as a whole in the fixed image
    assert missed(Pair(large, small), translation(0, 0, 0)) is None
    # 4 of the crop's 20
    assert "Only 2 %" in str(missed(Pair(large, small), translation(-2.0 * 106, 0, 0)))
    assert "Only 0 %" in str(missed(Pair(large, small), translation(-2.0 * 150, 0, 0)))


@pytest.mark.parametrize(
    ("start", "returned"),
    [
        ("centers", "with their centres aligned"),
        ("headers", "as their headers place"),
        ("above", "alignment above"),
    ],
)
def test_an_alignment_that_is_not_determined_is_explained(start: str, returned: str) -> None:
    pair = Pair(*[Image(torch.rand(1, 1, *GRID.shape), GRID)] * 2)
    assert undetermined(pair, None, start) is None
    sentence = str(undetermined(pair, Optimized(translation(0, 0, 0), 1.0, 1.0, apart=7.24), start))
    assert (
        f"ended 7.2 mm apart, where at most {0.02 * float(GRID.size[0]):.1f} mm are accepted (2 %"
        " of the image's size)" in sentence
    )
    assert returned in sentence


@pytest.mark.parametrize(
    ("size", "warned"), [(1, "has 1 voxel, too few"), (3, "has 27 voxels, too few"), (4, None)]
)
def test_a_mask_of_a_few_voxels_is_said(size: int, warned: str | None) -> None:
    image, mask = (
        Image(torch.rand(1, 1, *GRID.shape), GRID),
        torch.zeros(1, 1, *GRID.shape, dtype=torch.int16),
    )
    mask[:, :, :size, :size, :size] = 1
    for side in ("fixed", "moving"):
        warning = few(Pair(image, image, **{f"{side}_mask": Image(mask, GRID, discrete=True)}))
        assert (warning is None) == (warned is None)
        assert warned is None or f"The {side} mask {warned}" in str(warning)
    assert (
        turned(Pair(image, image, Image(mask, GRID, discrete=True)), translation(0, 0, 0)) is None
    )


@pytest.mark.parametrize(
    ("angles", "mirrored", "warned"),
    [
        ((0, 0, 0), False, None),
        ((0, 0, 90), False, "turned"),
        ((0, 120, 0), False, "turned"),
        ((180, 0, 0), False, "turned"),
        ((0, 0, 0), True, "mirrored"),
    ],
)
def test_images_that_are_turned_or_mirrored_are_said(
    angles, mirrored: bool, warned: str | None
) -> None:
    """The moving image has the voxels of the fixed one, placed turned about its centre; the true
    map is known.
    """
    grid = Grid.regular((40, 34, 28), (2.0, 2.0, 2.5), (-39.0, -33.0, -34.0))
    points = grid.to_world(grid.points(dtype=torch.float64))
    places = torch.tensor(
        [(0.0, 0.0, 0.0), (18.0, 10.0, 8.0), (-16.0, 14.0, -12.0), (4.0, -16.0, 14.0)],
        dtype=torch.float64,
    )
    values = sum(
        torch.exp(-((points - place.view(1, 3, 1, 1, 1)) ** 2).sum(1, keepdim=True) / 128)
        for place in places
    ).float()
    turn, shift = np.eye(4), np.eye(4)
    turn[:3, :3] = Rotation.from_euler("xyz", angles, degrees=True).as_matrix() * (
        -1 if mirrored else 1
    )
    turn[:3, 3] = shift[:3, 3] = (5.0, -3.0, 2.0)
    pair = Pair(Image(values, grid), Image(values, Grid(grid.shape, turn @ grid.affine[0])))
    right, unturned = (
        Affine(torch.from_numpy(matrix).unsqueeze(0), grid) for matrix in (turn, shift)
    )
    assert turned(pair, right) is None
    sentence = turned(pair, unturned)
    assert (sentence is None) == (warned is None)
    assert warned is None or f"The images seem to be {warned} relative to each other" in str(
        sentence
    )
    assert warned is None or "less alike" in str(worse(pair, right, unturned))
    assert worse(pair, unturned, right) is None


def test_a_mask_of_one_voxel_of_a_large_image_is_no_reason_to_distrust() -> None:
    """Only every second voxel of so many is looked at, and this one is none of them."""
    grid = Grid.regular((130, 130, 130))
    mask = torch.zeros(1, 1, *grid.shape, dtype=torch.int16)
    mask[0, 0, 64, 64, 65] = 1
    image = Image(torch.zeros(1, 1, 1, 1, 1).expand(1, 1, *grid.shape), grid)
    assert (
        missed(Pair(image, image, Image(mask, grid, discrete=True)), Identity(grid, torch.zeros(1)))
        is None
    )


def test_resampling_in_slabs_is_resampling_at_once(
    monkeypatch, fixed_grid, moving_grid, smooth_field, rigid
) -> None:
    image = Image(smooth_field(moving_grid.shape, 1.0, channels=1), moving_grid, padding=-2.0)
    transform = Displacement(smooth_field(fixed_grid.shape, 2.0), fixed_grid)
    # 12 slices: 5, 5 and 2
    monkeypatch.setattr(sys.modules[resampled.__module__], "SLAB", 5 * 15 * 17)
    found = resampled(image, transform, fixed_grid)
    assert found.grid is fixed_grid
    torch.testing.assert_close(
        found.tensor, image.warped(transform, fixed_grid).tensor, atol=1e-4, rtol=0
    )


@pytest.mark.parametrize("masked", [False, True])
def test_similarities_count_inside_the_mask_and_the_moving_image(masked: bool, generator) -> None:
    """Noise and its shift by two voxels: equal where both have voxels, and with a mask only inside
    it.
    """
    wide = torch.rand(1, 1, 22, 18, 16, generator=generator)
    fixed, mask = wide[:, :, 2:].clone(), torch.zeros(1, 1, *GRID.shape, dtype=torch.int16)
    mask[:, :, 3:16, 4:13, 2:15] = 1
    if masked:
        fixed = fixed.where(mask > 0, torch.rand(1, 1, *GRID.shape, generator=generator))
    pair = Pair(
        Image(fixed, GRID),
        Image(wide[:, :, :20], GRID, padding=-9.0),
        Image(mask, GRID, discrete=True) if masked else None,
    )
    found = similarities(pair, Identity(GRID, torch.zeros(1)), translation(4.0, 0, 0))
    assert found["ncc"]["after"] == pytest.approx(1, abs=1e-3)
    assert abs(found["ncc"]["before"]) < 0.1
    for name in ("lncc", "mi"):
        assert found[name]["after"] > 2 * found[name]["before"]


@pytest.mark.parametrize("masked", [False, True])
def test_similarities_of_slabs_are_those_of_the_whole(
    monkeypatch, masked: bool, fixed_grid, smooth_field
) -> None:
    images = [
        Image(smooth_field(fixed_grid.shape, 1.0, channels=1), fixed_grid, padding=-2.0)
        for _ in range(2)
    ]
    mask = torch.zeros(1, 1, *fixed_grid.shape, dtype=torch.int16)
    mask[:, :, 2:9, 4:13, 2:15] = 1
    pair = Pair(*images, fixed_mask=Image(mask, fixed_grid, discrete=True) if masked else None)
    transform = Displacement(smooth_field(fixed_grid.shape, 2.0), fixed_grid)
    whole = similarities(pair, Identity(fixed_grid, torch.zeros(1)), transform)
    assert whole["lncc"]["after"] == pytest.approx(_lncc_at_once(pair, transform), abs=1e-6)
    # 12 slices: 5, 5 and 2
    monkeypatch.setattr(sys.modules[resampled.__module__], "SLAB", 5 * 15 * 17)
    # every seventh
    monkeypatch.setattr(
        sys.modules[similarities.__module__], "DRAWN", fixed_grid.points().numel() // 3 // 7
    )
    thinned = similarities(pair, Identity(fixed_grid, torch.zeros(1)), transform)
    for name in ("ncc", "lncc"):
        assert thinned[name] == pytest.approx(whole[name], abs=1e-5)
    monkeypatch.undo()
    monkeypatch.setattr(
        sys.modules[similarities.__module__], "DRAWN", fixed_grid.points().numel() // 3 // 7
    )
    assert similarities(pair, Identity(fixed_grid, torch.zeros(1)), transform)[
        "mi"
    ] == pytest.approx(thinned["mi"], abs=1e-6)


def _lncc_at_once(pair: Pair, transform: Displacement) -> float:
    grid = pair.fixed.grid
    inside = Image(torch.ones_like(pair.moving.tensor), grid).warped(transform, grid).tensor
    if pair.fixed_mask is not None:
        inside = inside * (pair.fixed_mask.tensor > 0)
    return float(
        LF.lncc(pair.fixed.tensor, pair.moving.warped(transform, grid).tensor, mask=inside)
    )
