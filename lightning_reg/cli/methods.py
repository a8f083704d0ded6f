"""Methods that the options of ``register`` and ``evaluate`` name."""

from __future__ import annotations

import functools
from argparse import Namespace
from collections.abc import Sequence
from typing import TYPE_CHECKING

from lightning_reg.cli.arguments import console, loading
from lightning_reg.registry import DataError, UserError

if TYPE_CHECKING:
    from lightning_reg.inference.inputs import AnyRegistrar


def require_methods(models: Sequence[str], instances: Sequence[str]) -> None:
    """Refuse models and instance optimisations that there are not, before anything slow is
    imported. Addresses are tried later.
    """
    from lightning_reg.configuration.instances import instance_file
    from lightning_reg.models import locate

    for model in models:
        if "://" not in model and not (path := locate(model).path).exists():
            raise DataError(f"There is no checkpoint {path}; correct the path.")
    for instance in instances:
        instance_file(instance)


def require_method(arguments: Namespace) -> None:
    """Refuse options of ``register`` that do not go together, models and methods that there are
    not.
    """
    models, refine, tta = arguments.model, arguments.refine, arguments.tta
    instance, overrides = arguments.instance, arguments.overrides
    if refine == 0 and not models:
        raise UserError(
            "--refine 0 without a model registers nothing; give a number of steps, or leave it out."
        )
    if tta and (refine or instance):
        raise UserError(
            "--tta is of the network's own result; leave out --refine and --instance, or --tta."
        )
    if overrides and models and not refine and not instance:
        raise UserError(
            f"{overrides[0]} is of the refinement, which does not run; add --refine N, or leave it"
            " out."
        )
    if models and arguments.memory is not None and (tta or len(models) > 1):
        raise UserError(
            "--memory is of one registration, and not of a mean of several; leave it out."
        )
    if not models and (tta or arguments.weight is not None):
        option = "--tta" if tta else "--weight"
        raise UserError(f"{option} is of a network; give --model, or leave it out.")
    require_methods(models, [instance] if instance else ())


def registrar_of(arguments: Namespace) -> tuple[AnyRegistrar, int | None]:
    """Registrar of ``register``, and its number of steps of instance optimisation."""
    from lightning_reg.cli.models import fetched

    with loading():
        from lightning_reg.inference.ensemble import models
        from lightning_reg.inference.loading import conventional, load
        from lightning_reg.metrics.extra import build_metrics
    registrar: AnyRegistrar
    instance, refine = arguments.instance, arguments.refine
    settings = {"device": arguments.device, "memory": arguments.memory}
    if arguments.model:
        settings |= {"start": arguments.start or "headers", "weight": arguments.weight}
        settings |= {"refinement": instance or "refine", "overrides": arguments.overrides}
        paths = [fetched(model, console()) for model in arguments.model]
        registrar = models(paths, functools.partial(load, **settings), arguments.tta)
    else:
        settings["start"] = arguments.start
        registrar = conventional(instance or "auto", arguments.overrides, **settings)
    registrar.metrics = build_metrics(arguments.metric)
    optimization = registrar.members[0].optimization
    if arguments.model and instance and refine is None and optimization is not None:
        refine = sum(stage.steps for stage in optimization.stages)
    return registrar, refine
