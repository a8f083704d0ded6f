"""Parameters of a stage of instance optimisation, and their transforms."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from lightning_reg.components.interfaces import Composer, Registration
from lightning_reg.functional import (
    affine_matrix,
    in_plane,
    in_plane_parameters,
    lattice_shape,
    subdivide,
)
from lightning_reg.optimization.objective import FitStage, Objective
from lightning_reg.registry import ComponentError
from lightning_reg.spatial import (
    Affine,
    BSpline,
    Composition,
    Displacement,
    Grid,
    Transform,
    split_affine,
)

AFFINE_SCALE = (10.0, 10.0, 10.0, 0.3, 0.3, 0.3, 0.2, 0.2, 0.2, 0.2, 0.2, 0.2)
"""Scale of each affine parameter in the optimiser: mm for translations, radians for rotations,
factors for scales and shears.
"""


@dataclass(frozen=True)
class State:
    """Transform ``phi = affine o (x + field(x) + spline(x))`` on the fixed grid; parts that are
    ``None`` are absent.
    """

    grid: Grid
    affine: Tensor
    spline: BSpline | None = None
    field: Transform | None = None
    spacing: float | None = None

    @staticmethod
    def of(transform: Transform, grid: Grid) -> State:
        affine, rest = split_affine(transform, grid)
        return State(grid, affine.detach(), field=rest)

    def increment(self, grid: Grid) -> Tensor | None:
        """Displacement of spline and field, without the affine part, on a grid, ``(1, 3, *S)``;
        ``None`` if there is neither.
        """
        shares = [part.displacement(grid) for part in (self.spline, self.field) if part is not None]
        return torch.stack(shares).sum(0) if shares else None

    def transform(self) -> Transform:
        """The transform; a B-spline remains a B-spline unless there is a field, too."""
        affine = Affine(self.affine, self.grid)
        inner = self.spline or self.field
        if self.spline is not None and self.field is not None:
            shift = self.increment(self.grid)
            assert shift is not None
            inner = Displacement(shift, self.grid)
        moves = not torch.equal(
            self.affine[0], torch.eye(4, dtype=self.affine.dtype, device=self.affine.device)
        )
        if inner is None:
            return affine
        return Composition([affine, inner]) if moves else inner


class Fit(ABC):
    """Parameters of one stage and their transform; registered under ``lightning_reg.fits``.

    Attributes:
        parameters: leaf tensors that the optimiser changes.
    """

    parameters: list[Tensor]

    @abstractmethod
    def __init__(
        self, state: State, stage: FitStage, objective: Objective, network: Composer | None
    ) -> None: ...

    @abstractmethod
    def found(self, grid: Grid) -> Transform | Registration:
        """The whole transform, with displacements on the ``grid`` of the stage's images; for a
        network, the registration of all levels.
        """

    @abstractmethod
    def state(self) -> State:
        """State after the stage."""


class LinearFit(Fit):
    """Abstract fit of an affine map about the fixed image's centre, applied before the existing
    affine part. The parameters are those of the world's axes; of one slice, of its own axes.

    Attributes:
        count: number of parameters: 6 (translations and rotations) or 12 (also scales and shears).
    """

    count: int

    def __init__(
        self, state: State, stage: FitStage, objective: Objective, network: Composer | None
    ) -> None:
        self.before = state
        self.shift = state.increment(objective.grid)
        like = state.affine.float()
        self.identity = torch.tensor([[0.0] * 6 + [1.0] * 3 + [0.0] * 3], device=like.device)
        self.scale = torch.tensor([AFFINE_SCALE], device=like.device)
        grid = objective.grid
        flat = min(grid.shape) == 1
        frames = grid.frame() if flat else (np.eye(4)[None],) * 2
        self.frame, self.back = (torch.as_tensor(m, device=like.device) for m in frames)
        self.center = torch.as_tensor(np.zeros(3) if flat else grid.center[0]).to(like)
        self.parameters = [torch.zeros(1, self.count, device=like.device, requires_grad=True)]

    def _matrix(self) -> Tensor:
        change = nn.functional.pad(self.parameters[0], (0, 12 - self.count)) * self.scale
        change = in_plane_parameters(change, self.before.grid.shape)
        local = affine_matrix(self.identity + change, self.center).double()
        return self.before.affine @ self.frame @ local @ self.back

    def found(self, grid: Grid) -> Transform:
        affine = Affine(self._matrix().float(), grid)  # determines the dtype of the coordinates
        if self.shift is None:
            return affine
        return Composition([affine, Displacement(self.shift, grid)])

    def state(self) -> State:
        return replace(self.before, affine=self._matrix().detach())


class RigidFit(LinearFit):
    """Translations and rotations."""

    count = 6


class AffineFit(LinearFit):
    """Translations, rotations, scales and shears."""

    count = 12


class BSplineFit(Fit):
    """Control points of a B-spline, in finest voxel edges, initialised by subdivision of the
    previous stage's coarser lattice.
    """

    def __init__(
        self, state: State, stage: FitStage, objective: Objective, network: Composer | None
    ) -> None:
        grid, edge, spacing = state.grid, objective.edge, objective.spacing
        self.spacing = spacing
        like = state.affine.float()

        def stride(spacing: float) -> list[float]:
            return [spacing * edge / s for s in grid.spacing[0].tolist()]

        control = torch.zeros(1, 3, *lattice_shape(grid.shape, stride(spacing)), device=like.device)
        if state.spline is not None and state.spacing is not None:
            control = state.spline.control
            between = state.spacing
            while between > spacing * 1.001:
                between /= 2
                control = subdivide(control, lattice_shape(grid.shape, stride(between)))
        self.before, self.stride = replace(state, spline=None), stride(spacing)
        self.constant = self.before.increment(objective.grid)
        self.unit = _edges(edge, grid, like)
        self.parameters = [(control.detach() / self.unit).requires_grad_()]

    def _spline(self) -> BSpline:
        control = in_plane(self.parameters[0] * self.unit, self.before.grid.shape)
        return BSpline(control, self.before.grid, self.stride)

    def found(self, grid: Grid) -> Transform:
        spline = self._spline()
        inner: Transform = spline
        if self.constant is not None:
            inner = Displacement(spline.displacement(grid) + self.constant, grid)
        return Composition([Affine(self.before.affine, grid), inner])

    def state(self) -> State:
        spline = self._spline()
        fitted = BSpline(spline.control.detach(), spline.grid, spline.stride)
        return replace(self.before, spline=fitted, spacing=self.spacing)


class DenseFit(Fit):
    """A displacement added to the existing one, with one sample per ``spacing``, in finest voxel
    edges.
    """

    def __init__(
        self, state: State, stage: FitStage, objective: Objective, network: Composer | None
    ) -> None:
        self.before, grid = state, state.grid
        size = objective.spacing * objective.edge
        stride = [max(1, round(size / s)) for s in grid.spacing[0].tolist()]
        shape = [-(-n // s) for n, s in zip(grid.shape, stride, strict=True)]
        self.coarse = grid.at_stride(stride, shape)
        like = state.affine.float()
        self.unit = _edges(objective.edge, self.coarse, like)
        zeros = torch.zeros(1, 3, *self.coarse.shape, device=like.device)
        self.parameters = [zeros.requires_grad_()]
        self.constant = state.increment(objective.grid)

    def _field(self) -> Displacement:
        field = in_plane(self.parameters[0] * self.unit, self.before.grid.shape)
        return Displacement(field, self.coarse)

    def found(self, grid: Grid) -> Transform:
        shift = self._field().displacement(grid)
        inner = Displacement(shift if self.constant is None else shift + self.constant, grid)
        return Composition([Affine(self.before.affine, grid), inner])

    def state(self) -> State:
        shift = self._field().displacement(self.before.grid).detach()
        constant = self.before.increment(self.before.grid)
        total = shift if constant is None else shift + constant
        field = Displacement(total, self.before.grid)
        return replace(self.before, spline=None, spacing=None, field=field)


class NetworkFit(Fit):
    """The network's weights. The result of earlier stages is discarded, because the network starts
    from the images.
    """

    def __init__(
        self, state: State, stage: FitStage, objective: Objective, network: Composer | None
    ) -> None:
        if network is None:
            raise ComponentError(
                "A stage that fits the network's weights needs a model; give `model`, or another"
                " method."
            )
        self.network = copy.deepcopy(network).eval().requires_grad_()
        self.grid, self.pair = state.grid, objective.original
        self.parameters = list(self.network.parameters())

    def found(self, grid: Grid) -> Registration:
        return self.network(self.pair.fixed, self.pair.moving)

    def state(self) -> State:
        with torch.no_grad():
            return State.of(self.found(self.grid).transform, self.grid)


def _edges(edge: float, grid: Grid, like: Tensor) -> Tensor:
    """``edge`` mm in voxels of a grid, per axis, ``(1, 3, 1, 1, 1)``."""
    edges = [edge / s for s in grid.spacing[0].tolist()]
    return torch.tensor(edges, device=like.device).view(1, 3, 1, 1, 1)
