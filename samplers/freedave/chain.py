"""The chain of drafts that hold: where each row gets to when a step is taken on branch after branch (FreeDave)."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from samplers.contract.data import Prediction, View
from samplers.contract.memory import Memory, put_rows
from samplers.contract.policy import Policy


@dataclass(frozen=True)
class Chain:
    """What the steps along the chain have come to.

    Attributes:
        now: the view after the last of them.
        turn: long ``[B, G]``, the branch each cell was written on; -1 = not at all.
        last: long ``[B]``, the branch where the chain ends.
        surest: fp64 ``[B, G]``, the step's order of its writes. ``confidence``: fp32 ``[B, G]``, what the trace shows.
        accepted: bool ``[B, G]``, whether the step's rule chose a written cell; ``None`` = all of them.
        memory: the step's.
    """

    now: View
    turn: Tensor
    last: Tensor
    surest: Tensor
    confidence: Tensor
    accepted: Tensor | None
    memory: Memory


def furthest(canvases: Tensor, reached: Tensor, first: int = 0, part: Tensor | None = None) -> Tensor:
    """For each branch the last draft behind it that agrees with the canvas reached from there, else the branch itself.

    Args:
        canvases: long ``[B, K, G]``, the drafts.
        reached: long ``[B, J, G]``, the canvases after the steps taken on branches ``first``, ``first + 1``, ...
        first: the first of these branches.
        part: bool ``[B, K, G]``, the cells that need not agree (``None``: all must).

    Returns:
        Long ``[B, J]``.
    """
    agrees = canvases[:, None] == reached[:, :, None]
    if part is not None:
        agrees = agrees | part[:, None]
    index = torch.arange(canvases.shape[1], device=canvases.device)
    branch = torch.arange(first, first + reached.shape[1], device=index.device)[:, None]
    whole = agrees.view(torch.uint8).amin(-1).bool()  # all(-1), in a quarter of its time
    return torch.where(whole & (index > branch), index, branch).amax(-1)


def follow(
    step: Policy,
    canvases: Tensor,
    now: View,
    prediction: Prediction,
    memory: Memory,
    across: bool,
    part: Tensor | None = None,
) -> Chain:
    """Take the step on the canvas; where it leads to a draft, on that draft; and so on.

    Args:
        step: the rule.
        canvases: long ``[B, K, G]``, the canvas and its drafts.
        now: the view of the canvas.
        prediction: of all canvases.
        memory: the step's.
        across: drafts may stand in later blocks than the canvas.
        part: bool ``[B, K, G]``, the cells of a draft that need not agree with where a step leads.
    """
    if memory is None and prediction.branches > 1:
        return _at_once(step, canvases, now, prediction, across, part)
    return _one_by_one(step, canvases, now, prediction, memory, across, part)


def _one_by_one(
    step: Policy,
    canvases: Tensor,
    now: View,
    prediction: Prediction,
    memory: Memory,
    across: bool,
    part: Tensor | None,
) -> Chain:
    """What the step remembers depends on the way: branch after branch."""
    at = torch.zeros_like(now.start)  # the branch where each row's chain stands
    turn = torch.full_like(now.tokens, -1)
    surest, confidence = turn.double(), prediction.pick(0).confidence
    accepted: Tensor | None = None
    names = torch.arange(len(at), device=at.device)
    for branch in range(prediction.branches):
        here = at == branch
        if not bool(here.any()):
            continue
        said = prediction.pick(branch)
        if across:
            said = replace(said, open=said.predicted & now.open)
        chosen, taught = step.decide(now, said, memory)
        reached = torch.where(chosen.write, chosen.values, now.tokens)
        if branch < prediction.branches - 1:
            onward = furthest(canvases, reached[:, None], branch, part)[:, 0]
            goes = here & (onward > branch)
            reached = torch.where(goes[:, None], canvases[names, onward], reached)
            at = torch.where(goes, onward, at)
        row = here[:, None]
        fresh = row & (reached != now.tokens)
        surest = torch.where(fresh, -said.confidence if chosen.order is None else chosen.order, surest)
        if chosen.accepted is not None:
            known = torch.ones_like(fresh) if accepted is None else accepted
            accepted = torch.where(fresh, chosen.accepted, known)
        seen = said.confidence if chosen.confidence is None else chosen.confidence
        confidence = torch.where(row & (turn < 0), seen, confidence)
        turn = turn.masked_fill(fresh, branch)
        # One after the other, a draft that leaves nothing to decide would not have been forwarded.
        now = now.after(fresh, reached, here & said.open.any(-1) if branch else here)
        now = now.moved() if across else now
        memory = put_rows(here, taught, memory)
    return Chain(now, turn, at, surest, confidence, accepted, memory)


def _at_once(
    step: Policy, canvases: Tensor, now: View, prediction: Prediction, across: bool, part: Tensor | None
) -> Chain:
    """A step without a memory: on all branches together, then see which of them the chain visits.

    Only the number of steps before a branch depends on the way there.  The way is guessed to be straight, and the
    steps are taken again if that was wrong.
    """
    index = torch.arange(prediction.branches, device=canvases.device)
    names = torch.arange(len(canvases), device=index.device)
    seen, said = now.imagine(canvases), replace(prediction, branches=1, canvases=None)
    if across:
        there, first = seen.moved(), index.repeat(len(canvases)) == 0  # the canvas itself stands where it does
        start, end = torch.where(first, seen.start, there.start), torch.where(first, seen.end, there.end)
        seen = replace(
            there, start=start, end=end, block_index=torch.where(first, seen.block_index, there.block_index)
        )
        said = replace(said, open=said.predicted & seen.open)
    blocks = seen.block_index.view(-1, len(index))
    guess: dict[int, list[int]] = {}  # the ways that leave out drafts, by row
    while True:
        number = index.repeat(len(canvases), 1)
        for row, way in guess.items():
            number[row, way] = index[: len(way)]
        inside = _within_block(number, blocks, now.block_step) if across else now.block_step[:, None] + number
        counted = replace(seen, step=(now.step[:, None] + number).flatten(), block_step=inside.flatten())
        chosen, _ = step.decide(counted, said, None)
        reached = torch.where(chosen.write, chosen.values, seen.tokens).view_as(canvases)
        onward = furthest(canvases, reached, 0, part)
        ways = [_way(row) for row in onward.tolist()]
        crooked = {row: way for row, way in enumerate(ways) if way != list(range(len(way)))}
        if crooked == guess:
            break
        guess = crooked

    visited = torch.tensor([branch in way for way in ways for branch in range(len(index))], device=index.device)
    last = torch.tensor([way[-1] for way in ways], device=index.device)
    if part is not None:  # a draft may hold less than the step has written
        target = canvases.gather(1, onward[:, :, None].expand_as(canvases))
        reached = torch.where((onward > index)[:, :, None], target, reached)
    fresh = visited.view_as(onward)[:, :, None] & (reached != canvases)
    turn = torch.where(fresh, index[:, None], -1).amax(1)
    where = torch.where(turn < 0, last[:, None], turn)[:, None]

    def at_its_turn(x: Tensor) -> Tensor:
        return x.view_as(canvases).gather(1, where)[:, 0]

    surest = at_its_turn(-said.confidence if chosen.order is None else chosen.order).double()
    confidence = at_its_turn(said.confidence if chosen.confidence is None else chosen.confidence)
    accepted = None if chosen.accepted is None else at_its_turn(chosen.accepted)
    # One after the other, a draft that leaves nothing to decide would not have been forwarded.
    then = now.after(turn >= 0, reached[names, last], fresh.any(-1).sum(-1).clamp(min=1))
    if across:
        then = then.moved()
        moved = then.block_index > blocks[names, last]
        then = replace(then, block_step=torch.where(moved, 0, inside[names, last] + 1))
    return Chain(then, turn, last, surest, confidence, accepted, None)


def _way(onward: list[int]) -> list[int]:
    """The branches from 0 on, each leading to the next, until one leads to itself."""
    way = [0]
    while onward[way[-1]] != way[-1]:
        way.append(onward[way[-1]])
    return way


def _within_block(number: Tensor, blocks: Tensor, block_step: Tensor) -> Tensor:
    """Long ``[B, K]``: steps in the block each branch stands in (``blocks``) before it, from the ``number`` in all."""
    same = blocks[:, :, None] == blocks[:, None]
    entered = torch.where(same, number[:, None], number.shape[1]).amin(-1)
    return number - entered + block_step[:, None] * (blocks == blocks[:, :1])
