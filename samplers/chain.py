"""The chain of drafts that hold: where each row gets to when a step is taken on branch after branch (FreeDave)."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from samplers.contract import Memory, Policy, Prediction, View
from samplers.drafts import put_rows


@dataclass(frozen=True)
class Chain:
    """What the steps along the chain have come to.

    Attributes:
        now: the view after the last of them.
        turn: long ``[B, G]``, the branch each cell was written on; -1 = not at all.
        last: long ``[B]``, the branch where the chain ends.
        surest: fp64 ``[B, G]``, the step's order of its writes. ``confidence``: fp32 ``[B, G]``, what the trace shows.
        accepted: bool ``[B, G]``, whether the step's rule chose a written cell.
        memory: the step's.
    """

    now: View
    turn: Tensor
    last: Tensor
    surest: Tensor
    confidence: Tensor
    accepted: Tensor
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
    return torch.where(agrees.all(-1) & (index > branch), index, branch).amax(-1)


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
    accepted = torch.ones_like(now.masked)
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
            accepted = torch.where(fresh, chosen.accepted, accepted)
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

    Only the number of steps before a branch depends on the way there.  It is guessed to be the branch's own number,
    and the steps are taken again if that was wrong.
    """
    count = prediction.branches
    names = torch.arange(len(canvases), device=canvases.device)
    seen, said = now.imagine(canvases), replace(prediction, branches=1)
    if across:
        first = torch.arange(len(seen.start), device=names.device) % count == 0
        seen = put_rows(first, seen, seen.moved())  # the canvas itself stands where it stands
        said = replace(said, open=said.predicted & seen.open)
    blocks = seen.block_index.view(-1, count)
    guess = Way.straight(blocks, now.block_step)
    while True:
        steps = now.step[:, None] + guess.number
        here = replace(seen, step=steps.flatten(), block_step=guess.block_step.flatten())
        chosen, _ = step.decide(here, said, None)
        reached = torch.where(chosen.write, chosen.values, seen.tokens).view_as(canvases)
        onward = furthest(canvases, reached, 0, part)
        way = Way.along(onward, blocks, now.block_step)
        if way.fits(guess):
            break
        guess = way

    index = torch.arange(count, device=onward.device)
    goes = way.visited & (onward > index)
    target = canvases.gather(1, onward[:, :, None].expand_as(canvases))
    reached = torch.where(goes[:, :, None], target, reached)
    fresh = way.visited[:, :, None] & (reached != canvases)
    turn = torch.where(fresh, index[:, None], -1).amax(1)
    last = torch.where(way.visited, index, 0).amax(-1)
    where = torch.where(turn < 0, last[:, None], turn)[:, None]

    def at_its_turn(x: Tensor) -> Tensor:
        return x.view_as(canvases).gather(1, where)[:, 0]

    surest = at_its_turn(-said.confidence if chosen.order is None else chosen.order).double()
    confidence = at_its_turn(said.confidence if chosen.confidence is None else chosen.confidence)
    accepted = torch.ones_like(now.masked) if chosen.accepted is None else at_its_turn(chosen.accepted)
    # One after the other, a draft that leaves nothing to decide would not have been forwarded.
    forwarded = way.visited & (said.open.any(-1).view_as(onward) | (index == 0))
    then = now.after(turn >= 0, reached[names, last], forwarded.sum(-1))
    if across:
        then = then.moved()
        moved = then.block_index > blocks[names, last]
        then = replace(then, block_step=torch.where(moved, 0, way.block_step[names, last] + 1))
    return Chain(then, turn, last, surest, confidence, accepted, None)


@dataclass(frozen=True)
class Way:
    """Which branches a chain visits, and how many steps it has taken when it gets there.

    Attributes:
        visited: bool ``[B, K]``. ``number``: long ``[B, K]``, steps before this one. ``block_step``: long ``[B, K]``,
            the same within the block, counted on from the canvas's.
    """

    visited: Tensor
    number: Tensor
    block_step: Tensor

    @classmethod
    def straight(cls, blocks: Tensor, block_step: Tensor) -> Way:
        """From each branch to the next; ``blocks``: long ``[B, K]``, the block each stands in."""
        index = torch.arange(blocks.shape[1], device=blocks.device).expand_as(blocks)
        inside = index - (blocks[:, :, None] == blocks[:, None, :]).to(torch.uint8).argmax(-1)
        inside = inside + block_step[:, None] * (blocks == blocks[:, :1])
        return cls(torch.ones_like(blocks, dtype=torch.bool), index, inside)

    @classmethod
    def along(cls, onward: Tensor, blocks: Tensor, block_step: Tensor) -> Way:
        """From branch 0 to ``onward`` of it (long ``[B, K]``), and so on until a branch leads to itself."""
        visited, numbers, steps = [], [], []
        for goes, block, step in zip(onward.tolist(), blocks.tolist(), block_step.tolist(), strict=True):
            seen, number, inside = ([0] * len(goes) for _ in range(3))
            at = taken = 0
            while True:
                seen[at], number[at], inside[at] = 1, taken, step
                if goes[at] == at:
                    break
                step = step + 1 if block[goes[at]] == block[at] else 0
                at, taken = goes[at], taken + 1
            visited.append(seen)
            numbers.append(number)
            steps.append(inside)
        packed = torch.tensor([visited, numbers, steps], device=onward.device)
        return cls(packed[0].bool(), packed[1], packed[2])

    def fits(self, guess: Way) -> bool:
        """Whether what was guessed of the visited branches is so."""
        same = (self.number == guess.number) & (self.block_step == guess.block_step)
        return bool((same | ~self.visited).all())
