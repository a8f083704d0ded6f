"""An example plugin of lightning_reg: one translation per pair."""
