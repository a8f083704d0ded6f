"""Phantom of a breathing thorax: two phases of a CT, the true map between them, lungs, lobes and
vessel branchings.
"""

from lightning_reg.phantom.thorax import breathing_thorax

__all__ = ["breathing_thorax"]
