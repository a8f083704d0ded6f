"""For every kind, a correct component and, for each check, a component that fails only this check.

``BROKEN[kind][check]`` is ``(description of the fault, factory)``; the table in ``docs/plugins.md``
is generated from it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning as L
import torch
import torch.nn.functional as F
import torchio as tio
from torch import Tensor, nn

from lightning_reg.components import (
    Backbone,
    Features,
    Growable,
    Head,
    Level,
    LossTerm,
    Registration,
    Staged,
)
from lightning_reg.components.composers import SingleComposer, StackedComposer
from lightning_reg.components.network import Network
from lightning_reg.data.datasets.interface import Record, RegistrationDataset, usual_pairs
from lightning_reg.registry import DataError
from lightning_reg.spatial import Displacement, Grid, Image, Pair, Transform


class Backbone_(Backbone):
    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.channels, self.strides, self.multiple = (
            (width, width),
            ((2, 2, 2), (1, 1, 1)),
            (2, 2, 2),
        )
        self.fine, self.coarse = (
            nn.Conv3d(2, width, 3, padding=1),
            nn.Conv3d(width, width, 3, padding=1),
        )

    def forward(self, fixed: Tensor, moving: Tensor) -> Sequence[Tensor | None]:
        fine = F.leaky_relu(self.fine(torch.cat([fixed, moving], 1)))
        coarse = self.coarse(F.avg_pool3d(fine, 2))
        return [coarse, fine + F.interpolate(coarse, scale_factor=2)]


class FinestFirst(Backbone_):
    def __init__(self) -> None:
        super().__init__()
        self.strides = self.strides[::-1]


class OneMapTooMany(Backbone_):
    def forward(self, fixed: Tensor, moving: Tensor) -> Sequence[Tensor | None]:
        return [
            torch.cat([f, f[:, :1]], 1) for f in super().forward(fixed, moving) if f is not None
        ]


class TakesAnObject(Backbone_):
    def __init__(self, width: int = 4, activation: Any = F.relu) -> None:
        super().__init__(width)


class MinusTheBatchsMean(Backbone_):
    def forward(self, fixed: Tensor, moving: Tensor) -> Sequence[Tensor | None]:
        return [
            f - f.mean(0, keepdim=True) for f in super().forward(fixed, moving) if f is not None
        ]


class ReadsTheFixedImage(Backbone_):
    def forward(self, fixed: Tensor, moving: Tensor) -> Sequence[Tensor | None]:
        return super().forward(fixed, fixed)


class DropsOutAlways(Backbone_):
    def forward(self, fixed: Tensor, moving: Tensor) -> Sequence[Tensor | None]:
        return [
            F.dropout(f, 0.1, training=True)
            for f in super().forward(fixed, moving)
            if f is not None
        ]


class HasALayerLeft(Backbone_):
    def __init__(self) -> None:
        super().__init__()
        self.left = nn.Conv3d(2, 2, 1)


def cancelled(tensor: Tensor) -> Tensor:
    """The inverse of a mean square of some tenths, by a difference that half precision has no
    digits for, ``(B, 1, 1)``.
    """
    flat = tensor.flatten(1).unsqueeze(1)
    product = flat @ flat.transpose(1, 2) / flat.shape[2]  # in half precision under autocast
    return 1 / ((product + 1000) - 1000)


class DividesByADifference(Backbone_):
    def forward(self, fixed: Tensor, moving: Tensor) -> Sequence[Tensor | None]:
        return [
            f * cancelled(fixed)[..., None, None]
            for f in super().forward(fixed, moving)
            if f is not None
        ]


class MakesTensorsOnTheCpu(Backbone_):
    def forward(self, fixed: Tensor, moving: Tensor) -> Sequence[Tensor | None]:
        return [
            f * torch.ones(f.shape[1], 1, 1, 1)
            for f in super().forward(fixed, moving)
            if f is not None
        ]


class KeepsAnAttribute(Backbone_):
    def __init__(self) -> None:
        super().__init__()
        self.scale = torch.rand(1)  # no buffer

    def forward(self, fixed: Tensor, moving: Tensor) -> Sequence[Tensor | None]:
        return [f * self.scale.to(f) for f in super().forward(fixed, moving) if f is not None]


class ForgetsItsGrowth(Backbone_, Growable):
    def __init__(self) -> None:
        super().__init__()
        self.alpha = (0.0, 1.0)

    def get_extra_state(self) -> dict[str, Any]:
        return {}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        pass


class Head_(Head):
    def __init__(self, channels: Sequence[int]) -> None:
        super().__init__()
        self.field = nn.Conv3d(channels[-1], 3, 3, padding=1)
        nn.init.normal_(self.field.weight, std=1e-4)
        nn.init.zeros_(self.field.bias)  # type: ignore[arg-type]

    def tensor(self, features: Features, grid: Grid) -> Tensor:
        i, j, k = grid.shape
        assert features[-1] is not None
        return self.field(features[-1]).float()[:, :, :i, :j, :k]

    def forward(self, features: Features, grid: Grid) -> Sequence[Transform]:
        return [Displacement(self.tensor(features, grid), grid)]


class ReturnsATensor(Head_):
    def forward(self, features: Features, grid: Grid) -> Sequence[Transform]:
        return self.tensor(features, grid)  # type: ignore[return-value]


class HeadTakesAnObject(Head_):
    def __init__(self, channels: Sequence[int], activation: Any = F.relu) -> None:
        super().__init__(channels)


class StartsFarAway(Head_):
    def __init__(self, channels: Sequence[int]) -> None:
        super().__init__(channels)
        nn.init.constant_(self.field.bias, 3.0)  # type: ignore[arg-type]


class NeverMoves(Head_):
    def tensor(self, features: Features, grid: Grid) -> Tensor:
        return 0 * super().tensor(features, grid)


class HeadMinusTheBatchsMean(Head_):
    def tensor(self, features: Features, grid: Grid) -> Tensor:
        field = super().tensor(features, grid)
        return field - 0.5 * field.mean(0, keepdim=True)


class Reversed(Displacement):
    """The order of ``grid_sample``."""

    def displacement(self, grid: Grid) -> Tensor:
        return super().displacement(grid).flip(1)


class ReversesComponents(Head_):
    def forward(self, features: Features, grid: Grid) -> Sequence[Transform]:
        return [Reversed(self.tensor(features, grid), grid)]


class ReadsDirections(Head_):
    def tensor(self, features: Features, grid: Grid) -> Tensor:
        return super().tensor(features, grid) * float(grid.affine[0, 0, 0])


class IsItsOwnInverse(Displacement):
    def inverse(self) -> Transform:
        return self


class HasNoInverse(Head_):
    def forward(self, features: Features, grid: Grid) -> Sequence[Transform]:
        return [IsItsOwnInverse(self.tensor(features, grid), grid)]


class HeadHasALayerLeft(Head_):
    def __init__(self, channels: Sequence[int]) -> None:
        super().__init__(channels)
        self.left = nn.Linear(2, 2)


class HeadDividesByADifference(Head_):
    def tensor(self, features: Features, grid: Grid) -> Tensor:
        assert features[-1] is not None
        return super().tensor(features, grid) * cancelled(features[-1])[..., None, None]


class HeadMakesTensorsOnTheCpu(Head_):
    def tensor(self, features: Features, grid: Grid) -> Tensor:
        return super().tensor(features, grid) * torch.ones(3, 1, 1, 1)


class HeadKeepsAnAttribute(Head_):
    def __init__(self, channels: Sequence[int]) -> None:
        super().__init__(channels)
        self.scale = torch.rand(1)

    def tensor(self, features: Features, grid: Grid) -> Tensor:
        field = super().tensor(features, grid)
        return field * self.scale.to(field)


class HeadForgetsItsGrowth(Head_, Growable):
    def __init__(self, channels: Sequence[int]) -> None:
        super().__init__(channels)
        self.alpha = (1.0,)

    def grow(self, alpha: Sequence[float]) -> None:
        self.alpha = tuple(alpha)  # whatever comes


def network() -> Network:
    backbone = Backbone_()
    return Network(backbone, Head_(backbone.channels))


class ComposerOf(SingleComposer):
    """A composer whose transform is changed by ``change``."""

    def __init__(self) -> None:
        super().__init__(network())

    def change(self, field: Tensor, grid: Grid) -> Tensor:
        return field

    def forward(self, fixed: Image, moving: Image) -> Registration:
        transform = super().forward(fixed, moving).transform
        changed = Displacement(
            self.change(transform.displacement(fixed.grid), fixed.grid), fixed.grid
        )
        return Registration((Level(fixed, moving, changed, changed),))


class HasNoLevels(ComposerOf):
    def forward(self, fixed: Image, moving: Image) -> Registration:
        return Registration(())


class ComposerTakesAnObject(ComposerOf):
    def __init__(self, activation: Any = F.relu) -> None:
        super().__init__()


class IgnoresGrids(ComposerOf):
    def forward(self, fixed: Image, moving: Image) -> Registration:
        return super().forward(fixed, replace(moving, grid=fixed.grid))


class ComposerStartsFarAway(ComposerOf):
    def change(self, field: Tensor, grid: Grid) -> Tensor:
        return field + 2


class ComposerMinusTheBatchsMean(ComposerOf):
    def change(self, field: Tensor, grid: Grid) -> Tensor:
        return field - 0.5 * field.mean(0, keepdim=True) + 0.1 * field.shape[0]


class ComposerReadsDirections(ComposerOf):
    def change(self, field: Tensor, grid: Grid) -> Tensor:
        return field + 0.3 * float(grid.affine[0, 0, 0])


class HasANetworkLeft(ComposerOf):
    def __init__(self) -> None:
        super().__init__()
        self.left = network()


class Detaches(ComposerOf):
    def change(self, field: Tensor, grid: Grid) -> Tensor:
        return field.detach() + 0 * field


class ComposerDividesByADifference(ComposerOf):
    def change(self, field: Tensor, grid: Grid) -> Tensor:
        return field * cancelled(torch.full_like(field, 0.6))[..., None, None]


class ComposerMakesTensorsOnTheCpu(ComposerOf):
    def change(self, field: Tensor, grid: Grid) -> Tensor:
        return field * torch.ones(3, 1, 1, 1)


class ComposerKeepsAnAttribute(ComposerOf):
    def __init__(self) -> None:
        super().__init__()
        self.scale = torch.rand(1)

    def change(self, field: Tensor, grid: Grid) -> Tensor:
        return field * self.scale.to(field)


class FreezesNothing(StackedComposer):
    def __init__(self) -> None:
        super().__init__([network(), network()])

    def activate(self, trained: Sequence[int]) -> None:
        self.trained, self.active = tuple(trained), max(trained) + 1


assert issubclass(FreezesNothing, Staged)


class Term_(LossTerm):
    def values(self, level: Level, pair: Pair) -> Tensor:
        return (level.fixed.tensor - level.warped.tensor).square().flatten(1).mean(1)

    def forward(self, level: Level, pair: Pair) -> Tensor:
        return self.values(level, pair)


class OneValueInAll(Term_):
    def forward(self, level: Level, pair: Pair) -> Tensor:
        return self.values(level, pair).mean()


class TermTakesAnObject(Term_):
    def __init__(self, activation: Any = F.relu) -> None:
        super().__init__()


class ReadsAMaskUnasked(Term_):
    def forward(self, level: Level, pair: Pair) -> Tensor:
        return self.values(level, pair) * pair.fixed_mask.tensor.float().mean()  # type: ignore[union-attr]


class DividesByTheBatchsMean(Term_):
    def forward(self, level: Level, pair: Pair) -> Tensor:
        values = self.values(level, pair)
        return values / values.mean()


class WrongSign(Term_):
    def forward(self, level: Level, pair: Pair) -> Tensor:
        return -self.values(level, pair)


class HasNoGradient(Term_):
    def forward(self, level: Level, pair: Pair) -> Tensor:
        return self.values(level, pair).detach()


class Sums(Term_):
    def forward(self, level: Level, pair: Pair) -> Tensor:
        return self.values(level, pair) * level.fixed.tensor[0].numel()


class TermDividesByADifference(Term_):
    def forward(self, level: Level, pair: Pair) -> Tensor:
        return self.values(level, pair) * cancelled(level.fixed.tensor).flatten(1).mean(1)


class ChangesTheImage(Term_):
    def forward(self, level: Level, pair: Pair) -> Tensor:
        level.fixed.tensor.mul_(0.5)
        return self.values(level, pair)


class Callback_(L.Callback):
    def __init__(self) -> None:
        self.count = 0

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        self.count += 1

    def state_dict(self) -> dict[str, Any]:
        return {"count": self.count}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.count = state_dict["count"]


class StopsAtOnce(Callback_):
    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        trainer.should_stop = True


class KeepsAPath(Callback_):
    def state_dict(self) -> dict[str, Any]:
        return {"count": self.count, "folder": Path("here")}


class CountsAnew(Callback_):
    """Changes weights by a count that no checkpoint has."""

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
        with torch.no_grad():
            for parameter in pl_module.parameters():
                parameter.add_(1e-3 * self.count)

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        pass


class Dataset_(RegistrationDataset):
    def __init__(self, seed: int = 0) -> None:
        self.seed = seed
        self.found = [Record(f"s{k}", split="train" if k < 3 else "validation") for k in range(5)]

    def records(self) -> Sequence[Record]:
        return self.found

    def load(self, record: Record) -> tio.Subject:
        generator = torch.Generator().manual_seed(self.seed + int(record.subject[1:]))
        return tio.Subject(
            name=record.name,
            image=tio.ScalarImage(tensor=torch.rand(1, 9, 8, 7, generator=generator)),
        )

    def pairs(self) -> Sequence[tuple[Record, Record]]:
        return usual_pairs(self.found)


class NamesTwice(Dataset_):
    def records(self) -> Sequence[Record]:
        return [*self.found, self.found[0]]


class NamesFilesThatAreNotThere(Dataset_):
    def __init__(self) -> None:
        super().__init__()
        self.found = [
            replace(record, image=Path("/nowhere/at/all.nii.gz")) for record in self.found
        ]


class PairsAcrossSplits(Dataset_):
    def pairs(self) -> Sequence[tuple[Record, Record]]:
        return [(self.found[0], self.found[-1]), *super().pairs()]


class LoadsNaN(Dataset_):
    def load(self, record: Record) -> tio.Subject:
        subject = super().load(record)
        subject["image"].data[0, 0, 0, 0] = float("nan")
        return subject


class HandsOutItsCache(Dataset_):
    def __init__(self) -> None:
        super().__init__()
        self.cache: dict[str, Any] = {}

    def load(self, record: Record) -> tio.Subject:
        if record.name not in self.cache:
            self.cache[record.name] = super().load(record)
        return self.cache[record.name]


class MixesSubjectsUp(Dataset_):
    def load(self, record: Record) -> tio.Subject:
        subject = super().load(record)
        subject["group"] = "everybody"
        return subject


class DatasetTakesAnObject(Dataset_):
    def __init__(self, seed: int = 0, reader: Any = len) -> None:
        super().__init__(seed)


class HoldsAFunction(Dataset_):
    def __init__(self) -> None:
        super().__init__()
        self.reader = lambda path: path


class MindsNoFolder(Dataset_):
    def __init__(self, root: str = "") -> None:
        super().__init__()


class Rooted(Dataset_):
    """A sound one with a folder."""

    def __init__(self, root: str = "") -> None:
        super().__init__()
        if root and not Path(root).is_dir():
            raise DataError(f"{root} is not there; correct data.root.")


Factory = Callable[..., Any]
SOUND: dict[str, Factory] = {
    "backbone": Backbone_, "head": Head_, "composer": ComposerOf, "loss": Term_,
    "callback": Callback_, "dataset": Rooted,
}  # fmt: skip
BROKEN: dict[str, dict[str, tuple[str, Factory]]] = {
    "backbone": {
        "declares_levels": ("strides given finest first", FinestFirst),
        "features_as_declared": ("one map more than `channels` says", OneMapTooMany),
        "arguments_are_kept": ("a function as an argument", TakesAnObject),
        "elements_are_independent": ("the batch's mean subtracted", MinusTheBatchsMean),
        "both_images_are_read": ("the fixed image read twice", ReadsTheFixedImage),
        "is_deterministic": ("dropout in evaluation", DropsOutAlways),
        "gradients_reach_every_parameter": ("a layer that is left over", HasALayerLeft),
        "mixed_precision": (
            "a difference taken in half precision and divided by",
            DividesByADifference,
        ),
        "follows_its_device": ("a tensor made on the CPU", MakesTensorsOnTheCpu),
        "state_is_kept": ("a random tensor that is no buffer", KeepsAnAttribute),
        "growth": ("the growth left out of the state", ForgetsItsGrowth),
    },
    "head": {
        "makes_transforms": ("a tensor returned", ReturnsATensor),
        "arguments_are_kept": ("a function as an argument", HeadTakesAnObject),
        "starts_near_the_identity": ("a bias of three voxels", StartsFarAway),
        "can_move": ("an output times 0", NeverMoves),
        "elements_are_independent": ("half of the batch's mean subtracted", HeadMinusTheBatchsMean),
        "component_a_moves_along_axis_a": (
            "components in the order of `grid_sample`",
            ReversesComponents,
        ),
        "does_not_depend_on_directions": (
            "voxels multiplied by a number of the affine",
            ReadsDirections,
        ),
        "has_an_inverse": ("a transform that says it is its own inverse", HasNoInverse),
        "gradients_reach_every_parameter": ("a layer that is left over", HeadHasALayerLeft),
        "mixed_precision": (
            "a difference taken in half precision and divided by",
            HeadDividesByADifference,
        ),
        "follows_its_device": ("a tensor made on the CPU", HeadMakesTensorsOnTheCpu),
        "state_is_kept": ("a random tensor that is no buffer", HeadKeepsAnAttribute),
        "growth": ("any weights accepted", HeadForgetsItsGrowth),
    },
    "composer": {
        "makes_a_registration": ("no levels", HasNoLevels),
        "arguments_are_kept": ("a function as an argument", ComposerTakesAnObject),
        "takes_images_of_different_grids": (
            "the moving image taken to lie on the fixed grid",
            IgnoresGrids,
        ),
        "starts_near_the_identity": ("a shift of two voxels", ComposerStartsFarAway),
        "elements_are_independent": (
            "half of the batch's mean subtracted",
            ComposerMinusTheBatchsMean,
        ),
        "does_not_depend_on_directions": (
            "a shift by a number of the affine",
            ComposerReadsDirections,
        ),
        "gradients_reach_every_parameter": ("a network that is left over", HasANetworkLeft),
        "learns_a_translation": ("a field without its gradient", Detaches),
        "mixed_precision": (
            "a difference taken in half precision and divided by",
            ComposerDividesByADifference,
        ),
        "follows_its_device": ("a tensor made on the CPU", ComposerMakesTensorsOnTheCpu),
        "state_is_kept": ("a random tensor that is no buffer", ComposerKeepsAnAttribute),
        "growth_and_stages": ("a stage that freezes nothing", FreezesNothing),
    },
    "loss": {
        "one_value_per_element": ("one value for the whole batch", OneValueInAll),
        "arguments_are_kept": ("a function as an argument", TermTakesAnObject),
        "needs_what_it_declares": ("a mask that `needs` does not name", ReadsAMaskUnasked),
        "elements_are_independent": ("values divided by the batch's mean", DividesByTheBatchsMean),
        "prefers_the_truth": ("the sign reversed", WrongSign),
        "is_differentiable": ("values detached", HasNoGradient),
        "is_a_mean": ("a sum over voxels", Sums),
        "mixed_precision": (
            "a difference taken in half precision and divided by",
            TermDividesByADifference,
        ),
        "leaves_its_input_alone": ("the fixed image halved in place", ChangesTheImage),
    },
    "callback": {
        "watches_a_training": ("the training stopped after its first step", StopsAtOnce),
        "state_is_plain": ("a path in the state", KeepsAPath),
        "resumes": ("a count that no checkpoint has", CountsAnew),
    },
    "dataset": {
        "lists_records": ("a record that is there twice", NamesTwice),
        "files_are_there": ("a file that is not there", NamesFilesThatAreNotThere),
        "lists_pairs": ("a pair across two splits", PairsAcrossSplits),
        "loads_subjects": ("NaN in an image", LoadsNaN),
        "loads_the_same_twice": ("the cached subject handed out", HandsOutItsCache),
        "groups_are_subjects": ("one group for all subjects", MixesSubjectsUp),
        "arguments_are_kept": ("a function as an argument", DatasetTakesAnObject),
        "goes_to_other_processes": ("a function kept, which cannot be pickled", HoldsAFunction),
        "says_what_is_missing": ("a folder that is not there accepted", MindsNoFolder),
    },
}
