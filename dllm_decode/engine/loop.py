"""The loop: the only place where canvases advance.  It knows no policy by name.

Each iteration takes the live rows, grouped by phase (opening a block, inside one), forwards every group once, and lets
the policy decide.  Rows advance on their own: nobody waits for the slowest row's block, finished rows leave.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from dllm_decode.config import GenerationConfig
from dllm_decode.engine.canvas import Rows
from dllm_decode.engine.events import StepEvent
from dllm_decode.engine.forward import Forwarder
from dllm_decode.engine.trace import Trace, TraceStep
from dllm_decode.interface.model import DenoisingModel
from samplers import Decision, PolicyError, Prediction, View, map_rows, merge_rows, settle, validate
from samplers.contract.memory import Memory
from samplers.contract.policy import Composition


@dataclass
class Run:
    """One ``generate`` call in progress.

    Attributes:
        model, policy, config: what decodes. ``rows``: all rows. ``forwarder``: the way to the model.
        traces: one per row. ``events``: somebody listens to them. ``on_prediction``: sees what the policy sees.
    """

    model: DenoisingModel
    policy: Composition
    config: GenerationConfig
    rows: Rows
    forwarder: Forwarder
    traces: list[Trace]
    generators: tuple[torch.Generator, ...]
    width: int
    events: bool = False
    on_prediction: Callable[[Sequence[int], View, Prediction], None] | None = None
    memory: Memory = field(default=None, repr=False)

    @torch.no_grad()
    def steps(self) -> Iterator[StepEvent]:
        """Decode until no row is live; yields events while somebody listens."""
        rows = self.rows
        view = self._view(rows, range(len(self.traces)))
        self.memory = self.policy.begin(view)
        rows.advance(view.masked, torch.ones_like(rows.live), self.config.block_length)
        try:
            while bool(rows.live.any()):
                groups = self._groups()
                for ids in groups:
                    yield from self._step(ids, alone=len(groups) == 1)
        finally:
            self.forwarder.step.close()

    def _groups(self) -> list[Tensor]:
        """Ids of the live rows, one group per kind of forward they need next."""
        live = self.rows.live.nonzero()[:, 0]
        opening = self.rows.block_step[live] == 0
        if self.forwarder.cache is None and not {"query", "block_length"} <= set(self.policy.roles):
            return [live]  # without a cache every forward is the full row
        full = self.forwarder.is_full(self.rows)[live]
        return [ids for ids in (live[full], live[opening & ~full], live[~opening]) if len(ids)]

    def _view(self, rows: Rows, ids: list[int] | range) -> View:
        generators = tuple(self.generators[i] for i in ids)
        return rows.view(self.width, self.model.mask_id, self.model.eos_ids, generators)

    def _step(self, ids: Tensor, alone: bool) -> Iterator[StepEvent]:
        """One forward of a group of rows (``alone``: of all that are live), and what the policy makes of it."""
        policy, everyone, names = self.policy, len(ids) == len(self.traces), ids.tolist()
        group = self.rows if everyone else self.rows.select(ids)
        memory = self.memory if everyone else map_rows(self.memory, lambda x: x.index_select(0, ids))
        view = self._view(group, names)
        opening = group.block_step == 0
        query = policy.query(view, memory)
        if query is not None and query.canvases is not None:
            self._refuse_drafts(opening)
        spent = group.rows_forwarded.clone(), group.tokens_forwarded.clone()
        prediction, _ = self.forwarder.predict(group, ids, view, query, opening, alone)
        group.step = group.step + 1
        group.opened = torch.where(opening, group.start, group.opened)

        if bool(opening.any()):
            length = policy.block_length(view, prediction, memory)
            if length is not None:
                end = torch.minimum(group.start + length.clamp(min=1), group.length)
                group.end = torch.where(opening, end, group.end)
        view = self._view(group, names)
        prediction = replace(prediction, open=self._open(prediction, view))
        seen = view if query is None or query.canvases is None else view.imagine(query.canvases)
        prediction, memory = policy.rescore(seen, prediction, memory)
        if self.on_prediction is not None:
            self.on_prediction(names, view, prediction)
        decided, memory = policy.decide(view, prediction, memory)
        decision, memory = policy.finish(view, prediction, decided, memory)
        decision = settle(view, decision)
        validate(policy, view, decision)

        self._apply(group, decision)
        after = self._view(group, names)
        group.owed = torch.where(opening, after.masked.gather(1, group.start[:, None])[:, 0], group.owed)
        self._record(names, group, view, prediction, decision, ~decided.write, opening, spent)
        where = group.start.clone(), group.end.clone(), group.block_index.clone()
        group.block_step = group.block_step + 1
        done = ~after.open.any(-1)
        if decision.hold is not None:
            done &= ~decision.hold
        if decision.stop is not None:
            done |= decision.stop
        group.advance(after.masked, done, self.config.block_length)
        if everyone:
            self.memory = memory
        else:
            self.rows.put(ids, group)
            self.memory = merge_rows(self.memory, ids, memory)
        if self.events:
            yield from self._events(names, group, after, opening, where)

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

    def _apply(self, group: Rows, decision: Decision) -> None:
        group.write(decision.write, decision.values)
        if decision.length is not None:
            group.length = decision.length
            group.end = torch.minimum(group.end, decision.length)

    def _record(
        self,
        names: list[int],
        group: Rows,
        view: View,
        prediction: Prediction,
        decision: Decision,
        undecided: Tensor,
        opening: Tensor,
        spent: tuple[Tensor, Tensor],
    ) -> None:
        """Append one delta per row to the traces."""
        row, cell = decision.write.nonzero(as_tuple=True)
        confidence = decision.confidence if decision.confidence is not None else _confidence(prediction, decision)
        order = decision.order if decision.order is not None else -confidence
        # Three stable sorts, least important key first: cell (already so), order, row.
        rank = order[row, cell].double().masked_fill(undecided[row, cell], torch.inf)  # what was filled comes last
        by = rank.sort(stable=True).indices
        by = by[row[by].sort(stable=True).indices]
        row, cell = row[by], cell[by]
        columns = (
            row,
            cell,
            view.tokens[row, cell],
            decision.values[row, cell],
            confidence[row, cell],
            undecided[row, cell],
        )
        written: list[list[tuple[int, int, int, float]]] = [[] for _ in names]
        filled: list[list[int]] = [[] for _ in names]
        for r, c, old, new, p, fill in zip(*(x.tolist() for x in columns), strict=True):
            if old != new:
                written[r].append((c, old, new, round(p, 6)))
                if fill:
                    filled[r].append(c)
        facts = torch.stack(
            [
                group.step,
                group.block_index,
                group.start,
                group.end,
                opening.long(),
                group.length,
                group.rows_forwarded - spent[0],
                group.tokens_forwarded - spent[1],
            ]
        ).T.tolist()
        for name, (step, block, start, end, opens, length, rows, tokens), cells, fills in zip(
            names, facts, written, filled, strict=True
        ):
            c, old, new, p = (list(x) for x in zip(*cells, strict=True)) if cells else ([], [], [], [])
            self.traces[name].steps.append(
                TraceStep(step, block, start, end, bool(opens), c, old, new, p, length, rows, tokens, fills)
            )

    def _events(
        self, names: list[int], group: Rows, after: View, opening: Tensor, where: tuple[Tensor, Tensor, Tensor]
    ) -> Iterator[StepEvent]:
        settled = (after.masked.cumsum(-1) == 0).logical_and(after.valid).sum(-1)
        if self.policy.revises:  # what may still be revoked is not settled
            settled = torch.where(group.live, torch.minimum(settled, group.start), settled)
        live, starts, ends, blocks = group.live.tolist(), *(x.tolist() for x in where)
        tokens, lengths, opens = after.tokens.tolist(), group.length.tolist(), opening.tolist()
        for i, name in enumerate(names):
            step = self.traces[name].steps[-1]
            yield StepEvent(
                row=name,
                step=step.step,
                block=blocks[i],
                start=starts[i],
                end=ends[i],
                opening=opens[i],
                tokens=tuple(tokens[i][: lengths[i]]),
                cells=tuple(step.cells),
                values=tuple(step.new),
                confidence=tuple(step.confidence),
                settled=int(settled[i]),
                finished=not live[i],
            )


def _confidence(prediction: Prediction, decision: Decision) -> Tensor:
    """Fp32 ``[B, G]``: each cell's confidence in the branch on which it was decided."""
    if prediction.branches == 1:
        return prediction.confidence
    by_branch = prediction.confidence.unflatten(0, (-1, prediction.branches))
    turn = torch.zeros_like(decision.values) if decision.turn is None else decision.turn.clamp(min=0)
    return by_branch.gather(1, turn[:, None])[:, 0]
