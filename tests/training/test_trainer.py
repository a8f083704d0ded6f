"""Lightning's trainer around modules and data made in Python."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

import lightning_reg as reg

QUIET = {
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
}
PHANTOM = reg.PhantomDataset(subjects=1, validation=1, shape=[16, 16, 16], crop=None)
WINDOW = reg.Preprocessing(window=(-1000, 500))


def network(norm: str = "none") -> reg.Network:
    backbone = reg.UNet(levels=1, features=2, norm=norm)
    return reg.Network(backbone, reg.DenseHead(backbone.channels, backbone.strides))


def module_of(
    composer: reg.Composer | None = None, terms: Any = None, **settings: Any
) -> reg.RegistrationModule:
    loss = reg.LossBundle(terms or {"ssd": reg.SSD()})
    given = {"optimizer": partial(torch.optim.SGD, lr=0.1)} | settings
    return reg.RegistrationModule(
        reg.SingleComposer(network()) if composer is None else composer, loss, **given
    )


def data_of(samples: int = 4, **settings: Any) -> reg.RegistrationData:
    return reg.RegistrationData(
        PHANTOM,
        reg.GroupPairs,
        **({"preprocessing": WINDOW} | settings),
        samples_per_epoch=samples,
        workers=0,
    )


def pairs(count: int) -> list[reg.Pair]:
    generator, grid = torch.Generator().manual_seed(0), reg.Grid.regular((8, 8, 8))
    images = [
        reg.Image(torch.rand(1, 1, 8, 8, 8, generator=generator), grid) for _ in range(2 * count)
    ]
    return [reg.Pair(images[2 * n], images[2 * n + 1], name=(f"pair {n}",)) for n in range(count)]


class Watch(L.Callback):
    """Notes at every step which networks are trained, and the learning rate."""

    def __init__(self) -> None:
        self.trained: list[list[int]] = []
        self.rates: list[float] = []

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: Any, *_: Any) -> None:
        networks = getattr(pl_module.composer, "networks", [pl_module.composer])
        self.trained.append(
            [n for n, one in enumerate(networks) if next(one.parameters()).requires_grad]
        )
        self.rates.append(trainer.optimizers[0].param_groups[0]["lr"])


def fitted(
    module: reg.RegistrationModule, data: Any, *callbacks: L.Callback, **settings: Any
) -> Watch:
    watch = Watch()
    L.Trainer(
        **(QUIET | {"num_sanity_val_steps": 0, "limit_val_batches": 0} | settings),
        callbacks=[*callbacks, watch],
    ).fit(module, data)
    return watch


def stages() -> reg.StageTraining:
    return reg.StageTraining([reg.TrainingStage(1, train=[0]), reg.TrainingStage(2, train=[1])])


def test_stages_share_the_steps_of_the_epochs() -> None:
    module = module_of(reg.StackedComposer([network(), network()]))
    assert fitted(module, data_of(), stages(), max_epochs=3).trained == [[0]] * 4 + [[1]] * 8


def test_after_its_stages_a_module_trains_as_a_whole_and_stages_start_anew() -> None:
    module, training = (
        module_of(
            reg.StackedComposer([network(), network()]), schedule=reg.DecaySchedule(cooldown=0.5)
        ),
        stages(),
    )
    fitted(module, data_of(), training, max_steps=6)
    again = fitted(module, data_of(), max_steps=12)
    assert again.trained == [[0, 1]] * 12
    assert again.rates[:5] == [0.1] * 5
    assert 0 < again.rates[9] < 0.1
    assert fitted(module, data_of(), training, max_steps=6).trained == [[0]] * 2 + [[1]] * 4


@pytest.mark.parametrize(
    ("settings", "steps"),
    [({"max_steps": 100, "max_epochs": 2}, 8), ({"max_steps": 3}, 3), ({"max_epochs": 2}, 8)],
)
def test_the_rate_falls_to_nothing_at_the_end_that_comes_first(
    settings: dict[str, int], steps: int
) -> None:
    rates = fitted(module_of(schedule=reg.DecaySchedule(cooldown=1.0)), data_of(), **settings).rates
    assert len(rates) == steps
    assert rates[-1] == pytest.approx(0.1 / steps)


def test_a_training_that_ends_by_time_has_a_constant_rate_or_none() -> None:
    endless = {"max_epochs": -1, "max_time": {"seconds": 0}}
    for schedule in (None, reg.PlateauSchedule()):
        watch = fitted(
            module_of(schedule=schedule),
            data_of(),
            max_epochs=-1,
            max_time={"seconds": 1},
            limit_val_batches=1,
        )
        assert set(watch.rates) == {0.1}
    with pytest.raises(reg.TrainingError, match="give max_steps or max_epochs"):
        fitted(module_of(schedule=reg.DecaySchedule(cooldown=0.5)), data_of(), **endless)
    with pytest.raises(reg.TrainingError, match="give max_steps or max_epochs"):
        fitted(
            module_of(reg.StackedComposer([network(), network()])), data_of(), stages(), **endless
        )


def test_numbers_of_numpy_are_kept_as_numbers(tmp_path: Path) -> None:
    preprocessing = reg.Preprocessing(window=tuple(np.percentile([-1000.0, 500.0], [0, 100])))
    module = module_of(
        optimizer=partial(torch.optim.Adam, lr=np.linspace(1e-4, 1e-2, 3)[0]),
        schedule=reg.DecaySchedule(cooldown=np.float64(0.5)),
    )
    trainer = L.Trainer(max_steps=1, limit_val_batches=0, **QUIET)
    trainer.fit(module, data_of(preprocessing=preprocessing))
    trainer.save_checkpoint(tmp_path / "model.ckpt")
    loaded = reg.RegistrationModule.load_from_checkpoint(tmp_path / "model.ckpt")
    assert (loaded.preprocessing.window, loaded.optimizer.keywords, loaded.schedule.cooldown) == (
        (-1000.0, 500.0),
        {"lr": 1e-4},
        0.5,
    )
    assert loaded.training


def test_a_loader_without_preprocessing_is_refused_before_its_first_step(tmp_path: Path) -> None:
    loader = DataLoader(pairs(2), collate_fn=reg.Pair.collate)
    with pytest.raises(reg.TrainingError, match="has no preprocessing"):
        fitted(
            module_of(), loader, max_steps=1, enable_checkpointing=True, default_root_dir=tmp_path
        )
    assert len(fitted(module_of(), loader, max_steps=1).rates) == 1


def test_a_model_whose_data_are_preprocessed_otherwise_says_so() -> None:
    with pytest.warns(UserWarning, match="keeps its own preprocessing"):
        fitted(module_of(preprocessing=reg.Preprocessing(window=(0, 1000))), data_of(), max_steps=1)


def test_a_term_whose_part_no_pair_has_is_refused_with_any_loader() -> None:
    with pytest.raises(
        reg.TrainingError, match="'landmarks' needs fixed_landmarks, moving_landmarks"
    ):
        fitted(
            module_of(terms={"landmarks": reg.LandmarkDistance()}),
            DataLoader(pairs(1), collate_fn=reg.Pair.collate),
            max_steps=1,
        )


def test_one_batch_is_learned_by_heart_where_that_is_asked_for() -> None:
    module, seen = module_of(), []
    loss = module.training_loss
    module.training_loss = lambda pair: (seen.append(pair.fixed.tensor.sum().item()), loss(pair))[1]
    fitted(
        module, data_of(augmentation=reg.Augmentation(noise=0.1)), max_epochs=3, overfit_batches=1
    )
    assert len(seen) == 3
    assert len(set(seen)) == 1


def test_pairs_of_a_batch_are_evaluated_one_by_one() -> None:
    module, found = module_of(), []
    for size in (1, 2):
        loader = DataLoader(pairs(4), batch_size=size, collate_fn=reg.Pair.collate)
        found.append(L.Trainer(**QUIET).validate(module, loader, verbose=False)[0])
        assert [case.name for case in module.cases] == [f"pair {n}" for n in range(4)]
    assert found[0] == pytest.approx(found[1])
