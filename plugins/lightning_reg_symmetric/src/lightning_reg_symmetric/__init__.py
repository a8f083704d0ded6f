"""Registration that is inverse-consistent by construction, and GradICON's penalty, for
lightning_reg.
"""

requires_lightning_reg = ">=1.1,<2"
