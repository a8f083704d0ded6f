"""Rules of the planner, on fingerprints that are written down."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from lightning_reg.configuration.building import build_composer, build_loss
from lightning_reg.planning import Fingerprint, Motion, Spread, rules
from lightning_reg.planning.plan import composed
from lightning_reg.planning.rules import Decision, Machine

MOTION = Motion(
    pairs=3,
    seconds=4.0,
    median_mm=3.0,
    large_mm=6.0,
    affine=0.5,
    residual_mm=4.0,
    length_mm=10.0,
    sliding=0.2,
    relation="one contrast",
    correlation={"before": 0.5, "after": 0.9},
)


def spread(*values: float) -> Spread:
    same = (values[0], values[1], values[2])
    return Spread(same, same, same)


KNOWN = Fingerprint(
    scans=20,
    subjects=20,
    time_points=1,
    pairing="inter_subject",
    validation_pairs=4,
    units="arbitrary",
    lungs=False,
    intensities=(0.0, 900.0),
    voxels=spread(100, 120, 80),
    spacing=spread(1.0, 1.0, 2.0),
    extent=spread(100, 120, 160),
    foreground=spread(90, 110, 150),
    orientations=1,
    parts={"mask": 0, "labels": 0, "landmarks": 0},
    measured=20,
    label_values=(),
    headers=0.6,
    centers=0.5,
    motion=MOTION,
)
LABELLED = replace(KNOWN, parts={"mask": 0, "labels": 20, "landmarks": 0}, label_values=(3, 7))


def setting(decision: Decision, ending: str) -> Any:
    return next(value for key, value in decision.settings.items() if key.endswith(ending))


@pytest.mark.parametrize("voxels", [2_000.0, 20_000.0, 300_000.0])
def test_the_working_grid_has_the_affordable_number_of_voxels(voxels: float) -> None:
    edges = np.array(setting(rules.grid(KNOWN, voxels, 60), "spacing"))
    count = np.prod(np.array(KNOWN.extent.median) / edges)
    assert 0.9 * voxels < count <= 1.01 * voxels
    assert (edges >= KNOWN.spacing.median).all()
    assert edges[0] == edges[1] <= edges[2]  # the thick axis is the last to become coarser


def test_scans_keep_their_voxels_if_these_are_affordable() -> None:
    assert setting(rules.grid(KNOWN, 2e6, 60), "spacing") is None
    mixed = replace(KNOWN, spacing=Spread((1.0, 1.0, 2.0), (1.0, 1.0, 3.0), (1.0, 1.0, 4.0)))
    assert setting(rules.grid(mixed, 2e6, 60), "spacing") == [1.0, 1.0, 3.0]


def test_time_and_memory_limit_the_voxels() -> None:
    machine = Machine(seconds_per_voxel=1e-6, bytes_per_voxel=1e4, memory=1e9)
    assert machine.affordable(60) == 1e5  # the memory
    assert math.isclose(machine.affordable(1), 60 / (rules.STEPS * 1e-6))  # the time


@pytest.mark.parametrize(("mm", "count"), [(2.0, 3), (20.0, 4), (40.0, 5), (400.0, 5)])
def test_levels_reach_the_motion_while_there_are_voxels(mm: float, count: int) -> None:
    known = replace(KNOWN, motion=replace(MOTION, large_mm=mm))
    decision = rules.levels(known, (1.0, 1.0, 2.0), (100, 120, 80))
    assert setting(decision, "levels") == count


@pytest.mark.parametrize(
    ("spacing", "shape", "wanted"),
    [
        ((2.0, 2.0, 2.0), (64, 64, 48), None),
        ((1.5, 1.5, 8.0), (64, 64, 10), [1, 1, 4]),
        ((1.0, 1.0, 1.0), (64, 48, 1), [1, 1, 0]),
    ],
)
def test_thick_slices_are_convolved_in_their_plane(
    spacing: tuple[float, ...], shape: tuple[int, ...], wanted: list[int] | None
) -> None:
    decision = rules.aspect(spacing, shape, 4)
    assert setting(decision, "aspect") == wanted
    network = rules.network(KNOWN)
    config = composed([network, decision], ["data=folder", "data.root=."], 7)
    assert config["method"]["composer"]["backbone"]["aspect"] == wanted
    build_composer(config["method"]["composer"])


def test_centres_are_aligned_only_if_that_is_clearly_better() -> None:
    assert setting(rules.placement(KNOWN), "center") is False
    assert setting(rules.placement(replace(KNOWN, headers=0.49)), "center") is False
    assert setting(rules.placement(replace(KNOWN, headers=0.4)), "center") is True


def test_ct_has_one_window_and_other_images_percentiles() -> None:
    assert setting(rules.intensities(KNOWN), "window") is None
    ct = replace(KNOWN, units="HU", intensities=(-130.0, 310.0))
    assert setting(rules.intensities(ct), "window") == [-150, 350]
    assert setting(rules.intensities(replace(ct, lungs=True)), "window") == [-1000, 350]


def test_labels_supervise_if_there_are_two_or_more() -> None:
    one = replace(LABELLED, parts={"mask": 0, "labels": 1, "landmarks": 0})
    few = replace(LABELLED, parts={"mask": 0, "labels": 3, "landmarks": 0})
    many = replace(LABELLED, label_values=tuple(range(1, 139)))
    assert rules.supervision(one).settings == {}
    for known, predicts in ((LABELLED, True), (few, False), (many, False)):
        settings = rules.supervision(known).settings
        assert settings["method.loss.terms.label_dice.weight"] > 0
        assert ("method.composer.backbone.labels" in settings) == predicts


@pytest.mark.parametrize("known", [KNOWN, LABELLED])
@pytest.mark.parametrize("relation", ["one contrast", "two contrasts", "unrelated"])
def test_every_plan_makes_a_network_and_a_loss(known: Fingerprint, relation: Any) -> None:
    known = replace(known, motion=replace(MOTION, relation=relation))
    decisions = [
        rules.network(known),
        rules.grid(known, 5e4, 60),
        rules.levels(known, (3.0, 3.0, 3.0), (33, 40, 53)),
        rules.resolution(known, (33, 40, 53)),
        *(
            rule(known)
            for rule in (
                rules.placement, rules.intensities, rules.pairing, rules.supervision,
                rules.similarity, rules.smoothness, rules.augmentation, rules.validation,
            )
        ),
    ]  # fmt: skip
    config = composed(decisions, ["data=folder", "data.root=.", "method.optimizer.lr=0.5"], 7)
    assert config["budget"] == 7
    assert config["method"]["optimizer"]["lr"] == 0.5  # given, and so not planned
    build_composer(config["method"]["composer"])
    terms = build_loss(config["method"]["loss"]).terms
    assert ("label_dice" in terms) == rules.supervised(known)
    assert ("mind" in terms) == (relation != "one contrast")
    for decision in decisions:
        assert decision.reason.endswith(".")
