"""Pair of CTs of a breathing thorax, with masks, lobes, landmarks and the true displacement."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch

from lightning_reg.functional import affine_matrix, in_plane
from lightning_reg.phantom.anatomy import Anatomy, Surfaces, draw_anatomy, lobes, surfaces
from lightning_reg.phantom.breathing import Breathing, draw_breathing
from lightning_reg.phantom.shapes import Array
from lightning_reg.phantom.tissue import AIR, Texture, draw_texture, hounsfield
from lightning_reg.phantom.vessels import VesselIndex, Vessels, grow, join
from lightning_reg.spatial import Displacement, Grid, Image, Pair


class Subject(NamedTuple):
    """One patient.

    ``pose`` ``(4, 4)`` maps body coordinates to the world (RAS mm). ``frame`` ``(4, 4)`` maps the
    scan's field of view (mm along its axes, from its middle) to the world; ``extent`` ``(3,)`` is
    the size of the field of view in mm.
    """

    anatomy: Anatomy
    breathing: Breathing
    vessels: Vessels
    texture: Texture
    pose: Array
    frame: Array
    extent: Array

    def map_world(self, points: Array) -> Array:
        """``phi``: world points ``(3, N)`` at inhalation (fixed) to points at exhalation (moving),
        RAS mm, float64.
        """
        return _apply(self.pose, self.breathing.map(_apply(np.linalg.inv(self.pose), points)))


def breathing_thorax(
    seed: int, shape: tuple[int, int, int] = (64, 64, 64), noise: float = 17.0, landmarks: int = 80
) -> Pair:
    """Draw a thorax at inhalation (fixed) and exhalation (moving), both exactly, and the map
    between them.

    Args:
        seed: random seed of the subject, its position in the scanner and the noise; the subject
            does not depend on ``shape``.
        shape: voxels ``(I, J, K)`` roughly to the right, front and top; the field of view is about
            330 x 260 x 300 mm. An axis of one voxel is a slice through the middle, with breathing
            in its plane and without landmarks.
        noise: standard deviation of the CT noise, HU.
        landmarks: maximum number of landmarks, the widest vessel branchings first.

    Returns:
        A :class:`~lightning_reg.spatial.Pair` of one: images in HU, lung masks, lobes (1 right
        upper, 2 right middle, 3 right lower, 4 left upper, 5 left lower), vessel branchings in RAS
        mm, and the true displacement in voxels of the fixed grid.
    """
    subject = draw_subject(seed)
    noise_inhale, noise_exhale = _streams(seed)[5:]
    grid = field_of_view(subject, shape)
    voxel = float(grid.spacing.prod()) ** (1 / 3)
    points = _apply(
        np.linalg.inv(subject.pose),
        grid.to_world(grid.points(dtype=torch.float64)).numpy().reshape(3, -1),
    )
    to_voxels = np.linalg.inv(grid.affine[0])[:3, :3] @ subject.pose[:3, :3]
    displacement = subject.breathing.displacement(points)
    if min(shape) == 1:
        inside = (to_voxels @ displacement) * (np.array(shape) > 1)[:, None]
        displacement = np.linalg.inv(to_voxels) @ inside
    index = VesselIndex(subject.vessels)

    inhale = surfaces(subject.anatomy, (points + displacement).astype(np.float32))
    lung = np.flatnonzero(inhale.lung < voxel)
    density = np.ones_like(inhale.lung)
    density[lung] = subject.breathing.jacobian_determinant(points[:, lung])
    fixed = _phase(subject, index, inhale, density, noise_inhale, noise, grid, voxel)

    exhale = surfaces(subject.anatomy, points.astype(np.float32))
    moving = _phase(
        subject, index, exhale, np.ones_like(exhale.lung), noise_exhale, noise, grid, voxel
    )

    field = torch.from_numpy((to_voxels @ displacement).astype(np.float32)).view(1, 3, *shape)
    field = in_plane(field, shape)
    branchings = _landmarks(subject, grid, landmarks) if min(shape) > 1 else None
    return Pair(
        fixed=fixed[0],
        moving=moving[0],
        fixed_mask=fixed[1],
        moving_mask=moving[1],
        fixed_labels=fixed[2],
        moving_labels=moving[2],
        fixed_landmarks=branchings and branchings[:1],
        moving_landmarks=branchings and branchings[1:],
        truth=Displacement(field, grid),
        name=(f"phantom-{seed}",),
    )


def _streams(seed: int) -> list[np.random.Generator]:
    """Independent random streams: for anatomy, breathing, vessels, texture, position, and the noise
    of either phase.
    """
    return [np.random.default_rng(s) for s in np.random.SeedSequence(seed).spawn(7)]


def draw_subject(seed: int) -> Subject:
    """Draw the subject of :func:`breathing_thorax`, which has the map between its phases in closed
    form.
    """
    body, breath, tree, pattern, position = _streams(seed)[:5]
    anatomy = draw_anatomy(body)
    breathing = draw_breathing(
        breath,
        anatomy.half_width,
        anatomy.half_depth,
        anatomy.spine,
        base=anatomy.left_dome - 30,
        apex=anatomy.top - 14,
    )
    gantry, lying = _rotation(position, 3.0, 9.0), _rotation(position, 0.0, 2.5)
    frame, pose = np.eye(4), np.eye(4)
    frame[:3, :3], frame[:3, 3] = gantry, position.uniform(-60.0, 60.0, 3)
    pose[:3, :3], pose[:3, 3] = gantry @ lying, frame[:3, 3] + position.uniform(-4.0, 4.0, 3)
    extent = np.array([334.0, 262.0, 300.0]) * position.uniform(0.98, 1.03, 3)
    return Subject(
        anatomy, breathing, _draw_vessels(tree, anatomy), draw_texture(pattern), pose, frame, extent
    )


def field_of_view(subject: Subject, shape: tuple[int, int, int]) -> Grid:
    """The scan's grid: ``shape`` voxels over the subject's field of view; the thickness of a slice
    is the finest pixel edge.
    """
    spacing = subject.extent / np.array(shape)
    flat = np.array(shape) == 1
    spacing[flat] = spacing[~flat].min()
    step = np.diag([*spacing, 1.0])
    step[:3, 3] = np.where(flat, 0.0, 0.5 * (spacing - subject.extent))
    return Grid(shape, subject.frame @ step)


def _rotation(rng: np.random.Generator, low: float, high: float) -> Array:
    """Draw a rotation ``(3, 3)`` by ``low`` to ``high`` degrees, in either direction, about each
    axis.
    """
    degrees = rng.uniform(low, high, 3) * rng.choice([-1.0, 1.0], 3)
    parameters = torch.zeros(1, 12, dtype=torch.float64)
    parameters[0, 3:6], parameters[0, 6:9] = torch.from_numpy(np.deg2rad(degrees)), 1.0
    return affine_matrix(parameters)[0, :3, :3].numpy()


def _draw_vessels(rng: np.random.Generator, anatomy: Anatomy) -> Vessels:
    """Draw one tree per lung, grown through points spread evenly over it."""
    reach = np.array([[anatomy.half_width], [anatomy.half_depth], [anatomy.top]])
    cloud = rng.uniform(-1.0, 1.0, (3, 9000)) * reach
    cloud = cloud[:, surfaces(anatomy, cloud).lung < -2.0]
    trees = []
    for side, root, heading in (
        (1, anatomy.right_hilum, (0.9, -0.3, -0.3)),
        (-1, anatomy.left_hilum, (-0.9, -0.3, -0.3)),
    ):
        tissue = cloud[:, np.sign(cloud[0]) == side].T
        trees.append(
            grow(
                rng, tissue, np.array(root), np.array(heading), radius=float(rng.uniform(7.0, 8.5))
            )
        )
    return join(trees)


def _phase(
    subject: Subject,
    index: VesselIndex,
    at: Surfaces,
    density: Array,
    rng: np.random.Generator,
    noise: float,
    grid: Grid,
    voxel: float,
) -> tuple[Image, Image, Image]:
    """Draw CT, lung mask and lobes of the anatomy, from the surface distances ``at`` the grid's
    points.
    """
    hu = hounsfield(subject.anatomy, index, subject.texture, at, density, voxel)
    hu += np.float32(noise) * rng.standard_normal(hu.shape, dtype=np.float32)
    labels = lobes(subject.anatomy, at.points, at.lung)

    def on_grid(values: Array) -> torch.Tensor:
        return torch.from_numpy(values).view(1, 1, *grid.shape)

    mask = Image(on_grid((labels > 0).astype(np.uint8)), grid, discrete=True)
    return Image(on_grid(hu), grid, padding=AIR), mask, Image(on_grid(labels), grid, discrete=True)


def _landmarks(subject: Subject, grid: Grid, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Fixed and moving vessel branchings ``(N, 3)`` RAS mm, widest first, inside the lungs and the
    grid in both phases.
    """
    order = np.argsort(subject.vessels.generations, kind="stable")
    exhale = subject.vessels.branchings[order].T
    exhale = exhale[:, surfaces(subject.anatomy, exhale).lung < -3.0]
    worlds = [
        torch.from_numpy(_apply(subject.pose, points))
        for points in (subject.breathing.inverse(exhale), exhale)
    ]
    inside = torch.stack([grid.contains(world.unsqueeze(0), margin=0)[0] for world in worlds]).all(
        0
    )
    fixed, moving = (world[:, inside][:, :count].T.float().contiguous() for world in worlds)
    return fixed, moving


def _apply(matrix: Array, points: Array) -> Array:
    """Apply a homogeneous matrix ``(4, 4)`` to points ``(3, N)``."""
    return matrix[:3, :3] @ points + matrix[:3, 3:]
