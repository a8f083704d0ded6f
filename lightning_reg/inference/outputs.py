"""Files of a result: name, content and writer of each. ``metrics.json`` is always written.

This module imports nothing heavy, because the command line lists the names.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning_reg.io.transform_files import TRANSFORM
from lightning_reg.registry import ArgumentError, blaming, build, did_you_mean, providers

if TYPE_CHECKING:
    from lightning_reg.inference.result import Result


@dataclass(frozen=True)
class Output:
    """A file of a result's folder.

    Args:
        file: its name.
        content: from the result to the writer's arguments; if the first is ``None``, there is
            nothing to write.
        write: from the path and these arguments to the file.
        beside: whether the file may be written in a thread of its own.
    """

    file: str
    content: Callable[[Result], tuple[Any, ...]]
    write: Callable[..., None]
    beside: bool = False

    def save(self, folder: Path, result: Result, call: Callable[..., None]) -> None:
        """Write the file; ``call(function, *arguments)`` may run the writer in another thread."""
        content = self.content(result)
        if content[0] is not None:
            arguments = (folder / self.file, *content)
            call(self.write, *arguments) if self.beside else self.write(*arguments)


class ExtraOutput(ABC):
    """A file in addition to those of the table, registered under ``lightning_reg.outputs``.

    Attributes:
        file: its name in the folder of the result.
    """

    file: str

    @abstractmethod
    def __call__(self, path: Path, result: Result) -> None:
        """Write the file.

        Args:
            path: new file.
            result: of one pair.
        """


def _image(path: Path, *content: Any) -> None:
    from lightning_reg.io.images import write_image

    write_image(path, *content)


def _displacement(path: Path, *content: Any) -> None:
    from lightning_reg.io.transforms import write_displacement

    write_displacement(path, *content)


def _transform(path: Path, *content: Any) -> None:
    from lightning_reg.io.transforms import write_transform

    write_transform(path, *content)


def _thumbnail(path: Path, *content: Any) -> None:
    from lightning_reg.figures.views import thumbnail

    thumbnail(*content).save(path, quality=82)


OUTPUTS = {
    "warped": Output(
        "warped.nii.gz", lambda r: (r.warped.data.float()[None], r.grid), _image, True
    ),
    "transform": Output(TRANSFORM, lambda r: (r.transform, r.grid), _transform),
    "displacement": Output("displacement.nii.gz", lambda r: (r.field, r.grid), _displacement, True),
    "jacobian": Output("jacobian.nii.gz", lambda r: (r.determinant, r.grid), _image, True),
    "spread": Output("spread.nii.gz", lambda r: (r.spread, r.grid), _image),
    "affine": Output("affine.tfm", lambda r: (r.affine_part, r.grid), _transform),
    "labels": Output("warped_labels.nii.gz", lambda r: (r.warped_labels, r.grid), _image),
    "thumbnail": Output("thumbnail.jpg", lambda r: (r.pair, r.field, r.determinant), _thumbnail),
}
"""The outputs by the name that ``files`` selects."""
OF_ONE = tuple(name for name in OUTPUTS if name != "thumbnail")
"""Outputs written by default when one pair is registered."""
OF_MANY = ("transform", "warped", "labels", "spread", "thumbnail")
"""Outputs written by default for each pair of a cohort."""
INVERSE = Output(
    "inverse_transform.h5", lambda r: (r.inverted.transform, r.inverted.domain), _transform
)


def outputs(names: Collection[str], argument: str = "files") -> list[Output]:
    """The outputs of some names, in the order of the table; those of other distributions last.

    Args:
        argument: that gave the names, for messages.

    Raises:
        ArgumentError: there is no such output.
        ComponentError: one of another distribution cannot be used.
    """
    known = [*OUTPUTS, *providers("outputs")]
    for name in names:
        if name not in known:
            raise ArgumentError(
                f"{argument} names '{name}'{did_you_mean(name, known)} Known: {', '.join(known)}."
            )
    own = [output for name, output in OUTPUTS.items() if name in names]
    return own + [_extra(name) for name in names if name not in OUTPUTS]


def _extra(name: str) -> Output:
    extra = build("outputs", name, ExtraOutput)

    def write(path: Path, result: Result) -> None:
        with blaming(extra, f"writing {path.name}"):
            extra(path, result)

    return Output(extra.file, lambda result: (result,), write)
