"""Pairs from label maps alone: their true transform, their labels, and data sets without images."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from lightning_reg.data.datasets.adapters.generated import LabelMapsDataset, ShapesDataset
from lightning_reg.data.generated import GeneratedPairs
from lightning_reg.data.sampling import synthetic_pairs
from lightning_reg.data.scans import Scan
from lightning_reg.functional import dice, label_values
from lightning_reg.registry import ComponentError, DataError
from lightning_reg.shapes import random_map
from lightning_reg.spatial import Grid, Image, Pair
from lightning_reg.training.building import build_sampler

SHAPE = (24, 20, 28)


def maps(count: int, first: int = 0) -> list[Scan]:
    """Scans whose labels are five times generated numbers, on anisotropic grids."""
    scans = []
    for number in range(count):
        labels = 5 * random_map((40, 44, 36), torch.Generator().manual_seed(first + number))
        grid = Grid.regular((40, 44, 36), (1.0, 0.9, 1.2), (3.0, 4.0, -5.0))
        image = Image(labels.float(), grid)
        scans.append(Scan(f"map {number}", image, None, Image(labels, grid, discrete=True)))
    return scans


def overlap(pair: Pair, after: bool) -> float:
    assert pair.truth is not None
    assert pair.fixed_labels is not None
    assert pair.moving_labels is not None
    moving = pair.moving_labels
    moving = moving.warped(pair.truth, pair.fixed.grid) if after else moving
    return float(dice(pair.fixed_labels.tensor, moving.tensor, pair.labels()).nanmean())


@pytest.mark.parametrize("shapes", [1.0, 0.0])
def test_the_true_transform_brings_the_labels_together(shapes: float) -> None:
    pairs = GeneratedPairs(maps(3), [], 1, SHAPE, shapes=shapes, across=0.0)
    drawn = [pair for pair in (pairs[n] for n in range(12)) if pair.labels()]
    assert len(drawn) > 8
    before, after = (np.mean([overlap(pair, when) for pair in drawn]) for when in (False, True))
    assert after > 0.7  # thin structures lose a voxel to each of two samplings
    assert after > before + 0.2


def test_a_warm_up_begins_with_small_motions_of_one_contrast_and_ends_as_without_it() -> None:
    """The shares of large motions and of unrelated contrasts grow with the number of the pair."""
    warmed = GeneratedPairs([], [], 1, SHAPE, shapes=1.0, related=0.0, warm_up=40)
    plain = GeneratedPairs([], [], 1, SHAPE, shapes=1.0, related=0.0)

    def size(pair: Pair) -> float:
        assert pair.truth is not None
        return float(pair.truth.field.square().sum(1).mean().sqrt())

    first, without = ([size(pairs[n]) for n in range(12)] for pairs in (warmed, plain))
    assert np.mean(first) < 0.6 * np.mean(without)
    for number in (40, 57):
        torch.testing.assert_close(warmed[number].fixed.tensor, plain[number].fixed.tensor)
        assert size(warmed[number]) == size(plain[number])
    for pairs in (warmed, plain):  # validation is as hard as the last pairs
        drawn = pairs.draw(np.random.default_rng(3))
        assert size(drawn) == size(plain.draw(np.random.default_rng(3)))


def test_two_subjects_have_corresponding_labels_and_no_true_transform() -> None:
    pairs = GeneratedPairs(maps(4), [], 2, SHAPE, shapes=0.0, across=1.0)
    for number in range(6):
        pair = pairs[number]
        assert pair.truth is None
        assert pair.fixed_labels is not None
        assert pair.moving_labels is not None
        here, there = (
            label_values(side.tensor) for side in (pair.fixed_labels, pair.moving_labels)
        )
        assert here == there
        assert len(here) <= 9


def test_items_do_not_depend_on_their_order() -> None:
    one, other = (GeneratedPairs(maps(2), [], 3, SHAPE) for _ in range(2))
    first = one[4]
    other[3]
    again = other[4]
    assert torch.equal(first.fixed.tensor, again.fixed.tensor)
    assert torch.equal(first.moving.tensor, again.moving.tensor)
    assert not torch.equal(one[5].fixed.tensor, again.fixed.tensor)


def test_removed_structures_are_missing_in_half_of_the_pairs() -> None:
    scan = maps(1)[0]
    assert scan.labels is not None
    gone = max(label_values(scan.labels.tensor))
    only = [[0, gone]]
    pairs = GeneratedPairs([scan], [], 4, SHAPE, shapes=0.0, removed=only)
    empty = [not pairs[n].labels() for n in range(24)]
    assert 4 < sum(empty) < 20


def test_scans_without_labels_are_refused_where_they_would_be_used() -> None:
    scan = maps(1)[0]
    bare = Scan("bare", scan.image)
    with pytest.raises(DataError, match="without labels"):
        GeneratedPairs([bare], [], 0, SHAPE)
    GeneratedPairs([bare], [], 0, SHAPE, shapes=1.0)
    with pytest.raises(ComponentError, match="rotatoin"):
        build_sampler({"name": "generated", "motion": {"rotatoin": 3}})([], [], 0)


def test_validation_draws_pairs_of_the_same_kind() -> None:
    sampler = build_sampler({"name": "generated", "shape": SHAPE, "shapes": 1.0})
    pairs = synthetic_pairs(sampler, maps(1), 7, 2)
    assert [pair.fixed.grid.shape for pair in pairs] == [SHAPE, SHAPE]
    assert all(pair.truth is not None for pair in pairs)


def test_generated_subjects_are_always_the_same(tmp_path: Path) -> None:
    one, other = (ShapesDataset(2, 1, SHAPE) for _ in range(2))
    assert [r.name for r in one.records()][:2] == ["shapes-0 a", "shapes-0 b"]
    first, second = one.load(one.records()[1]), other.load(other.records()[1])
    assert torch.equal(first["image"].data, second["image"].data)
    assert [(f.subject, f.split) for f, _ in one.pairs()] == [
        ("shapes-0", "train"),
        ("shapes-1", "train"),
        ("shapes-1000000", "validation"),
    ]


def test_a_folder_of_label_maps_is_a_data_set_without_images(tmp_path: Path) -> None:
    for number, scan in enumerate(maps(6)):
        assert scan.labels is not None
        array = scan.labels.tensor[0, 0].numpy().astype(np.float32)
        nib.Nifti1Image(array, scan.labels.grid.affine[0]).to_filename(
            tmp_path / f"s{number}.nii.gz"
        )
    data = LabelMapsDataset(tmp_path)
    assert [r.split for r in data.records()].count("validation") == 2
    subject = data.load(data.records()[0])
    labels, image = subject["labels"].data, subject["image"].data
    for value in labels.unique():
        assert len(image[labels == value].unique()) == 1
    (tmp_path / "s0.nii.gz").unlink()
    nib.Nifti1Image(np.zeros((9, 9, 9), np.uint8), np.eye(4)).to_filename(tmp_path / "s0.nii.gz")
    with pytest.raises(DataError, match="no label map"):
        data.load(data.records()[0])
