"""Registration of many pairs: which ones, one run or several side by side, what came of them, and a look at all of them."""
