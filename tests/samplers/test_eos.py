"""EosStop and DeferEos."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from samplers import Decision, DeferEos, EosStop, PolicyError, Setting
from tests.toys import EOS, MASK, scene

SETTING = Setting(mask_id=MASK, eos_ids=(EOS,), vocab_size=24)


def finished(
    confidence: list[list[float | None]], tokens: list[list[int]], write: list[int], **where: object
) -> tuple:
    """What EosStop makes of writing the proposals at some cells of one row: row afterwards, stop."""
    part = EosStop(**({"when": where.pop("when")} if "when" in where else {})).bind(SETTING)
    view, prediction = scene(confidence, tokens=tokens, **where)  # type: ignore[arg-type]
    chosen = torch.zeros_like(view.masked)
    chosen[0, write] = True
    decision, _ = part.finish(view, prediction, Decision(chosen, prediction.token), None)
    assert decision.stop is not None
    row = torch.where(decision.write, decision.values, view.tokens)[0]
    return row.tolist(), bool(decision.stop)


def test_stops_when_the_text_is_settled() -> None:
    row, stop = finished([[None, 0.9, 0.5, 0.5]], [[5, EOS, 3, 4]], [1])
    assert (row, stop) == ([5, EOS, EOS, EOS], True)


def test_a_mask_before_the_end_keeps_the_row_alive() -> None:
    row, stop = finished([[0.1, 0.9, 0.5, 0.5]], [[5, EOS, 3, 4]], [1])
    assert (row, stop) == ([MASK, EOS, MASK, MASK], False)


def test_committed_text_after_the_end_stays() -> None:
    row, stop = finished([[0.5, None, None, 0.5]], [[EOS, 6, 7, 8]], [0])
    assert (row, stop) == ([EOS, 6, 7, EOS], True)


def test_block_rule_waits_for_the_whole_block() -> None:
    where = {"block": (0, 2), "when": "block"}
    assert finished([[0.5, 0.5, 0.5]], [[EOS, 4, 5]], [0], **where) == ([EOS, MASK, MASK], False)
    assert finished([[0.5, 0.5, 0.5]], [[EOS, 4, 5]], [0, 1], **where) == ([EOS, 4, EOS], True)
    assert finished([[0.5, 0.5, 0.5]], [[3, 4, 5]], [0, 1], **where) == ([3, 4, MASK], False)


def test_several_ends_fill_with_the_first() -> None:
    view, prediction = scene([[0.9, 0.9, 0.5]], tokens=[[21, EOS, 3]], eos_ids=(EOS, 21))
    write = torch.tensor([[True, True, False]])
    decision, _ = EosStop().finish(view, prediction, Decision(write, prediction.token), None)
    assert decision.values[0].tolist() == [21, EOS, 21]


def test_an_earlier_stop_is_kept() -> None:
    view, prediction = scene([[0.9, 0.5], [0.9, 0.5]], tokens=[[1, 2], [EOS, 3]])
    decision = Decision(torch.tensor([[True, False]] * 2), prediction.token, stop=torch.tensor([True, False]))
    decision, _ = EosStop().finish(view, prediction, decision, None)
    assert decision.stop is not None and decision.stop.tolist() == [True, True]


def test_defer_eos_renormalises_and_sinks() -> None:
    """p = (0.5, 0.25, 0.125, 0.125): without ids 3 and 0, token 1 has 0.25 / 0.375; a deferred proposal has 0."""
    logits = torch.tensor([[0.5, 0.25, 0.125, 0.125]] * 2).log()
    view, prediction = scene([[0.25, None, 0.5]], tokens=[[1, 9, 0]])
    prediction = type(prediction)(
        **{
            **prediction.__dict__,
            "logits": logits,
            "logsumexp": logits.logsumexp(-1),
            "cells": torch.tensor([0, 2]),
        },
    )
    out, _ = DeferEos(ids=(0, 3)).rescore(view, prediction, None)
    torch.testing.assert_close(out.confidence, torch.tensor([[2 / 3, 0.0, 0.0]]))
    assert torch.equal(out.token, prediction.token)
    assert torch.equal(logits.exp(), torch.tensor([[0.5, 0.25, 0.125, 0.125]] * 2))  # left as they were


def test_defer_eos_is_the_softmax_without_them() -> None:
    """Also where they have nearly all of the probability and a sampled token has the rest, or a part of it."""
    logits = 4 * torch.randn(60, 24, generator=torch.Generator().manual_seed(0))
    logits[:40, EOS] = torch.linspace(0, 120, 40)
    logits[:, 5] = -torch.inf  # a suppressed token
    token = torch.randint(0, 5, (1, 60), generator=torch.Generator().manual_seed(1))
    view, prediction = scene([[0.5] * 60], tokens=token.tolist())
    prediction = replace(prediction, logits=logits, logsumexp=logits.logsumexp(-1), cells=torch.arange(60))
    out, _ = DeferEos(ids=(EOS, 7)).rescore(view, prediction, None)
    plain = logits.double().index_fill(1, torch.tensor([EOS, 7]), -torch.inf).softmax(-1)
    torch.testing.assert_close(out.confidence[0].double(), plain.gather(1, token[0][:, None])[:, 0], rtol=1e-5, atol=0)


def test_binding() -> None:
    assert DeferEos().bind(SETTING).ids == (EOS,)
    assert DeferEos(ids=(3,)).bind(SETTING).ids == (3,)
    bare = Setting(mask_id=MASK)
    with pytest.raises(PolicyError, match="DeferEos needs the ids to defer, but the model has no end-of-text id"):
        DeferEos().bind(bare)
    with pytest.raises(PolicyError, match="EosStop needs an end-of-text id, but the model has none"):
        EosStop().bind(bare)
    with pytest.raises(PolicyError, match="when is 'soon'; choose settled or block"):
        EosStop(when="soon")  # type: ignore[arg-type]
