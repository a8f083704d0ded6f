"""Metrics added by other distributions."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from lightning_reg.metrics.table import Metric
from lightning_reg.registry import ComponentError, Described, blaming, build
from lightning_reg.spatial import Pair, Transform


class ExtraMetric(Described, ABC):
    """Metric of a registered pair in addition to those of the table, registered under
    ``lightning_reg.metrics``.

    Attributes:
        metric: key, title, unit and direction; ``compared``: it has a value before registration,
            too.
    """

    metric: Metric

    @abstractmethod
    def __call__(self, pair: Pair, transform: Transform) -> float | None:
        """The value for a pair of batch size 1 and a transform, fixed world to moving world;
        ``None`` if the pair lacks the data.
        """


def measured(extra: ExtraMetric, pair: Pair, transform: Transform) -> float | None:
    """Measure a pair with a metric; the value as a number.

    Raises:
        ComponentError: the metric of another distribution failed, or returned no number.
    """
    with blaming(extra, f"measuring {pair.name[0]}"):
        value = extra(pair, transform)
        try:
            return None if value is None else float(value)
        except (TypeError, ValueError) as cause:
            raise ComponentError(
                f"The metric {type(extra).__name__} returned {type(value).__name__}; return a"
                " number or None."
            ) from cause


def build_metrics(names: Sequence[object]) -> list[ExtraMetric]:
    """Build the metrics of a configuration or a command.

    Args:
        names: metrics of other distributions. In a configuration also ``{name, **arguments}``.

    Raises:
        ComponentError: a metric is unknown, or refuses an argument.
    """
    return [build("metrics", name, ExtraMetric) for name in names]  # type: ignore[arg-type]
