"""Folders of configurations: this project's own, and those of installed packages."""

from __future__ import annotations

from pathlib import Path

from lightning_reg.io.reading import read_yaml
from lightning_reg.registry.entries import folder_of, providers
from lightning_reg.registry.errors import ComponentError, DataError


def own_directory() -> Path:
    """The folder ``conf/``: inside the installed package, or beside it in a checkout."""
    package = Path(__file__).resolve().parents[1]
    for candidate in (package / "conf", package.parent / "conf"):
        if (candidate / "train.yaml").exists():
            return candidate
    raise ComponentError(
        f"The configuration folder conf/ is neither in {package} nor beside it; reinstall"
        " lightning-reg."
    )


def plugin_packages() -> dict[str, Path]:
    """Packages with Hydra groups that installed distributions add (entry points
    ``lightning_reg.conf``), and their folders.

    They are found on Python's search path without an import. Missing ones are left out, see
    :func:`conf_problems`.
    """
    found = {}
    for offered in providers("conf").values():
        for provider in offered:
            folder = folder_of(provider.target)
            if folder is not None:
                found[provider.target] = folder
    return found


def distributions(package: str) -> str:
    """``name version`` of the distributions that add a package of configurations."""
    return " and ".join(
        f"{p.distribution} {p.version}"
        for offered in providers("conf").values()
        for p in offered
        if p.target == package
    )


def offering(relative: Path) -> list[str]:
    """Packages that have a configuration of this name, as ``method/theirs.yaml``."""
    return [
        package for package, folder in plugin_packages().items() if (folder / relative).is_file()
    ]


def conf_problems() -> list[str]:
    """Problems of configurations from installed distributions, a sentence each that names the
    distribution.

    Possible problems: a missing folder, a file that is no YAML, and a name that a built-in
    configuration or one of another distribution has as well.
    """
    own, packages = own_directory(), plugin_packages()
    problems = [
        f"The configurations '{name}' of {provider.distribution} {provider.version} should be in"
        f" the package {provider.target}, which is missing; reinstall {provider.distribution}."
        for name, offered in providers("conf").items()
        for provider in offered
        if provider.target not in packages
    ]
    for package, folder in packages.items():
        for path in sorted(folder.rglob("*.yaml")):
            relative = path.relative_to(folder)
            try:
                read_yaml(
                    path,
                    f"ask the author of {distributions(package)} to correct it",
                    references=True,
                )
            except (OSError, DataError) as cause:
                problems.append(str(cause))
            if (own / relative).is_file():
                problems.append(
                    f"The configuration {relative} of {distributions(package)} has the name of a"
                    " built-in one and is not used; ask its author to rename it."
                )
            elif package == offering(relative)[-1] != offering(relative)[0]:
                problems.append(twice(relative))
    return problems


def twice(relative: Path) -> str:
    """Message that several distributions have a configuration of the same name."""
    both = " and ".join(distributions(package) for package in offering(relative))
    return (
        f"The configuration {relative} is provided twice, by {both}; uninstall one of them, or ask"
        " its author to rename it."
    )
