"""Comparison on one GPU: a training step with MONAI and VoxelMorph, and the registration of a pair
of brain scans with FireANTs.

    python benchmarks/gpu.py --root FOLDER [--shapes 96 128 160] [--precision 32 bf16] [--compile]
    [--peers fireants]

The steps are those of ``training_step.py``. FOLDER contains brain_pair/ (see docs/benchmarks.md for
its source). Each method registers the pair twice, affine and deformable, and the second time is
reported, without reading of files. FireANTs runs with its tutorial's settings (affine at 1/8 to
full resolution, then greedy at 1/4 to full resolution, local correlation in windows of 5) and
without its fused CUDA operations, which are not on PyPI.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import SimpleITK as sitk
import torch
from pairs import Found, Task, brain, ours, score
from timing import device_name, version
from training_step import PRECISIONS, compare

from lightning_reg.io.transform_reading import from_itk


def fireants(task: Task) -> Found:
    from fireants.io.image import BatchedImages, Image
    from fireants.registration.affine import AffineRegistration
    from fireants.registration.greedy import GreedyRegistration

    fixed, moving = (
        BatchedImages(Image(image, device=torch.cuda.current_device())) for image in task.images()
    )
    torch.cuda.synchronize()
    started = time.perf_counter()
    affine = AffineRegistration(
        [8, 4, 2, 1],
        [200, 100, 50, 20],
        fixed,
        moving,
        optimizer="Adam",
        optimizer_lr=3e-3,
        cc_kernel_size=5,
    )
    affine.optimize()
    greedy = GreedyRegistration(
        scales=[4, 2, 1],
        iterations=[200, 100, 25],
        fixed_images=fixed,
        moving_images=moving,
        cc_kernel_size=5,
        smooth_grad_sigma=1,
        optimizer="Adam",
        optimizer_lr=0.5,
        init_affine=affine.get_affine_matrix().detach(),
    )
    greedy.optimize()
    torch.cuda.synchronize()
    seconds = time.perf_counter() - started
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder, "warp.nii.gz"))
        greedy.save_as_ants_transforms(path)
        field = sitk.DisplacementFieldTransform(sitk.ReadImage(path, sitk.sitkVectorFloat64))
    return from_itk(field), seconds


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument(
        "--shapes",
        nargs="*",
        type=int,
        default=[96, 128, 160],
        help="edge of the images, voxels; none leaves the steps out",
    )
    parser.add_argument("--precision", nargs="+", choices=PRECISIONS, default=["32", "bf16"])
    parser.add_argument("--repeat", type=int, default=20)
    parser.add_argument("--compile", action="store_true", help="our networks through torch.compile")
    parser.add_argument("--peers", nargs="*", default=["fireants"], choices=["fireants"])
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        parser.error("PyTorch sees no GPU here")
    arguments.device = "cuda"
    print(
        f"{device_name(torch.device('cuda'))},"
        f" {', '.join(map(version, ('torch', 'monai', 'voxelmorph', 'fireants')))}\n"
    )
    if arguments.shapes:
        compare(arguments, torch.device("cuda"))
    if not (arguments.root / "brain_pair").exists():
        print(f"\n{arguments.root / 'brain_pair'} is not there: no pair is registered.")
        return
    (task,) = brain(arguments.root)
    contestants = {"ours": ours("bspline", device="cuda")} | (
        {"FireANTs": fireants} if "fireants" in arguments.peers else {}
    )
    print(
        "\n| brain pair | Dice | folding, % | SDlogJ | seconds | peak memory, GiB |\n| --- | ---: |"
        " ---: | ---: | ---: | ---: |"
    )
    for name, register in contestants.items():
        for _ in range(2):
            torch.cuda.reset_peak_memory_stats()
            transform, seconds = register(task)
        peak = torch.cuda.max_memory_allocated() / 2**30
        case = score(task, transform)
        print(
            f"| {name} | {case.value('dice'):.3f} | {100 * case.folding:.3f} | {case.sdlogj:.2f} |"
            f" {seconds:.2f} | {peak:.2f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
