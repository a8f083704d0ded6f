"""Registration of many pairs: which ones, one run or several side by side, what came of them, and a look at all of them."""

FILES = ("transform", "warped", "labels", "spread", "thumbnail")
"""Files written of each pair by default, of :data:`lightning_reg.inference.result.FILES`."""
