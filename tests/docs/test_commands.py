"""Documentation: commands and Python code run, and links are valid."""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import yaml
from test_packaging import install

from lightning_reg import DenseHead, Network, UNet
from lightning_reg.components.composers import SingleComposer
from lightning_reg.configuration.groups import GROUPS
from lightning_reg.registry import check, providers
from lightning_reg.testing import check_component
from lightning_reg.training.module import RegistrationModule

ROOT = Path(__file__).parents[2]
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")])
QUICK = [
    "data.dataset.shape=[32,32,32]",
    "data.dataset.crop=null",
    "data.dataset.subjects=1",
    "data.dataset.validation=1",
    "data.workers=0",
    "trainer.max_steps=2",
]


def blocks(page: Path, language: str) -> list[str]:
    """Code blocks of a language; one that follows a comment ``<!-- not run: reason -->`` is left
    out.
    """
    found = re.findall(
        rf"(<!-- not run: [^>]*-->\n)?```{language}\n(.*?)```", page.read_text(), re.S
    )
    return [joined(code) for skipped, code in found if not skipped]


def joined(code: str) -> str:
    """Code with its continued lines as one."""
    return re.sub(r"\s*\\\n\s*", " ", code)


def train_commands() -> list[str]:
    """Every ``python train.py`` that the pages show, once."""
    lines = [
        line.split("  #")[0].strip()
        for page in PAGES
        for block in blocks(page, "bash")
        for line in block.splitlines()
    ]
    commands = [part.strip() for line in lines for part in line.split("&&")]
    return sorted({c for c in commands if c.startswith("python train.py")})


@pytest.mark.slow
@pytest.mark.parametrize("command", train_commands())
def test_a_shown_command_runs(command: str, tmp_path: Path) -> None:
    words = shlex.split(command)
    small = [] if "--cfg" in words else [*QUICK, "experiment=smoke"]
    small += (
        ["method.composer.backbone.levels=2"]
        if small and not any(word.startswith("method=") for word in words)
        else []
    )
    of_the_phantom = ("data.dataset.crop",) if "data=shapes" in words else ()
    small = [o for o in small if o not in words and not o.startswith(of_the_phantom)]
    environment = os.environ | {"MPLBACKEND": "Agg", "WANDB_MODE": "offline"}
    call = [sys.executable, str(ROOT / "train.py"), *words[2:], *small]
    result = subprocess.run(
        call, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr


@pytest.fixture(scope="module")
def example(tmp_path_factory) -> Path:
    """The folder in which the pages on registration are read from top to bottom."""
    folder = tmp_path_factory.mktemp("example")
    execute("python", blocks(ROOT / "docs" / "register.md", "python")[0], folder)
    return folder


def execute_page(name: str, folder: Path) -> None:
    """A page's blocks in order."""
    shown = re.findall(
        r"(<!-- not run: [^>]*-->\n)?```(bash|python)\n(.*?)```",
        (ROOT / "docs" / f"{name}.md").read_text(),
        re.S,
    )
    for skipped, language, code in shown:
        if not skipped:
            execute(language, code, folder)


def execute(language: str, code: str, folder: Path) -> None:
    call = [sys.executable, "-c", code] if language == "python" else ["bash", "-euc", code]
    environment = os.environ | {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    }
    result = subprocess.run(
        call, cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.slow
def test_the_pages_on_registration_hold(example: Path) -> None:
    """Their blocks in order, on the pair that the first of them makes."""
    for name in ("register", "apply", "report", "open_elsewhere"):
        text = (ROOT / "docs" / f"{name}.md").read_text()
        shown = re.findall(r"(<!-- not run: [^>]*-->\n)?```(bash|python)\n(.*?)```", text, re.S)
        for skipped, language, code in shown:
            if not skipped and "PhantomDataset" not in code:
                execute(language, code, example)
    assert {
        "result",
        "evaluated",
        "from_python",
        "again.nii.gz",
        "lobes.nii.gz",
        "mapped.csv",
        "back.csv",
    } <= {p.name for p in example.iterdir()}


@pytest.mark.slow
def test_the_page_on_cohorts_holds(tmp_path: Path) -> None:
    execute_page("cohorts", tmp_path)
    for folder in ("cohort", "cohort_from_python"):
        assert len((tmp_path / folder / "results.csv").read_text().splitlines()) == 4
        assert len(list((tmp_path / folder / "pairs").glob("*/transform.h5"))) == 3
        assert (tmp_path / folder / "quality.html").is_file()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("page", "written"),
    [
        ("tutorials/own_scans", {"scans", "runs", "result", "warped_labels.nii.gz"}),
        ("tutorials/two_dimensions", {"runs", "result", "pixels"}),
        ("how_to/compare_methods", {"compared"}),
        ("how_to/weak_supervision", {"runs"}),
        ("how_to/no_overlap", {"result"}),
    ],
)
def test_a_page_holds(page: str, written: set[str], tmp_path: Path) -> None:
    execute_page(page, tmp_path)
    assert written <= {p.name for p in tmp_path.iterdir()}


@pytest.mark.slow
def test_images_that_do_not_overlap_are_registered_by_their_centers_alone(tmp_path: Path) -> None:
    """The table of the page, on the pair that the page makes."""
    page = ROOT / "docs" / "how_to" / "no_overlap.md"
    execute("python", blocks(page, "python")[0], tmp_path)
    command = f"{blocks(page, 'bash')[0].strip()}".replace("result", "other")
    assert command.count("--start centers") == 1
    for start in ("", "--start headers", "--start auto"):
        with pytest.raises(
            AssertionError, match=r"(?s)do not overlap in the world.*--start centers"
        ):
            execute("bash", command.replace("--start centers", start), tmp_path)
        assert not (tmp_path / "other").exists()


@pytest.mark.slow
def test_the_tutorial_on_plugins_holds(tmp_path: Path) -> None:
    """Its blocks in order, as a reader follows them: edits go into the file that the text before
    them names, studies are listed.
    """
    site = tmp_path / "site"
    quick = " ".join(
        [
            "data.dataset.shape=[16,16,16]",
            "data.dataset.crop=null",
            "data.dataset.subjects=1",
            "data.dataset.validation=1",
        ]
    )
    page = (ROOT / "docs" / "tutorials" / "plugin.md").read_text()
    before = 0
    for shown in re.finditer(
        r"(<!-- not run: [^>]*-->\n)?```(bash|python|yaml)\n(.*?)```", page, re.S
    ):
        text, before, (skipped, language, code) = (
            page[before : shown.start()],
            shown.end(),
            shown.groups(),
        )
        if language == "bash":
            for line in joined(code).splitlines():
                if line.startswith("pip install"):
                    install(tmp_path / "robust_terms", site=site)
                    continue
                line += (
                    " -q -p no:cacheprovider"
                    if line.startswith("pytest")
                    else f" {quick}"
                    if " train " in line
                    else ""
                )
                execute(
                    "bash",
                    "export"
                    f" PYTHONPATH={site}:${{PYTHONPATH:-}}\n{line}{' --list' if skipped else ''}",
                    tmp_path,
                )
            continue
        path = tmp_path / re.findall(r"`([\w/]+\.(?:py|yaml))`", text)[-1]
        if line := re.search(r"replace the line\n`(.*)` by", text):
            assert path.read_text().count(line[1]) == 1
            code = path.read_text().replace(line[1], code.strip())
        path.write_text(code)
        if path.is_relative_to(tmp_path / "robust_terms"):  # an editable installation sees the edit
            install(tmp_path / "robust_terms", site=site)
    for name in ("robust_terms_phantom", "velocity_phantom"):
        assert list((tmp_path / "runs").glob(f"{name}/*/summary.json"))
    (configuration,) = (tmp_path / "runs").glob("robust_terms_phantom/*/config.yaml")
    assert yaml.safe_load(configuration.read_text())["method"]["loss"]["terms"]["robust_terms"] == {
        "weight": 4.0,
        "limit": 0.5,
    }


@pytest.mark.slow
def test_the_page_on_data_holds(tmp_path: Path) -> None:
    """Its blocks in order, on the scans that the first of them makes; then the phantom's page."""
    for page in ("data", "data/phantom"):
        execute_page(page, tmp_path)
    assert {"scans", "prepared", "runs", "phantom"} <= {p.name for p in tmp_path.iterdir()}


@pytest.mark.slow
def test_the_page_on_python_and_its_notebook_hold(tmp_path: Path) -> None:
    """The notebook is the page's; its cells run one after the other."""
    spec = importlib.util.spec_from_file_location(
        "from_page", ROOT / "docs" / "notebooks" / "from_page.py"
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    written = json.loads((ROOT / "docs" / "notebooks" / "python.ipynb").read_text())
    assert written == module.notebook(), "run python docs/notebooks/from_page.py"
    cells = ["".join(cell["source"]) for cell in written["cells"] if cell["cell_type"] == "code"]
    execute("python", "\n".join(cells), tmp_path)
    assert {"model.ckpt", "warped.nii.gz", "result", "runs"} <= {p.name for p in tmp_path.iterdir()}


def test_every_data_set_has_a_page() -> None:
    configured = {path.stem for path in (ROOT / "conf" / "data").glob("*.yaml")} - {
        "prepared",
        "pairs",
        "folder",
    }
    assert configured == {path.stem for path in (ROOT / "docs" / "data").glob("*.md")}
    for name in configured:
        assert f"(data/{name}.md)" in (ROOT / "docs" / "data.md").read_text()
        assert f"`data={name}`" in (ROOT / "docs" / "data" / f"{name}.md").read_text()


@pytest.mark.slow
def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    """Every page, the generated ones and every cross-reference among them."""
    site = tmp_path / "site"
    call = [
        sys.executable,
        "-m",
        "sphinx",
        "-W",
        "--keep-going",
        "-q",
        "-d",
        str(tmp_path / "doctrees"),
        str(ROOT / "docs"),
        str(site),
    ]
    result = subprocess.run(call, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    values = (site / "reference" / "configuration.html").read_text()
    assert "method.composer.head.steps" in values
    assert "control-point distance" in values  # of a stage's backbone
    assert "--fixed-landmarks" in (site / "reference" / "commands.html").read_text()
    components = (site / "reference" / "components.html").read_text()
    for group in ("backbones", "heads", "composers", "losses"):
        for name in providers(group):
            assert f"<h3>{name}<" in components, name
    index = (site / "searchindex.js").read_text()
    for page in (
        path.relative_to(ROOT / "docs").with_suffix("") for path in (ROOT / "docs").rglob("*.md")
    ):
        assert f'"{page}"' in index, page
    warp = (site / "reference" / "api" / "lightning_reg.functional.html").read_text()
    assert 'id="lightning_reg.functional.warp.warp"' in warp


def test_an_installed_package_of_ones_own_is_not_on_the_pages(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pytest.importorskip("sphinx")
    monkeypatch.syspath_prepend(ROOT / "docs")
    pages = importlib.import_module("reference_pages")
    (tmp_path / "method").mkdir()
    (tmp_path / "method" / "of_ones_own.yaml").write_text("# A method. More.\n")
    monkeypatch.setattr(
        "lightning_reg.configuration.values.plugin_packages", lambda: {"own": tmp_path}
    )
    assert "of_ones_own" in pages.options("method")
    directive = object.__new__(pages.GroupOptions)
    directive.arguments = ["method"]
    shown = "".join(directive.lines())
    assert "method=velocity" in shown
    assert "of_ones_own" not in shown


def test_the_pages_show_commands_and_every_link_leads_somewhere() -> None:
    assert len(train_commands()) >= 5
    for page in PAGES:
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_code_on_the_pages_is_not_cut_off() -> None:
    """Lines of code blocks have at most 100 columns, which the site shows without scrolling."""
    for page in PAGES:
        fenced = False
        for number, line in enumerate(page.read_text().splitlines(), 1):
            if line.startswith("```"):
                fenced = not fenced
            elif (fenced or line.startswith("    ")) and len(line) > 100:
                pytest.fail(f"{page}, line {number} has {len(line)} columns: {line}")


def test_the_method_that_the_walkthrough_shows_is_one() -> None:
    method = yaml.safe_load(blocks(ROOT / "docs" / "methods.md", "yaml")[0])
    assert isinstance(RegistrationModule.from_configuration(method).composer, SingleComposer)


@pytest.mark.slow
def test_the_method_of_ones_own_trains(tmp_path: Path) -> None:
    page = ROOT / "docs" / "new_method.md"
    (method,) = blocks(page, "yaml")
    (tmp_path / "my_conf" / "method").mkdir(parents=True)
    (tmp_path / "my_conf" / "method" / "flows.yaml").write_text(method)
    (command,) = re.findall(r"```bash\npython train.py (.*)\n```", page.read_text())
    steps = [o for o in QUICK if not o.startswith("trainer.max_steps")] + [
        "trainer.max_steps=9",
        "data.samples_per_epoch=4",
    ]
    call = [sys.executable, str(ROOT / "train.py"), *command.split(), *steps]
    result = subprocess.run(
        call,
        cwd=tmp_path,
        env=os.environ | {"MPLBACKEND": "Agg"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert next(tmp_path.glob("runs/flows_phantom/*/summary.json"))


def test_the_readme_installs_and_tests_in_two_commands() -> None:
    shown = blocks(ROOT / "README.md", "bash")
    assert "pip install -e . && python train.py\n" in shown
    assert 'pip install -e ".[dev]" && pytest -n auto -m "not slow"\n' in shown


KINDS = {"backbone", "head", "composer", "loss", "callback", "dataset"}


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_the_example_of_a_component_passes_the_kit(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each page's class, as a reader would copy it."""
    (code,) = blocks(ROOT / "docs" / "plugins" / f"{kind}.md", "python")
    module = type(sys)(f"example_{kind}")
    monkeypatch.setitem(sys.modules, module.__name__, module)  # where pickle looks for it
    exec(compile(code, f"{kind}.md", "exec"), module.__dict__)
    (cls,) = [
        v for v in vars(module).values() if isinstance(v, type) and v.__module__ == module.__name__
    ]
    factory = {
        "composer": lambda: cls(small_network()),
        "dataset": lambda: cls(root=visits(tmp_path)),
    }.get(kind, cls)
    check_component(kind, factory)


def small_network() -> Network:
    backbone = UNet(levels=2, features=4, norm="instance")
    return Network(backbone, DenseHead(backbone.channels, backbone.strides))


def visits(folder: Path) -> Path:
    for subject in ("a", "b", "c"):
        for visit in ("baseline", "followup"):
            (folder / subject).mkdir(exist_ok=True)
            values = (
                np.random.default_rng(ord(subject)).normal(100, 10, (9, 8, 7)).astype(np.float32)
            )
            nib.Nifti1Image(values, np.eye(4)).to_filename(folder / subject / f"{visit}.nii.gz")
    return folder


def test_the_examples_of_the_other_groups_fit_their_interfaces() -> None:
    (code,) = blocks(ROOT / "docs" / "plugins" / "others.md", "python")
    names: dict[str, object] = {"__name__": "example_others"}
    exec(code, names)
    groups = {
        "LongestDisplacement": "metrics", "Provenance": "report_sections", "MeanDisplacement": "outputs", "FeetFirst": "starts",
        "EverythingDark": "lung_segmentations",
        "Hello": "commands",
    }  # fmt: skip
    for name, group in groups.items():
        assert check(names[name], GROUPS[group].interface_class()) is None
    text = (ROOT / "docs" / "plugins" / "others.md").read_text()
    pages = {path.stem for path in (ROOT / "docs" / "plugins").glob("*.md")}
    for group, entry in GROUPS.items():
        assert f"`{group}`" in text or entry.one in pages or group == "models", group


def test_the_table_of_checks_is_that_of_the_kit() -> None:
    spec = importlib.util.spec_from_file_location("table", ROOT / "tests" / "testing" / "table.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert (ROOT / "docs" / "plugins.md").read_text() == module.page(), (
        "run python tests/testing/table.py"
    )


@pytest.mark.slow
def test_the_page_on_plugins_holds(tmp_path: Path) -> None:
    """Its first commands, in a throw-away environment."""
    commands = blocks(ROOT / "docs" / "plugins.md", "bash")
    new, installing, testing, training = commands[0].splitlines()
    site = tmp_path / "site"
    execute("bash", new, tmp_path)
    assert installing == "pip install -e my_method"
    install(tmp_path / "my_method", site=site)
    quick = " ".join(
        [
            "data.dataset.shape=[16,16,16]",
            "data.dataset.crop=null",
            "data.dataset.subjects=1",
            "data.dataset.validation=1",
        ]
    )
    for line in (
        f"{testing} -q -p no:cacheprovider",
        f"{training} {quick}",
        *commands[1].splitlines(),
    ):
        execute("bash", f"export PYTHONPATH={site}\n{line}", tmp_path)
