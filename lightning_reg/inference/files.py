"""Names of a registration's output files; ``metrics.json`` is always written."""

FILES = (
    "warped",
    "transform",
    "displacement",
    "jacobian",
    "spread",
    "affine",
    "labels",
    "thumbnail",
)
OF_ONE = FILES[:-1]
"""Files written by default when one pair is registered."""
OF_MANY = ("transform", "warped", "labels", "spread", "thumbnail")
"""Files written by default for each pair of a cohort."""
