"""Learning-based registration of 3D medical images."""

from importlib.metadata import version

__version__ = version("lightning-reg")
