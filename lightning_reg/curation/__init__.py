"""Curation of data sets: prepared once (lungs, crop, resolution), and checked."""
