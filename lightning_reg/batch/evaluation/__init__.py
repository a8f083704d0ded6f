"""Evaluation of several methods on the same pairs."""
