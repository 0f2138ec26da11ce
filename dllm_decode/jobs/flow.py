"""Rows of several shards on their way through one pool at a time.

A shard that ends leaves places free before its last row is done; the next shard's rows take them, so that only the
end of a job runs on few rows.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from dllm_decode.engine.pool import Feed, Pool, alike
from dllm_decode.engine.request import Outcome, Request
from dllm_decode.interface.model import DenoisingModel

OPEN = 2  #: shards under way at a time
ROUND = 32  #: places are made for lengths rounded up to a multiple, so that a somewhat longer row needs no new ones

#: The next shard's number and its rows by line (or what a line failed with), or ``None`` = there is none now.
Source = Callable[[], "tuple[int, Sequence[list[Request] | Exception]] | None"]


@dataclass(eq=False)
class Group:
    """A shard under way.

    Attributes:
        number: of the shard. ``rows``: by line, or what the line failed with. ``missing``: rows that have not ended.
        outcomes: by identity of the request.
    """

    number: int
    rows: Sequence[list[Request] | Exception]
    missing: int
    outcomes: dict[int, Outcome] = field(default_factory=dict)


class Flow:
    """Decodes shards; each row gets what it would get alone, so that no answer depends on who shares a pool."""

    def __init__(self, model: DenoisingModel, places: int, source: Source) -> None:
        """``places``: rows decoded together; ``source`` is asked for a shard when places would stay free."""
        self._model, self._places, self._source = model, places, source
        self._open: list[Group] = []
        self._of: dict[int, Group] = {}
        self._pool: Pool | None = None
        self._ready: deque[Request] = deque()  # rows that suit the pool
        self._later: list[deque[Request]] = []  # the others, one queue per kind

    def finished(self) -> Iterator[Group]:
        """Shards as they end, until the source has no more."""
        while self._later or self._take():
            if self._later:
                while len(self._later[0]) < self._places and self._take():
                    pass
                self._ready = self._later.pop(0)
                self._pool = self._pool_for(self._ready)
                for outcomes in Feed(self._pool, self._more).ticks():
                    for outcome in outcomes:
                        group = self._of.pop(id(outcome.request))
                        group.outcomes[id(outcome.request)] = outcome
                        group.missing -= 1
                    yield from self._ended()
                self._pool = None
            yield from self._ended()

    def _ended(self) -> Iterator[Group]:
        ended = [group for group in self._open if not group.missing]
        self._open = [group for group in self._open if group.missing]
        yield from ended

    def _more(self, count: int) -> list[Request]:
        """Up to so many rows for the pool's free places."""
        while len(self._ready) < count and self._take():
            pass
        return [self._ready.popleft() for _ in range(min(count, len(self._ready)))]

    def _take(self) -> bool:
        """Get another shard, if there may be one more; whether there was one."""
        taken = self._source() if len(self._open) < OPEN else None
        if taken is None:
            return False
        requests = [request for made in taken[1] if isinstance(made, list) for request in made]
        group = Group(*taken, missing=len(requests))
        self._open.append(group)
        for request in requests:
            self._of[id(request)] = group
            if self._pool is not None and self._pool.suits(request):
                self._ready.append(request)
                continue
            queue = next((queue for queue in self._later if alike(queue[0], request)), None)
            self._later.append(deque([request])) if queue is None else queue.append(request)
        return True

    def _pool_for(self, requests: Sequence[Request]) -> Pool:
        longest, cells = max(len(r.ids) for r in requests), max(r.cells for r in requests)
        slots = -(-longest // ROUND) * ROUND
        if self._model.max_length is not None:
            slots = max(longest, min(slots, self._model.max_length))
        cells = min(slots, -(-cells // ROUND) * ROUND)
        return Pool(self._model, requests[0], min(self._places, len(requests)), slots, cells, isolate=True)
