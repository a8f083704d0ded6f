"""Data sets by the names of their configurations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lightning_reg.configuration.composition import compose
from lightning_reg.data.datasets.splits import CHOICES, Splits, open_dataset
from lightning_reg.registry import DataError


def open_configured(
    name: str, overrides: Sequence[str] = (), root: str | None = None
) -> tuple[Splits, dict[str, Any]]:
    """Open the data set of a data configuration, and return it with the configuration as plain
    values.

    Args:
        name: data configuration that reads the data, as ``dirlab``, ``acdc`` or ``folder``; a file
            of ``conf/data`` or of an installed package.
        overrides: values of the data configuration, as ``data.root=FOLDER`` or
            ``data.held_out=2``.
        root: prepared data, a folder of scans, the provider's files, or a table of pairs; only
            read. Unlike in an override of ``data.root``, any character is allowed.

    Raises:
        UserError: there is no such configuration or option, or the data are invalid.
    """

    def choose(config: Any) -> None:
        if root is None:
            return
        if "root" not in config.data.keys():  # noqa: SIM118 - `in` is false for a missing value
            raise DataError(f"data={name} makes its own images; leave the folder {root} out.")
        config.data.root = root

    values = compose([f"data={name}", "size=paper", *overrides], choose)["data"]
    return open_dataset(values["dataset"], **{key: values.get(key) for key in CHOICES}), values
