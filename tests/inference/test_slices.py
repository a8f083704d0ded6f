"""Registration of two slices: files against SimpleITK, and the report."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch

import lightning_reg
from lightning_reg import functional as LF
from lightning_reg.inference.applying import apply_to_image
from lightning_reg.io.images import write_image
from lightning_reg.testing.fixtures import grid

FEW = [
    f"optimization.stages.{number}.steps={steps}" for number, steps in enumerate((20, 10, 15, 10))
]


@pytest.mark.parametrize("axis", [0, 2])
def test_files_of_an_oblique_slice_are_those_of_itk(axis: int, tmp_path: Path) -> None:
    shape, spacing = [48, 40], [1.2, 0.9]
    shape.insert(axis, 1)
    spacing.insert(axis, 3.0)
    on = grid(shape, spacing)
    drawn = torch.rand(1, 1, 10, 10, generator=torch.Generator().manual_seed(1))
    image = LF.bspline(drawn, (48, 40), (47 / 9, 39 / 9), (0.0, 0.0)) * 1000
    # some motion: the second image is cut from the first, two pixels away
    for name, values in (("fixed", image), ("moving", image.roll((2, -1), (2, 3)))):
        write_image(tmp_path / f"{name}.nii.gz", values.unsqueeze(2 + axis), on)
        write_image(
            tmp_path / f"{name}_labels.nii.gz", (values > 500).short().unsqueeze(2 + axis), on
        )
    files = {
        part: tmp_path / f"{part}.nii.gz"
        for part in ("fixed", "moving", "fixed_labels", "moving_labels")
    }
    result = lightning_reg.conventional("bspline", FEW).register(**files)
    out = tmp_path / "out"
    result.save(out)
    dice = result.metrics()["dice"]
    assert dice["after"] > dice["before"]
    assert result.transform.displacement(on)[:, axis].abs().max() < 1e-4
    assert (out / "report.html").stat().st_size > 10_000

    fixed, moving = (sitk.ReadImage(str(tmp_path / f"{n}.nii.gz")) for n in ("fixed", "moving"))
    transform = sitk.ReadTransform(str(out / "transform.h5"))
    by_itk = sitk.GetArrayFromImage(sitk.Resample(moving, fixed, transform, sitk.sitkLinear))
    ours = sitk.GetArrayFromImage(sitk.ReadImage(str(out / "warped.nii.gz")))
    inner = tuple(slice(8, -8) if n > 1 else slice(None) for n in ours.shape)
    np.testing.assert_allclose(ours[inner], by_itk[inner], atol=0.5)
    again = tmp_path / "again.nii.gz"
    apply_to_image(out / "transform.h5", str(files["moving"]), str(files["fixed"]), again)
    applied = sitk.GetArrayFromImage(sitk.ReadImage(str(again)))
    np.testing.assert_allclose(applied[inner], ours[inner], atol=0.5)
