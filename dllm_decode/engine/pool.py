"""A pool of places: rows join and leave a running batch between its steps.

A row gets what it would get alone, whoever stands beside it and whenever its steps come.  So who is forwarded when is
free to choose: each tick forwards all rows inside a block, and of the rows whose next forward opens one (which costs
a whole row) the longest waiting, up to a budget of tokens.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from dllm_decode.config import GenerationConfig
from dllm_decode.engine.cost import is_out_of_memory
from dllm_decode.engine.deltas import settled_cells
from dllm_decode.engine.events import StepEvent
from dllm_decode.engine.loop import Batch
from dllm_decode.engine.request import Outcome, Request
from dllm_decode.errors import DllmError
from dllm_decode.interface.model import DenoisingModel


class EngineDead(DllmError):
    """The device is in a state in which nothing can be computed any more."""


def shared_settings(config: GenerationConfig) -> dict[str, Any]:
    """What the rows of a pool have in common: a config without its length and seed, which are each row's own."""
    return {**vars(config), "max_new_tokens": 1, "seed": 0}


def alike(one: Request, other: Request) -> bool:
    """Whether one pool takes both: same policy, cache and config, but for length and seed."""
    return (
        one.cache == other.cache
        and shared_settings(one.config) == shared_settings(other.config)
        and one.policy == other.policy
    )


def kinds(requests: Iterable[Request]) -> list[list[Request]]:
    """Requests parted by the pool that takes them, in their order."""
    found: list[list[Request]] = []
    for request in requests:
        kind = next((kind for kind in found if alike(kind[0], request)), None)
        found.append([request]) if kind is None else kind.append(request)
    return found


class Pool:
    """Rows of one policy, cache and config at fixed places.

    Attributes:
        batch: what stands at the places. ``like``: a request of their kind.
        isolate: see the constructor.
        ticks: so far. ``memory_errors``: steps that did not fit in memory.
    """

    def __init__(
        self, model: DenoisingModel, like: Request, places: int, slots: int, cells: int, isolate: bool = False
    ) -> None:
        """Make room.

        Args:
            model: decodes.
            like: a request of the kind that is to join: same policy, cache and config (but for length and seed).
            places: rows at a time. ``slots``: tokens of the longest. ``cells``: the most that are decoded.
            slots: see ``places``.
            cells: see ``places``.
            isolate: a step that fails is tried again with fewer rows until the one that fails alone is found.
        """
        self.batch = Batch(model, like.policy, like.config, like.cache, places, slots, cells)
        self.like, self.isolate = like, isolate
        self.ticks = self.memory_errors = 0
        self._due = [0] * places  # tick at which each row's next forward fell due
        self._joined = [0.0] * places

    @property
    def requests(self) -> list[Request | None]:
        """Who stands where."""
        return self.batch.requests

    @property
    def free(self) -> list[int]:
        """Places where nobody stands."""
        return [place for place, request in enumerate(self.requests) if request is None]

    @property
    def busy(self) -> bool:
        """Whether a row is live."""
        return any(request is not None for request in self.requests)

    @property
    def spent(self) -> Counter[str]:
        """Forwards, tokens and commits so far: ``forwards_opening``, ``forwards_block``, ``tokens_opening``, ..."""
        return self.batch.spent

    def suits(self, request: Request) -> bool:
        """Whether the request is of this pool's kind and size."""
        return (
            len(request.ids) <= self.batch.slots
            and request.cells + self.batch.tail(request) <= self.batch.width
            and alike(self.like, request)
        )

    def join(self, requests: Sequence[Request]) -> list[int]:
        """Give requests places; their first forward comes with the next tick.

        Raises:
            DllmError: more requests than free places, or one that does not suit the pool.
        """
        free = self.free
        if len(requests) > len(free):
            raise DllmError(f"{len(requests)} requests cannot join: {len(free)} places are free; wait for some.")
        for request in requests:
            if not self.suits(request):
                raise DllmError(
                    f"a request of {len(request.ids)} tokens does not suit this pool of {self.batch.slots} slots and "
                    f"{self.batch.width} cells, or is of another policy, cache or config; give it a pool of its own."
                )
        if not requests:
            return []
        places = free[: len(requests)]
        self.batch.put(places, requests)
        for place in places:
            self._due[place], self._joined[place] = self.ticks, time.perf_counter()
        return places

    def leave(self, place: int, error: Exception | None = None) -> Outcome:
        """Take a row away before it has ended (``error``: why); its place is free at once."""
        return self._collect(place, error)

    def tick(self, budget: int | None = None, alone: bool = True) -> list[Outcome]:
        """Forward the rows that are due, once each at most.

        Args:
            budget: tokens that openings may take together (a first one always may); without a cache every forward
                covers the row as an opening does. ``None`` = no limit.
            alone: no other pool and no new row comes between this tick and the next.

        Returns:
            What became of the rows that ended now. Their callbacks have been called.

        Raises:
            EngineDead: nothing works any more.
            Exception: what a step raised, unless the pool isolates; no row of that step has moved.
        """
        self.ticks += 1
        groups, waiting = self._groups(budget)
        done: list[Outcome] = []
        for ids in groups:
            events = self._advance(ids, alone and not waiting and len(groups) == 1, done)
            for place, event in events.items():
                request = self.requests[place]
                if request is not None and request.on_step is not None:
                    request.on_step(event)
            alive, steps = self.batch.rows.live.tolist(), self.batch.rows.block_step.tolist()
            for place in ids.tolist():
                if self.requests[place] is None:
                    continue
                if not alive[place]:
                    done.append(self._collect(place))
                elif self.batch.forwarder.cache is None or steps[place] <= 0:
                    self._due[place] = self.ticks
        for outcome in done:
            if outcome.request.on_done is not None:
                outcome.request.on_done(outcome)
        return done

    def close(self) -> None:
        """No tick will follow for now: a step that was begun ahead is thrown away."""
        self.batch.forwarder.step.close()

    def _groups(self, budget: int | None) -> tuple[list[Tensor], bool]:
        """Places to step now, one group per kind of forward, and whether others must wait."""
        rows, forwarder = self.batch.rows, self.batch.forwarder
        steps = rows.block_step.tolist()
        live = [place for place, alive in enumerate(rows.live.tolist()) if alive]
        costly = [place for place in live if forwarder.cache is None or steps[place] <= 0]
        waiting = False
        if budget is not None and costly:
            first, last = forwarder.reach.opening_span(rows)
            sizes = ((last - first) * (2 if forwarder.guided else 1)).tolist()
            late: set[int] = set()
            turns = sorted(costly, key=lambda place: self._due[place])
            for number, place in enumerate(turns):
                budget -= sizes[place]
                if number and budget < 0:
                    late, waiting = set(turns[number:]), True
                    break
            live = [place for place in live if place not in late]
        if forwarder.cache is None and not {"query", "block_length"} <= set(self.batch.policy.roles):
            # without a cache every other forward is the full row
            groups = [[p for p in live if steps[p] < 0], [p for p in live if steps[p] >= 0]]
        else:
            full = forwarder.reach.is_full(rows)
            groups = [
                [p for p in live if full[p]],
                [p for p in live if steps[p] == 0 and not full[p]],
                [p for p in live if steps[p] < 0],
                [p for p in live if steps[p] > 0],
            ]
        return [torch.tensor(ids, device=rows.live.device) for ids in groups if ids], waiting

    def _advance(self, ids: Tensor, alone: bool, done: list[Outcome]) -> dict[int, StepEvent]:
        """Step some rows; in an isolating pool, halve what fails down to the rows that fail alone."""
        if not self.isolate:
            return self.batch.step(ids, alone)
        places = ids.tolist()
        sources = [g for g in (self.batch.generators[place] for place in places) if g is not None]
        states = [source.get_state() for source in sources]
        try:
            return self.batch.step(ids, alone)
        except Exception as error:
            for source, state in zip(sources, states, strict=True):
                source.set_state(state)
            self.close()
            self.memory_errors += is_out_of_memory(error)
            if "CUDA error" in str(error) and not is_out_of_memory(error):
                raise EngineDead(f"the device does not answer any more ({str(error)[:200]}); restart.") from error
            if len(places) == 1:
                done.append(self._collect(places[0], error))
                return {}
        half = len(places) // 2
        return {**self._advance(ids[:half], False, done), **self._advance(ids[half:], False, done)}

    def _collect(self, place: int, error: Exception | None = None) -> Outcome:
        """The outcome of a row as it stands, whose place becomes free."""
        batch, request = self.batch, self.requests[place]
        assert request is not None
        one = batch.rows.select(torch.tensor([place], device=batch.rows.slots.device))
        view = one.view(batch.width, batch.model.mask_id, batch.model.eos_ids, ())
        settled = int(settled_cells(view)[0])
        if batch.policy.revises and bool(one.live[0]):
            settled = min(settled, int(one.start[0]))
        length, asked = int(one.length[0]), int(one.budget[0])
        tokens = view.tokens[0, : min(length, asked)].tolist()
        outcome = Outcome(
            request=request,
            tokens=tokens,
            given=[token != view.mask_id for token in request.ids[request.offset :][: len(tokens)]],
            nfe=int(one.step[0]),
            full_forwards=int(one.full_forwards[0]),
            rows_forwarded=int(one.rows_forwarded[0]),
            tokens_forwarded=int(one.tokens_forwarded[0]),
            settled=settled,
            extra=max(length - asked, 0),
            trace=batch.traces[place],
            error=error,
            seconds=time.perf_counter() - self._joined[place],
        )
        batch.clear(place)
        return outcome


@dataclass
class Feed:
    """Requests on their way through one pool, which they join as places free up.

    Attributes:
        pool: where they are decoded. ``more``: gives up to so many requests of the pool's kind; fewer = no more now.
    """

    pool: Pool
    more: Callable[[int], Sequence[Request]]

    @classmethod
    def of(cls, model: DenoisingModel, requests: Sequence[Request], places: int, isolate: bool = False) -> Feed:
        """A pool that is just wide enough for these requests (at least one), and the requests."""
        slots = max(len(request.ids) for request in requests)
        cells = max(request.cells for request in requests)
        pool = Pool(model, requests[0], min(places, len(requests)), slots, cells, isolate)
        waiting = iter(requests)
        return cls(pool, lambda count: list(islice(waiting, count)))

    def ticks(self) -> Iterator[list[Outcome]]:
        """Tick until everybody is served; yields what ended in each tick."""
        try:
            while True:
                self.pool.join(self.more(len(self.pool.free)))
                if not self.pool.busy:
                    return
                yield self.pool.tick()
        finally:
            self.pool.close()

    def outcomes(self) -> Iterator[Outcome]:
        """All outcomes, in the order in which rows end."""
        for ended in self.ticks():
            yield from ended
