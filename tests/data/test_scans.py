"""Faults in a user's data, each reported by one sentence that names it."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
import torchio as tio

from lightning_reg.data.datasets.splits import open_dataset
from lightning_reg.data.preprocessing import Geometry, Preprocessing
from lightning_reg.data.scans import (
    Scan,
    check_landmarks,
    make_pair,
    original,
    read_pair,
    read_subject,
    scan_from_subject,
    subject_from_scan,
)
from lightning_reg.registry import DataError
from lightning_reg.spatial import Grid, Image

SHAPE = (12, 10, 9)


def save(path: Path, array: np.ndarray, affine: np.ndarray | None = None) -> Path:
    nib.Nifti1Image(array, np.diag([2.0, 2.5, 3.0, 1.0]) if affine is None else affine).to_filename(
        path
    )
    return path


@pytest.fixture
def noise() -> np.ndarray:
    return np.random.default_rng(0).normal(100, 20, SHAPE).astype(np.float32)


def scan(name: str = "one", origin: float = 0.0, landmarks: int | None = None) -> Scan:
    grid = Grid.regular(SHAPE, (2.0, 2.5, 3.0), (origin, 0.0, 0.0))
    points = None if landmarks is None else grid.to_world(torch.full((1, 3, landmarks), 4.0))[0].T
    return Scan(name, Image(torch.rand(1, 1, *SHAPE), grid), landmarks=points)


def test_a_path_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"There is no file .*none\.nii; correct the path"):
        read_subject("x", tmp_path / "none.nii")


def test_a_file_that_is_no_image(tmp_path: Path) -> None:
    (tmp_path / "text.nii.gz").write_text("not an image")
    with pytest.raises(DataError, match=r"text\.nii\.gz cannot be read as an image"):
        read_subject("x", tmp_path / "text.nii.gz")


@pytest.mark.parametrize(("value", "count"), [(np.nan, 3), (np.inf, 3)])
def test_values_that_are_not_finite(
    tmp_path: Path, noise: np.ndarray, value: float, count: int
) -> None:
    noise[2, 3, :count] = value
    with pytest.raises(DataError, match=r"bad\.nii has 3 NaN or infinite values"):
        read_subject("x", save(tmp_path / "bad.nii", noise))


def test_a_constant_image(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"flat\.nii is constant \(every voxel is 7\)"):
        read_subject("x", save(tmp_path / "flat.nii", np.full(SHAPE, 7, np.float32)))


def test_a_4d_image(tmp_path: Path, noise: np.ndarray) -> None:
    with pytest.raises(
        DataError,
        match=r"series\.nii has 2 channels or time points where a single 3D volume is meant",
    ):
        read_subject("x", save(tmp_path / "series.nii", np.stack([noise, noise], axis=-1)))


def test_a_single_line(tmp_path: Path, noise: np.ndarray) -> None:
    with pytest.raises(DataError, match=r"line\.nii is a single line"):
        read_subject("x", save(tmp_path / "line.nii", noise[:, :1, :1]))


def test_a_slice_and_a_volume_are_no_pair(tmp_path: Path, noise: np.ndarray) -> None:
    files = {
        "fixed": save(tmp_path / "volume.nii", noise),
        "moving": save(tmp_path / "slice.nii", noise[..., :1]),
    }
    fixed, moving = (scan_from_subject(subject) for subject in read_pair(files))
    with pytest.raises(DataError, match=r"moving is a single slice .*, and fixed a volume"):
        make_pair(fixed, moving)
    assert make_pair(moving, moving).fixed.grid.shape[2] == 1


def test_labels_on_another_grid(tmp_path: Path, noise: np.ndarray) -> None:
    image = save(tmp_path / "image.nii", noise)
    moved = np.diag([2.0, 2.5, 3.0, 1.0])
    moved[0, 3] = 4
    labels = save(tmp_path / "labels.nii", (noise > 100).astype(np.uint8), moved)
    with pytest.raises(
        DataError, match=r"labels\.nii lies on another grid than its image .*image\.nii"
    ):
        read_subject("x", image, labels=labels)


def test_a_pair_that_does_not_overlap() -> None:
    with pytest.raises(DataError, match="one and two do not overlap in the world"):
        make_pair(scan("one"), scan("two", origin=500.0))


def test_landmarks_that_do_not_correspond_in_number() -> None:
    with pytest.raises(DataError, match="one has 5 landmarks and two has 4"):
        make_pair(scan("one", landmarks=5), scan("two", landmarks=4))


@pytest.mark.parametrize(
    ("fixed", "moving", "order"),
    [
        ("ABCD", "BACD", [1, 0, 2, 3]),
        ("ABCD", "BDAC", [2, 0, 3, 1]),
        ("ABCD", "WXYZ", [0, 1, 2, 3]),
        ("ABCD", "ABCE", [0, 1, 2, 3]),
        ("ABCD", "", [0, 1, 2, 3]),
        ("", "", [0, 1, 2, 3]),
        ("ABCD", "BCDE", None),
    ],
)
def test_landmarks_correspond_by_their_labels(
    fixed: str, moving: str, order: list[int] | None
) -> None:
    """Also on the way through a subject, and where the same labels are in another order only."""
    image, points = (
        Image(torch.rand(1, 1, 6, 6, 6), Grid.regular((6, 6, 6))),
        torch.rand(4, 3, dtype=torch.float64) * 4,
    )
    scans = [
        scan_from_subject(
            subject_from_scan(Scan(name, image, landmarks=points, landmark_labels=tuple(labels)))
        )
        for name, labels in (("f", fixed), ("m", moving))
    ]
    if order is None:
        with pytest.raises(
            DataError,
            match=(
                "The landmark B is number 2 of f and number 1 of m, and other labels are in one of"
                " them only"
            ),
        ):
            make_pair(*scans)
        return
    pair = make_pair(*scans)
    assert pair.moving_landmarks is not None
    torch.testing.assert_close(pair.moving_landmarks[0], points[order])


def test_landmarks_outside() -> None:
    inside = scan(landmarks=3)
    check_landmarks("one", inside.landmarks, inside.image.grid)
    with pytest.raises(DataError, match=r"3 of 3 landmarks of one lie outside its image .* RAS mm"):
        check_landmarks("one", inside.landmarks - 200, inside.image.grid)


def test_preprocessing_keeps_the_world_and_maps_the_window(noise: np.ndarray) -> None:
    """Flipped and permuted axes come out as right, anterior, superior; every landmark stays on its
    voxel's intensity.
    """
    affine = np.array([[0, 0, -3.0, 50], [-2.0, 0, 0, 20], [0, 2.5, 0, -10], [0, 0, 0, 1]])
    grid = Grid(SHAPE, torch.from_numpy(affine))
    index = torch.tensor([[3, 4, 5], [7, 2, 6]])
    landmarks = grid.to_world(index.double().T.unsqueeze(0))[0].T
    raw = Scan("turned", Image(torch.from_numpy(noise)[None, None], grid), landmarks=landmarks)
    done = Preprocessing(window=(50, 150))(subject_from_scan(raw))
    assert (done.image.grid.affine[0, :3, :3].diagonal() > 0).all()
    assert float(done.image.tensor.min()) >= 0
    assert float(done.image.tensor.max()) <= 1
    where = done.image.grid.to_voxel(landmarks.T.unsqueeze(0))[0].round().long()
    expected = ((torch.from_numpy(noise)[tuple(index.T)] - 50) / 100).clamp(0, 1)
    torch.testing.assert_close(
        done.image.tensor[0, 0][tuple(where)], expected.float(), atol=1e-5, rtol=0
    )


def test_preprocessing_resamples_and_centers() -> None:
    done = Preprocessing(spacing=3.0, center=True)(subject_from_scan(scan(origin=40.0)))
    np.testing.assert_allclose(done.image.grid.spacing[0], 3.0)
    assert np.abs(done.image.grid.center).max() < 1e-4
    resized = Preprocessing(shape=(8, 8, 8))(subject_from_scan(scan()))
    assert resized.image.grid.shape == (8, 8, 8)


@pytest.mark.parametrize(
    "geometry",
    [
        Geometry(spacing=0.001),
        Geometry(spacing=(1.0, 1e-9, 1.0)),
        Geometry(shape=(60_000, 60_000, 60_000)),
    ],
)
def test_grids_that_no_memory_holds(geometry: Geometry, noise: np.ndarray) -> None:
    subject = read_subject("scan", (noise, np.eye(4)))
    with pytest.raises(
        DataError,
        match="The memory does not suffice for the new grid of scan; give a larger spacing",
    ):
        geometry(subject)


def test_itk_without_memory(noise: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: tio.Resample, subject: tio.Subject) -> tio.Subject:
        raise RuntimeError("Exception thrown in SimpleITK\nFailed to allocate memory for image.")

    monkeypatch.setattr(tio.Resample, "__call__", fail)
    with pytest.raises(
        DataError,
        match="The memory does not suffice for the new grid of scan; give a larger spacing",
    ):
        Geometry(spacing=0.5)(read_subject("scan", (noise, np.eye(4))))


def test_centering_moves_landmarks_too() -> None:
    moved = Preprocessing(center=True)(subject_from_scan(scan(origin=40.0, landmarks=2)))
    torch.testing.assert_close(
        moved.image.grid.to_voxel(moved.landmarks.T.unsqueeze(0)), torch.full((1, 3, 2), 4.0)
    )


def test_subjects_survive_the_way_through_torchio() -> None:
    original = scan(landmarks=2)
    back = scan_from_subject(subject_from_scan(original))
    torch.testing.assert_close(back.image.tensor, original.image.tensor)
    assert back.image.grid.matches(original.image.grid)


@pytest.mark.data
def test_hippocampus_crops_load(public_data: Path) -> None:
    data = open_dataset(
        {"name": "hippocampus", "root": str(public_data / "hippocampus")}, held_out=4, limit=6
    )
    process = Preprocessing(center=True)
    scans = [process(subject) for subject in data.subjects("validation")]
    assert len(scans) == 4
    assert len(data.subjects("train")) == 6
    assert len({s.image.grid.shape for s in scans}) > 1
    pairs = [make_pair(scans[f], scans[m]) for f, m in data.pairs("validation")]
    assert all(pair.labels() == [1, 2] for pair in pairs)


@pytest.mark.parametrize(
    ("fixed", "moving", "name"),
    [
        ("p1 inhale", "p1 exhale", "p1 inhale < exhale"),
        ("p1", "p2", "p1 < p2"),
        ("p1 inhale", "p2 exhale", "p1 inhale < p2 exhale"),
    ],
)
def test_pairs_are_named_by_their_scans(fixed: str, moving: str, name: str) -> None:
    assert make_pair(scan(fixed), scan(moving)).name == (name,)


def test_percentiles_are_mapped_to_0_and_1() -> None:
    """Of a ramp, whose percentiles are its values."""
    grid = Grid.regular((11, 10, 10), (2.0, 2.5, 3.0))
    ramp = torch.linspace(-300, 700, 1100).view(1, 1, *grid.shape)
    done = Preprocessing(percentiles=(10, 80))(subject_from_scan(Scan("ramp", Image(ramp, grid))))
    torch.testing.assert_close(
        done.image.tensor, ((ramp + 200) / 700).clamp(0, 1), atol=2e-3, rtol=0
    )


def test_a_crop_leaves_a_margin_in_mm() -> None:
    """Voxels of 2, 2.5 and 3 mm; at the border of the image there is no more to leave."""
    one = scan()
    mask = torch.zeros(1, 1, *SHAPE, dtype=torch.int16)
    mask[:, :, 5:7, 4:6, 1:3] = 1
    subject = subject_from_scan(Scan("one", one.image, Image(mask, one.image.grid, discrete=True)))
    cut = scan_from_subject(Preprocessing(crop="mask", margin=6.0).geometry(subject))
    assert cut.image.grid.shape == (2 + 2 * 3, 2 + 2 * 2, 2 + 1 + 2)
    torch.testing.assert_close(cut.image.tensor, one.image.resampled(cut.image.grid).tensor)
    torch.testing.assert_close(cut.mask.tensor.sum(), mask.sum())


def test_outside_an_image_that_is_read_lies_its_smallest_value(
    tmp_path: Path, noise: np.ndarray
) -> None:
    found = original(read_subject("fixed", save(tmp_path / "image.nii", noise)))
    assert found.image.padding == float(noise.min())


def test_a_pair_keeps_what_belongs_to_either_side() -> None:
    sides = []
    for number, name in enumerate(("one", "two")):
        made = scan(name, origin=3.0 * number, landmarks=4)
        parts = [
            Image(
                torch.full((1, 1, *SHAPE), 10 * number + k, dtype=torch.int16),
                made.image.grid,
                discrete=True,
            )
            for k in (1, 2)
        ]
        sides.append(Scan(name, made.image, *parts, made.landmarks))
    pair = make_pair(*sides)
    for side, made in zip(("fixed", "moving"), sides, strict=True):
        assert getattr(pair, side) is made.image
        assert getattr(pair, f"{side}_mask") is made.mask
        assert getattr(pair, f"{side}_labels") is made.labels
        assert getattr(pair, f"{side}_landmarks") == (made.landmarks,)
    assert float(pair.landmark_errors()[0].mean()) == pytest.approx(3.0)
