"""The loop's one step: the only place where canvases advance.  It knows no policy by name.

A batch has fixed places.  Rows are put there and taken away between steps; a step takes some of them, all in need of
the same kind of forward, forwards them once, and lets the policy decide.  Who steps when is the pool's affair
(``dllm_decode.engine.pool``); it changes no result, because rows know nothing of each other.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from dllm_decode.config import GenerationConfig
from dllm_decode.engine.blocks import BlockGrid
from dllm_decode.engine.canvas import Rows
from dllm_decode.engine.deltas import deltas_of, events_of
from dllm_decode.engine.events import StepEvent
from dllm_decode.engine.forward import Forwarder
from dllm_decode.engine.past import Past
from dllm_decode.engine.randomness import row_generator
from dllm_decode.engine.request import Request
from dllm_decode.engine.step import canvas_device
from dllm_decode.engine.trace import Trace, TraceStep
from dllm_decode.interface.model import DenoisingModel
from samplers import (
    Composition,
    Decision,
    PolicyError,
    Prediction,
    View,
    map_rows,
    merge_rows,
    settle,
    spell,
    validate,
)
from samplers.contract.memory import Memory, check_rows

#: Forwards beside one per cell that may bring a block no nearer to its end.
MARGIN = 32


class Batch:
    """Rows at fixed places, decoded under one policy, cache and config.

    Attributes:
        model, policy, config: what decodes. ``title``: the policy's string. ``forwarder``: the way to the model.
        grid: where the blocks of a block-causal model lie, else ``None``.
        rows: what stands at the places; a place that is free has no cells. ``memory``: the policy's, by place.
        requests, traces, generators: by place, ``None`` where it is free.
        spent: forwards and their tokens by phase, and cells committed.
        on_prediction: sees what the policy sees.
    """

    def __init__(
        self,
        model: DenoisingModel,
        policy: Composition,
        config: GenerationConfig,
        cache: str,
        places: int,
        slots: int,
        cells: int,
    ) -> None:
        """Make room for ``places`` rows of up to ``slots`` tokens, of which up to ``cells`` are decoded."""
        self.model, self.policy, self.config, self.title = model, policy, config, spell(policy)
        self.grid = BlockGrid.of(model, config, cache)
        if self.grid is not None:  # a row's last block may go on behind it
            slots, cells = slots + self.grid.tail(slots), cells + self.grid.size - 1
        self.places, self.slots, self.width = places, slots, cells
        self.rows = Rows.empty(places, slots, model.pad_id, canvas_device(model, policy))
        self.forwarder = Forwarder(model, policy, config, cache, places, slots)
        self.memory: Memory = None
        self.past = Past(policy.recalls, places) if policy.recalls else None
        self.requests: list[Request | None] = [None] * places
        self.traces: list[Trace | None] = [None] * places
        self.generators: list[torch.Generator | None] = [None] * places
        self.spent, self._waited = Counter[str](), False  # the second: a row may have waited
        self._seen: View | None = None  # what the last step left, if it was of all places
        self.on_prediction: Callable[[Sequence[int], View, Prediction], None] | None = None

    def tail(self, request: Request) -> int:
        """Cells that a row has beyond those asked for."""
        return 0 if self.grid is None else self.grid.tail(len(request.ids))

    @torch.no_grad()
    def put(self, places: list[int], requests: Sequence[Request]) -> None:
        """Begin rows at places that are free."""
        self._seen = None
        generators = [row_generator(request.config.seed, request.place) for request in requests]
        tails = [self.tail(request) for request in requests]
        laid = [request.ids + [self.model.mask_id] * tail for request, tail in zip(requests, tails, strict=True)]
        fresh = Rows.begin(
            laid,
            [request.offset for request in requests],
            self.model.mask_id,
            self.model.pad_id,
            self.rows.slots.device,
            slots=self.slots,
            names=[request.row for request in requests],
            tails=tails,
        )
        if self.policy.starts is not None:
            fresh.length = fresh.length.clamp(max=self.policy.starts)
        view = fresh.view(self.width, self.model.mask_id, self.model.eos_ids, tuple(generators), self.model.vocab_size)
        memory = self.policy.begin(view)
        check_rows(memory, len(requests), self.title)
        fresh.advance(view.masked, torch.ones_like(fresh.live), self.config.block_length, self.grid)
        lengths = fresh.length.tolist()
        for place, request, ids, length, generator in zip(places, requests, laid, lengths, generators, strict=True):
            self.requests[place], self.generators[place] = request, generator
            offset = request.offset
            self.traces[place] = (
                Trace(ids[:offset], ids[offset : offset + length], self.model.mask_id, meta=dict(request.meta))
                if request.trace
                else None
            )
        where = torch.tensor(places, device=self.rows.slots.device)
        self.rows.put(where, fresh)
        if self.memory is None:  # the shapes beside the row's depend on setting and width, not on how many rows began
            self.memory = map_rows(memory, lambda x: x.new_zeros(self.places, *x.shape[1:]))
        self.memory = merge_rows(self.memory, where, memory)

    def clear(self, place: int) -> None:
        """Free a place; nothing of its row is read again."""
        self.requests[place] = self.traces[place] = self.generators[place] = None
        self.rows.live[place] = False
        if self.past is not None:
            self.past.forget(place)

    @torch.no_grad()
    def step(self, ids: Tensor, alone: bool) -> dict[int, StepEvent]:
        """Forward some live rows once, and do what the policy makes of it.

        Nothing is put back before the policy's decision has been checked: a step that raises has moved no row (but
        drawn from its generator).

        Args:
            ids: long ``[R]``, their places; all need the same kind of forward.
            alone: no other row is stepped before these are again.

        Returns:
            An event per place whose request listens.
        """
        policy, everyone, places = self.policy, len(ids) == self.places, ids.tolist()
        group = self.rows.select(ids)
        memory = self.memory if everyone else map_rows(self.memory, lambda x: x.index_select(0, ids))
        view = self._recalled(group, places)
        steps = group.block_step.tolist()
        opening = group.block_step == 0
        early = opening if min(steps) >= 0 else group.block_step <= 0
        query = None if min(steps) < 0 else policy.query(view, memory)
        if query is not None and query.canvases is not None:
            self._refuse_drafts(opening)
        spent = group.rows_forwarded, group.tokens_forwarded
        prediction = self.forwarder.predict(group, ids, view, query, opening, alone)
        group.step = group.step + 1
        if min(steps) <= 0:
            group.opened = torch.where(early, group.start, group.opened)
        if 0 in steps:
            length = policy.block_length(view, prediction, memory)
            if length is not None:
                end = torch.minimum(group.start + length.clamp(min=1), self.forwarder.reach.furthest(group))
                group.end = torch.where(opening, end, group.end)
        view = view.at(start=group.start, end=group.end, step=group.step)
        before = () if self.past is None else self.past.of(places, prediction)
        said = replace(prediction, open=self._open(prediction, view)) if 0 in steps else prediction
        prediction = replace(said, before=before) if before else said
        seen = view if query is None or query.canvases is None else view.imagine(query.canvases)
        prediction, memory = policy.rescore(seen, prediction, memory)
        if self.on_prediction is not None:
            self.on_prediction(group.name.tolist(), view, prediction)
        decision, memory = policy.decide(view, prediction, memory)
        decision, memory = policy.finish(view, prediction, decision, memory)
        check_rows(memory, len(places), self.title)
        decision = settle(view, decision)
        validate(policy, view, decision)

        where = group.start, group.end, group.block_index
        memory, grown = self._apply(group, decision, view, memory)
        if policy.revises:
            after = view.after(decision.write, decision.values, 0)
        else:
            after = view.filled(decision.write, decision.cells, decision.written)
        if decision.length is not None or decision.insert is not None:
            where = where[0], torch.minimum(where[1], group.length), where[2]
            after = self._view(group, places)
        if 0 in steps:
            group.owed = torch.where(opening, after.masked.gather(1, group.start[:, None])[:, 0], group.owed)
        requests = [self.requests[place] for place in places]
        heard = [request is not None and (request.trace or request.on_step is not None) for request in requests]
        deltas: list[TraceStep] = []
        if any(heard):
            deltas = deltas_of(group, where, view, prediction, decision, early, spent)
        group.block_step = group.block_step + 1
        if decision.reopen is not None:
            group.block_step = group.block_step.masked_fill(decision.reopen, 0)
        if policy.revises or decision.hold is not None:
            moves = early if decision.reopen is None else early & ~decision.reopen
            self._count_waits(group, after, moves | grown)
            self._waited = True
        elif self._waited:  # it has netted a commit; how many masks are left is only counted where it may not
            group.fewest, group.waited = group.length, torch.zeros_like(group.waited)
        done = ~after.waiting
        if decision.hold is not None:
            done &= ~decision.hold
        if decision.stop is not None:
            done |= decision.stop
        group.advance(after.masked, done, self.config.block_length, self.grid)
        if self.past is not None:
            self.past.keep(places, said, group.live & ~grown)  # what was said of cells that have moved is no help
        self._seen = None
        if everyone:
            self.rows, self.memory, self._seen = group, memory, after
        else:
            self.rows.put(ids, group)
            self.memory = merge_rows(self.memory, ids, memory)
        self._count(decision, view, max(steps) <= 0, sum(group.tokens_forwarded.tolist()) - sum(spent[1].tolist()))
        for place, delta in zip(places, deltas, strict=False):
            trace = self.traces[place]
            if trace is not None:
                trace.steps.append(delta)
        if not any(request is not None and request.on_step is not None for request in requests):
            return {}
        events = events_of(requests, deltas, group, after, early, where, policy.revises)
        return {place: event for place, event in zip(places, events, strict=True) if event is not None}

    def _view(self, rows: Rows, places: list[int]) -> View:
        generators = tuple(g for g in (self.generators[place] for place in places) if g is not None)
        return rows.view(self.width, self.model.mask_id, self.model.eos_ids, generators, self.model.vocab_size)

    def _recalled(self, rows: Rows, places: list[int]) -> View:
        """The view of all rows as the last step left them, at their new blocks, if that was of all of them."""
        if self._seen is None or len(places) < self.places:
            return self._view(rows, places)
        at = {name: getattr(rows, name) for name in ("start", "end", "step", "block_step", "block_index")}
        return self._seen.at(**at)

    def _count(self, decision: Decision, view: View, opening: bool, tokens: int) -> None:
        phase = "opening" if opening else "block"
        self.spent[f"forwards_{phase}"] += 1
        self.spent[f"tokens_{phase}"] += tokens
        count = len(decision.written)
        if self.policy.revises:
            count = int((view.masked[decision.cells] & (decision.written != view.mask_id)).sum())
        self.spent["committed"] += count

    def _count_waits(self, group: Rows, after: View, moves: Tensor) -> None:
        """Stop a policy that holds, or takes back what it commits, for ever; ``moves``: this step gets somewhere."""
        masks, cells = after.open.sum(-1), group.end - group.start
        nearer = moves | (masks < group.fewest)
        group.fewest = torch.where(nearer, masks, group.fewest)
        group.waited = torch.where(nearer, 0, group.waited + 1)
        limit = cells + MARGIN + self.policy.waits if self.config.max_wait is None else self.config.max_wait
        stuck = group.waited > limit
        if bool(stuck.any()):
            row = int(stuck.nonzero()[0])
            raise PolicyError(
                f"{self.title} has had {int(group.waited[row])} forwards on row {int(group.name[row])} without "
                f"getting nearer to the end of its block of {int(cells[row])} cells; give it other parameters, or "
                "max_wait= if it is to wait that long."
            )

    def _refuse_drafts(self, opening: Tensor) -> None:
        """Canvases cannot stand for the forward that fills a cache, or on which a block is measured."""
        measured = bool(self.policy.playing("block_length"))
        if (measured or self.forwarder.cache is not None) and bool(opening.any()):
            name = type(self.policy.parts[self.policy.playing("query")[0]]).__name__
            why = "blocks are measured on it" if measured else "it fills the cache"
            raise PolicyError(
                f"{name} sends canvases in place of a block's opening forward, but {why}; "
                "answer None where view.block_step is 0."
            )

    @staticmethod
    def _open(prediction: Prediction, view: View) -> Tensor:
        """Cells the policy may commit, now that the block's end is known."""
        if prediction.branches > 1 or prediction.token.shape[0] != view.tokens.shape[0]:
            return prediction.open
        return prediction.predicted & view.open

    def _apply(self, group: Rows, decision: Decision, view: View, memory: Memory) -> tuple[Memory, Tensor]:
        """Write, cut and put in; returns the memory after it, and bool ``[R]``: rows in which cells have moved."""
        if self.policy.revises or decision.hold is not None or decision.insert is not None:
            group.slots = group.slots.clone()  # what is still to come may refuse the step
        group.write(decision.cells, decision.written)
        group.moved = torch.zeros_like(group.live)
        if decision.length is not None:
            group.length = decision.length
            group.end = torch.minimum(group.end, decision.length)
        if decision.insert is not None:
            group.insert(decision.insert, self.config.block_length, self.model.mask_id)
            if bool(group.moved.any()):
                memory = self.policy.move(view, memory, decision.insert.source(self.width))
        return memory, group.moved
