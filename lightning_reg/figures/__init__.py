"""Figures of a training run or a registration. Every function returns a ``matplotlib`` figure and
writes nothing.

Functions are imported on first use: a registration without figures does not wait for
``matplotlib``.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
