"""Prophet: its stages, its answer span, parameters.  The exit itself is tested with SchED."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from samplers import Decision, PolicyError, Prophet, Scope, TopK, parse_policy
from tests.toys import MASK, decode, scene, tiny


def test_stages() -> None:
    taken, total = torch.arange(1, 101), torch.full((100,), 100)
    assert Prophet().bar(taken, total).tolist() == [7.5] * 32 + [5.0] * 34 + [2.5] * 34
    thirds = Prophet(stages=(1 / 3, 2 / 3)).bar(torch.tensor([1, 2, 3]), torch.tensor([3, 3, 3]))
    assert thirds.tolist() == [5.0, 2.5, 2.5]


def test_the_answer_counts_whether_committed_or_not() -> None:
    """Cells 1 and 2 are the answer; cell 1 is committed, with a small margin."""
    view, prediction = scene([[0.5, None, 0.5, 0.5]], logit_margin=[[9.0, 2.0, 8.0, 9.0]])
    prediction = replace(prediction, predicted=torch.ones_like(view.masked))
    nothing = Decision(torch.zeros_like(view.masked), prediction.token)
    for early, leaves in ((5.0, True), (5.1, False)):
        policy = Prophet(early, 1.0, 1.0, answer_start=1, answer_length=2)
        decision, _ = policy.finish(view, prediction, nothing, policy.begin(view))
        assert decision.stop is not None and bool(decision.stop) == leaves
        assert decision.write.any() == leaves
    assert policy.scope == Scope.ALL and Prophet().scope == Scope.REST
    # Clipped at the end of the row; a span behind it never exits.
    assert Prophet(answer_start=3).answer(view).tolist() == [[False, False, False, True]]
    far = Prophet(0.0, 0.0, 0.0, answer_start=4)
    decision, _ = far.finish(view, prediction, nothing, far.begin(view))
    assert decision.stop is not None and not bool(decision.stop)


def test_an_answer_in_a_later_block_is_read_from_the_first_forward_on() -> None:
    model = tiny("llada", 1)
    run = decode(
        model,
        TopK() | Prophet(0.0, 0.0, 0.0, answer_start=9, answer_length=3),
        [1, 2],
        max_new_tokens=12,
        block_length=4,
    )
    assert run.nfe == [1] and MASK not in run.sequences[0]


def test_spelling() -> None:
    parsed = parse_policy("topk+prophet:answer_start=20,stages=0.3/0.6,steps=64")
    assert parsed == TopK() | Prophet(answer_start=20, stages=(0.3, 0.6), steps=64)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"early": 1.0}, "give early >= middle >= late >= 0"),
        ({"stages": (0.5,)}, "give two rising shares"),
        ({"stages": (0.7, 0.3)}, "give two rising shares"),
        ({"answer_start": -1}, "answer_start is -1"),
        ({"answer_length": 0}, "answer_length is 0"),
        ({"steps": 0}, "steps is 0"),
    ],
)
def test_wrong_parameters(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(PolicyError, match=said):
        Prophet(**fields)
