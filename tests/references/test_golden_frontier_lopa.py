"""LoPA against recorded runs of the released code: rounds, branches, the winner's commits, rows forwarded."""

from __future__ import annotations

import copy

import pytest

from samplers import Lopa
from tests.references.frontier_data import Case, assert_completes, assert_same, decode, recorded

pytestmark = pytest.mark.golden

SCORES = {"default": "confidence", "margin": "margin", "neg_entropy": "neg_entropy"}


def policy(case: Case) -> Lopa:
    """The case's rule."""
    given = case["settings"]
    return Lopa(
        given["branching_factor"],
        given["skip_threshold"],
        SCORES[given["sampling_strategy"]],  # type: ignore[arg-type]
        given["selection_conf_alpha"],
        given["branch_topp"],
    )


def whole(case: Case) -> Case:
    """The case with the winner's extra cell among what each round wrote."""
    case = copy.deepcopy(case)
    for step in case["steps"]:
        step.setdefault("revoked", [])
        for at, token in step["branches"][step["winner"]]["extra"]:
            (row,) = step["rows"]
            row["pos"].append(at)
            row["tok"].append(token)
    return case


@pytest.mark.parametrize("case", recorded("lopa"))
def test_lopa(case: Case) -> None:
    result = decode(case, policy(case), branches="expand")  # as rows of their own, to be counted
    assert_same(whole(case), result, confidence=False)
    assert [step.rows for step in result.trace[0].steps] == [len(step["branches"]) for step in case["steps"]]
    assert result.rows_forwarded[0] == case["rows_forwarded"]
    first = len(case["prompt_ids"][0])
    for mine, step in zip(result.trace[0].steps, case["steps"], strict=True):
        sure = dict(zip(mine.cells, mine.confidence, strict=True))
        (row,) = step["rows"]
        assert [sure[at - first] for at in row["pos"]] == pytest.approx(row["conf"], abs=2e-5)
    folded = decode(case, policy(case), branches="tree")
    assert_same(whole(case), folded, confidence=False)
    assert folded.tokens_forwarded == result.tokens_forwarded


@pytest.mark.parametrize("case", recorded("lopa", defects=True))
def test_stale_first_cell(case: Case) -> None:
    """The reference keeps using the first forward's score of the first cell; ours agrees until that matters."""
    assert assert_completes(whole(case), decode(case, policy(case))) >= 1
