"""Objects for tests, from specifications."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lightning_reg.components.composers import MultilevelComposer, SingleComposer, StackedComposer
from lightning_reg.configuration.building import build_composer
from lightning_reg.data.datamodule import RegistrationData
from lightning_reg.optimization.configuration import build_optimization
from lightning_reg.optimization.descent import Optimization
from lightning_reg.training.building import build_data


def single(backbone: Any, head: Any, **settings: Any) -> SingleComposer:
    composer = build_composer({"name": "single", "backbone": backbone, "head": head, **settings})
    assert isinstance(composer, SingleComposer)
    return composer


def stacked(stages: Sequence[Mapping[str, Any]]) -> StackedComposer:
    composer = build_composer({"name": "stacked", "stages": stages})
    assert isinstance(composer, StackedComposer)
    return composer


def multilevel(backbone: Any, head: Any, strides: Sequence[int]) -> MultilevelComposer:
    composer = build_composer(
        {"name": "multilevel", "backbone": backbone, "head": head, "strides": strides}
    )
    assert isinstance(composer, MultilevelComposer)
    return composer


def data_of(
    dataset: Any, sampling: Any, preprocessing: Any = None, *, seed: int = 0, **settings: Any
) -> RegistrationData:
    config = {"dataset": dataset, "preprocessing": preprocessing, **settings}
    return build_data({"data": config, "method": {"sampling": sampling}, "seed": seed})


def optimization_of(loss: Any, stages: Sequence[Any], **settings: Any) -> Optimization:
    return build_optimization({"loss": loss, "stages": stages, **settings})
