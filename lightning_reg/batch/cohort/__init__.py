"""Registration of many pairs: lists of pairs, sequential or parallel runs, results, and visual
quality control.
"""
