"""Metrics, report sections, starts, lung segmentations and commands of another distribution, in
real use.
"""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torchio as tio

from lightning_reg.curation.prepare import Preparation
from lightning_reg.registry import UserError

CODE = """
import torch
from lightning_reg import Affine, Command, ExtraMetric, ExtraOutput, LungSegmentation, Metric, ReportSection, Row, Section, Start

class Longest(ExtraMetric):
    '''The longest displacement.'''
    metric = Metric("longest", "longest displacement", "lower", "mm", 2)
    def __init__(self, times: float = 1.0):
        self.times = times
    def __call__(self, pair, transform):
        field = transform.displacement(pair.fixed.grid)
        return self.times * (field * torch.as_tensor(pair.fixed.grid.spacing).to(field).view(-1, 3, 1, 1, 1)).norm(dim=1).max()

class Words(ExtraMetric):
    metric = Metric("words", "words")
    def __call__(self, pair, transform):
        return "many"

class Notes(ReportSection):
    '''A note.'''
    def __call__(self, pair, transform, record):
        return Section("Notes of mine", ("", "value"), [Row(("case", record["case"]))])

class Fails(ReportSection):
    def __call__(self, pair, transform, record):
        raise KeyError("nothing")

class Means(ExtraOutput):
    '''Mean displacement along each axis.'''
    file = "means.txt"
    def __call__(self, path, result):
        path.write_text(" ".join(f"{float(v):.3f}" for v in result.displacement.mean((0, 2, 3, 4))))

class NotWritten(ExtraOutput):
    file = "nothing.txt"
    def __call__(self, path, result):
        raise KeyError("nothing")

class Above(Start):
    '''Two mm to the top.'''
    def __call__(self, pair, optimization):
        matrix = torch.eye(4).unsqueeze(0)
        matrix[:, 2, 3] = 2.0
        return Affine(matrix, pair.fixed.grid)

class Halves(LungSegmentation):
    '''The left half.'''
    def __call__(self, image, name):
        mask = torch.zeros(image.spatial_shape, dtype=torch.bool)
        mask[: image.spatial_shape[0] // 2] = True
        return mask

class TooSmall(LungSegmentation):
    def __call__(self, image, name):
        return torch.zeros(2, 2, 2)

class Mine(Command):
    '''Adds.'''
    def add_arguments(self, parser):
        parser.add_argument("--number", type=int, default=1)
    def run(self, arguments):
        print("one more is", arguments.number + 1)
        return 3
"""
POINTS = """
[lightning_reg.metrics]
longest = mine_all:Longest
words = mine_all:Words
[lightning_reg.report_sections]
notes = mine_all:Notes
fails = mine_all:Fails
[lightning_reg.outputs]
means = mine_all:Means
not_written = mine_all:NotWritten
[lightning_reg.starts]
above = mine_all:Above
[lightning_reg.lung_segmentations]
halves = mine_all:Halves
too_small = mine_all:TooSmall
[lightning_reg.commands]
mine = mine_all:Mine
train = mine_all:Mine
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    (folder / "mine_all.py").write_text(CODE)
    info = folder / "mine_all-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: mine-all\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(POINTS)
    axes = np.meshgrid(*(np.arange(n) for n in (16, 14, 12)), indexing="ij")
    for side, shift in (("fixed", 0.0), ("moving", 1.0)):
        values = np.exp(-sum(((a - 6 - shift) / 4.0) ** 2 for a in axes)).astype(np.float32)
        nib.Nifti1Image(values, np.diag([2.0, 2.0, 2.0, 1.0])).to_filename(
            folder / f"{side}.nii.gz"
        )
    return folder


def command(site: Path, cwd: Path, *words: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(site), os.environ.get("PYTHONPATH", "")]),
        "MPLBACKEND": "Agg",
    }
    line = [sys.executable, "-m", "lightning_reg.cli.main", *words]
    return subprocess.run(
        line, cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )


def register(site: Path, cwd: Path, *words: str) -> subprocess.CompletedProcess[str]:
    images = ["--fixed", str(site / "fixed.nii.gz"), "--moving", str(site / "moving.nii.gz")]
    return command(site, cwd, "register", *images, "--out", "out", "--refine", "6", *words)


@pytest.mark.slow
def test_metric_section_and_start_of_a_registration(site: Path, tmp_path: Path) -> None:
    result = register(
        site, tmp_path, "--metric", "longest", "--section", "notes", "--start", "above"
    )
    assert result.returncode == 0, result.stderr
    assert "longest displacement, mm" in result.stdout
    found = json.loads((tmp_path / "out" / "metrics.json").read_text())["metrics"]["extra"][
        "longest displacement, mm"
    ]
    assert found["before"] == 0.0
    assert found["after"] > 0.5
    page = (tmp_path / "out" / "report.html").read_text()
    assert "Notes of mine" in page
    assert "longest displacement, mm" in page
    again = command(site, tmp_path, "report", "out")
    assert again.returncode == 0, again.stderr
    assert "Notes of mine" not in (tmp_path / "out" / "report.html").read_text()
    assert command(site, tmp_path, "report", "out", "--section", "notes").returncode == 0
    assert "Notes of mine" in (tmp_path / "out" / "report.html").read_text()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--metric", "lngest"], "There is no metric named 'lngest'; did you mean 'longest'?"),
        (["--metric", "words"], "The metric Words returned str; return a number or None."),
        (
            ["--section", "fails"],
            "The report section 'fails' (Fails) of mine-all 1.0 failed at writing its section",
        ),
        (
            ["--files", "not_written"],
            "The output 'not_written' (NotWritten) of mine-all 1.0 failed at writing nothing.txt",
        ),
        (["--files", "warped,maens"], "--files names 'maens'; did you mean 'means'?"),
        (["--start", "abvoe"], "There is no start named 'abvoe'; did you mean 'above'?"),
    ],
)
def test_what_is_wrong_with_one_is_a_sentence(
    site: Path, tmp_path: Path, words: list[str], message: str
) -> None:
    result = register(site, tmp_path, *words)
    assert result.returncode == 2
    assert message in " ".join(result.stderr.split())


def test_an_output_is_written_when_it_is_named(site: Path, tmp_path: Path) -> None:
    result = register(site, tmp_path, "--files", "means,transform", "--no-report")
    assert result.returncode == 0, result.stderr
    written = {path.name for path in (tmp_path / "out").iterdir()}
    assert written - {".written.json"} == {"means.txt", "transform.h5", "metrics.json"}
    means = [float(word) for word in (tmp_path / "out" / "means.txt").read_text().split()]
    assert means == pytest.approx([1.0] * 3, abs=0.3)
    default = register(site, tmp_path, "--overwrite", "--no-report")
    assert default.returncode == 0, default.stderr
    assert not (tmp_path / "out" / "means.txt").exists()


@pytest.mark.slow
def test_a_metric_of_a_training_is_logged_and_kept(site: Path, tmp_path: Path) -> None:
    quick = [
        "method=velocity", "method.composer.backbone.levels=2",
        "method.composer.backbone.features=4", "data.dataset.shape=[16,16,16]",
        "data.dataset.crop=null", "data.dataset.subjects=1", "data.dataset.validation=1",
        "data.workers=0", "data.samples_per_epoch=2",
        "trainer.max_steps=2", "trainer.accelerator=cpu", "callbacks.progress_bar=null",
    ]  # fmt: skip
    result = command(
        site, tmp_path, "train", *quick, "run=mine", "metrics=[longest,{name: longest, times: 2}]"
    )
    assert result.returncode == 0, result.stderr
    header = (tmp_path / "runs" / "mine" / "metrics.csv").read_text().splitlines()[0]
    assert "validation/longest_after_mm" in header
    with (tmp_path / "runs" / "mine" / "cases.csv").open() as file:
        assert float(next(csv.DictReader(file))["longest_after_mm"]) >= 0
    components = json.loads((tmp_path / "runs" / "mine" / "summary.json").read_text())["components"]
    assert {
        "group": "metrics",
        "name": "longest",
        "distribution": "mine-all",
        "version": "1.0",
    } in components
    assert {"phantom", "groups", "velocity", "adam", "progress_bar"} & {
        one["name"] for one in components
    } >= {
        "phantom",
        "velocity",
        "adam",
    }


def test_a_command_has_its_options_and_exit_code_and_built_in_ones_stay(
    site: Path, tmp_path: Path
) -> None:
    assert "mine" in command(site, tmp_path, "--help").stdout
    result = command(site, tmp_path, "mine", "--number", "4")
    assert (result.stdout.strip(), result.returncode) == ("one more is 5", 3)
    assert (
        "There is no option '--nubmer'; did you mean '--number'"
        in command(site, tmp_path, "mine", "--nubmer", "4").stderr
    )
    assert "progressive" in command(site, tmp_path, "train", "--help").stdout


def test_lungs_by_another_method(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(site))
    subject = tio.Subject(name="x", image=tio.ScalarImage(site / "fixed.nii.gz"))
    prepared = Preparation(lungs="halves", crop="lungs", margin=0.0)(subject)
    assert prepared["image"].spatial_shape == (8, 14, 12)
    with pytest.raises(
        UserError, match=r"'too_small' returned \(2, 2, 2\) for x, whose size is \(16, 14, 12\)"
    ):
        Preparation(lungs="too_small")(
            tio.Subject(name="x", image=tio.ScalarImage(site / "fixed.nii.gz"))
        )
    sys.modules.pop("mine_all", None)
