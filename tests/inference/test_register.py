"""Files of a registration against SimpleITK, against each other, and against the known transform."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
import torch
import torchio as tio
import untrained

import lightning_reg
from lightning_reg.components.losses.bundle import LossBundle
from lightning_reg.data.preprocessing import Preprocessing
from lightning_reg.inference.applying import apply_to_image, apply_to_points
from lightning_reg.inference.doubts import nothing_common
from lightning_reg.inference.registrar import Registrar
from lightning_reg.inference.result import Result
from lightning_reg.inference.steps import Optimize, Predict
from lightning_reg.io.images import read_image
from lightning_reg.io.points import read_points
from lightning_reg.registry import ArgumentError, DataError, UserError
from lightning_reg.spatial import Grid, Image, Pair

LPS = np.array([-1.0, -1.0, 1.0])
FEW = [
    "optimization.stages.0.steps=30",
    "optimization.stages.1.steps=20",
    "optimization.stages.2.steps=20",
    "optimization.stages.3.steps=10",
]
KINDS = [
    "conventional",
    "model",
    "model, centred",
    "model, canonical at another spacing",
    "model, refined",
]


def registrar(kind: str, model: Callable[..., Path]) -> Registrar:
    if kind == "conventional":
        return lightning_reg.conventional("bspline", FEW)
    preprocessing = {
        "model, centred": {"center": True, "canonical": False},
        "model, canonical at another spacing": {"canonical": True, "spacing": [3.0, 2.5, 2.0]},
    }.get(kind, {"canonical": False})
    return lightning_reg.load(model(preprocessing={"percentiles": [0, 100], **preprocessing}))


@pytest.fixture(scope="module", params=KINDS)
def result(request, tmp_path_factory, files) -> Result:
    """One registration of each kind, for all tests."""
    path = tmp_path_factory.mktemp("model") / "best.ckpt"
    made = registrar(
        request.param, lambda preprocessing: untrained.checkpoint(path, preprocessing=preprocessing)
    )
    return made.register(**files, refine=8 if "refined" in request.param else None)


@pytest.fixture(scope="module")
def folder(result: Result, tmp_path_factory) -> Path:
    return result.save(tmp_path_factory.mktemp("saved") / "out", inverse=True, report=False)


def itk_points(transform: sitk.Transform, points: np.ndarray) -> np.ndarray:
    return np.array([transform.TransformPoint((p * LPS).tolist()) for p in points]) * LPS


def test_simpleitk_finds_our_warped_image_and_our_landmarks(
    result: Result, folder: Path, files
) -> None:
    transform = sitk.ReadTransform(str(folder / "transform.h5"))
    fixed, moving = (
        sitk.ReadImage(str(files[side]), sitk.sitkFloat32) for side in ("fixed", "moving")
    )
    theirs = sitk.GetArrayFromImage(
        sitk.Resample(moving, fixed, transform, sitk.sitkLinear, -1000.0)
    ).transpose()
    ours = nib.load(folder / "warped.nii.gz")
    np.testing.assert_allclose(ours.affine, nib.load(files["fixed"]).affine, atol=1e-5)
    interior = theirs > -999
    lands = result.map_points(inside_points(result))
    assert interior.mean() > 0.5
    assert np.abs(ours.get_fdata() - theirs)[well_inside(result)].max() < 0.05
    points = inside_points(result)
    assert np.abs(itk_points(transform, points) - lands).max() < 1e-3
    landmarks = read_points(files["fixed_landmarks"]).world().numpy()
    assert np.abs(itk_points(transform, landmarks) - result.map_points(landmarks)).max() < 1e-3
    field = sitk.DisplacementFieldTransform(
        sitk.ReadImage(str(folder / "displacement.nii.gz"), sitk.sitkVectorFloat64)
    )
    grid = result.pair.fixed.grid
    centres = grid.to_world(grid.points(dtype=torch.float64).flatten(2)[..., ::97])[0].T.numpy()
    assert np.abs(itk_points(field, centres) - result.map_points(centres)).max() < 1e-3


def test_a_result_and_its_registrar_show_themselves(model, files) -> None:
    """In a notebook: metrics before and after, a picture; without one, a line."""
    made = registrar("model", model)
    result = made.register(**files)
    shown = result._repr_html_()
    case = result.case
    assert case.tre_before is not None
    assert f"{float(case.tre_before.mean()):.2f} → {float(case.tre_after.mean()):.2f} mm" in shown
    assert "data:image/png;base64" in shown
    assert "tensor(" not in repr(result)
    assert len(repr(result)) < 400
    assert "SingleComposer of" in repr(made)
    assert "refinement" in made._repr_html_()


def inside_points(result: Result) -> np.ndarray:
    """Points anywhere in the fixed image, up to its outer faces."""
    grid = result.pair.fixed.grid
    voxels = torch.rand(1, 3, 200, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return grid.to_world(voxels * torch.tensor(grid.shape).view(1, 3, 1) - 0.5)[0].T.numpy()


def test_ants_agrees_on_the_displacement_file(result: Result, folder: Path, files) -> None:
    """ANTs reads the vector image, and resamples and maps points through it as we do."""
    ants = pytest.importorskip(
        "ants", reason="antspyx is not installed: pip install -e '.[benchmarks]'"
    )
    fixed, moving = (ants.image_read(str(files[side])) for side in ("fixed", "moving"))
    theirs = ants.apply_transforms(
        fixed, moving, [str(folder / "displacement.nii.gz")], interpolator="linear"
    ).numpy()
    ours = nib.load(folder / "warped.nii.gz").get_fdata()
    assert np.abs(ours - theirs)[well_inside(result)].max() < 0.05
    pandas = pytest.importorskip("pandas")
    grid = result.pair.fixed.grid
    centres = grid.to_world(grid.points(dtype=torch.float64).flatten(2)[..., ::97])[0].T.numpy()
    frame = pandas.DataFrame(centres * LPS, columns=["x", "y", "z"])
    mapped = (
        ants.apply_transforms_to_points(3, frame, [str(folder / "displacement.nii.gz")])[
            ["x", "y", "z"]
        ].to_numpy()
        * LPS
    )
    assert np.abs(mapped - result.map_points(centres)).max() < 1e-2


def well_inside(result: Result) -> np.ndarray:
    """Voxels of the fixed image that land a voxel off the border of the moving one."""
    grid, moving = result.pair.fixed.grid, result.pair.moving.grid
    lands = moving.to_voxel(
        result.transform.map_world(grid.to_world(grid.points(dtype=torch.float64)))
    )[0]
    upper = torch.tensor(moving.shape).view(3, 1, 1, 1) - 2
    inside = ((lands > 1) & (lands < upper)).all(0).numpy()
    assert inside.mean() > 0.3
    return inside


def test_the_inverse_leads_back_and_says_how_well(result: Result, folder: Path) -> None:
    there, back = (
        sitk.ReadTransform(str(folder / name)) for name in ("transform.h5", "inverse_transform.h5")
    )
    grid = result.pair.fixed.grid
    points = grid.to_world(
        (torch.rand(1, 3, 300, dtype=torch.float64) * 0.6 + 0.2)
        * torch.tensor(grid.shape).view(1, 3, 1)
    )[0].T.numpy()
    residual = json.loads((folder / "metrics.json").read_text())["metrics"]["inverse_residual_mm"]
    lands = itk_points(there, points)
    distance = np.linalg.norm(itk_points(there, itk_points(back, lands)) - lands, axis=1)
    assert residual["mean"] < 0.1
    assert distance.mean() < residual["mean"] + 0.02


def test_apply_agrees_with_register(result: Result, folder: Path, files, tmp_path: Path) -> None:
    apply_to_image(
        folder / "transform.h5",
        str(files["moving"]),
        str(files["fixed"]),
        tmp_path / "again.nii.gz",
    )
    difference = np.abs(
        nib.load(tmp_path / "again.nii.gz").get_fdata()
        - nib.load(folder / "warped.nii.gz").get_fdata()
    )
    assert difference.max() < 0.05
    apply_to_image(
        folder / "transform.h5",
        str(files["moving_labels"]),
        str(files["fixed"]),
        tmp_path / "labels.nii.gz",
        labels=True,
    )
    labels = [
        np.asarray(nib.load(p).dataobj)
        for p in (tmp_path / "labels.nii.gz", folder / "warped_labels.nii.gz")
    ]
    assert (labels[0] != labels[1]).mean() < 1e-3
    assert set(np.unique(labels[1])) <= {0, 1, 2, 3}
    apply_to_points(folder / "transform.h5", files["fixed_landmarks"], tmp_path / "mapped.csv")
    mapped = read_points(tmp_path / "mapped.csv").world().numpy()
    np.testing.assert_allclose(
        mapped, result.map_points(read_points(files["fixed_landmarks"]).world()), atol=1e-3
    )
    apply_to_points(
        folder / "transform.h5", tmp_path / "mapped.csv", tmp_path / "back.csv", inverse=True
    )
    np.testing.assert_allclose(
        read_points(tmp_path / "back.csv").world().numpy(),
        read_points(files["fixed_landmarks"]).world().numpy(),
        atol=0.2,
    )


def test_metrics_are_those_of_the_files(result: Result, folder: Path, files) -> None:
    """Dice and TRE, computed again from what was written."""
    metrics = json.loads((folder / "metrics.json").read_text())["metrics"]
    fixed, warped = (
        np.asarray(nib.load(p).dataobj)
        for p in (files["fixed_labels"], folder / "warped_labels.nii.gz")
    )
    for label in (1, 2, 3):
        a, b = fixed == label, warped == label
        assert metrics["dice"]["labels"][str(label)]["after"] == pytest.approx(
            2 * (a & b).sum() / (a.sum() + b.sum()), abs=1e-6
        )
    landmarks, targets = (
        read_points(files[f"{side}_landmarks"]).world().numpy() for side in ("fixed", "moving")
    )
    errors = np.linalg.norm(
        itk_points(sitk.ReadTransform(str(folder / "transform.h5")), landmarks) - targets, axis=1
    )
    assert metrics["tre_mm"]["after"] == pytest.approx(errors.mean(), abs=1e-3)
    determinant = nib.load(folder / "jacobian.nii.gz").get_fdata()
    mask = np.asarray(nib.load(files["fixed_mask"]).dataobj) > 0
    assert metrics["folding"] == pytest.approx((determinant[mask] <= 0).mean(), abs=1e-6)
    assert (folder / "affine.tfm").exists() == any(
        isinstance(p, lightning_reg.spatial.Affine)
        for p in lightning_reg.spatial.parts(result.transform)
    )


def test_from_images_as_they_lie_the_deformation_is_found(files) -> None:
    result = lightning_reg.conventional("bspline").register(**files)
    assert float(result.case.tre_before.mean()) > 4  # type: ignore[union-attr]
    assert float(result.case.tre_after.mean()) < 0.6  # type: ignore[union-attr]
    assert result.metrics()["dice"]["after"] > 0.8
    assert result.case.folding == 0


@pytest.mark.parametrize("with_masks", [True, False])
@pytest.mark.parametrize("start", ["auto", "centers"])
def test_images_far_apart_in_the_world_are_found(start: str, with_masks: bool, files) -> None:
    """29 mm apart, which is half of the image; masks or not."""
    shift = np.array([15.0, -12.0, 16.0])
    parts = {k: v for k, v in files.items() if with_masks or "mask" not in k}
    moved = {
        k: moved_image(v, shift)
        for k, v in parts.items()
        if k in ("moving", "moving_mask", "moving_labels")
    }
    landmarks = read_points(files["moving_landmarks"]).world().numpy() + shift
    result = lightning_reg.conventional("bspline", start=start).register(
        **(parts | moved | {"moving_landmarks": landmarks})
    )
    if start == "auto":  # otherwise "before" is with the centres on each other
        assert float(result.case.tre_before.mean()) > 25  # type: ignore[union-attr]
    assert float(result.case.tre_after.mean()) < 0.8  # type: ignore[union-attr]


def moved_image(path: Path, shift: np.ndarray) -> tuple[torch.Tensor, np.ndarray]:
    image = read_image(path, tio.LabelMap if "nii" in path.name else tio.ScalarImage)
    affine = image.affine.copy()
    affine[:3, 3] += shift
    return image.data[0], affine


def test_every_kind_of_input_gives_the_same(files) -> None:
    """Paths, TorchIO, nibabel and SimpleITK images, subjects, arrays and tensors with an affine."""
    fixed, moving = read_image(files["fixed"]), read_image(files["moving"])
    registrar = lightning_reg.conventional(
        "bspline", ["optimization.stages=[{transform: affine, stride: 4, steps: 5}]"]
    )
    expected = registrar.register(files["fixed"], str(files["moving"])).warped.data
    kinds = [
        (fixed, moving),
        (nib.load(files["fixed"]), sitk.ReadImage(str(files["moving"]))),
        ((fixed.data[0].numpy(), fixed.affine), (moving.data[0], moving.affine)),
        (
            (fixed.data.numpy().astype(">f8"), fixed.affine),
            (moving.data.clone().requires_grad_(), torch.tensor(moving.affine)),
        ),
        (
            (fixed.data[0].numpy()[::-1][::-1], fixed.affine.astype(">f4")),
            (moving.data.half(), moving.affine),
        ),
        tuple(
            Image(image.data[None], Grid(image.spatial_shape, image.affine))
            for image in (fixed, moving)
        ),
        (tio.Subject(t1=fixed), tio.Subject(image=moving)),
    ]
    for pair in kinds:
        # half precision of 200
        torch.testing.assert_close(
            registrar.register(*pair).warped.data, expected, atol=0.1, rtol=0
        )


def test_a_subject_brings_its_parts(files) -> None:
    parts = {
        name.removeprefix("fixed_"): path
        for name, path in files.items()
        if name.startswith("fixed_")
    }
    landmarks = parts.pop("landmarks")
    subject = tio.Subject(
        t1=read_image(files["fixed"]),
        landmarks=read_points(landmarks).world(),
        **{name: tio.LabelMap(path) for name, path in parts.items()},
    )
    others = {name: path for name, path in files.items() if not name.startswith("fixed")}
    registrar = lightning_reg.conventional(
        "bspline", ["optimization.stages=[{transform: affine, stride: 4, steps: 5}]"]
    )
    found, expected = registrar.register(subject, **others), registrar.register(**files)
    assert found.pair.has() == expected.pair.has()
    assert found.case.row()["dice_after"] == pytest.approx(
        expected.case.row()["dice_after"], abs=1e-3
    )
    for images in (
        {"a": subject["t1"], "b": subject["t1"]},
        {"labels": subject["labels"]},
        {"t1": subject["t1"], "seg": subject["labels"]},
    ):
        with pytest.raises(
            DataError,
            match=f"^The moving subject has {', '.join(images)}; give one with one ScalarImage",
        ):
            registrar.register(files["fixed"], tio.Subject(**images))


@pytest.mark.parametrize(
    "points",
    ["abc", None, [[1, 2], [1]], [1.0, 2.0, 3.0], [[1.0, 2.0, np.nan]], np.zeros((2, 3), complex)],
)
def test_points_that_are_none_are_refused(result: Result, points) -> None:
    with pytest.raises(DataError, match="give"):
        result.map_points(points)


def test_points_of_any_array_are_mapped(result: Result) -> None:
    points = result.pair.fixed.grid.center + np.array([[1.0, 2, 3], [4, 5, 6]])
    expected = result.map_points(points.tolist())
    kinds = [
        points.astype(">f8"),
        points[::-1][::-1],
        torch.tensor(points, requires_grad=True),
        np.asfortranarray(points),
    ]
    for kind in kinds:
        np.testing.assert_array_equal(result.map_points(kind), expected)
    np.testing.assert_array_equal(result.map_points(points[::-1]), expected[::-1])


def test_other_images_and_the_field_are_those_of_the_files(
    result: Result, folder: Path, files
) -> None:
    """As SimpleITK reads them: vectors in LPS mm, labels by nearest neighbour."""
    field = sitk.GetArrayFromImage(sitk.ReadImage(str(folder / "displacement.nii.gz"))).transpose(
        2, 1, 0, 3
    )
    np.testing.assert_array_equal(result.displacement_mm("lps"), field)
    grid, voxel = result.pair.fixed.grid, (12, 9, 7)
    point = grid.to_world(torch.tensor(voxel, dtype=torch.float64).view(1, 3, 1))[0].T.numpy()
    np.testing.assert_allclose(
        result.displacement_mm("ras")[voxel], (result.map_points(point) - point)[0], atol=1e-3
    )
    labels = result.warp(files["moving_labels"], labels=True)
    np.testing.assert_array_equal(
        labels.data[0].numpy(), nib.load(folder / "warped_labels.nii.gz").get_fdata()
    )
    assert isinstance(labels, tio.LabelMap)
    torch.testing.assert_close(result.warp(read_image(files["moving"])).data, result.warped.data)
    with pytest.raises(UserError, match="space is 'RAS'; give 'lps' or 'ras'"):
        result.displacement_mm("RAS")
    with pytest.raises(UserError, match="files names 'warpd'; did you mean 'warped'"):
        result.save(folder.parent / "other", files=["warpd"])


@pytest.mark.parametrize("refine", ["3", np.nan, 2.5, -1, True])
def test_steps_that_are_no_number_are_refused(model, files, refine) -> None:
    with pytest.raises(ArgumentError, match=r"^refine is .*; give a whole number, 0 or more"):
        lightning_reg.load(model()).register(files["fixed"], files["moving"], refine=refine)


@pytest.mark.parametrize("preprocessing", [{"spacing": 1e-4}, {"shape": [10**5] * 3}])
def test_sizes_that_no_memory_holds_are_one_sentence(files, preprocessing) -> None:
    with pytest.raises(
        UserError,
        match=(
            r"^The memory does not suffice for the new grid of \w+; give a larger spacing, a"
            r" smaller shape"
        ),
    ):
        Registrar(Preprocessing(**preprocessing)).register(files["fixed"], files["moving"])


def test_a_model_that_no_memory_holds_is_one_sentence(model) -> None:
    path = model()
    checkpoint = torch.load(path, weights_only=True)
    checkpoint["lightning_reg"]["model"]["composer"]["network"]["backbone"]["features"] = 10**13
    torch.save(checkpoint, path)
    with pytest.raises(UserError, match=r"^The memory does not suffice for the model"):
        lightning_reg.load(path)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"preprocessing": None}, "preprocessing is None; give Preprocessing"),
        ({"steps": "velocity"}, "steps is 'velocity'; give a list of steps"),
        ({"steps": ["velocity"]}, "one of steps is 'velocity'; give Align, Predict or Optimize"),
        ({"lungs": 3}, "lungs is 3; give an object of Registrar, or None"),
        ({"memory": "4"}, "memory is '4'; give a number of GiB above 0"),
        ({"device": None}, "device is None; give a name"),
    ],
)
def test_a_registrar_of_something_else_is_refused(arguments, message) -> None:
    with pytest.raises(ArgumentError, match=f"^{message}"):
        Registrar(**{"preprocessing": Preprocessing(), **arguments})


def test_a_step_of_something_else_is_refused() -> None:
    with pytest.raises(ArgumentError, match=r"^composer is 'velocity'; give an object of Composer"):
        Predict("velocity")  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match=r"^optimization is 3; give an object of Optimization"):
        Optimize(3)  # type: ignore[arg-type]


def test_random_states_and_the_default_dtype_are_kept(model, files) -> None:
    """Under another default dtype, the result is the same."""
    path = model()

    def run() -> torch.Tensor:
        registrar = lightning_reg.load(
            path, refinement="network", overrides=["optimization.stages.0.steps=2"]
        )
        return registrar.register(files["fixed"], files["moving"], refine=2).displacement

    before = torch.get_rng_state(), random.getstate(), np.random.get_state()  # noqa: NPY002
    expected = run()
    assert torch.equal(torch.get_rng_state(), before[0])
    assert random.getstate() == before[1]
    assert all(np.array_equal(a, b) for a, b in zip(np.random.get_state(), before[2], strict=True))  # noqa: NPY002
    torch.set_default_dtype(torch.float64)
    try:
        torch.testing.assert_close(run(), expected)
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64, torch.int16])
def test_a_composer_takes_images_of_any_dtype(model, dtype) -> None:
    composer, grid = lightning_reg.load(model()).composer, Grid.regular((16, 16, 16))
    fixed, moving = (Image((200 * torch.rand(1, 1, 16, 16, 16)).to(dtype), grid) for _ in range(2))
    expected = composer(*(replace(image, tensor=image.tensor.float()) for image in (fixed, moving)))
    torch.testing.assert_close(
        composer(fixed, moving).transform.displacement(), expected.transform.displacement()
    )


def test_a_model_is_one_file_and_runs_no_code_of_it(model, files, monkeypatch) -> None:
    path = model()
    seen = []
    load = torch.load
    monkeypatch.setattr(
        torch, "load", lambda *a, **k: seen.append(k.get("weights_only")) or load(*a, **k)
    )
    lightning_reg.load(path)
    assert seen == [True]
    checkpoint = load(path, weights_only=True)
    checkpoint["lightning_reg"]["model"]["composer"]["network"]["head"]["name"] = "velocty"
    torch.save(checkpoint, path)
    with pytest.raises(
        UserError, match=r"There is no head named 'velocty'; did you mean 'velocity'\?"
    ):
        lightning_reg.load(path)


def test_registering_leaves_the_model_as_it_was(model, files) -> None:
    registrar = lightning_reg.load(
        model(), refinement="network", overrides=["optimization.stages.0.steps=3"]
    )
    first = registrar.register(files["fixed"], files["moving"])
    refined = registrar.register(files["fixed"], files["moving"], refine=3)
    again = registrar.register(files["fixed"], files["moving"])
    assert refined.optimized is not None
    assert refined.optimized.after < refined.optimized.before
    torch.testing.assert_close(again.displacement, first.displacement)
    assert float((refined.displacement - first.displacement).abs().max()) > 1e-4


def test_a_model_warns_of_images_unlike_its_own(files, model) -> None:
    levels = [[0.0, 0.02]] * 19
    registrar = lightning_reg.load(model(quantiles=levels, extent_mm=[[50.0, 70.0]] * 3))

    def warned(registrar: lightning_reg.Registrar) -> list[str]:
        """Of the images; the network is untrained."""
        *warnings, last = registrar.register(files["fixed"], files["moving"]).warnings
        assert "The network has made the images less alike (correlation 0.8" in last
        return warnings

    warnings = warned(registrar)
    assert len(warnings) == 2
    assert "unlike those the model was trained on" in warnings[0]
    known = {"quantiles": [[0.0, 1.0]] * 19, "extent_mm": [[50.0, 70.0]] * 3}
    assert warned(replace_statistics(registrar, known)) == []
    known["extent_mm"] = [[500.0, 600.0]] * 3
    assert "crop it to the same region" in warned(replace_statistics(registrar, known))[0]


def replace_statistics(registrar: Registrar, statistics: dict) -> Registrar:
    return replace(registrar, statistics=statistics)


def test_no_such_device(model) -> None:
    with pytest.raises(UserError, match="The device 'gpu7' cannot be used; use cpu"):
        lightning_reg.load(model(), device="gpu7")


def test_points_have_three_columns(files) -> None:
    with pytest.raises(
        DataError,
        match=r"The fixed landmarks are \(5, 2\) of float64; give \(N, 3\) finite numbers",
    ):
        lightning_reg.conventional().register(
            files["fixed"], files["moving"], fixed_landmarks=np.zeros((5, 2))
        )


@pytest.mark.parametrize("turned", [False, True])
def test_a_part_is_found_in_a_large_image_and_the_other_way(turned: bool) -> None:
    """``auto`` brings the centres of mass together, whichever of the two fields of view is the
    larger one.
    """
    points = np.stack(np.meshgrid(*(np.arange(48) * 4.0 - 94.0,) * 3, indexing="ij"), axis=-1)
    rng = np.random.default_rng(0)
    places = [(rng.normal(0, 9, 3), rng.uniform(5, 9), rng.uniform(50, 100)) for _ in range(8)]

    def scene(center: np.ndarray) -> np.ndarray:
        return sum(
            height * np.exp(-(((points - center - at) / width) ** 2).sum(-1))
            for at, width, height in places
        )

    there = np.array([50.0, 40.0, -45.0])
    affine = np.diag([4.0, 4.0, 4.0, 1.0])
    affine[:3, 3] = -94.0
    small = affine.copy()
    small[:3, 3] += 4.0 * 16
    large, part = (scene(there), affine), (scene(np.zeros(3))[16:32, 16:32, 16:32], small)
    result = lightning_reg.conventional("bspline", FEW).register(
        *((part, large) if turned else (large, part))
    )
    expected = (np.zeros(3), there) if turned else (there, np.zeros(3))
    assert np.linalg.norm(result.map_points(expected[0][None])[0] - expected[1]) < 4.0


def test_images_that_lose_each_other_are_warned_of(files) -> None:
    fixed, moving = read_image(files["fixed"]), read_image(files["moving"])
    affine = moving.affine.copy()
    affine[:3, 3] += (48.0, 0.0, 0.0)
    registrar = lightning_reg.conventional("bspline", start="headers")
    result = registrar.register(fixed, (moving.data[0], affine), refine=0)
    assert "of the fixed image lands inside the moving one: do not trust" in result.warnings[0]


def test_a_network_gone_wrong_is_said(files, model) -> None:
    registrar = lightning_reg.load(model())
    for parameter in registrar.composer.parameters():  # type: ignore[union-attr]
        parameter.data.fill_(torch.nan)
    for refine in (None, 3):
        with pytest.raises(UserError, match="became NaN or infinite"):
            registrar.register(files["fixed"], files["moving"], refine=refine)


def test_inside_inference_mode(files) -> None:
    with torch.inference_mode():
        result = lightning_reg.conventional("bspline", FEW[:1]).register(
            files["fixed"], files["moving"], refine=4
        )
    assert result.optimized is not None


@pytest.mark.slow
@pytest.mark.data
@pytest.mark.parametrize("masks", [True, False])
def test_the_lungs_are_found_from_where_they_lie(
    masks: bool, public_data: Path, tmp_path: Path
) -> None:
    """Ten points, whole voxels of 1.37 x 1.37 x 2.5 mm; elastix ends at 2.3 mm
    (docs/benchmarks.md).
    """
    folder = public_data / "lung_ct_pair"
    extra = {}
    for side, name in (("fixed", "baseline"), ("moving", "followup")):
        voxels = np.loadtxt(folder / f"{name}_points_index.txt", skiprows=2, dtype=int)
        (tmp_path / f"{name}.csv").write_text(
            "i,j,k\n" + "\n".join(",".join(map(str, row)) for row in voxels) + "\n"
        )
        extra[f"{side}_landmarks"] = tmp_path / f"{name}.csv"
        if masks:
            extra[f"{side}_mask"] = folder / f"3DCT_lung_{name}_mask.mha"
    images = [folder / f"3DCT_lung_{name}.mha" for name in ("baseline", "followup")]
    result = lightning_reg.conventional("lung_ct").register(*images, **extra)
    assert float(result.case.tre_before.mean()) > 34  # type: ignore[union-attr]
    assert float(result.case.tre_after.mean()) < 2.3  # type: ignore[union-attr]
    assert result.case.folding < 1e-4


DEEP = {
    "composer": {
        "name": "single",
        "backbone": {"name": "fcn", "features": 2, "norm": "none"},
        "head": {"name": "dense", "levels": "all"},
    },
    "loss": {
        "terms": {"ncc": {}, "tv": {"weight": 0.01}, "label_dice": {"weight": 5.0}},
        "level_weights": [0.3, 0.6, 1.0],
    },
    "optimizer": {"name": "adam", "lr": 1e-3},
}


def test_a_network_is_refined_with_its_own_loss_at_all_its_levels(
    model, files, monkeypatch
) -> None:
    seen = []
    real = LossBundle.forward

    def forward(self, registration, pair, level_weights=None):
        seen.append((sorted(self.terms), len(registration.levels), level_weights))
        return real(self, registration, pair, level_weights)

    monkeypatch.setattr(LossBundle, "forward", forward)
    registrar = lightning_reg.load(
        model(DEEP), refinement="network", overrides=["optimization.stages.0.steps=2"]
    )
    assert registrar.register(files["fixed"], files["moving"], refine=2).optimized is not None
    steps = [entry for entry in seen if entry[1] == 3]
    assert len(steps) == 3  # two steps and the value after them
    assert all(terms == ["ncc", "tv"] for terms, _, _ in steps)  # labels were not given
    assert all(list(weights) == [0.3, 0.6, 1.0] for _, _, weights in steps)
    assert {count for _, count, _ in seen} == {
        1,
        3,
    }  # before and after are those of the whole transform


def test_a_loss_that_needs_what_no_pair_has_cannot_refine(model, files) -> None:
    supervised = DEEP | {"loss": {"terms": {"field_error": {}}}}
    registrar = lightning_reg.load(model(supervised), refinement="network")
    with pytest.raises(
        UserError,
        match=(
            r"Every term of the model's own loss \(field_error\) needs data that this pair does not"
            r" have"
        ),
    ):
        registrar.register(files["fixed"], files["moving"], refine=2)


def test_a_method_of_a_model_needs_one() -> None:
    with pytest.raises(
        UserError,
        match=(
            "The instance optimisation 'network' takes its loss from a model; give `model`, or"
            " another `instance`"
        ),
    ):
        lightning_reg.conventional("network")


def test_label_maps_without_a_common_label_are_said(pair: Pair) -> None:
    assert nothing_common(pair) is None
    assert pair.moving_labels is not None
    other = replace(pair.moving_labels, tensor=pair.moving_labels.tensor * 5)
    warning = nothing_common(replace(pair, moving_labels=other))
    assert warning is not None
    assert "fixed: 1; moving: 5" in warning
