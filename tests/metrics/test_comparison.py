"""Comparison of methods on the same cases, against SciPy and manual calculation."""

from __future__ import annotations

import csv
import io
from typing import Any

import numpy as np
import pytest
from scipy import stats

from lightning_reg.metrics.comparison import Comparison
from lightning_reg.metrics.statistics import holm


def rows(values: Any, **columns: Any) -> list[dict[str, Any]]:
    found = [
        {"case": f"c{n}", "tre_before_mm": 9.0 + n, "tre_after_mm": float(v)}
        for n, v in enumerate(values)
    ]
    return [row | {key: of[n] for key, of in columns.items()} for n, row in enumerate(found)]


def test_holms_p_values_are_those_of_the_stepwise_procedure() -> None:
    """By hand: 0.01 x 4, 0.02 x 3, max(0.03 x 2, 0.06), 0.5 x 1."""
    assert holm([0.03, 0.01, 0.5, 0.02]) == pytest.approx([0.06, 0.04, 0.5, 0.06])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


def test_holm_keeps_false_findings_below_its_level() -> None:
    rng = np.random.default_rng(0)
    found = sum(min(holm(rng.uniform(size=5).tolist())) < 0.05 for _ in range(2000))
    assert found < 0.05 * 2000 * 1.2


def test_differences_are_scipys_against_the_best_mean_and_corrected_by_metric() -> None:
    rng = np.random.default_rng(1)
    a = rng.normal(2, 0.5, 12)
    b, c = a + rng.normal(0.2, 0.3, 12), a + rng.normal(0.6, 0.3, 12)
    comparison = Comparison({"b": rows(b), "a": rows(a), "c": rows(c)})
    found = {d.method: d for d in comparison.differences}
    assert {d.best for d in found.values()} == {"a"}
    p = [float(stats.wilcoxon(other - a).pvalue) for other in (b, c)]
    assert [found[name].p for name in "bc"] == pytest.approx(p)
    assert [found[name].corrected for name in "bc"] == pytest.approx(holm(p))
    assert found["c"].mean == pytest.approx(np.mean(c - a))
    assert found["c"].low < np.mean(c - a) < found["c"].high
    assert comparison.ranked() == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("column", "best"), [("tre_after_mm", "low"), ("dice_after", "high"), ("folding", "low")]
)
def test_the_best_is_the_lowest_error_or_the_highest_overlap(column: str, best: str) -> None:
    data = {"low": 0.1, "high": 0.9}
    comparison = Comparison(
        {name: rows([1.0] * 3, **{column: [value] * 3}) for name, value in data.items()}
    )
    metric = next(metric for metric in comparison.metrics if metric.column() == column)
    assert comparison.best(metric) == best


def test_cases_that_a_method_failed_on_are_left_out_for_all() -> None:
    first, second = rows([1, 2, 3, 4]), rows([1, 1, 1, 1])
    second[3] = {"case": "c3", "error": "no file"}
    second[2]["tre_after_mm"] = float("nan")
    comparison = Comparison({"first": first, "second": second})
    assert comparison.left_out == ["c3"]
    assert comparison.values("first", "tre_after_mm") == [1, 2]
    assert "Left out, because a method failed there: 1 pair (c3)." in comparison.notes()[-1]


def test_a_method_that_failed_everywhere_leaves_the_others_in_the_table() -> None:
    gone = [{"case": f"c{n}", "error": "no file"} for n in range(4)]
    comparison = Comparison({"gone": gone, "a": rows([1, 2, 3, 4]), "b": rows([2, 3, 4, 5])})
    assert comparison.names == ["a", "b"]
    assert list(comparison.cells()) == ["before", "a", "b"]
    assert comparison.values("a", "tre_after_mm") == [1, 2, 3, 4]
    assert "Left out, because all cases failed: gone." in comparison.notes()
    assert Comparison({"gone": gone, "also": gone}).names == ["gone", "also"]


def test_methods_that_begin_differently_have_a_row_each_before() -> None:
    centred = [{**row, "tre_before_mm": 5.0} for row in rows([1, 2, 3])]
    comparison = Comparison({"model": centred, "a": rows([2, 3, 4]), "b": rows([3, 4, 5])})
    table = comparison.cells()
    assert list(table) == ["before (model)", "before (a, b)", "model", "a", "b"]
    assert [table[name][0].mean for name in list(table)[:2]] == [5.0, 10.0]
    assert (
        "The methods start differently: each row 'before' is for the methods that it names."
        in comparison.notes()
    )


def test_columns_are_chosen_in_their_order() -> None:
    seconds = np.array([1.0, 2.0, 3.0, 4.0])
    both = {"a": rows(seconds, seconds=seconds), "b": rows(seconds + 1, seconds=seconds + 5)}
    comparison = Comparison(both, ["seconds", "tre", "dice"])
    assert comparison.header() == ["", "time, s ↓", "TRE, mm ↓"]
    assert [cell.mean for cell in comparison.cells()["b"]] == [7.5, 3.5]
    assert comparison.ranked() == ["a", "b"]
    assert Comparison(both).header() == ["", "TRE, mm ↓"]


def test_folding_is_shown_in_percent_and_kept_as_a_fraction() -> None:
    comparison = Comparison({"a": rows([1, 2, 3], folding=[0.01, 0.02, 0.03])})
    place = comparison.header().index("folding, % ↓")
    assert comparison.cells()["a"][place - 1].text() == "2.00 ± 1.00"
    assert (
        next(line for line in comparison.csv().splitlines() if ",folding," in line).split(",")[2]
        == "0.02"
    )


def test_a_method_that_lacks_values_that_others_have_is_never_the_best() -> None:
    """Its mean is over the easy cases: where it lost the label there is no distance."""
    good, lost = (
        rows([2.0] * 8, hd95_after_mm=[5.0] * 8),
        rows([9.0] * 8, hd95_after_mm=[4.0] * 6 + [float("nan")] * 2),
    )
    comparison = Comparison({"lost": lost, "good": good})
    hd95 = next(metric for metric in comparison.metrics if metric.key == "hd95")
    assert comparison.best(hd95) == "good"
    assert (
        Comparison(
            {
                "lost": [
                    {**row, "tre_after_mm": 1.0} if n else {"case": "c0"}
                    for n, row in enumerate(lost)
                ],
                "good": good,
            }
        ).ranked()[0]
        == "good"
    )
    place = 1 + comparison.metrics.index(hd95)
    assert [
        line.split(" | ")[place].strip(" |") for line in comparison.markdown().splitlines()[3:5]
    ] == [
        "4.00 ± 0.00\\*†",
        "**5.00 ± 0.00**",
    ]
    assert (
        "HD95, mm †: no value where others have one (lost in 2): the column is over 6 pairs."
        in comparison.notes()
    )


def test_a_metric_that_few_pairs_have_says_so_and_equal_means_are_not_bold() -> None:
    first = [
        {"case": str(n), "dice_after": 0.5, **({"tre_after_mm": 1.0} if n < 2 else {})}
        for n in range(7)
    ]
    comparison = Comparison({"a": first, "b": first})
    assert "TRE, mm: over the 2 pairs that have it." in comparison.notes()
    assert "With 2 pairs p is" in " ".join(comparison.notes())
    assert not any(cell.best for cells in comparison.cells().values() for cell in cells)
    assert Comparison({"a": first[:1]}).notes()[0] == "Mean ± standard deviation over 1 pair."


@pytest.mark.parametrize(
    ("cases", "methods", "told"),
    [
        (4, 2, "p is at least 0.12, so no difference can be significant; use 6"),
        (6, 2, ""),
        (6, 3, "p is at least 0.062"),
        (7, 3, ""),
    ],
)
def test_too_few_pairs_for_a_test_are_said(cases: int, methods: int, told: str) -> None:
    """Every case better by the same sign: the smallest p that there is."""
    data = {f"m{n}": rows(np.arange(cases) * (1 + n / 10) + n) for n in range(methods)}
    comparison = Comparison(data)
    notes = " ".join(comparison.notes())
    assert (told in notes) if told else ("at least" not in notes)
    assert any(d.corrected < 0.05 for d in comparison.differences) == (not told)


def test_forms_have_every_method_once_with_its_mean() -> None:
    comparison = Comparison(
        {"ours_1 & co": rows([1, 2, 3, 4, 5, 6, 7]), "a|b": rows([2, 3, 4, 5, 6, 7, 9])}
    )
    lines = list(csv.DictReader(io.StringIO(comparison.csv())))
    assert [(line["method"], line["metric"], float(line["mean"])) for line in lines] == [
        ("ours_1 & co", "tre_after_mm", 4.0),
        ("a|b", "tre_after_mm", pytest.approx(36 / 7)),
    ]
    assert [line["p"] == "" for line in lines] == [True, False]
    markdown = comparison.markdown()
    assert "| ours_1 & co | **4.00 ± 2.16** |" in markdown
    assert "| a\\|b | 5.14 ± 2.41\\* |" in markdown
    latex = comparison.latex()
    assert r"ours\_1 \& co & \boldmath{$4.00 \pm 2.16$} \\" in latex
    assert r"a|b & $5.14 \pm 2.41^{*}$ \\" in latex
    notes = latex.partition(r"\end{tabular}")[2]
    assert r"Mean $\pm$ standard deviation over 7 pairs." in notes
    assert r"$^{*}$: differs from it (two-sided paired Wilcoxon test, p $<$ 0.05)." in notes
