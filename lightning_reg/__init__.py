"""Learning-based registration of 3D medical images.

The names that ``__init__.pyi`` lists are imported when they are first asked for:
``import lightning_reg`` itself takes no time. ``docs/python.md`` shows how they go together.
"""

from importlib.metadata import version

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
__version__ = version("lightning-reg")
