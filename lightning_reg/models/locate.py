"""Names of models, and their files."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from lightning_reg.models.card import CARD, Card, read_card
from lightning_reg.models.download import Progress, from_hub, from_server
from lightning_reg.registry import (
    ComponentError,
    Provider,
    UserError,
    chosen,
    did_you_mean,
    providers,
)
from lightning_reg.registry.entries import folder_of

WEIGHTS = "model.ckpt"
"""File in the folder that an entry point of ``lightning_reg.models`` names."""
FORMS = (
    "the name of an installed model (lightning-reg models), a file, https://...#sha256=..., or"
    " hf://owner/repo/file@revision"
)


@dataclass(frozen=True)
class Located:
    """Model on this machine: its requested name, its checkpoint, and its card if it has one."""

    name: str
    path: Path
    card: Card | None = None


def locate(name: str | Path, progress: Progress | None = None) -> Located:
    """Find the file of a model; if it is remote, it is downloaded, verified and cached.

    Args:
        name: name of an installed distribution's model, a file, ``https://...#sha256=...``, or
            ``hf://owner/repo/file@revision``.
        progress: callback of a download.

    Raises:
        UserError: there is no such model, it cannot be downloaded, or it does not match its
            checksum.
    """
    text = str(name)
    if not text:
        raise UserError(f"The model's name is empty; give {FORMS}.")
    if match := re.match(r"([A-Za-z]+)://", text):
        scheme = match[1].lower()
        if scheme == "hf":
            return Located(text, from_hub(text))
        if scheme in ("https", "http"):
            return Located(text, from_server(scheme + text[len(scheme) :], progress))
        raise UserError(f"{text} cannot be fetched; give {FORMS}.")
    known, path = providers("models"), Path(text).expanduser()
    if text not in known and (
        path.is_file() or path.suffix == ".ckpt" or "/" in text or path.is_dir()
    ):
        return Located(text, path)  # the reader reports problems of the path
    try:
        provider = chosen("models", text)
    except ComponentError as cause:
        if text in known:
            raise  # several distributions have it
        hint = did_you_mean(text, known) if known else "; none is installed."
        raise UserError(
            f"There is no model named '{text}', and no such file{hint} Give {FORMS}."
        ) from cause
    return of_provider(provider)


def of_provider(provider: Provider) -> Located:
    """The model of an installed distribution, found without importing anything of it.

    Raises:
        UserError: its folder or weights are missing, or its card cannot be read.
    """
    folder = folder_of(provider.target)
    if folder is None or not (folder / WEIGHTS).is_file():
        raise UserError(
            f"The model '{provider.name}' of {provider.origin} has no {WEIGHTS} in"
            f" {provider.target}; reinstall {provider.distribution}."
        )
    return Located(provider.qualified, folder / WEIGHTS, read_card(folder / CARD))


def installed() -> list[tuple[Provider, Located | UserError]]:
    """List every installed model, or its error."""
    found: list[tuple[Provider, Located | UserError]] = []
    for offered in providers("models").values():
        for provider in offered:
            try:
                found.append((provider, of_provider(provider)))
            except UserError as error:
                found.append((provider, error))
    return found
