"""Help, completion, and mistakes that are answered without PyTorch."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from lightning_reg.cli.main import COMMANDS, EXAMPLES, whole_parser
from lightning_reg.cli.options import GROUPS, show
from lightning_reg.configuration.composition import NOT_GIVEN, explained
from lightning_reg.configuration.folders import own_directory
from lightning_reg.configuration.values import described, named
from lightning_reg.registry import UserError

ROOT = Path(__file__).parents[2]


def pairs() -> list[list[str]]:
    """Every method on every data set, once each, and every experiment."""
    names = {
        group: sorted(p.stem for p in (own_directory() / group).glob("*.yaml"))
        for group in ("method", "data", "experiment")
    }
    found = [[f"method={name}"] for name in names["method"]] + [
        [f"data={name}"] for name in names["data"]
    ]
    return found + [[f"experiment={name}"] for name in names["experiment"]]


@pytest.mark.parametrize("overrides", pairs(), ids=" ".join)
def test_every_value_has_a_meaning(overrides: list[str]) -> None:
    values = explained(overrides)
    assert len(values) > 60
    assert [value.key for value in values if not value.meaning] == []


def test_a_value_is_shown_as_composed_with_the_meaning_of_its_component() -> None:
    values = {
        value.key: value
        for value in explained(
            ["method=velocity", "data=hippocampus", "method.composer.head.steps=5"]
        )
    }
    steps = values["method.composer.head.steps"]
    assert (steps.value, steps.type) == (5, "int, 0 or more")
    assert "squarings" in steps.meaning
    assert values["data.root"].value == values["data.dataset.root"].value == NOT_GIVEN
    assert values["method.loss.terms.lncc.window"].value == 5  # of size=small
    # of another class, to which it refers
    assert values["data.preprocessing.margin"].meaning == "margin around the lungs or the mask, mm."
    assert "Gaussian noise" in values["data.augmentation.noise"].meaning
    assert values["data.fold"].meaning.startswith("cross-validation")  # a comment of the file
    # the docstring comes before the comment
    assert "bf16-mixed on CPU" not in values["trainer.precision"].meaning


def test_a_comment_of_a_line_is_that_of_the_whole() -> None:
    values = {value.key: value for value in explained(["data=phantom"])}
    # not that of the line, on the crop
    assert values["data.dataset.name"].meaning.startswith("name of the component")
    assert "Gaussian noise" in values["data.augmentation.noise"].meaning
    assert values["callbacks.early_stopping"].meaning.startswith("e.g.")


def test_a_term_may_have_the_name_of_another_component_and_one_of_weight_0_none() -> None:
    """Two terms of one class, and a term that is switched off."""
    terms = {
        "fine": {"name": "lncc", "weight": 1.0, "window": 3},
        "missing": {"weight": 0},
        "diffusion": None,
    }
    config = {
        "method": {
            "loss": {"terms": terms},
            "callbacks": {"watch": {"name": "early_stopping"}, "panels": None},
        }
    }
    assert list(named(config)) == [
        ("losses", "lncc"),
        ("losses", "diffusion"),
        ("callbacks", "early_stopping"),
    ]
    (window,) = [v for v in described(config, {}) if v.key == "method.loss.terms.fine.window"]
    assert window.meaning.startswith("edge of the local window")


def test_a_stage_is_explained_by_its_own_components() -> None:
    values = {value.key: value for value in explained(["method=dlir"])}
    assert values["method.composer.stages[0].backbone.levels"].meaning.startswith(
        "convolution layers"
    )
    assert values["method.composer.stages[1].backbone.spacing"].meaning.startswith(
        "control-point distance"
    )


@pytest.mark.parametrize("group", GROUPS)
def test_a_group_lists_its_options(group: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert show([group, "--help"], "train.py") == 0
    shown = capsys.readouterr().out
    for file in (own_directory() / group).glob("*.yaml"):
        assert file.stem in shown


def test_help_shows_the_values_of_a_method_or_of_a_place(
    capsys: pytest.CaptureFixture[str],
) -> None:
    show(["--help", "method=velocity"], "train.py")
    shown = capsys.readouterr().out
    assert "method.composer.head.steps" in shown
    assert "data." not in shown
    show(["--help", "size=paper"], "train.py")
    shown = capsys.readouterr().out
    assert "method.steps" in shown
    assert "20000" in shown
    show(["--help", "method=dlir", "method.loss"], "train.py")
    shown = capsys.readouterr().out
    assert "method.loss.terms.bending.weight" in shown
    assert "method.composer" not in shown
    show(["--help", "trainer"], "train.py")
    assert "trainer.precision" in capsys.readouterr().out
    show(["--help", "data.augmentation"], "train.py")
    shown = capsys.readouterr().out
    assert "data.augmentation.gamma" in shown
    assert "data.preprocessing" not in shown


def test_help_for_nothing_that_there_is_suggests() -> None:
    with pytest.raises(UserError, match=r"'data.augmentatoin'; did you mean 'data.augmentation'"):
        show(["data.augmentatoin"], "train.py")


def test_every_group_of_configurations_is_shown_or_of_another_command() -> None:
    folders = {path.name for path in own_directory().iterdir() if path.is_dir()}
    assert set(GROUPS) == folders - {"base", "instance", "method_data"}


def test_help_needs_neither_pytorch_nor_hydra() -> None:
    script = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r}); from lightning_reg.cli import options;"
        " options.show([], 'train.py')"
    )
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-c", script],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "method=velocity" in done.stdout
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "lightning_reg.cli.options" in imported
    assert not imported & {"torch", "hydra", "numpy", "lightning"}


MISTAKES = {
    "data=phantm": "did you mean 'phantom'",
    "lr=3": "did you mean method.optimizer.lr",
    "method.composer.backbone=unt": "did you mean 'unet'",
    "trainer.max_steps=-3": "trainer.max_steps is -3",
    "data=hippocampus data.root=/nowhere": "There is no folder /nowhere",
    "run=taken seed=2": "holds another run (seed is 1 there and 2 here)",
    "resume=nowhere": "There is no run in nowhere",
}


def refuses_without_pytorch(call: list[str], sentence: str, folder: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-X", "importtime", *call],
        capture_output=True,
        text=True,
        check=False,
        cwd=folder,
    )
    assert done.returncode == 2
    assert sentence in done.stdout + done.stderr
    assert "lightning_reg.cli" in done.stderr  # imports are listed
    assert "torch.nn" not in done.stderr


@pytest.mark.parametrize("words", MISTAKES)
def test_a_mistake_is_answered_without_pytorch(words: str, tmp_path: Path) -> None:
    from lightning_reg.configuration.composition import compose
    from lightning_reg.training.run_folder import write_config

    (tmp_path / "runs" / "taken" / "checkpoints").mkdir(parents=True)
    (tmp_path / "runs" / "taken" / "checkpoints" / "last.ckpt").touch()
    write_config(tmp_path / "runs" / "taken", compose(["run=taken"]))
    refuses_without_pytorch([str(ROOT / "train.py"), *words.split()], MISTAKES[words], tmp_path)


COMMANDS_WITH_MISTAKES = {
    "register --fixed image.nii.gz --moving image.nii.gz --out taken": (
        "taken exists; choose another folder"
    ),
    "register --fixed image.nii.gz --moving image.nii.gz --instance lung --out new": (
        "did you mean 'lung_ct'"
    ),
    "register --fixed image.nii.gz --moving image.nii.gz --model nope --out new": (
        "There is no model named 'nope'"
    ),
    "register --fixed image.nii.gz --moving image.nii.gz --model no/best.ckpt --out new": (
        "There is no checkpoint no/best.ckpt"
    ),
    "register --fixed image.nii.gz --moving image.nii.gz --tta --out new": "--tta is of a network",
    "register --fixd image.nii.gz": "There is no option '--fixd'; did you mean '--fixed'",
    "evaluate --instance bspline --data phantm --out new": "did you mean 'phantom'",
    "evaluate --instance bspline --data phantom --out taken": "taken exists",
    "evaluate --model nope --data phantom --out new": "There is no model named 'nope'",
    "check nowhere": "There is no file nowhere",
    "check image.nii.gz --method velocty": "did you mean 'velocity'",
    "prepare dirlb --source . --out new": "did you mean 'dirlab'",
    "report nowhere": "There is no folder nowhere",
    "export --model nope --shape 4 4 4 --onnx new.onnx": "There is no model named 'nope'",
    "study nowhere.yaml": "There is no file nowhere.yaml",
    "apply --transform nowhere.h5 --points nowhere.csv --out new.csv": "There is no file nowhere",
}


@pytest.mark.parametrize("words", COMMANDS_WITH_MISTAKES)
def test_a_mistake_of_a_command_is_answered_without_pytorch(words: str, tmp_path: Path) -> None:
    (tmp_path / "image.nii.gz").touch()
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "kept.txt").touch()
    refuses_without_pytorch(
        ["-m", "lightning_reg.cli.main", *words.split()], COMMANDS_WITH_MISTAKES[words], tmp_path
    )
    assert not (tmp_path / "new").exists()


def complete(line: str) -> list[str]:
    """Answers of ``lightning-reg`` to a shell, over the descriptor that argcomplete writes to."""
    script = "import os; os.dup2(1, 8); from lightning_reg.cli.main import main; main()"
    asked = {
        "_ARGCOMPLETE": "1",
        "_ARGCOMPLETE_IFS": "\n",
        "COMP_TYPE": "9",
        "COMP_LINE": line,
        "COMP_POINT": str(len(line)),
    }
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | asked,
    )
    return [word.strip() for word in done.stdout.splitlines() if word.strip()]


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("lightning-reg re", ["register", "report"]),
        ("lightning-reg register --fixed-l", ["--fixed-labels", "--fixed-landmarks"]),
        ("lightning-reg train method=v", ["velocity", "voxelmorph"]),
        ("lightning-reg train method.optimizer.l", ["method.optimizer.lr="]),
        (
            "lightning-reg train method=dlir method.loss.terms.b",
            ["method.loss.terms.bending.weight="],
        ),
        ("lightning-reg register --instance lun", ["lung_ct"]),
    ],
)
def test_a_tab_completes_commands_options_and_values(line: str, found: list[str]) -> None:
    assert [word.rpartition("method=")[2] for word in complete(line)] == found


def test_the_examples_of_every_command_are_understood() -> None:
    parser = whole_parser()
    assert set(EXAMPLES) == set(COMMANDS)
    for name, examples in EXAMPLES.items():
        for example in examples:
            program, *words = shlex.split(example)
            assert (program, words[0]) == ("lightning-reg", name)
            assert parser.parse_args(words).command == name


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_one_command_installs_completion_once(shell: str, tmp_path: Path) -> None:
    call = [sys.executable, "-m", "lightning_reg.cli.main", "completion", shell]
    for _ in range(2):
        subprocess.run(
            [*call, "--install"],
            check=True,
            env=os.environ | {"HOME": str(tmp_path)},
            capture_output=True,
        )
    assert (tmp_path / f".{shell}rc").read_text() == f'eval "$(lightning-reg completion {shell})"\n'
    script = subprocess.run(call, check=True, capture_output=True, text=True).stdout
    assert "_python_argcomplete" in script
    assert ("python3" in script) == (shell == "bash")  # for python train.py
    # the rest of the shell stays as it was
    assert "COMP_WORDBREAKS=" not in script.replace("_ARGCOMPLETE_COMP_WORDBREAKS=", "")
