"""Components from specifications, and back: checkpoints describe themselves."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import lightning as L
import pytest
import torch

import lightning_reg as reg
from lightning_reg.components.building import build_composer, build_loss, describe
from lightning_reg.discovery.conf import own_directory

METHODS = sorted(path.stem for path in (own_directory() / "method").glob("*.yaml"))


@pytest.mark.parametrize("method", METHODS)
def test_a_description_makes_the_same_module_again(method: str) -> None:
    module = reg.RegistrationModule.from_configuration(reg.compose([f"method={method}"])["method"])
    described = module.description()
    again = reg.RegistrationModule.from_configuration(described)
    assert again.description() == described
    again.load_state_dict(module.state_dict())  # the same parameters, of the same shapes
    assert [type(part) for part in again.modules()] == [type(part) for part in module.modules()]


def network(init: str = "default") -> reg.Network:
    backbone = reg.UNet(levels=2, features=2, norm="none")
    return reg.Network(
        backbone, [reg.AffineHead(backbone.channels, backbone.strides), reg.DenseHead(backbone.channels, backbone.strides)], init
    )


def test_composers_of_objects_are_those_of_specifications() -> None:
    for made in (
        reg.SingleComposer(network("xavier"), symmetric=True),
        reg.StackedComposer([reg.Member(network(), stride=2, patch=[8, 8, 8]), network()]),
        reg.MultilevelComposer([network(), network()], strides=[2, 1]),
    ):
        again = build_composer(describe(made))
        assert describe(again) == describe(made)
        again.load_state_dict(made.state_dict())


def test_terms_keep_their_names_weights_and_arguments() -> None:
    loss = reg.LossBundle({"fine": (0.5, reg.LNCC(window=5)), "lncc": reg.LNCC(window=9), "bending": (1e-3, reg.Bending())}, [0.5, 1.0])
    again = build_loss(describe(loss))
    assert again.weights == {"fine": 0.5, "lncc": 1.0, "bending": 1e-3}
    assert again.level_weights == [0.5, 1.0]
    assert [describe(term) for term in again.terms.values()] == [describe(term) for term in loss.terms.values()]
    assert describe(loss)["terms"]["fine"]["name"] == "lncc"


class Unregistered(reg.Head):
    def __init__(self, channels, strides) -> None:
        super().__init__()
        self.field = torch.nn.Conv3d(channels[-1], 3, 1)

    def forward(self, features, grid):
        return [reg.Displacement(self.field(features[-1]), grid)]


def module_of(head: type[reg.Head], **settings) -> reg.RegistrationModule:
    backbone = reg.UNet(levels=2, features=2, norm="none")
    composer = reg.SingleComposer(reg.Network(backbone, head(backbone.channels, backbone.strides)))
    loss = reg.LossBundle({"ncc": reg.NCC()})
    return reg.RegistrationModule(composer, loss, partial(torch.optim.SGD, lr=0.1), reg.PlateauSchedule(patience=3), **settings)


def test_a_class_that_nobody_registers_is_refused_when_it_is_saved() -> None:
    module = module_of(Unregistered, preprocessing=reg.Preprocessing())
    with pytest.raises(
        reg.ComponentError,
        match=r'entry-points."lightning_reg.heads"\] the line unregistered = "tests.components.test_building:Unregistered"',
    ):
        module.on_save_checkpoint({})


def test_a_module_without_preprocessing_is_refused_when_it_is_saved() -> None:
    with pytest.raises(reg.TrainingError, match="knows no preprocessing"):
        module_of(reg.DenseHead).on_save_checkpoint({})


def test_an_optimizer_that_no_name_has_is_refused_when_it_is_saved() -> None:
    module = module_of(reg.DenseHead, preprocessing=reg.Preprocessing())
    module.optimizer = lambda parameters: torch.optim.SGD(parameters, lr=1.0)
    with pytest.raises(reg.ComponentError, match=r"give functools.partial\(torch.optim.Adam"):
        module.on_save_checkpoint({})


def test_a_module_made_in_python_is_trained_saved_loaded_and_applied(tmp_path: Path) -> None:
    dataset = reg.PhantomDataset(subjects=1, validation=1, shape=[24, 20, 22], crop=None)
    data = reg.RegistrationData(dataset, reg.GroupPairs, reg.Preprocessing(window=(-1000, 500)), samples_per_epoch=2, workers=0)
    module = module_of(reg.DenseHead)
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = L.Trainer(max_steps=2, default_root_dir=tmp_path, **quiet)
    trainer.fit(module, data)
    trainer.save_checkpoint(tmp_path / "model.ckpt")
    loaded = reg.RegistrationModule.load_from_checkpoint(tmp_path / "model.ckpt")
    assert loaded.preprocessing == module.preprocessing == data.preprocessing
    assert loaded.statistics == data.statistics
    assert loaded.optimizer.keywords == {"lr": 0.1}
    assert loaded.schedule.patience == 3
    pair = data.validation_pairs[0]
    torch.testing.assert_close(
        loaded(pair.fixed, pair.moving).transform.displacement(), module.eval()(pair.fixed, pair.moving).transform.displacement()
    )
    (tested,) = L.Trainer(**quiet).test(loaded, datamodule=data, verbose=False)
    assert tested["test/tre_after_mm"] == pytest.approx(loaded.cases[0].value("tre"))
    (registration,) = L.Trainer(**quiet).predict(loaded, datamodule=data)
    torch.testing.assert_close(registration.transform.displacement(), loaded(pair.fixed, pair.moving).transform.displacement())
    scans = [dataset.load(record)["image"] for record in dataset.records()[:2]]
    assert reg.load(tmp_path / "model.ckpt").register(*scans).displacement.abs().max() > 0


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda b: reg.Network(b, reg.DenseHead([7], [(1, 1, 1)])), r"made for channels \[7\], and UNet has \[4, 2\]"),
        (lambda b: reg.Network(b, []), "no head"),
        (lambda b: reg.Network(b, [torch.nn.Identity()]), "head is Identity; give objects of classes"),
        (lambda b: reg.LossBundle({"ncc": (1.0, torch.nn.Identity())}), "'ncc' is Identity; give"),
        (lambda b: reg.LossBundle({}), "no terms"),
    ],
)
def test_objects_that_do_not_fit_are_refused(make, message: str) -> None:
    with pytest.raises(reg.ComponentError, match=message):
        make(reg.UNet(levels=2, features=2, norm="none"))


def test_a_checkpoint_of_an_earlier_version_is_one_sentence(tmp_path: Path) -> None:
    old = {"version": "0.1.0", "method": {"composer": {}, "loss": {}, "optimizer": {}}, "preprocessing": {}}
    torch.save({"lightning_reg": old, "state_dict": {}}, tmp_path / "old.ckpt")
    with pytest.raises(
        reg.TrainingError, match=r"written by lightning_reg 0.1.0 in a form that this one does not read; install that version"
    ):
        reg.load(tmp_path / "old.ckpt")
