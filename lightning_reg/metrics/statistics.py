"""Statistics over cases: means with confidence intervals, and paired tests."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np


def summary(values: Sequence[float]) -> dict[str, float]:
    """``mean``, ``sd``, and the 95 % confidence interval ``low`` to ``high`` of the mean (bootstrap
    over cases, BCa, 10,000 resamples).
    """
    array = np.asarray(values, dtype=float)
    found = {
        "mean": float(array.mean()),
        "sd": float(array.std(ddof=1)) if len(array) > 1 else math.nan,
        "n": len(array),
    }
    if len(array) < 3 or np.ptp(array) == 0:
        return found | {"low": math.nan, "high": math.nan}
    from scipy import stats  # imported late for a faster start-up

    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore"
            # for nearly equal values SciPy warns that the interval is NaN, which the tables leave
            # blank
        )
        interval = stats.bootstrap(
            (array,), np.mean, n_resamples=10_000, rng=np.random.default_rng(0)
        ).confidence_interval
    return found | {"low": float(interval.low), "high": float(interval.high)}


def summaries(rows: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """:func:`summary` of every column over the cases that have it."""
    columns = dict.fromkeys(key for row in rows for key in row)
    return {
        c: summary([row[c] for row in rows if is_number(row, c)])
        for c in columns
        if any(is_number(row, c) for row in rows)
    }


def paired(first: Sequence[float], second: Sequence[float]) -> dict[str, float]:
    """Compare two models on the same cases: :func:`summary` of second minus first, and the
    two-sided p of Wilcoxon's signed-rank test.
    """
    difference = np.asarray(second) - np.asarray(first)
    from scipy import stats  # imported late for a faster start-up

    p = 1.0 if not difference.any() else float(stats.wilcoxon(difference).pvalue)
    return summary(difference.tolist()) | {"p": p}


def holm(p: Sequence[float]) -> list[float]:
    """Correct p values for their number, so that the probability of any false positive stays below
    the level of significance.

    Source: S. Holm, A simple sequentially rejective multiple test procedure, Scandinavian Journal
        of Statistics 6, 1979.
    """
    order = np.argsort(p)
    stepped = np.maximum.accumulate([(len(p) - rank) * p[k] for rank, k in enumerate(order)])
    found = np.empty(len(p))
    found[order] = np.minimum(stepped, 1.0)
    return [float(value) for value in found]


def alike(values: Mapping[str, Sequence[float]]) -> list[list[str]]:
    """Group the names whose values are equal, but for rounding."""
    groups: list[list[str]] = []
    for name, own in values.items():
        for names in groups:
            known = values[names[0]]
            if len(known) == len(own) and np.allclose(known, own, rtol=1e-3, atol=1e-4):
                names.append(name)
                break
        else:
            groups.append([name])
    return groups


def is_number(row: Mapping[str, Any], column: str) -> bool:
    """Whether a row has a finite value in a column."""
    value = row.get(column)
    return isinstance(value, (int, float)) and math.isfinite(value)
