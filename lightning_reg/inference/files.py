"""Names of what is written of a registration, beside ``metrics.json``."""

FILES = ("warped", "transform", "displacement", "jacobian", "spread", "affine", "labels", "thumbnail")
OF_ONE = FILES[:-1]
"""By default of one pair."""
OF_MANY = ("transform", "warped", "labels", "spread", "thumbnail")
"""By default of each of many pairs."""
