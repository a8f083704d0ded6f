"""Callbacks: growth, and what every run has."""
