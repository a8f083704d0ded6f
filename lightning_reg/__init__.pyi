from .discovery.composition import compose as compose
from .inference.registrar import conventional as conventional
from .inference.registrar import load as load
from .training.run import train as train

__version__: str
