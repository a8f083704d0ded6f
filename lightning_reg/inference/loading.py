"""Registrars of trained models, and of instance optimisation by name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import torch

from lightning_reg.data.preprocessing import Preprocessing
from lightning_reg.inference.registrar import Registrar
from lightning_reg.inference.steps import Align, Optimize, Predict
from lightning_reg.inference.weights import set_weight
from lightning_reg.models import locate
from lightning_reg.optimization.configuration import build_optimization, read_instance
from lightning_reg.registry import UserError, construct, within_memory
from lightning_reg.training.model import read_model


@within_memory("for the model; use another model, or another machine")
def load(
    model: str | Path,
    *,
    device: str = "cpu",
    start: str = "headers",
    refinement: str = "refine",
    overrides: Sequence[str] = (),
    memory: float | None = None,
    weight: float | None = None,
) -> Registrar:
    """Load a trained model for registration.

    Args:
        model: trained network: ``best.ckpt`` of a run, the name of an installed model, or an
            address, see :func:`lightning_reg.models.locate`. The file holds configuration,
            preprocessing and weights; loading executes no code from it, and components are looked
            up by name in the installed packages.
        device: ``cpu``, ``cuda`` or ``cuda:N``.
        start: initial alignment: ``headers`` or ``centers``, see
            :class:`~lightning_reg.inference.steps.Align`.
        refinement: instance optimisation that refines the result: a file of ``conf/instance`` or of
            the user. It runs in ``register(..., refine=N)``.
        overrides: values of the refinement, ``key=value`` as on a command line.
        memory: GiB, see :class:`Registrar`.
        weight: weight of the smoothness, for a model that was trained for a range of weights;
            default: that of its configuration.

    Raises:
        UserError: no such file, not a model of this project, a component is not installed, no such
            device, or the model does not accept the weight.
    """
    align = Align(start)  # reports an error before anything is read
    located = locate(model)
    with torch.random.fork_rng([]):  # the weights are initialised before they are read
        trained = read_model(located.path)
    if weight is not None:
        set_weight(trained.composer, weight)
    instance = read_instance(refinement, overrides)
    optimization = build_optimization(instance["optimization"], trained.loss)
    settings = {
        "model": str(located.path.resolve()) if located.card is None else located.name,
        "method": trained.description,
        "preprocessing": asdict(trained.preprocessing),
        "refinement": instance,
    } | ({} if weight is None else {"weight": weight})
    steps = [Predict(trained.composer), Optimize(optimization, trained.composer)]
    return Registrar(
        trained.preprocessing,
        steps if start == "headers" else [align, *steps],
        trained.statistics,
        settings,
        device,
        memory=memory,
        trained_on=trained.trained_on,
    )


def conventional(
    name: str = "auto",
    overrides: Sequence[str] = (),
    *,
    device: str = "cpu",
    start: str | None = None,
    memory: float | None = None,
) -> Registrar:
    """Registration without a trained network: instance optimisation from the initial alignment.

    Args:
        name: instance optimisation: ``auto``, which chooses by the content of the images,
            ``bspline``, ``lung_ct``, ``rigid``, or another file of ``conf/instance`` or of the
            user.
        overrides: values of the instance optimisation, as
            ``optimization.loss.bending.weight=5``.
        device: ``cpu``, ``cuda`` or ``cuda:N``.
        start: initial alignment: ``headers``, ``centers`` or ``auto``, see
            :class:`~lightning_reg.inference.steps.Align`; default: that of the instance
            optimisation (``headers`` before a network).
        memory: approximate memory limit, GiB; large images are registered at coarser voxels, see
            :class:`Registrar`.

    Raises:
        UserError: no such configuration, option or device.
    """
    instance = read_instance(name, overrides)
    if instance["optimization"].get("loss") is None:
        raise UserError(
            f"The instance optimisation '{name}' takes its loss from a model; give `model`, or"
            " another `instance`."
        )
    others = [
        override
        for override in overrides
        if not override.startswith(("lungs=", "optimization.unlike=", "optimization.likeness="))
    ]
    lungs = instance.pop("lungs", None)
    optimization = build_optimization(instance["optimization"])
    return Registrar(
        construct("preprocessing", Preprocessing, instance["preprocessing"]),
        [Align(start or instance["start"], optimization), Optimize(optimization)],
        settings={"instance": name, **instance} | ({} if memory is None else {"memory": memory}),
        device=device,
        memory=memory,
        lungs=(
            None
            if lungs is None
            else conventional(lungs, others, device=device, start=start, memory=memory)
        ),
    )
