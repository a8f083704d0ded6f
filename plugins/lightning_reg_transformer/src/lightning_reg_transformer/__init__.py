"""Swin transformers as backbones of lightning_reg."""

requires_lightning_reg = ">=1.0,<2"
