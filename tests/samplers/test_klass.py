"""Klass: confident, and hardly moved over the last forwards."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from samplers import Klass, PolicyError, Prediction, Setting, View
from samplers.contract import Scope
from tests.toys import MASK, VOCAB, commits, decode, scene, tiny

#: distributions over two tokens, as logits of token 2: how sure it is
SURE, MOVED = 3.0, 2.0


def told(view: View, sure: list[float | None]) -> Prediction:
    """A prediction of token 2 with this logit at each cell; ``None`` = not covered."""
    cells = torch.tensor([at for at, logit in enumerate(sure) if logit is not None])
    logits = torch.full((len(cells), VOCAB), -30.0)
    logits[:, 1], logits[:, 2] = 0.0, torch.tensor([logit for logit in sure if logit is not None])
    seen = torch.zeros_like(view.masked).index_fill(1, cells, True)
    confidence = torch.zeros(view.tokens.shape)
    confidence[seen] = logits.softmax(-1)[:, 2]
    return Prediction(
        torch.full_like(view.tokens, 2), confidence, seen, seen & view.open,
        logits=logits, logsumexp=logits.logsumexp(-1), cells=cells,
    )  # fmt: skip


def written(policy: Klass, block_step: int, *forwards: list[float | None]) -> list[int]:
    """Cells written on the first of the forwards, which the others went before."""
    view, _ = scene([[0.5] * len(forwards[0])], block_step=block_step)
    policy = policy.bind(Setting(MASK))
    said = [told(view, sure) for sure in forwards]
    prediction = replace(said[0], before=tuple(said[1:]))
    decision, _ = policy.decide(view, prediction, policy.begin(view))
    return decision.write[0].nonzero()[:, 0].tolist()


def test_confident_and_stable() -> None:
    policy = Klass(threshold=0.7, divergence=0.01, history=2)
    same = [SURE, SURE, SURE, 0.0]
    assert written(policy, 1, same, same, same) == [0, 1, 2]  # cell 3 stays, but is not confident
    assert written(policy, 1, same, [SURE, SURE, MOVED, 0.0], same) == [0, 1]
    assert written(policy, 1, same, same, [MOVED, SURE, SURE, 0.0]) == [1, 2]  # one forward earlier counts as well
    assert written(policy, 1, same, same, [None, SURE, None, SURE]) == [1]  # nothing to compare with


def test_the_best_cell_when_none_is_ready() -> None:
    policy = Klass(threshold=0.7, divergence=0.01, history=2)
    now = [SURE, SURE + 1, SURE, 0.0]
    assert written(policy, 1, now, now) == [1]  # too few forwards
    assert written(policy, 0, now, now, now) == [1]  # enough of them, but not of this block
    assert written(replace(policy, k=2), 0, now) == [0, 1]
    assert written(replace(policy, history=1), 0, now, now) == [0, 1, 2]


def test_what_it_needs_depends_on_where_history_begins() -> None:
    policy = Klass()
    assert policy.bind(Setting(MASK)).scope == Scope.REST
    assert policy.bind(Setting(MASK, cache="dual")).scope == Scope.OPEN
    assert policy.bind(Setting(MASK, cache="dual")).recalls == 2


def test_a_schedule_of_steps() -> None:
    result = decode(tiny("llada"), Klass(threshold=1.0, steps=3), [[1, 2]], max_new_tokens=8, block_length=4)
    assert [len(cells) for cells in commits(result)] == [2, 1, 1] * 2


def test_with_no_bounds_every_forward_from_the_third_completes_its_block() -> None:
    for cache in ("none", "prefix", "dual"):
        result = decode(
            tiny("llada"), Klass(threshold=0.0, divergence=1e9), [[1, 2], [3]], cache, max_new_tokens=8, block_length=4
        )
        counts = [1, 1, 2] + ([1, 3] if cache == "none" else [1, 1, 2])
        for row in range(2):
            assert [len(cells) for cells in commits(result, row)] == counts


@pytest.mark.parametrize(("family", "released"), [("llada", (0.6, 0.015)), ("dream", (0.9, 0.001))])
def test_the_released_values_of_the_model(family: str, released: tuple[float, float]) -> None:
    bound = Klass().bind(Setting(MASK, family=family))
    assert (bound.threshold, bound.divergence) == released


@pytest.mark.parametrize(
    ("fields", "said"),
    [({"threshold": -1}, "threshold is -1"), ({"divergence": -1}, "divergence is -1"),
     ({"history": 0}, "history is 0"), ({"since": "ever"}, "since is 'ever'"), ({"k": 0}, "k is 0")],
)  # fmt: skip
def test_refuses(fields: dict[str, object], said: str) -> None:
    with pytest.raises(PolicyError, match=said):
        Klass(**fields)  # type: ignore[arg-type]
