"""From the scores of some cells to a prediction in generation coordinates."""

from __future__ import annotations

from torch import Tensor

from dllm_decode.interface.scoring import Scores
from samplers import Prediction, View


def spread(scores: Scores, part: slice, where: Tensor, at: tuple[Tensor, ...], view: View) -> Prediction:
    """Put scores where their cells are.

    Args:
        scores: of the cells, `[M]` each.
        part: those of ``scores`` that are meant.
        where: bool ``[R, G]``, their cells.
        at: rows and indices of these.
        view: of the rows.
    """
    whole, flat = part == slice(0, len(scores.token)), at[0] * where.shape[1] + at[1]

    def placed(values: Tensor | None) -> Tensor | None:
        if values is None:
            return None
        return values.new_zeros(where.numel()).scatter_(0, flat, values if whole else values[part]).view_as(where)

    def taken(values: Tensor | None) -> Tensor | None:
        return None if values is None else values[part]

    token, confidence = placed(scores.token), placed(scores.confidence)
    assert token is not None and confidence is not None
    return Prediction(
        token=token,
        confidence=confidence,
        predicted=where,
        open=where & view.open,
        entropy=placed(scores.entropy),
        margin=placed(scores.margin),
        logit_margin=placed(scores.logit_margin),
        logits=taken(scores.logits),
        logsumexp=taken(scores.logsumexp),
        held=placed(scores.held),
        probs=taken(scores.probs),
        cells=None if scores.logits is scores.probs is None else flat,
    )
