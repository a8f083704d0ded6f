"""Registration of a cohort's pairs by one process."""

from __future__ import annotations

import errno
import hashlib
import time
import traceback
from collections import deque
from collections.abc import Callable, Collection, Generator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lightning_reg.batch.cohort.ledger import RESULTS, Ledger
from lightning_reg.batch.cohort.pairs import CohortPair
from lightning_reg.batch.cohort.pairs import shard as share_of
from lightning_reg.inference.inputs import AnyRegistrar, Inputs
from lightning_reg.inference.outputs import OF_MANY
from lightning_reg.inference.result import Result
from lightning_reg.inference.steps import Predict
from lightning_reg.io.lock import one_writer
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
    " register it alone (--only)."
)


@dataclass(frozen=True)
class Progress:
    """Progress of a run.

    Args:
        done, failed: pairs of this run.
        total: pairs of its share, including ``earlier``.
        earlier: pairs finished by earlier runs.
        seconds: since the run began.
    """

    done: int
    failed: int
    total: int
    earlier: int
    seconds: float

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
        refine: steps of instance optimisation, see :meth:`Registrar.register`.
        shard: ``(i, n)``: every n-th pair from the i-th, counted from 1, for n processes or
            machines that share the folder.
        only: names of pairs to register, even if they are finished; no other pairs are registered.
        inverse, report, files: of each pair, see :meth:`Result.save`.
        progress: called after every pair.

    Returns:
        The counts, after the last pair.

    Raises:
        UserError: the folder belongs to another cohort, another process writes it, or the disk is
            full.
    """
    ledger = Ledger(Path(folder).expanduser())
    number, of = shard
    own = share = share_of(pairs, number, of)
    if only is not None:
        unknown = sorted(set(only) - {pair.name for pair in pairs})
        if unknown:
            raise DataError(f"The cohort has no pair '{unknown[0]}'; correct its name.")
        own = [pair for pair in own if pair.name in only]
    ledger.begin(pairs, _settings(registrar, refine, files), otherwise=only is not None)
    table, names = (
        (RESULTS, ledger.pairs())
        if of == 1
        else (f"results-{number}-of-{of}.csv", [pair.name for pair in share])
    )
    run = _Run(
        registrar,
        ledger,
        refine,
        {"inverse": inverse, "report": report, "files": files},
        again=only is not None,
    )
    with one_writer(ledger.folder / ".shards" / f"{number}-of-{of}"):
        try:
            with closing(run.through(own)) as told_after_each:
                for told in told_after_each:
                    if progress is not None:
                        progress(told)
                    if (told.done + told.failed) % TRIM == 0:
                        give_memory_back()
                    if run.table_is_due():
                        ledger.write_results(names, table)
        finally:
            ledger.write_results(names, table)
    return run.told(len(own))


def _settings(
    registrar: AnyRegistrar, refine: int | None, files: Collection[str]
) -> dict[str, Any]:
    members = registrar.members
    described = [
        {**member.settings, "start": member.start, "weights": _digest(member.settings.get("model"))}
        for member in members
    ]
    augmented = [
        any(isinstance(step, Predict) and step.variant for step in member.steps)
        for member in members
    ]
    return {
        **(described[0] if len(members) == 1 else {"members": described, "augmented": augmented}),
        "refine": refine,
        "files": [*files],
    }


def _digest(model: Any) -> str | None:
    path = Path(str(model))
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16] if model and path.is_file() else None


class _Run:
    """Pipeline of pairs: threads read ahead and write; the calling thread registers."""

    def __init__(
        self,
        registrar: AnyRegistrar,
        ledger: Ledger,
        refine: int | None,
        save: Mapping[str, Any],
        again: bool,
    ) -> None:
        self.registrar, self.ledger, self.refine, self.save, self.again = (
            registrar,
            ledger,
            refine,
            save,
            again,
        )
        self.done = self.failed = self.earlier = 0
        bounded = any(member.memory is not None for member in registrar.members)
        self.ahead, self.behind = (
            (1, 0) if bounded else (AT_ONCE, AT_ONCE)
        )  # one pair at a time if memory is limited
        self.flying: dict[str, int] = {}
        self.started = self.tabled = time.monotonic()

    def told(self, total: int) -> Progress:
        return Progress(
            self.done, self.failed, total, self.earlier, time.monotonic() - self.started
        )

    def table_is_due(self) -> bool:
        due = time.monotonic() - self.tabled > EVERY
        if due:
            self.tabled = time.monotonic()
        return due

    def through(self, pairs: Sequence[CohortPair]) -> Generator[Progress, None, None]:
        """Register the remaining pairs; yields the progress after each."""
        left = list(pairs)
        if not self.again:
            left = [pair for pair in pairs if not self.ledger.done(pair.name)]
            for name in {pair.name for pair in pairs} - {pair.name for pair in left}:
                self.ledger.note_begun(
                    name, 0
                )  # left by a process killed right after writing the pair
        self.earlier = len(pairs) - len(left)
        begun = {pair.name: self.ledger.begun(pair.name) for pair in left}
        queue = deque(
            sorted(left, key=lambda pair: begun[pair.name])
        )  # last: pairs that may have ended a process
        ahead: deque[tuple[CohortPair, Future[Inputs]]] = deque()
        behind: deque[tuple[CohortPair, Future[None]]] = deque()
        with ThreadPoolExecutor(AT_ONCE) as readers, ThreadPoolExecutor(AT_ONCE) as writers:
            try:
                while queue or ahead:
                    while queue and len(ahead) < self.ahead:
                        pair = queue.popleft()
                        ahead.append((pair, readers.submit(_read, pair)))
                    pair, reading = ahead.popleft()
                    if begun[pair.name] >= 2 and not self.again:
                        self._note(pair, DataError(ENDED))
                        self.ledger.note_begun(pair.name, begun[pair.name])
                    else:
                        self.flying[pair.name] = begun[pair.name]
                        self.ledger.note_begun(pair.name, begun[pair.name] + 1)
                        try:
                            result = self.registrar.register_inputs(
                                reading.result(), refine=self.refine
                            )
                        except Exception as error:
                            self._note(pair, error)
                        else:
                            behind.append((pair, writers.submit(self._write, pair, result)))
                            del result
                    yield self.told(len(pairs))
                    while len(behind) > self.behind or (behind and behind[0][1].done()):
                        self._finish(*behind.popleft())
                while behind:
                    self._finish(*behind.popleft())
                    yield self.told(len(pairs))
            except BaseException:  # interrupted, or the disk is full: no pair is to blame
                for name, times in self.flying.items():
                    self.ledger.note_begun(name, times)
                raise

    def _write(self, pair: CohortPair, result: Result) -> None:
        result.save(self.ledger.place(pair.name), overwrite=self.again, **self.save)

    def _finish(self, pair: CohortPair, writing: Future[None]) -> None:
        error = writing.exception()
        if error is None or (
            isinstance(error, DataError) and not self.again and self.ledger.done(pair.name)
        ):  # another process was faster
            self.ledger.succeed(pair.name)
            self.flying.pop(pair.name, None)
            self.done += 1
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
        self.ledger.fail(
            pair.name, in_words(error), "" if known else "".join(traceback.format_exception(error))
        )
        self.flying.pop(pair.name, None)
        self.failed += 1


def _read(pair: CohortPair) -> Inputs:
    inputs = Inputs.read(pair.opened(), pair.name)
    return replace(inputs, paths={**pair.described(), **inputs.paths})


def _disk_is_full(error: BaseException | None) -> bool:
    while error is not None:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        error = error.__cause__
    return False
