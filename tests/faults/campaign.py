"""Bad inputs and settings by command: each must give exit code 2, one sentence that names the
object, and no remaining file.

    python tests/faults/campaign.py [WORD ...]      all cases, or those whose name has the words;
    prints counts and failures

A case is a name, a command line, a function that damages the working folder before it, and a word
that the sentence must contain.
"""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import nibabel as nib
import numpy as np
import SimpleITK as sitk
import torch

SECONDS = 20
Spoil = Callable[[Path], None]


@dataclass(frozen=True)
class Case:
    """One bad thing.

    Args:
        name: of the case.
        words: of the command line, after ``lightning-reg``.
        names: what the sentence has to have, without regard to case.
        spoil: changes the working folder, which holds the files of :func:`materials`.
    """

    name: str
    words: tuple[str, ...]
    names: str
    spoil: Spoil | None = None

    def __str__(self) -> str:
        return self.name.replace(" ", "-").replace("/", "_")[:80]


# Materials.


def volume(
    shape: Sequence[int] = (14, 12, 10), shift: float = 0.0, kind: str = "float32"
) -> nib.Nifti1Image:
    """A blob."""
    i, j, k = np.meshgrid(*(np.arange(n) for n in shape), indexing="ij")
    blob = 100 * np.exp(-(((i - 7 - shift) / 4) ** 2 + ((j - 6) / 3) ** 2 + ((k - 5) / 3) ** 2))
    return nib.Nifti1Image(blob.astype(kind), np.diag([2.0, 2.0, 2.5, 1.0]))


def materials(folder: Path) -> Path:
    """Files of every case: a pair, masks, labels, landmarks, a run with a model, a registration,
    prepared data, a table.
    """
    folder.mkdir(parents=True, exist_ok=True)
    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    for side, shift in (("fixed", 0.0), ("moving", 1.0)):
        image = volume(shift=shift)
        nib.save(image, folder / f"{side}.nii.gz")
        sitk.WriteImage(sitk.ReadImage(str(folder / f"{side}.nii.gz")), str(folder / f"{side}.mha"))
        sitk.WriteImage(
            sitk.ReadImage(str(folder / f"{side}.nii.gz")), str(folder / f"{side}.nrrd")
        )
        mask = (np.asarray(image.dataobj) > 20).astype(np.int16)
        nib.save(nib.Nifti1Image(mask, image.affine), folder / f"{side}_mask.nii.gz")
        nib.save(nib.Nifti1Image(mask * 2, image.affine), folder / f"{side}_labels.nii.gz")
        (folder / f"{side}.csv").write_text("x,y,z\n10,10,10\n12,12,12\n")
    with in_folder(folder):
        trained = (
            "train", "method=velocity", "data=phantom", "method.composer.backbone.levels=2",
            "method.composer.backbone.features=4",
            "data.dataset.shape=[16,16,16]", "data.dataset.crop=null", "data.dataset.subjects=2",
            "data.dataset.validation=1",
            "data.workers=0", "data.samples_per_epoch=2", "trainer.max_steps=2",
            "trainer.accelerator=cpu",
            "callbacks.progress_bar=null", "trainer.enable_progress_bar=false", "hydra.run.dir=run",
        )  # fmt: skip
        for words in (
            trained,
            (
                "register",
                "--fixed",
                "fixed.nii.gz",
                "--moving",
                "moving.nii.gz",
                "--model",
                "run/checkpoints/best.ckpt",
                "--out",
                "result",
            ),
            (
                "prepare",
                "phantom",
                "--out",
                "prepared",
                "data.dataset.shape=[16,16,16]",
                "data.dataset.subjects=2",
            ),
        ):
            code, text = command(words)
            assert code == 0, text
    shutil.copy(folder / "run" / "checkpoints" / "best.ckpt", folder / "model.ckpt")
    shutil.copy(folder / "result" / "transform.h5", folder / "transform.h5")
    shutil.copy(folder / "result" / "displacement.nii.gz", folder / "displacement.nii.gz")
    affine = sitk.AffineTransform(3)
    sitk.WriteTransform(affine, str(folder / "affine.tfm"))
    shutil.copy(
        Path(__file__).parents[2] / "conf" / "instance" / "bspline.yaml", folder / "method.yaml"
    )
    (folder / "scans").mkdir()
    for name in ("a", "b", "c", "d"):
        shutil.copy(folder / "fixed.nii.gz", folder / "scans" / f"{name}.nii.gz")
    (folder / "pairs.csv").write_text(
        "fixed,moving\nfixed.nii.gz,moving.nii.gz\nmoving.nii.gz,fixed.nii.gz\n"
    )
    (folder / "points.mrk.json").write_text(
        json.dumps(
            {
                "markups": [
                    {"coordinateSystem": "LPS", "controlPoints": [{"position": [1.0, 2.0, 3.0]}]}
                ]
            }
        )
    )
    return folder


# Running.


@contextlib.contextmanager
def in_folder(folder: Path) -> Iterator[None]:
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


class TooLong(BaseException):
    """A command did not come back."""


def command(words: Sequence[str]) -> tuple[int, str]:
    """Exit code and what was printed to stderr (all of it to stdout where that is empty), of
    ``lightning-reg WORDS`` in this process.
    """
    from hydra.core.global_hydra import GlobalHydra

    from lightning_reg.cli.main import main

    GlobalHydra.instance().clear()
    out, err, before = io.StringIO(), io.StringIO(), sys.argv
    sys.argv = ["lightning-reg", *words]

    def late(number: int, frame: FrameType | None) -> None:
        raise TooLong

    previous = signal.signal(signal.SIGALRM, late)
    signal.alarm(SECONDS)
    code = 0
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            main()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except TooLong:
        return -1, "did not come back"
    except BaseException as error:  # what the process would have died of
        return 1, f"Traceback: {type(error).__name__}: {error}"
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, previous)
        sys.argv = before
    return code, err.getvalue() or out.getvalue()


def verdict(case: Case, materials_folder: Path, work: Path) -> tuple[str, str]:
    """``sentence``, or what went wrong (``traceback``, ``hang``, ``silent``, ``unclear``,
    ``left files``), and what was printed.
    """
    shutil.copytree(materials_folder, work, symlinks=True)
    if case.spoil is not None:
        case.spoil(work)
    before = contents(work)
    with in_folder(work):
        code, text = command(case.words)
    if code == -1:
        return "hang", text
    if code == 1 and case.words[0] == "check" and "Not ready to train" in text:
        return "sentence", text
    if "Traceback" in text or "This is a defect" in text or code not in (0, 2):
        return "traceback", f"({code}) {text}"
    if code == 0:
        return "silent", text
    if (
        case.names.lower() not in " ".join(text.split()).lower()
        or len(text.strip().splitlines()) > 12
    ):
        return "unclear", text
    after = contents(work)
    if after != before:
        return "left files", f"{sorted(set(after) ^ set(before)) or 'changed'}: {text}"
    return "sentence", text


def contents(folder: Path) -> dict[str, tuple[int, int]]:
    """Every file, its size and time of change."""
    return {
        str(path.relative_to(folder)): (path.lstat().st_size, path.lstat().st_mtime_ns)
        for path in folder.rglob("*")
        if not path.is_dir() or path.is_symlink()
    }


# Spoiling.


def both(*spoils: Spoil) -> Spoil:
    def spoil(folder: Path) -> None:
        for one in spoils:
            one(folder)

    return spoil


def text(name: str, content: str) -> Spoil:
    def spoil(folder: Path) -> None:
        (folder / name).write_text(content)

    return spoil


def raw(name: str, content: bytes) -> Spoil:
    def spoil(folder: Path) -> None:
        (folder / name).write_bytes(content)

    return spoil


def truncated(name: str, part: float) -> Spoil:
    def spoil(folder: Path) -> None:
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[: int(len(content) * part)])

    return spoil


def flipped(name: str, where: float, count: int = 8) -> Spoil:
    def spoil(folder: Path) -> None:
        content = bytearray((folder / name).read_bytes())
        start = min(int(len(content) * where), len(content) - count)
        for k in range(start, start + count):
            content[k] ^= 0xFF
        (folder / name).write_bytes(content)

    return spoil


def voxels(
    name: str, change: Callable[[np.ndarray], np.ndarray], affine: np.ndarray | None = None
) -> Spoil:
    def spoil(folder: Path) -> None:
        image = nib.load(folder / name)
        values = change(np.asarray(image.dataobj).copy())
        kept = image.header if values.shape == image.shape and affine is None else None
        nib.save(
            nib.Nifti1Image(
                values, image.affine if affine is None else affine, kept, dtype=values.dtype
            ),
            folder / name,
        )

    return spoil


def put(value: float) -> Callable[[np.ndarray], np.ndarray]:
    def change(values: np.ndarray) -> np.ndarray:
        values[3, 3, 3] = value
        return values

    return change


def header(name: str, **fields: object) -> Spoil:
    """Fields of a NIfTI header, as they are written there."""

    def spoil(folder: Path) -> None:
        import gzip

        content = bytearray(gzip.decompress((folder / name).read_bytes()))
        head = nib.Nifti1Header(bytes(content[:348]), check=False)
        for key, value in fields.items():
            head[key] = value
        content[:348] = head.binaryblock
        (folder / name).write_bytes(gzip.compress(bytes(content)))

    return spoil


def replaced(name: str, old: str, new: str) -> Spoil:
    def spoil(folder: Path) -> None:
        content = (folder / name).read_text()
        assert old in content, (name, old)
        (folder / name).write_text(content.replace(old, new))

    return spoil


def made(name: str) -> Spoil:
    return lambda folder: (folder / name).mkdir(parents=True)


def linked(name: str, target: str) -> Spoil:
    return lambda folder: (folder / name).symlink_to(target)


def removed(name: str) -> Spoil:
    return lambda folder: (folder / name).unlink()


def checkpoint(change: Callable[[dict], object], name: str = "model.ckpt") -> Spoil:
    def spoil(folder: Path) -> None:
        content = torch.load(folder / name, map_location="cpu", weights_only=True)
        changed = change(content)
        torch.save(content if changed is None else changed, folder / name)

    return spoil


# Cases.


def bad_images(name: str) -> dict[str, tuple[Spoil, str]]:
    """Ways to spoil an image file (NIfTI, gzipped), and what the sentence has to have."""
    return {
        "empty": (raw(name, b""), name),
        "text": (text(name, "this is no image"), name),
        "truncated a little": (truncated(name, 0.9), name),
        "truncated in the header": (truncated(name, 0.1), name),
        "flipped at the start": (flipped(name, 0.02), name),
        "flipped in the middle": (flipped(name, 0.5), name),
        "NaN": (voxels(name, put(np.nan)), "NaN"),
        "infinite": (voxels(name, put(np.inf)), "infinite"),
        "constant": (voxels(name, lambda v: np.zeros_like(v)), "constant"),
        "one slice": (voxels(name, lambda v: v[:, :, :1]), "single slice"),
        "two channels": (voxels(name, lambda v: np.stack([v, v], -1)), "channels"),
        "two dimensions": (voxels(name, lambda v: v[:, :, 4]), "single slice"),
        "complex": (voxels(name, lambda v: v.astype(np.complex64)), "complex"),
        "large uint64": (voxels(name, lambda v: (v.astype(np.uint64) + np.uint64(2**63))), "larger than"),
        "float64 with offset": (voxels(name, lambda v: v.astype(np.float64) * 0.01 + 1e9), "32 bits"),
        "metres": (voxels(name, lambda v: v, np.diag([10000.0, 10000.0, 10000.0, 1.0])), "10000 mm"),
        "singular affine": (header(name, srow_z=[0, 0, 0, 0], sform_code=1), name),
        "NaN affine": (header(name, srow_x=[np.nan, 0, 0, 0], sform_code=1), name),
        "zero voxel size": (header(name, pixdim=[1, 0, 2, 2, 1, 1, 1, 1], sform_code=0, qform_code=1), name),
        "zero extent": (header(name, dim=[3, 0, 12, 10, 1, 1, 1, 1]), name),
        "negative extent": (header(name, dim=[3, -4, 12, 10, 1, 1, 1, 1]), name),
        "huge extent": (header(name, dim=[3, 30000, 30000, 30000, 1, 1, 1, 1]), name),
        "unknown type": (header(name, datatype=12345), name),
        "far away": (voxels(name, lambda v: v, np.array([[2, 0, 0, 5000.0], [0, 2, 0, 0], [0, 0, 2.5, 0], [0, 0, 0, 1]])), "overlap"),
    }  # fmt: skip


def cases() -> list[Case]:
    """Every case, by command."""
    return [*_register(), *_apply(), *_train(), *_resume(), *_data(), *_others(), *_strangers()]


REGISTER = ("register", "--fixed", "fixed.nii.gz", "--moving", "moving.nii.gz", "--out", "out")
FEW = ("optimization.stages=[{transform: affine,steps: 1,lr: 0.1}]",)
MODEL = (*REGISTER, "--model", "model.ckpt")


def _register() -> Iterator[Case]:
    for side in ("fixed", "moving"):
        for what, (spoil, names) in bad_images(f"{side}.nii.gz").items():
            yield Case(
                f"register {side} {what}",
                MODEL if side == "fixed" else (*REGISTER, *FEW),
                names,
                spoil,
            )
        for ending in ("mha", "nrrd"):
            words = tuple(word.replace(f"{side}.nii.gz", f"{side}.{ending}") for word in MODEL)
            for what, spoil, names in (
                ("empty", raw(f"{side}.{ending}", b""), "it is empty"),
                ("text", text(f"{side}.{ending}", "no image"), "header"),
                ("truncated", truncated(f"{side}.{ending}", 0.8), "cut off"),
                ("header cut", truncated(f"{side}.{ending}", 0.02), "header"),
            ):  # fmt: skip
                yield Case(f"register {side} {ending} {what}", words, names, spoil)
    for part in ("mask", "labels"):
        file = f"fixed_{part}.nii.gz"
        words = (*MODEL, f"--fixed-{part}", file, f"--moving-{part}", f"moving_{part}.nii.gz")
        for what, spoil, names in (
            ("empty", voxels(file, lambda v: v * 0), "empty"),
            ("negative", voxels(file, lambda v: -v), "negative"),
            ("broken numbers", voxels(file, lambda v: v * np.float32(0.7)), "whole numbers"),
            ("NaN", voxels(file, lambda v: put(np.nan)(v.astype(np.float32))), "NaN"),
            (
                "above 2^31",
                voxels(file, lambda v: put(2.0**33)(v.astype(np.float64))),
                "2147483648",
            ),
            ("other grid", voxels(file, lambda v: v[:-2]), "another grid"),
            (
                "other place",
                voxels(file, lambda v: v, np.diag([2.0, 2.0, 3.5, 1.0])),
                "another grid",
            ),
            ("truncated", truncated(file, 0.6), file),
            ("missing", removed(file), file),
        ):
            yield Case(f"register {part} {what}", words, names, spoil)
    points = (*MODEL, "--fixed-landmarks", "fixed.csv", "--moving-landmarks", "moving.csv")
    for what, content, names in (
        ("empty", "", "empty file"), ("only a header", "x,y,z\n", "no points"),
        ("no header", "1,2,3\n4,5,6\n", "columns"),
        ("words", "x,y,z\na,b,c\n", "Line 2"), ("two columns", "x,y,z\n1,2\n3,4\n", "Line 2"),
        ("NaN", "x,y,z\n1,2,nan\n2,2,2\n", "Line 2"),
        ("outside", "x,y,z\n500,1,1\n2,2,2\n", "outside"),
        ("one more", "x,y,z\n10,10,10\n12,12,12\n11,11,11\n", "one to one"),
        ("decimal commas", "x,y,z\n1,5,2,5,3,5\n1,5,2,5,3,5\n", "decimal points"),
        ("semicolons", "x;y;z\n1;2;3\n", "columns"),
        ("gap", "x,y,z\n10,10,10\n\n12,12,12\n", "empty"),
    ):  # fmt: skip
        yield Case(f"register landmarks {what}", points, names, text("fixed.csv", content))
    yield Case(
        "register landmarks binary", points, "fixed.csv", raw("fixed.csv", bytes(range(128, 255)))
    )
    for what, spoil, names in (
        ("empty", raw("model.ckpt", b""), "model.ckpt"),
        ("text", text("model.ckpt", "no"), "model.ckpt"),
        ("truncated", truncated("model.ckpt", 0.7), "model.ckpt"),
        ("flipped weights", flipped("model.ckpt", 0.3), "checksum"),
        ("flipped weights later", flipped("model.ckpt", 0.7), "model.ckpt"),
        ("flipped directory", flipped("model.ckpt", 0.999), "model.ckpt"),
        ("a list", checkpoint(lambda c: [1, 2]), "not written by"),
        ("only weights", checkpoint(lambda c: c["state_dict"]), "not written by"),
        ("no weights", checkpoint(lambda c: c.pop("state_dict") and None), "model.ckpt"),
        ("no method", checkpoint(lambda c: c["lightning_reg"].pop("model") and None), "not written by"),
        ("method a word", checkpoint(lambda c: c["lightning_reg"].update(model="velocity")), "model.ckpt"),
        ("method without composer", checkpoint(lambda c: c["lightning_reg"]["model"].pop("composer") and None), "not written by"),
        ("preprocessing a word", checkpoint(lambda c: c["lightning_reg"].update(preprocessing="none")), "model.ckpt"),
        ("preprocessing unknown", checkpoint(lambda c: c["lightning_reg"].update(preprocessing={"foo": 1})), "foo"),
        ("weights a list", checkpoint(lambda c: c.update(state_dict=[1])), "model.ckpt"),
        ("NaN weights", checkpoint(lambda c: [t.mul_(np.nan) for t in c["state_dict"].values() if torch.is_tensor(t)] and None), "NaN"),
        ("one tensor less", checkpoint(lambda c: c["state_dict"].popitem() and None), "do not fit"),
        ("unknown component", checkpoint(lambda c: c["lightning_reg"]["model"]["composer"]["network"]["head"].update(name="nobody")), "nobody"),
        ("statistics a word", checkpoint(lambda c: c["lightning_reg"].update(statistics="many")), "model.ckpt"),
        ("a folder", both(removed("model.ckpt"), made("model.ckpt")), "folder"),
        ("missing", removed("model.ckpt"), "model.ckpt"),
    ):  # fmt: skip
        yield Case(f"register model {what}", MODEL, names, spoil)
    for what, words, names in (
        ("weight NaN", ("optimization.loss.lncc.weight=nan",), "weight"),
        ("weight negative", ("optimization.loss.lncc.weight=-1",), "weight"),
        ("weight a word", ("optimization.loss.lncc.weight=much",), "weight"),
        ("unknown term", ("optimization.loss.foo.weight=1",), "foo"),
        ("unknown key", ("optimization.foo=1",), "foo"),
        ("no equals", ("optimization",), "key=value"),
        ("interpolation", ("start=${nothing}",), "nothing"),
        ("broken override", ("optimization.stages=[{",), "stages"),
        ("stages a word", ("optimization.stages=foo",), "stages"),
        ("stages empty", ("optimization.stages=[]",), "stages"),
        ("steps NaN", ("optimization.stages=[{transform: affine,steps: nan}]",), "steps"),
        ("steps a word", ("optimization.stages=[{transform: affine,steps: x}]",), "steps"),
        ("lr NaN", ("optimization.stages=[{transform: affine,steps: 1,lr: nan}]",), "lr"),
        ("stride 0", ("optimization.stages=[{transform: affine,steps: 1,stride: 0}]",), "stride"),
        ("spacing NaN", ("optimization.stages=[{transform: bspline,steps: 1,spacing: nan}]",), "spacing"),
        ("unknown transform", ("optimization.stages=[{transform: foo,steps: 1}]",), "foo"),
        ("start unknown", ("start=somewhere",), "somewhere"),
        ("preprocessing unknown", ("preprocessing.foo=1",), "foo"),
        ("window a word", ("preprocessing.window=foo",), "window"),
        ("window reversed", ("preprocessing.window=[5,1]",), "window"),
        ("spacing negative", ("preprocessing.spacing=-1",), "spacing"),
        ("patience NaN", ("optimization.patience=nan",), "patience"),
        ("tolerance a word", ("optimization.tolerance=x",), "tolerance"),
        ("preprocessing null", ("preprocessing=null",), "preprocessing"),
        ("optimization null", ("optimization=null",), "optimization"),
        ("loss null", ("optimization.loss=null",), "loss"),
        ("loss a word", ("optimization.loss=lncc",), "loss"),
    ):  # fmt: skip
        yield Case(f"register setting {what}", (*REGISTER, *words), names)
    method = (*REGISTER, "--instance", "method.yaml")
    for what, content, names in (
        ("empty", "", "method.yaml"), ("a list", "- 1\n", "list"),
        ("a word", "foo\n", "method.yaml"), ("broken", "a: [\n", "method.yaml"),
        ("tabs", "a:\n\t- b\n", "method.yaml"), ("lacks all", "a: 1\n", "lacks"),
        ("parts of wrong shape", "preprocessing: 3\nstart: headers\noptimization: 4\n", "method.yaml"),
        ("preprocessing a list", "preprocessing: [1]\nstart: headers\noptimization: {loss: {ncc: {}}, stages: []}\n", "preprocessing"),
    ):  # fmt: skip
        yield Case(f"register method file {what}", method, names, text("method.yaml", content))
    yield Case(
        "register method file binary",
        method,
        "method.yaml",
        raw("method.yaml", b"\x00\xff\xfe\x01"),
    )
    for what, words, names, spoil in (
        ("out exists", MODEL, "out exists", made("out/notes")),
        ("out is a file", MODEL, "out", text("out", "mine")),
        ("out of another command", (*MODEL, "--overwrite"), "holds no results", both(made("out"), text("out/notes.txt", "mine"))),
        ("out below a file", (*MODEL[:-3], "afile/out", *MODEL[-2:]), "afile", text("afile", "x")),
        ("out with a long name", (*MODEL[:-3], "x" * 300, *MODEL[-2:]), "name too long", None),
        ("out of nobody", (*MODEL[:-3], "~nosuchuser/out", *MODEL[-2:]), "~", None),
        ("fixed of nobody", ("register", "--fixed", "~nosuchuser/a.nii", "--moving", "moving.nii.gz", "--out", "out"), "~", None),
        ("fixed with a long name", ("register", "--fixed", "y" * 300, "--moving", "moving.nii.gz", "--out", "out"), "name too long", None),
        ("fixed a loop of links", ("register", "--fixed", "loop", "--moving", "moving.nii.gz", "--out", "out"), "loop", linked("loop", "loop")),
        ("fixed a folder of nothing", ("register", "--fixed", "scans2", "--moving", "moving.nii.gz", "--out", "out"), "scans2", made("scans2")),
        ("fixed missing", ("register", "--fixed", "none.nii.gz", "--moving", "moving.nii.gz", "--out", "out"), "none.nii.gz", None),
        ("device", (*MODEL, "--device", "cuda:7"), "cuda:7", None),
        ("device unknown", (*MODEL, "--device", "quantum"), "quantum", None),
        ("refine negative", (*MODEL, "--refine", "-1"), "--refine", None),
        ("refine a word", (*MODEL, "--refine", "many"), "refine", None),
        ("method unknown", (*REGISTER, "--instance", "bsplin"), "did you mean", None),
        ("option unknown", (*MODEL, "--overwritte"), "did you mean", None),
        ("nothing given", ("register",), "required", None),
    ):  # fmt: skip
        yield Case(f"register {what}", words, names, spoil)


APPLY = (
    "apply",
    "--transform",
    "transform.h5",
    "--input",
    "moving.nii.gz",
    "--reference",
    "fixed.nii.gz",
    "--out",
    "applied.nii.gz",
)


def _apply() -> Iterator[Case]:
    for what, (spoil, names) in bad_images("moving.nii.gz").items():
        if what not in ("constant", "one slice", "two dimensions", "float64 with offset", "metres"):
            yield Case(
                f"apply input {what}", APPLY, "no point of" if what == "far away" else names, spoil
            )
    for what in (
        "empty",
        "text",
        "truncated in the header",
        "singular affine",
        "NaN affine",
        "zero extent",
        "huge extent",
    ):
        spoil, names = bad_images("fixed.nii.gz")[what]
        yield Case(f"apply reference {what}", APPLY, names, spoil)
    for what, spoil in (
        ("empty", raw("transform.h5", b"")), ("text", text("transform.h5", "no")),
        ("truncated", truncated("transform.h5", 0.5)),
        ("flipped at the start", flipped("transform.h5", 0.001)),
        ("missing", removed("transform.h5")),
    ):  # fmt: skip
        yield Case(
            f"apply transform {what}",
            APPLY,
            {"empty": "empty", "missing": "correct the path", "truncated": "cut off"}.get(
                what, "damaged"
            ),
            spoil,
        )
    field = tuple(word.replace("transform.h5", "displacement.nii.gz") for word in APPLY)
    yield Case("apply field NaN", field, "NaN", voxels("displacement.nii.gz", lambda v: v * np.nan))
    yield Case(
        "apply field is an image",
        tuple(w.replace("transform.h5", "fixed.nii.gz") for w in APPLY),
        "no transform",
    )
    yield Case(
        "apply field truncated", field, "displacement.nii.gz", truncated("displacement.nii.gz", 0.5)
    )
    affine = tuple(word.replace("transform.h5", "affine.tfm") for word in APPLY)
    zeros = replaced(
        "affine.tfm", "Parameters: 1 0 0 0 1 0 0 0 1 0 0 0", "Parameters: 1 0 0 0 1 0 0 0 0 0 0 0"
    )
    yield Case("apply affine singular", affine, "singular", zeros)
    yield Case("apply affine singular inverse", (*affine, "--inverse"), "singular", zeros)
    yield Case(
        "apply affine NaN",
        affine,
        "affine.tfm",
        replaced("affine.tfm", "Parameters: 1", "Parameters: nan"),
    )
    yield Case(
        "apply affine short",
        affine,
        "affine.tfm",
        replaced("affine.tfm", "1 0 0 0\nFixed", "1\nFixed"),
    )
    points = (
        "apply",
        "--transform",
        "transform.h5",
        "--points",
        "fixed.csv",
        "--out",
        "mapped.csv",
    )
    for what, content in (("empty", ""), ("words", "x,y,z\na,b,c\n"), ("voxels", "i,j,k\n1,2,3\n")):
        yield Case(
            f"apply points {what}",
            points,
            "points" if what == "voxels" else "fixed.csv",
            text("fixed.csv", content),
        )
    markups = tuple(word.replace("fixed.csv", "points.mrk.json") for word in points)
    for what, content in (
        ("no json", "{"), ("a list", "[]"), ("a number", "3"),
        ("markups a word", '{"markups": "x"}'), ("no markups", '{"markups": []}'),
        ("points a number", '{"markups": [{"coordinateSystem": "LPS", "controlPoints": 3}]}'),
        ("position a word", '{"markups": [{"coordinateSystem": "LPS", "controlPoints": [{"position": "abc"}]}]}'),
        ("position short", '{"markups": [{"coordinateSystem": "LPS", "controlPoints": [{"position": [1, 2]}]}]}'),
        ("system a number", '{"markups": [{"coordinateSystem": 7.5, "controlPoints": [{"position": [1, 2, 3]}]}]}'),
        ("points words", '{"markups": [{"coordinateSystem": "LPS", "controlPoints": ["a"]}]}'),
    ):  # fmt: skip
        yield Case(
            f"apply markups {what}", markups, "points.mrk.json", text("points.mrk.json", content)
        )
    for what, words, names, spoil in (
        ("out of unknown kind", (*APPLY[:-1], "out.xyz"), "out.xyz", None),
        ("out exists", APPLY, "exists", text("applied.nii.gz", "mine")),
        ("out below nothing", (*APPLY[:-1], "none/out.nii.gz"), "none", None),
        ("out a long name", (*APPLY[:-1], "z" * 300 + ".nii.gz"), "too long", None),
        ("out a folder", (*APPLY, "--overwrite"), "folder", made("applied.nii.gz")),
        ("points as nifti", (*points[:-1], "out.nii.gz"), "csv", None),
        ("neither", ("apply", "--transform", "transform.h5", "--out", "x.csv"), "--input", None),
        ("no reference", APPLY[:5] + APPLY[7:], "--reference", None),
    ):  # fmt: skip
        yield Case(f"apply {what}", words, names, spoil)


TINY = (
    "train", "method=velocity", "method.composer.backbone.levels=2",
    "method.composer.backbone.features=4", "data.dataset.shape=[16,16,16]",
    "data.dataset.crop=null", "data.dataset.subjects=1", "data.dataset.validation=1",
    "data.workers=0", "data.samples_per_epoch=2",
    "trainer.max_steps=2", "trainer.accelerator=cpu", "callbacks.progress_bar=null",
    "trainer.enable_progress_bar=false",
)  # fmt: skip


def _train() -> Iterator[Case]:
    for override, names in (
        ("trainer.max_steps=0", "trainer.max_steps"), ("trainer.max_steps=-1", "trainer.max_steps"),
        ("trainer.max_steps=1.5", "trainer.max_steps"),
        ("trainer.max_steps=many", "trainer.max_steps"),
        ("data.samples_per_epoch=0", "samples_per_epoch"),
        ("data.samples_per_epoch=-3", "samples_per_epoch"),
        ("data.batch_size=0", "batch_size"), ("data.batch_size=-1", "batch_size"),
        ("data.batch_size=a", "batch_size"), ("data.batch_size=1.5", "batch_size"),
        ("seed=-1", "seed"), ("seed=abc", "seed"), ("seed=1.5", "seed"), ("seed=null", "seed"),
        ("budget=0", "budget"), ("budget=nan", "budget"),
        ("budget=-5", "budget"), ("time_scale=0", "time_scale"), ("time_scale=-1", "time_scale"),
        ("trainer.limit_train_batches=0", "limit_train_batches"),
        ("trainer.limit_val_batches=0", "limit_val_batches"),
        ("trainer.precision=16-mixed", "precision"), ("trainer.precision=foo", "precision"),
        ("trainer.devices=0", "devices"),
        ("trainer.devices=-3", "devices"), ("trainer.accelerator=gpu", "CUDA"),
        ("trainer.accelerator=gppu", "accelerator"),
        ("trainer.val_check_interval=0", "val_check_interval"),
        ("trainer.val_check_interval=-1", "val_check_interval"),
        ("trainer.check_val_every_n_epoch=0", "check_val_every_n_epoch"),
        ("trainer.overfit_batches=1", "overfit_batches"),
        ("trainer.accumulate_grad_batches=0", "accumulate"),
        ("trainer.gradient_clip_val=nan", "gradient_clip_val"),
        ("trainer.strategy=foo", "foo"), ("trainer.max_epochs=1", "max_epochs"),
        ("trainer.fast_dev_run=true", "fast_dev_run"),
        ("method=null", "group"), ("data=null", "group"), ("trainer=null", "group"),
        ("trainer=foo", "foo"), ("method=foo", "foo"),
        ("data.workers=-1", "workers"), ("data.workers=many", "workers"),
        ("data.masks=fixed", "masks"), ("data.augmentation.noise=nan", "noise"),
        ("data.augmentation.noise=-1", "noise"), ("data.augmentation.noise=much", "noise"),
        ("data.augmentation.flip=[7]", "flip"),
        ("data.augment_on=moon", "augment_on"),
        ("data.synthetic_validation=-1", "synthetic_validation"),
        ("data.max_validation_pairs=0", "max_validation_pairs"),
        ("data.limit=0", "limit"), ("data.held_out=99", "held_out"),
        ("data.dataset.subjects=0", "subjects"), ("data.dataset.validation=0", "validat"),
        ("data.dataset.shape=[16,16]", "shape"), ("data.dataset.shape=[0,16,16]", "shape"),
        ("data.dataset.shape=foo", "shape"),
        ("data.dataset.name=foo", "foo"), ("data.cache.memory=-1", "memory"),
        ("data.cache.foo=1", "foo"), ("data.preprocessing.window=[5,1]", "window"),
        ("data.preprocessing.spacing=0", "spacing"), ("data.preprocessing.shape=[1,2]", "shape"),
        ("data.preprocessing.percentiles=[99,1]", "percentiles"),
        ("method.composer.backbone.levels=12", "levels"),
        ("method.composer.backbone.levels=0", "levels"),
        ("method.composer.backbone.levels=a", "levels"),
        ("method.composer.backbone.features=0", "features"),
        ("method.composer.backbone.norm=foo", "norm"), ("method.composer=null", "composer"),
        ("method.composer.head=null", "head"), ("method.composer.backbone=null", "backbone"),
        ("method.composer.head.name=null", "name"),
        ("method.composer.name=foo", "foo"), ("method.loss=null", "loss"),
        ("method.loss.terms=null", "terms"), ("method.loss.terms=foo", "terms"),
        ("method.loss.terms.lncc.weight=-1", "weight"),
        ("method.loss.terms.lncc.weight=nan", "weight"),
        ("method.loss.level_weights=[1,2,3]", "level_weights"),
        ("+method.loss.terms.foo.weight=1", "foo"),
        ("+method.loss.terms.field_error.weight=1", "field_error"),
        ("method.optimizer=null", "optimizer"),
        ("method.optimizer.name=foo", "foo"), ("method.optimizer.lr=-1", "lr"),
        ("method.optimizer.lr=nan", "lr"), ("method.optimizer.lr=a", "lr"),
        ("method.sampling=null", "sampling"), ("method.sampling.name=foo", "foo"),
        ("+method.sampling.patch=[0,1,1]", "patch"),
        ("logger.name=foo", "foo"), ("logger=foo", "foo"), ("callbacks=foo", "foo"),
        ("+callbacks.foo={}", "foo"), ("callbacks.learning_rate.foo=1", "foo"),
        ("callbacks.early_stopping={monitor: foo}", "early_stopping"),
        ("callbacks.early_stopping={}", "early_stopping"),
        ("experiment=foo", "foo"), ("launcher=foo", "foo"), ("foo=1", "foo"), ("data.foo=1", "foo"),
        ("=1", "group"), ("data.batch_size", "data.batch_size"),
        ("seed=${nothing}", "nothing"), ("data.batch_size={", "data.batch_size"),
        ("resume=nowhere", "nowhere"), ("resume=nowhere/x.ckpt", "no run"),
        ("run=" + "r" * 300, "too long"), ("resume=~nosuchuser/x", "~"),
    ):  # fmt: skip
        yield Case(f"train {override}", (*TINY, override), names)
    held = both(
        lambda folder: shutil.rmtree(folder / "run" / "figures"), removed("run/summary.json")
    )
    yield Case("train over another run", (*TINY, "hydra.run.dir=run"), "holds another run", held)
    yield Case("train into a file", (*TINY, "hydra.run.dir=fixed.csv"), "fixed.csv")


def _resume() -> Iterator[Case]:
    words = ("train", "resume=run")
    for what, spoil, names in (
        ("config empty", text("run/config.yaml", ""), "config.yaml"),
        ("config a list", text("run/config.yaml", "[1]"), "config.yaml"),
        ("config broken", text("run/config.yaml", "a: [\n"), "config.yaml"),
        ("config lacks", text("run/config.yaml", "method: {}\n"), "config.yaml"),
        ("config binary", raw("run/config.yaml", b"\xff\xfe\x00"), "config.yaml"),
        ("config missing", removed("run/config.yaml"), "config.yaml"),
        ("last empty", raw("run/checkpoints/last.ckpt", b""), "best.ckpt"),
        ("last truncated", truncated("run/checkpoints/last.ckpt", 0.5), "best.ckpt"),
        ("last flipped", flipped("run/checkpoints/last.ckpt", 0.4), "best.ckpt"),
        ("last missing", removed("run/checkpoints/last.ckpt"), "checkpoint"),
        ("last of another version", checkpoint(lambda c: c.pop("lightning_reg_position", None) and None, "run/checkpoints/last.ckpt"), "earlier version"),
        ("last without loops", checkpoint(lambda c: c.pop("loops") and None, "run/checkpoints/last.ckpt"), "last.ckpt"),
        ("last without optimiser", checkpoint(lambda c: c.pop("optimizer_states") and None, "run/checkpoints/last.ckpt"), "last.ckpt"),
        ("last of another method", checkpoint(lambda c: c["state_dict"].popitem() and None, "run/checkpoints/last.ckpt"), "last.ckpt"),
    ):  # fmt: skip
        yield Case(f"resume {what}", (*words, "trainer.max_steps=4"), names, spoil)
    yield Case("resume another group", (*words, "method=dlir"), "keeps its own method")
    yield Case("resume unknown option", (*words, "trainer.foo=1"), "foo")


def _data() -> Iterator[Case]:
    folder = (
        "train",
        "method=velocity",
        "data=folder",
        "data.root=scans",
        *TINY[2:4],
        "data.held_out=1",
        *TINY[8:],
    )
    for what, (spoil, names) in bad_images("scans/b.nii.gz").items():
        if what not in ("far away",):
            yield Case(f"train folder {what}", folder, names, spoil)
    yield Case("train folder missing", tuple(w.replace("=scans", "=none") for w in folder), "none")
    yield Case(
        "train folder of nothing",
        tuple(w.replace("=scans", "=none") for w in folder),
        "none",
        made("none"),
    )
    table = ("train", "method=velocity", "data=pairs", "data.root=pairs.csv", *TINY[2:4], *TINY[8:])
    for what, content, names in (
        ("empty", "", "pairs.csv"), ("only a header", "fixed,moving\n", "pairs.csv"),
        ("no header", "a.nii.gz,b.nii.gz\n", "pairs.csv"),
        ("missing file", "fixed,moving\nnone.nii.gz,moving.nii.gz\n", "none.nii.gz"),
        ("one column", "fixed\nfixed.nii.gz\n", "moving"),
        ("empty cell", "fixed,moving\nfixed.nii.gz,\n", "line 2"),
        ("of nobody", "fixed,moving\n~nosuchuser/a.nii,moving.nii.gz\n", "~"),
        ("long name", "fixed,moving\n" + "q" * 300 + ",moving.nii.gz\n", "too long"),
    ):  # fmt: skip
        yield Case(f"train pairs {what}", table, names, text("pairs.csv", content))
    yield Case("train pairs binary", table, "pairs.csv", raw("pairs.csv", bytes(range(128, 255))))
    prepared = (
        "train",
        "method=velocity",
        "data=prepared",
        "data.root=prepared",
        *TINY[2:4],
        *TINY[8:],
    )
    for what, spoil, names in (
        ("manifest empty", text("prepared/manifest.csv", ""), "manifest.csv"),
        ("manifest words", text("prepared/manifest.csv", "foo\nbar\n"), "manifest.csv"),
        ("manifest missing", removed("prepared/manifest.csv"), "prepare"),
        ("manifest binary", raw("prepared/manifest.csv", b"\xff\xfe\x00\x01"), "manifest.csv"),
        ("geometry broken", text("prepared/geometry.json", "{"), "geometry.json"),
        ("geometry a list", text("prepared/geometry.json", "[1]"), "geometry.json"),
        ("geometry unknown", text("prepared/geometry.json", '{"foo": 1}'), "foo"),
        ("pairs broken", text("prepared/pairs.csv", "fixed,moving\nnobody,no one\n"), "nobody"),
    ):  # fmt: skip
        yield Case(f"train prepared {what}", prepared, names, spoil)
    for what, words, names, spoil in (
        ("missing source", ("prepare", "dirlab", "--source", "none", "--out", "new"), "none", None),
        ("unknown data", ("prepare", "dirlabb", "--source", "scans", "--out", "new"), "dirlabb", None),
        ("out holds others", ("prepare", "folder", "--source", "scans", "--out", "result"), "result", None),
        ("out in the source", ("prepare", "folder", "--source", "scans", "--out", "scans/new"), "source", None),
        ("out a file", ("prepare", "folder", "--source", "scans", "--out", "fixed.csv"), "fixed.csv", None),
        ("spacing 0", ("prepare", "folder", "--source", "scans", "--out", "new", "--spacing", "0"), "spacing", None),
        ("spacing NaN", ("prepare", "folder", "--source", "scans", "--out", "new", "--spacing", "nan"), "spacing", None),
        ("spacing two", ("prepare", "folder", "--source", "scans", "--out", "new", "--spacing", "1", "2"), "spacing", None),
        ("shape 0", ("prepare", "folder", "--source", "scans", "--out", "new", "--shape", "0", "1", "1"), "shape", None),
        ("workers", ("prepare", "folder", "--source", "scans", "--out", "new", "--workers", "-2"), "workers", None),
        ("both sizes", ("prepare", "folder", "--source", "scans", "--out", "new", "--spacing", "2", "--shape", "8", "8", "8"), "--shape", None),
    ):  # fmt: skip
        yield Case(f"prepare {what}", words, names, spoil)
    for what, words, names, spoil in (
        ("nothing there", ("check", "none"), "none", None),
        ("an image", ("check", "fixed.nii.gz"), "fixed.nii.gz", None),
        ("unknown data", ("check", "scans", "--as", "foo"), "foo", None),
        ("unknown method", ("check", "scans", "--method", "foo"), "foo", None),
        ("table below nothing", ("check", "scans", "--table", "none/t.csv"), "none", None),
        ("pairs", ("check", "scans", "--pairs", "-1"), "pairs", None),
        ("workers", ("check", "scans", "--workers", "-1"), "workers", None),
        ("manifest empty", ("check", "prepared"), "manifest.csv", text("prepared/manifest.csv", "")),
    ):  # fmt: skip
        yield Case(f"check {what}", words, names, spoil)
    task = (
        "train",
        "method=velocity",
        "data=folder",
        "data.root=task",
        *TINY[2:4],
        "data.held_out=1",
        *TINY[8:],
    )
    for what, content in (
        ("broken", "{"), ("a list", "[]"), ("no images", '{"name": "x"}'),
        ("images a word", '{"training": "x"}'), ("entries numbers", '{"training": [1, 2]}'),
    ):  # fmt: skip
        yield Case(
            f"train dataset.json {what}",
            task,
            "task",
            both(made("task"), text("task/dataset.json", content)),
        )


def _others() -> Iterator[Case]:
    evaluate = (
        "evaluate",
        "--model",
        "model.ckpt",
        "--data",
        "prepared",
        "data.root=prepared",
        "--out",
        "out",
    )
    for what, words, names, spoil in (
        ("model truncated", evaluate, "model.ckpt", truncated("model.ckpt", 0.5)),
        ("limit", (*evaluate, "--limit", "0"), "--limit", None),
        ("split", (*evaluate, "--split", "foo"), "foo", None),
        ("data unknown", (*evaluate[:4], "foo", *evaluate[5:]), "foo", None),
        ("no root", (*evaluate[:5], "--out", "out"), "data.root", None),
        ("refine", (*evaluate, "--refine", "-1"), "refine", None),
        ("method", (*evaluate, "--refinement", "foo", "--refine", "1"), "foo", None),
        ("out exists", evaluate, "out exists", made("out/notes")),
        ("out of register", (*evaluate[:-1], "result", "--overwrite"), "results of lightning-reg register", None), ("second model", (*evaluate, "--model", "none.ckpt"), "none.ckpt", None),
        ("out a long name", (*evaluate[:-1], "e" * 300), "too long", None),
        ("override", (*evaluate, "data.foo=1"), "foo", None),
        ("corrupt scan", evaluate, "cannot be read", lambda folder: [truncated(str(p.relative_to(folder)), 0.5)(folder) for p in folder.glob("prepared/images/*.nii.gz")] and None),
    ):  # fmt: skip
        yield Case(f"evaluate {what}", words, names, spoil)
    for what, words, names, spoil in (
        ("no folder", ("report", "none"), "none", None),
        ("nothing in it", ("report", "scans"), "scans", None),
        ("metrics broken", ("report", "result"), "metrics.json", text("result/metrics.json", "{")),
        ("metrics a list", ("report", "result"), "metrics.json", text("result/metrics.json", "[]")),
        ("metrics empty", ("report", "result"), "metrics.json", text("result/metrics.json", "{}")),
        ("transform truncated", ("report", "result"), "transform.h5", truncated("result/transform.h5", 0.5)),
        ("run cases broken", ("report", "run"), "cases.csv", raw("run/cases.csv", b"\xff\x00\xfe")),
    ):  # fmt: skip
        yield Case(f"report {what}", words, names, spoil)
    export = ("export", "--model", "model.ckpt", "--onnx", "net.onnx", "--shape", "16", "16", "16")
    for what, words, names in (
        ("spacing NaN", (*export, "--spacing", "nan", "1", "1"), "spacing"),
        ("spacing 0", (*export, "--spacing", "0", "1", "1"), "spacing"),
        ("shape 0", (*export[:-1], "0"), "shape"),
        ("shape tiny", (*export[:-3], "1", "1", "1"), "small"),
        ("model missing", (*export[:2], "none.ckpt", *export[3:]), "none.ckpt"),
        ("out below nothing", (*export[:4], "none/net.onnx", *export[5:]), "none"),
    ):  # fmt: skip
        yield Case(f"export {what}", words, names)
    yield Case("no command", (), "required")
    yield Case("unknown command", ("registr",), "register")


def _strangers() -> Iterator[Case]:
    """Folders and files of others: what they refer to, where they lead, and of what they are a
    part.
    """
    bomb = "a: &a [x, x]\n" + "".join(
        f"{new}: &{new} [{', '.join([f'*{old}'] * 9)}]\n"
        for old, new in zip("abcdefgh", "bcdefghi", strict=True)
    )
    settings = "method: {a: 1}\ntrainer: {max_steps: 2}\ndata: {root: "
    for what, content in (
        ("aliases", bomb), ("nested", "[" * 3000 + "]" * 3000),
        ("environment", "a: ${oc.env:HOME}\n"),
        ("object", "a: !!python/object/apply:os.getcwd []\n"),
    ):  # fmt: skip
        yield Case(
            f"stranger method file {what}",
            (*REGISTER, "--instance", "method.yaml", *FEW),
            "method.yaml",
            text("method.yaml", content),
        )
        yield Case(
            f"stranger run {what}",
            ("train", "resume=run", "trainer.max_steps=4"),
            "config.yaml",
            text("run/config.yaml", f"{content}{settings}a}}\n"),
        )
    yield Case("stranger run repeated", ("train", "--config-path", "run", "--config-name", "config", "run=again"), "config.yaml",
               text("run/config.yaml", f"{settings}'${{oc.env:HOME}}'}}\n"))  # fmt: skip
    yield Case(
        "stranger metrics nested",
        ("report", "result"),
        "metrics.json",
        text("result/metrics.json", "[" * 4000 + "]" * 4000),
    )
    for name, target in (("metrics.csv", "../fixed.csv"), ("figures", "../scans")):
        swapped = both(lambda folder, name=name: shutil.rmtree(folder / "run" / name, ignore_errors=True),
                       lambda folder, name=name: (folder / "run" / name).unlink(missing_ok=True), linked(f"run/{name}", target))  # fmt: skip
        yield Case(
            f"stranger run {name} a link",
            ("train", "resume=run", "trainer.max_steps=4"),
            "link",
            swapped,
        )
    ants = both(lambda folder: shutil.copy(folder / "displacement.nii.gz", folder / "x1Warp.nii.gz") and None,
                lambda folder: shutil.copy(folder / "affine.tfm", folder / "x0GenericAffine.mat") and None)  # fmt: skip
    part = tuple(word.replace("transform.h5", "x1Warp.nii.gz") for word in APPLY)
    yield Case("stranger transform a part of a chain", part, "x0GenericAffine.mat", ants)
    several = tuple(word.replace("transform.h5", "affine.tfm") for word in APPLY)

    def twice(folder: Path) -> None:
        kept = (folder / "affine.tfm").read_text()
        text("affine.tfm", kept + kept.split("\n", 1)[1])(folder)

    yield Case("stranger transforms of a series", several, "several transforms", twice)
    lists = json.dumps(
        {
            "markups": (
                [{"coordinateSystem": "LPS", "controlPoints": [{"position": [1.0, 2.0, 3.0]}]}] * 2
            )
        }
    )
    points = (
        "apply",
        "--transform",
        "transform.h5",
        "--points",
        "points.mrk.json",
        "--out",
        "mapped.csv",
    )
    yield Case("stranger markups of two lists", points, "2 lists", text("points.mrk.json", lists))
    folder = (
        "train",
        "method=velocity",
        "data=folder",
        "data.root=scans",
        *TINY[2:4],
        "data.held_out=1",
        *TINY[8:],
    )

    def stray(folder: Path) -> None:
        shutil.copy(folder / "fixed_labels.nii.gz", folder / "scans" / "zz_seg.nii.gz")

    yield Case("stranger labels of no scan", folder, "zz_seg", stray)
    yield Case("stranger test of everybody", (*folder, "data.test=4"), "data.test")
    yield Case("stranger option", ("train", "--epochs", "5"), "--epochs")
    yield Case("stranger spacing", (*folder, "data.preprocessing.spacing=1e-7"), "memory")
    yield Case(
        "stranger output name", (*REGISTER[:-1], "o\udcff", "--model", "model.ckpt"), "utf-8"
    )


def run(
    cases: Sequence[Case], materials_folder: Path, work: Path
) -> Iterator[tuple[Case, str, str, float]]:
    """Every case, its verdict, what was printed, and seconds."""
    for number, case in enumerate(cases):
        started = time.perf_counter()
        found, printed = verdict(case, materials_folder, work / f"{number}")
        shutil.rmtree(work / f"{number}", ignore_errors=True)
        yield case, found, printed, time.perf_counter() - started


def main() -> None:
    """Print what went wrong, and how often what came out."""
    torch.set_num_threads(1)
    chosen = [case for case in cases() if all(word in case.name for word in sys.argv[1:])]
    with tempfile.TemporaryDirectory() as folder:
        ready = materials(Path(folder) / "materials")
        counts: Counter[str] = Counter()
        rows = csv.writer(sys.stdout, delimiter="\t", lineterminator="\n")
        for case, found, printed, seconds in run(chosen, ready, Path(folder) / "work"):
            counts[found] += 1
            if found != "sentence" or seconds > SECONDS:
                rows.writerow([found, case.name, " ".join(printed.split())[:300]])
                sys.stdout.flush()
    print(
        f"{len(chosen)} cases:"
        f" {', '.join(f'{number} {name}' for name, number in counts.most_common())}"
    )


if __name__ == "__main__":
    main()
