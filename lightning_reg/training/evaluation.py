"""Evaluation of pairs by the module, and the watch for losses that are not finite."""

from __future__ import annotations

import math
from collections.abc import Sequence

import lightning as L
import torch

from lightning_reg.data.datamodule import RegistrationData
from lightning_reg.metrics import PairMetrics, evaluate, primary_error, totals
from lightning_reg.metrics.extra import ExtraMetric
from lightning_reg.spatial import Pair
from lightning_reg.training.finite import FiniteLoss, NotFiniteError


class EvaluatedModule(L.LightningModule):
    """LightningModule whose ``forward`` registers two images, and which measures the pairs of
    validations and tests.

    Attributes:
        cases: metrics of the last validation or test, by pair.
        metrics: measured in addition to those of the table.
    """

    def __init__(self) -> None:
        super().__init__()
        self.cases: list[PairMetrics] = []
        self.metrics: Sequence[ExtraMetric] = ()
        self._finite = FiniteLoss()

    def _require_finite(self) -> None:
        of_any = (
            (lambda broken: self.trainer.strategy.reduce_boolean_decision(broken, all=False))
            if self._processes > 1
            else bool
        )
        self._finite.require(of_any)

    def on_validation_epoch_start(self) -> None:
        self._require_finite()
        self.cases = []

    def validation_step(self, pair: Pair, batch_idx: int) -> None:
        for element in pair.elements():
            self.cases.append(
                evaluate(element, self(element.fixed, element.moving).transform, extra=self.metrics)
            )

    @property
    def _processes(self) -> int:
        """Number of processes that train or evaluate together."""
        return 1 if self._trainer is None else self.trainer.world_size

    def on_validation_epoch_end(self) -> None:
        self._gather_cases()
        summary = totals(self.cases)
        if not math.isfinite(primary_error(summary)):
            raise NotFiniteError(
                f"The validation became NaN or infinite at step {self.global_step}"
                f" ({self.cases[0].name}); lower `lr` or set"
                " `gradient_clip_val=1`."
            )
        together = self._processes > 1
        self.log_dict(
            {f"validation/{name}": value for name, value in summary.items()}, sync_dist=together
        )
        self.log("validation/error", primary_error(summary), prog_bar=True, sync_dist=together)

    def _gather_cases(self) -> None:
        """Gather the cases of all processes on every process, in the order of the pairs, which are
        distributed one by one.
        """
        data = getattr(self.trainer, "datamodule", None)
        if (
            self._processes == 1
            or not isinstance(data, RegistrationData)
            or not data.deals_out_validation
        ):
            return
        found: list[list[PairMetrics]] = [[] for _ in range(self._processes)]
        torch.distributed.all_gather_object(found, self.cases)
        self.cases = [
            cases[k] for k in range(max(map(len, found))) for cases in found if k < len(cases)
        ]

    def on_test_epoch_start(self) -> None:
        self.cases = []

    def test_step(self, pair: Pair, batch_idx: int) -> None:
        """Evaluate a pair as a validation does; the means are logged as ``test/<metric>``."""
        self.validation_step(pair, batch_idx)

    def on_test_epoch_end(self) -> None:
        self._gather_cases()
        self.log_dict(
            {f"test/{name}": value for name, value in totals(self.cases).items()},
            sync_dist=self._processes > 1,
        )
