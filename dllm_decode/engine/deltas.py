"""What a step changed, row by row: the lines of a trace, and what a listener hears."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from dllm_decode.engine.canvas import Rows
from dllm_decode.engine.events import StepEvent
from dllm_decode.engine.request import Request
from dllm_decode.engine.trace import TraceStep
from samplers import Decision, Prediction, View


def deltas_of(
    group: Rows,
    where: tuple[Tensor, Tensor, Tensor],
    view: View,
    prediction: Prediction,
    decision: Decision,
    opening: Tensor,
    spent: tuple[Tensor, Tensor],
) -> list[TraceStep]:
    """What the step changed, per row; ``where``: start, end and index of its block, long ``[R]`` each.

    Cells whose order is infinite were filled by a part that ended the row, in the turn that was its last.
    """
    at = row, cell = decision.cells
    confidence = decision.confidence if decision.confidence is not None else _confidence(prediction, decision)
    columns = [view.tokens[at].tolist(), decision.written.tolist(), confidence[at].tolist()]
    order = [-p for p in columns[2]] if decision.order is None else decision.order[at].tolist()
    # In the order in which they were decided; what was filled comes last.
    found = sorted(zip(row.tolist(), order, cell.tolist(), *columns, strict=True))
    numbers = (group.step, where[2], where[0], where[1], opening, group.length)
    costs = (group.rows_forwarded, group.tokens_forwarded, *spent)
    facts = zip(*(x.tolist() for x in (*numbers, *costs)), strict=True)
    deltas = [
        TraceStep(step, block, start, end, opens, [], [], [], [], length, rows - rows_then, tokens - tokens_then, [])
        for step, block, start, end, opens, length, rows, tokens, rows_then, tokens_then in facts
    ]
    for r, rank, c, old, new, p in found:
        if old != new:
            delta = deltas[r]
            delta.cells.append(c)
            delta.old.append(old)
            delta.new.append(new)
            delta.confidence.append(round(p, 6))
            if rank == math.inf:
                delta.filled.append(c)
    put = decision.insert
    if put is None:
        return deltas
    inserted = torch.stack([put.at, put.count, put.token], -1).tolist()
    return [replace(d, inserted=into if into[1] else []) for d, into in zip(deltas, inserted, strict=True)]


def _confidence(prediction: Prediction, decision: Decision) -> Tensor:
    """Fp32 ``[B, G]``: each cell's confidence in the branch on which it was decided."""
    if prediction.branches == 1:
        return prediction.confidence
    by_branch = prediction.confidence.unflatten(0, (-1, prediction.branches))
    turn = torch.zeros_like(decision.values) if decision.turn is None else decision.turn.clamp(min=0)
    return by_branch.gather(1, turn[:, None])[:, 0]


def events_of(
    requests: Sequence[Request | None],
    deltas: Sequence[TraceStep],
    group: Rows,
    after: View,
    opening: Tensor,
    where: tuple[Tensor, Tensor, Tensor],
    revises: bool,
) -> list[StepEvent | None]:
    """The event of every row of a step whose request listens.

    Args:
        requests: of the rows.
        deltas: what the step changed in them.
        group: the rows after it.
        after: their view.
        opening: bool ``[R]``, the step opened a block.
        where: long ``[R]`` each, that block's start, end and index.
        revises: the policy may take back what it commits.
    """
    settled, length = settled_cells(after), torch.minimum(group.length, group.budget)
    if revises:  # what may still be revoked is not settled
        settled = torch.where(group.live, torch.minimum(settled, group.start), settled)
    live, starts, ends, blocks = group.live.tolist(), *(x.tolist() for x in where)
    lengths, opens, asked = length.tolist(), opening.tolist(), group.budget.tolist()
    events: list[StepEvent | None] = []
    for i, (request, step) in enumerate(zip(requests, deltas, strict=True)):
        if request is None or request.on_step is None:
            events.append(None)
            continue
        shown = [k for k, cell in enumerate(step.cells) if cell < asked[i]]
        events.append(
            StepEvent(
                row=request.row,
                step=step.step,
                block=blocks[i],
                start=starts[i],
                end=ends[i],
                opening=opens[i],
                tokens=tuple(after.tokens[i, : lengths[i]].tolist()),
                cells=tuple(step.cells[k] for k in shown),
                values=tuple(step.new[k] for k in shown),
                confidence=tuple(step.confidence[k] for k in shown),
                inserted=tuple(step.inserted),
                settled=int(settled[i]),
                finished=not live[i],
            )
        )
    return events


def settled_cells(view: View) -> Tensor:
    """Long ``[B]``: leading cells without a mask, of those asked for."""
    return ((view.masked.cumsum(-1) == 0) & view.valid).sum(-1).minimum(view.budget)
