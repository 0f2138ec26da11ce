"""Many requests over one model: a pool per setting, and one rule for who comes next.

One thread owns the model and calls :meth:`Scheduler.tick`.  Each tick admits who waits while places, pools and memory
last, in the order in which they came, and then gives one pool a tick: the one that has forwarded the fewest tokens
since it became busy (deficit round robin), so that a flood in one setting costs the others their share and no more.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from dllm_decode.engine.admission import pool_bytes
from dllm_decode.engine.lanes import Lane, Ticket, size_class
from dllm_decode.engine.pool import Pool
from dllm_decode.engine.request import Outcome, Request
from dllm_decode.errors import DllmError
from dllm_decode.interface.model import DenoisingModel

LEAST_BUDGET = 64


class QueueFull(DllmError):
    """No more requests are taken at the moment."""


class NeverFits(DllmError):
    """A request that would not fit if it were alone."""


class DeadlinePassed(DllmError):
    """A request was not done in its time."""


@dataclass(frozen=True)
class Limits:
    """What a scheduler may use.

    Attributes:
        places: rows per pool. ``pools``: at most. ``bytes``: for caches, policies' memory and work; ``None`` = any.
        queue: requests that may wait. ``queue_tokens``: tokens of their prompts.
        opening_budget: tokens that the openings of one tick may take.
        idle_seconds: after which a pool without rows gives its memory back.
    """

    places: int = 16
    pools: int = 8
    bytes: int | None = None
    queue: int = 128
    queue_tokens: int = 1 << 20
    opening_budget: int = 512
    idle_seconds: float = 60.0


class Scheduler:
    """Decides who is decoded next; all calls come from one thread.

    Attributes:
        model, limits: see the constructor. ``lanes``: settings that somebody waits in or that have a pool.
        spent: forwards, tokens and commits of all pools so far. ``budget``: of openings, halved when memory ran out.
    """

    def __init__(
        self, model: DenoisingModel, limits: Limits | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Nobody waits yet; ``clock`` gives seconds."""
        self.model, self.limits, self.clock = model, limits or Limits(), clock
        self.lanes: list[Lane] = []
        self.spent: Counter[str] = Counter()
        self.budget = self.limits.opening_budget
        self.memory_errors = 0
        self._emptied: Lane | None = None  # takes nobody in until it is empty, to make room for who waits longest

    @property
    def waiting(self) -> int:
        """Requests without a place."""
        return sum(len(lane.waiting) for lane in self.lanes)

    @property
    def running(self) -> int:
        """Requests with a place."""
        return sum(len(lane.live) for lane in self.lanes)

    @property
    def pools(self) -> list[Lane]:
        """Lanes that have a pool."""
        return [lane for lane in self.lanes if lane.pool is not None]

    @property
    def cache_bytes(self) -> int:
        """What the pools take."""
        return sum(lane.bytes for lane in self.pools)

    def submit(self, request: Request, deadline: float | None = None) -> Ticket:
        """Take a request; it is told what becomes of it by its callbacks.

        Args:
            request: from :meth:`DiffusionSampler.requests`.
            deadline: seconds of the clock after which it has failed.

        Raises:
            QueueFull: too many wait.
            NeverFits: it would not fit alone.
        """
        waiting = [ticket for lane in self.lanes for ticket in lane.waiting]
        tokens = sum(ticket.request.offset for ticket in waiting)
        full = len(waiting) >= self.limits.queue
        if full or (waiting and tokens + request.offset > self.limits.queue_tokens):
            raise QueueFull(
                f"{len(waiting)} requests of {tokens} prompt tokens wait already, and no more than "
                f"{self.limits.queue} of {self.limits.queue_tokens} may; try again later."
            )
        slots, cells = size_class(request, self.model.max_length)
        lane = self._lane_of(request, slots, cells)
        if lane is None:
            places, most = self.limits.places, self.limits.bytes
            need = pool_bytes(self.model, request, places, slots, cells, self.budget)
            if most is not None and need > most:
                raise NeverFits(
                    f"{places} rows of up to {slots} tokens under this policy and cache take {need} bytes, but {most} "
                    "are free; ask for fewer tokens, or for another policy or cache."
                )
            lane = Lane(request, slots, cells, need, idle_since=self.clock())
            self.lanes.append(lane)
        ticket = Ticket(request, self.clock(), deadline)
        lane.waiting.append(ticket)
        return ticket

    def _lane_of(self, request: Request, slots: int, cells: int) -> Lane | None:
        """Where a request waits: a busy pool with room for it and its like, else the lane of its size.

        Pools take turns, so rows of one setting that share a pool are all served in each of its turns: of its due
        openings every turn makes the oldest at least, and none waits for more turns than the pool has places.
        """
        alike = [lane for lane in self.lanes if lane.alike(request)]
        roomy = [
            lane
            for lane in alike
            if lane.room > 0 and lane is not self._emptied and lane.slots >= slots and lane.cells >= cells
        ]
        exact = (lane for lane in alike if (lane.slots, lane.cells) == (slots, cells))
        return min(roomy, key=lambda lane: (lane.slots, lane.cells), default=None) or next(exact, None)

    def cancel(self, ticket: Ticket) -> None:
        """Forget a request; its place is free at once. One that is done already is none of our business."""
        for lane in self.lanes:
            if ticket in lane.waiting:
                lane.waiting.remove(ticket)
            elif ticket.place is not None and lane.live.get(ticket.place) is ticket and lane.pool is not None:
                del lane.live[ticket.place]
                lane.pool.leave(ticket.place)
                lane.idle_since = self.clock()

    def tick(self) -> bool:
        """Admit, then give one pool a tick; whether there was anything to do.

        Raises:
            EngineDead: the device is lost.
        """
        self._expire()
        self._admit()
        busy = [lane for lane in self.pools if lane.live]
        if not busy:
            self._drop_idle()
            return False
        lane = min(busy, key=lambda lane: lane.served)
        assert lane.pool is not None
        done = lane.pool.tick(self.budget, alone=len(busy) == 1 and not self.waiting)
        gone = {id(outcome.request) for outcome in done}
        lane.live = {place: ticket for place, ticket in lane.live.items() if id(ticket.request) not in gone}
        self._count(lane)
        if lane.pool.memory_errors > lane.counted["memory_errors"]:
            lane.counted["memory_errors"] = lane.pool.memory_errors
            self.memory_errors += 1
            self.budget = max(LEAST_BUDGET, self.budget // 2)
        if not lane.live:
            lane.idle_since = self.clock()
        self._drop_idle()
        return True

    def tickets(self) -> Iterator[Ticket]:
        """Everybody, waiting or not."""
        for lane in self.lanes:
            yield from lane.waiting
            yield from lane.live.values()

    def _expire(self) -> None:
        now = self.clock()
        for lane in self.lanes:
            for ticket in [t for t in (*lane.waiting, *lane.live.values()) if t.deadline is not None]:
                if ticket.deadline is None or now < ticket.deadline:
                    continue
                error = DeadlinePassed("the deadline has passed; give it more time, or ask for fewer tokens.")
                outcome = Outcome(ticket.request, [], [], 0, 0, 0, 0, 0, error=error)
                if ticket.place is not None and lane.pool is not None:
                    del lane.live[ticket.place]
                    outcome = lane.pool.leave(ticket.place, error)
                else:
                    lane.waiting.remove(ticket)
                if ticket.request.on_done is not None:
                    ticket.request.on_done(outcome)

    def _admit(self) -> None:
        """Whoever has waited longest first; who finds no room holds up nobody in another pool."""
        for lane in sorted((lane for lane in self.lanes if lane.waiting), key=lambda lane: lane.waiting[0].came):
            if lane is self._emptied and lane.pool is not None:
                continue
            if lane.pool is None and not self._make_room(lane):
                continue
            assert lane.pool is not None
            tickets = [lane.waiting.popleft() for _ in range(min(len(lane.waiting), len(lane.pool.free)))]
            if tickets and not lane.live:  # time spent idle earns nothing
                lane.served = max(lane.served, min((other.served for other in self.pools if other.live), default=0))
            for place, ticket in zip(lane.pool.join([t.request for t in tickets]), tickets, strict=True):
                ticket.place, ticket.began = place, self.clock()
                lane.live[place] = ticket

    def _make_room(self, lane: Lane) -> bool:
        """Give a lane a pool, taking idle ones' memory; else have the emptiest other one run dry for it."""
        idle = sorted((other for other in self.pools if not other.live), key=lambda other: other.idle_since)
        while not self._fits(lane):
            if not idle:
                if self._emptied is None or self._emptied.pool is None:
                    self._emptied = min(self.pools, key=lambda other: len(other.live), default=None)
                return False
            self._drop(idle.pop(0))
        like = lane.like
        lane.pool = Pool(self.model, like, self.limits.places, lane.slots, lane.cells, isolate=True)
        lane.counted = Counter()
        return True

    def _fits(self, lane: Lane) -> bool:
        if len(self.pools) >= self.limits.pools:
            return False
        return self.limits.bytes is None or self.cache_bytes + lane.bytes <= self.limits.bytes

    def _drop(self, lane: Lane) -> None:
        """Give a pool's memory back."""
        if lane.pool is not None:
            lane.pool.close()
        lane.pool = None
        if lane is self._emptied:
            self._emptied = None
        if not lane.waiting:
            self.lanes.remove(lane)

    def _drop_idle(self) -> None:
        now = self.clock()
        for lane in list(self.lanes):
            if lane.live or lane.waiting:
                continue
            if lane.pool is None or now - lane.idle_since > self.limits.idle_seconds:
                self._drop(lane)

    def _count(self, lane: Lane) -> None:
        assert lane.pool is not None
        for name, value in lane.pool.spent.items():
            fresh = value - lane.counted[name]
            lane.counted[name] = value
            self.spent[name] += fresh
            if name.startswith("tokens_"):
                lane.served += fresh
