"""Comparison of methods on the same cases: a table, paired tests, and output formats."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from lightning_reg.metrics.statistics import alike, holm, is_number, paired, summary
from lightning_reg.metrics.table import METRICS, Metric, ranking

Rows = Sequence[Mapping[str, Any]]
LEVEL = 0.05
ALWAYS = ("hd95", "assd", "folding", "ndv", "sdlogj")
"""Metrics of the table in addition to the ranking ones."""
SECONDS = Metric("seconds", "time", "lower", "s", 1, compared=False)
CHOICES = {metric.key: metric for metric in (*METRICS, SECONDS)}
"""Columns that may be chosen, by key."""
_LATEX = str.maketrans(
    {c: f"\\{c}" for c in "&%$#_{}"}
    | {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
)


@dataclass(frozen=True)
class Difference:
    """Difference of a method from the best one, for one metric over the cases.

    Args:
        mean: of the paired differences (method minus best).
        low, high: 95 % confidence interval of the mean; NaN with fewer than three cases or equal
        differences.
        p: p value of the two-sided Wilcoxon signed-rank test.
        corrected: p corrected for the number of tests of the metric, by Holm's procedure.
        n: number of cases.
    """

    metric: str
    method: str
    best: str
    mean: float
    low: float
    high: float
    p: float
    corrected: float
    n: int


@dataclass(frozen=True)
class Cell:
    """Entry of the table: mean and standard deviation.

    Args:
        best: the best entry of its column.
        differs: it differs significantly from the best.
        lacks: values are missing that other methods have.
    """

    mean: float
    sd: float
    digits: int
    best: bool = False
    differs: bool = False
    lacks: bool = False

    def text(self, plus_minus: str = "±") -> str:
        """Mean, deviation and marks; empty without a mean."""
        if math.isnan(self.mean):
            return ""
        spread = "" if math.isnan(self.sd) else f" {plus_minus} {self.sd:.{self.digits}f}"
        marks = ("*" if self.differs else "") + ("†" if self.lacks else "")
        return f"{self.mean:.{self.digits}f}{spread}{marks}"


class Comparison:
    """Comparison of methods on the cases that all of them registered.

    Args:
        rows: rows of ``cases.csv`` per method: ``case``, then values by column; a failed case has
            an ``error`` instead.
        columns: keys of :data:`CHOICES`, in their order; ``None``: ranking metrics and
            :data:`ALWAYS`.

    Attributes:
        names: names of the methods; methods that failed in all cases are in :attr:`without_cases`
            instead.
    """

    def __init__(self, rows: Mapping[str, Rows], columns: Sequence[str] | None = None) -> None:
        self.columns = columns
        by_case = {
            name: {row["case"]: row for row in of if not row.get("error")}
            for name, of in rows.items()
        }
        self._by_case = {name: of for name, of in by_case.items() if of} or by_case
        self.names = list(self._by_case)
        self.without_cases = [name for name in rows if name not in self._by_case]
        everywhere = list(dict.fromkeys(row["case"] for of in rows.values() for row in of))
        self.cases = [
            case for case in everywhere if all(case in of for of in self._by_case.values())
        ]
        self.left_out = [case for case in everywhere if case not in set(self.cases)]

    def values(self, name: str, column: str) -> list[float]:
        """A column of a method over the cases in which all methods have a number."""
        rows = {other: [self._by_case[other][case] for case in self.cases] for other in self.names}
        there = [
            all(is_number(rows[other][k], column) for other in self.names)
            for k in range(len(self.cases))
        ]
        return [float(row[column]) for row, kept in zip(rows[name], there, strict=True) if kept]

    @cached_property
    def metrics(self) -> list[Metric]:
        """Columns: metrics for which all methods have values, as chosen, or ranking ones first."""
        wanted = METRICS if self.columns is None else [CHOICES[key] for key in self.columns]
        present = [
            metric
            for metric in wanted
            if self.cases and self.values(self.names[0], metric.column())
        ]
        if self.columns is not None:
            return present
        ranked = [metric for metric in present if metric.ranks]
        shown = [
            metric for metric in ranked if metric.key != "ncc" or len(ranked) == 1
        ]  # the least informative one
        return shown + [metric for metric in present if metric.key in ALWAYS]

    def lacking(self, name: str, metric: Metric) -> int:
        """Number of cases where a method has no value but another has one."""
        column = metric.column()
        return sum(
            not is_number(self._by_case[name][case], column)
            and any(is_number(self._by_case[other][case], column) for other in self.names)
            for case in self.cases
        )

    def best(self, metric: Metric) -> str:
        """Method with the best mean, the first of equal ones; those that lack values come last."""
        return min(self.names, key=lambda name: self._badness(name, metric))

    def _badness(self, name: str, metric: Metric) -> tuple[bool, float]:
        """Sorting key: the best method comes first."""
        return self.lacking(name, metric) > 0, metric.error(
            float(np.mean(self.values(name, metric.column())))
        )

    def ranked(self) -> list[str]:
        """Methods sorted by the ranking metric, the best first."""
        metric = ranking(metric.column() for metric in self.metrics)
        if metric is None:
            return list(self.names)
        return sorted(self.names, key=lambda name: self._badness(name, metric))

    @cached_property
    def differences(self) -> list[Difference]:
        """Differences of all methods from the best one, per metric; empty for a single one."""
        found = []
        for metric in self.metrics:
            best, column = self.best(metric), metric.column()
            others = [name for name in self.names if name != best]
            if len(self.values(best, column)) < 2 or not others:
                continue
            tests = [
                paired(self.values(best, column), self.values(name, column)) for name in others
            ]
            for name, test, corrected in zip(
                others, tests, holm([test["p"] for test in tests]), strict=True
            ):
                numbers = {key: test[key] for key in ("mean", "low", "high", "p")}
                found.append(
                    Difference(
                        metric.key, name, best, **numbers, corrected=corrected, n=int(test["n"])
                    )
                )
        return found

    def cells(self) -> dict[str, list[Cell]]:
        """Cells per method and metric, after rows *before*, one per group of equal starts."""
        table: dict[str, list[Cell]] = {}
        starts = self._starts() if any(metric.compared for metric in self.metrics) else []
        for names in starts:
            title = "before" if len(starts) == 1 else f"before ({', '.join(names)})"
            table[title] = [self._cell(names[0], metric, "before") for metric in self.metrics]
        differing = {(d.metric, d.method) for d in self.differences if d.corrected < LEVEL}
        for name in self.names:
            table[name] = [
                self._cell(name, m, "after", self._is_best(name, m), (m.key, name) in differing)
                for m in self.metrics
            ]
        return table

    def _starts(self) -> list[list[str]]:
        """Methods grouped by their start: equal values *before* in all cases."""
        columns = [metric.column("before") for metric in self.metrics if metric.compared]
        return alike(
            {name: [v for c in columns for v in self.values(name, c)] for name in self.names}
        )

    def _is_best(self, name: str, metric: Metric) -> bool:
        """Whether the method's mean is printed as the best one is, and it lacks no values; false if
        all are printed alike.
        """
        times, digits = _printed(metric)
        means = {
            other: f"{times * float(np.mean(self.values(other, metric.column()))):.{digits}f}"
            for other in self.names
        }
        return (
            len(set(means.values())) > 1
            and means[name] == means[self.best(metric)]
            and not self.lacking(name, metric)
        )

    def _cell(
        self, name: str, metric: Metric, when: Any, best: bool = False, differs: bool = False
    ) -> Cell:
        column = metric.column(when) if metric.compared or when == "after" else ""
        values = self.values(name, column) if column else []
        found = summary(values) if values else {"mean": math.nan, "sd": math.nan}
        lacks = when == "after" and self.lacking(name, metric) > 0
        times, digits = _printed(metric)
        return Cell(times * found["mean"], times * found["sd"], digits, best, differs, lacks)

    def least_p(self) -> float:
        """The smallest p, Holm-corrected, that a difference could have; 1: nothing to test."""
        tests = len(self.names) - 1
        fewest = min(
            (len(self.values(self.names[0], metric.column())) for metric in self.metrics),
            default=len(self.cases),
        )
        return min(1.0, 2.0 ** (1 - fewest) * tests) if tests else 1.0

    def notes(self) -> list[str]:
        """Notes below the table: the meaning of its entries, and its limits."""
        count, tests = len(self.cases), len(self.names) - 1
        notes = [f"Mean ± standard deviation over {_count(count)}."]
        if tests:
            correction = (
                f", Holm-corrected for the {tests} tests of its column" if tests > 1 else ""
            )
            notes[0] += (
                " Bold: the best mean. *: differs from it (two-sided paired Wilcoxon test, p <"
                f" {LEVEL:g}{correction})."
            )
            least = math.ceil(1 + math.log2(tests / LEVEL))
            fewest = min(
                (len(self.values(self.names[0], metric.column())) for metric in self.metrics),
                default=count,
            )
            if self.least_p() >= LEVEL:
                notes.append(
                    f"With {_count(fewest)} p is at least {self.least_p():.2g}, so no difference"
                    f" can be significant; use {least} pairs or more."
                )
        for metric in self.metrics:
            known = len(self.values(self.names[0], metric.column()))
            lost = {name: number for name in self.names if (number := self.lacking(name, metric))}
            if lost:
                told = ", ".join(f"{name} in {number}" for name, number in lost.items())
                notes.append(
                    f"{metric.heading} †: no value where others have one ({told}): the column is"
                    f" over {_count(known)}."
                )
            elif known < count:
                notes.append(f"{metric.heading}: over the {_count(known)} that have it.")
        if len(self._starts()) > 1:
            notes.append(
                "The methods start differently: each row 'before' is for the methods that it names."
            )
        if self.without_cases:
            notes.append(f"Left out, because all cases failed: {', '.join(self.without_cases)}.")
        if self.left_out:
            some = ", ".join(self.left_out[:5]) + (", ..." if len(self.left_out) > 5 else "")
            notes.append(
                f"Left out, because a method failed there: {_count(len(self.left_out))} ({some})."
            )
        return notes

    # Output formats.

    def header(self) -> list[str]:
        titles = [f"{m.title}, %" if m.percent else m.heading for m in self.metrics]
        arrows = ["↓" if metric.better == "lower" else "↑" for metric in self.metrics]
        return ["", *(f"{title} {arrow}" for title, arrow in zip(titles, arrows, strict=True))]

    def csv(self) -> str:
        """CSV with a line per method and metric:
        ``method, metric, mean, sd, low, high, n, p, p_holm``; p against the best.
        """
        text = io.StringIO(newline="")
        writer = csv.writer(text)
        writer.writerow(("method", "metric", "mean", "sd", "low", "high", "n", "p", "p_holm"))
        against = {(d.metric, d.method): d for d in self.differences}
        for name in self.names:
            for metric in self.metrics:
                found = summary(self.values(name, metric.column()))
                test = against.get((metric.key, name))
                numbers = (found[key] for key in ("mean", "sd", "low", "high"))
                known = ("" if math.isnan(number) else number for number in numbers)
                tested = ["", ""] if test is None else [test.p, test.corrected]
                writer.writerow([name, metric.column(), *known, int(found["n"]), *tested])
        return text.getvalue()

    def markdown(self, notes: Sequence[str] | None = None) -> str:
        """Markdown table, with :meth:`notes` or other sentences below it."""
        lines = [self.header(), ["---", *("---:" for _ in self.metrics)]]
        for name, cells in self.cells().items():
            shown = [f"**{c.text()}**" if c.best else c.text().replace("*", "\\*") for c in cells]
            lines.append([name.replace("|", "\\|"), *shown])
        table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
        told = " ".join(self.notes() if notes is None else notes).replace(" *: ", " \\*: ")
        return f"{table}\n\n{told}\n"

    def latex(self) -> str:
        """LaTeX ``tabular`` that needs no package, with the notes below it in small print."""
        arrows = {"↓": r"$\downarrow$", "↑": r"$\uparrow$"}
        head = [_latex(word[:-1]) + arrows[word[-1]] if word else "" for word in self.header()]
        lines = [" & ".join(head) + r" \\ \hline"]
        for name, cells in self.cells().items():
            marks = {"*": "^{*}", "†": r"^{\dagger}"}
            shown = []
            for cell in cells:
                text = "".join(marks.get(letter, letter) for letter in cell.text(r"\pm"))
                text = f"${text}$" if text else ""
                shown.append(rf"\boldmath{{{text}}}" if cell.best else text)
            lines.append(" & ".join([_latex(name), *shown]) + r" \\")
        marks = {"±": r"$\pm$", "†": r"$^{\dagger}$", "*": r"$^{*}$", "<": "$<$"}
        notes = "".join(marks.get(letter, letter) for letter in _latex(" ".join(self.notes())))
        body = "\n".join(lines)
        return (
            f"\\begin{{tabular}}{{l{'r' * len(self.metrics)}}}\n{body}\n\\end{{tabular}}\n\n"
            f"{{\\footnotesize {notes}\\par}}\n"
        )


def _count(pairs: int) -> str:
    return f"{pairs} pair{'' if pairs == 1 else 's'}"


def _latex(text: str) -> str:
    return text.translate(_LATEX)


def _printed(metric: Metric) -> tuple[int, int]:
    """Factor and digits with which tables of methods print a metric."""
    return (100, metric.digits - 2) if metric.percent else (1, metric.digits)
