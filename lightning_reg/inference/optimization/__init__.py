"""Instance optimisation: the parameters of one pair's transform are fitted to that pair, from coarse to fine."""

from lightning_reg.inference.optimization.descent import Optimized, optimize
from lightning_reg.inference.optimization.objective import FitStage, Optimization

__all__ = ["FitStage", "Optimization", "Optimized", "optimize"]
