"""Instance optimisation: fit of a transform's parameters to one pair, from coarse to fine."""

from lightning_reg.optimization.descent import Optimized, optimize
from lightning_reg.optimization.objective import FitStage, Optimization

__all__ = ["FitStage", "Optimization", "Optimized", "optimize"]
