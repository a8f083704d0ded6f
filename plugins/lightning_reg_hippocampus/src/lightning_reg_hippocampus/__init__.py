"""Hippocampi in T1 MR, cropped: one subject's to another's."""
