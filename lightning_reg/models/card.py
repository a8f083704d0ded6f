"""Model cards: training data, accuracy, and limits of use."""

from __future__ import annotations

from dataclasses import MISSING, asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from lightning_reg.io.reading import as_yaml, read_yaml
from lightning_reg.registry import ArgumentError, DataError, require_known_arguments

CARD = "card.yaml"
"""Name of the card's file beside the weights."""
NAMES = {str: "text", int: "a whole number", dict: "'key: value' pairs", list: "a list"}


@dataclass(frozen=True)
class Card:
    """Card of a model.

    Args:
        title: the images that it registers, in a line.
        data: training data: source, number of subjects, modality.
        licence: licence of the weights, an SPDX expression (the licence of the data may require a
            certain one).
        training: the command of the training, and the version of lightning_reg.
        accuracy: metrics on held-out data by name; ``on`` describes these data.
        not_for: uses that are excluded.
        parameters: number of parameters of the network.
        weights: number format of the weights, and its effect.
        components: ``{group, name, distribution, version}`` of every component.
        citation: references for data and methods.
    """

    title: str
    data: str
    licence: str
    training: str
    accuracy: dict[str, Any]
    not_for: str
    parameters: int
    weights: str = "float32"
    components: list[dict[str, str]] = field(default_factory=list)
    citation: str = ""

    def __post_init__(self) -> None:
        kinds = {"parameters": int, "accuracy": dict, "components": list}
        for entry in fields(self):
            value, kind = getattr(self, entry.name), kinds.get(entry.name, str)
            if not isinstance(value, kind):
                raise ArgumentError(f"{entry.name} is {value!r}; give {NAMES[kind]}")
        if not all(
            isinstance(one, dict) and {"distribution", "version"} <= one.keys()
            for one in self.components
        ):
            raise ArgumentError(
                "components are not all {group, name, distribution, version}; pack the model again"
            )

    def text(self) -> str:
        """The card in Markdown."""
        measured = {key: value for key, value in self.accuracy.items() if key != "on"}
        rows = "\n".join(f"| {key} | {value} |" for key, value in measured.items())
        others = [f"{c['distribution']} {c['version']}" for c in self.components]
        parts = {
            "Data": self.data,
            "Accuracy": (
                f"{self.accuracy.get('on', 'On held-out data')}:\n\n| metric | value |\n| --- | ---"
                f" |\n{rows}"
            ),
            "Not for": self.not_for,
            "Training": f"```bash\n{self.training}\n```",
            "Weights": f"{self.parameters:,} parameters, {self.weights}; licence {self.licence}.",
            "Made with": ", ".join(dict.fromkeys(others)),
            "Cite": self.citation,
        }
        return (
            f"# {self.title}\n\n"
            + "\n\n".join(f"## {title}\n\n{text}" for title, text in parts.items() if text)
            + "\n"
        )


def read_card(path: Path) -> Card:
    """Read a card from a file.

    Raises:
        DataError: the file is missing, is no YAML, or lacks an entry.
    """
    try:
        values = read_yaml(path)
    except FileNotFoundError as cause:
        raise DataError(
            f"There is no card {path}; a model package has one beside its weights."
        ) from cause
    if not isinstance(values, dict):
        raise DataError(f"The card {path} holds no 'key: value' pairs; correct it.")
    known = [entry.name for entry in fields(Card)]
    require_known_arguments(str(path), values, known)
    lacking = [
        f.name
        for f in fields(Card)
        if f.default is MISSING and f.default_factory is MISSING and f.name not in values
    ]
    if lacking:
        raise DataError(f"The card {path} lacks {', '.join(lacking)}; add it.")
    try:
        return Card(**values)
    except ArgumentError as cause:
        raise DataError(f"The card {path} cannot be used: {cause}.") from cause


def write_card(card: Card, path: Path) -> None:
    """Write a card as YAML."""
    path.write_text(as_yaml(asdict(card), allow_unicode=True, width=120), encoding="utf-8")
