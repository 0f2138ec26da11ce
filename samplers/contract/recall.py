"""What has changed since an earlier forward: for policies that recall one (``Policy.recalls``)."""

from __future__ import annotations

import torch
from torch import Tensor

from samplers.contract.data import Prediction


def divergence(now: Prediction, earlier: Prediction, where: Tensor) -> Tensor:
    """How far each cell's distribution has moved: KL(now || earlier), in nats.

    Args:
        now: a prediction with logits, such as ``prediction``.
        earlier: one of the same rows, such as ``prediction.before[0]``.
        where: bool ``[B, G]``, the cells to compare; the time taken goes with their number.

    Returns:
        Fp32 ``[B, G]``; infinity at all other cells, and where the earlier forward predicted nothing.
    """
    out = torch.full_like(now.confidence, torch.inf)
    assert now.cells is not None and now.logits is not None and now.logsumexp is not None
    assert earlier.logits is not None and earlier.logsumexp is not None
    here = where.reshape(-1)[now.cells].nonzero()[:, 0]
    there = now.places(earlier)[here]
    here, there = here[there >= 0], there[there >= 0]
    for a, b in zip(here.tolist(), there.tolist(), strict=True):  # row by row: each fits the processor's cache
        said = now.logits[a] - now.logsumexp[a]
        chance = said.exp()
        moved = said.sub_(earlier.logits[b]).add_(earlier.logsumexp[b]).masked_fill_(chance == 0, 0.0)
        out.view(-1)[now.cells[a]] = chance.dot(moved)
    return out
