"""Adapters, one module per public data set: file locations and reading. docs/data/ has a page for
each.
"""
