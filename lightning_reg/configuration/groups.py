"""Table of the entry-point groups: interface of the components, and the key by which a
configuration names them.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module

from lightning_reg.registry.contract import NOUNS


@dataclass(frozen=True)
class Group:
    """An entry-point group ``lightning_reg.<name>``.

    Args:
        name: of the group.
        interface: ``module:Class`` that its components derive from, as the class names itself;
            empty for a group of folders (``models``).
        what: its components, in a few words.
        key: configuration key or command option that names a component; empty if all installed ones
            are used.
        supplied: constructor arguments from the framework, which are in no configuration.
    """

    name: str
    interface: str
    what: str
    key: str = ""
    supplied: tuple[str, ...] = ()

    @property
    def one(self) -> str:
        """Name of one component, for messages."""
        return NOUNS[self.name]

    def interface_class(self) -> type:
        """The interface, imported.

        Raises:
            LookupError: a group of folders.
        """
        module, _, name = self.interface.partition(":")
        if not module:
            raise LookupError(f"a {self.one} is a folder, no class")
        interface: type = getattr(import_module(module), name)
        return interface


def group_of(cls: type) -> Group | None:
    """The group whose interface a class is; nothing is imported."""
    return _OF_INTERFACE.get(f"{cls.__module__}:{cls.__qualname__}")


def group_of_component(cls: type) -> Group | None:
    """The group whose interface a class derives from."""
    return next(filter(None, map(group_of, cls.__mro__)), None)


_PARTS = "lightning_reg.components.interfaces"
_ALL = (
    Group("backbones", f"{_PARTS}:Backbone", "features of two images", "method.composer.backbone"),
    Group("heads", f"{_PARTS}:Head", "transforms from features", "method.composer.head",
          ("channels", "strides", "aspect")),
    Group("composers", f"{_PARTS}:Composer", "one registration from networks", "method.composer",
          ("network", "networks", "members")),
    Group("losses", f"{_PARTS}:LossTerm", "terms of the loss", "method.loss.terms"),
    Group("callbacks", "lightning.pytorch.callbacks.callback:Callback", "callbacks of the training",
          "callbacks"),
    Group("datasets", "lightning_reg.data.datasets.interface:RegistrationDataset",
          "sources of scans", "data.dataset"),
    Group("optimizers", "torch.optim.optimizer:Optimizer", "optimisers", "method.optimizer",
          ("params",)),
    Group("schedules", "lightning_reg.training.schedules:Schedule",
          "learning rates over a training", "method.schedule"),
    Group("samplers", "lightning_reg.data.sampling:SampledPairs", "training pairs from scans",
          "method.sampling", ("scans", "pairs", "seed")),
    Group("loggers", "lightning.pytorch.loggers.logger:Logger", "records of a training", "logger",
          ("save_dir",)),
    Group("fits", "lightning_reg.optimization.parameters:Fit",
          "kinds of transform of instance optimisation", "optimization.stages",
          ("state", "stage", "objective", "network")),
    Group("starts", "lightning_reg.inference.starts:Start",
          "first alignments of instance optimisation", "--start"),
    Group("lung_segmentations", "lightning_reg.data.lungs:LungSegmentation",
          "lung masks of CT scans", "data.prepare.lungs"),
    Group("metrics", "lightning_reg.metrics.extra:ExtraMetric", "metrics of a registered pair",
          "metrics"),
    Group("report_sections", "lightning_reg.inference.report.page:ReportSection",
          "sections of a registration's report", "--section"),
    Group("outputs", "lightning_reg.inference.outputs:ExtraOutput",
          "files of a registration's results", "--files"),
    Group("commands", "lightning_reg.cli.command:Command", "subcommands of lightning-reg",
          "lightning-reg NAME"),
    Group("models", "", "trained models", "--model"),
)  # fmt: skip
GROUPS = {group.name: group for group in _ALL}
"""Every group of components, in the order in which they are listed. ``lightning_reg.conf`` holds
configurations instead.
"""
_OF_INTERFACE = {group.interface: group for group in _ALL}
