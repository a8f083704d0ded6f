"""Views of images and pairs in a notebook."""

from __future__ import annotations

import base64
import io
import re
import subprocess
import sys

import numpy as np
import PIL.Image
import pytest
import torch

from lightning_reg.figures.views import SIDE, card
from lightning_reg.spatial import Grid, Image, Pair


def marked(
    corner: tuple[int, int, int], affine: np.ndarray, shape: tuple[int, int, int] = (12, 10, 8)
) -> Image:
    """An image that is 1 in the octant of a corner (0 or 1 per axis: right to left, posterior to
    anterior, inferior to superior).
    """
    grid = Grid(shape, affine)
    points = grid.to_world(
        torch.stack(
            torch.meshgrid(*(torch.arange(n, dtype=torch.float64) for n in shape), indexing="ij")
        ).view(1, 3, -1)
    )
    center = grid.to_world((torch.tensor(shape, dtype=torch.float64).view(1, 3, 1) - 1) / 2)
    inside = ((points > center) == torch.tensor([bool(c) for c in corner]).view(1, 3, 1)).all(1)
    return Image(inside.float().view(1, 1, *shape), grid)


def drawn(html: str) -> np.ndarray:
    (encoded,) = re.findall(r"data:image/png;base64,([^']+)'", html)
    return np.asarray(PIL.Image.open(io.BytesIO(base64.b64decode(encoded))))


@pytest.mark.parametrize(
    "flip",
    [
        np.diag([1.0, 1.0, 1.0, 1.0]),
        np.diag([-2.0, 1.5, 1.0, 1.0]),
        np.diag([1.0, -1.0, -2.5, 1.0]),
    ],
)
def test_the_patients_right_is_left_and_anterior_and_superior_are_up(flip: np.ndarray) -> None:
    """RAS: +x is left to right of the patient, so the right-anterior-superior octant is at the left
    and top of every plane.
    """
    image = marked((1, 1, 1), flip)
    view = drawn(image._repr_html_())[..., 0]
    side = SIDE
    assert view.shape == (side, 3 * side)
    axial, coronal, sagittal = (view[:, n * side : (n + 1) * side].astype(float) for n in range(3))
    half = side // 2
    for plane in (axial, coronal):
        # right is left, anterior or superior up
        assert plane[:half, :half].sum() > 3 * (plane.sum() - plane[:half, :half].sum())
    # anterior is right
    assert sagittal[:half, half:].sum() > 3 * (sagittal.sum() - sagittal[:half, half:].sum())


def test_an_image_tells_shape_voxel_size_and_values() -> None:
    image = Image(
        torch.linspace(-1000, 500, 2 * 3 * 4 * 5).view(2, 1, 3, 4, 5),
        Grid.regular((3, 4, 5), (1.0, 2.0, 2.5)),
    )
    assert (
        repr(image)
        == "Image(3 x 4 x 5 voxels, 2 images; 1 x 2 x 2.5 mm; (1, 3, 5) mm RAS; intensities,"
        " float32, -1000 to 500, on cpu)"
    )
    assert "1 x 2 x 2.5 mm" in image._repr_html_()
    meta = Image(torch.empty(1, 1, 3, 4, 5, device="meta"), image.grid)
    assert "img" not in meta._repr_html_()
    assert "to" not in meta.described()["values"].split()


def test_a_pair_shows_the_fixed_above_the_moving_image() -> None:
    fixed, moving = marked((1, 1, 1), np.eye(4)), marked((0, 0, 0), np.eye(4))
    pair = Pair(fixed, moving, fixed_mask=fixed)
    view = drawn(pair._repr_html_())[..., 0].astype(float)
    side = SIDE
    assert view.shape == (2 * side, 3 * side)
    above, below = (
        view[: side // 2, : side // 2].sum(),
        view[side + side // 2 :, side // 2 : side].sum(),
    )
    assert above > 0.9 * view[:side, :side].sum()
    assert below > 0.9 * view[side:, :side].sum()
    assert "also: fixed mask" in repr(pair)


def test_text_is_text() -> None:
    assert "a &lt;b&gt; &amp; c" in card("a <b> & c", {})


def test_a_notebook_shows_images_after_any_name_of_the_package() -> None:
    code = (
        "import lightning_reg; from lightning_reg.spatial import Image, Pair;"
        " assert not hasattr(Image, '_repr_html_'); lightning_reg.Grid;"
        " print(hasattr(Image, '_repr_html_'), hasattr(Pair, '_repr_html_'))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True", "True"]
