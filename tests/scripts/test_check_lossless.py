"""FreeDave decodes as the rule it accelerates: random cases, and that the comparison would notice if it did not."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest
import torch
from torch import Tensor
from typer.testing import CliRunner

import samplers.freedave.chain
from samplers import PolicyError
from scripts import check_lossless
from scripts.check_lossless import Case, judge

CASES, CHUNKS = 300, 10


@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_lossless(chunk: int) -> None:
    random = Random(chunk)
    plain = fast = 0
    for _ in range(CASES // CHUNKS):
        case = Case.draw(random)
        verdict, without, with_drafts = judge(case)
        assert verdict != "different", case
        plain, fast = plain + without, fast + with_drafts
    assert fast < plain


def test_what_a_dropped_turn_wrote_is_filled() -> None:
    """A row ends within a chain: a cell that a later turn would have written is filled like the others."""
    prompt = (30, 23, 24, 14, 21, 2, 22)
    drafts = "auto,row_cost=0.3,drafts_at_most=3"
    settings = {"max_new_tokens": 17, "block_length": 16, "early_stop": True}
    step = "ccdds:history=2,candidates=3"
    case = Case("dream", 1, 209, step, "", drafts, "confidence", False, "dual", (prompt,), settings)
    _, fast = case.run()
    assert fast.trace[0].steps[-1].filled and judge(case)[0] == "same"


def believe(canvases: Tensor, reached: Tensor, first: int = 0, part: Tensor | None = None) -> Tensor:
    """A wrong rule: every draft holds (-1 stands where there is none)."""
    more = ((canvases[:, 1:] != canvases[:, :-1]).any(-1) & (canvases[:, 1:] >= 0).all(-1)).long()
    more = torch.cat([more, torch.zeros_like(more[:, :1])], 1)[:, first : first + reached.shape[1]]
    return torch.arange(first, first + reached.shape[1]) + more


def test_a_wrong_chain_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    random = Random(0)
    drafting = [case for case in (Case.draw(random) for _ in range(40)) if case.drafts != "1"][:10]
    monkeypatch.setattr(samplers.freedave.chain, "furthest", believe)
    verdicts = set()
    for case in drafting:
        try:
            verdicts.add(judge(case)[0])
        except PolicyError:  # a chain that goes on from nowhere commits nothing
            continue
    assert "different" in verdicts


def run(*arguments: str) -> Any:
    """Call the script."""
    from typer import Typer

    app = Typer()
    app.command()(check_lossless.main)
    return CliRunner().invoke(app, list(arguments))


def test_the_script_counts_and_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    verdicts = iter(["same", "tie", "same", "different", "same"])
    monkeypatch.setattr(check_lossless, "judge", lambda case: (next(verdicts), 10, 4))
    fine = run("--cases", "3")
    assert fine.exit_code == 0
    assert "3 cases: 2 the same, 1 near ties" in fine.output and "0 different" in fine.output
    assert "30 forwards without drafts, 12 with" in fine.output
    wrong = run("--cases", "2")
    assert wrong.exit_code == 1 and "1 different" in wrong.output
