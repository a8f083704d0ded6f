"""Construction of data, callbacks and stages from a run's configuration."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import ProgressBar

from lightning_reg.configuration.building import built, factory
from lightning_reg.data.datamodule import RegistrationData
from lightning_reg.data.datasets.splits import CHOICES, open_dataset
from lightning_reg.data.sampling import Patched, SampledPairs, SamplerFactory
from lightning_reg.training.callbacks.stages import StageTraining

FOR_OTHERS = ("root", "masks", "pairing", "prepare", "budget", "aspect")
"""Values of ``data`` that other parts of a configuration refer to."""


def build_data(config: Mapping[str, Any]) -> RegistrationData:
    """Build the data of a composed configuration, without loading them.

    Raises:
        UserError: a part is missing or invalid.
    """
    settings = {key: value for key, value in config["data"].items() if key not in FOR_OTHERS}
    choices = {key: settings.pop(key, None) for key in CHOICES}
    data: RegistrationData = built(
        RegistrationData,
        {**settings, "dataset": open_dataset(settings["dataset"], **choices)},
        "data",
        sampling=build_sampler(config["method"]["sampling"], "method.sampling"),
        seed=config["seed"],
    )
    return data


def build_sampler(spec: Mapping[str, Any], place: str = "sampling") -> SamplerFactory:
    """Build a sampler from ``{name, patch, **arguments}``.

    Names are ``synthetic`` (arguments of
    :class:`~lightning_reg.data.synthetic.SyntheticDeformation`), ``inter_subject``, ``groups``,
    ``pairs`` (those of the data set), and the samplers of other distributions.

    Raises:
        ComponentError: the sampler is unknown, or refuses an argument.
    """
    arguments = dict(spec)
    patch = arguments.pop("patch", None)
    sampler: SamplerFactory = factory(SampledPairs, arguments, place)
    return sampler if patch is None else Patched(sampler, patch)


def build_callbacks(config: Mapping[str, Any]) -> list[L.Callback]:
    """Build the callbacks of a composed configuration, including those of the method; ``null``
    leaves one out.

    Raises:
        ComponentError: a callback is unknown, or refuses an argument.
    """
    method = config["method"]
    wanted = {
        name: (f"{place}.{name}", spec)
        for place, specs in (
            ("callbacks", config.get("callbacks")),
            ("method.callbacks", method.get("callbacks")),
        )
        for name, spec in (specs or {}).items()
    }
    callbacks = [
        built(L.Callback, {"name": name, **(spec or {})}, place)
        for name, (place, spec) in wanted.items()
        if spec is not None
    ]
    if config["trainer"].get("enable_progress_bar") is False:
        callbacks = [callback for callback in callbacks if not isinstance(callback, ProgressBar)]
    if method.get("stages"):
        callbacks.append(built(StageTraining, {"stages": _stages(method)}, "method"))
    return callbacks


def _stages(method: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The stages of a method; their ``optimizer`` and ``schedule`` contain only the changes to
    those of the method.
    """
    return [
        {
            key: {**(method.get(key) or {}), **value} if key in ("optimizer", "schedule") else value
            for key, value in stage.items()
            if value not in (None, {})
        }
        for stage in method["stages"]
    ]
