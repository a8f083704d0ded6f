"""Installed packages: the wheel contains the configurations, and a plugin works after pip install."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

ROOT = Path(__file__).parents[1]
QUICK = [
    "experiment=smoke", "data.dataset.shape=[16,16,16]", "data.dataset.subjects=1",
    "data.dataset.validation=1", "data.workers=0",
    "trainer.max_steps=2", "method.composer.backbone.levels=2", "trainer.accelerator=cpu",
]  # fmt: skip

TINY = [
    "data=phantom", "data.dataset.shape=[16,16,16]", "data.dataset.crop=null",
    "data.dataset.subjects=1", "data.dataset.validation=1",
    "data.workers=0", "data.samples_per_epoch=2", "trainer.max_steps=2", "trainer.accelerator=cpu",
    "callbacks.progress_bar=null",
]  # fmt: skip


def run(*command: str, cwd: Path, site: Path) -> subprocess.CompletedProcess[str]:
    """A command in a fresh process that finds ``site`` before everything else."""
    environment = os.environ | {"PYTHONPATH": str(site), "MPLBACKEND": "Agg"}
    return subprocess.run(
        [sys.executable, *command],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


def install(*sources: Path, site: Path) -> None:
    """Install distributions into a folder of their own, from source, with what is there already."""
    options = ["--quiet", "--no-deps", "--no-build-isolation", "--upgrade", "--target", str(site)]
    result = subprocess.run(
        [sys.executable, "-m", "pip", "install", *options, *map(str, sources)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr


@pytest.mark.slow
def test_the_wheel_carries_the_configurations_and_the_command_finds_them(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
        "--wheel-dir",
        str(tmp_path),
        str(ROOT),
    ]
    built = subprocess.run(command, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    wheel = next(tmp_path.glob("*.whl"))
    names = zipfile.ZipFile(wheel).namelist()
    shipped = {
        n.removeprefix("lightning_reg/conf/") for n in names if n.startswith("lightning_reg/conf/")
    }
    assert shipped == {str(p.relative_to(ROOT / "conf")) for p in (ROOT / "conf").rglob("*.yaml")}
    assert not [n for n in names if n.startswith(("tests/", "plugins/", "conf/"))]
    site = tmp_path / "site"
    zipfile.ZipFile(wheel).extractall(site)
    result = run("-m", "lightning_reg.cli.main", "train", *QUICK, cwd=tmp_path, site=site)
    assert result.returncode == 0, result.stderr
    assert "Validation, best checkpoint" in result.stdout


PLUGINS = sorted(path.name for path in (ROOT / "plugins").iterdir() if path.is_dir())


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of an environment of its own, into which the plugins have been installed from
    their wheels; what they depend on is that of this one."""
    folder = tmp_path_factory.mktemp("environment")
    wheels = folder / "wheels"
    build = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
        "--wheel-dir",
        str(wheels),
    ]
    built = subprocess.run(
        [*build, *(str(ROOT / "plugins" / name) for name in PLUGINS)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert built.returncode == 0, built.stderr
    venv.create(folder / "venv", with_pip=False)
    python = folder / "venv" / "bin" / "python"
    asked = [str(python), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
    site = Path(subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip())
    (site / "outer.pth").write_text(sysconfig.get_path("purelib") + "\n" + str(ROOT) + "\n")
    line = [
        sys.executable,
        "-m",
        "pip",
        "--python",
        str(python),
        "install",
        "--quiet",
        "--no-deps",
        "--no-index",
    ]
    installed = subprocess.run(
        [*line, *map(str, wheels.glob("*.whl"))], capture_output=True, text=True, check=False
    )
    assert installed.returncode == 0, installed.stderr
    for name in PLUGINS:
        assert (site / name / "__init__.py").is_file()
    return python


def within(python: Path, *command: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """A command of that environment."""
    clean = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"} | {
        "MPLBACKEND": "Agg"
    }
    return subprocess.run(
        [str(python), *command], cwd=cwd, env=clean, capture_output=True, text=True, check=False
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", PLUGINS)
def test_a_distribution_passes_its_own_tests_where_it_is_installed(
    name: str, environment: Path, tmp_path: Path
) -> None:
    tests = ROOT / "plugins" / name / "tests"
    result = within(
        environment, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tests), cwd=tmp_path
    )
    assert result.returncode == 0, result.stdout
    assert not [path for path in tests.parent.rglob("*") if path.suffix in (".egg-info", ".whl")]


@pytest.mark.slow
def test_all_of_them_can_be_used_side_by_side(environment: Path, tmp_path: Path) -> None:
    """None of their names or configurations is another's, each is described, and they go together
    in one training.
    """
    listed = within(environment, "-m", "lightning_reg.cli.main", "plugins", "--check", cwd=tmp_path)
    assert listed.returncode == 0, listed.stdout
    both = [
        "method=halfway",
        "+method.loss.terms.keypoints={weight: 0.05}",
        "+callbacks.keypoint_error={}",
    ]
    trained = within(environment, str(ROOT / "train.py"), *both, *TINY, "run=mine", cwd=tmp_path)
    assert trained.returncode == 0, trained.stderr
    summary = json.loads((tmp_path / "runs" / "mine" / "summary.json").read_text())
    used = {one["name"]: one["distribution"] for one in summary["components"]}
    assert used["halfway"] == "lightning-reg-symmetric"
    assert used["keypoints"] == used["keypoint_error"] == "lightning-reg-keypoints"
    assert used["phantom"] == "lightning-reg"
    described = within(
        environment,
        "-m",
        "lightning_reg.cli.main",
        "plugins",
        "describe",
        "backbone",
        "swin",
        cwd=tmp_path,
    )
    assert "TransMorph" in described.stdout


@pytest.mark.slow
def test_a_model_of_a_plugin_says_what_to_install_where_that_is_not(
    environment: Path, tmp_path: Path
) -> None:
    trained = within(
        environment, str(ROOT / "train.py"), "method=halfway", *TINY, "run=mine", cwd=tmp_path
    )
    assert trained.returncode == 0, trained.stderr
    image = tmp_path / "image.nii.gz"
    nib.Nifti1Image(
        np.random.default_rng(0).random((16, 16, 16)).astype(np.float32), np.eye(4)
    ).to_filename(image)
    model = "runs/mine/checkpoints/best.ckpt"
    line = [
        "-m",
        "lightning_reg.cli.main",
        "register",
        "--model",
        model,
        "--fixed",
        str(image),
        "--moving",
        str(image),
    ]
    there = within(environment, *line, "--out", "there", cwd=tmp_path)
    assert there.returncode == 0, there.stderr
    here = run(*line, "--out", "here", cwd=tmp_path, site=tmp_path)
    assert here.returncode == 2
    wanted = "lightning-reg-symmetric==0.1.0"
    assert (
        "made with the composer 'halfway' of lightning-reg-symmetric 0.1.0, which is not installed"
        in here.stderr
    )
    assert f"pip install {wanted}" in here.stderr


@pytest.mark.slow
def test_a_plugins_file_that_shadows_a_built_in_one_is_reported(tmp_path: Path) -> None:
    site = tmp_path / "site"
    install(ROOT / "plugins" / "lightning_reg_symmetric", site=site)
    (site / "lightning_reg_symmetric" / "conf" / "method" / "progressive.yaml").write_text(
        "steps: 1\n"
    )
    listed = run("-m", "lightning_reg.cli.main", "plugins", cwd=tmp_path, site=site)
    assert listed.returncode == 1
    assert (
        "method/progressive.yaml of lightning-reg-symmetric 0.1.0 has the name of a built-in one"
        in " ".join(listed.stdout.split())
    )
