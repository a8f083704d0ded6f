"""Learning-based registration of 3D medical images.

The names that ``__init__.pyi`` lists are imported when they are first asked for:
``import lightning_reg`` itself takes no time. ``docs/python.md`` shows how they go together.
"""

from importlib import import_module
from importlib.metadata import version
from typing import Any

import lazy_loader

_named, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
__version__ = version("lightning-reg")


def __getattr__(name: str) -> Any:
    """Import a name, and with the first one the views of images in a notebook."""
    value = _named(name)
    import_module("lightning_reg.figures.views")
    return value
