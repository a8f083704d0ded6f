"""Metrics of registrations: their table, metrics of a pair, totals, intervals, paired tests."""

from lightning_reg.metrics.comparison import Comparison
from lightning_reg.metrics.pair import PairMetrics, evaluate, totals
from lightning_reg.metrics.statistics import paired, summaries, summary
from lightning_reg.metrics.table import METRICS, Metric, primary_error

__all__ = [
    "METRICS",
    "Comparison",
    "Metric",
    "PairMetrics",
    "evaluate",
    "paired",
    "primary_error",
    "summaries",
    "summary",
    "totals",
]
