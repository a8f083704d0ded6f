"""Check of data sets: all planted faults are found at once, correct files are unchanged, and
repaired files are correct.
"""

from __future__ import annotations

import gzip
import os
import re
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import providers
import pytest
import torch

from lightning_reg.curation.check.group import check
from lightning_reg.curation.check.repair import repair
from lightning_reg.curation.check.scan import CONVENTIONS, as_convention, units
from lightning_reg.data.datasets.splits import Splits, open_dataset
from lightning_reg.io.points import read_points, write_points
from lightning_reg.spatial import Grid

SHAPE = (40, 34, 36)


def form(folder: Path, subjects: int = 4, shape: tuple[int, int, int] = SHAPE) -> Path:
    """A manifest of the phantom's pairs, masks, lobes and landmarks, one subject held out; values
    in HU, an origin that is not 0.
    """
    lines = ["subject,time,split,image,mask,labels,landmarks"]
    affine = np.diag([*providers.spacing(shape), 1.0])
    affine[:3, 3] = (40.0, -90.0, 300.0)
    for number in range(subjects):
        for time, phase in zip(("inhale", "exhale"), providers.phases(number, shape), strict=True):
            paths = [f"{part}_{number}_{time}.nii.gz" for part in ("image", "mask", "lobes")]
            folder.mkdir(exist_ok=True)
            for path, array in zip(paths, (phase.image, phase.mask, phase.lobes), strict=True):
                nib.Nifti1Image(array, affine).to_filename(folder / path)
            grid = Grid(shape, torch.from_numpy(affine))
            write_points(
                folder / f"points_{number}_{time}.csv",
                grid.to_world(torch.from_numpy(phase.landmarks.T)[None])[0].T,
            )
            split = "validation" if number == subjects - 1 else "train"
            lines.append(
                f"s{number},{time},{split},{paths[0]},{paths[1]},{paths[2]},points_{number}_{time}.csv"
            )
    (folder / "manifest.csv").write_text("\n".join(lines) + "\n")
    return folder


def opened(folder: Path) -> Splits:
    return open_dataset({"name": "prepared", "root": str(folder)})


def same(values: np.ndarray) -> np.ndarray:
    return values


def change(
    path: Path,
    array: Callable[[np.ndarray], np.ndarray] = same,
    affine: Callable[[np.ndarray], np.ndarray] = same,
) -> None:
    image = nib.load(path)
    nib.Nifti1Image(array(np.asarray(image.dataobj)), affine(image.affine)).to_filename(path)


def change_all(folder: Path, affine: Callable[[np.ndarray], np.ndarray]) -> None:
    """The headers of a scan and of what lies on its grid."""
    for part in ("image", "mask", "lobes"):
        change(folder / f"{part}_1_inhale.nii.gz", affine=affine)


def far_away(affine: np.ndarray) -> np.ndarray:
    affine = affine.copy()
    affine[0, 3] += 900
    return affine


def nan(a: np.ndarray) -> np.ndarray:
    a = a.astype(np.float32)
    a[3, 4, :5] = np.nan
    return a


def sheared(affine: np.ndarray) -> np.ndarray:
    affine = affine.copy()
    affine[0, 2] = 2.0
    return affine


def two_forms(folder: Path) -> None:
    path = folder / "image_1_inhale.nii.gz"
    image = nib.load(path)
    header = image.header.copy()
    header.set_qform(image.affine, 1)
    header.set_sform(np.diag([-1.0, -1, 1, 1]), 1)
    nib.Nifti1Image(np.asarray(image.dataobj), None, header).to_filename(path)


def rewritten(path: Path, old: str, new: str) -> None:
    path.write_text(path.read_text().replace(old, new))


def lps(folder: Path, name: str = "points_1_inhale.csv") -> None:
    values = read_points(folder / name).values * torch.tensor([-1.0, -1.0, 1.0])
    write_points(folder / name, values)


def voxels(folder: Path, first: int) -> None:
    path = folder / "points_1_inhale.csv"
    image = nib.load(folder / "image_1_inhale.nii.gz")
    grid = Grid(image.shape, torch.from_numpy(image.affine))
    write_points(path, (grid.to_voxel(read_points(path).values.T[None])[0].T + first))


def fewer(folder: Path) -> None:
    points = folder / "points_1_inhale.csv"
    points.write_text("\n".join(points.read_text().splitlines()[:-1]))


def of(
    name: str,
    array: Callable[[np.ndarray], np.ndarray] = same,
    affine: Callable[[np.ndarray], np.ndarray] = same,
) -> Callable[[Path], None]:
    """A change of one file."""
    return lambda folder: change(folder / f"{name}_1_inhale.nii.gz", array, affine)


def image(folder: Path) -> Path:
    return folder / "image_1_inhale.nii.gz"


def table(old: str, new: str) -> Callable[[Path], None]:
    return lambda folder: rewritten(folder / "manifest.csv", old, new)


def points(text: str) -> Callable[[Path], object]:
    return lambda folder: (folder / "points_1_inhale.csv").write_text(text)


def no_size(folder: Path, qform: bool = False) -> None:
    """The first extent of a voxel is 0, and where the qform counts, nothing else says it."""
    block = bytearray(gzip.decompress(image(folder).read_bytes()))
    block[80:84] = struct.pack("<f", 0.0)
    if qform:
        block[252:256] = struct.pack("<hh", 1, 0)
    image(folder).write_bytes(gzip.compress(bytes(block)))


def pair_apart(folder: Path) -> None:
    (folder / "pairs.csv").write_text("fixed,moving\ns0 inhale,s3 exhale\n")


Plant = Callable[[Path], object]
PLANTED: dict[str, tuple[Plant, str, str]] = {
    "truncated": (
        lambda f: image(f).write_bytes(image(f).read_bytes()[:700]),
        "error",
        "cannot be read",
    ),
    "magic": (
        lambda f: image(f).write_bytes(gzip.compress(b"x" * 5000)),
        "error",
        "cannot be read as an image",
    ),
    "nan": (of("image", nan), "error", "5 NaN or infinite"),
    "constant": (of("image", np.zeros_like), "error", "is constant"),
    "clipped": (of("image", lambda a: a.clip(max=0)), "warning", "intensities are clipped"),
    "forms": (two_forms, "error", "placed differently by its qform and its sform"),
    "no size": (no_size, "error", "has a voxel size of 0 x"),
    "no size in the qform": (
        lambda f: no_size(f, qform=True),
        "error",
        "its header has a voxel size of 0 x",
    ),
    "sheared": (of("image", affine=sheared), "warning", "axes that are not perpendicular"),
    "mask grid": (of("mask", lambda a: a[:-3]), "error", "lies on another grid"),
    "empty mask": (of("mask", np.zeros_like), "error", "is empty"),
    "fractions": (of("lobes", lambda a: a.astype(np.float32) * 0.7), "error", "no whole numbers"),
    "apart": (lambda f: change_all(f, far_away), "error", "do not overlap in the world"),
    "spacing": (
        lambda f: change_all(f, lambda a: a @ np.diag([3, 1, 1, 1])),
        "warning",
        "has a voxel size of",
    ),
    "shifted": (of("image", lambda a: a + 1024), "warning", "CT shifted by 1024"),
    "units": (of("image", lambda a: (a + 1100) // 9), "warning", "is not in HU"),
    "pair apart": (pair_apart, "error", "are a pair and in two splits (train, validation)"),
    "one file": (
        table("image_3_inhale", "image_1_inhale"),
        "warning",
        "is 2 scans, in different splits",
    ),
    "double": (
        lambda f: image(f).write_bytes((f / "image_3_inhale.nii.gz").read_bytes()),
        "error",
        "in different splits",
    ),
    "two splits": (
        table("s1,exhale,train", "s1,exhale,validation"),
        "error",
        "s1 is in the splits train and validation",
    ),
    "no validation": (table("validation", "train"), "error", "No scan is in the split validation"),
    "some masks": (
        table("mask_1_inhale.nii.gz", ""),
        "warning",
        "1 of 6 train scans have no masks",
    ),
    "lps": (lps, "error", "they fit if they are LPS mm:"),
    "voxels": (lambda f: voxels(f, 0), "error", "voxels counted from 0"),
    "decimal commas": (points("x;y;z\n1,5;2,5;3,5\n"), "error", "has the columns x;y;z"),
    "empty line": (points("x,y,z\n60,0,350\n,,\n61,0,350\n"), "error", "Line 3 of"),
    "fewer": (fewer, "error", "19 and 20 landmarks"),
}


@pytest.fixture(scope="module")
def sound(tmp_path_factory) -> Path:
    return form(tmp_path_factory.mktemp("sound") / "data")


def copied(sound: Path, folder: Path) -> Path:
    folder.mkdir()
    for path in sound.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    return folder


def test_sound_data_have_no_findings_and_are_measured(sound: Path) -> None:
    found = check(opened(sound), workers=1)
    assert found.findings == []
    assert found.pairs == {"train": 3, "validation": 1}
    assert all(
        scan.units == "HU" and scan.parts == ("mask", "labels", "landmarks") for scan in found.scans
    )
    assert len(found.measured) == 4
    assert all(
        5 < row["tre_before_mm"] < 30 and 0.3 < row["dice_before"] < 1 and row["overlap"] == 1
        for row in found.measured
    )


@pytest.mark.parametrize("name", PLANTED)
def test_what_is_planted_is_found(sound: Path, tmp_path: Path, name: str) -> None:
    folder = copied(sound, tmp_path / "data")
    plant, level, text = PLANTED[name]
    plant(folder)
    found = check(opened(folder))
    assert any(f.level == level and text in f.text for f in found.findings), [
        f.text for f in found.findings
    ]
    assert len(found.scans) == 8


def test_everything_is_found_at_once_by_several_processes(sound: Path, tmp_path: Path) -> None:
    folder = copied(sound, tmp_path / "data")
    change(folder / "image_0_inhale.nii.gz", nan)
    change(folder / "mask_0_inhale.nii.gz", lambda a: a[:-3])
    (folder / "image_1_exhale.nii.gz").write_bytes(b"nothing")
    lps(folder, "points_2_exhale.csv")
    texts = [[f.text for f in check(opened(folder), workers).findings] for workers in (1, 2)]
    assert sorted(texts[0]) == sorted(texts[1])
    for part in ("5 NaN", "lies on another grid", "image_1_exhale.nii.gz cannot be read", "LPS mm"):
        assert sum(part in text for text in texts[0]) == 1, texts[0]


def test_landmarks_inside_the_image_but_of_another_convention(tmp_path: Path) -> None:
    """About an origin in the middle, LPS points lie inside as well: the mask tells, or without one
    the images around the points.
    """
    folder = form(tmp_path / "data", 2, (64, 56, 60))
    middle = np.array([334.0, 262.0, 300.0]) / 2
    for path in folder.glob("*.nii.gz"):
        change(
            path,
            affine=lambda a: np.block([[a[:3, :3], -middle[:, None]], [np.zeros((1, 3)), 1.0]]),
        )
    for path in folder.glob("points*.csv"):
        write_points(
            path,
            read_points(path).values
            - torch.tensor([40.0, -90.0, 300.0])
            - torch.from_numpy(middle),
        )
    assert not [f for f in check(opened(folder)).findings if f.kind == "landmarks"]
    for path in folder.glob("points*.csv"):
        lps(folder, path.name)
    rewritten(folder / "manifest.csv", "mask_", "image_")
    (folder / "manifest.csv").write_text(
        "\n".join(
            ",".join(c for k, c in enumerate(line.split(",")) if k != 4)
            for line in (folder / "manifest.csv").read_text().splitlines()
        )
    )
    found = [f.text for f in check(opened(folder)).findings if f.kind == "landmarks"]
    assert found
    assert all("agree better" in text and "LPS mm" in text for text in found)


def test_repaired_data_are_sound(sound: Path, tmp_path: Path) -> None:
    folder = copied(sound, tmp_path / "data")
    for name in ("nan", "mask grid", "lps"):
        PLANTED[name][0](folder)
    change(folder / "image_2_inhale.nii.gz", affine=sheared)
    change(folder / "mask_2_exhale.nii.gz", np.zeros_like)
    before = {path: path.read_bytes() for path in folder.iterdir()}
    assert check(opened(folder)).errors() >= 4
    repair(opened(folder), tmp_path / "fixed")
    assert before == {path: path.read_bytes() for path in folder.iterdir()}
    after = check(opened(tmp_path / "fixed"))
    assert after.errors() == 0, [f.text for f in after.findings]
    assert len(after.scans) == 8
    fixed = opened(tmp_path / "fixed")
    (record,) = [r for r in fixed.records() if r.name == "s1 inhale"]
    original = read_points(sound / "points_1_inhale.csv").values
    torch.testing.assert_close(read_points(record.landmarks).values, original, atol=1e-3, rtol=0)


def test_the_header_with_the_voxel_size_is_taken(sound: Path, tmp_path: Path) -> None:
    folder = copied(sound, tmp_path / "data")
    two_forms(folder)
    repair(opened(folder), tmp_path / "fixed")
    (record,) = [r for r in opened(tmp_path / "fixed").records() if r.name == "s1 inhale"]
    np.testing.assert_allclose(
        nib.load(record.image).affine, nib.load(sound / "image_1_inhale.nii.gz").affine, atol=1e-3
    )


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_numbers_of_every_convention_are_read_as_the_same_points(convention: str) -> None:
    grid = Grid.regular((9, 8, 7), (2.0, 1.5, 3.0), (-10.0, 20.0, 5.0))
    voxels = torch.tensor([[4.0, 5.0, 6.0], [1.5, 2.0, 3.0]], dtype=torch.float64)
    world = voxels * torch.tensor([2.0, 1.5, 3.0]) + torch.tensor([-10.0, 20.0, 5.0])
    numbers = {
        "RAS mm": world,
        "LPS mm": world * torch.tensor([-1.0, -1.0, 1.0]),
        "voxels counted from 0": voxels,
        "voxels counted from 1": voxels + 1,
    }
    torch.testing.assert_close(as_convention(numbers[convention], convention, grid), world)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (torch.linspace(-1000, 800, 1000), "HU"),
        (torch.rand(1000), "0 to 1"),
        (
            torch.cat([torch.zeros(400), torch.full((500,), 1050.0), torch.tensor([1900.0])]),
            "HU + 1024",
        ),
        (torch.linspace(0, 255, 1000), "arbitrary"),
    ],
)
def test_units_by_their_values(values: torch.Tensor, expected: str) -> None:
    assert units(values, float(values.min()), float(values.max())) == expected


@pytest.mark.slow
def test_many_results_of_processes_hold_no_files_open(sound: Path, tmp_path: Path) -> None:
    """More scans than files may be open."""
    code = """
import resource, sys
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
from lightning_reg.curation.check.group import check
from lightning_reg.data.datasets.splits import open_dataset
if __name__ == "__main__":
    found = check(open_dataset({"name": "prepared", "root": sys.argv[1]}), workers=2)
    print(len(found.scans), found.errors())
"""
    lines = (sound / "manifest.csv").read_text().splitlines()
    more = [re.sub(r"^s(\d)", rf"s\g<1>x{n}", line) for n in range(12) for line in lines[1:]]
    folder = copied(sound, tmp_path / "data")
    (folder / "manifest.csv").write_text("\n".join([lines[0], *more]))
    (tmp_path / "run.py").write_text(code)
    result = subprocess.run(
        [sys.executable, str(tmp_path / "run.py"), str(folder)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.split()[0] == "96"


def test_time_points_that_are_taken_for_subjects(tmp_path: Path) -> None:
    for number in range(4):
        for time, phase in zip(
            ("baseline", "followup"), providers.phases(number, (12, 12, 12)), strict=True
        ):
            providers.nifti(tmp_path / f"p{number}_{time}.nii.gz", phase.image)
    os.symlink(tmp_path, tmp_path / "round")
    spec = {"name": "folder", "root": str(tmp_path)}
    found = check(open_dataset(spec))
    assert [f.kind for f in found.findings] == ["names"]
    assert (
        "8 subjects have one scan each, and their names have 4 beginnings (such as p0_baseline,"
        " p0_followup)" in found.findings[0].text
    )
    assert (
        check(open_dataset(spec | {"pattern": r"(?P<subject>p\d+)_(?P<time>\w+)"})).findings == []
    )
