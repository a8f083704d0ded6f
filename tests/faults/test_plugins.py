"""Broken distributions, really installed: each affects only itself, and the error message names it."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from test_packaging import install

TRAIN = [
    "train", "method=velocity", "method.composer.backbone.levels=2",
    "method.composer.backbone.features=4", "data.dataset.shape=[16,16,16]",
    "data.dataset.crop=null", "data.dataset.subjects=1", "data.dataset.validation=1",
    "data.workers=0", "data.samples_per_epoch=2",
    "trainer.max_steps=1", "trainer.accelerator=cpu", "callbacks.progress_bar=null",
    "trainer.enable_progress_bar=false",
]  # fmt: skip
UNET = """
    from lightning_reg.components import Backbone
    import torch
    class Net(Backbone):
        def __init__(self):
            super().__init__()
            self.channels, self.strides, self.multiple = (4,), ((1, 1, 1),), (1, 1, 1)
        def forward(self, fixed, moving):
            return [torch.cat([fixed, moving] * 2, 1)]
"""
HEAD = """
    from lightning_reg.components import Head
    class Net(Head):
        def __init__(self, channels):
            super().__init__()
        def forward(self, features, grid):
            {body}
"""
DATA = """
    from lightning_reg.data.datasets.interface import Record, RegistrationDataset, usual_pairs
    import torch, torchio as tio
    class Data(RegistrationDataset):
        def __init__(self):
            self.found = [Record(f"s{{k}}", split=split) for split in ("train", "validation") for k in range(2)]
            self.found = [Record(f"{{r.split}}{{r.subject}}", split=r.split) for r in self.found]
        def records(self):
            return self.found
        def load(self, record):
            {body}
        def pairs(self):
            return usual_pairs(self.found)
"""
IMAGE = "tio.ScalarImage(tensor=torch.rand(1, 16, 16, 16))"
# distribution: (code of its package, entry points by group, files of its conf/)
BROKEN: dict[str, tuple[str, dict[str, str], dict[str, str]]] = {
    "raises": ("import a_library_that_is_not_there", {"heads": "raises = raises:Net"}, {"method/raises.yaml": "steps: 1\n"}),
    "exits": ("import sys; sys.exit('gone')", {"heads": "exits = exits:Net"}, {}),
    "sleeps": ("import time; time.sleep(60)", {"heads": "sleeps = sleeps:Net"}, {"method/sleeps.yaml": "steps: 1\n"}),
    "prints": ("import warnings; print('HELLO'); warnings.warn('HELLO')", {"heads": "prints = prints:Net"}, {}),
    "lacks": ("x = 1", {"heads": "lacks = lacks:Net"}, {}),
    "elsewhere": ("x = 1", {"heads": "elsewhere = nowhere_at_all:Net"}, {}),
    "badyaml": ("x = 1", {}, {"method/badyaml.yaml": "a: [\n", "data/binary.yaml": "\u0000\n"}),
    "samename": (UNET, {"backbones": "unet = samename:Net"}, {"method/velocity.yaml": "steps: 1\n"}),
    "twina": (UNET, {"backbones": "twin = twina:Net"}, {"method/twin.yaml": "steps: 1\n"}),
    "twinb": (UNET, {"backbones": "twin = twinb:Net"}, {"method/twin.yaml": "steps: 1\n"}),
    "noconf": ("x = 1", {"conf": "noconf = noconf.nothing"}, {}),
    "bare": (UNET.replace(", self.multiple", "").replace(", (1, 1, 1)\n", "\n"), {"backbones": "bare = bare:Net"}, {}),
    "flat": (UNET.replace("((1, 1, 1),)", "(1,)"), {"backbones": "flat = flat:Net"}, {}),
    "wrongmaps": (UNET.replace("[torch.cat([fixed, moving] * 2, 1)]", "[fixed]"), {"backbones": "wrongmaps = wrongmaps:Net"}, {}),
    "tensorhead": (HEAD.format(body="return features[-1]"), {"heads": "tensorhead = tensorhead:Net"}, {}),
    "keyerror": (HEAD.format(body="return {}['key']"), {"heads": "keyerror = keyerror:Net"}, {}),
    "wrongfield": (
        "import torch\nfrom lightning_reg.spatial import Displacement\n"
        + textwrap.dedent(HEAD.format(body="return [Displacement(torch.zeros(1, 3, 2, 2, 2), grid)]")),
        {"heads": "wrongfield = wrongfield:Net"}, {},
    ),
    "keyinit": (HEAD.format(body="pass").replace("super().__init__()", "{}['key']"), {"heads": "keyinit = keyinit:Net"}, {}),
    "exitinit": (HEAD.format(body="pass").replace("super().__init__()", "raise SystemExit"), {"heads": "exitinit = exitinit:Net"}, {}),
    "scalarterm": (
        "from lightning_reg.components import LossTerm\nclass Term(LossTerm):\n    def forward(self, level, pair):\n"
        "        return level.warped.tensor.mean()\n",
        {"losses": "scalarterm = scalarterm:Term"}, {},
    ),
    "noimage": (DATA.format(body=f"return tio.Subject(name=record.name, picture={IMAGE})"), {"datasets": "noimage = noimage:Data"}, {}),
    "norecords": (DATA.format(body="pass").replace("return self.found", "return {}['key']", 1), {"datasets": "norecords = norecords:Data"}, {}),
    "nosubject": (DATA.format(body="return 3"), {"datasets": "nosubject = nosubject:Data"}, {}),
    "nogroup": (DATA.format(body=f"return tio.Subject(name=record.name, image={IMAGE})"), {"datasets": "nogroup = nogroup:Data"}, {}),
}  # fmt: skip


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with all of them installed from source, by one pip."""
    sources, installed = tmp_path_factory.mktemp("sources"), tmp_path_factory.mktemp("site")
    for name, (code, groups, files) in BROKEN.items():
        package = sources / name / name
        package.mkdir(parents=True)
        (package / "__init__.py").write_text(textwrap.dedent(code))
        points = {**groups, **({"conf": f"{name} = {name}.conf"} if files else {})}
        for relative, content in files.items():
            path = package / "conf" / relative
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content)
        lines = [
            f'[project.entry-points."lightning_reg.{g}"]\n{p.partition(" = ")[0]} ='
            f' "{p.partition(" = ")[2]}"'
            for g, p in points.items()
        ]
        head = (
            '[build-system]\nrequires = ["hatchling"]\nbuild-backend ='
            f' "hatchling.build"\n[project]\nname = "{name}"\nversion = "7.1"\n'
        )
        (sources / name / "pyproject.toml").write_text(head + "\n".join(lines) + "\n")
    install(*[sources / name for name in BROKEN], site=installed)
    return installed


def command(site: Path, cwd: Path, *words: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {
        "PYTHONPATH": str(site),
        "MPLBACKEND": "Agg",
        "OMP_NUM_THREADS": "1",
    }
    line = [sys.executable, "-m", "lightning_reg.cli.main", *words]
    return subprocess.run(
        line, cwd=cwd, env=environment, capture_output=True, text=True, check=False, timeout=55
    )


@pytest.mark.slow
def test_they_disturb_nobody(site: Path, tmp_path: Path) -> None:
    """Nothing of them is imported, printed or waited for; the built-in unet and method are used."""
    result = command(site, tmp_path, *TRAIN)
    assert result.returncode == 0, result.stderr
    assert "Validation, best checkpoint" in result.stdout
    assert "HELLO" not in result.stdout + result.stderr
    assert "samename 7.1 has one of the same name, which is not used" in result.stdout


@pytest.mark.slow
@pytest.mark.parametrize(
    ("override", "distribution", "words"),
    [
        ("method.composer.head={name: raises}", "raises 7.1", "a_library_that_is_not_there"),
        ("method.composer.head={name: exits}", "exits 7.1", "gone"),
        ("method.composer.head={name: lacks}", "lacks 7.1", "Net"),
        ("method.composer.head={name: elsewhere}", "elsewhere 7.1", "nowhere_at_all"),
        ("method.composer.head={name: tensorhead}", "tensorhead 7.1", "Tensor"),
        ("method.composer.head={name: keyerror}", "keyerror 7.1", "KeyError"),
        ("method.composer.head={name: wrongfield}", "wrongfield 7.1", "Displacement: field"),
        ("method.composer.head={name: keyinit}", "keyinit 7.1", "KeyError"),
        ("method.composer.head={name: exitinit}", "exitinit 7.1", "SystemExit"),
        ("method.composer.backbone={name: twin}", "twina 7.1", "provided twice"),
        ("method.composer.backbone={name: bare}", "bare 7.1", "'multiple'"),
        ("method.composer.backbone={name: flat}", "flat 7.1", "strides"),
        (
            "method.composer.backbone={name: wrongmaps}",
            "wrongmaps 7.1",
            "features of (1, 1, 16, 16, 16)",
        ),
        ("+method.loss.terms.scalarterm.weight=1", "scalarterm 7.1", "one value per element"),
        ("data.dataset={name: noimage}", "noimage 7.1", "image"),
        ("data.dataset={name: nosubject}", "nosubject 7.1", "Subject"),
        ("data.dataset={name: norecords}", "norecords 7.1", "listing its scans"),
        ("method=badyaml", "badyaml", "badyaml.yaml"),
        ("method=twin", "twinb 7.1", "provided twice"),
    ],
)
def test_whoever_asks_for_one_is_told_whose_it_is(
    site: Path, tmp_path: Path, override: str, distribution: str, words: str
) -> None:
    if override.startswith("method="):
        line = ["train", override]
    else:  # the group's own arguments give way to the name alone
        key = override.partition("=")[0]
        replaced = [key.removeprefix("+")] if "={name: " in override else []
        line = [word for word in TRAIN if not any(word.startswith(f"{part}.") for part in replaced)]
        line += (
            [f"{key}=null", f"++{key}.name={override.partition('name: ')[2].rstrip('}')}"]
            if replaced
            else [override]
        )
    result = command(site, tmp_path, *line)
    assert result.returncode == 2, result.stdout + result.stderr
    assert "Traceback" not in result.stderr
    assert distribution in result.stderr
    assert words in result.stderr


@pytest.mark.slow
def test_one_of_two_of_the_same_name_is_chosen_with_its_distribution(
    site: Path, tmp_path: Path
) -> None:
    rest = [word for word in TRAIN if not word.startswith("method.composer.backbone.")]
    head = ["method.composer.head=null", "++method.composer.head.name=dense"]
    both = ["method.composer.backbone=null", "++method.composer.backbone.name=twina.twin"]
    result = command(site, tmp_path, *rest, *both, *head)
    assert result.returncode == 0, result.stderr


@pytest.mark.slow
def test_a_data_set_need_not_say_whose_scan_it_is(site: Path, tmp_path: Path) -> None:
    rest = [word for word in TRAIN if not word.startswith("data.dataset.")]
    given = [
        "data.dataset=null",
        "++data.dataset.name=nogroup",
        "method.sampling={name: inter_subject}",
    ]
    result = command(site, tmp_path, *rest, *given)
    assert result.returncode == 0, result.stderr


@pytest.mark.slow
def test_the_list_names_what_is_wrong_with_each(site: Path, tmp_path: Path) -> None:
    (site / "sleeps" / "__init__.py").write_text("x = 1\n")  # the list imports
    result = command(site, tmp_path, "plugins", "--check")
    assert result.returncode == 1
    text = " ".join(result.stdout.split())
    for name in (
        "raises",
        "exits",
        "lacks",
        "elsewhere",
        "badyaml",
        "samename",
        "twina",
        "twinb",
        "noconf",
    ):
        assert f"{name} 7.1" in text, name
    assert "Traceback" not in result.stderr
