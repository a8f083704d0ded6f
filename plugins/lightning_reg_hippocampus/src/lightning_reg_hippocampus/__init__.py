"""Model for cropped hippocampi in T1 MR, between subjects."""
