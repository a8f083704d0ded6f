"""A user's own scans: unrelated headers, labels for some scans, and a training within some minutes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from making import data_of

from lightning_reg.components.interfaces import Level, Registration
from lightning_reg.configuration.building import build_loss
from lightning_reg.data.datamodule import RegistrationData
from lightning_reg.data.datasets.interface import Record, usual_pairs
from lightning_reg.registry import TrainingError
from lightning_reg.spatial import Displacement, Pair


def scans(folder: Path, origins: Sequence[float], labelled: Sequence[int]) -> Path:
    """Bright ellipsoids in the middle of each image, at these places of the world; labels for some
    of them.
    """
    for kind in ("images", "labels"):
        (folder / kind).mkdir(parents=True)
    for number, origin in enumerate(origins):
        i, j, k = np.meshgrid(*(np.arange(n) for n in (16, 18, 14)), indexing="ij")
        distance = (
            ((i - 7.5) / (4 + 0.3 * number)) ** 2 + ((j - 8.5) / 5) ** 2 + ((k - 6.5) / 4) ** 2
        )
        affine = np.diag([2.0, 2.0, 2.0, 1.0])
        affine[:3, 3] = origin
        nib.Nifti1Image(np.exp(-distance).astype(np.float32) * 100, affine).to_filename(
            folder / "images" / f"s{number}.nii.gz"
        )
        if number in labelled:
            nib.Nifti1Image((distance < 1).astype(np.uint8), affine).to_filename(
                folder / "labels" / f"s{number}.nii.gz"
            )
    return folder


def data(folder: Path, **settings) -> RegistrationData:
    module = data_of(
        {"name": "folder", "root": str(folder)},
        {"name": "inter_subject"},
        workers=0,
        samples_per_epoch=2,
        **({"held_out": 3} | settings),
    )
    module.setup()
    return module


@pytest.mark.parametrize(
    ("origins", "centered"), [((0, 14, -9, 20, 5, -12, 9), True), ((0.0,) * 7, False)]
)
def test_scans_are_centred_where_their_headers_do_not_relate_them(
    tmp_path: Path, origins: Sequence[float], centered: bool
) -> None:
    module = data(scans(tmp_path, origins, ()), preprocessing={"center": "auto"})
    assert module.preprocessing.center is centered
    assert [("headers do not align" in note) for note in module.notes] == [True] * centered
    for pair in (module.first_pair(), *module.validation_pairs):
        apart = np.abs(pair.fixed.grid.center - pair.moving.grid.center).max()
        assert apart == pytest.approx(0, abs=1e-9)
    if centered:
        assert np.abs(module.first_pair().fixed.grid.center).max() == pytest.approx(0, abs=1e-9)


def test_what_the_user_says_of_the_centre_counts(tmp_path: Path) -> None:
    module = data(scans(tmp_path, (0, 14, -9, 10), ()), preprocessing={"center": False}, held_out=2)
    assert not module.notes
    assert (
        np.abs(
            module.validation_pairs[0].fixed.grid.center
            - module.validation_pairs[0].moving.grid.center
        ).max()
        > 1
    )


def test_labelled_subjects_are_scored_first(tmp_path: Path) -> None:
    records = [
        Record(f"s{n}", "", split, labels=Path("x") if n % 3 == 0 else None)
        for n, split in enumerate(["train"] * 4 + ["validation"] * 5)
    ]
    pairs = [
        (fixed.subject, moving.subject)
        for fixed, moving in usual_pairs(records)
        if fixed.split == "validation"
    ]
    assert pairs == [
        ("s4", "s5"),
        ("s5", "s6"),
        ("s6", "s7"),
        ("s7", "s8"),
        ("s8", "s4"),
    ]  # one label scores nothing: all are paired
    both = [
        r if r.subject != "s8" else Record("s8", "", "validation", labels=Path("x"))
        for r in records
    ]
    assert [(f.subject, m.subject) for f, m in usual_pairs(both) if f.split == "validation"] == [
        ("s6", "s8"),
        ("s8", "s6"),
    ]
    assert len([1 for f, _ in usual_pairs(both) if f.split == "train"]) == 4
    module = data(scans(tmp_path, (0,) * 8, (0, 2, 6, 7)))
    assert [pair.fixed_labels is not None for pair in module.validation_pairs] == [True, True]


def test_the_first_time_point_is_fixed_for_every_other_one() -> None:
    records = [
        Record(subject, time, split)
        for subject, split in (("a", "train"), ("b", "validation"))
        for time in "123"
    ]
    assert [(f.name, m.name) for f, m in usual_pairs(records)] == [
        ("a 1", "a 2"),
        ("a 1", "a 3"),
        ("b 1", "b 2"),
        ("b 1", "b 3"),
    ]


def test_partly_labelled_data_are_used(tmp_path: Path) -> None:
    module = data(scans(tmp_path, (0,) * 7, (0, 2, 3)), held_out=2)
    assert {"fixed_labels", "moving_labels"} <= module.available()
    assert any(note.startswith("3 of 5 training scans have labels") for note in module.notes)
    bundle = build_loss({"terms": {"label_dice": {}}})
    bundle.require(module.available())
    pairs = [module.train_pairs[item] for item in range(30)]
    with_labels = [pair for pair in pairs if {"fixed_labels", "moving_labels"} <= pair.has()]
    assert 0 < len(with_labels) < len(pairs)
    for pair in (with_labels[0], next(pair for pair in pairs if "fixed_labels" not in pair.has())):
        field = torch.zeros(1, 3, *pair.fixed.grid.shape, requires_grad=True)
        transform = Displacement(field, pair.fixed.grid)
        total = bundle(
            Registration((Level(pair.fixed, pair.moving, transform, transform),)), pair
        ).total
        total.backward()  # also where no term counts
        assert (float(total) > 0) == (pair in with_labels)


def test_one_labelled_scan_is_none(tmp_path: Path) -> None:
    module = data(scans(tmp_path, (0,) * 7, (1,)), held_out=2)
    with pytest.raises(
        TrainingError,
        match=(
            "'label_dice' needs fixed_labels, moving_labels, which the training pairs do not have"
        ),
    ):
        build_loss({"terms": {"label_dice": {}}}).require(
            module.available() & frozenset(Pair.__dataclass_fields__)
        )
