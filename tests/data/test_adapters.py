"""Adapters of public data sets: from the provider's layout to scans at the correct positions."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import providers
import pytest
import torch

from lightning_reg.curation.prepare import Preparation, prepare
from lightning_reg.data.datasets.adapters.lungs import SPACING, VOXELS
from lightning_reg.data.datasets.interface import Record
from lightning_reg.data.datasets.manifest import PreparedDataset
from lightning_reg.data.datasets.splits import Splits, open_dataset
from lightning_reg.data.scans import scan_from_subject
from lightning_reg.io.points import read_points
from lightning_reg.registry import ComponentError, DataError

PUBLISHED = (3.89, 4.34, 6.94, 9.83, 7.48, 10.89, 11.03, 14.99, 7.92, 7.30)
"""Mean distance of the 300 landmark pairs of each case before registration, mm: www.dir-lab.com."""


@pytest.fixture(scope="module", params=providers.RAW)
def raw(request, tmp_path_factory) -> tuple[str, Splits]:
    folder = tmp_path_factory.mktemp(request.param)
    return request.param, open_dataset(
        {"name": request.param, "root": str(providers.RAW[request.param](folder))}
    )


def test_every_scan_loads_and_has_a_split(raw) -> None:
    _, data = raw
    names = [record.name for record in data.records()]
    assert len(names) == len(set(names))
    assert data.pairs("train")
    assert data.pairs("validation")
    for record, subject in zip(data.records(), data.subjects(), strict=True):
        assert subject["group"] == record.subject
        assert float(scan_from_subject(subject).image.tensor.std()) > 0
    for fixed, moving in data.pairs():
        assert data.records()[fixed].split == data.records()[moving].split


@pytest.mark.parametrize(
    ("name", "seed", "tolerance"), [("creatis", 0, 0.01), ("nlst", 1, 0.01), ("dirlab", 1, 0.51)]
)
def test_landmarks_are_where_the_provider_put_them(
    tmp_path: Path, name: str, seed: int, tolerance: float
) -> None:
    """In voxels of the canonical image, whatever the file counts in: LPS mm, voxels from 0, voxels
    from 1 of flipped axes (rounded).
    """
    data = open_dataset({"name": name, "root": str(providers.RAW[name](tmp_path))})
    first, second = (Preparation()(data.dataset.load(record)) for record in data.records()[:2])
    shape = (64, 64, 47) if name == "dirlab" else providers.SHAPE
    factor = np.array([4, 4, 2]) if name == "dirlab" else np.ones(3)
    for subject, phase in zip((first, second), providers.phases(seed, shape), strict=True):
        scan = scan_from_subject(subject)
        voxels = scan.image.grid.to_voxel(scan.landmarks.double().T[None])[0].T.numpy()
        np.testing.assert_allclose(
            voxels, phase.landmarks * factor + (factor - 1) / 2, atol=tolerance
        )


def test_axes_of_raw_files_and_metaimages_are_the_patients(tmp_path: Path) -> None:
    """The same phantom by three providers: the array to the right, front and top is found again."""
    data = open_dataset(
        {"name": "dirlab", "root": str(providers.dirlab(tmp_path / "d", cases=(1,)))}
    )
    stored = providers.phases(1, (64, 64, 47))[0].image.repeat(4, 0).repeat(4, 1).repeat(2, 2)
    prepared = Preparation()(data.dataset.load(data.records()[0]))
    np.testing.assert_array_equal(prepared["image"].data[0].numpy(), np.maximum(stored, -1000))
    np.testing.assert_allclose(
        prepared["image"].affine[:3, :3], np.diag([0.97, 0.97, 2.5]), atol=1e-12
    )
    data = open_dataset({"name": "creatis", "root": str(providers.creatis(tmp_path / "c"))})
    np.testing.assert_array_equal(
        Preparation()(data.dataset.load(data.records()[0]))["image"].data[0].numpy(),
        providers.phases(0)[0].image,
    )
    data = open_dataset({"name": "nlst", "root": str(providers.nlst_dicom(tmp_path / "n"))})
    np.testing.assert_array_equal(
        Preparation()(data.dataset.load(data.records()[0]))["image"].data[0].numpy(),
        providers.phases(0)[0].image,
    )


@pytest.mark.slow
@pytest.mark.data
def test_the_published_landmark_errors_of_dirlab(public_data: Path, tmp_path: Path) -> None:
    """The real 300 landmarks of all ten cases, images of the right length with something in them:
    raw in, our files, TRE.
    """
    for case, voxels in VOXELS.items():
        pack = tmp_path / "raw" / (f"Case{case}Pack" if case != 8 else "Case8Deploy")
        (pack / "Images").mkdir(parents=True)
        points = pack / ("ExtremePhases" if case < 6 else "extremePhases")
        points.mkdir()
        for phase in ("T00", "T50"):
            image = (
                pack
                / "Images"
                / f"case{case}_{phase}{'_s' if case == 1 else '-ssm' if case < 6 else ''}.img"
            )
            with image.open("wb") as file:  # mostly a hole
                file.write(np.arange(100, dtype="<i2").tobytes())
                file.truncate(2 * int(np.prod(voxels)))
            name = (
                f"case{case}_300_{phase}_xyz.txt"
                if case < 6
                else f"case{case}_dirLab300_{phase}_xyz.txt"
            )
            (points / (f"C{name[1:]}" if case < 6 else name)).write_bytes(
                (public_data / "dirlab_landmarks" / name).read_bytes()
            )
    data = open_dataset({"name": "dirlab", "root": str(tmp_path / "raw")})
    prepare(data, tmp_path / "out", Preparation(spacing=12.0), workers=2)
    prepared = PreparedDataset(str(tmp_path / "out"))
    errors = [
        (read_points(f.landmarks).world() - read_points(m.landmarks).world()).norm(dim=1)
        for f, m in prepared.pairs()
    ]
    assert [e.numel() for e in errors] == [300] * 10
    assert [round(float(e.mean()), 2) for e in errors] == list(PUBLISHED)
    everything = torch.cat(errors)
    assert (round(float(everything.mean()), 2), round(float(everything.std()), 2)) == (8.46, 6.58)


def test_a_raw_file_of_the_wrong_length(tmp_path: Path) -> None:
    folder = providers.dirlab(tmp_path, cases=(1,))
    image = folder / "Case1Pack" / "Images" / "case1_T00_s.img"
    image.write_bytes(image.read_bytes()[:-100])
    data = open_dataset({"name": "dirlab", "root": str(folder)})
    with pytest.raises(
        DataError,
        match=(
            r"case1_T00_s\.img has 12,320,668 bytes; case1 is 256 x 256 x 94 voxels of 2 bytes,"
            r" 12,320,768"
        ),
    ):
        data.subjects()[0]
    with pytest.raises(
        ComponentError, match="does not take an argument 'ofset'; did you mean 'offset'"
    ):
        open_dataset({"name": "dirlab", "root": str(folder), "ofset": 0})
    assert (
        float(
            open_dataset({"name": "dirlab", "root": str(folder), "offset": 0, "air": 0})
            .subjects()[1]["image"]
            .data.max()
        )
        > 1000
    )


def test_the_raw_pairs_of_copdgene(tmp_path: Path) -> None:
    """1-based voxels from the top, 512 x 512 and the case's slices."""
    pack = tmp_path / "copd1" / "copd1"
    pack.mkdir(parents=True)
    for phase in "ie":
        stored = np.zeros((512, 512, 121), "<i2")
        stored[99, 199, 9] = 2000
        (pack / f"copd1_{phase}BHCT.img").write_bytes(stored.tobytes(order="F"))
        (pack / f"copd1_300_{phase}BH_xyz_r1.txt").write_text("100\t200\t10\n")
    data = open_dataset({"name": "copdgene", "root": str(tmp_path)})
    subject = data.subjects()[0]
    scan = scan_from_subject(subject)
    assert subject["image"].spatial_shape == (512, 512, 121)
    i, j, k = (
        scan.image.grid.to_voxel(scan.landmarks.double().T[None])[0].round().long()[:, 0].tolist()
    )
    assert float(scan.image.tensor[0, 0, i, j, k]) == 2000 - 1024
    assert [r.name for r in data.records()] == ["copd1 inhale", "copd1 exhale"]


def test_the_popi_model_is_read_without_its_artefact(tmp_path: Path) -> None:
    data = open_dataset({"name": "creatis", "root": str(providers.creatis(tmp_path))})
    popi = [subject for subject in data.subjects() if subject["group"] == "popi"]
    assert [len(subject["landmarks"]) for subject in popi] == [40, 40]
    assert {r.name for r in data.records("validation")} == {"popi 10", "popi 60"}


def test_contours_fill_the_cavity(tmp_path: Path) -> None:
    """Label 1 is at the bright disc that the generator drew; ED is the larger one, in both of its
    series' layouts.
    """
    data = open_dataset({"name": "sunnybrook", "root": str(providers.sunnybrook(tmp_path))})
    sizes = {}
    for record, subject in zip(data.records(), data.subjects(), strict=True):
        disc, label = subject["image"].data[0] > 200, subject["labels"].data[0] > 0
        assert float(2 * (disc & label).sum() / (disc.sum() + label.sum())) > 0.97
        sizes[record.name] = int(label.sum())
    assert sizes["HF-I-1 ED"] > 1.3 * sizes["HF-I-1 ES"]
    assert [r.name for r in data.records("validation")] == ["N-5 ED", "N-5 ES"]
    assert len(data.pairs("train")) == 2
    everything = open_dataset({"name": "sunnybrook", "root": str(tmp_path), "all_phases": True})
    assert len(everything.records("train")) == 20
    assert len(everything.pairs("train")) == 2
    next(tmp_path.rglob("IM-0003-0021.dcm")).unlink()
    with pytest.raises(DataError, match="lacks the image with the number 0021 of HF-I-1 ED"):
        open_dataset({"name": "sunnybrook", "root": str(tmp_path)}).subjects()[0]


def test_acdc_has_the_qforms_voxel_size(tmp_path: Path) -> None:
    data = open_dataset({"name": "acdc", "root": str(providers.acdc(tmp_path))})
    subject = data.subjects()[0]
    np.testing.assert_allclose(subject["image"].spacing, (1.5, 1.5, 10.0))
    assert set(subject["labels"].data.unique().tolist()) == {0, 3}
    assert [record.split for record in data.records()] == ["train"] * 4 + ["validation"] * 2


def test_boxes_around_the_hippocampus(tmp_path: Path) -> None:
    data = open_dataset(
        {"name": "adni_hippocampus", "root": str(providers.adni_hippocampus(tmp_path))}
    )
    left = data.subjects()[0]
    assert left["image"].spatial_shape == (32, 48, 48)
    np.testing.assert_allclose(left["image"].spacing, (1, 1, 1))
    assert data.records("train")[0].labels is None
    assert all(
        record.labels and "CSF" not in record.labels.name for record in data.records("validation")
    )
    right = open_dataset({"name": "adni_hippocampus", "root": str(tmp_path), "side": "right"})
    assert float(right.subjects()[0]["image"].affine[0, 3]) > 0 > float(left["image"].affine[0, 3])
    with pytest.raises(ComponentError, match="side is 'both'; give left or right"):
        open_dataset({"name": "adni_hippocampus", "root": str(tmp_path), "side": "both"})


def test_harps_labels_with_large_numbers_are_0_and_1(tmp_path: Path) -> None:
    folder = providers.adni_hippocampus(tmp_path, subjects=2)
    for number in (0, 1):
        image = next((folder / "aligned").glob(f"ADNI_00{number}*"))
        labels = folder / "Labels_100_NIFTI" / f"ADNI_00{number}_S_0{295 + number}_13501_L.nii.gz"
        labels.parent.mkdir(exist_ok=True)
        array = np.zeros(nib.load(image).shape, np.float32)
        array[20:30, 30:40, 20:30] = 1
        nib.Nifti1Image(array + np.float32(26896.988), nib.load(image).affine).to_filename(labels)
    data = open_dataset({"name": "adni_hippocampus", "root": str(folder)})
    assert set(data.subjects()[0]["labels"].data.unique().tolist()) == {0, 1}


@pytest.mark.parametrize("name", providers.RAW)
def test_a_folder_that_is_not_there_or_holds_something_else(name: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="There is no folder"):
        open_dataset({"name": name, "root": str(tmp_path / "nowhere")})
    (tmp_path / "notes.txt").write_text("nothing")
    with pytest.raises(DataError, match=r"(has no|has neither|holds no) .*; "):
        open_dataset({"name": name, "root": str(tmp_path)})


def test_the_challenges_pairs_validate(tmp_path: Path) -> None:
    data = open_dataset({"name": "nlst", "root": str(providers.nlst(tmp_path / "nlst"))})
    names = [record.name for record in data.records("validation")]
    assert names == ["NLST_0004 0000", "NLST_0004 0001"]
    assert len(data.pairs("train")) == 3
    data = open_dataset({"name": "oasis", "root": str(providers.oasis(tmp_path / "oasis"))})
    held_out = data.records("validation")
    pairs = [(held_out[f].name, held_out[m].name) for f, m in data.pairs("validation")]
    assert pairs == [("OASIS_0003", "OASIS_0004"), ("OASIS_0004", "OASIS_0005")]
    assert all(record.time == "" for record in data.records())


def test_held_out_subjects_by_number_and_by_name(tmp_path: Path) -> None:
    spec = {"name": "copdgene", "root": str(providers.copdgene(tmp_path))}
    assert [r.subject for r in open_dataset(spec, held_out=1).records("validation")] == [
        "12109M"
    ] * 2
    data = open_dataset(spec, held_out=["12042G"])
    assert [r.subject for r in data.records("validation")] == ["12042G"] * 2
    assert data.pairs("validation") == [(0, 1)]
    assert len(data.pairs("train")) == 2
    assert len(open_dataset(spec, limit=1).records("train")) == 2
    with pytest.raises(
        DataError, match="names the subject '12042', which is not there; did you mean '12042G'"
    ):
        open_dataset(spec, held_out=["12042"])
    with pytest.raises(DataError, match=r"`held_out` is 3 of 3 subjects"):
        open_dataset(spec, held_out=3)


def test_subjects_kept_for_the_test(tmp_path: Path) -> None:
    """By number the last training subjects, or by name; validation and training have none of them,
    whatever else is chosen.
    """
    for number in range(8):
        providers.nifti(
            tmp_path / f"p{number}.nii.gz", providers.phases(number, (12, 12, 12))[0].image
        )

    def splits(**choices: object) -> dict[str, str]:
        opened = open_dataset({"name": "folder", "root": str(tmp_path)}, **choices)
        assert bool(opened.pairs("test")) == ("test" in choices)
        return {
            split: "".join(r.subject[1] for r in opened.records(split))
            for split in ("train", "validation", "test")
        }

    assert splits() == {"train": "012345", "validation": "67", "test": ""}
    assert splits(test=2) == {"train": "0123", "validation": "67", "test": "45"}
    assert splits(test=2, held_out=3) == {"train": "012", "validation": "367", "test": "45"}
    assert splits(test=["p0", "p7"], held_out=2) == {
        "train": "1234",
        "validation": "56",
        "test": "07",
    }
    assert splits(test=["p0", "p7"], fold="1/3") == {
        "train": "2356",
        "validation": "14",
        "test": "07",
    }
    assert splits(test=2, limit=1) == {"train": "0", "validation": "67", "test": "45"}
    for choices, message in (
        ({"test": 6}, r"`test` is 6 of 6 subjects"),
        ({"test": ["p9"]}, r"`test` names the subject 'p9', which is not there"),
        ({"test": ["p1"], "held_out": ["p1", "p2"]}, "both name the subject 'p1'"),
        ({"held_out": [f"p{n}" for n in range(8)]}, "names all 8 subjects"),
    ):
        with pytest.raises(DataError, match=message):
            splits(**choices)


def test_tables_of_voxel_sizes_agree_with_each_other() -> None:
    assert set(VOXELS) == set(SPACING) == set(range(1, 11))


def test_a_record_says_what_it_is() -> None:
    record = Record("case1", "T00", image=Path("a.img"))
    assert record.name == "case1 T00"
    assert record.files() == [Path("a.img")]
    assert record.holding({"mask": Path("m")}).files() == [Path("a.img"), Path("m")]


def test_names_of_folders_above_the_data_mean_nothing(tmp_path: Path) -> None:
    data = open_dataset(
        {"name": "acdc", "root": str(providers.acdc(tmp_path / "testing" / "acdc"))}
    )
    assert {record.split for record in data.records()} == {"train", "validation"}
    providers.acdc(tmp_path / "both")
    (tmp_path / "both" / "testing").mkdir()
    (tmp_path / "both" / "training" / "patient002").rename(
        tmp_path / "both" / "testing" / "patient002"
    )
    data = open_dataset({"name": "acdc", "root": str(tmp_path / "both")}, held_out=1)
    assert {r.subject: r.split for r in data.records()} == {
        "patient001": "train",
        "patient005": "validation",
        "patient002": "test",
    }
    assert [
        r.subject
        for r in open_dataset(
            {"name": "acdc", "root": str(tmp_path / "both")}, held_out="patient001"
        ).records("validation")
    ] == ["patient001"] * 2
    data = open_dataset(
        {"name": "folder", "root": str(providers.bids(tmp_path / "derivatives" / "x"))}
    )
    assert len(data.records()) == 8


def test_an_atlas_stays_with_its_pairs_whoever_is_held_out(tmp_path: Path) -> None:
    providers.pairs(tmp_path, count=4)
    rows = [f"images/patient {n}/fixed.nii.gz,images/patient 0/moving.nii.gz" for n in range(4)]
    (tmp_path / "atlas.csv").write_text("fixed,moving\n" + "\n".join(rows) + "\n")
    data = open_dataset({"name": "pairs", "root": str(tmp_path / "atlas.csv")}, held_out=2)
    assert (len(data.pairs("train")), len(data.pairs("validation"))) == (2, 2)
    records = data.records("validation")
    assert {records[m].image.name for _, m in data.pairs("validation")} == {"moving.nii.gz"}
    assert len({record.name for record in data.records()}) == len(data.records())


def test_a_subject_of_several_lines_is_in_one_split(tmp_path: Path) -> None:
    providers.pairs(tmp_path, count=4)
    rows = [
        f"images/patient {n}/fixed.nii.gz,images/patient {n}/moving.nii.gz,s{n // 2}"
        for n in range(4)
    ]
    (tmp_path / "own.csv").write_text("fixed,moving,subject\n" + "\n".join(rows) + "\n")
    data = open_dataset({"name": "pairs", "root": str(tmp_path / "own.csv")})
    assert {(r.subject, r.split) for r in data.records()} == {("s0", "train"), ("s1", "validation")}


def test_a_description_without_validation_pairs(tmp_path: Path) -> None:
    """Some are held out; pairs that are listed stay pairs."""
    for name, maker in (("nlst", providers.nlst), ("oasis", providers.oasis)):
        folder = maker(tmp_path / name)
        path = next(folder.glob("*dataset.json"))
        described = json.loads(path.read_text())
        described["registration_val"] = []
        path.write_text(json.dumps(described))
        (folder / f"._{path.name}").write_bytes(b"macOS")
        for kind in (name, "folder"):
            data = open_dataset({"name": kind, "root": str(folder)})
            assert data.pairs("train")
            assert data.pairs("validation")


def test_a_limit_is_a_number_of_subjects(tmp_path: Path) -> None:
    spec = {
        "name": "copdgene",
        "root": str(providers.copdgene(tmp_path, patients=("1²3", "12042G", "P1"))),
    }
    (tmp_path / "P1" / "P1_EXP_STD_USD_COPD.nrrd").rename(tmp_path / "P1" / "P1_EXP.nrrd")
    assert len(open_dataset(spec).records()) == 6
    with pytest.raises(DataError, match=r"`limit` is -1; give a number"):
        open_dataset(spec, limit=-1)
