"""Who decodes a comparison's batches: this process, or several others, each with a model and threads of its own.

A batch decodes to the same records wherever that happens, as long as the number of threads per process is the same.
"""

from __future__ import annotations

import multiprocessing
import multiprocessing.connection
import os
import pickle
import signal
import threading
import traceback
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.multiprocessing

from dllm_decode.config import GenerationConfig
from dllm_decode.engine.sampler import DiffusionSampler
from dllm_decode.errors import DllmError
from dllm_decode.interface.model import DenoisingModel
from dllm_decode.lab.points import STATIC
from dllm_decode.lab.problems import is_oracle, make_oracle
from dllm_decode.lab.records import Record, facts
from samplers import Policy, PolicyError
from samplers.egp import EGP

AHEAD = 4  # batches per process that may be under way: none idles while a long one is waited for
GRACE = 1.0  # seconds for a process to end by itself


@dataclass(frozen=True)
class Job:
    """One batch; holds nothing that another process could not read.

    Attributes:
        task, cache, policy: as in its records.
        seed: of the rows' random numbers. ``ties``: of an oracle's. ``canvas``: cells to decode.
        places: each row's place in the comparison, see :mod:`~dllm_decode.engine.randomness`.
        prompts: texts; empty ones for an oracle, which has none.
        reference: per row what EGP aims at; ``None`` for any other policy.
    """

    task: str
    cache: str
    policy: str
    seed: int
    ties: int
    canvas: int
    places: tuple[int, ...]
    prompts: tuple[str, ...]
    reference: tuple[tuple[int, ...], ...] | None = None


Decoded = list[tuple[str, Record]]  #: per row the answer and what :func:`~dllm_decode.lab.records.facts` says


def model_of(model: DenoisingModel | None, task: str, seed: int) -> DenoisingModel:
    """The model of a task. Oracles break ties at random: a fresh one per batch, so that a resumed run agrees."""
    if is_oracle(task):
        return make_oracle(task, seed)
    assert model is not None
    return model


def prompt_of(task: str, prompt: str) -> Any:
    """What the sampler is given; an oracle reads no prompt, but a row needs one."""
    return [0] if is_oracle(task) else prompt


class Decoder:
    """Decodes jobs in this process.

    Args:
        model: of the bundled tasks; ``None`` if there are only oracles.
        config: what all jobs share.
    """

    ahead = 0

    def __init__(self, model: DenoisingModel | None, config: GenerationConfig) -> None:
        self.model, self.config, self.warm = model, config, False
        self._jobs: dict[int, Job] = {}
        self._tickets = 0

    def decode(self, job: Job) -> Decoded:
        """Decode one batch."""
        if not self.warm:  # so that the first batch's wall time is like the others'
            self.warm = True
            short = job.canvas if is_oracle(job.task) else min(2, job.canvas)
            self._sampler(job, STATIC.policy, "none").generate(self._prompts(job)[:1], max_new_tokens=short)
        policy = job.policy if job.reference is None else EGP(job.reference)
        sampler = self._sampler(job, policy, job.cache)
        result = sampler.generate(self._prompts(job), places=job.places)
        texts = result.texts or [" ".join(map(str, tokens)) for tokens in result.sequences]
        return [(text, facts(result, row, sampler.model.eos_ids)) for row, text in enumerate(texts)]

    def _sampler(self, job: Job, policy: Policy | str, cache: str) -> DiffusionSampler:
        config = self.config.replace(max_new_tokens=job.canvas, seed=job.seed)
        return DiffusionSampler(model_of(self.model, job.task, job.ties), policy, cache, config)

    @staticmethod
    def _prompts(job: Job) -> list[Any]:
        return [prompt_of(job.task, prompt) for prompt in job.prompts]

    def submit(self, job: Job) -> int:
        """Take a job; the ticket is for :meth:`result`."""
        ticket, self._tickets = self._tickets, self._tickets + 1
        self._jobs[ticket] = job
        return ticket

    def result(self, ticket: int) -> Decoded:
        """Decode it now."""
        return self.decode(self._jobs.pop(ticket))


@dataclass(frozen=True)
class Failure:
    """What went wrong in another process."""

    error: Exception | None
    text: str


class Crew:
    """Decodes jobs in other processes, which are started as they are needed.

    They end with this process, however it ends: each waits at a pipe whose other end is here.

    Args:
        processes: at most.
        threads: of each.
        model: sent to each; its weights are shared.
        config: what all jobs share.
    """

    def __init__(self, processes: int, threads: int, model: DenoisingModel | None, config: GenerationConfig) -> None:
        self.ahead = AHEAD * processes
        self._most, self._arguments = processes, (threads, model, config)
        self._context = torch.multiprocessing.get_context("spawn")
        self._processes: list[Any] = []
        self._connections: list[Any] = []
        self._idle: list[Any] = []
        self._waiting: deque[tuple[int, Job]] = deque()
        self._done: dict[int, Decoded] = {}
        self._tickets = 0

    def submit(self, job: Job) -> int:
        """Hand a job to the next idle process; the ticket is for :meth:`result`."""
        ticket, self._tickets = self._tickets, self._tickets + 1
        self._waiting.append((ticket, job))
        if not self._idle and len(self._processes) < self._most:
            self._start()
        self._deal()
        return ticket

    def result(self, ticket: int) -> Decoded:
        """Wait for a job.

        Raises:
            DllmError: a process died.
            RuntimeError: a job failed in a way that is not the user's doing; holds the traceback.
        """
        while ticket not in self._done:
            busy = [connection for connection in self._connections if connection not in self._idle]
            for connection in multiprocessing.connection.wait(busy):
                self._receive(connection)
            self._deal()
        return self._done.pop(ticket)

    def _start(self) -> None:
        here, there = self._context.Pipe()
        process = self._context.Process(target=_serve, args=(there, *self._arguments), daemon=True)
        try:
            process.start()
        except (pickle.PicklingError, AttributeError, TypeError) as error:
            model = self._arguments[1]
            name = None if model is None else model.name
            raise DllmError(f"model {name!r} cannot be sent to other processes ({error}); use one process.") from error
        there.close()
        self._processes.append(process)
        self._connections.append(here)
        self._idle.append(here)

    def _deal(self) -> None:
        while self._idle and self._waiting:
            connection, job = self._idle.pop(), self._waiting.popleft()
            with _deaths_told():
                connection.send(job)

    def _receive(self, connection: Any) -> None:
        with _deaths_told():
            ticket, answer = connection.recv()
        if isinstance(answer, Failure):
            raise answer.error or RuntimeError(answer.text)
        self._done[ticket] = answer
        self._idle.append(connection)

    def close(self, at_once: bool) -> None:
        """End the processes; ``at_once``: without waiting for what they are doing."""
        for connection in self._connections:
            connection.close()
        for process in self._processes:
            if at_once:
                process.terminate()
            process.join(GRACE)
            if process.is_alive():
                process.kill()
                process.join()


@contextmanager
def _deaths_told() -> Iterator[None]:
    try:
        yield
    except (EOFError, ConnectionError) as error:
        raise DllmError(
            "a process that decoded for this run died, perhaps for want of memory; run it again with fewer processes "
            "or smaller batches, and it goes on where it stopped."
        ) from error


def _serve(connection: Any, threads: int, model: DenoisingModel | None, config: GenerationConfig) -> None:
    """Decode what comes through the pipe until it is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the process at the other end decides when to stop
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(threads)
    decoder = Decoder(model, config)
    try:
        while True:
            ticket, job = connection.recv()
            connection.send((ticket, _attempt(decoder.decode, job)))
    except (EOFError, ConnectionError):
        return


def _end_with_parent() -> None:
    """However the other end dies, this process does not decode on: within a batch nobody looks at the pipe."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)


def _attempt(decode: Callable[[Job], Decoded], job: Job) -> Decoded | Failure:
    try:
        return decode(job)
    except Exception as error:  # noqa: BLE001 - it is raised again at the other end
        told = error if isinstance(error, (DllmError, PolicyError)) else None
        return Failure(told, f"decoding {job.task} with {job.policy} failed:\n{traceback.format_exc()}")


@contextmanager
def decoders(
    processes: int, threads: int, model: DenoisingModel | None, config: GenerationConfig
) -> Iterator[Decoder | Crew]:
    """What decodes: this process if there is to be one, with so many threads for the time being; else a crew."""
    if processes == 1:
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        try:
            yield Decoder(model, config)
        finally:
            torch.set_num_threads(before)
        return
    crew = Crew(processes, threads, model, config)
    try:
        yield crew
    except BaseException:
        crew.close(at_once=True)
        raise
    crew.close(at_once=False)
