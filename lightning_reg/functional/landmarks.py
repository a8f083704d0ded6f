"""Distances between corresponding points."""

from __future__ import annotations

from torch import Tensor


def target_registration_error(mapped: Tensor, target: Tensor) -> Tensor:
    """Distance of fixed landmarks, mapped by the transform, from the moving landmarks.

    Args:
        mapped, target: ``(B, 3, N)`` in mm.

    Returns:
        ``(B, N)`` in mm.
    """
    if mapped.shape != target.shape:
        raise ValueError(
            f"landmarks: {mapped.shape[-1]} points in the fixed image, {target.shape[-1]} in the"
            " moving; they must correspond one to one"
        )
    return (mapped - target).norm(dim=1)
