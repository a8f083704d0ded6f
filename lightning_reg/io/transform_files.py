"""Files of one transform in a folder: alone, or a chain, as of ANTs and elastix."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from lightning_reg.registry import DataError

TRANSFORM = "transform.h5"
"""File of this project's transforms, in the folder of a result."""
FIELD_ENDINGS = (".nii.gz", ".nii", ".mha", ".mhd", ".nrrd")
TRANSFORM_ENDINGS = (".h5", ".hdf5", ".tfm", ".txt", ".mat", *FIELD_ENDINGS)
_ANTS = (
    "Warp.nii.gz", "GenericAffine.mat", "Affine.mat", "Similarity.mat", "Rigid.mat",
    "Translation.mat",
    "DerivedInitialMovingTranslation.mat",
)  # fmt: skip
"""Ends of names that ``antsRegistration`` writes as PREFIX, number, end; the highest number is
applied to a point first.
"""
_ANTS_NAME = re.compile(rf"(.*?)(\d)(?:Inverse)?(?:{'|'.join(map(re.escape, _ANTS))})")
_ELASTIX_NAME = re.compile(r"TransformParameters\.(\d+)\.(?:h5|tfm)")
ITK_OF_ELASTIX = 'let elastix write ITK files, too: (ITKTransformOutputFileNameExtension "h5")'
_ORDER = (
    "give all of its files, in the order of antsApplyTransforms -t, or join them into one file"
    " (CompositeTransformUtil --assemble)"
)


def files_in(folder: Path) -> list[Path]:
    """Files of the only transform in a folder; the first one is applied to points of the fixed
    image first.

    These are ``transform.h5`` of this project, transformix' ``deformationField.*``, elastix'
    ``TransformParameters.*.h5`` (or ``.tfm``), or ANTs' files under any prefix; none of them: an
    empty list.

    Raises:
        DataError: there are several transforms, or only a part of one.
    """
    if (folder / TRANSFORM).is_file():
        return [folder / TRANSFORM]
    fields = sorted(
        path for path in folder.glob("deformationField.*") if path.name.endswith(TRANSFORM_ENDINGS)
    )
    if len(fields) > 1:
        raise DataError(
            f"{folder} has {fields[0].name} and {fields[1].name}; remove one of them, or name the"
            " file."
        )
    if fields or (fields := _elastix(folder)):
        return fields
    names = [match for path in folder.iterdir() if (match := _ANTS_NAME.fullmatch(path.name))]
    prefixes = sorted({match[1] for match in names})
    if len(prefixes) > 1:
        raise DataError(
            f"{folder} has transforms of several registrations ({prefixes[0]}*, {prefixes[1]}*);"
            " keep one in the folder, or name the files."
        )
    return ants_files(folder, prefixes[0]) if prefixes else []


def ants_files(folder: Path, prefix: str) -> list[Path]:
    """Files of ANTs' transform, as :func:`files_in`.

    Raises:
        DataError: the files are not an affine map alone (number 0) or a warp after it (number 1).
    """
    numbered = {number: _numbered(folder, prefix, number) for number in reversed(range(10))}
    chain = [path for paths in numbered.values() for path in paths]
    if not chain or [number for number, paths in numbered.items() for _ in paths] in ([0], [1, 0]):
        return chain
    raise DataError(
        f"{folder} has {', '.join(path.name for path in chain)}, where {prefix}1Warp.nii.gz and"
        f" {prefix}0GenericAffine.mat are expected, which are a whole transform; {_ORDER}."
    )


def _numbered(folder: Path, prefix: str, number: int) -> list[Path]:
    return [path for end in _ANTS if (path := folder / f"{prefix}{number}{end}").is_file()]


def _elastix(folder: Path) -> list[Path]:
    """File of elastix' transform: the composite of all steps, or the only step.

    Raises:
        DataError: several steps, or one that continues another, and no composite.
    """
    steps = sorted(
        path for path in folder.glob("TransformParameters.*") if path.name.endswith((".h5", ".tfm"))
    )
    whole = [path for path in steps if "Composite" in path.name]
    if whole:
        return whole[-1:]
    if not steps and any(folder.glob("TransformParameters.*.txt")):
        raise DataError(f"{folder} has elastix' parameters only; {ITK_OF_ELASTIX}.")
    if not steps:
        return []
    if (
        len(steps) > 1
        or not steps[0].name.startswith("TransformParameters.0.")
        or _initial(steps[0])
    ):
        raise DataError(
            f"{folder} has {len(steps)} transforms ({steps[0].name}, ...) and no composite of them"
            f" with the initial one; {ITK_OF_ELASTIX}, which writes ...-Composite.h5, or name the"
            " files."
        )
    return steps


def _initial(step: Path) -> str | None:
    """Initial transform of an elastix step, as the parameter file beside it names it."""
    beside = step.with_suffix(".txt")
    text = beside.read_text(encoding="utf-8", errors="replace") if beside.is_file() else ""
    match = re.search(
        r'\(InitialTransformParameters?FileName "(?!NoInitialTransform)([^"]*)"', text
    )
    return match[1] if match else None


def require_reaching(paths: Sequence[Path]) -> None:
    """Refuse files of a chain without those that continue them to the moving image, if these are
    beside them.

    Raises:
        DataError: names the file that is missing.
    """
    for path in paths:
        rest: list[str] = []
        if match := _ANTS_NAME.fullmatch(path.name):
            lower = [
                other
                for number in range(int(match[2]))
                for other in _numbered(path.parent, match[1], number)
            ]
            rest = [other.name for other in lower if other not in paths]
        elif match := _ELASTIX_NAME.fullmatch(path.name):
            earlier = [
                path.with_name(f"TransformParameters.{number}{path.suffix}")
                for number in range(int(match[1]))
            ]
            initial = _initial(path)
            rest = [other.name for other in earlier if other.is_file() and other not in paths] or (
                [initial] if initial else []
            )
        if rest:
            raise DataError(
                f"{path} is a part of a transform and maps to the moving image only together with"
                f" {rest[0]}; give the folder of both, or {_ORDER}. If this part alone is meant,"
                " copy it into a folder of its own."
            )
