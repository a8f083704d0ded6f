"""Registration of a cohort's pairs by one process."""

from __future__ import annotations

import errno
import time
import traceback
from collections import deque
from collections.abc import Callable, Collection, Generator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from lightning_reg.batch.cohort.ledger import RESULTS, Ledger, with_weights
from lightning_reg.batch.cohort.pairs import CohortPair
from lightning_reg.inference.inputs import AnyRegistrar, Inputs
from lightning_reg.inference.outputs import OF_MANY
from lightning_reg.inference.result import Result
from lightning_reg.inference.steps import Predict
from lightning_reg.io.worklist import share
from lightning_reg.registry import DataError, UserError, in_words
from lightning_reg.training.allocator import give_memory_back

AT_ONCE = 2
"""Number of pairs read ahead, and number of pairs being written."""
EVERY = 30.0
"""Seconds between updates of the table of results."""
TRIM = 25
"""Number of pairs after which freed memory is returned to the system."""
ENDED = (
    "The process was ended twice while it worked on this pair, as happens where memory runs out;"
    " register it alone."
)


@dataclass
class Progress:
    """Progress of a run.

    Args:
        total: pairs of its share, including ``earlier``.
        earlier: pairs finished by earlier runs.
        done, failed: pairs of this run.
        seconds: since the run began.
    """

    total: int = 0
    earlier: int = 0
    done: int = 0
    failed: int = 0
    seconds: float = 0.0

    @property
    def per_minute(self) -> float:
        return 60 * (self.done + self.failed) / max(self.seconds, 1e-9)

    @property
    def remaining(self) -> float:
        """Estimated seconds for the remaining pairs; NaN before the first pair."""
        made = self.done + self.failed
        return (self.total - self.earlier - made) * self.seconds / made if made else float("nan")


def register_cohort(
    registrar: AnyRegistrar,
    pairs: Sequence[CohortPair],
    folder: str | Path,
    *,
    refine: int | None = None,
    shard: tuple[int, int] = (1, 1),
    only: Collection[str] | None = None,
    inverse: bool = False,
    report: bool = False,
    files: Collection[str] = OF_MANY,
    progress: Callable[[Progress], None] | None = None,
) -> Progress:
    """Register the pairs that have not been registered yet, with reading and writing in parallel.

    A pair that cannot be registered becomes a row of the results with an error message, and the
    other pairs are registered; the next call tries it again. If the process is killed, the next
    call repeats only the pairs in progress.

    Args:
        registrar: a trained model (:func:`lightning_reg.load`), an ensemble, or a method without a
            model (:func:`lightning_reg.conventional`).
        pairs: of the whole cohort, see :mod:`lightning_reg.batch.cohort.pairs`.
        folder: of the cohort; new, or of the same pairs and settings.
        refine: steps of instance optimisation, see
            :meth:`~lightning_reg.inference.inputs.AnyRegistrar.register`.
        shard: share of this process, ``(i, n)``: every n-th pair from the i-th, counted from 1, for
            n processes or machines that write into one folder.
        only: names of pairs to register, even if they are finished; no other pairs are registered.
        inverse, files: of each pair, see :meth:`Result.save`.
        report: write a report of each pair.
        progress: called after every pair.

    Returns:
        The counts, after the last pair.

    Raises:
        UserError: the folder belongs to another cohort, another process writes it, or the disk is
            full.
    """
    ledger = Ledger(Path(folder).expanduser())
    number, of = shard
    own = of_shard = share(pairs, number, of)
    if only is not None:
        unknown = sorted(set(only) - {pair.name for pair in pairs})
        if unknown:
            raise DataError(f"The cohort has no pair '{unknown[0]}'; correct its name.")
        own = [pair for pair in own if pair.name in only]
    settings = _settings(registrar, refine, files)
    described = {pair.name: pair.described() for pair in pairs}
    ledger.begin(described, settings, otherwise=only is not None)
    table, names = (
        (RESULTS, ledger.names())
        if of == 1
        else (f"results-{number}-of-{of}.csv", [pair.name for pair in of_shard])
    )
    save = {"inverse": inverse, "report": report, "files": files}
    run = _Run(registrar, ledger, refine, save, again=only is not None)
    tabled = time.monotonic()
    with ledger.writer(number, of):
        try:
            with closing(run.through(own)) as states:
                for now in states:
                    if progress is not None:
                        progress(now)
                    if (now.done + now.failed) % TRIM == 0:
                        give_memory_back()
                    if time.monotonic() - tabled > EVERY:
                        ledger.write_results(names, table)
                        tabled = time.monotonic()
        finally:
            ledger.write_results(names, table)
    return run.now


def _settings(
    registrar: AnyRegistrar, refine: int | None, files: Collection[str]
) -> dict[str, Any]:
    members = registrar.members
    described = [with_weights({**member.settings, "start": member.start}) for member in members]
    augmented = [
        any(isinstance(step, Predict) and step.variant for step in member.steps)
        for member in members
    ]
    return {
        **(described[0] if len(members) == 1 else {"members": described, "augmented": augmented}),
        "refine": refine,
        "files": [*files],
    }


@dataclass
class _Run:
    """Pipeline of pairs: threads read ahead and write; the calling thread registers."""

    registrar: AnyRegistrar
    ledger: Ledger
    refine: int | None
    save: Mapping[str, Any]
    again: bool
    flying: dict[str, int] = field(default_factory=dict)
    now: Progress = field(default_factory=Progress)
    started: float = field(default_factory=time.monotonic)

    def through(self, pairs: Sequence[CohortPair]) -> Generator[Progress, None, None]:
        """Register the remaining pairs; yields the progress after each."""
        names = {pair.name for pair in pairs}
        remaining = names if self.again else {*self.ledger.remaining(names)}
        for name in names - remaining:  # killed right after the pair was written
            self.ledger.note_begun(name, 0)
        left = [pair for pair in pairs if pair.name in remaining]
        self.now.total, self.now.earlier = len(pairs), len(pairs) - len(left)
        begun = {pair.name: self.ledger.begun(pair.name) for pair in left}
        # last: pairs that may have ended a process
        queue = deque(sorted(left, key=lambda pair: begun[pair.name]))
        bounded = any(member.memory is not None for member in self.registrar.members)
        # one pair at a time if memory is limited
        most_ahead, most_behind = (1, 0) if bounded else (AT_ONCE, AT_ONCE)
        ahead: deque[tuple[CohortPair, Future[Inputs]]] = deque()
        behind: deque[tuple[CohortPair, Future[None]]] = deque()
        with ThreadPoolExecutor(AT_ONCE) as readers, ThreadPoolExecutor(AT_ONCE) as writers:
            try:
                while queue or ahead:
                    while queue and len(ahead) < most_ahead:
                        pair = queue.popleft()
                        ahead.append((pair, readers.submit(_read, pair)))
                    pair, reading = ahead.popleft()
                    result = self._register(pair, reading, begun[pair.name])
                    if result is not None:
                        behind.append((pair, writers.submit(self._write, pair, result)))
                    del result
                    yield self._timed()
                    while len(behind) > most_behind or (behind and behind[0][1].done()):
                        self._finish(*behind.popleft())
                while behind:
                    self._finish(*behind.popleft())
                    yield self._timed()
            except BaseException:  # interrupted, or the disk is full: no pair is to blame
                for name, times in self.flying.items():
                    self.ledger.note_begun(name, times)
                raise

    def _timed(self) -> Progress:
        self.now.seconds = time.monotonic() - self.started
        return self.now

    def _register(self, pair: CohortPair, reading: Future[Inputs], begun: int) -> Result | None:
        """Register a pair; ``None`` if it failed, or has ended the process twice."""
        if begun >= 2 and not self.again:
            self._note(pair, DataError(ENDED))
            self.ledger.note_begun(pair.name, begun)
            return None
        self.flying[pair.name] = begun
        self.ledger.note_begun(pair.name, begun + 1)
        try:
            return self.registrar.register_inputs(reading.result(), refine=self.refine)
        except Exception as error:
            self._note(pair, error)
            return None

    def _write(self, pair: CohortPair, result: Result) -> None:
        result.save(self.ledger.place(pair.name), overwrite=self.again, **self.save)

    def _finish(self, pair: CohortPair, writing: Future[None]) -> None:
        error = writing.exception()
        faster = isinstance(error, DataError) and not self.again and self.ledger.done(pair.name)
        if error is None or faster:  # another process was faster
            self.ledger.clear(pair.name)
            self.flying.pop(pair.name, None)
            self.now.done += 1
        elif isinstance(error, Exception):
            self._note(pair, error)
        else:
            raise error

    def _note(self, pair: CohortPair, error: Exception) -> None:
        """Record the failure of a pair.

        Raises:
            DataError: the disk is full.
        """
        if _disk_is_full(error):
            raise DataError(
                f"The disk of {self.ledger.folder} is full; make room and send the same command"
                " again."
            ) from error
        known = isinstance(error, UserError)
        details = "" if known else "".join(traceback.format_exception(error))
        result = self.ledger.result(pair.name)
        self.ledger.fail(pair.name, in_words(error), details, result=result)
        self.flying.pop(pair.name, None)
        self.now.failed += 1


def _read(pair: CohortPair) -> Inputs:
    inputs = Inputs.read(pair.opened(), pair.name)
    return replace(inputs, paths={**pair.described(), **inputs.paths})


def _disk_is_full(error: BaseException | None) -> bool:
    while error is not None:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        error = error.__cause__
    return False
