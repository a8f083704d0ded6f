"""Version of the contract between this project and the packages that extend it."""

from __future__ import annotations

import sys
import warnings

from packaging.specifiers import InvalidSpecifier, SpecifierSet

CONTRACT = "1.1"
"""Version of the interfaces that ``docs/plugins.md`` describes, of the names they give, and of
:mod:`lightning_reg.testing`.

The minor number rises with every addition and every deprecation, the major number with every
removal, at least one minor version after the deprecation. It is not the version of the
distribution.
"""
NOUNS = {
    "backbones": "backbone", "heads": "head", "composers": "composer", "losses": "loss",
    "callbacks": "callback", "datasets": "dataset", "optimizers": "optimizer",
    "schedules": "schedule", "samplers": "sampler", "loggers": "logger", "fits": "fit",
    "starts": "start", "lung_segmentations": "lung segmentation", "metrics": "metric",
    "report_sections": "report section", "outputs": "output", "commands": "command",
    "models": "model",
}  # fmt: skip
"""Entry-point groups ``lightning_reg.*`` of components, and the name of one component of each."""
BOUND = "requires_lightning_reg"
"""Name in a package's ``__init__.py``: versions of the contract that it works with, as
``">=1.0,<2"``.
"""


def unmet(loaded: object) -> str | None:
    """Reason why a loaded component is incompatible with this contract, as a predicate after its
    name; ``None`` if it is compatible.

    Args:
        loaded: a class; :data:`BOUND` is looked for in it and in its top-level package.
    """
    package = sys.modules.get(str(getattr(loaded, "__module__", "")).partition(".")[0])
    wanted = getattr(loaded, BOUND, None) or getattr(package, BOUND, None)
    if wanted is None:
        return None
    try:
        fits = SpecifierSet(str(wanted)).contains(CONTRACT)
    except InvalidSpecifier:
        return f'has {BOUND} = {wanted!r}, which is no range of versions; write it as ">=1.0,<2"'
    return (
        None
        if fits
        else (
            f"needs version {wanted} of the plugin contract, and this lightning_reg has {CONTRACT};"
            " install another version of it"
        )
    )


def deprecated(what: str, instead: str, since: str) -> None:
    """Warn of a deprecated feature.

    Args:
        what: subject of the sentence.
        instead: imperative, what to do.
        since: version of the contract that deprecates it; it stays until the minor version after
            that.
    """
    warnings.warn(
        f"{what} is deprecated since version {since} of the plugin contract; {instead}.",
        FutureWarning,
        stacklevel=3,
    )
