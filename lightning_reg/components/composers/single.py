"""One network, one pass."""

from __future__ import annotations

from lightning_reg.components.interfaces import Composer, Level, Registration
from lightning_reg.components.network import Network
from lightning_reg.registry import require_kind
from lightning_reg.spatial import Composition, Displacement, Grid, Image, Transform


class SingleComposer(Composer):
    """The registration by one network.

    Args:
        network: the network.
        symmetric: in evaluation mode, register both directions and apply :func:`symmetrized`. This
            takes twice the time and removes errors that keep their sign when the images are
            exchanged. Training uses one direction in any case.
    """

    def __init__(self, network: Network, symmetric: bool = False) -> None:
        super().__init__()
        require_kind(network, Network, "network", "give Network(backbone, head)")
        self.network = network
        self.symmetric = symmetric

    def forward(self, fixed: Image, moving: Image) -> Registration:
        features = self.network.features(fixed, moving)
        *coarser, result = self.network.transforms(features, fixed.grid)
        predicted = features.predicted(fixed.grid)
        if self.symmetric and not self.training:
            result = symmetrized(result, self.network(moving, fixed)[-1], fixed.grid)
        images = [
            (fixed.at_resolution(t.grid), moving.at_stride(fixed.grid.stride_to(t.grid)))
            for t in coarser
        ]
        levels = [
            Level(*pair, t, t, predicted=predicted) for pair, t in zip(images, coarser, strict=True)
        ]
        return Registration((*levels, Level(fixed, moving, result, result, predicted=predicted)))


def symmetrized(forward: Transform, backward: Transform, grid: Grid) -> Displacement:
    """Subtract half of the inverse consistency error ``r(x) = backward(forward(x)) - x`` from
    ``forward``.

    To first order, the result is the mean of ``forward`` and the inverse of ``backward``. If these
    two are equal, it is ``forward``.

    Args:
        forward: fixed world to moving world.
        backward: moving world to fixed world.
        grid: the fixed image's grid, on which the result is defined.

    Source of the error: Christensen & Johnson, IEEE Trans. Med. Imaging 20(7), 2001.
    """
    error = Composition([backward, forward]).displacement(grid)
    return Displacement(forward.displacement(grid) - 0.5 * error, grid)
