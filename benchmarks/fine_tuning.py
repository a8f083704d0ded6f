"""Fine-tuning of the hippocampus model on a different labelling of 20 subjects, compared with the
model itself and training from scratch.

    python benchmarks/fine_tuning.py --root FOLDER [--steps 400] [--seeds 1 2 3] [--runs FOLDER]

The new labelling divides the hippocampus into three parts of equal length along its long axis (the
Decathlon's labels: anterior and posterior part). Of the 40 subjects not used to train the model, 20
are used for training and 20 for validation, each registered to the next. Requires the distribution
lightning-reg-hippocampus (``pip install plugins/lightning_reg_hippocampus``).
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path

import nibabel as nib
import numpy as np
import torch

import lightning_reg
from lightning_reg.cli.training import quieten
from lightning_reg.configuration.composition import compose
from lightning_reg.data.datasets.adapters.brains import HippocampusDataset
from lightning_reg.metrics import evaluate, totals
from lightning_reg.training.building import build_data
from lightning_reg.training.module import RegistrationModule
from lightning_reg.training.run import train

QUIET = ["callbacks.progress_bar=null", "trainer.enable_progress_bar=false"]
PARTS = 3


def in_parts(labels: np.ndarray, affine: np.ndarray, parts: int = PARTS) -> np.ndarray:
    """Divide the foreground of a label map into parts of equal length along its principal axis,
    from posterior to anterior.

    Args:
        labels: ``(I, J, K)``.
        affine: voxels to RAS mm.
    """
    voxels = np.argwhere(labels > 0)
    world = voxels @ affine[:3, :3].T + affine[:3, 3]
    axis = np.linalg.svd(world - world.mean(0), full_matrices=False)[2][0]
    along = world @ (axis if axis[1] >= 0 else -axis)
    edges = np.linspace(along.min(), along.max(), parts + 1)[1:-1]
    found = np.zeros(labels.shape, dtype=np.uint8)
    found[tuple(voxels.T)] = 1 + np.digitize(along, edges)
    return found


def relabelled(root: Path, out: Path) -> Path:
    """Write the held-out subjects with the new labelling, in the data set's layout; the last 20 are
    for validation (``held_out=20``).
    """
    for record in HippocampusDataset(root).records():
        if record.split != "validation":
            continue
        assert record.image is not None
        assert record.labels is not None
        for kind in ("images", "labels"):
            (out / kind).mkdir(parents=True, exist_ok=True)
        image, labels = nib.load(record.image), nib.load(record.labels)
        nib.save(image, out / "images" / record.image.name)
        parts = in_parts(np.asanyarray(labels.dataobj), labels.affine)
        nib.Nifti1Image(parts, labels.affine).to_filename(out / "labels" / record.image.name)
    return out


def overrides(data: Path, steps: int) -> list[str]:
    """The configuration of both trainings."""
    return [
        *QUIET, "experiment=hippocampus_velocity_labels", f"data.root={data}", "data.held_out=20",
        f"method.stages=[{{steps: {steps}, train: all}}]", "data.samples_per_epoch=100",
        "method.loss.terms.diffusion.weight=1.0",
        "method.loss.terms.label_dice.weight=6.0",
    ]  # fmt: skip


@torch.no_grad()
def measured(module: RegistrationModule, config: dict) -> tuple[float, float]:
    """Mean Dice and SDlogJ on the validation pairs."""
    data = build_data(config)
    data.setup()
    found = totals(
        [
            evaluate(pair, module.eval()(pair.fixed, pair.moving).transform)
            for pair in data.validation_pairs
        ]
    )
    return found["dice_after"], found["sdlogj"]


def main() -> None:
    """Parse the command line, train, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument(
        "--root", type=Path, required=True, help="folder of the crops, with images/ and labels/"
    )
    parser.add_argument("--model", default="hippocampus")
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--runs", type=Path, default=Path("runs/fine_tuning"))
    arguments = parser.parse_args()
    quieten()
    data = relabelled(arguments.root.expanduser(), arguments.runs / "data")
    base = overrides(data, arguments.steps)
    located = lightning_reg.load(arguments.model)
    config = compose(base)
    config["data"]["preprocessing"] = located.settings["preprocessing"]
    module = RegistrationModule.load_from_checkpoint(
        lightning_reg.models.locate(arguments.model).path
    )
    dice, rough = measured(module, config)
    print(
        f"| | Dice | SDlogJ |\n| --- | --- | --- |\n| {arguments.model} as it is | {dice:.3f} |"
        f" {rough:.2f} |",
        flush=True,
    )
    ways = {
        "from the start": [],
        "from the model": [f"init={arguments.model}", "method.optimizer.lr=3.0e-4"],
    }
    for name, more in ways.items():
        found = []
        for seed in arguments.seeds:
            config = compose([*base, *more, f"seed={seed}"])
            folder = arguments.runs / f"{name.replace(' ', '_')}_{arguments.steps}_{seed}"
            if not (folder / "summary.json").exists():
                train(config, folder, overwrite=folder.exists())
            last = RegistrationModule.load_from_checkpoint(folder / "checkpoints" / "last.ckpt")
            found.append(
                measured(
                    last,
                    {
                        **config,
                        "data": {**config["data"], "preprocessing": vars(last.preprocessing)},
                    },
                )
            )
        (dice, rough), spread = (
            (statistics.mean(v) for v in zip(*found, strict=True)),
            max(f[0] for f in found) - min(f[0] for f in found),
        )
        print(
            f"| {arguments.steps} steps {name} | {dice:.3f} (range {spread:.3f}) | {rough:.2f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
