"""The LightningModule: a composer, a loss bundle and an optimiser."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_warn
from torch import Tensor
from torch.optim import Optimizer
from torch.utils.checkpoint import checkpoint

from lightning_reg import __version__
from lightning_reg.components.contracts import require_registration
from lightning_reg.components.interfaces import Composer, Registration
from lightning_reg.components.losses.bundle import LossBundle, LossValue
from lightning_reg.components.network import Network
from lightning_reg.configuration.building import build_composer, build_loss, built, factory
from lightning_reg.configuration.describing import (
    describe,
    describe_optimizer,
    plain,
    provenance,
    without_numpy,
)
from lightning_reg.data.datamodule import RegistrationData
from lightning_reg.data.datasets.identity import identify
from lightning_reg.data.preprocessing import Preprocessing
from lightning_reg.registry import (
    ArgumentError,
    Checked,
    ComponentError,
    Instance,
    TrainingError,
    blaming,
    construct,
    registration,
)
from lightning_reg.registry.provenance import entry, require_installed
from lightning_reg.spatial import Image, Pair
from lightning_reg.training.checkpoints import read_checkpoint
from lightning_reg.training.evaluation import EvaluatedModule
from lightning_reg.training.model import load_weights
from lightning_reg.training.schedules import DecaySchedule, OptimizerFactory, Schedule


class RegistrationModule(Checked, EvaluatedModule):
    """LightningModule that trains any composer with any loss.

    Batches are :class:`~lightning_reg.spatial.Pair`. Checkpoints contain the names and arguments of
    all components, the preprocessing of the images and the weights. They are read by
    :func:`lightning_reg.load`, ``lightning-reg register`` and :meth:`load_from_checkpoint`.

    Args:
        composer: registers a pair.
        loss: evaluates a registration.
        optimizer: function of the parameters that returns an optimiser; default
            ``functools.partial(torch.optim.Adam, lr=1e-3)``.
        schedule: schedule of the learning rate; default constant.
        split_batch: train with the memory of one element of a batch: every element is recomputed in
            the backward pass. Needs networks without batch normalisation.
        preprocessing: preprocessing of the training images, stored in the checkpoint for applying
            the model; default that of the ``RegistrationData`` given to the trainer.

    :attr:`statistics` (:func:`lightning_reg.data.statistics.statistics` of the training scans) and
    :attr:`identity` (:func:`lightning_reg.data.datasets.identity.identify` of the data) are stored
    there as well. :attr:`metrics` are measured in validations, in addition to those of the table.
    """

    def __init__(
        self,
        composer: Annotated[Composer, Instance("SingleComposer(network), or another composer")],
        loss: Annotated[LossBundle, Instance("LossBundle({name: (weight, term)})")],
        optimizer: OptimizerFactory | None = None,
        schedule: Annotated[Schedule, Instance("a schedule, as DecaySchedule(cooldown=0.5)")]
        | None = None,
        *,
        split_batch: bool = False,
        preprocessing: Annotated[Preprocessing, Instance("Preprocessing(...)")] | None = None,
    ) -> None:
        super().__init__()
        optimizer = functools.partial(torch.optim.Adam, lr=1e-3) if optimizer is None else optimizer
        if not callable(optimizer):
            made = isinstance(optimizer, Optimizer)
            given = "has its parameters already" if made else f"is {optimizer!r}"
            raise ArgumentError(
                f"optimizer {given}; give one that waits for them, as"
                " functools.partial(torch.optim.Adam, lr=1e-3)"
            )
        if isinstance(optimizer, functools.partial):  # its numbers become part of checkpoints
            arguments, keywords = without_numpy(optimizer.args), without_numpy(optimizer.keywords)
            optimizer = functools.partial(optimizer.func, *arguments, **keywords)
        self.composer, self.loss, self.optimizer = composer, loss, optimizer
        self.schedule = DecaySchedule() if schedule is None else schedule
        self.preprocessing = preprocessing
        self.statistics: Mapping[str, Any] = {}
        self.identity: Mapping[str, Any] = {}
        self.split_batch = split_batch
        if split_batch and any(isinstance(part, torch.nn.BatchNorm3d) for part in self.modules()):
            raise ComponentError(
                "`split_batch` needs networks without batch normalisation: set `norm='instance'`,"
                " or `split_batch=False`."
            )
        self.train_with()

    @classmethod
    def from_configuration(cls, method: Mapping[str, Any]) -> RegistrationModule:
        """Build the module from ``{composer, loss, optimizer, schedule, split_batch}``, plain
        values; other keys are ignored.

        Raises:
            ComponentError: a component is unknown, or refuses an argument.
        """
        return cls(
            build_composer(method["composer"], "method.composer"),
            build_loss(method["loss"], "method.loss"),
            factory(Optimizer, method["optimizer"], "method.optimizer"),
            built(Schedule, method.get("schedule") or {}, "method.schedule"),
            split_batch=bool(method.get("split_batch")),
        )

    def description(self) -> dict[str, Any]:
        """Return a specification from which :meth:`from_configuration` builds the module again.

        Raises:
            ComponentError: a class that no installed distribution registers, or an argument that is
                neither a component nor a plain value.
        """
        return {
            "composer": describe(self.composer),
            "loss": describe(self.loss),
            "optimizer": describe_optimizer(self.optimizer),
            "schedule": describe(self.schedule),
            "split_batch": self.split_batch,
        }

    def components(self) -> list[dict[str, str]]:
        """Return ``{group, name, distribution, version}`` of every component of the module.

        Raises:
            ComponentError: a class that no installed distribution registers.
        """
        optimizer = (
            self.optimizer.func if isinstance(self.optimizer, functools.partial) else self.optimizer
        )
        own = [("optimizers", optimizer), ("schedules", type(self.schedule))]
        return provenance(self.composer, self.loss) + [
            entry(group, registration(cls, group))  # type: ignore[arg-type]
            for group, cls in own
        ]

    def train_with(
        self,
        optimizer: OptimizerFactory | None = None,
        schedule: Schedule | None = None,
        steps: int | None = None,
    ) -> None:
        """Choose optimiser and schedule for the next call of :meth:`configure_optimizers`, for a
        stage of a training.

        Args:
            optimizer, schedule: default the module's own.
            steps: number of steps of the schedule; default the trainer's.
        """
        self._optimizer, self._schedule, self._steps = (
            optimizer or self.optimizer,
            schedule or self.schedule,
            steps,
        )

    def compile_networks(self) -> None:
        """Compile the backbones with ``torch.compile``, which fuses the operations between
        convolutions. Weights keep their names.

        Heads, warping and the loss are not compiled, because their sizes and grids change from pair
        to pair.
        """
        for part in self.modules():
            if isinstance(part, Network):
                part.backbone.compile(dynamic=False)

    def setup(self, stage: str) -> None:
        data = getattr(self.trainer, "datamodule", None)
        if stage == "fit" and isinstance(data, RegistrationData):
            self.loss.require(data.available())
            self.preprocessing = self.preprocessing or data.preprocessing
            if plain(asdict(self.preprocessing), "preprocessing") != plain(
                asdict(data.preprocessing), "preprocessing"
            ):
                rank_zero_warn(
                    f"The model keeps its own preprocessing ({self.preprocessing}), but its"
                    f" training data use another one ({data.preprocessing}): give the same"
                    " preprocessing to RegistrationData and to the module."
                )
            self.statistics = self.statistics or data.statistics
            self.identity = self.identity or identify(data.data)

    def on_fit_start(self) -> None:
        """Check, before the first step, the precision and that checkpoints can be written.

        Raises:
            ComponentError: a checkpoint cannot be written, see :meth:`description`.
            TrainingError: a checkpoint cannot be written, or the precision is not supported.
        """
        precision = str(self.trainer.precision)
        if precision.endswith("true") and precision != "32-true":
            raise TrainingError(
                f"precision is {precision}, which is not supported; use 32-true, bf16-mixed or"
                " 16-mixed."
            )
        if self.trainer.checkpoint_callbacks:
            self._stored()

    def forward(self, fixed: Image, moving: Image) -> Registration:
        with blaming(self.composer, "registering a pair"):
            registration = self.composer(fixed, moving)
        require_registration(self.composer, registration)
        return registration

    def loss_of(self, pair: Pair) -> LossValue:
        """Register a batch, in both directions if a term compares them; return the loss."""
        registration = self(pair.fixed, pair.moving)
        if self.loss.reverse:
            registration = registration.with_reverse(self(pair.moving, pair.fixed))
        return self.loss(registration, pair)

    def training_step(self, pair: Pair, batch_idx: int) -> Tensor:
        value = self.training_loss(pair)
        self._require_finite()  # on a GPU, checks the previous step, whose result is known by now
        self._finite.watch(value.terms, self.global_step, pair.name)
        if not value.total.is_cuda:
            self._require_finite()
        settings: dict[str, Any] = {
            "batch_size": pair.fixed.tensor.shape[0],
            "sync_dist": self._processes > 1,
        }
        self.log("train/loss", value.total, prog_bar=True, **settings)
        self.log_dict(
            {f"train/{name}": term for name, term in value.terms.items()},
            prog_bar=len(value.terms) > 1,
            **settings,
        )
        return value.total

    def training_loss(self, pair: Pair) -> LossValue:
        """Return :meth:`loss_of` a batch; with ``split_batch``, with the memory of one element,
        recomputing each in the backward pass.
        """
        if not self.split_batch or pair.fixed.tensor.shape[0] == 1:
            return self.loss_of(pair)
        values: list[LossValue] = [
            checkpoint(self.loss_of, element, use_reentrant=False) for element in pair.elements()
        ]
        terms = {
            name: torch.stack([value.terms[name] for value in values]).mean()
            for name in values[0].terms
        }
        return LossValue(torch.stack([value.total for value in values]).mean(), terms)

    def predict_step(self, pair: Pair, batch_idx: int) -> Registration:
        """Return the registration of a batch; ``transform`` maps fixed to moving world."""
        return self(pair.fixed, pair.moving)

    def configure_optimizers(self) -> Any:
        try:
            optimizer = self._optimizer([p for p in self.parameters() if p.requires_grad])
        except (TypeError, ValueError) as cause:
            raise ComponentError(f"The optimizer refuses its arguments: {cause}.") from cause
        steps = self._steps or (self.planned_steps() if self._schedule.counts_steps else 1)
        every = 1 if self._trainer is None else self.trainer.check_val_every_n_epoch or 1
        return {
            "optimizer": optimizer,
            "lr_scheduler": self._schedule.scheduler(optimizer, steps, every),
        }

    def planned_steps(self) -> int:
        """Return the number of training steps: that of ``max_steps`` or ``max_epochs`` of the
        trainer, whichever is less.

        Raises:
            TrainingError: the trainer has neither.
        """
        steps = self.trainer.estimated_stepping_batches
        if not math.isfinite(steps):
            raise TrainingError(
                "The learning rate or the stages depend on the trainer's number of steps; give"
                " max_steps or max_epochs."
            )
        return int(steps)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self._require_finite()
        checkpoint["lightning_reg"] = self._stored()

    def _stored(self) -> dict[str, Any]:
        """Return the contents of a checkpoint that describe the module, plain values.

        Raises:
            ComponentError: see :meth:`description`.
            TrainingError: the preprocessing is not known.
        """
        if self.preprocessing is None:
            raise TrainingError(
                "The module has no preprocessing, which is needed to apply the model; give"
                " RegistrationModule(preprocessing=Preprocessing(...)) that of the training images,"
                " or give the trainer a RegistrationData."
            )
        return {
            "version": __version__,
            "model": self.description(),
            "components": self.components(),
            "preprocessing": without_numpy(asdict(self.preprocessing)),
            "statistics": self.statistics,
            "data": self.identity,
        }

    @classmethod
    def load_from_checkpoint(  # type: ignore[override]
        cls, checkpoint_path: Any, map_location: Any = None, **kwargs: Any
    ) -> RegistrationModule:
        """Load the trained module of a checkpoint file. As in Lightning, it is in training mode;
        call ``eval()`` before you apply it.

        Only tensors and plain values are loaded: no code from the file is executed.

        Args:
            checkpoint_path: file written by a training.
            map_location: device of the weights.

        Raises:
            TrainingError: the file does not exist, is damaged, is of an earlier version, or was not
                written by lightning_reg.
            ComponentError: a component of the model is not installed.
            TypeError: other arguments are given; everything else is in the file.
        """
        if kwargs:
            raise TypeError(
                f"load_from_checkpoint takes no {', '.join(kwargs)}: the file says what the model"
                " is made of"
            )
        checkpoint = read_checkpoint(Path(checkpoint_path).expanduser())
        stored = checkpoint["lightning_reg"]
        components = stored.get("components", [])
        require_installed(components, str(checkpoint_path))
        module = cls.from_configuration(stored["model"])
        module.preprocessing = construct("preprocessing", Preprocessing, stored["preprocessing"])
        module.statistics, module.identity = stored.get("statistics", {}), stored.get("data", {})
        load_weights(module, checkpoint["state_dict"], str(checkpoint_path), components)
        return module if map_location is None else module.to(map_location)
