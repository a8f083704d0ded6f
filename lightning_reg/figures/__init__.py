"""Figures of a training run or a registration. Every function returns a ``matplotlib`` figure and writes nothing."""

from lightning_reg.figures.cases import metric_boxes
from lightning_reg.figures.curves import growth_weights, learning_curve, objective_curves, study_figure, trials_figure
from lightning_reg.figures.panels import registration_panel
from lightning_reg.figures.points import motion_correlation, tre_boxes
from lightning_reg.figures.spread import spread_map

__all__ = [
    "growth_weights", "learning_curve", "metric_boxes", "motion_correlation", "objective_curves", "registration_panel", "spread_map",
    "study_figure", "tre_boxes", "trials_figure",
]  # fmt: skip
