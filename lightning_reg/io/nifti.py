"""NIfTI files: header, units, and the place of the voxels."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import NamedTuple

import nibabel as nib
import numpy as np
from nibabel.openers import ImageOpener
from nibabel.spatialimages import SpatialImage
from numpy.typing import NDArray

Affine = NDArray[np.float64]
ENDINGS = (".nii", ".nii.gz", ".img", ".img.gz", ".hdr", ".hdr.gz")
MILLIMETRES = {1: 1e3, 3: 1e-3}
"""Factor for metres and micrometres, codes of ``xyzt_units``; others are mm, as in ITK."""


class Placement(NamedTuple):
    """Placement of the voxels.

    Args:
        affine: voxel index to RAS mm, as ITK reads it.
        doubt: how programs differ in this, as the second part of a sentence; empty if they do not.
        sizes: whether they differ in the voxel size.
    """

    affine: Affine
    doubt: str = ""
    sizes: bool = False


def is_nifti(path: Path) -> bool:
    """Whether the file's name is that of a NIfTI file, in small or capital letters."""
    return path.name.lower().endswith(ENDINGS)


def _single(path: Path) -> bool:
    """Whether header and voxels are in one file."""
    return path.name.lower().endswith((".nii", ".nii.gz"))


def open_nifti(path: Path) -> SpatialImage:
    """Open an image and verify its checksum if it is compressed, which nibabel alone does not do.

    Raises:
        ValueError: it is an Analyze file, which does not give the place of its voxels, or
            compressed against its name.
        Exception: many kinds, of nibabel and zlib, for a file that they cannot read.
    """
    if not _single(path):
        image = nib.load(path)
        if not isinstance(image, nib.Nifti1Pair):
            raise ValueError(
                "it is an Analyze file, which does not say where its voxels lie; convert it to"
                " NIfTI"
            )
        return image
    if path.name.lower().endswith(".gz"):
        content = gzip.decompress(path.read_bytes())
        return _kind(content).from_bytes(content)
    with path.open("rb") as file:
        first = file.read(4)
    if first[:2] == b"\x1f\x8b":
        raise ValueError(
            "it is compressed although its name does not say so; let its name end in .nii.gz"
        )
    kind = _kind(first)
    return kind.from_file_map({"image": nib.FileHolder(path)})


def _kind(content: bytes) -> type[nib.Nifti1Image]:
    return (
        nib.Nifti2Image
        if 540 in (int.from_bytes(content[:4], order) for order in ("little", "big"))
        else nib.Nifti1Image
    )


def nifti_header(path: Path, check: bool = True) -> nib.Nifti1Header | None:
    """Read a header, with nibabel's corrections or without; ``None`` if it cannot be read."""
    try:
        file = (
            path if _single(path) else nib.Nifti1Pair.filespec_to_file_map(path)["header"].filename
        )
        with ImageOpener(file) as stream:
            block = stream.read(540)
        header_kind = _kind(block).header_class
        header = header_kind(block[: header_kind.sizeof_hdr], check=check)
    except Exception:  # reported when the image is read
        return None
    return header if header["magic"].item()[:2] in (b"n+", b"ni") else None


def placement(header: nib.Nifti1Header, affine: Affine | None = None) -> Placement:
    """Place of the voxels, and whether programs agree on it.

    Args:
        affine: voxel index to the world in the header's unit; default the header's own: its sform,
            or else its qform.

    Returns:
        The given affine in mm, if ITK puts no corner of the image half a voxel elsewhere; otherwise
        ITK's.
    """
    affine = header.get_best_affine() if affine is None else affine
    scale = to_mm(header)
    itk, form = _itk_affine(header)
    if itk is None:
        return Placement(scale @ affine)
    last = np.array(header.get_data_shape()[:3]) - 1
    corners = np.stack(np.meshgrid(*[(0, n) for n in last], [1], indexing="ij")).reshape(4, -1)
    apart = float(np.linalg.norm(((affine - itk) @ corners)[:3], axis=0).max())
    if apart <= 0.5 * _sizes(header).min():
        return Placement(scale @ affine)
    if not form:
        why = "does not say where its voxels lie (no qform, no sform)"
        return Placement(scale @ itk, f"{why}; it is read as ITK does: convert it from DICOM again")
    doubt = (
        f"is placed differently by its qform and its sform (up to {apart * scale[0, 0]:.3g} mm"
        f" apart); it is read as ITK does, by the {form}, where nibabel, FSL and SPM take the"
        " sform: write the right one into both"
    )
    sizes = np.linalg.norm(affine[:3, :3], axis=0)
    return Placement(scale @ itk, doubt, not np.allclose(sizes, _sizes(header), rtol=0.01))


def to_mm(header: nib.Nifti1Header) -> Affine:
    """Matrix from the header's unit to mm."""
    unit = MILLIMETRES.get(int(header["xyzt_units"]) & 7, 1.0)
    return np.diag([unit, unit, unit, 1.0])


def _sizes(header: nib.Nifti1Header) -> Affine:
    return np.abs(np.array(header["pixdim"][1:4], dtype=np.float64))


def _itk_affine(header: nib.Nifti1Header) -> tuple[Affine | None, str]:
    """Affine that ITK reads, in the header's unit, and from which form; ``None`` if ITK refuses the
    header.

    ITK (``NiftiImageIO``) takes an sform with perpendicular axes if its code is *scanner*, or if
    there is no qform; otherwise the qform. The voxel size is always that of the header.
    """
    sizes, sform = _sizes(header), header.get_sform()
    qform_code, sform_code = int(header["qform_code"]), int(header["sform_code"])
    if qform_code == sform_code == 0:
        return np.diag([-sizes[0], -sizes[1], sizes[2], 1.0]), ""
    if sform_code and skew(sform) < 1e-4 and (qform_code == 0 or sform_code == 1):
        taken, form = sform, "axes of the sform and the voxel size of the header"
    elif qform_code:
        taken, form = header.get_qform(), "qform"
    else:
        return None, ""
    taken = taken.copy()
    taken[:3, :3] *= sizes / np.linalg.norm(taken[:3, :3], axis=0)
    return taken, form


def skew(affine: Affine) -> float:
    """Largest cosine between two axes of an affine; NaN if one is 0."""
    with np.errstate(invalid="ignore"):
        axes = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    return float(np.abs(axes.T @ axes - np.eye(3)).max())


def place(image: nib.Nifti1Image) -> None:
    """Set both the qform and the sform of the header, in mm."""
    image.set_qform(image.affine, code=1)
    image.set_sform(image.affine, code=1)
    image.header.set_xyzt_units("mm")
