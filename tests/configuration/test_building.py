"""Components from specifications, and back: checkpoints describe themselves."""

from __future__ import annotations

import inspect
from functools import partial
from pathlib import Path

import lightning as L
import pytest
import torch

import lightning_reg as reg
from lightning_reg.configuration.building import build_composer, build_loss
from lightning_reg.configuration.describing import describe
from lightning_reg.configuration.folders import own_directory

METHODS = sorted(path.stem for path in (own_directory() / "method").glob("*.yaml"))


@pytest.mark.parametrize("method", METHODS)
def test_a_description_makes_the_same_module_again(method: str) -> None:
    module = reg.RegistrationModule.from_configuration(reg.compose([f"method={method}"])["method"])
    described = module.description()
    again = reg.RegistrationModule.from_configuration(described)
    assert again.description() == described
    again.load_state_dict(module.state_dict())  # the same parameters, of the same shapes
    assert [type(part) for part in again.modules()] == [type(part) for part in module.modules()]


PHANTOM = reg.PhantomDataset(subjects=1, validation=1, shape=[24, 20, 22], crop=None)
QUIET = {
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
}


def network(init: str = "default") -> reg.Network:
    backbone = reg.UNet(levels=2, features=2, norm="none")
    return reg.Network(
        backbone,
        [
            reg.AffineHead(backbone.channels, backbone.strides),
            reg.DenseHead(backbone.channels, backbone.strides),
        ],
        init,
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
    loss = reg.LossBundle(
        {
            "fine": (0.5, reg.LNCC(window=5)),
            "lncc": reg.LNCC(window=9),
            "bending": (1e-3, reg.Bending()),
        },
        [0.5, 1.0],
    )
    again = build_loss(describe(loss))
    assert again.weights == {"fine": 0.5, "lncc": 1.0, "bending": 1e-3}
    assert again.level_weights == [0.5, 1.0]
    assert [describe(term) for term in again.terms.values()] == [
        describe(term) for term in loss.terms.values()
    ]
    assert describe(loss)["terms"]["fine"]["name"] == "lncc"


class Unregistered(reg.Head):
    def __init__(self, channels, strides) -> None:
        super().__init__()
        self.field = torch.nn.Conv3d(channels[-1], 3, 1)

    def forward(self, features, grid):
        return [reg.Displacement(self.field(features[-1]), grid)]


def head_of(backbone: reg.Backbone, kind: type[reg.Head] = reg.DenseHead) -> reg.Head:
    return kind(backbone.channels, backbone.strides)


def module_of(head: type[reg.Head], **settings) -> reg.RegistrationModule:
    backbone = reg.UNet(levels=2, features=2, norm="none")
    given = {
        "composer": reg.SingleComposer(reg.Network(backbone, head_of(backbone, head))),
        "loss": reg.LossBundle({"ncc": reg.NCC()}),
        "optimizer": partial(torch.optim.SGD, lr=0.1),
        "schedule": reg.PlateauSchedule(patience=3),
    }
    return reg.RegistrationModule(**(given | settings))


def test_a_class_that_nobody_registers_is_refused_when_it_is_saved() -> None:
    module = module_of(Unregistered, preprocessing=reg.Preprocessing())
    with pytest.raises(
        reg.ComponentError,
        match=(
            r'entry-points."lightning_reg.heads"\] the line unregistered ='
            r' "tests.configuration.test_building:Unregistered"'
        ),
    ):
        module.on_save_checkpoint({})


def test_a_module_without_preprocessing_is_refused_when_it_is_saved() -> None:
    with pytest.raises(reg.TrainingError, match="has no preprocessing"):
        module_of(reg.DenseHead).on_save_checkpoint({})


def test_an_optimizer_that_no_name_has_is_refused_when_it_is_saved() -> None:
    module = module_of(reg.DenseHead, preprocessing=reg.Preprocessing())
    module.optimizer = lambda parameters: torch.optim.SGD(parameters, lr=1.0)
    with pytest.raises(reg.ComponentError, match=r"give functools.partial\(torch.optim.Adam"):
        module.on_save_checkpoint({})


def test_a_module_made_in_python_is_trained_saved_loaded_and_applied(tmp_path: Path) -> None:
    data = reg.RegistrationData(
        PHANTOM,
        reg.GroupPairs,
        reg.Preprocessing(window=(-1000, 500)),
        samples_per_epoch=2,
        workers=0,
    )
    module = module_of(reg.DenseHead)
    trainer = L.Trainer(max_steps=2, default_root_dir=tmp_path, **QUIET)
    trainer.fit(module, data)
    trainer.save_checkpoint(tmp_path / "model.ckpt")
    loaded = reg.RegistrationModule.load_from_checkpoint(tmp_path / "model.ckpt")
    assert loaded.preprocessing == module.preprocessing == data.preprocessing
    assert loaded.statistics == data.statistics
    assert loaded.optimizer.keywords == {"lr": 0.1}
    assert loaded.schedule.patience == 3
    pair = data.validation_pairs[0]
    torch.testing.assert_close(
        loaded(pair.fixed, pair.moving).transform.displacement(),
        module.eval()(pair.fixed, pair.moving).transform.displacement(),
    )
    (tested,) = L.Trainer(**QUIET).test(loaded, datamodule=data, verbose=False)
    assert tested["test/tre_after_mm"] == pytest.approx(loaded.cases[0].value("tre"))
    (validated,) = L.Trainer(**QUIET).validate(loaded, datamodule=data, verbose=False)
    assert validated["validation/tre_after_mm"] == tested["test/tre_after_mm"]
    (registration,) = L.Trainer(**QUIET).predict(loaded, datamodule=data)
    torch.testing.assert_close(
        registration.transform.displacement(),
        loaded(pair.fixed, pair.moving).transform.displacement(),
    )
    scans = [PHANTOM.load(record)["image"] for record in PHANTOM.records()[:2]]
    assert reg.load(tmp_path / "model.ckpt").register(*scans).displacement.abs().max() > 0


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda b: reg.Network(b, reg.DenseHead([7], [(1, 1, 1)])),
            r"made for channels \[7\], and UNet has \[4, 2\]",
        ),
        (lambda b: reg.Network(b, []), "no head"),
        (
            lambda b: reg.Network(b, [torch.nn.Identity()]),
            "head is an object of Identity; give objects of classes",
        ),
        (lambda b: reg.Network(b, reg.DenseHead), "head is the class DenseHead; give objects"),
        (lambda b: reg.Network("unet", []), "backbone is 'unet'; give an object"),
        (lambda b: reg.LossBundle({"ncc": (1.0, torch.nn.Identity())}), "'ncc' is Identity; give"),
        (lambda b: reg.LossBundle({"ncc": ("1", reg.NCC())}), "'ncc' is '1'; give a finite number"),
        (lambda b: reg.LossBundle({}), "no terms"),
        (lambda b: reg.LossBundle([reg.NCC()]), "terms is an object of list; give {name"),
        (lambda b: reg.LNCC(window=4), "window is 4; give an odd number"),
        (lambda b: reg.SSIM(window="5"), "window is '5'; give an odd number"),
        (lambda b: reg.NCC(mask="lungs"), "mask is 'lungs'; give none, fixed"),
        (lambda b: reg.UNet(norm="instnace"), "norm is 'instnace'; give batch"),
        (lambda b: reg.DecaySchedule(cooldown=5), "cooldown is 5; give"),
        (
            lambda b: module_of(reg.DenseHead, composer=reg.Network(b, head_of(b))),
            r"object of Network; give SingleComposer\(network\)",
        ),
        (
            lambda b: module_of(reg.DenseHead, loss=reg.NCC()),
            "loss is an object of NCC; give LossBundle",
        ),
        (
            lambda b: module_of(reg.DenseHead, optimizer=torch.optim.Adam(b.parameters())),
            "optimizer has its parameters already; give",
        ),
        (lambda b: module_of(reg.DenseHead, optimizer="adam"), "optimizer is 'adam'; give one"),
        (
            lambda b: module_of(reg.DenseHead, schedule=torch.optim.lr_scheduler.StepLR),
            "schedule is the class StepLR; give a schedule",
        ),
        (
            lambda b: reg.RegistrationData("scans"),
            r"dataset is 'scans'; give a data set, as FolderDataset\('scans'\)",
        ),
        (
            lambda b: reg.RegistrationData(PHANTOM, "groups"),
            "sampling is 'groups'; give a sampler's class",
        ),
        (
            lambda b: reg.RegistrationData(PHANTOM, batch_size=0),
            "batch_size is 0; give a whole number",
        ),
        (
            lambda b: reg.RegistrationData(PHANTOM, samples_per_epoch=0),
            "samples_per_epoch is 0; give a whole number",
        ),
        (
            lambda b: reg.RegistrationData(PHANTOM, preprocessing={}),
            r"Preprocessing is an object of dict; give Preprocessing\(",
        ),
        (
            lambda b: reg.RegistrationData(PHANTOM, max_validation_pairs=-1),
            "max_validation_pairs is -1; give",
        ),
        (lambda b: reg.Splits("scans"), "dataset is 'scans'; give"),
        (lambda b: reg.Splits(PHANTOM, held_out=0.3), "held_out is 0.3; give"),
        (lambda b: reg.Preprocessing(crop="lung"), "crop is 'lung'; give"),
        (lambda b: reg.Preprocessing(window=5), "window is 5; give two numbers"),
        (lambda b: reg.Preprocessing(percentiles=(0, 101)), "from 0 to 100"),
        (lambda b: reg.LossBundle({"loss": reg.NCC()}), "cannot be called 'loss'"),
        (lambda b: reg.LossBundle({"a.b": reg.NCC()}), "cannot be called 'a.b'"),
        (lambda b: reg.SingleComposer(b), r"network is an object of UNet; give Network\("),
        (lambda b: reg.StackedComposer([]), "without networks"),
        (
            lambda b: reg.Member(reg.Network(b, head_of(b)), stride=0),
            "stride is 0; give a whole number of voxels, 1 or more, or three whole numbers of voxels",
        ),
        (
            lambda b: reg.Member(reg.Network(b, head_of(b)), patch=8),
            "patch is 8; give three whole numbers",
        ),
        (
            lambda b: reg.Optimization([reg.FitStage("affine", 1)], reg.NCC()),
            "loss is an object of NCC; give LossBundle",
        ),
        (lambda b: reg.Optimization([{}], None), r"stages is \[{}\]; give objects, as FitStage\("),
        (lambda b: reg.StageTraining([{}]), r"stages is \[{}\]; give objects, as TrainingStage\("),
    ],
)
def test_what_does_not_fit_is_refused_when_it_is_given(make, message: str) -> None:
    with pytest.raises(reg.ComponentError, match=message):
        make(reg.UNet(levels=2, features=2, norm="none"))


def test_an_optimizers_refusal_names_it() -> None:
    module = module_of(reg.DenseHead, optimizer=partial(torch.optim.Adam, lr="1e-3"))
    with pytest.raises(reg.ComponentError, match="The optimizer refuses its arguments"):
        module.configure_optimizers()


@pytest.mark.parametrize(
    ("head", "settings", "error", "message"),
    [
        (
            "unregistered",
            {"enable_checkpointing": True},
            reg.ComponentError,
            "registered by no installed distribution",
        ),
        (
            "dense",
            {"precision": "bf16-true"},
            reg.TrainingError,
            "precision is bf16-true, .* bf16-mixed",
        ),
    ],
)
def test_what_would_end_a_training_later_is_refused_before_its_first_step(
    tmp_path: Path, head, settings, error, message: str
) -> None:
    module = module_of(
        {"unregistered": Unregistered, "dense": reg.DenseHead}[head],
        preprocessing=reg.Preprocessing(),
    )
    steps: list[int] = []
    module.training_step = lambda *_: steps.append(1)
    data = reg.RegistrationData(
        PHANTOM,
        reg.GroupPairs,
        reg.Preprocessing(window=(-1000, 500)),
        samples_per_epoch=2,
        workers=0,
    )
    trainer = L.Trainer(max_steps=2, default_root_dir=tmp_path, **(QUIET | settings))
    with pytest.raises(error, match=message):
        trainer.fit(module, data)
    assert not steps


def test_the_signature_is_that_of_the_constructor() -> None:
    assert list(inspect.signature(reg.LNCC).parameters) == ["window", "mask"]
    assert not inspect.signature(reg.Curvature).parameters  # which inherits its constructor
    assert list(inspect.signature(reg.FolderDataset).parameters) == ["root", "pattern", "labels"]


def test_a_checkpoint_of_an_earlier_version_is_one_sentence(tmp_path: Path) -> None:
    old = {
        "version": "0.1.0",
        "method": {"composer": {}, "loss": {}, "optimizer": {}},
        "preprocessing": {},
    }
    torch.save({"lightning_reg": old, "state_dict": {}}, tmp_path / "old.ckpt")
    with pytest.raises(
        reg.TrainingError,
        match=(
            r"written by lightning_reg 0.1.0 in a form that this one does not read; install that"
            r" version"
        ),
    ):
        reg.load(tmp_path / "old.ckpt")
