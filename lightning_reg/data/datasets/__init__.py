"""Data sets, their splits, and the forms they are kept in."""
