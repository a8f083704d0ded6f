"""Planning of a training: a data set's fingerprint, the rules that turn it into settings, and the
plan.
"""

from lightning_reg.planning.fingerprint import Fingerprint, Spread, fingerprint
from lightning_reg.planning.motion import Motion
from lightning_reg.planning.plan import Plan, plan, write_plan

__all__ = ["Fingerprint", "Motion", "Plan", "Spread", "fingerprint", "plan", "write_plan"]
