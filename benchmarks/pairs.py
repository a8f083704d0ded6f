"""Registration of single pairs of public images: this project with and without a model and
refinement, and other programs (peers).

    python benchmarks/pairs.py --root FOLDER [--pairs lung brain ...] [--model best.ckpt] [--peers
    ants ...]

The folder contains lung_ct_pair/, brain_pair/, prostate_mr_us/ and hippocampus/ (see
docs/benchmarks.md for their sources). The table names peers that are not installed. Seconds are
those of the registration alone; only ratios within one run are meaningful.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

os.environ.setdefault("ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS", str(os.cpu_count() or 1))

import numpy as np
import SimpleITK as sitk
import torch

import lightning_reg
from lightning_reg.data.scans import grid_of, make_pair, original, read_pair
from lightning_reg.inference.result import Result
from lightning_reg.io.images import read_image
from lightning_reg.io.transform_reading import from_itk
from lightning_reg.metrics import PairMetrics, evaluate
from lightning_reg.spatial import Pair, Transform

Found = tuple[Transform, float]


@dataclass(frozen=True)
class Task:
    """A pair of files, with settings of its registration and measurement.

    Args:
        files: arguments of ``Registrar.register``; labels and landmarks are used for measurement
            only.
        method: configuration of ``conf/instance`` for registration without a model.
        labels: those that are scored; default all.
        window: CT numbers to which images are clipped for the peers.
        multimodal: peers use mutual information.
    """

    name: str
    files: dict[str, Any]
    method: str
    labels: tuple[int, ...] = ()
    window: tuple[float, float] | None = None
    multimodal: bool = False
    pair: Pair = field(init=False)

    def __post_init__(self) -> None:
        fixed, moving = read_pair(self.files)
        object.__setattr__(
            self, "pair", make_pair(original(fixed), original(moving), overlapping=False)
        )

    def images(self) -> tuple[sitk.Image, sitk.Image]:
        """Both images as given to the peers: float32, CT clipped to the window."""
        images = [
            sitk.Cast(_sitk(self.files[side]), sitk.sitkFloat32) for side in ("fixed", "moving")
        ]
        if self.window is not None:
            images = [sitk.Clamp(image, sitk.sitkFloat32, *self.window) for image in images]
        return images[0], images[1]

    def mask(self, side: str) -> sitk.Image | None:
        return (
            sitk.Cast(_sitk(self.files[f"{side}_mask"]) > 0, sitk.sitkUInt8)
            if f"{side}_mask" in self.files
            else None
        )


def _sitk(source: Any) -> sitk.Image:
    return sitk.ReadImage(str(source))


def ours(
    method: str, overrides: tuple[str, ...] = (), device: str = "cpu"
) -> Callable[[Task], Found]:
    def register(task: Task) -> Found:
        registrar = lightning_reg.conventional(method or task.method, overrides, device=device)
        return _ours(registrar.register(**_images_and_masks(task)))

    return register


def _images_and_masks(task: Task) -> dict[str, Any]:
    return {
        name: path
        for name, path in task.files.items()
        if "labels" not in name and "landmarks" not in name
    }


def _ours(result: Result) -> Found:
    return result.transform, sum(
        seconds for part, seconds in result.seconds.items() if part != "read"
    )


def simpleitk(task: Task) -> Found:
    """Affine map, then a B-spline of 10 mm (small images: 4 voxels) with L-BFGS-B; correlation
    (mutual information between modalities).
    """
    fixed, moving = task.images()
    started = time.perf_counter()

    def method(iterations: int) -> sitk.ImageRegistrationMethod:
        registration = sitk.ImageRegistrationMethod()
        (
            registration.SetMetricAsMattesMutualInformation(32)
            if task.multimodal
            else registration.SetMetricAsCorrelation()
        )
        registration.SetMetricSamplingStrategy(registration.RANDOM)
        registration.SetMetricSamplingPercentage(0.02, 1)
        registration.SetInterpolator(sitk.sitkLinear)
        mask = task.mask("fixed")
        if mask is not None:
            registration.SetMetricFixedMask(sitk.BinaryDilate(mask, [2, 2, 1]))
        return registration

    start = sitk.CenteredTransformInitializer(
        fixed, moving, sitk.AffineTransform(3), sitk.CenteredTransformInitializerFilter.GEOMETRY
    )
    affine = method(0)
    affine.SetOptimizerAsRegularStepGradientDescent(1.0, 1e-4, 200)
    affine.SetOptimizerScalesFromPhysicalShift()
    affine.SetShrinkFactorsPerLevel([4, 2])
    affine.SetSmoothingSigmasPerLevel([2, 1])
    affine.SetInitialTransform(start, inPlace=True)
    affine.Execute(fixed, moving)
    size = [n * s for n, s in zip(fixed.GetSize(), fixed.GetSpacing(), strict=True)]
    spacing = max(10.0 if min(size) > 80 else 4 * min(fixed.GetSpacing()), 1e-3)
    spline = sitk.BSplineTransformInitializer(
        fixed, [max(2, round(s / spacing)) for s in size], order=3
    )
    free = method(1)
    free.SetMovingInitialTransform(start)
    free.SetOptimizerAsLBFGSB(1e-5, 30, 5, 200, 1e7)
    free.SetShrinkFactorsPerLevel([2])
    free.SetSmoothingSigmasPerLevel([1])
    free.SetInitialTransform(spline, inPlace=True)
    free.Execute(fixed, moving)
    return from_itk(sitk.CompositeTransform([start, spline])), time.perf_counter() - started


def ants_syn(task: Task) -> Found:
    """``SyN`` of ``ants.registration`` with its defaults (affine, then SyN with mutual
    information).
    """
    import ants

    fixed, moving = (ants.from_sitk(image) for image in task.images())
    mask = {}
    if task.mask("fixed") is not None:
        mask = {
            "mask": ants.from_sitk(task.mask("fixed")),
            "moving_mask": ants.from_sitk(task.mask("moving")),
        }
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        found = ants.registration(fixed, moving, "SyN", outprefix=f"{folder}/t", **mask)
        seconds = time.perf_counter() - started
        members = []
        for path in found["fwdtransforms"]:  # the outermost last
            if path.endswith(".mat"):
                members.append(sitk.ReadTransform(path))
            else:
                members.append(
                    sitk.DisplacementFieldTransform(sitk.ReadImage(path, sitk.sitkVectorFloat64))
                )
        return from_itk(sitk.CompositeTransform(members[::-1])), seconds


def elastix(task: Task) -> Found:
    """Affine map, then a B-spline of 10 mm (small images: 4 voxels).

    Correlation (mutual information between modalities) and, for the B-spline, bending energy; 500
    iterations on each of four levels of the B-spline (small images: three).
    """
    import itk

    fixed, moving = (_itk(image) for image in task.images())
    metric = (
        "AdvancedMattesMutualInformation" if task.multimodal else "AdvancedNormalizedCorrelation"
    )
    parameters = itk.ParameterObject.New()
    affine = parameters.GetDefaultParameterMap("affine", 4)
    affine["Metric"] = [metric]
    affine["AutomaticTransformInitialization"], affine["AutomaticTransformInitializationMethod"] = (
        ["true"],
        ["GeometricalCenter"],
    )
    size = min(
        n * s
        for n, s in zip(task.images()[0].GetSize(), task.images()[0].GetSpacing(), strict=True)
    )
    spacing = 10.0 if size > 80 else 4 * min(task.images()[0].GetSpacing())
    spline = parameters.GetDefaultParameterMap("bspline", 4 if size > 80 else 3, spacing)
    spline["Metric"], spline["MaximumNumberOfIterations"] = (
        [metric, "TransformBendingEnergyPenalty"],
        ["500"],
    )
    parameters.AddParameterMap(affine)
    parameters.AddParameterMap(spline)
    masks = {} if task.mask("fixed") is None else {"fixed_mask": _itk(task.mask("fixed"), itk.UC)}
    started = time.perf_counter()
    _, found = itk.elastix_registration_method(
        fixed, moving, parameter_object=parameters, log_to_console=False, **masks
    )
    seconds = time.perf_counter() - started
    with tempfile.TemporaryDirectory() as folder:  # it writes a file into its output folder
        field = itk.transformix_deformation_field(moving, found, output_directory=folder)
    image = sitk.GetImageFromArray(itk.array_from_image(field).astype(np.float64), isVector=True)
    image.CopyInformation(task.images()[0])
    return from_itk(sitk.DisplacementFieldTransform(image)), seconds


def _itk(image: sitk.Image, kind: Any = None) -> Any:
    import itk

    result = itk.image_from_array(
        sitk.GetArrayFromImage(image).astype(np.float32 if kind is None else np.uint8)
    )
    result.SetOrigin(image.GetOrigin())
    result.SetSpacing(image.GetSpacing())
    result.SetDirection(itk.matrix_from_array(np.array(image.GetDirection()).reshape(3, 3)))
    return result


def convexadam(task: Task) -> Found:
    """``convex_adam_pt`` with its defaults in float32, on the moving image resampled to the fixed
    grid with aligned centres.
    """
    from convexAdam.convex_adam_MIND import convex_adam_pt

    fixed, moving = task.images()
    started = time.perf_counter()
    start = _centers(fixed, moving)
    lowest = float(sitk.GetArrayViewFromImage(moving).min())
    aligned = sitk.Resample(moving, fixed, start, sitk.sitkLinear, lowest)
    tensors = [torch.from_numpy(sitk.GetArrayFromImage(image)) for image in (fixed, aligned)]
    voxels = convex_adam_pt(*tensors, dtype=torch.float32)
    seconds = time.perf_counter() - started
    return from_itk(sitk.CompositeTransform([start, _field(voxels[..., ::-1], fixed)])), seconds


def deepali(task: Task) -> Found:
    """Free-form deformation from deepali's components on three levels, from aligned grid centres.

    Loss: local correlation (mutual information between modalities) and bending energy; optimiser:
        Adam.
    """
    from deepali.core import Axes
    from deepali.core import Grid as TheirGrid
    from deepali.data import Image as TheirImage
    from deepali.losses import LCC as LocalCorrelation
    from deepali.losses import MI, BSplineBending
    from deepali.spatial import FreeFormDeformation, ImageTransformer

    fixed, moving = task.images()
    started = time.perf_counter()
    start = _centers(fixed, moving)
    aligned = sitk.Resample(
        moving, fixed, start, sitk.sitkLinear, float(sitk.GetArrayViewFromImage(moving).min())
    )
    arrays = [sitk.GetArrayFromImage(image) for image in (fixed, aligned)]
    images = []
    for array in arrays:
        low, high = np.percentile(array, (0.5, 99.5))
        tensor = torch.from_numpy((array - low) / (high - low)).clamp(0, 1).unsqueeze(0).float()
        images.append(
            TheirImage(
                tensor,
                TheirGrid(size=fixed.GetSize(), spacing=fixed.GetSpacing(), align_corners=True),
            )
        )
    pyramids = [image.pyramid(3) for image in images]
    similarity, smoothness = (
        (MI() if task.multimodal else LocalCorrelation()),
        BSplineBending(stride=1),
    )
    transform = FreeFormDeformation(pyramids[0][2].grid(), stride=4)
    for level in (2, 1, 0):
        target, source = (pyramid[level] for pyramid in pyramids)
        transform.grid_(target.grid())
        warp = ImageTransformer(transform)
        optimizer = torch.optim.Adam(transform.parameters(), 1e-2 / 2 ** (2 - level))
        for _ in range((20, 50, 50)[level]):
            optimizer.zero_grad()
            loss = similarity(
                warp(source.tensor().unsqueeze(0)), target.tensor().unsqueeze(0)
            ) + 1e-3 * smoothness(transform.data())
            loss.backward()
            optimizer.step()
            transform.clear_buffers()
    with torch.no_grad():
        transform.update()
        flow = transform.disp(images[0].grid())[0]  # (3, Z, Y, X) in the cube's units, x first
        voxels = flow.movedim(0, -1).numpy() * (np.array(fixed.GetSize()) - 1) / 2
    seconds = time.perf_counter() - started
    assert transform.axes() is Axes.CUBE_CORNERS
    return from_itk(sitk.CompositeTransform([start, _field(voxels, fixed)])), seconds


def _centers(fixed: sitk.Image, moving: sitk.Image) -> sitk.TranslationTransform:
    middle = [
        np.array(i.TransformContinuousIndexToPhysicalPoint([(n - 1) / 2 for n in i.GetSize()]))
        for i in (fixed, moving)
    ]
    return sitk.TranslationTransform(3, (middle[1] - middle[0]).tolist())


def _field(voxels: np.ndarray, like: sitk.Image) -> sitk.DisplacementFieldTransform:
    """A displacement ``(Z, Y, X, 3)`` in voxels, x first, as a transform."""
    direction = np.array(like.GetDirection()).reshape(3, 3) * np.array(like.GetSpacing())
    image = sitk.GetImageFromArray(
        np.ascontiguousarray(voxels.astype(np.float64) @ direction.T), isVector=True
    )
    image.CopyInformation(like)
    return sitk.DisplacementFieldTransform(image)


PEERS: dict[str, Callable[[Task], Found]] = {
    "simpleitk": simpleitk,
    "ants": ants_syn,
    "elastix": elastix,
    "convexadam": convexadam,
    "deepali": deepali,
}


def lung(root: Path, masks: bool) -> list[Task]:
    folder, files = root / "lung_ct_pair", {}
    for side, name in (("fixed", "baseline"), ("moving", "followup")):
        files[side] = folder / f"3DCT_lung_{name}.mha"
        grid = grid_of(read_image(files[side]))
        voxels = torch.from_numpy(np.loadtxt(folder / f"{name}_points_index.txt", skiprows=2))
        files[f"{side}_landmarks"] = grid.to_world(voxels.T.unsqueeze(0))[0].T
        if masks:
            files[f"{side}_mask"] = folder / f"3DCT_lung_{name}_mask.mha"
    return [Task("lung CT, masks" if masks else "lung CT", files, "lung_ct", window=(-1000, 200))]


def brain(root: Path) -> list[Task]:
    folder = root / "brain_pair"
    files = {}
    for side, name in (("fixed", "subject_a"), ("moving", "subject_b")):
        files |= {
            side: folder / f"{name}.nii.gz",
            f"{side}_labels": folder / f"{name}_labels.nii.gz",
        }
    labels = tuple(int(word) for word in (folder / "labels_to_score.txt").read_text().split())
    return [Task("brain MR", files, "bspline", labels)]


def prostate(root: Path) -> list[Task]:
    folder, tasks = root / "prostate_mr_us", []
    for path in sorted((folder / "fixed_images").iterdir()):
        files: dict[str, Any] = {
            side: folder / f"{side}_images" / path.name for side in ("fixed", "moving")
        }
        for side in ("fixed", "moving"):
            import nibabel as nib

            image = nib.load(folder / f"{side}_labels" / path.name)
            gland = np.asarray(image.dataobj)
            files[f"{side}_labels"] = (
                (gland[..., 0] if gland.ndim == 4 else gland).astype(np.int16),
                image.affine,
            )
        tasks.append(Task("prostate MR-US", files, "multimodal", multimodal=True))
    return tasks


def hippocampus(root: Path) -> list[Task]:
    """The 40 validation pairs of docs/benchmarks.md."""
    folder = root / "hippocampus"
    names = sorted(
        path.name for path in (folder / "images").iterdir() if path.name.endswith(".nii.gz")
    )[-40:]
    tasks = []
    for number, name in enumerate(names):
        files = {}
        for side, other in (("fixed", name), ("moving", names[(number + 1) % len(names)])):
            files |= {side: folder / "images" / other, f"{side}_labels": folder / "labels" / other}
        tasks.append(Task("hippocampus MR", files, "bspline"))
    return tasks


TASKS: dict[str, Callable[[Path], list[Task]]] = {
    "lung": lambda root: lung(root, False),
    "lung_masks": lambda root: lung(root, True),
    "brain": brain,
    "prostate": prostate,
    "hippocampus": hippocampus,
}


def score(task: Task, transform: Transform) -> PairMetrics:
    case = evaluate(task.pair, transform)
    if task.labels and case.dice_after and case.dice_before:
        chosen = {
            when: {k: v for k, v in getattr(case, when).items() if k in task.labels}
            for when in ("dice_before", "dice_after")
        }
        case = replace(case, **chosen)
    return case


def contestants(
    arguments: argparse.Namespace, tasks: list[Task]
) -> Iterator[tuple[str, Callable[[Task], Found]]]:
    if tasks[0].name.startswith("hippocampus"):
        if arguments.model:
            for steps in (0, 10, 30, 60):
                model = lightning_reg.load(arguments.model)
                yield (
                    f"model, refine {steps}",
                    lambda task, m=model, n=steps: _ours(
                        m.register(**_images_and_masks(task), refine=n)
                    ),
                )
        yield (
            "ours, no model",
            lambda task: _ours(
                lightning_reg.conventional("bspline", start="centers").register(
                    **_images_and_masks(task)
                )
            ),
        )
    else:
        yield "ours, no model", ours("")
    if tasks[0].name == "brain MR":
        for steps in (0, 40, 80, 160, 420):
            yield (
                f"ours, {steps} steps",
                lambda task, n=steps: _ours(
                    lightning_reg.conventional(task.method).register(
                        **_images_and_masks(task), refine=n
                    )
                ),
            )
    yield from ((name, PEERS[name]) for name in arguments.peers)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--pairs", nargs="+", choices=list(TASKS), default=list(TASKS))
    parser.add_argument("--peers", nargs="*", choices=list(PEERS), default=list(PEERS))
    parser.add_argument("--model", help="checkpoint for the hippocampus pairs")
    parser.add_argument("--limit", type=int, help="at most this many pairs of a kind")
    arguments = parser.parse_args()
    print(
        "| pairs | who | TRE, mm | Dice | folding, % | SDlogJ | seconds a pair"
        " |\n|---|---|---|---|---|---|---|"
    )
    for name in arguments.pairs:
        tasks = TASKS[name](arguments.root)[: arguments.limit]
        begun = [
            score(task, lightning_reg.spatial.Identity(task.pair.fixed.grid, torch.zeros(1)))
            for task in tasks
        ]
        line(tasks[0].name, "before", [(case, 0.0) for case in begun], "before")
        for who, register in contestants(arguments, tasks):
            try:
                found = [
                    (score(task, transform), seconds)
                    for task, (transform, seconds) in ((t, register(t)) for t in tasks)
                ]
            except ImportError as error:
                print(f"| {tasks[0].name} | {who} | not installed: {error.name} |")
                continue
            line(tasks[0].name, who, found)


def line(name: str, who: str, found: list[tuple[PairMetrics, float]], when: str = "after") -> None:
    rows = [case.row() for case, _ in found]

    def mean(key: str, form: str) -> str:
        values = [float(row[key]) for row in rows if key in row]
        return format(np.mean(values), form) if values else ""

    cells = [mean(f"tre_{when}_mm", ".2f"), mean(f"dice_{when}", ".3f")]
    cells += ["", "", ""] if when == "before" else [
        f"{100 * np.mean([case.folding for case, _ in found]):.2f}", mean("sdlogj", ".3f"),
        f"{np.mean([s for _, s in found]):.2f}"
    ]  # fmt: skip
    print(f"| {name} | {who} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
