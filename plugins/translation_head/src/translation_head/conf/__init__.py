"""Hydra groups of this package."""
