"""Results after kills and on full disks, randomly damaged files, readers with arbitrary text, and
memory over many registrations.
"""

from __future__ import annotations

import contextlib
import gzip
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from faults.campaign import Case, command, flipped, in_folder, materials, truncated, verdict
from faults.killing import PROCESSES
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from lightning_reg.configuration.settings import RULES, require_settings
from lightning_reg.data.datasets.manifest import read_rows
from lightning_reg.io.images import read_image
from lightning_reg.io.points import read_points
from lightning_reg.io.transform_reading import read_transform
from lightning_reg.optimization.configuration import read_instance
from lightning_reg.registry import DataError, TrainingError, UserError
from lightning_reg.training.run_folder import difference, read_config

STEPS = "optimization.stages=[{transform: affine, steps: 2, lr: 0.1}]"
REGISTER = ("register", "--fixed", "fixed.nii.gz", "--moving", "moving.nii.gz", STEPS)


@pytest.fixture(scope="module")
def ready(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return materials(tmp_path_factory.mktemp("files") / "materials")


# Kills.


def _save_for_ever(folder: Path) -> None:
    """Register once, then write the result over itself; ``warnings`` counts."""
    from lightning_reg.inference.loading import conventional

    torch.set_num_threads(1)
    with in_folder(folder):
        result = conventional("bspline", [STEPS]).register("fixed.nii.gz", "moving.nii.gz")
        for number in range(10_000):
            result.warnings = [str(number)]
            result.save("out", overwrite=True, report=False)
            if number == 0:
                (folder / "first").touch()


@pytest.mark.slow
def test_a_result_that_is_overwritten_is_the_old_or_the_new_one(
    ready: Path, tmp_path: Path
) -> None:
    for name in ("fixed.nii.gz", "moving.nii.gz"):
        shutil.copy(ready / name, tmp_path)
    rng = random.Random(5)
    with in_folder(tmp_path):
        assert command((*REGISTER, "--out", "out", "--no-report"))[0] == 0
    complete = {path.name for path in (tmp_path / "out").iterdir()}
    (tmp_path / "out" / "notes.txt").write_text("years")
    for _ in range(12):
        (tmp_path / "first").unlink(missing_ok=True)
        process = PROCESSES.Process(target=_save_for_ever, args=(tmp_path,))
        process.start()
        while not (tmp_path / "first").exists():
            assert process.is_alive()
            time.sleep(0.01)
        time.sleep(rng.uniform(0.0, 0.3))
        process.kill()
        process.join()
        assert {path.name for path in (tmp_path / "out").iterdir()} == complete | {"notes.txt"}
        json.loads((tmp_path / "out" / "metrics.json").read_text())
        read_transform(tmp_path / "out" / "transform.h5")
        read_image(tmp_path / "out" / "warped.nii.gz")
        assert (tmp_path / "out" / "notes.txt").read_text() == "years"
    with in_folder(tmp_path):
        assert command((*REGISTER, "--out", "out", "--overwrite"))[0] == 0
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "first",
        "fixed.nii.gz",
        "moving.nii.gz",
        "out",
    ]  # what kills left is cleared


PREPARE = (
    "prepare",
    "phantom",
    "--out",
    "prepared",
    "data.dataset.shape=[24,24,24]",
    "data.dataset.subjects=3",
    "data.dataset.validation=1",
)


def _prepare(folder: Path) -> None:
    torch.set_num_threads(1)
    with in_folder(folder):
        sys.exit(command(PREPARE)[0])


@pytest.mark.slow
def test_prepared_data_after_kills_are_the_uninterrupted_ones(tmp_path: Path) -> None:
    (tmp_path / "whole").mkdir()
    (tmp_path / "parts").mkdir()
    started = time.perf_counter()
    process = PROCESSES.Process(target=_prepare, args=(tmp_path / "whole",))
    process.start()
    process.join()
    seconds = time.perf_counter() - started
    rng = random.Random(2)
    for attempt in range(9):
        process = PROCESSES.Process(target=_prepare, args=(tmp_path / "parts",))
        process.start()
        if attempt < 8:
            process.join(rng.uniform(0.3, 1.0) * seconds)
            process.kill()
        process.join()
    assert process.exitcode == 0
    assert _contents(tmp_path / "whole") == _contents(tmp_path / "parts")


def _contents(folder: Path) -> dict[str, bytes]:
    """Every visible file; compressed ones without their time."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not any(
            part.startswith(".") for part in path.relative_to(folder).parts
        ):
            content = path.read_bytes()
            found[str(path.relative_to(folder))] = (
                gzip.decompress(content) if path.suffix == ".gz" else content
            )
    return found


# A full disk.


@contextlib.contextmanager
def small_disk(folder: Path, mebibytes: float) -> Iterator[None]:
    """A file system of its own on ``folder``, where the machine allows it."""
    folder.mkdir()
    size = f"size={int(mebibytes * 1024)}k"
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", size, "tmpfs", str(folder)], capture_output=True, check=False
    )
    if done.returncode:
        pytest.skip("no file system can be mounted here")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=False)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("mebibytes", "words"),
    [
        (0.05, (*REGISTER, "--out", "disk/out")),
        (
            0.004,
            (
                "apply",
                "--transform",
                "transform.h5",
                "--input",
                "moving.nii.gz",
                "--reference",
                "fixed.nii.gz",
                "--out",
                "disk/x.nii.gz",
            ),
        ),
        (
            0.02,
            (
                "prepare",
                "folder",
                "--source",
                "scans",
                "--out",
                "disk/new",
                "--shape",
                "64",
                "64",
                "64",
            ),
        ),
        (
            0.05,
            (
                "evaluate",
                "--model",
                "model.ckpt",
                "--data",
                "prepared",
                "data.root=prepared",
                "--out",
                "disk/out",
            ),
        ),
        (
            0.01,
            (
                "export",
                "--model",
                "model.ckpt",
                "--onnx",
                "disk/net.onnx",
                "--shape",
                "16",
                "16",
                "16",
            ),
        ),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else "",
)
def test_a_full_disk_is_one_sentence_and_nothing_half_written(
    ready: Path, tmp_path: Path, mebibytes: float, words: tuple[str, ...]
) -> None:
    work = tmp_path / "work"
    shutil.copytree(ready, work)
    with small_disk(work / "disk", mebibytes), in_folder(work):
        code, text = command(words)
        left = [
            p
            for p in (work / "disk").rglob("*")
            if p.is_file() and not any(n.startswith(".") for n in p.relative_to(work).parts)
        ]
    assert code == 2, text
    assert "disk" in text
    assert "Traceback" not in text
    assert not left


@pytest.mark.slow
def test_a_training_on_a_full_disk_goes_on_when_there_is_room(tmp_path: Path) -> None:
    words = (
        "train", "method=velocity", "method.composer.backbone.levels=2",
        "method.composer.backbone.features=4", "data.dataset.shape=[16,16,16]",
        "data.dataset.crop=null", "data.dataset.subjects=1", "data.dataset.validation=1",
        "data.workers=0", "data.samples_per_epoch=2",
        "trainer.max_steps=6", "trainer.accelerator=cpu", "callbacks.progress_bar=null",
        "trainer.enable_progress_bar=false", "run=disk/run",
    )  # fmt: skip
    with in_folder(tmp_path), small_disk(tmp_path / "disk", 0.25):
        code, text = command(words)
        assert code == 2, text
        assert "the disk is full" in text
        assert "Traceback" not in text
        subprocess.run(["mount", "-o", "remount,size=64m", str(tmp_path / "disk")], check=True)
        code, text = command(words)
        assert code == 0, text
        assert (tmp_path / "disk" / "run" / "summary.json").is_file()


# Damaged files.

READ: dict[str, tuple[str, ...]] = {
    "fixed.nii.gz": (*REGISTER, "--out", "out"),
    "fixed.mha": (
        "register",
        "--fixed",
        "fixed.mha",
        "--moving",
        "moving.nii.gz",
        STEPS,
        "--out",
        "out",
    ),
    "fixed.nrrd": (
        "register",
        "--fixed",
        "fixed.nrrd",
        "--moving",
        "moving.nii.gz",
        STEPS,
        "--out",
        "out",
    ),
    "fixed_labels.nii.gz": (
        *REGISTER,
        "--fixed-labels",
        "fixed_labels.nii.gz",
        "--moving-labels",
        "moving_labels.nii.gz",
        "--out",
        "out",
    ),
    "fixed.csv": (
        *REGISTER,
        "--fixed-landmarks",
        "fixed.csv",
        "--moving-landmarks",
        "moving.csv",
        "--out",
        "out",
    ),
    "points.mrk.json": (
        "apply",
        "--transform",
        "transform.h5",
        "--points",
        "points.mrk.json",
        "--out",
        "out.csv",
    ),
    "model.ckpt": (
        "register",
        "--fixed",
        "fixed.nii.gz",
        "--moving",
        "moving.nii.gz",
        "--model",
        "model.ckpt",
        "--out",
        "out",
    ),
    "transform.h5": (
        "apply",
        "--transform",
        "transform.h5",
        "--points",
        "fixed.csv",
        "--out",
        "out.csv",
    ),
    "affine.tfm": (
        "apply",
        "--transform",
        "affine.tfm",
        "--points",
        "fixed.csv",
        "--out",
        "out.csv",
    ),
    "displacement.nii.gz": (
        "apply",
        "--transform",
        "displacement.nii.gz",
        "--points",
        "fixed.csv",
        "--out",
        "out.csv",
    ),
    "method.yaml": (*REGISTER, "--instance", "method.yaml", "--out", "out"),
    "run/config.yaml": ("train", "resume=run"),
    "run/checkpoints/last.ckpt": ("train", "resume=run", "trainer.max_steps=3"),
    "prepared/manifest.csv": ("check", "prepared"),
    "prepared/geometry.json": ("check", "prepared"),
    "result/metrics.json": ("report", "result"),
    "pairs.csv": ("check", "pairs.csv"),
}
"""Every kind of file that is read, and a command that reads it."""
CHECKED = (".gz", ".ckpt")
"""Kinds whose checksums find every changed byte."""


@pytest.mark.slow
@pytest.mark.parametrize("file", READ)
def test_damage_at_random_places_is_found_or_harmless(
    ready: Path, tmp_path: Path, file: str
) -> None:
    rng = random.Random(file)
    for number in range(6):
        where = rng.random()
        spoil = (
            truncated(file, where) if number % 2 else flipped(file, where, rng.choice((1, 4, 16)))
        )
        case = Case(f"{file} {number}", READ[file], "", spoil)
        found, printed = verdict(case, ready, tmp_path / f"{number}")
        assert found not in (
            "traceback",
            "hang",
        ), f"{'cut' if number % 2 else 'flipped'} at {where:.3f}: {printed}"
        # the name and time in a gzip header are not part of the content
        if file.endswith(CHECKED) and found == "silent":
            assert where < 0.01 and not number % 2, (
                f"{'cut' if number % 2 else 'flipped'} at {where:.3f} was not found"
            )
        shutil.rmtree(tmp_path / f"{number}")


# Readers under any text.

ANY = settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["markups", "controlPoints", "position", "coordinateSystem", "x"]), inner),
    max_leaves=12,
)  # fmt: skip


@ANY
@given(content=st.text() | st.lists(st.lists(st.floats().map(str) | st.text(max_size=4), max_size=5)).map(
    lambda rows: "\n".join(",".join(row) for row in (["x", "y", "z"], *rows))))  # fmt: skip
def test_any_table_of_points_is_read_or_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "points.csv"
    path.write_text(
        content, encoding="utf-8", errors="surrogatepass" if content.isascii() else "replace"
    )
    with contextlib.suppress(DataError):
        points = read_points(path)
        assert points.values.shape[1] == 3
        assert bool(torch.isfinite(points.values).all())


CELLS = st.text(max_size=6) | st.sampled_from(
    ["a", "train", "fixed.nii.gz", "1", "nan", "subject", "split", "image", "..", "~x"]
)


@ANY
@given(rows=st.lists(st.lists(CELLS, max_size=5), max_size=4), separator=st.sampled_from(",;\t"))
def test_any_manifest_is_read_or_refused(
    tmp_path: Path, rows: list[list[str]], separator: str
) -> None:
    path = tmp_path / "manifest.csv"
    lines = [separator.join(row) for row in (["subject", "split", "image"], *rows)]
    path.write_text("\n".join(lines), encoding="utf-8", errors="replace")
    with contextlib.suppress(DataError):
        assert all(row.record.subject for row in read_rows(path))


@ANY
@given(content=JSON)
def test_any_markups_are_read_or_refused(tmp_path: Path, content: Any) -> None:
    path = tmp_path / "points.mrk.json"
    path.write_text(json.dumps(content))
    with contextlib.suppress(DataError):
        assert read_points(path).values.shape[1] == 3


@ANY
@given(content=st.text() | JSON.map(json.dumps))
@example(content=json.dumps("0"))
@example(content=json.dumps({"defaults": [["bspline"]]}))
def test_any_method_file_is_read_or_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "method.yaml"
    path.write_text(content, encoding="utf-8", errors="replace")
    with contextlib.suppress(UserError):
        read_instance(str(path))


@ANY
@given(content=st.text() | JSON.map(json.dumps))
def test_any_configuration_of_a_run_is_read_or_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "config.yaml").write_text(content, encoding="utf-8", errors="replace")
    with contextlib.suppress(TrainingError):
        config = read_config(tmp_path)
        assert difference(config, config) is None


@ANY
@given(key=st.sampled_from(sorted(RULES)), value=JSON)
def test_any_setting_is_taken_or_refused_by_name(key: str, value: Any) -> None:
    parts = {name: {} for name in ("composer", "loss", "optimizer", "sampling")}
    config: dict[str, Any] = {
        "seed": 1,
        "method": parts,
        "data": {"dataset": "phantom"},
        "trainer": {"accelerator": "cpu"},
    }
    *path, name = key.split(".")
    holder = config
    for part in path:
        holder = holder[part]
    holder[name] = value
    try:
        require_settings(config)
    except TrainingError as error:
        assert key in str(error)


# Memory.


@pytest.mark.slow
def test_the_memory_of_five_hundred_registrations_is_flat(ready: Path) -> None:
    from lightning_reg.inference.loading import load

    registrar = load(ready / "model.ckpt")
    used = []
    for number in range(500):
        registrar.register(ready / "fixed.nii.gz", ready / "moving.nii.gz").metrics()
        if number % 100 == 99:
            used.append(
                int(Path("/proc/self/statm").read_text().split()[1])
                * resource.getpagesize()
                / 2**20
            )
    assert used[-1] - used[0] < 40, used


# One writer.


@pytest.mark.slow
def test_two_trainings_do_not_share_a_folder(tmp_path: Path) -> None:
    from faults.killing import log_of, started
    from faults.test_training import tiny

    config = tiny("velocity", 400)
    one = started(config, tmp_path / "run")
    while not (tmp_path / "run" / ".writer.json").exists():
        time.sleep(0.02)
    two = started(config, tmp_path / "run")
    two.join()
    assert two.exitcode == 1
    assert f"is being written by process {one.pid} on" in log_of(tmp_path / "run")
    os.kill(one.pid, signal.SIGKILL)
    one.join()
    assert difference(read_config(tmp_path / "run"), config) is None
