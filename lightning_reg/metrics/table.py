"""Table of metrics: key, title, unit and direction, for tables, figures and model selection."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

When = Literal["before", "after"]
WHEN: tuple[When, When] = ("before", "after")


@dataclass(frozen=True)
class Metric:
    """One metric of a registration.

    Args:
        key: name in files.
        title: name in tables and figures.
        better: whether ``lower`` or ``higher`` values are better.
        unit: ``mm``, ``nats``, or nothing.
        digits: decimal places in tables.
        ranks: cases and models can be ranked by it; the first such metric in the table is used.
        compared: it has a value before registration, too.
        percent: a fraction that tables of methods show in percent.
    """

    key: str
    title: str
    better: Literal["lower", "higher"] = "lower"
    unit: str = ""
    digits: int = 3
    ranks: bool = False
    compared: bool = True
    percent: bool = False

    def column(self, when: When = "after") -> str:
        """Name of its column in ``cases.csv``, and of its total."""
        unit = "_mm" if self.unit == "mm" else ""
        return f"{self.key}_{when}{unit}" if self.compared else self.key

    @property
    def stored(self) -> str:
        """Name of its entry in ``metrics.json``."""
        return f"{self.key}_mm" if self.unit == "mm" else self.key

    @property
    def heading(self) -> str:
        """Title with unit, as ``TRE, mm``."""
        return f"{self.title}, {self.unit}" if self.unit else self.title

    def error(self, value: float) -> float:
        """The value as an error: smaller is better (one minus an overlap or a correlation)."""
        return value if self.better == "lower" else 1 - value


METRICS: tuple[Metric, ...] = (
    Metric("tre", "TRE", "lower", "mm", 2, ranks=True),
    Metric("dice", "Dice", "higher", digits=3, ranks=True),
    Metric("hd95", "HD95", "lower", "mm", 2),
    Metric("assd", "ASSD", "lower", "mm", 2),
    Metric("hd", "HD", "lower", "mm", 2),
    Metric("field_error", "field error", "lower", "mm", 2, ranks=True),
    Metric("mask_dice", "Dice of masks", "higher", digits=3, ranks=True),
    Metric("ncc", "NCC", "higher", digits=3, ranks=True),
    Metric("lncc", "LNCC", "higher", digits=3),
    Metric("mi", "mutual information", "higher", "nats", 3),
    Metric("folding", "folding", "lower", digits=4, compared=False, percent=True),
    Metric("ndv", "NDV", "lower", digits=4, compared=False, percent=True),
    Metric("sdlogj", "SDlogJ", "lower", digits=3, compared=False),
    Metric("sd_j", "SD of J", "lower", digits=3, compared=False),
)
"""All built-in metrics. Field error: mean distance from the true displacement; folding: fraction of
voxels with ``det J <= 0``; NDV: non-diffeomorphic volume as a fraction, see
:func:`lightning_reg.functional.non_diffeomorphic_volume`; SDlogJ: standard deviation of
``log det J``; SD of J: that of ``det J``, as reported by de Vos et al. (2019).
"""
BY_KEY: Mapping[str, Metric] = {metric.key: metric for metric in METRICS}
COMPARED = tuple(metric for metric in METRICS if metric.compared)
RANKING = tuple(metric for metric in METRICS if metric.ranks)


def ranking(columns: Iterable[str]) -> Metric | None:
    """First metric of the table that ranks and has one of these columns; ``None``: none."""
    there = set(columns)
    return next((metric for metric in RANKING if metric.column() in there), None)


def primary_error(totals: Mapping[str, float]) -> float:
    """Error for model selection: the value of the :func:`ranking` metric as an error (mean TRE in
    mm, one minus Dice, ...).

    Raises:
        ValueError: the totals have no metric that ranks.
    """
    metric = ranking(totals)
    if metric is None:
        raise ValueError(f"no metric to choose a model by: {', '.join(totals)}")
    return metric.error(totals[metric.column()])


def heading(column: str) -> str:
    """Heading of a column of ``cases.csv``, as ``TRE after, mm``; or its name in words."""
    for metric in METRICS:
        if not metric.compared and column == metric.key:
            return metric.heading
        for when in WHEN:
            if metric.compared and column == metric.column(when):
                return f"{metric.title} {when}" + (f", {metric.unit}" if metric.unit else "")
    return column.replace("_mm", ", mm").replace("_", " ")
