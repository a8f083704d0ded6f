"""Arguments in messages, spelled as on the command line that is running."""

from __future__ import annotations

import pytest

from lightning_reg.configuration.spelling import keys_of, spelled

KEYS = ["overwrite", "data", "data.held_out", "data.root", "data.dataset.root", "data.workers"]
KEYS += ["data.preprocessing.center", "data.prepare.crop", "data.preprocessing.crop"]
KEYS += ["method.composer.backbone", "method.composer.backbone.levels", "size", "resume"]
KEYS += ["method.composer.head", "method.composer.head.levels", "method.loss.terms.lncc.weight"]
KEYS += ["method.callbacks.alpha_growth", "method.loss.terms.ngf", "method.init"]


@pytest.mark.parametrize(
    ("text", "command", "training"),
    [
        ("or pass `overwrite=True`.", "or pass --overwrite.", "or pass overwrite=true."),
        ("give `held_out`", "give data.held_out", "give data.held_out"),
        ("`root`: a file", "data.root: a file", "data.root: a file"),
        ("set `start='centers'`", "set --start centers", "set `start='centers'`"),
        ("`shape_of=[1, 2]`", "--shape-of [1,2]", "`shape_of=[1, 2]`"),
        (
            "`center=True` or `crop`",
            *["data.preprocessing.center=true or data.preprocessing.crop"] * 2,
        ),
        ("without `alpha_growth=None`", *["without ~method.callbacks.alpha_growth"] * 2),
        ("`ngf=None` and `init=None`", *["~method.loss.terms.ngf and method.init=null"] * 2),
        ("`head.levels='weighted'`", *["method.composer.head.levels=weighted"] * 2),
        ("raise `lncc.weight`", *["raise method.loss.terms.lncc.weight"] * 2),
        (
            "`backbone.conditioned=[0.1, 2]`, `backbone.conditioned`",
            *["+method.composer.backbone.conditioned=[0.1,2], method.composer.backbone.conditioned"]
            * 2,
        ),
        ("`size='paper'`", *["size=paper"] * 2),
        ("`resume='runs/a/last.ckpt'`", *["resume=runs/a/last.ckpt"] * 2),
        ("`resume='/a b/c'`", *["""'resume='"'"'/a b/c'"'"''"""] * 2),
        ("`budgets=0.5` `nothing.levels`", *["`budgets=0.5` `nothing.levels`"] * 2),
        ("`workers=cores`", *["data.workers=cores"] * 2),
        ("neither `nothing`", *["neither `nothing`"] * 2),
    ],
)
def test_an_argument_is_spelled_by_who_shows_it(text: str, command: str, training: str) -> None:
    assert spelled(text, {"--overwrite", "--start", "--shape-of"}, lambda: KEYS) == command
    assert spelled(text, (), lambda: KEYS) == training


def test_without_a_command_line_a_message_is_pythons() -> None:
    assert spelled("pass `overwrite=True`", ()) == "pass `overwrite=True`"


def test_the_keys_are_those_of_the_command_line_or_of_the_default() -> None:
    assert "data.dataset.pattern" in keys_of(["data=folder", "data.root=scans"])
    assert "data.held_out" in keys_of(["data=nothing"])
