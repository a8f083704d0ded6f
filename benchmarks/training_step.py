"""Training step (forward, loss, backward, Adam) compared with MONAI and VoxelMorph for the same
network, and its most costly operations.

    python benchmarks/training_step.py [--shapes 64 96 128] [--device cpu] [--precision 32 bf16]
    [--repeat 5] [--threads 1] python benchmarks/training_step.py --methods [--shapes 64 96 128] ...

Our networks (backbone ``voxelmorph``, head ``velocity``) are configured with the layers of the
peers and have the same number of weights, shown in the table. MONAI's ``VoxelMorph`` integrates at
half the resolution, VoxelMorph's ``VxmPairwise`` at full resolution. The loss is local correlation
in windows of 9 voxels and diffusion, the flow has seven squarings, and the images are noise. Times
are medians of steps run alternately in one process, also as ratios to ours. Memory is the peak in a
separate process (CPU: its growth; GPU: memory allocated by PyTorch).

With ``--methods``, the six methods in their configurations: time of a step, share of convolutions,
and the next largest operations.
"""

from __future__ import annotations

import argparse
import functools
import os
import statistics
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from timing import clock, device_name, imported, version
from torch import Tensor, nn
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

import lightning_reg as lr
from lightning_reg.components.interfaces import Growable
from lightning_reg.spatial import Pair
from lightning_reg.training.module import RegistrationModule
from lightning_reg.training.peak import noise_pair

METHODS = ("velocity", "progressive", "multilevel", "dlir", "deep_supervision", "linear_deformable")
PRECISIONS = {"32": torch.float32, "bf16": torch.bfloat16}
CONVOLUTIONS = ("conv", "cudnn", "xmma", "cutlass", "gemm", "wgrad", "dgrad")
"""Parts of the names of operations and kernels that identify convolutions."""
WINDOW, STEPS = 9, 7


@dataclass
class Trained:
    """A network and its loss on a pair."""

    network: nn.Module
    loss: Callable[[], Tensor]

    def step(
        self, optimizer: torch.optim.Optimizer, dtype: torch.dtype, device: torch.device
    ) -> None:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(device.type, torch.bfloat16, enabled=dtype == torch.bfloat16):
            value = self.loss()
        value.backward()
        optimizer.step()

    def weights(self) -> int:
        return sum(p.numel() for p in self.network.parameters())


def ours(pair: Pair, last: list[int], reduce: int) -> Trained:
    """Our network with the layers ``(16, 32, 32, 32), (32, 32, 32, 32), last`` and a velocity."""
    method = lr.compose([
        "method=voxelmorph",
        "size=paper",
        f"method.composer.backbone.last={last}",
        f"method.composer.head.steps={STEPS}",
        f"method.composer.head.reduce={reduce}",
        f"method.loss.terms.lncc.window={WINDOW}",
    ])["method"]  # fmt: skip
    return of_module(RegistrationModule.from_configuration(method), pair)


def of_module(module: RegistrationModule, pair: Pair) -> Trained:
    module = module.to(pair.fixed.tensor.device).train()
    return Trained(module, lambda: module.training_loss(pair).total)


def monai(pair: Pair) -> Trained:
    backbone = imported("monai.networks.nets", "VoxelMorphUNet")(
        3, 2, 32, (16, 32, 32, 32, 32, 32, 32, 32), (16, 16)
    )
    network = imported("monai.networks.nets", "VoxelMorph")(
        backbone, integration_steps=STEPS, half_res=True
    )
    network = network.to(pair.fixed.tensor.device)
    similarity = imported("monai.losses", "LocalNormalizedCrossCorrelationLoss")(kernel_size=WINDOW)
    smoothness = imported("monai.losses", "DiffusionLoss")()

    def loss() -> Tensor:
        warped, field = network(pair.moving.tensor, pair.fixed.tensor)
        value: Tensor = similarity(warped.float(), pair.fixed.tensor) + smoothness(field.float())
        return value

    return Trained(network, loss)


def voxelmorph(pair: Pair) -> Trained:
    features = [[16, 32, 32, 32], [32, 32, 32, 32]]
    network = imported("voxelmorph.nn.models", "VxmPairwise")(
        3, 1, 1, features, integration_steps=STEPS
    )
    network = network.to(pair.fixed.tensor.device)
    similarity, smoothness = (
        imported("neurite.nn.modules", "NCC")(WINDOW),
        imported("neurite.nn.modules", "SpatialGradient")("l2"),
    )

    def loss() -> Tensor:
        field, warped = network(pair.moving.tensor, pair.fixed.tensor, return_warped_source=True)
        value: Tensor = (
            1 - similarity(warped.float(), pair.fixed.tensor) + smoothness(field.float())
        )
        return value

    return Trained(network, loss)


CONTESTANTS: dict[str, Callable[[Pair], Trained]] = {
    "MONAI": monai,
    "ours, MONAI's network": functools.partial(ours, last=[32, 16, 16], reduce=2),
    "VoxelMorph": voxelmorph,
    "ours, VoxelMorph's network": functools.partial(ours, last=[32], reduce=1),
}
PEER = {"ours, MONAI's network": "MONAI", "ours, VoxelMorph's network": "VoxelMorph"}


def made(name: str, pair: Pair, compiled: bool) -> Trained:
    torch.manual_seed(0)
    trained = CONTESTANTS[name](pair)
    if compiled and name in PEER:
        assert isinstance(trained.network, RegistrationModule)
        trained.network.compile_networks()
    return trained


def seconds(
    contestants: dict[str, Trained], dtype: torch.dtype, device: torch.device, repeat: int
) -> dict[str, float]:
    """Median time of a step of each, run alternately, after two warm-up steps."""
    times: dict[str, list[float]] = {name: [] for name in contestants}
    optimizers = {
        name: torch.optim.Adam(trained.network.parameters(), 1e-4)
        for name, trained in contestants.items()
    }
    for _ in range(repeat + 2):
        for name, trained in contestants.items():
            started = clock(device)
            trained.step(optimizers[name], dtype, device)
            times[name].append(clock(device) - started)
    return {name: statistics.median(values[2:]) for name, values in times.items()}


def memory(name: str, size: int, dtype: torch.dtype, device: torch.device, compiled: bool) -> float:
    """Largest memory of two steps, GiB."""
    pair = noise_pair((size,) * 3).to(device)
    trained = made(name, pair, compiled)
    optimizer = torch.optim.Adam(trained.network.parameters(), 1e-4)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    else:
        Path("/proc/self/clear_refs").write_text("5")  # resets the peak memory
    before = resident("VmRSS")
    for _ in range(2):
        trained.step(optimizer, dtype, device)
    return (
        torch.cuda.max_memory_allocated() / 2**30
        if device.type == "cuda"
        else resident("VmHWM") - before
    )


def resident(name: str) -> float:
    """Memory of this process according to Linux, GiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name)) / 2**20


def memory_alone(name: str, size: int, arguments: argparse.Namespace, precision: str) -> str:
    command = [
        sys.executable,
        __file__,
        "--one",
        name,
        "--shapes",
        str(size),
        "--device",
        arguments.device,
        "--precision",
        precision,
    ]
    command += [
        "--threads",
        str(torch.get_num_threads()),
        *(["--compile"] if arguments.compile else []),
    ]
    # freed memory is returned to the system, so that the peak is that of a step
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "MALLOC_MMAP_THRESHOLD_": "1000000"},
    )
    return f"{float(done.stdout):.2f}" if done.returncode == 0 else "none"


def compare(arguments: argparse.Namespace, device: torch.device) -> None:
    print(
        "| image | precision | network | weights | step, ms | peer / ours | memory, GiB | peer /"
        " ours |"
    )
    print("| --- | --- | --- | ---: | ---: | ---: | ---: | ---: |")
    for size in arguments.shapes:
        for precision in arguments.precision:
            pair = noise_pair((size,) * 3).to(device)
            contestants = {}
            for name in CONTESTANTS:
                try:
                    contestants[name] = made(name, pair, arguments.compile)
                except ModuleNotFoundError as error:
                    print(f"| {name}: {error.name} is not installed |")
            times = seconds(contestants, PRECISIONS[precision], device, arguments.repeat)
            memories = {
                name: memory_alone(name, size, arguments, precision) for name in contestants
            }
            for name, trained in contestants.items():
                peer = PEER.get(name)
                ratio = f"{times[peer] / times[name]:.2f}" if peer in times else ""
                kept = [memories[name], memories.get(peer or "", "none")]
                saved = (
                    f"{float(kept[1]) / float(kept[0]):.2f}" if peer and "none" not in kept else ""
                )
                weights = f"{trained.weights():,}"
                row = [
                    f"{size}^3",
                    precision,
                    name,
                    weights,
                    f"{1000 * times[name]:.1f}",
                    ratio,
                    kept[0],
                    saved,
                ]
                print(f"| {' | '.join(row)} |", flush=True)


def methods(arguments: argparse.Namespace, device: torch.device) -> None:
    cuda = device.type == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if cuda else [])]
    print("| image | precision | method | step, ms | convolutions | next |")
    print("| --- | --- | --- | ---: | ---: | --- |")
    for size in arguments.shapes:
        for precision in arguments.precision:
            for method in METHODS:
                pair = noise_pair((size,) * 3).to(device)
                module = RegistrationModule.from_configuration(
                    lr.compose([f"method={method}", "size=paper"])["method"]
                )
                for part in module.modules():
                    if isinstance(part, Growable):
                        part.grow([*[0.0] * (len(part.alpha) - 1), 1.0])
                trained = of_module(module, pair)
                time = seconds({method: trained}, PRECISIONS[precision], device, arguments.repeat)[
                    method
                ]
                optimizer = torch.optim.Adam(module.parameters(), 1e-4)
                with profile(activities=activities) as seen:
                    trained.step(optimizer, PRECISIONS[precision], device)
                kernel = DeviceType.CUDA if cuda else DeviceType.CPU
                events = [event for event in seen.key_averages() if event.device_type == kernel]
                share, following = shares(
                    {
                        e.key: e.self_device_time_total if cuda else e.self_cpu_time_total
                        for e in events
                    }
                )
                print(
                    f"| {size}^3 | {precision} | {method} | {1000 * time:.1f} | {share:.0%} |"
                    f" {following} |",
                    flush=True,
                )


def shares(spent: dict[str, Any]) -> tuple[float, str]:
    """Share of convolutions, and a list of the four next largest operations."""
    total = sum(spent.values())
    convolution = {key for key in spent if any(word in key.lower() for word in CONVOLUTIONS)}
    others = sorted(
        ((value, key) for key, value in spent.items() if key not in convolution), reverse=True
    )[:4]
    return sum(spent[key] for key in convolution) / total, ", ".join(
        f"{key[:40]} {value / total:.0%}" for value, key in others
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--shapes", nargs="+", type=int, default=[64, 96, 128], help="edge of the images, voxels"
    )
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", nargs="+", choices=PRECISIONS, default=["32"])
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--compile", action="store_true", help="our networks through torch.compile")
    parser.add_argument(
        "--methods", action="store_true", help="the six methods instead of the peers"
    )
    parser.add_argument("--one", choices=CONTESTANTS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads or torch.get_num_threads())
    device = torch.device(arguments.device)
    if arguments.one:
        precision = PRECISIONS[arguments.precision[0]]
        print(memory(arguments.one, arguments.shapes[0], precision, device, arguments.compile))
        return
    packages = ", ".join(map(version, ("torch", "monai", "voxelmorph")))
    print(
        f"{device_name(device)}, {torch.get_num_threads()} thread(s), {packages}, compiled:"
        f" {'yes' if arguments.compile else 'no'}\n"
    )
    (methods if arguments.methods else compare)(arguments, device)


if __name__ == "__main__":
    main()
