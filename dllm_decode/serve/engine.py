"""The thread that owns the model: takes what comes through its inbox, ticks the scheduler, tells who listens."""

from __future__ import annotations

import logging
import math
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import TypeVar

from dllm_decode.engine.pool import EngineDead
from dllm_decode.engine.request import Outcome, Request
from dllm_decode.engine.scheduler import Limits, QueueFull, Scheduler, Ticket
from dllm_decode.interface.model import DenoisingModel

log = logging.getLogger(__name__)
T = TypeVar("T")
TICK = Callable[[float], None]


class Engine:
    """Runs a scheduler in a thread of its own; every other method may be called from any thread.

    Attributes:
        state: ``"loading"``, ``"ready"`` or ``"dead"``. ``why``: what it died of.
        model, scheduler: once it is ready.
    """

    def __init__(
        self, load: Callable[[], tuple[DenoisingModel, Limits]], on_tick: TICK | None = None, patience: float = 0.5
    ) -> None:
        """Call :meth:`start` to load the model; ``patience``: seconds between looks at the clock."""
        self.state, self.why = "loading", ""
        self.model: DenoisingModel | None = None
        self.scheduler: Scheduler | None = None
        self._load, self._on_tick, self._patience = load, on_tick, patience
        self._inbox: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._ends: deque[float] = deque(maxlen=64)
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._down = threading.Lock()

    def start(self) -> None:
        """Begin to load."""
        self._thread.start()

    def stop(self, timeout: float = 5.0) -> None:
        """End the thread after its tick."""
        self._inbox.put(None)
        if self._thread.is_alive():
            self._thread.join(timeout)

    def call(self, task: Callable[[Scheduler], T]) -> Future[T]:
        """Have something done between two ticks."""
        future: Future[T] = Future()

        def run() -> None:
            if self.scheduler is None or self.state == "dead":
                future.set_exception(EngineDead(self.why or "the engine is not there."))
                return
            try:
                future.set_result(task(self.scheduler))
            except Exception as error:
                future.set_exception(error)

        with self._down:
            if self.state == "dead":
                future.set_exception(EngineDead(self.why))
            else:
                self._inbox.put(run)
        return future

    def submit(self, requests: Sequence[Request], timeout: float | None = None) -> Future[list[Ticket]]:
        """Take requests, all or none; ``timeout``: seconds they may take from now."""

        def take(scheduler: Scheduler) -> list[Ticket]:
            room = scheduler.limits.queue - scheduler.waiting
            if len(requests) > room:
                raise QueueFull(
                    f"{scheduler.waiting} requests wait already and {len(requests)} more are too many for a queue of "
                    f"{scheduler.limits.queue}; try again later."
                )
            deadline = None if timeout is None else scheduler.clock() + timeout
            tickets: list[Ticket] = []
            try:
                for request in requests:
                    tickets.append(scheduler.submit(request, deadline))
            except Exception:
                for ticket in tickets:
                    scheduler.cancel(ticket)
                raise
            return tickets

        return self.call(take)

    def cancel(self, tickets: Sequence[Ticket]) -> None:
        """Forget requests, at the next tick."""

        def forget(scheduler: Scheduler) -> None:
            for ticket in tickets:
                scheduler.cancel(ticket)

        self.call(forget)

    def fail_all(self, error: Exception) -> Future[None]:
        """End every request with an error."""
        return self.call(lambda scheduler: self._fail_all(error))

    @property
    def retry_after(self) -> int:
        """Seconds after which a place in the queue is likely, from the recent rate."""
        scheduler, ends = self.scheduler, list(self._ends)
        if scheduler is None:
            return 5
        span = time.monotonic() - ends[0] if len(ends) > 1 else 0.0
        return 1 if not span else max(1, min(60, math.ceil(scheduler.waiting / 4 * span / len(ends))))

    @property
    def busy(self) -> bool:
        """Whether anybody waits or is decoded."""
        return self.scheduler is not None and bool(self.scheduler.waiting + self.scheduler.running)

    def _run(self) -> None:
        try:
            self.model, limits = self._load()
            self.scheduler = Scheduler(self.model, limits)
            self.state = "ready"
        except Exception as error:
            log.exception("the model could not be loaded")
            self._die(error)
            return
        worked = False
        while True:
            try:
                task = self._inbox.get(timeout=None if worked else self._patience, block=not worked)
                if task is None:
                    return
                task()
                worked = True
                continue
            except queue.Empty:
                pass
            try:
                began, before = time.perf_counter(), self.scheduler.running
                worked = self.scheduler.tick()
                for _ in range(max(0, before - self.scheduler.running)):
                    self._ends.append(time.monotonic())
                if worked and self._on_tick is not None:
                    self._on_tick(time.perf_counter() - began)
            except EngineDead as error:
                log.exception("the device is lost")
                self._fail_all(error)
                self._die(error)
                return
            except Exception as error:
                log.exception("a tick failed; its requests fail, the engine goes on")
                self._fail_all(error)

    def _die(self, error: Exception) -> None:
        with self._down:
            self.state, self.why = "dead", str(error)
        while True:
            try:
                task = self._inbox.get_nowait()
            except queue.Empty:
                return
            if task is not None:
                task()

    def _fail_all(self, error: Exception) -> None:
        assert self.scheduler is not None
        for ticket in list(self.scheduler.tickets()):
            self.scheduler.cancel(ticket)
            if ticket.request.on_done is not None:
                ticket.request.on_done(Outcome(ticket.request, [], [], 0, 0, 0, 0, 0, error=error))
