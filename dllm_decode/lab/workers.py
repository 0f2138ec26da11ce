"""Several processes that decode a comparison through a folder beside its records.

Each claims shares, decodes them and leaves their records as parts; nobody waits for one that has died.  A share
decodes to the same records wherever that happens, as long as the number of threads per process is the same.
"""

from __future__ import annotations

import multiprocessing
import multiprocessing.connection
import os
import pickle
import shutil
import signal
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.multiprocessing

from dllm_decode.errors import DllmError
from dllm_decode.files import write_whole
from dllm_decode.interface.model import DenoisingModel
from dllm_decode.jobs.claims import Shards, each, worker_name
from dllm_decode.lab.records import Record, line_of, parse, read_records
from dllm_decode.lab.setting import Comparison
from dllm_decode.lab.share import Decoder, Share, aims_of
from samplers import PolicyError

GRACE = 1.0  # seconds for a process to end by itself
POLL = 0.05  # seconds between looks at the folder
FOLDER, FAILED = "work", "failed"


class Work(Protocol):
    """What is to be decoded, as the runner has it."""

    comparison: Comparison
    model: DenoisingModel | None

    def shares(self) -> Iterator[Share]:
        """All shares in canonical order."""


@dataclass(frozen=True)
class Failure:
    """What went wrong in another process."""

    error: Exception | None
    text: str


class Crew:
    """Other processes at work on a comparison. They end with this one, however it ends.

    Args:
        runner: what is to be decoded; its model is sent to each process, with shared weights.
        folder: of the comparison.
        done: numbers of the shares that are on record.
        processes: how many. ``threads``: of each.
        threads: see there.
    """

    def __init__(self, runner: Work, folder: Path, done: frozenset[int], processes: int, threads: int) -> None:
        self.shards = shards_of(runner, folder)
        self.shards.make()
        (self.shards.path / FAILED).unlink(missing_ok=True)
        context = torch.multiprocessing.get_context("spawn")
        self.processes: list[Any] = []
        for _ in range(min(processes, self.shards.count - len(done))):
            process = context.Process(target=_serve, args=(runner, folder, done, threads), daemon=True)
            try:
                process.start()
            except (pickle.PicklingError, AttributeError, TypeError) as error:
                self.close(at_once=True)
                name = None if runner.model is None else runner.model.name
                raise DllmError(
                    f"model {name!r} cannot be sent to other processes ({error}); use one process."
                ) from error
            self.processes.append(process)

    def decode(self, number: int) -> list[Record]:
        """Wait for a share.

        Raises:
            DllmError: every process died, or one met what the user can mend.
            RuntimeError: one failed in another way; holds the traceback.
        """
        part = self.shards.part(number)
        while not part.exists():
            self._raise_failure()
            alive = [process.sentinel for process in self.processes if process.is_alive()]
            if not alive and not part.exists():
                self._raise_failure()
                raise DllmError(
                    "the processes that decoded for this run died, perhaps for want of memory; run it again with "
                    "fewer processes or smaller batches, and it goes on where it stopped."
                )
            multiprocessing.connection.wait(alive, POLL)
        return parse(part.read_bytes(), part)[1]

    def _raise_failure(self) -> None:
        with suppress(FileNotFoundError):
            found: Failure = pickle.loads((self.shards.path / FAILED).read_bytes())
            raise found.error or RuntimeError(found.text)

    def close(self, at_once: bool) -> None:
        """End the processes; ``at_once``: without waiting for what they are doing."""
        for process in self.processes:
            if at_once:
                process.terminate()
            process.join(GRACE)
            if process.is_alive():
                process.kill()
                process.join()


def shards_of(runner: Work, folder: Path) -> Shards:
    """The shares of a comparison as work in its folder."""
    return Shards(folder / FOLDER, sum(1 for _ in runner.shares()), poll=POLL)


@dataclass
class Worker:
    """One of the processes.

    Attributes:
        shards, shares: the work, and what its numbers mean. ``records``: those of this run that are known, by key.
        decoder: decodes. ``name``: of the process.
    """

    shards: Shards
    shares: list[Share]
    records: dict[str, Record]
    decoder: Decoder
    name: str

    def run(self, wanted: set[int]) -> None:
        """Do shares until all of these are finished."""
        for _ in self.shards.work(self.name, each(self._one), wanted):
            pass

    def _one(self, number: int) -> None:
        share = self.shares[number]
        try:
            aims = aims_of(share, self.records)
        except KeyError:  # static decoding of the same problems is another share: finished, or done now
            static = next(i for i, other in enumerate(self.shares) if other.keys == share.static.keys)
            self.run({static})
            part = self.shards.part(static)
            self.records.update((record["key"], record) for record in parse(part.read_bytes(), part)[1])
            aims = aims_of(share, self.records)
        try:
            found = self.decoder.decode(share, aims)
        except Exception as error:
            told = error if isinstance(error, (DllmError, PolicyError)) else None
            text = f"decoding {share.task} with {share.point.policy} failed:\n{traceback.format_exc()}"
            write_whole(self.shards.path / FAILED, pickle.dumps(Failure(told, text)))
            raise SystemExit(1) from error
        self.shards.finish(number, map(line_of, found))


def _serve(runner: Work, folder: Path, done: frozenset[int], threads: int) -> None:
    """What a process does."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the process that started this one decides when to stop
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    threading.Thread(target=end_with_parent, daemon=True).start()
    torch.set_num_threads(threads)
    plan, shards = runner.comparison, shards_of(runner, folder)
    records = {record["key"]: record for record in read_records(folder)} if done else {}
    decoder = Decoder(runner.model, plan.config, plan.batch_size)
    Worker(shards, list(runner.shares()), records, decoder, worker_name()).run(set(range(shards.count)) - done)


def end_with_parent() -> None:
    """However the other end dies, this process does not go on."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)


@contextmanager
def crew(runner: Work, folder: Path, done: frozenset[int], processes: int, threads: int) -> Iterator[Crew]:
    """Processes at work; what they leave in the folder goes when all of it is on record."""
    found = Crew(runner, folder, done, processes, threads)
    try:
        yield found
    except BaseException:
        found.close(at_once=True)
        raise
    found.close(at_once=False)
    shutil.rmtree(found.shards.path, ignore_errors=True)
