"""Adapters of public data sets: file locations and reading. docs/data/ has a page for each."""
