"""Model packages: made from a run, installed, found by name, with the accuracy of the run."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from test_packaging import install

from lightning_reg.configuration.composition import compose
from lightning_reg.inference import packing
from lightning_reg.inference.packing import pack, portable
from lightning_reg.models import read_card
from lightning_reg.registry import UserError
from lightning_reg.training.run import train

tomllib = pytest.importorskip("tomllib")
QUICK = [
    "method=velocity", "data.dataset.shape=[16,16,16]", "data.dataset.crop=null",
    "data.dataset.subjects=2", "data.dataset.validation=2",
    "data.workers=0", "data.samples_per_epoch=4", "trainer.accelerator=cpu",
    "callbacks.progress_bar=null", "trainer.max_steps=4",
    "method.composer.backbone={name: unet, levels: 2, features: 4, output_stride: 2, norm: none}",
]  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "run"
    train(compose(QUICK), folder)
    return folder


def test_the_card_is_filled_from_the_run_and_the_rest_is_marked(run: Path, tmp_path: Path) -> None:
    packed = pack(run, tmp_path / "thorax_model", licence="CC-BY-4.0")
    assert packed.missing == ["title", "data", "not_for"]
    card = read_card(tmp_path / "thorax_model" / "src" / "thorax_model" / "card.yaml")
    assert card == packed.card
    assert card.licence == "CC-BY-4.0"
    assert card.parameters > 100
    assert card.accuracy["on"] == "On 2 validation pairs, not used for training"
    assert 0 < card.accuracy["TRE after, mm"] < 40
    assert {"unet", "velocity", "lncc", "adam"} <= {one["name"] for one in card.components}
    assert "TO BE WRITTEN" in card.not_for
    text = (tmp_path / "thorax_model" / "README.md").read_text()
    assert "## Not for" in text
    assert 'lightning_reg.load("thorax_model")' in text
    config = run / "config.yaml"
    kept = config.read_text()
    config.write_text(f"{kept}hydra: {{callbacks: {{x: {{_target_: os.system, command: ls}}}}}}\n")
    again = pack(run, tmp_path / "other", licence="CC0-1.0", title="T", data="D", not_for="N")
    config.write_text(kept)
    assert again.missing == []
    assert "hydra" not in (tmp_path / "other" / "src" / "other" / "training.yaml").read_text()


def test_weights_are_halved_where_nothing_changes_and_kept_where_it_does(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    half = pack(run, tmp_path / "half", licence="CC0-1.0")
    state = torch.load(tmp_path / "half" / "src" / "half" / "model.ckpt", weights_only=True)[
        "state_dict"
    ]
    assert all(
        value.dtype == torch.float16
        for name, value in state.items()
        if isinstance(value, torch.Tensor)
    )
    assert half.card.weights.startswith(
        "float16, which changes no displacement on 2 validation pairs by more than"
    )
    monkeypatch.setattr(packing, "TOLERANCE", -1.0)
    whole = pack(run, tmp_path / "whole", licence="CC0-1.0")
    state = torch.load(tmp_path / "whole" / "src" / "whole" / "model.ckpt", weights_only=True)[
        "state_dict"
    ]
    assert all(
        value.dtype == torch.float32
        for name, value in state.items()
        if isinstance(value, torch.Tensor)
    )
    assert whole.card.weights.startswith("float32 (float16 would change")
    assert half.bytes < 0.8 * whole.bytes


def test_nothing_of_the_machine_is_in_the_package(run: Path, tmp_path: Path) -> None:
    pack(run, tmp_path / "mine", licence="CC0-1.0")
    for path in (tmp_path / "mine").rglob("*"):
        if path.is_file():
            assert str(run.parent).encode() not in path.read_bytes(), path
    config = {
        "data": {"root": "/home/me/scans", "dataset": {"name": "folder", "root": "/home/me/scans"}},
        "run": "/home/me/run",
    }
    kept = portable(config)
    assert kept["data"] == {"root": "???", "dataset": {"name": "folder", "root": "${data.root}"}}
    assert kept["run"] is None


@pytest.mark.parametrize(
    "title", ["C:\\temp \\x", 'a "quoted" one', "two\nlines", '"""; import os', "Schläfe, 3 T"]
)
def test_any_title_makes_a_package_that_can_be_read(run: Path, tmp_path: Path, title: str) -> None:
    pack(run, tmp_path / "mine", licence="cc-by-4.0", title=title)
    project = tomllib.loads((tmp_path / "mine" / "pyproject.toml").read_text(encoding="utf-8"))[
        "project"
    ]
    assert project["description"] == " ".join(title.split())
    assert project["license"] == "CC-BY-4.0"
    compile((tmp_path / "mine" / "src" / "mine" / "__init__.py").read_text(), "x", "exec")


@pytest.mark.slow
def test_a_packed_model_installs_and_registers_by_name(run: Path, tmp_path: Path) -> None:
    """By the name of its package, from another folder; the training's configuration trains again."""
    pack(run, tmp_path / "thorax_model", licence="CC0-1.0", title="T", data="D", not_for="N")
    site = tmp_path / "site"
    install(tmp_path / "thorax_model", site=site)
    environment = os.environ | {"PYTHONPATH": str(site), "MPLBACKEND": "Agg"}

    def command(*words: str) -> subprocess.CompletedProcess[str]:
        line = [sys.executable, "-m", "lightning_reg.cli.main", *words]
        return subprocess.run(
            line, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )

    assert "thorax_model" in command("models").stdout
    evaluated = command(
        "evaluate", "--model", "thorax_model", "--data", "phantom", "--out", "out",
        "data.dataset.shape=[16,16,16]", "data.dataset.crop=null", "data.dataset.subjects=2",
        "data.dataset.validation=2",
    )  # fmt: skip
    assert evaluated.returncode == 0, evaluated.stderr
    training = yaml.safe_load((site / "thorax_model" / "training.yaml").read_text())
    assert training["method"]["composer"]["backbone"]["features"] == 4
    again = command(
        "train",
        "--config-path",
        str(site / "thorax_model"),
        "--config-name",
        "training",
        "run=again",
        "trainer.max_steps=2",
    )
    assert again.returncode == 0, again.stderr


LIMITED = """
import resource, signal, sys
from pathlib import Path
from lightning_reg.registry import UserError
from lightning_reg.inference.packing import pack
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    pack(Path(sys.argv[1]), Path(sys.argv[2]), licence="CC0-1.0")
except UserError as error:
    print(error)
"""


def test_a_disk_without_room_leaves_no_package(run: Path, tmp_path: Path) -> None:
    """A limit on the size of files stands in for it."""
    line = [sys.executable, "-c", LIMITED, str(run), str(tmp_path / "mine")]
    done = subprocess.run(line, capture_output=True, text=True, check=True)
    assert "mine could not be written" in done.stdout
    assert "nothing was left behind" in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_packed_is_a_sentence(run: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="There is no run in"):
        pack(tmp_path, tmp_path / "mine", licence="CC0-1.0")
    with pytest.raises(UserError, match="cannot be the name of a package"):
        pack(run, tmp_path / "My Model", licence="CC0-1.0")
    for licence in ("whatever I like", 'my "own"', ""):
        with pytest.raises(UserError, match=r"is no SPDX expression; write one, as CC-BY-4\.0"):
            pack(run, tmp_path / "mine", licence=licence)
    for name in ("torch", "lightning_reg", "json"):
        with pytest.raises(
            UserError, match=f"A package '{name}' is installed, which this one would replace"
        ):
            pack(run, tmp_path / name, licence="CC0-1.0")
    with pytest.raises(UserError, match="is a checkpoint; give the run's folder"):
        pack(run / "checkpoints" / "best.ckpt", tmp_path / "mine", licence="CC0-1.0")
    assert not (tmp_path / "mine").exists()
    (tmp_path / "there").mkdir()
    with pytest.raises(UserError, match="there exists; choose another folder"):
        pack(run, tmp_path / "there", licence="CC0-1.0")
    line = [
        sys.executable,
        "-m",
        "lightning_reg.cli.main",
        "models",
        "pack",
        str(run),
        "--out",
        str(tmp_path / "mine"),
    ]
    result = subprocess.run(
        line, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False
    )
    assert result.returncode == 2
    assert "A model needs a licence" in result.stderr
