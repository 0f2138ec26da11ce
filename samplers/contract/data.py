"""The contract between the decoding loop and a policy part.

All tensors are in *generation coordinates* ``[B, G]``: column 0 is a row's first generated cell whatever the length
of its prompt, ``G`` is the widest row.  A policy never sees a model, a cache or a prompt.

Each step the loop builds a :class:`View`, may ask for a :class:`Query`, forwards the model, and hands the resulting
:class:`Prediction` to the policy, which answers with a :class:`Decision`.  State lives in an explicit *memory* value:
``begin`` makes it, every role gets it and returns it, the loop carries it row by row.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from samplers.contract.attention import Attention as Attention
from samplers.contract.setting import PolicyError as PolicyError
from samplers.contract.setting import Setting as Setting
from samplers.contract.view import View as View


@dataclass(frozen=True)
class Query:
    """What to forward when it is not simply the canvas.

    Attributes:
        canvases: long ``[B, K, G]``, hypothetical canvases that replace the plain one in this forward: each is
            predicted as if it were the canvas.  The prediction then has ``B*K`` rows, row-major.
        used: bool ``[B, K]``, which of them are forwarded (default all); the others cost nothing and predict nothing.
        shadow: bool ``[B, G]``, cells that get an extra masked twin beside the plain canvas: the twin sees everything
            but its original and the other twins, and of the others nobody sees it.  Answered in
            ``Prediction.shadow``.
        joint: the twins of a row see each other (WINO).
    """

    canvases: Tensor | None = None
    used: Tensor | None = None
    shadow: Tensor | None = None
    joint: bool = False


@dataclass(frozen=True)
class Prediction:
    """What one forward says, per cell.

    Attributes:
        token: long ``[B, G]``, the proposed token (never the mask).
        confidence: fp32 ``[B, G]``, the proposed token's probability under the softmax over the whole vocabulary;
            0 where nothing was predicted.
        predicted: bool ``[B, G]``, the cells this forward covered and scored.
        open: bool ``[B, G]``, the predicted cells that may be committed now.
        entropy: fp32 ``[B, G]`` in nats, or ``None`` unless a part needs it.
        margin: fp32 ``[B, G]``, top-1 minus top-2 probability, or ``None``.
        logit_margin: fp32 ``[B, G]``, top-1 minus top-2 logit, or ``None``.
        logits: fp32 ``[M, V]`` of the scored cells, or ``None`` unless a part needs them.
        logsumexp: fp32 ``[M]`` of each row of ``logits``; it comes with them.
        probs: fp32 ``[M, V]``, the distribution each proposal was drawn from (temperature, top-p and top-k applied,
            mask excluded), or ``None``.
        cells: long ``[M]``, where each row of ``logits`` and ``probs`` lies in the flattened ``[B * G]``.
        branches: number K of canvases per row behind the leading axis (1 = plain).
        canvases: long ``[B, K, G]``, the query's canvases, or ``None`` when there were none.
        shadow: the prediction of the query's shadow cells, or ``None``.
        attention: of plain canvases without a cache, or ``None`` unless a part needs it.
        held: fp32 ``[B, G]``, in a shadow's prediction the probability of the token that the cell holds.
        before: what earlier forwards said of these rows, the latest first, as far as a part
            ``recalls``; ``predicted`` is False in rows that had none.  They are the predictions themselves, not
            copies: whatever they carry (logits too) costs memory and no time.  :meth:`places` finds their cells.
    """

    token: Tensor
    confidence: Tensor
    predicted: Tensor
    open: Tensor
    entropy: Tensor | None = None
    margin: Tensor | None = None
    logit_margin: Tensor | None = None
    logits: Tensor | None = None
    logsumexp: Tensor | None = None
    probs: Tensor | None = None
    cells: Tensor | None = None
    branches: int = 1
    canvases: Tensor | None = None
    shadow: Prediction | None = None
    held: Tensor | None = None
    attention: Attention | None = None
    before: tuple[Prediction, ...] = ()

    def places(self, earlier: Prediction) -> Tensor:
        """Long ``[M]``: for each row of ``logits`` the one of the same cell in ``earlier.logits``; -1 = none."""
        assert self.cells is not None and earlier.cells is not None
        table = torch.full_like(self.token, -1).view(-1)
        table[earlier.cells] = torch.arange(len(earlier.cells), device=table.device)
        return table[self.cells]

    def sureness(self, score: str) -> Tensor:
        """Fp32 ``[B, G]``, larger is surer: the ``confidence``, the ``margin``, or minus the ``entropy``."""
        found = {"margin": self.margin, "entropy": self.entropy}.get(score, self.confidence)
        assert found is not None
        return -found if score == "entropy" else found

    def scatter(self, values: Tensor, fill: float = 0.0) -> Tensor:
        """Spread one value per logit row, ``[M]``, to ``[B, G]``; ``fill`` elsewhere."""
        assert self.cells is not None
        out = values.new_full(self.token.shape, fill)
        out.view(-1)[self.cells] = values
        return out

    def pick(self, branch: Tensor | int) -> Prediction:
        """Choose one branch per row: int or long ``[B]`` -> the prediction of ``[B, G]``."""
        if self.branches == 1:
            return self
        rows = torch.arange(self.token.shape[0] // self.branches, device=self.token.device) * self.branches + branch
        return self.rows(rows, slice(branch, None, self.branches) if isinstance(branch, int) else None)

    def rows(self, rows: Tensor, part: slice | None = None) -> Prediction:
        """The prediction of the chosen rows, long ``[R]`` (of branches, if any); ``part``: the same as a slice."""

        def pick(x: Tensor) -> Tensor:
            return x.index_select(0, rows) if part is None else x[part].contiguous()

        def take(x: Tensor | None) -> Tensor | None:
            return None if x is None else pick(x)

        picked = Prediction(
            pick(self.token),
            pick(self.confidence),
            pick(self.predicted),
            pick(self.open),
            take(self.entropy),
            take(self.margin),
            take(self.logit_margin),
        )
        if self.cells is None:
            return picked
        count, width = len(rows), self.token.shape[1]
        place = torch.full_like(self.token[:, 0], -1).index_copy(0, rows, torch.arange(count, device=rows.device))
        row = place[self.cells // width]
        kept = row >= 0
        return replace(
            picked,
            logits=None if self.logits is None else self.logits[kept],
            logsumexp=None if self.logsumexp is None else self.logsumexp[kept],
            probs=None if self.probs is None else self.probs[kept],
            cells=(row * width + self.cells % width)[kept],
        )


@dataclass(frozen=True)
class Insertion:
    """Cells put into a row, which moves what stands behind them; what moves beyond the row's budget is lost.

    Attributes:
        at: long ``[B]``, the cell they are put before, in the open block or behind it; the row's length = at its end.
        count: long ``[B]``, how many; 0 = none. A row as long as its budget has no room for any.
        token: long ``[B]``, what they hold; the mask id leaves them to be decided.
    """

    at: Tensor
    count: Tensor
    token: Tensor

    def source(self, width: int) -> Tensor:
        """Long ``[B, G]``, G = ``width``: where each cell stood before; -1 = it is new."""
        index, at, count = torch.arange(width, device=self.at.device), self.at[:, None], self.count[:, None]
        return torch.where(index < at, index, torch.where(index < at + count, -1, index - count))


@dataclass(frozen=True)
class Decision:
    """What a policy wants written.

    Attributes:
        write: bool ``[B, G]``. ``values``: long ``[B, G]``, read where ``write``; the mask id revokes.
        stop: bool ``[B]`` or ``None``: the row is finished after this write, which leaves no mask in it.
        length: long ``[B]`` or ``None``: the row's new length (only ever shorter).
        order: ``[B, G]`` or ``None``: the order in which the cells were decided, smaller first (for the trace;
            default: falling confidence, then position).
        confidence: fp32 ``[B, G]`` or ``None``: what the trace records; default the prediction's.
        hold: bool ``[B]`` or ``None``: the row waits: its block stays open for one more forward although this one
            commits nothing, or fills the block.  A row that does not hold must commit something.
        turn: long ``[B, G]`` or ``None``: when a forward of several branches stands for several forwards one after
            the other, the branch each written cell was decided on; ``finish`` sees the turns one by one.  Needs
            ``order`` and ``confidence``.
        accepted: bool ``[B, G]`` or ``None``: the written cells that the rule itself chose, as opposed to the best
            one added so that decoding moves; ``None`` = all of ``write``.
        insert: cells to put into the rows once the rest is written, or ``None``.
        reopen: bool ``[B]`` or ``None``: the block begins anew: the next forward is its opening one.
    """

    write: Tensor
    values: Tensor
    stop: Tensor | None = None
    length: Tensor | None = None
    order: Tensor | None = None
    confidence: Tensor | None = None
    hold: Tensor | None = None
    turn: Tensor | None = None
    accepted: Tensor | None = None
    insert: Insertion | None = None
    reopen: Tensor | None = None

    @cached_property
    def cells(self) -> tuple[Tensor, Tensor]:
        """Long ``[M]`` twice: rows and indices of the cells written."""
        row, cell = self.write.nonzero(as_tuple=True)
        return row, cell

    @cached_property
    def written(self) -> Tensor:
        """Long ``[M]``: what those cells get."""
        return self.values[self.cells]
