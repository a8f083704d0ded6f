"""Applying what was trained: a pair of images in, a transform out; instance optimisation, evaluation, reports, export."""
