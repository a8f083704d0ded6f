"""Where configurations lie: this project's own, and those that installed packages add."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from lightning_reg.discovery.errors import ComponentError
from lightning_reg.discovery.registry import providers


def own_directory() -> Path:
    """The folder ``conf/``: inside the installed package, or beside it in a checkout."""
    package = Path(__file__).resolve().parents[1]
    for candidate in (package / "conf", package.parent / "conf"):
        if (candidate / "train.yaml").exists():
            return candidate
    raise ComponentError(f"The configuration folder conf/ is neither in {package} nor beside it; reinstall lightning-reg.")


def plugin_packages() -> dict[str, Path]:
    """Packages with Hydra groups that installed distributions add (entry points ``lightning_reg.conf``), and their folders.

    Raises:
        ComponentError: a package cannot be found.
    """
    packages = {}
    for name, offered in providers("conf").items():
        for provider in offered:
            spec = find_spec(provider.target)
            if spec is None or not spec.submodule_search_locations:
                raise ComponentError(
                    f"The configurations '{name}' of {provider.distribution} should lie in the package {provider.target}, which is not "
                    f"installed; reinstall {provider.distribution}."
                )
            packages[provider.target] = Path(next(iter(spec.submodule_search_locations)))
    return packages


def shadowed() -> list[str]:
    """One sentence per plugin file that has the name of a built-in configuration, which Hydra then prefers."""
    own = own_directory()
    taken = {path.relative_to(own): path for path in own.rglob("*.yaml")}
    return [
        f"The configuration {relative} of {package} has the name of a built-in one and is not used; ask its author to rename it."
        for package, folder in plugin_packages().items()
        for relative in sorted(p.relative_to(folder) for p in folder.rglob("*.yaml"))
        if relative in taken
    ]
