"""Definitions of studies in YAML files."""

from __future__ import annotations

from pathlib import Path

import pytest

from lightning_reg.batch.studies.definition import as_override, read_definition
from lightning_reg.registry import DataError, UserError

WHOLE = """
common: [trainer.max_steps=10]
methods: {a: [method=velocity], b: [method=dlir]}
data: {p: [data=phantom], h: [data=hippocampus, data.root=x]}
seeds: [1, 2]
folds: 2
"""


def study(folder: Path, text: str) -> Path:
    (folder / "study.yaml").write_text(text)
    return folder / "study.yaml"


def test_jobs_are_methods_on_data_by_seeds_and_folds_every_method_first(tmp_path: Path) -> None:
    jobs = read_definition(study(tmp_path, WHOLE)).jobs()
    assert len(jobs) == len({job.name for job in jobs}) == 16
    assert [job.name for job in jobs[:5]] == [
        "a_p_s1_f1",
        "b_p_s1_f1",
        "a_h_s1_f1",
        "b_h_s1_f1",
        "a_p_s2_f1",
    ]
    assert jobs[3].overrides == (
        "trainer.max_steps=10", "data=hippocampus", "data.root=x", "method=dlir", "seed=1",
        "data.fold=1/2",
    )  # fmt: skip
    assert (jobs[3].method, jobs[3].data, jobs[3].seed, jobs[3].fold) == ("b", "h", 1, "1/2")


def test_names_stay_when_the_study_grows(tmp_path: Path) -> None:
    small = read_definition(study(tmp_path, "methods: [velocity]\n")).jobs()
    large = read_definition(study(tmp_path, "methods: [velocity, dlir]\nseeds: [1, 2]\n")).jobs()
    assert [(job.name, job.overrides) for job in small] == [
        ("velocity_s1", ("method=velocity", "seed=1"))
    ]
    assert [job.name for job in large] == ["velocity_s1", "dlir_s1", "velocity_s2", "dlir_s2"]
    assert large[0] == small[0]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[a]", "is no mapping"),
        ("method: [velocity]", "has an entry 'method'; did you mean 'methods'"),
        ("seeds: [1]", "has no methods"),
        ("methods: {a: velocity}", "methods.a is 'velocity'; give a list of overrides"),
        ("methods: [velocity]\nseeds: 3", "seeds is 3; give a list"),
        ("methods: [velocity]\nfolds: 1", "folds is 1; give a whole number, 2"),
        ("methods: [velocity]\nsplit: tset", "split is tset"),
        ("methods: [velocity]\ncommon: [run=x]", "sets run=x, which a study chooses itself"),
        ("methods: [velocity]\ncommon: [seed=7]", "sets seed=7, which a study chooses itself"),
        ("methods: [velocity]\nseeds: [1, 1]", "seeds has one twice"),
        ("methods: {'v 1': [a=1], 'v-1': [a=2]}", "two trainings would have the folder v-1_s1"),
        (
            "methods: [velocity]\nseeds: [1, 2]\nsearch: {space: {a: [1]}}",
            "a search has one seed and one data set",
        ),
        (
            "methods: [velocity]\nsearch: {space: {a: {low: 0, high: 1, log: true}}}",
            "begins above 0 and has no step",
        ),
        ("methods: [velocity]\nsearch: {space: {a: {low: 1, high: 2, step: x}}}", "has the step x"),
        ("methods: [velocity]\nsearch: {space: {a: [1]}, objectives: []}", "objectives is"),
        ("methods: [velocity]\nsearch: {space: {a: [1]}, seed: x}", "seed is x"),
        ("methods: [velocity]\nsearch: {trials: 3}", "search has no space"),
        (
            "methods: [velocity]\nsearch: {space: {a: [1]}, trails: 3}",
            "search.trails'; did you mean 'trials'",
        ),
        (
            "methods: [velocity]\nsearch: {space: {hydra.launcher._target_: [os.system]}}",
            "no setting of a training",
        ),
        (
            "methods: {a: ['hydra.callbacks.x={_target_: os.system, command: ls}']}",
            "no setting of a training",
        ),
        (
            "methods: {a: ['--config-dir=there']}",
            "sets --config-dir, which is no setting of a training",
        ),
        ("methods: {a: ['data.root=${oc.env:HOME}']}", "refers to the environment"),
        ("methods: [velocity]\nsearch: {space: {a: {low: 2, high: 1}}}", "low below high"),
        ("methods: [velocity]\nsearch: {space: {a: {lo: 2, high: 1}}}", "give a list of choices"),
        (
            "methods: [velocity]\nsearch: {space: {a: [1]}, objectives: [tre]}",
            "objectives has 'tre'",
        ),
        ("methods: [velocity]\nsearch: {space: {a: [1]}, trials: 0}", "trials is 0"),
        ("methods: {a: [", "cannot be read"),
    ],
)
def test_what_is_no_study_is_refused(text: str, told: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=told):
        read_definition(study(tmp_path, text))


def test_options_that_are_not_there_are_refused_before_anything_is_trained(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no method named 'velocty'; did you mean 'velocity'"):
        read_definition(study(tmp_path, "methods: [velocty]")).check()
    with pytest.raises(UserError, match=r"no option 'trainer\.max_step'; did you mean"):
        read_definition(
            study(tmp_path, "methods: [velocity]\ncommon: [trainer.max_step=3]")
        ).check()
    with pytest.raises(UserError, match=r"no option 'method\.optimizer\.lrr'; did you mean"):
        read_definition(
            study(tmp_path, "methods: [velocity]\nsearch: {space: {method.optimizer.lrr: [1]}}")
        ).check()


@pytest.mark.parametrize(
    ("value", "written"),
    [
        (None, "null"),
        (True, "true"),
        (1e-5, "1e-05"),
        (4, "4"),
        ("auto", "auto"),
        ([1, 2], "[1, 2]"),
    ],
)
def test_values_of_a_space_are_written_as_hydra_reads_them(value: object, written: str) -> None:
    assert as_override(value) == written
