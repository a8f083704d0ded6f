"""Curation of data sets: checks, and one-time preparation (lungs, crop, resolution)."""
