"""Data sets, their splits and file layouts."""
