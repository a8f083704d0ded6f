"""Installed packages: the wheel carries the configurations, and a plugin works after pip install."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
QUICK = [
    "experiment=smoke", "data.dataset.shape=[16,16,16]", "data.dataset.subjects=1", "data.dataset.validation=1", "data.workers=0",
    "trainer.max_steps=2", "method.composer.backbone.levels=2", "trainer.accelerator=cpu",
]  # fmt: skip


def run(*command: str, cwd: Path, site: Path) -> subprocess.CompletedProcess[str]:
    """A command in a fresh process that finds ``site`` before everything else."""
    environment = os.environ | {"PYTHONPATH": str(site), "MPLBACKEND": "Agg"}
    return subprocess.run([sys.executable, *command], cwd=cwd, env=environment, capture_output=True, text=True, check=False)


def install(*sources: Path, site: Path) -> None:
    """Install distributions into a folder of their own, from source, with what is there already."""
    options = ["--quiet", "--no-deps", "--no-build-isolation", "--target", str(site)]
    result = subprocess.run(
        [sys.executable, "-m", "pip", "install", *options, *map(str, sources)], capture_output=True, text=True, check=False
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
    shipped = {n.removeprefix("lightning_reg/conf/") for n in names if n.startswith("lightning_reg/conf/")}
    assert shipped == {str(p.relative_to(ROOT / "conf")) for p in (ROOT / "conf").rglob("*.yaml")}
    assert not [n for n in names if n.startswith(("tests/", "plugins/", "conf/"))]
    site = tmp_path / "site"
    zipfile.ZipFile(wheel).extractall(site)
    result = run("-m", "lightning_reg.cli.main", "train", *QUICK, cwd=tmp_path, site=site)
    assert result.returncode == 0, result.stderr
    assert "Validation, best checkpoint" in result.stdout


@pytest.mark.slow
def test_an_installed_plugin_brings_its_head_and_its_method(tmp_path: Path) -> None:
    site = tmp_path / "site"
    install(ROOT / "plugins" / "translation_head", site=site)
    listed = run("-m", "lightning_reg.cli.main", "plugins", cwd=tmp_path, site=site)
    assert listed.returncode == 0, listed.stdout
    assert "translation" in listed.stdout
    trained = run(str(ROOT / "train.py"), "method=translation", *QUICK, cwd=tmp_path, site=site)
    assert trained.returncode == 0, trained.stderr
    assert next(tmp_path.glob("runs/translation_phantom/*/summary.json"))


@pytest.mark.slow
def test_a_plugins_file_that_shadows_a_built_in_one_is_reported(tmp_path: Path) -> None:
    site = tmp_path / "site"
    install(ROOT / "plugins" / "translation_head", site=site)
    (site / "translation_head" / "conf" / "method" / "progressive.yaml").write_text("steps: 1\n")
    listed = run("-m", "lightning_reg.cli.main", "plugins", cwd=tmp_path, site=site)
    assert listed.returncode == 1
    assert "method/progressive.yaml of lightning-reg-translation-head 0.1.0 has the name of a built-in one" in " ".join(
        listed.stdout.split()
    )
