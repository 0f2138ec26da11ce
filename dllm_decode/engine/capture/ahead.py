"""The next block step, begun before the policy has decided: what its input will probably be.

Between two forwards policy, trace and loop take the host about a millisecond, in which the device would wait.
Where a policy says what it will commit (``Policy.forecast``), the next step's input can be foreseen from the scores at
once and sent off.  A foreseen step is used only if the loop then asks for exactly its input, with none of its rows
forwarded in between; otherwise it is thrown away.  What it wrote to the cache is then written again before it is read:
a block's next forward covers the same slots, and the next block's opening the whole row (see :func:`may_look_ahead`).
So it can never change a result, only when it is there.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from dllm_decode.interface.inputs import ForwardInput
from dllm_decode.interface.scoring import Draws, ScoreRule, Scores
from samplers import Policy
from samplers.contract.policy import Forecast

#: Seconds that a run may lose on wrong forecasts before right ones have earned them.
CREDIT = 0.02


def may_look_ahead(policy: Policy, refresh: int | Literal["window"]) -> bool:
    """Whether the slots that a discarded step wrote are written again before they are read.

    Not when blocks open without a full forward, which would find the last block's keys as that step left them.
    """
    return refresh == 1


@dataclass(eq=False)
class Lookahead:
    """One run's forecast, and what it has brought so far.

    Attributes:
        forecast: what the policy commits.
        used: steps begun ahead and used. ``discarded``: those thrown away.
        saved: seconds that used ones were at work before they were asked for. ``lost``: waited for discarded ones.
        usual: seconds of the last step that was not begun ahead, the most that one can save.
    """

    forecast: Forecast
    used: int = 0
    discarded: int = 0
    saved: float = 0.0
    lost: float = 0.0
    usual: float = 0.0

    @property
    def pays(self) -> bool:
        """Whether to go on: a wrong forecast costs a whole step, a right one saves the host's work between two."""
        return self.lost <= self.saved + CREDIT

    def hit(self, seconds: float) -> None:
        """A step was asked for so long after it had been sent off."""
        self.used += 1
        self.saved += min(seconds, self.usual)

    def miss(self, seconds: float) -> None:
        """A step was waited for so long, and for nothing."""
        self.discarded += 1
        self.lost += seconds


@dataclass(frozen=True)
class Request:
    """A block step as it is asked for, all on the host: input, cells (long ``[M]``), rule, keys of the noise."""

    inp: ForwardInput
    cells: Tensor
    rule: ScoreRule
    draws: Draws | None = None

    def same(self, other: Request) -> bool:
        """Whether both ask for the same step, number for number."""
        if self.rule != other.rule or self.inp.cache is not other.inp.cache:
            return False
        mine, theirs = self._tensors(), other._tensors()
        return len(mine) == len(theirs) and all(torch.equal(a, b) for a, b in zip(mine, theirs, strict=True))

    def _tensors(self) -> list[Tensor]:
        inp, draws = self.inp, self.draws
        assert inp.rows is not None and inp.branch is None
        out = [inp.tokens, inp.positions, inp.queries, inp.lengths, inp.rows, self.cells]
        return out if draws is None else [*out, draws.seed, draws.step, draws.cell, draws.branch]

    def shares_rows(self, inp: ForwardInput) -> bool:
        """Whether this forward writes to a cache row of the request's."""
        assert self.inp.rows is not None
        if inp.cache is not self.inp.cache:
            return False
        return inp.rows is None or bool(torch.isin(inp.rows.to(self.inp.rows.device), self.inp.rows).any())


def foresee(request: Request, scores: Scores, forecast: Forecast, shift: int) -> Request | None:
    """The step that follows if the policy commits as forecast; ``None`` when no row has a cell left.

    Args:
        request: the step just done, in which every scored cell was a mask.
        scores: what it gave, on the host.
        forecast: what the policy commits.
        shift: the model's; cell p is scored at the column before its own when it is 1.
    """
    inp, mask_id = request.inp, request.rule.mask_id
    count, width = inp.tokens.shape
    cells, confidence = request.cells.numpy(), scores.confidence.numpy()
    row = cells // width
    assert inp.rows is not None
    # Falling confidence, then position, within each row; a row's best cell always goes.
    order = np.lexsort((np.arange(len(cells)), -confidence, row))
    first = np.searchsorted(row[order], row[order])
    rank = np.empty(len(cells), dtype=np.int64)
    rank[order] = np.arange(len(cells)) - first
    kind, amount = forecast
    commit = rank < amount if kind == "top" else (confidence >= np.float32(amount)) | (rank == 0)

    tokens, target = inp.tokens.clone(), torch.from_numpy(cells[commit] + shift)
    if len(target) and int(target.max()) >= tokens.numel():
        return None
    tokens.view(-1)[target] = scores.token[torch.from_numpy(commit)]
    left = ~commit
    alive = np.zeros(count, dtype=bool)
    alive[row[left]] = True
    if not alive.any() or bool((scores.token[torch.from_numpy(commit)] == mask_id).any()):
        return None
    place = np.cumsum(alive) - 1
    kept = torch.from_numpy(alive.nonzero()[0])
    after = replace(inp, tokens=tokens, known=None)
    if not alive.all():
        # Rows whose block is full leave the group, and with them the columns that only they needed.
        queries = inp.queries[kept]
        wide = int(queries.max())
        after = replace(
            after,
            tokens=tokens[kept, :wide],
            positions=inp.positions[kept, :wide],
            queries=queries,
            lengths=inp.lengths[kept],
            rows=inp.rows[kept],
        )
    new_cells = torch.from_numpy(place[row[left]] * after.tokens.shape[1] + cells[left] % width)
    draws = None
    if request.draws is not None:
        d, stays = request.draws, torch.from_numpy(left)
        draws = Draws(d.seed[stays], d.step[stays] + 1, d.cell[stays], d.branch[stays])
    return Request(after, new_cells, request.rule, draws)
