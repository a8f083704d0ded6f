"""Descriptions of components from their source: agreement with Python's introspection, without
imports.
"""

from __future__ import annotations

import inspect
import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from lightning_reg.configuration.building import build_composer, build_loss
from lightning_reg.configuration.documentation import Documentation, documentation
from lightning_reg.configuration.groups import GROUPS
from lightning_reg.configuration.sources import REQUIRED
from lightning_reg.registry import ComponentError, load, providers
from lightning_reg.registry.entries import OWN

NAMES = [
    (group, name)
    for group in GROUPS
    for name, offered in providers(group).items()
    if offered[0].distribution == OWN
]


@pytest.mark.parametrize(("group", "name"), NAMES, ids=[f"{group}-{name}" for group, name in NAMES])
def test_arguments_are_those_of_the_constructor(group: str, name: str) -> None:
    found = documentation(group, name)
    cls = load(group, name, GROUPS[group].interface_class())
    kinds = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
    real = (
        {}
        if cls.__init__ is object.__init__
        else {k: p for k, p in inspect.signature(cls).parameters.items() if p.kind not in kinds}
    )
    assert [argument.name for argument in found.arguments] == list(real)
    for argument in found.arguments:
        default = real[argument.name].default
        assert (argument.default is None) == (default is inspect.Parameter.empty), argument
        try:
            assert default == argument.value() or argument.default is None
        except ValueError:
            assert not isinstance(default, (int, str, bool, type(None)))
    source = Path(inspect.getsourcefile(cls) or "")
    assert Path(found.path) == source
    # decorators count as its first line there
    assert inspect.getsourcelines(cls)[1] in range(found.line - 3, found.line + 1)


OURS = [
    (group, name)
    for group, name in NAMES
    if load(group, name, GROUPS[group].interface_class()).__module__.startswith("lightning_reg")
]


@pytest.mark.parametrize(("group", "name"), OURS, ids=[f"{group}-{name}" for group, name in OURS])
def test_every_argument_that_a_configuration_gives_has_a_meaning(group: str, name: str) -> None:
    found = documentation(group, name)
    assert found.text
    assert [
        argument.name
        for argument in found.arguments
        if not argument.supplied and not argument.meaning
    ] == []


def test_snippets_make_the_component() -> None:
    loss = yaml.safe_load(documentation("losses", "lncc").yaml())["method"]["loss"]
    assert build_loss(loss).terms["lncc"].window == 9  # type: ignore[union-attr]
    composer = yaml.safe_load(documentation("composers", "single").yaml())["method"]["composer"]
    assert {key for key, value in composer.items() if value == REQUIRED} == {"backbone", "head"}
    backbone = yaml.safe_load(documentation("backbones", "unet").yaml())["method"]["composer"][
        "backbone"
    ]
    head = yaml.safe_load(documentation("heads", "velocity").yaml())["method"]["composer"]["head"]
    made = build_composer({**composer, "backbone": backbone, "head": head})
    names: dict[str, object] = {"backbone": made.network.backbone}  # type: ignore[attr-defined]
    exec(documentation("heads", "velocity").python(), names)
    assert (
        documentation("heads", "velocity")
        .python()
        .startswith("from lightning_reg import VelocityHead\n")
    )


def test_references_are_followed_and_markup_is_left_out() -> None:
    folding = {
        argument.name: argument.meaning for argument in documentation("losses", "folding").arguments
    }
    assert folding["mask"].startswith("'fixed', 'moving' (warped) or their 'intersection'")
    assert ":class:" not in json.dumps(documentation("callbacks", "alpha_growth").plain())


def test_a_third_partys_component_is_described_without_being_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    info = tmp_path / "nice_heads-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: nice-heads\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[lightning_reg.heads]\ngood = nice_heads:Good\nshort = nice_heads:Elsewhere\nlacks ="
        " nice_heads:No\n"
    )
    (tmp_path / "nice_heads").mkdir()
    (tmp_path / "nice_heads" / "__init__.py").write_text(
        "from nice_heads.inner import Elsewhere\nfrom lightning_reg.components.heads.fields import"
        " BSplineHead\nraise RuntimeError\nclass Good(BSplineHead):\n    '''A good one (Nice et"
        " al., 2030).\n\n    Args:\n        depth: of it, mm.\n        spacing: see"
        " :class:`BSplineHead`.\n    '''\n    def __init__(self, channels, strides, spacing=None,"
        " *, depth: float = 2.0, shape=(1, 2), like=None) -> None: ...\n"
    )
    (tmp_path / "nice_heads" / "inner.py").write_text(
        "import nowhere\nclass Elsewhere:\n    '''Elsewhere.'''\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    found = documentation("heads", "nice_heads.good")
    assert isinstance(found, Documentation)
    assert found.text == "A good one (Nice et al., 2030)."
    meanings = {argument.name: argument.meaning for argument in found.arguments}
    assert meanings["depth"] == "of it, mm."
    assert meanings["spacing"].startswith("control-point distance in voxels")
    assert yaml.safe_load(found.yaml())["method"]["composer"]["head"] == {
        "name": "nice_heads.good", "spacing": None, "depth": 2.0, "shape": [1, 2], "like": None,
    }  # fmt: skip
    assert documentation("heads", "short").text == "Elsewhere."
    assert documentation("heads", "short").arguments == ()
    assert "nice_heads" not in sys.modules
    with pytest.raises(
        ComponentError,
        match=r"nice_heads:No of nice-heads 1\.0 has no class No; reinstall nice-heads",
    ):
        documentation("heads", "lacks")


@pytest.mark.parametrize("words", [["describe", "head", "bspline", "--json"], ["--json"]])
def test_the_commands_import_neither_torch_nor_components(words: list[str]) -> None:
    """Their time is that of Python and of reading a few files."""
    code = (
        "import sys; sys.argv = ['lightning-reg', 'plugins', *sys.argv[1:]]\nfrom lightning_reg.cli"
        " import main\ntry:\n    main.main()\nexcept SystemExit as end:\n   "
        " sys.stderr.write(f'{end.code} {\"torch\" in sys.modules}')"
    )
    result = subprocess.run(
        [sys.executable, "-c", code, *words], capture_output=True, text=True, check=False
    )
    assert result.stderr.endswith("0 False"), result.stderr
    found = json.loads(result.stdout)
    assert (
        found["arguments"][2]["name"] == "spacing"
        if "describe" in words
        else {"group", "qualified"} <= found["components"][0].keys()
    )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["describe", "head", "bsplin"],
            "There is no head named 'bsplin'; did you mean 'bspline'?",
        ),
        (
            ["describe", "haed", "bspline"],
            "There is no group of components named 'haed'; did you mean 'head'?",
        ),
        (["--group", "haeds"], "did you mean 'heads'?"),
        (["--from", "nobody"], "The distribution nobody is not installed, or offers nothing"),
        (["describe", "model", "brain"], "lightning-reg models describe brain shows its card"),
    ],
)
def test_mistakes_are_sentences(words: list[str], message: str) -> None:
    line = [sys.executable, "-m", "lightning_reg.cli.main", "plugins", *words]
    result = subprocess.run(line, capture_output=True, text=True, check=False)
    assert result.returncode == 2
    assert message in result.stderr
