"""What earlier forwards of each row said, for the parts that recall it."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

import torch
from torch import Tensor

from samplers import Prediction


class Past:
    """Each row's latest predictions, newest first.

    Predictions are kept as they are.  Rows that go on together find the very prediction they made; only when they part
    or meet are rows of it copied.
    """

    def __init__(self, depth: int, rows: int) -> None:
        """Keep ``depth`` predictions of each of ``rows`` rows."""
        self._kept: list[deque[tuple[Prediction, int]]] = [deque(maxlen=depth) for _ in range(rows)]

    def keep(self, names: Sequence[int], said: Prediction, live: Tensor) -> None:
        """What a forward said of the rows ``names``; rows that are not ``live`` (bool ``[R]``) need none any more."""
        plain = said.pick(0)
        for place, (name, alive) in enumerate(zip(names, live.tolist(), strict=True)):
            if alive:
                self._kept[name].appendleft((plain, place))
            else:
                self._kept[name].clear()

    def forget(self, name: int) -> None:
        """The row is gone."""
        self._kept[name].clear()

    def of(self, names: Sequence[int], like: Prediction) -> tuple[Prediction, ...]:
        """The predictions of the rows ``names``, the latest first."""
        kept = [self._kept[name] for name in names]
        return tuple(_together([row[i] if i < len(row) else None for row in kept], like) for i in range(_most(kept)))


def _most(kept: Sequence[deque[tuple[Prediction, int]]]) -> int:
    return max(map(len, kept), default=0)


def _together(rows: Sequence[tuple[Prediction, int] | None], like: Prediction) -> Prediction:
    """One prediction of rows that come from several; a row that is ``None`` was not predicted."""
    sources = {id(row[0]): row[0] for row in rows if row is not None}
    first = next(iter(sources.values()))
    if len(sources) == 1 and [None if row is None else row[1] for row in rows] == list(range(len(first.token))):
        return first
    device, width = like.token.device, like.token.shape[1]
    pieces, targets = [], []
    for source in sources.values():
        mine = [(i, row[1]) for i, row in enumerate(rows) if row is not None and row[0] is source]
        target, place = torch.tensor(mine, device=device).T
        pieces.append(source.rows(place))
        targets.append(target)
    where = torch.cat(targets)

    def spread(name: str) -> Tensor | None:
        values = [getattr(piece, name) for piece in pieces]
        if values[0] is None:
            return None
        return values[0].new_zeros(len(rows), width).index_copy(0, where, torch.cat(values))

    def lined(name: str) -> Tensor | None:
        values = [getattr(piece, name) for piece in pieces]
        return None if values[0] is None else torch.cat(values)

    cells = None
    if first.cells is not None:
        moved = [t[p.cells // width] * width + p.cells % width for t, p in zip(targets, pieces, strict=True)]  # type: ignore[operator]
        cells = torch.cat(moved)
    token, confidence, predicted, open_ = (spread(n) for n in ("token", "confidence", "predicted", "open"))
    assert token is not None and confidence is not None and predicted is not None and open_ is not None
    return Prediction(
        token,
        confidence,
        predicted,
        open_,
        spread("entropy"),
        spread("margin"),
        spread("logit_margin"),
        lined("logits"),
        lined("logsumexp"),
        lined("probs"),
        cells,
    )
