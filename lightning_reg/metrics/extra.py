"""Metrics that other distributions add."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from lightning_reg.discovery import ComponentError, Described, blaming, build
from lightning_reg.metrics.table import Metric
from lightning_reg.spatial import Pair, Transform


class ExtraMetric(Described, ABC):
    """A metric of a registered pair beside those of the table, registered under ``lightning_reg.metrics``.

    Attributes:
        metric: key, title, unit, and which way is better. ``compared``: it has a value before registration, too.
    """

    metric: Metric

    @abstractmethod
    def __call__(self, pair: Pair, transform: Transform) -> float | None:
        """The value for a pair of batch size 1 and a transform, fixed world to moving world; ``None`` where the pair does not allow it."""


def measured(extra: ExtraMetric, pair: Pair, transform: Transform) -> float | None:
    """The value, as a number.

    Raises:
        ComponentError: the metric of another distribution failed, or returned something else.
    """
    with blaming(extra, f"measuring {pair.name[0]}"):
        value = extra(pair, transform)
        try:
            return None if value is None else float(value)
        except (TypeError, ValueError) as cause:
            raise ComponentError(f"The metric {type(extra).__name__} returned {type(value).__name__}; return a number or None.") from cause


def build_metrics(names: Sequence[object]) -> list[ExtraMetric]:
    """The metrics that a configuration or a command names, each a name or ``{name, **arguments}``.

    Raises:
        ComponentError: one is unknown, or refuses an argument.
    """
    return [build("metrics", name, ExtraMetric) for name in names]  # type: ignore[arg-type]
