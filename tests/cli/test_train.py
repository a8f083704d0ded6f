"""Command line of training: errors as one sentence with exit code 2; every configuration composed
and trained for a few steps.
"""

from __future__ import annotations

import csv
import itertools
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import providers
import pytest
import yaml

from lightning_reg.cli.train import command as called_as
from lightning_reg.cli.train import main
from lightning_reg.configuration.composition import compose
from lightning_reg.configuration.folders import own_directory

ROOT = Path(__file__).parents[2]
TINY_DATA = [
    "data.dataset.shape=[16,16,16]",
    "data.dataset.subjects=2",
    "data.dataset.validation=1",
    "data.workers=0",
    "data.samples_per_epoch=2",
]
TINY = ["method.composer.backbone.levels=2", *TINY_DATA]
QUICK = [
    "experiment=smoke",
    "callbacks.progress_bar=null",
    "trainer.enable_progress_bar=false",
    "trainer.accelerator=cpu",
    "trainer.max_steps=2",
]


@pytest.fixture
def train(command):
    """Runs the command with these overrides; returns its exit code and what it printed to stdout
    and stderr.
    """

    def run(*overrides: str) -> tuple[int, str, str]:
        return command(main, "train.py", *overrides)

    return run


@pytest.mark.parametrize(
    ("called", "command"),
    [
        ("/usr/bin/lightning-reg", "lightning-reg train"),
        ("train.py", "python train.py"),
        (
            "lightning_reg/cli/main.py",
            "lightning-reg train",
        ),  # the trainings of a study, whose folder has no train.py
    ],
)
def test_the_command_is_named_as_it_can_be_sent_again(
    called: str, command: str, monkeypatch
) -> None:
    monkeypatch.setattr(sys, "argv", [called, "method=velocity"])
    assert called_as() == command


def refused(result: tuple[int, str, str]) -> str:
    """The sentence that a refused command ends with."""
    code, _, err = result
    assert code == 2
    assert "Traceback" not in err
    return err.strip().splitlines()[-1]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("metod=progressive", "no option 'metod'; did you mean 'method'?"),
        (
            "method=progresive",
            "no method named 'progresive'; did you mean 'progressive'? Available: ",
        ),
        ("data.batchsize=2", "no option 'data.batchsize'; did you mean 'data.batch_size'?"),
        ("method.composer.head.name=dens", "no head named 'dens'; did you mean 'dense'?"),
        (
            "+method.composer.backbone.feature=4",
            "'progressive_unet' does not take an argument 'feature'; did you mean 'features'?",
        ),
        ("trainer.precision=b16", "trainer.precision is b16, which is not available on a CPU"),
        (
            "method.composer.backbone.levels=8",
            "too small for a backbone that divides them by 128 x 128 x 128",
        ),
        (
            "method.sampling.name=synthetik",
            "no sampler named 'synthetik'; did you mean 'synthetic'?",
        ),
        ("logger.name=wandbb", "no logger named 'wandbb'; did you mean 'wandb'?"),
        ("resume=nowhere", "There is no run in nowhere"),
        (
            "--epochs=5",
            "no option '--epochs=5'; values are set as key=value, as trainer.max_steps=1000",
        ),
        ("data.dataset.name=phantm", "no dataset named 'phantm'; did you mean 'phantom'?"),
    ],
)
def test_a_mistake_is_one_sentence(train, override: str, message: str) -> None:
    overrides = [o for o in (*QUICK, *TINY) if o.partition("=")[0] != override.partition("=")[0]]
    assert message in refused(train(*overrides, override))


def test_data_without_a_root_says_which_option_is_missing(train) -> None:
    assert "'data.root' has to be given" in refused(train("data=hippocampus"))


def test_a_root_that_is_not_there_or_empty(train, tmp_path: Path) -> None:
    assert "There is no folder" in refused(
        train("data=hippocampus", f"data.root={tmp_path / 'none'}")
    )
    (tmp_path / "empty").mkdir()
    assert "has no images" in refused(train("data=hippocampus", f"data.root={tmp_path / 'empty'}"))


def test_data_without_what_a_term_needs(train) -> None:
    synthetic = [
        f"~method.sampling.{name}"
        for name in ("augment", "learned", "outside", "sliding", "density")
    ]
    sentence = refused(train(*QUICK, *TINY, *synthetic, "method.sampling.name=groups"))
    assert "'field_error' needs truth" in sentence


def test_one_command_from_nothing_to_a_table(train, tmp_path: Path) -> None:
    code, out, _ = train(*QUICK, *TINY)
    assert code == 0
    assert "TRE, mm" in out
    assert "folding" in out
    folder = next(tmp_path.glob("runs/progressive_phantom/*"))
    assert str(folder.relative_to(tmp_path)) in out
    assert (folder / "checkpoints" / "best.ckpt").exists()
    assert (folder / "figures" / "case_0.png").stat().st_size > 10_000

    # the command that the first one printed
    code, out, _ = train(f"resume={folder}", "trainer.max_steps=3")
    assert code == 0
    with (folder / "metrics.csv").open(newline="") as file:
        steps = [int(row["step"]) for row in csv.DictReader(file)]
    assert steps[-1] == 2
    assert steps == sorted(set(steps))
    assert yaml.safe_load((folder / "config.yaml").read_text())["trainer"]["max_steps"] == 3
    assert "keeps its own data" in refused(train(f"resume={folder}", "data=hippocampus"))


def test_a_run_goes_on_after_its_data_have_moved_with_options_of_its_own_groups(
    train, tmp_path: Path
) -> None:
    for number, time in itertools.product(range(3), "ab"):
        image = (
            np.random.default_rng(10 * number + ord(time))
            .normal(size=(16, 14, 12))
            .astype(np.float32)
        )
        providers.nifti(tmp_path / "scans" / f"P{number}" / f"{time}.nii.gz", image)
    small = [word for word in QUICK if not word.startswith("method=")]
    code, _, err = train(
        "method=velocity", "data=folder", "data.root=scans", "data.workers=0", "run=a", *small
    )
    assert code == 0, err
    (tmp_path / "scans").rename(tmp_path / "mo'ved, x")
    assert "There is no folder scans; correct data.root." in refused(train("resume=runs/a"))
    for words, told in {
        ("data=folder",): "keeps its own data; leave out data=folder",
        ("method.steps=9",): "used only when a run starts; set trainer.max_steps",
        ("trainer.max_steps=4,5",): "trainer.max_steps=4,5 has several values",
        (
            "method.composer.head.stps=5",
        ): "no option 'method.composer.head.stps'; did you mean 'method.composer.head.steps'",
        ("method.composer.backbone.kernel=5",): "no option 'method.composer.backbone.kernel'",
        ("~nothing",): "no option 'nothing'",
    }.items():
        assert told in refused(train("resume=runs/a", *words)), words
    words = (
        "data.root='mo\\'ved, x'",
        "trainer.max_steps=3",
        "method.composer.head.steps=5",
        "+method.optimizer.weight_decay=0.1",
    )
    code, _, err = train("resume=runs/a", *words)
    assert code == 0, err
    config = yaml.safe_load((tmp_path / "runs/a/config.yaml").read_text())
    assert config["data"]["root"] == config["data"]["dataset"]["root"] == "mo'ved, x"
    assert (
        config["method"]["composer"]["head"]["steps"],
        config["method"]["optimizer"]["weight_decay"],
    ) == (5, 0.1)
    providers.nifti(
        tmp_path / "mo'ved, x" / "P0" / "a.nii.gz", np.ones((16, 14, 12), np.float32) + image
    )
    assert "have changed (changed: P0 a)" in refused(train("resume=runs/a", "trainer.max_steps=4"))
    # as the message has it
    code, _, err = train("resume=runs/a", "trainer.max_steps=4", "changed_data=true")
    assert code == 0, err
    assert yaml.safe_load((tmp_path / "runs/a/config.yaml").read_text())["changed_data"] is False


def test_a_runs_configuration_repeats_the_run(train, tmp_path: Path) -> None:
    train(*QUICK, *TINY)
    first = next(tmp_path.glob("runs/progressive_phantom/*"))
    code, _, err = train(
        "--config-path", str(first), "--config-name", "config", "hydra.run.dir=again"
    )
    assert code == 0, err
    again = tmp_path / "again"
    assert yaml.safe_load((again / "config.yaml").read_text()) == yaml.safe_load(
        (first / "config.yaml").read_text()
    )
    assert (again / "cases.csv").read_text() == (first / "cases.csv").read_text()


FUNCTION = {"()": "subprocess.getoutput", "cmd": "touch MARK"}
FILE = {"class": "logging.FileHandler", "filename": "MARK"}
ATTACKS = {
    "a function as a log handler": {
        "job_logging": {"handlers": {"x": FUNCTION}, "root": {"handlers": ["x"]}}
    },
    "a file as a log handler": {
        "job_logging": {"handlers": {"x": FILE}, "root": {"handlers": ["x"]}}
    },
    "a callback": {"callbacks": {"x": {"_target_": "os.system", "command": "touch MARK"}}},
    "a folder of its own": {"run": {"dir": "MARK"}},
}


@pytest.mark.parametrize("hydra", ATTACKS.values(), ids=ATTACKS)
def test_settings_of_hydra_in_a_runs_folder_are_not_used(
    train, tmp_path: Path, hydra: dict[str, Any]
) -> None:
    """The training ends before its first step, by a number of steps that is refused after Hydra has
    begun.
    """
    config = compose(["method=velocity", "data=phantom", "trainer.max_steps=-7"])
    mark = tmp_path / "mark"
    text = json.dumps({**config, "hydra": hydra}).replace("MARK", str(mark))
    (tmp_path / "stranger").mkdir()
    (tmp_path / "stranger" / "config.yaml").write_text(text)
    told = refused(train("--config-path", "stranger", "--config-name", "config"))
    assert "trainer.max_steps is -7" in told
    assert not mark.exists()


@pytest.mark.parametrize(
    "words", ["--config-path stranger", "--config-path=stranger -cn config", "-cp stranger"]
)
def test_a_stored_configuration_cannot_read_the_environment(
    train, tmp_path: Path, monkeypatch, words: str
) -> None:
    monkeypatch.setenv("TOKEN", "secret-4711")
    (tmp_path / "stranger").mkdir()
    config = compose(["method=velocity", "data=phantom"])
    (tmp_path / "stranger" / "config.yaml").write_text(
        json.dumps({**config, "launcher": {"x": "${oc.env:TOKEN}"}})
    )
    for told in (refused(train(*words.split())), refused(train("resume=stranger"))):
        assert (
            f"{Path('stranger') / 'config.yaml'} cannot be read as YAML ('${{oc.env:TOKEN}}' refers"
            " to the environment" in told
        )
    assert "There is no configuration nowhere/config.yaml" in refused(
        train("--config-path", "nowhere")
    )
    assert not any(
        b"secret-4711" in path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()
    )


@pytest.mark.slow
def test_a_sweep_is_one_run_each(train, tmp_path: Path) -> None:
    code, _, err = train(
        "-m",
        "seed=1,2",
        *QUICK,
        *(o if "[" not in o else o.replace(",", "\\,") for o in TINY if "[" not in o),
    )
    assert code == 0, err
    assert len(list(tmp_path.glob("runs/sweep_*/*/summary.json"))) == 2


def options(group: str) -> list[str]:
    return sorted(p.stem for p in (own_directory() / group).glob("*.yaml"))


SMALL_METHODS = {
    "progressive": ["method.composer.backbone.levels=2"],
    "velocity": ["method.composer.backbone.levels=2"],
    "multilevel": [
        "method.composer.strides=[2,1]",
        "method.composer.backbone.levels=2",
        "method.stages=[{steps:1,train:[0]},{steps:1,train:[1],warm_start:true}]",
    ],
    "dlir": [
        (
            "method.composer.stages=[{backbone:{name:siamese,levels:2,features:2},head:affine},"
            "{backbone:{name:lattice,spacing:4,features:2},head:bspline}]"
        ),
        "method.stages=[{steps:1,train:[0]},{steps:1,train:[1]}]",
    ],
    "linear_deformable": ["method.composer.backbone.features=[2,2,2,2,2]"],
    "deep_supervision": ["method.composer.backbone.features=2"],
    "voxelmorph": [
        "method.composer.backbone.encoder=[2,2]",
        "method.composer.backbone.decoder=[2,2]",
        "method.composer.backbone.last=[2]",
    ],
}


def small_method(name: str) -> list[str]:
    """Overrides that make a method small enough for images of some sixteen voxels."""
    if name not in SMALL_METHODS:
        raise AssertionError(f"give tests/cli/test_train.py a small form of method={name}")
    return SMALL_METHODS[name]


def small_data(name: str, folder: Path) -> list[str]:
    """Overrides that give a data configuration something small to read."""
    if name == "phantom":
        return TINY_DATA
    small = [
        "data.held_out=2",
        "data.workers=0",
        "data.samples_per_epoch=2",
        "data.synthetic_validation=1",
    ]
    return [f"data.root={providers.crops(folder)}", *small]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "data"), list(itertools.product(options("method"), ("phantom", "hippocampus")))
)
def test_every_method_trains_on_time_points_and_on_subjects(
    train, tmp_path: Path, method: str, data: str
) -> None:
    """The other data sets: tests/cli/test_data.py."""
    code, out, err = train(
        f"method={method}",
        f"data={data}",
        *QUICK,
        *small_data(data, tmp_path / "source"),
        *small_method(method),
    )
    assert code == 0, err
    assert "Validation, best checkpoint" in out


@pytest.mark.slow
def test_the_experiment_on_generated_anatomy_trains(train, tmp_path: Path) -> None:
    source = providers.label_maps(tmp_path / "source")
    quick = [o for o in QUICK if not o.startswith(("experiment=", "trainer.max_steps="))]
    data = [f"data.root={source}", "data.workers=0", "data.preprocessing.spacing=null"]
    small = ["method.sampling.shape=[32,32,32]", "method.composer.backbone.features=4"]
    less = [
        "data.samples_per_epoch=2",
        "data.synthetic_validation=1",
        "data.max_validation_pairs=1",
    ]
    line = [*quick, *data, *small, *less, "trainer.max_steps=2"]
    code, out, err = train("experiment=universal", *line)
    assert code == 0, err
    assert "field error" in out


@pytest.mark.slow
@pytest.mark.parametrize(
    "experiment", [name for name in options("experiment") if name.startswith("hippocampus_")]
)
def test_every_experiment_on_the_crops_trains(train, tmp_path: Path, experiment: str) -> None:
    """In its own size, for as many steps as it has stages."""
    source = providers.crops(tmp_path / "source", 32)
    quick = [o for o in QUICK if not o.startswith(("experiment=", "trainer.max_steps="))]
    data = [f"data.root={source}", "data.held_out=2", "data.workers=0", "data.samples_per_epoch=4"]
    code, out, err = train(
        f"experiment={experiment}",
        *quick,
        *data,
        "trainer.max_steps=4",
        "data.max_validation_pairs=1",
    )
    assert code == 0, err
    assert "Validation, best checkpoint" in out


def test_the_experiment_on_labelled_pairs_of_two_modalities_trains(train, tmp_path: Path) -> None:
    source = providers.crops(tmp_path / "source", 32)
    names = sorted(path.name for path in (source / "imagesTr").glob("hippo*"))
    columns = ("fixed", "moving", "fixed_labels", "moving_labels")
    rows = [
        [source / part / name for part in ("imagesTr", "labelsTr") for name in pair]
        for pair in itertools.pairwise(names)
    ]
    (tmp_path / "pairs.csv").write_text(
        "\n".join(",".join(map(str, row)) for row in [columns, *rows])
    )
    quick = [o for o in QUICK if not o.startswith("experiment=")]
    data = [
        f"data.root={tmp_path / 'pairs.csv'}",
        "data.held_out=1",
        "data.workers=0",
        "data.samples_per_epoch=2",
    ]
    code, out, err = train("experiment=multimodal_labels", *quick, *data)
    assert code == 0, err
    assert "Dice" in out


@pytest.mark.slow
@pytest.mark.parametrize("method", options("method"))
def test_every_method_trains_as_its_paper_has_it(train, method: str) -> None:
    """Without what makes it small; 290 feature maps at full resolution on smaller images than the
    others, which divide them.
    """
    voxels = 24 if method == "linear_deformable" else 64
    data = [
        f"data.dataset.shape=[{voxels},{voxels},{voxels}]",
        "data.dataset.crop=null",
        "data.dataset.subjects=1",
        "data.dataset.validation=1",
        "data.workers=0",
    ]
    code, out, err = train(
        f"method={method}",
        "size=paper",
        *QUICK,
        *data,
        "data.samples_per_epoch=2",
        "data.batch_size=1",
    )
    assert code == 0, err
    assert "Validation, best checkpoint" in out


def test_a_methods_file_is_short() -> None:
    """One file tells the method: less than 40 lines, besides the comment on top."""
    for name in options("method"):
        text = (own_directory() / "method" / f"{name}.yaml").read_text()
        assert (
            len([line for line in text.splitlines() if line and not line.startswith("#")]) < 40
        ), name


@pytest.mark.parametrize(
    "group", ["logger", "callbacks", "trainer", "sweep", "launcher", "experiment"]
)
def test_every_option_of_every_group_is_composed(train, group: str) -> None:
    for option in options(group):
        if option == "joblib":
            pytest.importorskip(
                "hydra_plugins.hydra_joblib_launcher", reason="the launcher joblib is not installed"
            )
        code, out, err = train(f"{group}={option}", "--cfg", "job")
        assert code == 0, err
        assert "composer:" in out


def test_a_logger_whose_package_is_not_installed_is_one_sentence(train, monkeypatch) -> None:
    for package in ("_TENSORBOARD_AVAILABLE", "_TENSORBOARDX_AVAILABLE"):
        monkeypatch.setattr(f"lightning.fabric.loggers.tensorboard.{package}", False)
    code, _, err = train("logger=tensorboard", *QUICK, *TINY)
    assert code == 2
    assert "The logger 'tensorboard' needs a package that is not installed" in err


@pytest.fixture
def without_account(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("WANDB_SILENT", "true")


PANELS = "callbacks.panels={every: 1, pairs: 1}"


@pytest.mark.slow
def test_weights_and_biases_has_one_run_however_often_it_goes_on(
    train, tmp_path: Path, monkeypatch, without_account
) -> None:
    """Offline: two folders with the run's own name, of one group, with panels, cases and the best
    checkpoint.
    """
    monkeypatch.setenv("WANDB_RUN_GROUP", "the-group")
    words = ["logger=wandb", "logger.checkpoints=true", PANELS, *QUICK, *TINY]
    assert train(*words, "run=./x")[0] == 0
    code, _, err = train("resume=x", "trainer.max_steps=4")
    assert code == 0, err
    name = (tmp_path / "x/wandb/id.txt").read_text()
    records = sorted((tmp_path / "x/wandb").glob("offline-run-*"))
    assert len(records) == 2
    assert all(record.name.endswith(f"-{name}") for record in records)
    for record in records:
        logged = b"".join(path.read_bytes() for path in record.glob("*.wandb"))
        assert b"the-group" in logged
        assert f"{name}-best".encode() in logged
        images = [path.name for path in record.glob("files/media/images/*.png")]
        assert any(image.startswith("panel_0") for image in images)
        assert any(image.startswith("learning_curve") for image in images)
        assert list(record.glob("files/media/table/cases*.json"))


@pytest.mark.slow
def test_tensorboard_has_scalars_panels_and_hyperparameters(train, tmp_path: Path) -> None:
    accumulator = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator",
        reason="tensorboard is not installed",
    )
    assert train("logger=tensorboard", PANELS, *QUICK, *TINY, "run=./x")[0] == 0
    events = accumulator.EventAccumulator(
        str(tmp_path / "x/tensorboard"), size_guidance={"images": 0}
    )
    events.Reload()
    assert {"panel_0", "learning_curve"} <= set(events.Tags()["images"])
    assert {"validation/error", "final/tre_after_mm"} <= set(events.Tags()["scalars"])
    stored = events.summary_metadata["_hparams_/session_start_info"].plugin_data.content
    assert b"method.optimizer.lr" in stored
    assert b"hp_metric" not in b"".join(
        path.read_bytes() for path in (tmp_path / "x/tensorboard").glob("events.*")
    )


def test_help_lists_the_groups() -> None:
    """In a process of its own, as a user starts it."""
    shown = subprocess.run(
        [sys.executable, "train.py", "--help"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    for group in (
        "method",
        "data",
        "trainer",
        "logger",
        "callbacks",
        "experiment",
        "sweep",
        "launcher",
    ):
        assert f"{group}: " in shown


def test_plugins_are_listed() -> None:
    result = subprocess.run(
        [sys.executable, "-m", "lightning_reg.cli.main", "plugins"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout
    assert "progressive_unet" in result.stdout
