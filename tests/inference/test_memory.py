"""Memory of a registration: counts, estimates, and the real memory of a process."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import threading
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

import lightning_reg
from lightning_reg.batch.cohort.pairs import pairs_from_table
from lightning_reg.batch.cohort.register import register_cohort
from lightning_reg.inference import memory as ours
from lightning_reg.inference.memory import GIB, Need, available, optimization_bytes
from lightning_reg.inference.result import Result
from lightning_reg.optimization import Optimization
from lightning_reg.registry import UserError
from lightning_reg.spatial import Grid, Image, Pair
from lightning_reg.training.peak import PeakMemory

FEW = [
    f"optimization.stages.{stage}.steps={steps}" for stage, steps in enumerate((20, 10, 10, 5, 5))
]


@pytest.fixture
def nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if only the voxels took memory, so that small images are large ones."""
    for name in ("PROCESS", "SLAB", "READ", "WRITTEN", "HELD"):
        monkeypatch.setattr(ours, name, 0)
    monkeypatch.setattr(ours, "FEWEST", 1000)


def test_tensors_count_while_they_are_alive_forward_and_backward() -> None:
    size = 4 * 1000
    weight = torch.ones(1000, requires_grad=True)
    with PeakMemory() as memory:
        doubled = 2 * weight
        assert memory.alive == size
        view = doubled[:500].view(50, 10)
        assert memory.alive == size  # of the same storage
        squared = doubled**2
        assert (memory.alive, memory.peak) == (2 * size, 2 * size)
        del squared, view
        assert (memory.alive, memory.peak) == (size, 2 * size)
        (
            doubled * torch.ones(1000)
        ).sum().backward()  # keeps doubled's factor; makes gradients of the size of weight
        assert memory.peak >= 3 * size
    assert memory.peak < 8 * size


def test_a_finer_stage_takes_more_and_so_does_a_term_with_more_channels() -> None:
    small = Grid.regular((40, 40, 40))
    pair = Pair(*[Image(torch.zeros(1, 1, 40, 40, 40), small) for _ in range(2)])

    def of(*overrides: str, name: str = "bspline") -> float:
        optimization = lightning_reg.conventional(name, overrides).optimization
        assert isinstance(optimization, Optimization)
        return optimization_bytes(optimization, pair)

    usual, finer = of(), of("optimization.stages.4.stride=1")
    assert 5 < finer / usual < 9  # eight times the voxels, beside what is there once
    assert of("optimization.loss.mind.weight=1", "optimization.stages.4.stride=1") > 1.3 * finer
    two_modalities = of(name="multimodal")
    assert two_modalities != usual
    # which of the two it will be is not known before
    assert of(name="auto") == max(usual, two_modalities)


@pytest.mark.parametrize("per_voxel", [20.0, 200.0])
def test_the_voxels_for_a_memory_take_no_more_than_it(per_voxel: float) -> None:
    need = Need(held=2 * GIB, fixed=183_000_000, largest=200_000_000, per_voxel=per_voxel)
    whole = need.at(200_000_000) / GIB
    assert need.voxels(whole * GIB) is None
    for memory in np.linspace(need.at(ours.FEWEST) / GIB + 0.01, whole - 0.01, 7):
        voxels = need.voxels(memory * GIB)
        assert voxels is not None
        assert need.at(voxels) <= memory * GIB
        assert need.at(int(1.02 * voxels) + 2000) > memory * GIB
    with pytest.raises(UserError, match="too little for these images, which take"):
        need.voxels(2.5 * GIB)


def test_a_small_memory_means_coarser_voxels_and_the_transform_is_of_the_original_images(
    nothing_else, files
) -> None:
    plain = lightning_reg.conventional("bspline", FEW).register(**files)
    lines: list[str] = []
    told = lightning_reg.conventional("bspline", FEW, memory=1.0e-3)
    result = told.register(**files, progress=lines.append)
    size, usual = (math.prod(found.working.fixed.grid.shape) for found in (result, plain))
    assert size < 0.7 * usual
    assert result.pair.fixed.grid.matches(plain.pair.fixed.grid)
    assert result.warped.spatial_shape == plain.warped.spatial_shape
    assert result.settings["memory"] == 1.0e-3
    assert any(line.startswith("coarser, to keep within 0.001 GiB: Grid(") for line in lines)
    before, after = (
        float(getattr(result.case, f"tre_{when}").mean()) for when in ("before", "after")
    )
    assert after < 0.7 * before
    assert (
        lightning_reg.conventional("bspline", FEW, memory=1.0)
        .register(**files)
        .working.fixed.grid.matches(plain.working.fixed.grid)
    )


def test_too_little_memory_is_said_with_what_is_enough(nothing_else, files) -> None:
    with pytest.raises(UserError, match="too little for these images, which take"):
        lightning_reg.conventional("bspline", FEW, memory=1e-5).register(**files)
    for wrong in (0.0, -1.0, math.inf, math.nan):
        with pytest.raises(UserError, match="memory is"):
            lightning_reg.conventional("bspline", memory=wrong)


def test_a_model_is_refused_what_it_cannot_do_with_less(nothing_else, files, model) -> None:
    with pytest.raises(
        UserError,
        match=r"takes some .* GiB, and 0.0 GiB of memory are allowed; register without the model",
    ):
        lightning_reg.load(model(), memory=1e-4).register(**files)
    assert lightning_reg.load(model(), memory=1.0).register(**files).warped.spatial_shape


def test_large_images_are_refused_before_the_system_ends_the_process(
    monkeypatch, nothing_else, files
) -> None:
    monkeypatch.setattr(ours, "LARGE", 1000)
    registrar = lightning_reg.conventional("bspline", FEW)
    monkeypatch.setattr(ours, "available", lambda: 2**20)
    with pytest.raises(UserError, match=r"0.0 GiB of memory are free; pass `memory=0`"):
        registrar.register(**files)
    monkeypatch.setattr(ours, "available", lambda: None)  # a system that does not say
    assert registrar.register(**files).warped.spatial_shape


def test_the_systems_memory_is_read() -> None:
    found = available()
    if not Path("/proc/meminfo").exists():
        assert found is None
        return
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert found is not None
    assert 0.01 * total < found <= total


@pytest.mark.parametrize("memory", [None, 1.0])
def test_pairs_come_one_after_the_other_where_memory_counts(
    monkeypatch, tmp_path: Path, files, memory: float | None
) -> None:
    """Otherwise the next ones are read while a pair is registered and written."""
    table = tmp_path / "pairs.csv"
    table.write_text(
        "pair,fixed,moving\n"
        + "".join(f"p{n},{files['fixed']},{files['moving']}\n" for n in range(3))
    )
    lines: list[str] = []
    lock = threading.Lock()

    def noted(what: str, function):
        def call(*arguments, **settings):
            with lock:
                lines.append(f"begin {what}")
            found = function(*arguments, **settings)
            with lock:
                lines.append(f"end {what}")
            return found

        return call

    module = sys.modules[register_cohort.__module__]
    monkeypatch.setattr(module, "_read", noted("read", module._read))
    monkeypatch.setattr(Result, "save", noted("write", Result.save))
    registrar = lightning_reg.conventional(
        "bspline", ["optimization.stages=[{transform: affine, steps: 2}]"], memory=memory
    )
    told = register_cohort(
        registrar, pairs_from_table(table), tmp_path / "out", files=("thumbnail",)
    )
    assert told.done == 3
    one = ["begin read", "end read", "begin write", "end write"]
    assert (lines == 3 * one) == (memory is not None)


@pytest.mark.slow
def test_a_process_keeps_within_its_memory(tmp_path: Path) -> None:
    """Less than the images would take at their own voxels; measured by the system."""
    shape, limit = (240, 224, 224), 3.0
    coarse = torch.rand(1, 1, 10, 10, 10, generator=torch.Generator().manual_seed(0))
    volume = (
        torch.nn.functional.interpolate(1000 * coarse, size=shape, mode="trilinear")[0, 0]
        .to(torch.int16)
        .numpy()
    )
    for name, shift in (("fixed", 0.0), ("moving", 3.0)):
        affine = np.diag([0.8, 0.8, 1.0, 1.0])
        affine[0, 3] = shift
        nib.save(nib.Nifti1Image(volume, affine), tmp_path / f"{name}.nii.gz")
    stages = (
        "optimization.stages=[{transform: affine, stride: 4, steps: 20}, {transform: bspline,"
        " stride: 1, spacing: 8, steps: 1}]"
    )
    command = [
        sys.executable,
        "-m",
        "lightning_reg.cli.main",
        "register",
        "--fixed",
        "fixed.nii.gz",
        "--moving",
        "moving.nii.gz",
    ]
    command += [
        "--out",
        "out",
        "--memory",
        str(limit),
        "--no-report",
        "--files",
        "warped,transform",
        stages,
    ]
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.DEVNULL)
    _, status, used = os.wait4(process.pid, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    assert used.ru_maxrss / 2**20 < limit
    ncc = json.loads((tmp_path / "out" / "metrics.json").read_text())["metrics"]["similarity"][
        "ncc"
    ]
    assert ncc["after"] > ncc["before"]
    assert nib.load(tmp_path / "out" / "warped.nii.gz").shape == shape
    optimization = lightning_reg.conventional("bspline", [stages]).optimization
    assert optimization is not None
    image = Image(torch.zeros(1).expand(1, 1, *shape), Grid.regular(shape))
    size = math.prod(shape)
    assert (
        Need(12 * size, size, size, optimization_bytes(optimization, Pair(image, image))).at(size)
        / GIB
        > limit
    )
