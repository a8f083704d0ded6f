"""Runs from a configuration to a folder, on tiny phantoms: record, interruption and resumption,
errors.
"""

from __future__ import annotations

import copy
import csv
import json
import shutil
import signal
from pathlib import Path
from typing import Any

import lightning as L
import nibabel as nib
import numpy as np
import pytest
import torch
import yaml

from lightning_reg.batch.cohort.pairs import pairs_from_table
from lightning_reg.batch.evaluation.contestants import Registering
from lightning_reg.batch.evaluation.evaluation import Cases, seen_in_training
from lightning_reg.configuration.composition import compose
from lightning_reg.configuration.settings import require_settings
from lightning_reg.data.datasets.own import FolderDataset
from lightning_reg.data.datasets.splits import Splits
from lightning_reg.inference.loading import load
from lightning_reg.inference.report.evaluation import write_report
from lightning_reg.registry import ComponentError, TrainingError, UserError
from lightning_reg.training import run as run_module
from lightning_reg.training.building import build_data
from lightning_reg.training.callbacks.saving import Interrupted
from lightning_reg.training.checkpoints import read_checkpoint
from lightning_reg.training.module import RegistrationModule
from lightning_reg.training.run import train
from lightning_reg.training.run_folder import read_config, write_config
from lightning_reg.training.schedules import growth

STEPS = 10


@pytest.fixture
def config() -> dict[str, Any]:
    return growing()


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """The run of :func:`growing`, uninterrupted; the number of workers does not change it."""
    return train(growing(), tmp_path_factory.mktemp("whole") / "run").folder


def growing() -> dict[str, Any]:
    """Two levels that grow within ten steps of two epochs and a half."""
    return {
        "method": {
            "composer": {
                "name": "single",
                "backbone": {"name": "progressive_unet", "levels": 2, "features": 2},
                "head": {"name": "dense", "levels": "weighted"},
            },
            "loss": {"terms": {"field_error": {"mask": "fixed"}}},
            "optimizer": {"name": "sgd", "lr": 2e-4, "momentum": 0.5},
            "schedule": {"decay": 0.01},
            "callbacks": {"alpha_growth": {"start": -3, "ramp": 3, "duration": 7}},
            "sampling": {"name": "synthetic"},
        },
        "data": {
            "dataset": {"name": "phantom", "subjects": 1, "validation": 2, "shape": [16, 12, 12]},
            "preprocessing": {"window": [-1000, 500]},
            "samples_per_epoch": 4,
            "workers": 0,
        },
        "trainer": {
            "max_steps": STEPS, "max_epochs": -1, "accelerator": "cpu",
            "enable_progress_bar": False, "enable_model_summary": False,
            "num_sanity_val_steps": 0, "log_every_n_steps": 1, "use_distributed_sampler": False,
        },
        "logger": {"name": "csv"},
        "callbacks": {"learning_rate": {"logging_interval": "step"}},
        "seed": 3,
    }  # fmt: skip


def weights(path: Path) -> dict[str, torch.Tensor]:
    return {
        k: v
        for k, v in read_checkpoint(str(path))["state_dict"].items()
        if isinstance(v, torch.Tensor)
    }


def metrics(folder: Path) -> dict[tuple[int, str], float]:
    with (folder / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    return {
        (int(row["step"]), k): float(v)
        for row in rows
        for k, v in row.items()
        if v and k not in ("step", "epoch")
    }


class StopAfter(L.Callback):
    """Sends the process the signal of Ctrl-C while a step is computed."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_before_backward(
        self, trainer: L.Trainer, pl_module: L.LightningModule, loss: torch.Tensor
    ) -> None:
        if trainer.global_step == self.step:
            signal.raise_signal(signal.SIGINT)


def test_the_run_folder_is_complete(config: dict, tmp_path: Path) -> None:
    outcome = train(config, tmp_path / "run")
    folder = outcome.folder
    written = {
        str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file() and p.name != ".lock"
    }
    figures = {
        f"figures/{n}.png"
        for n in ("learning_curve", "growth", "tre", "motion", "case_0", "case_1")
    }
    files = {
        "config.yaml",
        "data.json",
        "metrics.csv",
        "cases.csv",
        "summary.json",
        "checkpoints/best.ckpt",
        "checkpoints/last.ckpt",
    }
    assert written == files | figures
    assert yaml.safe_load((folder / "config.yaml").read_text()) == config
    with (folder / "cases.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["totals"]["tre_before_mm"] == pytest.approx(
        sum(float(r["tre_before_mm"]) for r in rows) / 2, rel=1e-5
    )
    assert summary["parameters"] == outcome.parameters > 0
    logged = metrics(folder)
    for step in range(STEPS):
        assert [logged[step, f"alpha/{i}"] for i in range(2)] == pytest.approx(
            growth(step, 2, -3, 3, 7), abs=1e-6
        )
    assert (STEPS, "validation/error") in logged or (
        STEPS - 1,
        "validation/error",
    ) in logged  # also where no epoch ends


@pytest.mark.parametrize(("stop", "workers"), [(1, 0), (6, 1), (3, 0)])
def test_interrupted_and_resumed_is_uninterrupted(
    config: dict, whole: Path, tmp_path: Path, stop: int, workers: int, monkeypatch
) -> None:
    """Stops in the first step of an epoch, in the middle of one and in the last: weights and every
    logged value are the same.
    """
    config["data"]["workers"] = workers
    standard = run_module.build_callbacks
    with monkeypatch.context() as patch:
        patch.setattr(run_module, "build_callbacks", lambda c: [*standard(c), StopAfter(stop)])
        with pytest.raises(Interrupted) as stopped:
            train(copy.deepcopy(config), tmp_path / "parts")
    assert stopped.value.checkpoint.exists()
    assert read_checkpoint(str(stopped.value.checkpoint))["global_step"] == stop + 1
    parts = train(copy.deepcopy(config), tmp_path / "parts", resume=stopped.value.checkpoint).folder

    expected = weights(whole / "checkpoints" / "last.ckpt")
    for name, value in weights(parts / "checkpoints" / "last.ckpt").items():
        assert torch.equal(value, expected[name]), name
    a, b = metrics(whole), metrics(parts)
    assert a.keys() == b.keys()
    assert all(b[key] == pytest.approx(a[key], abs=1e-6) for key in a)


@pytest.mark.slow
def on_a_folder(config: dict[str, Any], root: Path) -> dict[str, Any]:
    """The configuration on a folder of five subjects with two scans each, the last of which is held
    out.
    """
    for number in range(1, 6):
        for time in ("a", "b"):
            path = root / f"P{number}" / f"{time}.nii.gz"
            path.parent.mkdir(parents=True, exist_ok=True)
            image = (
                np.random.default_rng(10 * number + ord(time))
                .normal(size=(16, 12, 12))
                .astype(np.float32)
            )
            nib.save(nib.Nifti1Image(image, np.diag([2.0, 2, 2, 1])), path)
    return {
        **config,
        "data": {
            **config["data"],
            "dataset": {"name": "folder", "root": str(root)},
            "preprocessing": {},
        },
    }


def test_a_run_knows_its_data_and_goes_on_with_others_only_if_told(
    config: dict, tmp_path: Path
) -> None:
    """A training subject that a new name makes a held-out one is not held out, and neither is it in
    the next session.
    """
    config = on_a_folder(config, tmp_path / "scans")
    config["method"]["loss"] = {"terms": {"field_error": {}}}
    folder = train(
        {**config, "trainer": {**config["trainer"], "max_steps": 2}}, tmp_path / "run"
    ).folder
    last = folder / "checkpoints" / "last.ckpt"
    rows = {
        row["scan"]: row["split"] for row in json.loads((folder / "data.json").read_text())["scans"]
    }
    assert (rows["P1 a"], rows["P4 b"], rows["P5 a"]) == ("train", "train", "validation")

    (tmp_path / "scans" / "P1").rename(tmp_path / "scans" / "P9")
    before = {
        path: path.read_bytes()
        for path in (last, folder / "data.json", folder / "config.yaml", folder / "metrics.csv")
    }
    told = (
        "missing: P1 a, P1 b; new: P9 a, P9 b; P5 would change from validation to train.* restore"
        " them, or .* `changed_data=True`"
    )
    with pytest.raises(TrainingError, match=told):
        train(config, folder, last)
    assert before == {path: path.read_bytes() for path in before}

    train(
        {**config, "changed_data": True, "trainer": {**config["trainer"], "max_steps": 4}},
        folder,
        last,
    )
    train(config, folder, last)
    with (folder / "cases.csv").open(newline="") as file:
        assert [row["case"] for row in csv.DictReader(file)] == ["P5 a < b"]
    known = read_checkpoint(last)["lightning_reg"]["data"]
    assert known == json.loads((folder / "data.json").read_text())
    assert {row["subject"] for row in known["scans"] if row["split"] == "validation"} == {"P5"}
    assert set(known["trained"]["subjects"]) == {"P1", "P2", "P3", "P4", "P9"}

    # an evaluation recognises the images under other names
    for name, source in (
        ("X", "P5"),
        ("Y", "P3"),
    ):
        shutil.copytree(tmp_path / "scans" / source, tmp_path / "others" / name)
    model, cases = (
        Registering("ours", load(folder / "checkpoints" / "best.ckpt")),
        Cases.of(Splits(FolderDataset(tmp_path / "others")), None),
    )
    told = (
        "1 of 2 pairs contain scans that ours was trained on; their figures do not show its"
        " accuracy on other images."
    )
    assert seen_in_training([model], cases) == [told]
    (tmp_path / "others" / "pairs.csv").write_text(
        "fixed,moving\nX/a.nii.gz,Y/b.nii.gz\nX/a.nii.gz,X/b.nii.gz\n"
    )
    assert seen_in_training(
        [model], Cases.of_pairs(pairs_from_table(tmp_path / "others" / "pairs.csv"))
    ) == [told]
    record = {"totals": {}, "differences": [], "settings": {"warnings": [told]}}
    write_report(tmp_path / "report.html", {"ours": [{"case": "X", "ncc_after": 0.5}]}, record)
    assert told in (tmp_path / "report.html").read_text()


def test_the_same_run_again_goes_on_and_another_is_refused(config: dict, tmp_path: Path) -> None:
    """With a budget, whose number of steps was chosen when the run began; what is in the folder
    besides stays.
    """
    config["method"]["steps"] = config["trainer"]["max_steps"]
    config["budget"] = 0.005
    begun: list[str] = []
    folder = train(copy.deepcopy(config), tmp_path / "run", progress=begun.append).folder
    assert any("as many as fit into `budget" in line for line in begun)
    (folder / "notes.txt").write_text("mine")
    again: list[str] = []
    train(copy.deepcopy(config), folder, progress=again.append)
    assert any(line.startswith("Going on after step ") for line in again)
    with pytest.raises(TrainingError, match=r"holds another run \(seed is 3 there and 4 here\)"):
        train(copy.deepcopy(config) | {"seed": 4}, folder)
    with pytest.raises(TrainingError, match="either resumed or overwritten"):
        train(config, folder, folder / "checkpoints" / "last.ckpt", overwrite=True)
    anew: list[str] = []
    train(copy.deepcopy(config) | {"seed": 4}, folder, progress=anew.append, overwrite=True)
    assert not any(line.startswith("Going on") for line in anew)
    assert (folder / "notes.txt").read_text() == "mine"


def test_the_checkpoint_is_the_model(config: dict, tmp_path: Path) -> None:
    folder = train(config, tmp_path / "run").folder
    module = RegistrationModule.load_from_checkpoint(folder / "checkpoints" / "last.ckpt")
    again = RegistrationModule.load_from_checkpoint(folder / "checkpoints" / "last.ckpt")
    assert module.preprocessing.window == config["data"]["preprocessing"]["window"]
    assert module.training  # as Lightning's loads
    assert [m.alpha for m in module.modules() if hasattr(m, "alpha")] == [
        tuple(growth(STEPS - 1, 2, -3, 3, 7))
    ] * 2
    for a, b in zip(module.state_dict().values(), again.state_dict().values(), strict=True):
        assert torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b


def test_batches_accumulation_clipping_and_bfloat16(config: dict, tmp_path: Path) -> None:
    config["data"]["batch_size"] = 2
    config["trainer"] |= {
        "max_steps": 2,
        "precision": "bf16-mixed",
        "accumulate_grad_batches": 2,
        "gradient_clip_val": 1.0,
    }
    outcome = train(config, tmp_path / "run")
    assert read_checkpoint(str(outcome.folder / "checkpoints" / "last.ckpt"))["global_step"] == 2


def test_a_loss_that_is_not_finite_stops_and_keeps_the_last_good_checkpoint(
    config: dict, tmp_path: Path
) -> None:
    config["method"]["optimizer"]["lr"] = 100.0
    config["data"]["samples_per_epoch"] = 1  # a checkpoint after every step
    config["trainer"]["max_steps"] = 200
    last = tmp_path / "run" / "checkpoints" / "last.ckpt"
    with pytest.raises(
        TrainingError,
        match=rf"became NaN or infinite .* {last} is whole: go on with `resume='{last}'`\.",
    ):
        train(config, tmp_path / "run")
    kept = weights(last)
    assert all(torch.isfinite(v).all() for v in kept.values())


def test_a_loss_that_is_not_finite_before_the_first_checkpoint_promises_none(
    config: dict, tmp_path: Path
) -> None:
    config["method"]["optimizer"]["lr"] = 1e10
    with pytest.raises(
        TrainingError, match=r"became NaN or infinite .* No checkpoint was written yet\."
    ):
        train(config, tmp_path / "run")
    assert not list((tmp_path / "run").rglob("*.ckpt"))


def test_out_of_memory_names_the_knobs(config: dict, tmp_path: Path, monkeypatch) -> None:
    def exhausted(*_: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB")

    monkeypatch.setattr(RegistrationModule, "training_step", exhausted)
    with pytest.raises(TrainingError, match=r"lower `batch_size`.*bf16-mixed"):
        train(config, tmp_path / "run")


def test_nothing_to_grow_is_refused(config: dict, tmp_path: Path) -> None:
    config["method"]["composer"]["head"]["levels"] = "finest"
    config["method"]["composer"]["backbone"]["levels"] = 1
    with pytest.raises(TrainingError, match="alpha_growth found nothing to grow"):
        train(config, tmp_path / "run")


def test_a_term_without_its_data_is_refused_before_training(config: dict, tmp_path: Path) -> None:
    config["method"]["sampling"] = {"name": "groups"}
    with pytest.raises(TrainingError, match="'field_error' needs truth"):
        train(config, tmp_path / "run")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "sgdd"}, "no optimizer named 'sgdd'; did you mean 'sgd'"),
        (
            {"name": "sgd", "lr": 0.1, "momentun": 0.5},
            "'sgd' does not take an argument 'momentun'; did you mean 'momentum'",
        ),
    ],
)
def test_a_misspelt_optimizer_or_argument(
    config: dict, tmp_path: Path, change: dict, message: str
) -> None:
    config["method"]["optimizer"] = change
    with pytest.raises(ComponentError, match=message):
        train(config, tmp_path / "run")


def test_a_run_that_fails_at_once_leaves_no_folder_but_the_working_one(
    config: dict, tmp_path: Path, monkeypatch
) -> None:
    config["method"]["optimizer"] = {"name": "sdg"}
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    with pytest.raises(ComponentError, match="sdg"):
        train(config, "runs/one")
    assert (tmp_path / "here").is_dir()
    assert not list((tmp_path / "here").iterdir())


def test_checkpoints_that_are_none(tmp_path: Path, config: dict) -> None:
    folder = train(
        config | {"trainer": config["trainer"] | {"max_steps": 1}}, tmp_path / "run"
    ).folder
    good = folder / "checkpoints" / "last.ckpt"
    truncated, foreign, other = (
        tmp_path / "truncated.ckpt",
        tmp_path / "foreign.ckpt",
        tmp_path / "other.ckpt",
    )
    truncated.write_bytes(good.read_bytes()[:-2000])
    torch.save({"state_dict": {}}, foreign)
    checkpoint = read_checkpoint(str(good))
    checkpoint["lightning_reg"]["model"]["composer"]["network"]["backbone"]["features"] = 3
    torch.save(checkpoint, other)
    for path, message in [
        (tmp_path / "none.ckpt", "no checkpoint"), (truncated, "truncated or of another kind"),
        (foreign, "not written by lightning_reg"),
        (other, "do not fit the method it names"),
    ]:  # fmt: skip
        with pytest.raises(TrainingError, match=message):
            RegistrationModule.load_from_checkpoint(path)


def test_a_configuration_that_ends_anywhere_is_a_sentence(tmp_path: Path) -> None:
    """As a disk that was full leaves it: read, and made into objects, or refused."""
    shape = [
        "data.dataset.shape=[16,16,16]",
        "data.dataset.crop=null",
        "data.dataset.subjects=1",
        "data.dataset.validation=1",
    ]
    write_config(tmp_path, compose(["method=velocity", "data=phantom", *shape]))
    text = (tmp_path / "config.yaml").read_bytes()
    refused = 0
    for end in range(1, len(text), 9):
        (tmp_path / "config.yaml").write_bytes(text[:end])
        try:
            config = read_config(tmp_path)
            require_settings(config)
            build_data(config)
            RegistrationModule.from_configuration(config["method"])
        except UserError:
            refused += 1
    assert refused > 50
