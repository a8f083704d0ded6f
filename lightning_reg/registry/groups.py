"""Table of the entry-point groups: interface of the components, and the key by which a
configuration names them.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module


@dataclass(frozen=True)
class Group:
    """An entry-point group ``lightning_reg.<name>``.

    Args:
        one: name of one component, for messages.
        interface: ``module:Class`` that its components derive from; empty for a group of folders
            (``models``).
        what: its components, in a few words.
        key: configuration key or command option that names a component; empty if all installed ones
            are used.
        supplied: constructor arguments from the framework, which are in no configuration.
    """

    one: str
    interface: str
    what: str
    key: str = ""
    supplied: tuple[str, ...] = ()

    def interface_class(self) -> type:
        """The interface, imported.

        Raises:
            LookupError: a group of folders.
        """
        module, _, name = self.interface.partition(":")
        if not module:
            raise LookupError(f"a {self.one} is a folder, no class")
        found: type = getattr(import_module(module), name)
        return found


_OF_COMPONENTS = "lightning_reg.components.interfaces"
GROUPS: dict[str, Group] = {
    "backbones": Group(
        "backbone",
        f"{_OF_COMPONENTS}:Backbone",
        "features of two images",
        "method.composer.backbone",
    ),
    "heads": Group(
        "head",
        f"{_OF_COMPONENTS}:Head",
        "transforms from features",
        "method.composer.head",
        ("channels", "strides"),
    ),
    "composers": Group(
        "composer",
        f"{_OF_COMPONENTS}:Composer",
        "one registration from networks",
        "method.composer",
        ("network", "networks", "members"),
    ),
    "losses": Group("loss", f"{_OF_COMPONENTS}:LossTerm", "terms of the loss", "method.loss.terms"),
    "callbacks": Group("callback", "lightning:Callback", "callbacks of the training", "callbacks"),
    "datasets": Group(
        "dataset",
        "lightning_reg.data.datasets.interface:RegistrationDataset",
        "sources of scans",
        "data.dataset",
    ),
    "optimizers": Group(
        "optimizer", "torch.optim:Optimizer", "optimisers", "method.optimizer", ("params",)
    ),
    "schedules": Group(
        "schedule",
        "lightning_reg.training.schedules:Schedule",
        "learning rates over a training",
        "method.schedule",
    ),
    "samplers": Group(
        "sampler",
        "lightning_reg.data.sampling:SampledPairs",
        "training pairs from scans",
        "method.sampling",
        ("scans", "pairs", "seed"),
    ),
    "loggers": Group(
        "logger",
        "lightning.pytorch.loggers:Logger",
        "records of a training",
        "logger",
        ("save_dir",),
    ),
    "fits": Group(
        "fit",
        "lightning_reg.optimization.parameters:Fit",
        "kinds of transform of instance optimisation",
        "optimization.stages",
        ("state", "stage", "objective", "network"),
    ),
    "starts": Group(
        "start",
        "lightning_reg.inference.starts:Start",
        "first alignments of instance optimisation",
        "--start",
    ),
    "lung_segmentations": Group(
        "lung segmentation",
        "lightning_reg.data.lungs:LungSegmentation",
        "lung masks of CT scans",
        "data.prepare.lungs",
    ),
    "metrics": Group(
        "metric",
        "lightning_reg.metrics.extra:ExtraMetric",
        "metrics of a registered pair",
        "metrics",
    ),
    "report_sections": Group(
        "report section",
        "lightning_reg.inference.report.page:ReportSection",
        "sections of a registration's report",
        "--section",
    ),
    "outputs": Group(
        "output",
        "lightning_reg.inference.outputs:ExtraOutput",
        "files of a registration's results",
        "--files",
    ),
    "commands": Group(
        "command",
        "lightning_reg.cli.command:Command",
        "subcommands of lightning-reg",
        "lightning-reg NAME",
    ),
    "models": Group("model", "", "trained models", "--model"),
}
"""Every group of components, in the order in which they are listed. ``lightning_reg.conf`` holds
configurations instead.
"""
