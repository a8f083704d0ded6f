"""A breathing thorax with a known answer: two phases of a CT, the map between them, lungs, lobes and vessel branchings."""

from lightning_reg.phantom.thorax import breathing_thorax

__all__ = ["breathing_thorax"]
