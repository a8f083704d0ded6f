"""Trained models by name, in files and on servers; no code of theirs is run."""

from lightning_reg.models.card import Card, read_card, write_card
from lightning_reg.models.locate import Located, installed, locate

__all__ = ["Card", "Located", "installed", "locate", "read_card", "write_card"]
