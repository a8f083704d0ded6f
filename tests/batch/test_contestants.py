"""Methods of an evaluation: transforms of other programs, against SimpleITK, and models of a
cross-validation.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
import torch
import torchio as tio
import yaml
from untrained import checkpoint

from lightning_reg.batch.cohort.pairs import CohortPair
from lightning_reg.batch.evaluation.contestants import (
    Case,
    Contestant,
    Registering,
    Transforms,
    fold_count,
    fold_models,
    named_runs,
    transform_files,
)
from lightning_reg.batch.evaluation.evaluation import Cases, evaluate_cases
from lightning_reg.cli.evaluate import named
from lightning_reg.data.datasets.adapters.generated import PhantomDataset
from lightning_reg.data.datasets.splits import Splits
from lightning_reg.inference.loading import load
from lightning_reg.io.images import read_image
from lightning_reg.io.transform_reading import read_transform
from lightning_reg.registry import DataError, UserError

PHANTOM = PhantomDataset(subjects=6, validation=2, shape=[20, 18, 20])


@pytest.fixture(scope="module")
def subjects() -> tuple[tio.Subject, tio.Subject]:
    first, second = Splits(PHANTOM).subjects("validation")[:2]
    return first, second


@pytest.fixture
def itk(subjects, tmp_path: Path) -> dict[str, sitk.Transform]:
    """An affine map and a displacement field of ITK's, and the two one after the other: a point
    goes through the field first.
    """
    reference = subjects[0]["image"].as_sitk()
    affine = sitk.AffineTransform(3)
    affine.SetMatrix((1.05, 0.02, 0, -0.03, 0.97, 0.01, 0, 0.02, 1.01))
    affine.SetTranslation((4.0, -3.0, 2.0))
    field = sitk.GetImageFromArray(
        np.random.default_rng(0).normal(0, 3, (*reference.GetSize()[::-1], 3)), isVector=True
    )
    field.CopyInformation(reference)
    sitk.WriteImage(field, str(tmp_path / "field.nii.gz"))
    sitk.WriteTransform(affine, str(tmp_path / "affine.mat"))
    return {
        "affine": affine,
        "field": sitk.DisplacementFieldTransform(
            sitk.ReadImage(str(tmp_path / "field.nii.gz"), sitk.sitkVectorFloat64)
        ),
    }


def test_transforms_of_files_are_what_simpleitk_makes_of_them(
    itk, subjects, tmp_path: Path
) -> None:
    """As antsApplyTransforms -t Warp -t Affine: the image goes through the affine map first, a
    point of the fixed image last.
    """
    case = Case("a < b")
    (tmp_path / "a-b1Warp.nii.gz").write_bytes((tmp_path / "field.nii.gz").read_bytes())
    (tmp_path / "a-b0GenericAffine.mat").write_bytes((tmp_path / "affine.mat").read_bytes())
    points = subjects[0]["landmarks"].numpy()[:5]
    flip = np.array([-1.0, -1, 1])
    expected = [
        itk["affine"].TransformPoint(itk["field"].TransformPoint((p * flip).tolist()))
        for p in points
    ]
    for place in (
        str(tmp_path),
        f"{tmp_path}/{{pair}}1Warp.nii.gz, {tmp_path}/{{pair}}0GenericAffine.mat",
    ):
        result = Transforms("ants", place).register(case, *subjects)
        np.testing.assert_allclose(result.map_points(points), np.array(expected) * flip, atol=1e-3)


@pytest.mark.parametrize(
    ("written", "found"),
    [
        (["pairs/x/transform.h5", "x.tfm"], ["pairs/x/transform.h5"]),
        (["x/deformationField.mha"], ["x/deformationField.mha"]),
        (["x/TransformParameters.0.h5"], ["x/TransformParameters.0.h5"]),
        (
            [
                "x/TransformParameters.0.h5",
                "x/TransformParameters.1.h5",
                "x/TransformParameters.1-Composite.h5",
            ],
            ["x/TransformParameters.1-Composite.h5"],
        ),
        (
            ["x/ants_1Warp.nii.gz", "x/ants_0GenericAffine.mat", "x/ants_1InverseWarp.nii.gz"],
            ["x/ants_1Warp.nii.gz", "x/ants_0GenericAffine.mat"],
        ),
        (
            ["x_1Warp.nii.gz", "x_0DerivedInitialMovingTranslation.mat", "x.nii.gz"],
            ["x_1Warp.nii.gz", "x_0DerivedInitialMovingTranslation.mat"],
        ),
        (["x0GenericAffine.mat", "x10GenericAffine.mat"], ["x0GenericAffine.mat"]),
        (["x/0Warp.nii.gz"], ["x/0Warp.nii.gz"]),
        (["x.nii.gz"], ["x.nii.gz"]),
        (["x.mat"], ["x.mat"]),
    ],
)
def test_files_of_a_pair_are_found_where_programs_leave_them(
    written: list[str], found: list[str], tmp_path: Path
) -> None:
    for name in written:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert transform_files(tmp_path, "x") == [tmp_path / name for name in found]
    with pytest.raises(DataError, match=r"has no transform of y; looked for y\.h5"):
        transform_files(tmp_path, "y")


def test_a_place_without_transforms_is_refused_before_anything_is_registered(
    tmp_path: Path,
) -> None:
    (tmp_path / "t.h5").touch()
    with pytest.raises(DataError, match="is a file; give the folder"):
        Transforms("ants", str(tmp_path / "t.h5"))
    with pytest.raises(DataError, match=r"There is no folder .*nowhere of transforms"):
        Transforms("ants", str(tmp_path / "nowhere"))
    assert Transforms("ants", str(tmp_path / "nowhere" / "{pair}.h5")).settings == {
        "transforms": f"{tmp_path}/nowhere/{{pair}}.h5"
    }


@pytest.mark.parametrize(
    ("written", "message"),
    [
        (
            ["x/TransformParameters.0.h5", "x/TransformParameters.1.h5"],
            "has 2 transforms .* and no composite of them",
        ),
        (["x/TransformParameters.1.h5"], "no composite of them with the initial one"),
        (["x/TransformParameters.0.txt"], "has elastix' parameters only"),
        (
            ["x/deformationField.mha", "x/deformationField.nii"],
            "has deformationField.mha and deformationField.nii",
        ),
        (
            ["x1Warp.nii.gz"],
            "has x1Warp.nii.gz, where x1Warp.nii.gz and x0GenericAffine.mat are expected",
        ),
        (
            ["x2Warp.nii.gz", "x1Affine.mat", "x0Rigid.mat"],
            "has x2Warp.nii.gz, x1Affine.mat, x0Rigid.mat, where",
        ),
        (
            ["x1Warp.nii.gz", "x0GenericAffine.mat", "x0DerivedInitialMovingTranslation.mat"],
            "where x1Warp.nii.gz and",
        ),
        (
            ["x/a_1Warp.nii.gz", "x/a_0GenericAffine.mat", "x/b_0GenericAffine.mat"],
            r"several registrations \(a_\*, b_\*\)",
        ),
        (
            ["x0GenericAffine.mat", "x_0GenericAffine.mat"],
            "has x0GenericAffine.mat and x_0GenericAffine.mat for x",
        ),
        (["x.mat", "x.nii.gz"], "has x.mat and x.nii.gz for x"),
    ],
)
def test_a_part_of_a_transform_and_one_of_several_are_refused(
    written: list[str], message: str, tmp_path: Path
) -> None:
    for name in written:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    with pytest.raises(DataError, match=message):
        transform_files(tmp_path, "x")


def test_an_initial_transform_of_elastix_is_not_left_out(tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "TransformParameters.0.h5").touch()
    beside = tmp_path / "x" / "TransformParameters.0.txt"
    beside.write_text('(InitialTransformParameterFileName "NoInitialTransform")\n')
    assert transform_files(tmp_path, "x") == [tmp_path / "x" / "TransformParameters.0.h5"]
    beside.write_text('(InitialTransformParameterFileName "../first.txt")\n')
    with pytest.raises(DataError, match="no composite of them with the initial one"):
        transform_files(tmp_path, "x")
    with pytest.raises(DataError, match=r"only together with \.\./first\.txt"):
        read_transform(tmp_path / "x" / "TransformParameters.0.h5")


def test_a_warp_without_its_affine_map_is_not_read(itk, tmp_path: Path) -> None:
    """Alone in its folder, it is what it was named for; the affine map alone maps to the moving
    image.
    """
    warp, affine = tmp_path / "x_1Warp.nii.gz", tmp_path / "x_0GenericAffine.mat"
    warp.write_bytes((tmp_path / "field.nii.gz").read_bytes())
    sitk.WriteTransform(sitk.TranslationTransform(3, (9.0, -6.0, 3.0)), str(affine))
    with pytest.raises(
        DataError,
        match=(
            r"x_1Warp\.nii\.gz is a part of a transform .* only together with x_0GenericAffine\.mat"
        ),
    ):
        read_transform(warp)
    point = torch.tensor([[[10.0], [-20.0], [5.0]]], dtype=torch.float64)
    inner = np.array(itk["field"].TransformPoint((-10.0, 20.0, 5.0)))
    expected = (inner + [9.0, -6.0, 3.0]) * [-1, -1, 1]
    (tmp_path / "folder").mkdir()
    both = [path.rename(tmp_path / "folder" / path.name) for path in (warp, affine)]
    for read in (read_transform(*both), read_transform(tmp_path / "folder")):
        np.testing.assert_allclose(read.map_world(point)[0, :, 0].numpy(), expected, atol=1e-3)
    assert torch.allclose(
        read_transform(both[1]).map_world(point)[0, :, 0] - point[0, :, 0],
        torch.tensor([-9.0, 6.0, 3.0]).double(),
    )
    alone = both[0].rename(tmp_path / "x_1Warp.nii.gz")
    np.testing.assert_allclose(
        read_transform(alone).map_world(point)[0, :, 0].numpy(), inner * [-1, -1, 1], atol=1e-3
    )


def test_names_and_paths_with_an_equals_sign_are_told_apart(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "lr=0.1").mkdir()
    assert named("ours=model.ckpt") == ("ours", "model.ckpt")
    assert named("ants=out/{pair}.tfm") == ("ants", "out/{pair}.tfm")
    assert named("lr=0.1/{pair}.tfm") == (None, "lr=0.1/{pair}.tfm")
    assert named("lr=0.1") == (None, "lr=0.1")
    assert named("https://x.org/m.ckpt?a=b") == (None, "https://x.org/m.ckpt?a=b")


@dataclass(frozen=True)
class Sometimes(Contestant):
    name: str = "sometimes"

    @property
    def settings(self) -> dict[str, Any]:  # type: ignore[override]
        return {}

    def register(self, case: Case, fixed: tio.Subject, moving: tio.Subject) -> Any:
        raise (
            UserError("not today") if case.name.startswith("phantom-1000") else ValueError("broken")
        )


def test_failures_are_rows_and_the_others_go_on(model) -> None:
    trained = Registering("trained", load(model(preprocessing={"window": [-1000, 500]})))
    rows = evaluate_cases([trained, Sometimes()], Cases.of(Splits(PHANTOM)))
    assert [row["error"] for row in rows["sometimes"]] == ["not today", "ValueError: broken"]
    assert [row["case"] for row in rows["sometimes"]] == [row["case"] for row in rows["trained"]]
    assert all("tre_after_mm" in row for row in rows["trained"])
    with pytest.raises(DataError, match=r"No case could be evaluated\. not today"):
        evaluate_cases([Sometimes()], Cases.of(Splits(PHANTOM)))
    with pytest.raises(DataError, match="A method is called 'before'"):
        evaluate_cases([Sometimes("before")], Cases.of(Splits(PHANTOM)))
    with pytest.raises(DataError, match="Two methods are called 'trained'"):
        evaluate_cases([trained, trained], Cases.of(Splits(PHANTOM)))


def test_a_corrupt_file_of_a_table_is_a_row(subjects, model, tmp_path: Path) -> None:
    for name, subject in zip(("a", "b"), subjects, strict=True):
        subject["image"].save(tmp_path / f"{name}.nii.gz")
    (tmp_path / "c.nii.gz").write_bytes((tmp_path / "a.nii.gz").read_bytes()[:100])
    pairs = [
        CohortPair(other, {"fixed": tmp_path / "a.nii.gz", "moving": tmp_path / f"{other}.nii.gz"})
        for other in "bc"
    ]
    found = evaluate_cases([Registering("m", load(model()))], Cases.of_pairs(pairs))["m"]
    assert "ncc_after" in found[0]
    assert f"{tmp_path / 'c.nii.gz'} cannot be read" in found[1]["error"]
    assert read_image(tmp_path / "a.nii.gz").spatial_shape == (20, 18, 20)


# Cross-validation.


@pytest.mark.parametrize("of", [2, 3, 8])
def test_folds_validate_every_subject_once_and_train_on_the_others(of: int) -> None:
    everybody = {record.subject for record in Splits(PHANTOM).records()}
    assert len(everybody) == 8
    validated: list[str] = []
    for number in range(1, of + 1):
        split = Splits(PHANTOM, fold=f"{number}/{of}")
        names = {
            which: {record.subject for record in split.records(which)}
            for which in ("train", "validation")
        }
        assert names["train"] | names["validation"] == everybody
        assert not names["train"] & names["validation"]
        assert split.pairs("validation")
        validated += names["validation"]
    assert sorted(validated) == sorted(everybody)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"fold": "0/3"}, "`fold` is '0/3'; give k/n"),
        ({"fold": "4/3"}, "give k/n"),
        ({"fold": "1/1"}, "give k/n"),
        ({"fold": "half"}, "give k/n"),
        ({"fold": "1/9"}, "there are 8 subjects"),
        ({"fold": "1/3", "held_out": 2}, "both choose the validation subjects"),
    ],
)
def test_folds_that_are_none_are_refused(options: dict[str, Any], told: str) -> None:
    with pytest.raises(DataError, match=told):
        Splits(PHANTOM, **options)


def runs(folder: Path, *folds: str | None) -> str:
    for number, fold in enumerate(folds):
        place = folder / f"cv_{number}"
        (place / "checkpoints").mkdir(parents=True)
        (place / "config.yaml").write_text(
            yaml.safe_dump({"method": {}, "trainer": {}, "data": {"fold": fold}})
        )
        checkpoint(
            place / "checkpoints" / "best.ckpt", preprocessing={"window": [-1000, 500]}, seed=number
        )
    return str(folder / "cv_*")


def test_every_case_is_registered_by_the_model_that_was_not_trained_on_it(tmp_path: Path) -> None:
    pattern = runs(tmp_path, "2/2", "1/2")
    models = fold_models("cv", pattern, load)
    parts = [Cases.of(Splits(PHANTOM, fold=f"{k}/2"), fold=k) for k in (1, 2)]
    rows = evaluate_cases([models], Cases.joined(parts))["cv"]
    assert [row["fold"] for row in rows] == [1] * 4 + [2] * 4
    for fold, place in ((1, "cv_1"), (2, "cv_0")):
        alone = Registering("one", load(tmp_path / place / "checkpoints" / "best.ckpt"))
        expected = evaluate_cases([alone], parts[fold - 1])["one"]
        assert [row["tre_after_mm"] for row in rows if row["fold"] == fold] == [
            row["tre_after_mm"] for row in expected
        ]


@pytest.mark.parametrize(
    ("folds", "told"),
    [
        (("1/3", "3/3"), "lacks the fold 2 of 3; train it: `fold=2/3`"),
        (("1/2", "1/2"), "are both of fold 1/2"),
        (("1/2", "2/3"), "is of 2 folds and .* of 3"),
        (("1/2", None), "is no run of a fold"),
        ((), "No run is called"),
    ],
)
def test_runs_that_are_no_cross_validation_are_refused(
    folds: tuple[str | None, ...], told: str, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=told):
        named_runs(runs(tmp_path, *folds) if folds else str(tmp_path / "cv_*"))
    with pytest.raises(DataError, match="have 2 and 3 folds"):
        fold_count([(2, {}), (3, {})])
