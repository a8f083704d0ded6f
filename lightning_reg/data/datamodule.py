"""The DataModule, which turns the scans of a data set into batches of pairs."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import partial
from typing import Annotated, Literal

import lightning as L
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from lightning_reg.data.augmentation import Augmentation, AugmentedPairs
from lightning_reg.data.cache import CacheSettings, ScanCache, fingerprint
from lightning_reg.data.datasets.interface import Record, RegistrationDataset, Split
from lightning_reg.data.datasets.loading import Lazy, load_record
from lightning_reg.data.datasets.manifest import PreparedDataset
from lightning_reg.data.datasets.splits import Splits
from lightning_reg.data.parallel import start_method, start_worker
from lightning_reg.data.preprocessing import CLEARLY, Preprocessing, alignments, centered
from lightning_reg.data.sampling import (
    InterSubjectPairs,
    ItemSampler,
    SamplerFactory,
    synthetic_pairs,
)
from lightning_reg.data.scans import Scan, make_pair, require_alike
from lightning_reg.data.statistics import statistics
from lightning_reg.registry import ArgumentError, Checked, DataError, Range, require_kind
from lightning_reg.spatial import Pair


class RegistrationData(Checked, L.LightningDataModule):
    """Preprocessed scans, training pairs drawn from them, and a fixed set of validation pairs.

    Args:
        dataset: source of scans and pairs; use :class:`~lightning_reg.data.datasets.splits.Splits`
            to hold out other subjects.
        sampling: draws training pairs from the scans, as ``InterSubjectPairs`` or
            ``functools.partial(SyntheticPairs, deformation=...)``, see
            :class:`~lightning_reg.data.sampling.SampledPairs`; default ``InterSubjectPairs``.
        preprocessing: of all scans. Steps that have already been applied to prepared data are not
            repeated. With ``center="auto"``, scans are centred if that makes them more similar than
            their headers do.
        augmentation: of training pairs.
        cache: of preprocessed scans.
        batch_size: pairs per step; images of different size are padded.
        samples_per_epoch: pairs drawn per epoch. Validation follows each epoch.
        workers: processes that read scans at the start and draw pairs during training; with 0,
            pairs are drawn between the steps. ``auto``: scans are read by one process per core, at
            most eight; pairs are drawn by up to four processes for an accelerator, and between the
            steps on a CPU, where PyTorch's threads use all cores.
        synthetic_validation: number of synthetic pairs of validation scans, with known field, in
            addition to the real pairs.
        max_validation_pairs: at most this many real pairs.
        seed: base of the random state of every item.
        augment_on: ``workers``: worker processes augment the pairs during training; ``device``:
            pairs are augmented batch by batch on the network's device, which is faster on a GPU if
            geometry is augmented (noise, contrast and bias are computed on the CPU by TorchIO in
            both cases).
    """

    def __init__(
        self,
        dataset: RegistrationDataset | Splits,
        sampling: SamplerFactory = InterSubjectPairs,
        preprocessing: Preprocessing | None = None,
        augmentation: Augmentation | None = None,
        cache: CacheSettings | None = None,
        batch_size: Annotated[int, Range(1)] = 1,
        samples_per_epoch: Annotated[int, Range(1)] = 100,
        workers: Annotated[int, Range(0, of="processes")] | Literal["auto"] = "auto",
        synthetic_validation: Annotated[int, Range(0)] = 0,
        max_validation_pairs: Annotated[int, Range(0)] | None = None,
        seed: Annotated[int, Range(0)] = 0,
        augment_on: Literal["workers", "device"] = "workers",
    ) -> None:
        super().__init__()
        require_kind(
            dataset,
            (RegistrationDataset, Splits),
            "dataset",
            "give a data set, as FolderDataset('scans'), or Splits of one",
        )
        if not callable(sampling):
            raise ArgumentError(
                f"sampling is {sampling!r}; give a sampler's class, as InterSubjectPairs, or a"
                " functools.partial of one"
            )
        for value, kind in (
            (preprocessing, Preprocessing),
            (augmentation, Augmentation),
            (cache, CacheSettings),
        ):
            require_kind(value, (kind, type(None)), kind.__name__, f"give {kind.__name__}(...)")
        self.augment_on = augment_on
        self.data = dataset if isinstance(dataset, Splits) else Splits(dataset)
        given = preprocessing or Preprocessing()
        self._choose_center = given.center == "auto"
        self.preprocessing = (
            replace(given, center=False) if self._choose_center else given
        ).following(self.data.geometry)
        self.notes: list[str] = []
        self.cache, self.augmentation = cache or CacheSettings(), augmentation or Augmentation()
        self.sampling, self.seed = sampling, seed
        self.batch_size, self.samples_per_epoch = batch_size, samples_per_epoch
        self.workers, self.synthetic_validation = workers, synthetic_validation
        self.max_validation_pairs = max_validation_pairs
        self.train_pairs: Dataset[Pair] | None = None
        self.validation_pairs: list[Pair] = []
        self.statistics: dict[str, list[list[float]]] = {}
        self.deals_out_validation = False
        self._in_memory = 0
        self._counts: dict[str, int] = {}

    @property
    def prepared(self) -> bool:
        """Whether the data were written by ``lightning-reg prepare``."""
        return isinstance(self.data.dataset, PreparedDataset)

    def first_pair(self) -> Pair:
        """Return the first training pair."""
        self.setup()
        assert self.train_pairs is not None
        return self.train_pairs[0]

    def available(self) -> frozenset[str]:
        """Fields that some training pair has: of the first pair, and parts of two or more scans."""
        fields = set(self.first_pair().has())
        for part, count in self._counts.items():
            if count > 1:
                fields |= {f"fixed_{part}", f"moving_{part}"}
        return frozenset(fields)

    def _count_parts(self, scans: Sequence[Scan]) -> None:
        """Count the training scans with masks, labels and landmarks."""
        self._counts = {
            part: sum(getattr(scan, part) is not None for scan in scans)
            for part in ("mask", "labels", "landmarks")
        }
        for part, count in self._counts.items():
            if 0 < count < len(scans):
                some = f"{part.removesuffix('s')}s"
                self.notes.append(
                    f"{count} of {len(scans)} training scans have {some}; loss terms that need"
                    f" {some} are 0 for pairs without them."
                )

    def _decide_center(self, scans: Sequence[Scan], pairs: Sequence[tuple[int, int]]) -> None:
        """Centre the scans if that makes them more similar than their headers do."""
        chosen = pairs[:: max(1, len(pairs) // 8)][:8] or [
            (k, k + 1) for k in range(min(8, len(scans) - 1))
        ]
        found = [alignments(scans[fixed], scans[moving]) for fixed, moving in chosen]
        headers, centers = np.mean(found, axis=0).tolist() if found else (0.0, 0.0)
        if centers > headers + CLEARLY:
            self.preprocessing = replace(self.preprocessing, center=True)
            self.notes.append(
                f"The image headers do not align the images (correlation {headers:.2f}; with"
                f" aligned centres {centers:.2f}): images are centred, in training and in"
                " registration with this model (`center=False`: not)."
            )

    def _scans(self, split: Split) -> Sequence[Scan]:
        records = self.data.records(split)
        if not records:
            raise DataError(
                f"The data have no scans for {split}; give the data set more of them, or choose"
                " subjects by `held_out`."
            )
        left = replace(self.preprocessing.remaining(self.data.geometry), center=False)
        keys = [fingerprint(record, self.data.settings, asdict(left)) for record in records]
        rank, world = (
            int(os.environ.get("RANK", os.environ.get("LOCAL_RANK", 0))),
            int(os.environ.get("WORLD_SIZE", 1)),
        )
        free = replace(self.cache, memory=max(0.0, self.cache.memory - self._in_memory / 2**30))
        # partial functions, which go to other processes
        new = partial(_preprocessed, self.data.dataset, records, left)
        scans = ScanCache(new, keys, free, rank, world)
        scans.fill(min(8, self._cores()) if self.workers == "auto" else self.workers)
        self._in_memory += scans.used
        if split == "train" and self._choose_center:
            self._decide_center(scans, self.data.pairs(split))
        if not self.preprocessing.center:
            return scans
        return Lazy(len(scans), partial(_centered, scans))

    def setup(self, stage: str | None = None) -> None:
        if self.train_pairs is not None:
            return
        train = self._scans("train")
        self.statistics = statistics(train)
        self._count_parts(train)
        require_alike(train)
        drawn = self.sampling(train, self.data.pairs("train"), self.seed)
        augmented = AugmentedPairs(drawn, self.augmentation, self.seed, self.samples_per_epoch)
        self.train_pairs = drawn if self.augment_on == "device" else augmented
        scans = self._scans("validation")
        real = self.data.pairs("validation")[: self.max_validation_pairs]
        self.validation_pairs = [make_pair(scans[fixed], scans[moving]) for fixed, moving in real]
        self.validation_pairs += self._synthetic_validation(scans)
        if not self.validation_pairs:
            raise DataError(
                "There is nothing to validate on: the held-out subjects make no pairs and"
                " `synthetic_validation` is 0; hold out two subjects or more (`held_out`), or"
                " set `synthetic_validation` to 1 or more."
            )

    def _synthetic_validation(self, scans: Sequence[Scan]) -> list[Pair]:
        pairs = synthetic_pairs(self.sampling, scans, self.seed, self.synthetic_validation)
        return [
            replace(p, fixed_labels=None, moving_labels=None) for p in pairs
        ]  # overlap is for real pairs

    def train_dataloader(self) -> DataLoader[Pair]:
        self.setup()
        assert self.train_pairs is not None
        workers = self._drawing_workers() if self.workers == "auto" else self.workers
        return DataLoader(
            self.train_pairs,
            batch_size=self.batch_size,
            sampler=self._sampler(),
            num_workers=workers,
            multiprocessing_context=start_method(workers),
            collate_fn=Pair.collate,
            persistent_workers=workers > 0,
            worker_init_fn=start_worker,
            # keeps the global random state; items have their own seeds
            generator=torch.Generator(),
        )

    def _drawing_workers(self) -> int:
        on_cpu = self.trainer is None or self.trainer.strategy.root_device.type == "cpu"
        return 0 if on_cpu else max(1, min(4, self._cores() - 1))

    def _cores(self) -> int:
        """Return the number of cores for this process; several devices share the cores equally."""
        cores = (
            len(os.sched_getaffinity(0))
            if hasattr(os, "sched_getaffinity")
            else os.cpu_count() or 1
        )
        return max(1, cores // (1 if self.trainer is None else self.trainer.num_devices))

    def _sampler(self) -> ItemSampler:
        """Order of items, from the current position of the trainer (new or resumed)."""
        if self.trainer is None:
            return ItemSampler(self.samples_per_epoch)
        epoch, length, ranks = self.trainer.current_epoch, self.samples_per_epoch, self._ranks()
        progress = self.trainer.fit_loop.epoch_loop.batch_progress.current.state_dict()
        resume_at = epoch * length + int(progress["processed"]) * self.batch_size
        return ItemSampler(length, resume_at, epoch, *ranks)

    def _ranks(self) -> tuple[int, int]:
        """Number of this process, and of all."""
        if self.trainer is None:
            return 0, 1
        return self.trainer.global_rank, self.trainer.world_size

    def val_dataloader(self) -> DataLoader[Pair]:
        self.setup()
        return self._evaluating(self.validation_pairs)

    def _evaluating(self, pairs: Sequence[Pair]) -> DataLoader[Pair]:
        """Load pairs one by one. Each of several processes gets every n-th pair, or all pairs if
        there are fewer pairs than processes.
        """
        own = torch.Generator()  # a validation does not change the random state of the training
        rank, world = self._ranks()
        self.deals_out_validation = 1 < world <= len(pairs)
        chosen = pairs[rank::world] if self.deals_out_validation else pairs
        return DataLoader(
            chosen,  # type: ignore[arg-type]
            batch_size=1,
            collate_fn=Pair.collate,
            generator=own,
        )

    def test_dataloader(self) -> DataLoader[Pair]:
        """Load the pairs of the split ``test`` if there is one, otherwise the validation pairs."""
        pairs = self.data.pairs("test")
        if not pairs:
            return self.val_dataloader()
        scans = self._scans("test")
        return self._evaluating([make_pair(scans[fixed], scans[moving]) for fixed, moving in pairs])

    def predict_dataloader(self) -> DataLoader[Pair]:
        """Load the same pairs as :meth:`test_dataloader`."""
        return self.test_dataloader()

    def transfer_batch_to_device(
        self, batch: Pair, device: torch.device, dataloader_idx: int
    ) -> Pair:
        return batch.to(device, non_blocking=True)

    def on_after_batch_transfer(self, batch: Pair, dataloader_idx: int) -> Pair:
        if self.augment_on == "workers" or self.trainer is None or not self.trainer.training:
            return batch
        seen = self.trainer.fit_loop.epoch_loop.total_batch_idx + 1  # it counts from -1
        seed = [self.seed, 4, seen, self.trainer.global_rank]
        pairs = enumerate(batch.elements())
        return Pair.collate([self.augmentation(pair, [*seed, number]) for number, pair in pairs])


def _preprocessed(
    dataset: RegistrationDataset,
    records: Sequence[Record],
    preprocessing: Preprocessing,
    number: int,
) -> Scan:
    return preprocessing(load_record(dataset, records[number]))


def _centered(scans: Sequence[Scan], number: int) -> Scan:
    return centered(scans[number])
