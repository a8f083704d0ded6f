"""Training pairs: identical epochs for any number of workers, correct true transforms, cases of
different sizes.
"""

from __future__ import annotations

import itertools
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from making import data_of

from lightning_reg.data.augmentation import Augmentation
from lightning_reg.data.datamodule import RegistrationData
from lightning_reg.data.sampling import GroupPairs, InterSubjectPairs, ItemSampler
from lightning_reg.data.scans import Scan
from lightning_reg.data.synthetic import RandomBSpline, SyntheticDeformation
from lightning_reg.functional import compose, jacobian_determinant
from lightning_reg.registry import ArgumentError, ComponentError, DataError
from lightning_reg.spatial import Grid, Image, Pair
from lightning_reg.training.building import build_sampler

SYNTHETIC = {"name": "synthetic"}


def smooth_scan(shape: tuple[int, int, int], name: str = "scan") -> Scan:
    grid = Grid.regular(shape, (2.0, 2.5, 3.0), (5.0, -7.0, 11.0))
    i, j, k = grid.points()[0]
    image = torch.sin(i / 4) + torch.cos(j / 5) + torch.sin(k / 3 + i / 7)
    return Scan(
        name,
        Image(image[None, None], grid),
        Image((image > 0)[None, None].short(), grid, discrete=True),
    )


def data(workers: int | str, sampling: dict = SYNTHETIC, **settings) -> RegistrationData:
    dataset = {"name": "phantom", "subjects": 2, "validation": 1, "shape": [16, 12, 12]}
    settings = {
        "samples_per_epoch": 6,
        "augmentation": {"noise": 0.1, "gamma": 0.2},
        "seed": 5,
    } | settings
    return data_of(dataset, sampling, {"window": [-1000, 500]}, workers=workers, **settings)


def epoch(module: RegistrationData, number: int = 0) -> list[Pair]:
    module.setup()
    loader = module.train_dataloader()
    loader.sampler.set_epoch(number)
    return list(loader)


@pytest.mark.parametrize(
    "sampling",
    [
        SYNTHETIC,
        {"name": "inter_subject"},
        {"name": "groups", "patch": [8, 9, 7]},
        {"name": "pairs"},
    ],
)
def test_an_epoch_is_the_same_with_any_number_of_workers(sampling: dict) -> None:
    runs = [epoch(data(workers, sampling), 3) for workers in (0, 1, 2)]
    for a, b in itertools.pairwise(runs):
        for x, y in zip(a, b, strict=True):
            assert x.name == y.name
            torch.testing.assert_close(x.fixed.tensor, y.fixed.tensor, rtol=0, atol=0)
            torch.testing.assert_close(x.moving.tensor, y.moving.tensor, rtol=0, atol=0)


def test_on_a_cpu_pairs_are_drawn_between_the_steps_unless_workers_are_asked_for() -> None:
    for workers, expected in (("auto", 0), (0, 0), (2, 2)):
        module = data(workers)
        module.setup()
        assert module.train_dataloader().num_workers == expected
    for wrong in ("all", -1):
        with pytest.raises(ArgumentError, match=r"data\.workers is .* auto"):
            data(wrong)


def test_epochs_and_seeds_differ() -> None:
    first, second, other = epoch(data(0), 0)[0], epoch(data(0), 1)[0], epoch(data(0, seed=6), 0)[0]
    assert not torch.equal(first.moving.tensor, second.moving.tensor)
    assert not torch.equal(first.moving.tensor, other.moving.tensor)


def test_no_global_random_state_is_touched() -> None:
    module = data(0)
    module.setup()
    before = torch.get_rng_state()
    module.train_pairs[7]
    assert torch.equal(before, torch.get_rng_state())


def test_the_sampler_numbers_items_resumes_and_deals_them_out() -> None:
    sampler = ItemSampler(4, resume_at=6, epoch=1)
    assert list(sampler) == [6, 7]
    sampler.set_epoch(2)
    assert list(sampler) == [8, 9, 10, 11]
    ranks = [list(ItemSampler(3, rank=rank, world=2)) for rank in range(2)]
    assert sorted(ranks[0] + ranks[1]) == list(range(6))


@pytest.mark.parametrize("shape", [(24, 20, 28), (25, 19, 17)])
def test_the_fixed_image_is_the_moving_one_through_the_truth(shape: tuple[int, int, int]) -> None:
    pair = SyntheticDeformation().draw(smooth_scan(shape), np.random.default_rng(3))
    warped = pair.moving.warped(pair.truth)
    inside = (pair.truth.map_voxels(pair.fixed.grid.points()) > 3).all(1) & (
        pair.truth.map_voxels(pair.fixed.grid.points())
        < torch.tensor(shape).view(1, 3, 1, 1, 1) - 4
    ).all(1)
    margin = torch.zeros_like(inside)
    margin[:, 4:-4, 4:-4, 4:-4] = True
    difference = (warped.tensor - pair.fixed.tensor)[:, 0][inside & margin]
    apart = (pair.moving.tensor - pair.fixed.tensor)[:, 0][inside & margin]
    assert difference.abs().mean() < 0.1 * apart.abs().mean()


def test_amplitudes_are_fractions_of_the_extent() -> None:
    """Control points lie within the amplitude and reach towards it; the field, a convex combination
    of them, stays inside.
    """
    shape = (40, 20, 30)
    fields = torch.cat(
        [RandomBSpline(4, 0.1).draw(shape, np.random.default_rng(seed)) for seed in range(20)]
    )
    for axis, extent in enumerate(shape):
        reached = float(fields[:, axis].abs().max())
        assert 0.04 * extent < reached <= 0.1 * extent


def test_masks_and_labels_go_with_the_images() -> None:
    pair = SyntheticDeformation().draw(smooth_scan((24, 20, 28)), np.random.default_rng(1))
    agreement = (
        ((pair.fixed.tensor > 0) == (pair.fixed_mask.tensor > 0))
        .float()[:, :, 5:-5, 5:-5, 5:-5]
        .mean()
    )
    assert agreement > 0.93


def test_inter_subject_pairs_are_two_scans_of_their_own_sizes() -> None:
    scans = [
        smooth_scan((12, 10, 14), "a"),
        smooth_scan((10, 12, 12), "b"),
        smooth_scan((14, 14, 10), "c"),
    ]
    pairs = InterSubjectPairs(scans, [], seed=0)
    names = {pairs[i].name[0] for i in range(60)}
    assert names == {f"{a} < {b}" for a, b in itertools.permutations("abc", 2)}
    batch = Pair.collate([pairs[0], pairs[1]])
    assert batch.fixed.tensor.shape[0] == 2


def test_one_scan_has_no_inter_subject_pairs() -> None:
    with pytest.raises(DataError, match="one subject only"):
        InterSubjectPairs([smooth_scan((12, 10, 14))], [], seed=0)


def grouped(shape: tuple[int, int, int] = (12, 10, 14)) -> list[Scan]:
    return [
        replace(smooth_scan(shape, f"{subject} {time}"), group=subject)
        for subject in "ab"
        for time in "012"
    ]


def test_scans_of_a_group_are_paired_in_all_ways_and_directions() -> None:
    pairs = GroupPairs([*grouped(), smooth_scan((12, 10, 14), "alone")], [], seed=0)
    names = {pairs[i].name[0] for i in range(200)}
    assert names == {f"{s} {x} < {y}" for s in "ab" for x, y in itertools.permutations("012", 2)}
    with pytest.raises(DataError, match="one scan per subject"):
        GroupPairs([smooth_scan((12, 10, 14))], [], seed=0)


def test_pairs_of_subjects_are_never_of_one_group() -> None:
    pairs = InterSubjectPairs(grouped(), [], seed=0)
    names = [pairs[i].name[0] for i in range(100)]
    assert all(name[0] != name.split(" < ")[1][0] for name in names)
    assert len(set(names)) > 15


@pytest.mark.parametrize("offset", [0.0, 6.0])
def test_patches_lie_at_corresponding_places(offset: float) -> None:
    """The moving image is the fixed one on another grid: its patch shows the same place of the
    world, to half a voxel.
    """
    fixed = smooth_scan((30, 28, 26), "a")
    other = Grid.regular(
        (34, 30, 25), (2.2, 2.2, 3.1), (5.0 - offset, -7.0 - offset, 11.0 - offset)
    )
    moving = Scan("b", fixed.image.resampled(other), fixed.mask.resampled(other))
    drawn = build_sampler({"name": "pairs", "both_directions": False, "patch": [12, 40, 10]})(
        [fixed, moving], [(0, 1)], 4
    )
    for item in range(6):
        pair = drawn[item]
        assert pair.fixed.grid.shape == (12, 28, 10)
        assert pair.moving.grid.shape == (12, 30, 10)
        assert pair.fixed_mask.grid.shape == (12, 28, 10)
        torch.testing.assert_close(
            pair.fixed.tensor, fixed.image.resampled(pair.fixed.grid).tensor, atol=1e-5, rtol=0
        )
        apart = (
            np.abs(pair.fixed.grid.center - pair.moving.grid.center)[0]
            / pair.moving.grid.spacing[0]
        )
        # at most as far as the moving image's border forces it
        assert float(apart[[0, 2]].max()) <= 4
    centers = {tuple(drawn[item].fixed.grid.center[0].tolist()) for item in range(6)}
    assert len(centers) > 3
    with pytest.raises(DataError, match="three numbers of voxels"):
        build_sampler({"name": "inter_subject", "patch": [4]})(grouped(), [], 0)


def test_a_misspelt_sampling_or_argument() -> None:
    with pytest.raises(
        ComponentError, match="no sampler named 'intersubject'; did you mean 'inter_subject'"
    ):
        build_sampler({"name": "intersubject"})([], [], 0)
    with pytest.raises(
        ComponentError,
        match="'sampling' does not take an argument 'learnt'; did you mean 'learned'",
    ):
        build_sampler({"name": "synthetic", "learnt": []})([], [], 0)


def test_augmentation_changes_each_image_for_itself_and_nothing_else() -> None:
    pair = SyntheticDeformation().draw(smooth_scan((24, 20, 28)), np.random.default_rng(1))
    changed = Augmentation(noise=0.1)(pair, [1, 2])
    again = Augmentation(noise=0.1)(pair, [1, 2])
    assert torch.equal(changed.fixed.tensor, again.fixed.tensor)
    noise = [
        (getattr(changed, k).tensor - getattr(pair, k).tensor).flatten()
        for k in ("fixed", "moving")
    ]
    assert abs(float(torch.corrcoef(torch.stack(noise))[0, 1])) < 0.1
    assert changed.truth is pair.truth
    assert Augmentation()(pair, [1]) is pair


def test_validation_pairs_are_those_of_the_data_and_synthetic_ones() -> None:
    module = data(0, {"name": "synthetic", "patch": [8, 8, 8]}, synthetic_validation=2)
    module.setup()
    assert [pair.truth is not None for pair in module.validation_pairs] == [False, True, True]
    assert [pair.fixed_labels is not None for pair in module.validation_pairs] == [
        True,
        False,
        False,
    ]
    assert module.validation_pairs[0].fixed_landmarks is not None
    with pytest.raises(DataError, match="nothing to validate on"):
        data(0, max_validation_pairs=0).setup()
    for arguments in ({"synthetic_validation": -1}, {"seed": "a"}, {"seed": -1}):
        with pytest.raises(
            ComponentError, match=f"{next(iter(arguments))} is .*; give a whole number, 0 or more"
        ):
            data(0, **arguments)


def test_loaders_read_the_scans_themselves() -> None:
    assert next(iter(data(0).train_dataloader())).fixed.tensor.shape[0] == 1
    assert len(data(0).val_dataloader()) == 1


@pytest.mark.parametrize("lattice", [3, [2, 4, 5]])
def test_an_interpolating_spline_passes_through_what_was_drawn(lattice) -> None:
    points = [lattice] * 3 if isinstance(lattice, int) else lattice
    shape = tuple(8 * (n - 1) + 1 for n in points)  # lattice points are voxels
    spline = RandomBSpline(lattice, [0.1, 0.05, 0.2], "interpolating")
    drawn = np.random.default_rng(4).uniform(-1, 1, (3, *points)) * (
        np.array([0.1, 0.05, 0.2]) * shape
    ).reshape(3, 1, 1, 1)
    field = spline.draw(shape, np.random.default_rng(4))
    assert field[0, :, ::8, ::8, ::8].numpy() == pytest.approx(drawn, abs=1e-3)
    flatter = RandomBSpline(lattice, [0.1, 0.05, 0.2]).draw(shape, np.random.default_rng(4))
    assert float(flatter.square().mean()) < 0.6 * float(field.square().mean())


def test_amplitudes_are_per_component() -> None:
    field = RandomBSpline(4, [0.0, 0.1, 0.2]).draw((24, 20, 16), np.random.default_rng(0))
    assert float(field[:, 0].abs().max()) == 0
    assert 0 < float(field[:, 1].abs().max()) < 0.1 * 20
    assert 0 < float(field[:, 2].abs().max()) < 0.2 * 16


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"lattice": 4, "amplitude": 0.1, "spline": "cubic"}, "spline is 'cubic'"),
        ({"lattice": 1, "amplitude": 0.1}, "give a whole number of points, 2 or more"),
    ],
)
def test_a_spline_that_cannot_be_is_refused(arguments: dict, message: str) -> None:
    with pytest.raises(ComponentError, match=message):
        SyntheticDeformation(learned=[arguments]).draw(
            smooth_scan((12, 12, 12)), np.random.default_rng(0)
        )


def test_outside_the_scan_lies_its_padding_or_its_border() -> None:
    scan = smooth_scan((20, 18, 22))
    # the padding of 0 cannot be mistaken
    scan = replace(scan, image=replace(scan.image, tensor=scan.image.tensor + 10))
    air, border = (
        SyntheticDeformation(outside=o).draw(scan, np.random.default_rng(1))
        for o in ("padding", "border")
    )
    assert float(air.moving.tensor.min()) < 5
    assert float(border.moving.tensor.min()) > 7
    torch.testing.assert_close(air.truth.field, border.truth.field)


def test_sliding_leaves_what_lies_beside_the_mask_at_its_height() -> None:
    scan = smooth_scan((40, 32, 20))
    mask = torch.zeros(1, 1, 40, 32, 20, dtype=torch.int16)
    mask[:, :, 12:28, 10:22, 4:9] = 1
    scan = replace(scan, mask=Image(mask, scan.image.grid, discrete=True))
    moving, sliding = (
        SyntheticDeformation(augment=(), sliding=s).draw(scan, np.random.default_rng(2)).truth.field
        for s in (None, 5.0)
    )
    torch.testing.assert_close(sliding[:, :2], moving[:, :2])
    assert float(sliding[:, 2, :6].abs().max()) < 0.02 * float(moving[:, 2, :6].abs().max())
    # over the whole height, above and below the mask as well
    core = (
        slice(None),
        2,
        slice(18, 22),
        slice(15, 17),
    )
    torch.testing.assert_close(sliding[core], moving[core], rtol=0.02, atol=0.02)


def test_density_follows_the_change_of_volume_inside_the_mask() -> None:
    scan = smooth_scan((24, 24, 24))
    scan = replace(scan, image=replace(scan.image, tensor=torch.full_like(scan.image.tensor, 0.5)))
    half = torch.ones_like(scan.mask.tensor)
    half[..., :12] = 0
    scan = replace(scan, mask=Image(half, scan.image.grid, discrete=True))
    pair = SyntheticDeformation(augment=(), density=True, outside="border").draw(
        scan, np.random.default_rng(3)
    )
    inside = pair.fixed_mask.tensor > 0
    volume = jacobian_determinant(pair.truth.field).clamp(0.3, 3.0)
    torch.testing.assert_close(pair.fixed.tensor[inside], 0.5 * volume[inside])
    assert float((pair.fixed.tensor[~inside] - 0.5).abs().max()) < 1e-5


@pytest.mark.parametrize(
    "sampling",
    [
        SYNTHETIC,
        {"name": "inter_subject"},
        {"name": "groups"},
        {"name": "pairs"},
        {"name": "inter_subject", "patch": [8, 6, 7]},
    ],
)
def test_the_seed_and_the_number_of_an_item_decide_it(sampling: dict) -> None:
    def drawn(seed: int) -> list[torch.Tensor]:
        pairs = build_sampler(sampling)(grouped(), [(0, 1), (3, 4), (1, 2), (4, 5)], seed)
        parts = [
            (list(map(ord, p.name[0])), p.fixed.tensor.flatten(), p.fixed.grid.center[0])
            for p in (pairs[item] for item in range(12))
        ]
        return [torch.cat([torch.as_tensor(part) for part in item]) for item in parts]

    def same(a: list[torch.Tensor], b: list[torch.Tensor]) -> list[bool]:
        return [x.shape == y.shape and torch.equal(x, y) for x, y in zip(a, b, strict=True)]

    first = drawn(0)
    assert all(same(first, drawn(0)))
    assert not all(same(first, drawn(1)))
    assert not all(same(first[1:], first[:-1]))


def test_pairs_are_given_in_both_directions_where_that_is_wanted() -> None:
    scans = [smooth_scan((12, 10, 14), name) for name in "ab"]
    for both, expected in ((True, {"a < b", "b < a"}), (False, {"a < b"})):
        drawn = build_sampler({"name": "pairs", "both_directions": both})(scans, [(0, 1)], 3)
        assert {drawn[item].name[0] for item in range(20)} == expected


def test_patches_reach_both_ends_of_every_axis() -> None:
    scans = [smooth_scan((12, 10, 14), name) for name in "ab"]
    drawn = build_sampler({"name": "pairs", "patch": [11, 9, 13]})(scans, [(0, 1)], 3)
    grids = [drawn[item].fixed.grid for item in range(24)]
    starts = [
        scans[0].image.grid.to_voxel(grid.to_world(torch.zeros(1, 3, 1).double()))[0, :, 0]
        for grid in grids
    ]
    starts = torch.stack(starts).round().int()
    assert starts.amin(0).tolist() == [0, 0, 0]
    assert starts.amax(0).tolist() == [1, 1, 1]


def test_patches_have_one_middle_in_the_world_whatever_the_voxels() -> None:
    """To half a voxel of the finer image, whose patch covers half of the other's and finds room
    everywhere.
    """
    fixed = smooth_scan((20, 18, 16), "a")
    moving = Scan("b", fixed.image.resampled(fixed.image.grid.resized((40, 36, 32))))
    drawn = build_sampler({"name": "pairs", "both_directions": False, "patch": [10, 9, 8]})(
        [fixed, moving], [(0, 1)], 4
    )
    for item in range(8):
        pair = drawn[item]
        apart = (
            np.abs(pair.fixed.grid.center - pair.moving.grid.center)[0]
            / pair.moving.grid.spacing[0]
        )
        assert float(apart.max()) <= 0.5 + 1e-6


def test_the_first_part_of_a_deformation_acts_first() -> None:
    shape = (20, 18, 16)
    first, second = {"lattice": 4, "amplitude": 0.2}, {"lattice": 3, "amplitude": 0.2}
    pair = SyntheticDeformation(augment=(), learned=(first, second), working_stride=1).draw(
        smooth_scan(shape), np.random.default_rng(2)
    )
    rng = np.random.default_rng(2)
    inner, outer = (RandomBSpline(**part).draw(shape, rng) for part in (first, second))
    torch.testing.assert_close(pair.truth.field, compose(outer, inner))
    assert float((compose(outer, inner) - compose(inner, outer)).abs().max()) > 0.3


def test_validation_pairs_are_in_the_data_sets_order_and_differ_from_each_other() -> None:
    module = data(0, synthetic_validation=2)
    module.setup()
    real, one, other = module.validation_pairs
    assert real.name == ("phantom-1000 inhale < exhale",)
    assert not torch.equal(one.truth.field, other.truth.field)
    again = data(0, synthetic_validation=2, seed=6)
    again.setup()
    assert not torch.equal(one.truth.field, again.validation_pairs[1].truth.field)


def test_a_resumed_epoch_goes_on_at_the_pair_after_the_last_step() -> None:
    """Two steps of two pairs in the fourth epoch of six pairs."""
    module = data(0, batch_size=2)
    module.setup()
    progress = SimpleNamespace(current=SimpleNamespace(state_dict=lambda: {"processed": 2}))
    module.trainer = SimpleNamespace(
        current_epoch=3,
        fit_loop=SimpleNamespace(epoch_loop=SimpleNamespace(batch_progress=progress)),
        global_rank=0,
        world_size=1,
    )
    assert list(module.train_dataloader().sampler) == [22, 23]
