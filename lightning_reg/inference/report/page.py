"""HTML page common to all reports."""

from __future__ import annotations

import base64
import io
import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jinja2
from markupsafe import Markup

from lightning_reg.registry import Described
from lightning_reg.spatial import Pair, Transform

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Row:
    """Cells of a row, beginning with its name; ``at``: position ``"i,j,k"`` shown after a click."""

    cells: Sequence[str]
    emphasis: bool = False
    at: str | None = None


@dataclass(frozen=True)
class Picture:
    """A figure as PNG in base64."""

    name: str
    png: str

    @staticmethod
    def of(name: str, figure: Figure) -> Picture:
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=110)
        return Picture(name, base64.b64encode(buffer.getvalue()).decode())

    @staticmethod
    def read(path: Path) -> Picture:
        return Picture(path.stem.replace("_", " "), base64.b64encode(path.read_bytes()).decode())


@dataclass(frozen=True)
class Section:
    """A heading with a note, figures and a table, any of which may be missing.

    Args:
        slides: figures shown one at a time, selected by a slider.
        slide: index of the one shown first.
    """

    title: str
    columns: Sequence[str] = ()
    rows: Sequence[Row] = ()
    note: str = ""
    figures: Sequence[Picture] = field(default_factory=tuple)
    slides: Sequence[Picture] = field(default_factory=tuple)
    slide: int = 0


class ReportSection(Described, ABC):
    """A section of a registration's report, registered under ``lightning_reg.report_sections``."""

    @abstractmethod
    def __call__(self, pair: Pair, transform: Transform, record: Mapping[str, Any]) -> Section:
        """The section of one registered pair.

        Args:
            pair: with original intensities and grids.
            transform: fixed world to moving world.
            record: content of ``metrics.json``.
        """


def render(
    title: str,
    sections: Sequence[Section],
    settings: Mapping[str, Any],
    subtitle: str = "",
    warnings: Sequence[str] = (),
    volumes: Mapping[str, Any] | None = None,
) -> str:
    """Render the whole page.

    Args:
        volumes: data of ``viewer.js``, see
            :func:`lightning_reg.inference.report.viewer.volumes`.
    """
    here = files(__package__)
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    viewer: dict[str, Any] = {}
    if volumes:
        width, depth, _ = volumes["shape"]
        window, lowest = volumes["window"], volumes["range"]["fixed"][0]
        viewer = {
            "volumes": Markup(json.dumps(volumes).replace("<", "\\u003c")),
            "landmarks": bool(volumes["landmarks"]),
            "contours": volumes["contoured"],
            "ct": window["fixed"] == window["other"] and lowest < -700,
            "resampled": volumes["resampled"],
            "widths": {"axial": width, "coronal": width, "sagittal": depth},
        }
    return environment.from_string((here / "page.html").read_text(encoding="utf-8")).render(
        title=title,
        subtitle=subtitle,
        warnings=warnings,
        sections=sections,
        settings=json.dumps(settings, indent=2, default=str),
        style=Markup((here / "page.css").read_text(encoding="utf-8")),
        script=Markup((here / "viewer.js").read_text(encoding="utf-8")),
        **viewer,
    )


def number(value: Any, form: str = ".3f") -> str:
    """Format a number for a table; empty for ``None`` and NaN."""
    return "" if value is None or value != value else format(float(value), form)
