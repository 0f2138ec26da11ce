"""What has changed since an earlier forward: for policies that recall one (``Policy.recalls``)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from samplers.contract.data import Prediction

LOG2_E = math.log2(math.e)


def divergence(now: Prediction, earlier: Prediction, where: Tensor, limit: float = math.inf) -> Tensor:
    """How far each cell's distribution has moved: KL(now || earlier), in nats.

    The time taken goes with the number of cells that are read whole, some 0.1 ms each for 126 464 token ids: leave out
    cells that cannot be committed anyway, and say from where on the number does not matter.

    Args:
        now: a prediction with logits, such as ``prediction``.
        earlier: one of the same rows, such as ``prediction.before[0]``.
        where: bool ``[B, G]``, the cells to compare.
        limit: cells that are known to have moved further, from the proposed token's probability alone, are not read.

    Returns:
        Fp32 ``[B, G]``; infinity above the limit (or the number), at all other cells, and where the earlier forward
        predicted nothing.
    """
    out = torch.full_like(now.confidence, torch.inf)
    assert now.cells is not None and now.logits is not None and now.logsumexp is not None
    assert earlier.logits is not None and earlier.logsumexp is not None
    here = where.reshape(-1)[now.cells].nonzero()[:, 0]
    there = now.places(earlier)[here]
    here, there = here[there >= 0], there[there >= 0]
    token = now.token.reshape(-1)[now.cells[here]]
    p = (now.logits[here, token] - now.logsumexp[here]).exp()
    q = (earlier.logits[there, token] - earlier.logsumexp[there]).exp()
    # Merging all other tokens into one can only lower the divergence.
    least = torch.xlogy(p, p / q) + torch.xlogy(1 - p, (1 - p) / (1 - q))
    near = ~(least > limit + 1e-6)
    here, there = here[near], there[near]
    chance, moved = now.logits.new_empty(2, now.logits.shape[1])
    found = []
    for a, b in zip(here.tolist(), there.tolist(), strict=True):  # row by row: each fits the processor's cache
        mine, theirs, whole = now.logits[a], earlier.logits[b], now.logsumexp[a]
        torch.add(-LOG2_E * whole, mine, alpha=LOG2_E, out=chance).exp2_()
        total = chance.dot(torch.sub(mine, theirs, out=moved))
        if total.isnan():  # tokens that are impossible in both
            total = chance.dot(moved.masked_fill_(chance == 0, 0.0))
        found.append(total - whole + earlier.logsumexp[b])
    if found:
        out.view(-1)[now.cells[here]] = torch.stack(found)
    return out
