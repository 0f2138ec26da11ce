"""SchED and what it shares with Prophet: the worked tables, coverage, the gate, caches, parameters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch

from samplers import Decision, PolicyError, SchED, Scope, Setting, TopK, View
from samplers.early_exit import Watch
from tests.references.golden_data import golden_json
from tests.toys import EOS, MASK, VOCAB, commits, decode, scene, tiny

SETTING = Setting(mask_id=MASK, eos_ids=(EOS,), vocab_size=VOCAB, block_length=4, max_new_tokens=8)


def example(number: int) -> dict[str, Any]:
    """A worked example by its number."""
    found = golden_json("trajectory_policies/worked_sched.json")["examples"]
    return next(e for e in found if e["name"].startswith(f"S{number} "))


def look(
    policy: SchED,
    margins: Sequence[float],
    masked: Sequence[int],
    tokens: Sequence[int] | None = None,
    memory: Watch | None = None,
    predicted: Sequence[int] | None = None,
) -> tuple[Decision, Watch, View]:
    """One forward's end: cell of `masked` are masks, all (or `predicted`) are predicted with these logit margins."""
    cells = len(margins)
    sure = [0.5 if i in masked else None for i in range(cells)]
    view, prediction = scene([sure], logit_margin=[margins], tokens=None if tokens is None else [tokens])
    seen = torch.tensor([[predicted is None or i in predicted for i in range(cells)]])
    proposed = prediction.token if tokens is None else torch.tensor([tokens])
    prediction = replace(prediction, predicted=seen, token=proposed)
    nothing = Decision(torch.zeros_like(view.masked), prediction.token)
    memory = policy.begin(view) if memory is None else memory
    decision, after = policy.finish(view, prediction, nothing, memory)
    return decision, after, view


def leaves(*given: Any, **more: Any) -> bool:
    """Whether the row exits, with all its masks filled."""
    decision, _, view = look(*given, **more)
    assert decision.stop is not None
    assert torch.equal(decision.write, view.masked & decision.stop[:, None])
    return bool(decision.stop)


@pytest.mark.golden
def test_thresholds() -> None:
    for table in example(1)["tables"]:
        given = {"high": table["tau_high"], "low": table["tau_low"], "schedule": table["mode"], "k": table["k"] or 4.0}
        taken = torch.arange(1, 6)
        total = torch.full_like(taken, 5)
        paper = SchED(**given).bar(taken, total)
        released = SchED(**given, progress="released").bar(taken, total)
        assert paper.tolist() == pytest.approx(table["tau_paper"], abs=1e-6)
        assert released.tolist() == pytest.approx(table["tau_code"], abs=1e-6)
    ends, one = example(4), torch.tensor([1])
    assert float(SchED(progress="released").bar(one, one)) == ends["code_T1_tau"]
    for name, tau in ends["tau_at_code_last_step"].items():
        schedule, _, k = name.partition("_k")
        last = SchED(schedule=schedule, k=float(k or 4), progress="released").bar(5 * one, 5 * one)  # type: ignore[arg-type]
        assert float(last) == pytest.approx(tau, abs=1e-6)


@pytest.mark.golden
def test_full_span_or_masked_cells() -> None:
    table = example(2)
    flat = {"high": table["tau"], "low": table["tau"]}
    assert leaves(SchED(**flat, region="all"), table["margins"], table["masked"]) == table["exit_all"]
    assert leaves(SchED(**flat), table["margins"], table["masked"]) == table["exit_masked"]
    # Equality counts.
    assert leaves(SchED(high=table["mean_masked"], low=table["mean_masked"]), table["margins"], table["masked"])


@pytest.mark.golden
def test_stability_gate() -> None:
    table = example(3)
    top2 = torch.tensor(table["cur_logits"]).topk(2).values
    margins = (top2[:, 0] - top2[:, 1]).tolist()
    for max_change, name in (
        (None, "exit_margin_rule_only"),
        (0.0, "exit_code_default_max_change_0"),
        (0.5, "exit_code_max_change_0_5"),
    ):
        policy = SchED(high=table["tau"], low=table["tau"], max_change=max_change)
        high = replace(policy, high=99.0, low=99.0)
        _, memory, _ = look(high, margins, table["masked"], table["argmax_prev"])
        given = (policy, margins, table["masked"], table["argmax_cur"], memory)
        assert leaves(*given) == table[name]
    # The first forward has nothing to compare with: only a gate that lets all pass opens.
    for max_change, open_ in ((0.0, False), (0.9, False), (1.0, True)):
        assert leaves(SchED(high=0.0, low=0.0, max_change=max_change), margins, table["masked"]) == open_


def test_patience_counts_forwards_in_a_row() -> None:
    policy = SchED(high=0.0, low=0.0, max_change=0.0, patience=1)
    proposals, memory, outcome = [[5, 6], [5, 6], [5, 7], [5, 7], [5, 7]], None, []
    for tokens in proposals:
        decision, memory, _ = look(policy, [1.0, 1.0], [0, 1], tokens, memory)
        assert decision.stop is not None
        outcome.append(bool(decision.stop))
    assert outcome == [False, False, False, False, True]


def test_the_gate_asks_for_progress() -> None:
    policy = SchED(high=0.0, low=0.0, max_change=1.0, min_progress=0.5)
    assert not leaves(policy, [1.0] * 4, [1, 2, 3])
    assert leaves(policy, [1.0] * 4, [2, 3])


@pytest.mark.golden
def test_trace_of_four_forwards() -> None:
    table = example(5)
    policy = SchED(high=4.0, low=1.0, schedule="linear")
    whole = replace(policy, region="all")
    memory = None
    for row in table["trace"]:
        taken, total = torch.tensor([row["step"]]), torch.tensor([4])
        assert float(policy.bar(taken, total)) == pytest.approx(row["tau_paper"])
        assert float(replace(policy, progress="released").bar(taken, total)) == pytest.approx(row["tau_code"])
        decision, memory, view = look(policy, row["margins"], row["masked"], memory=memory)
        assert decision.stop is not None and bool(decision.stop) == row["exit"]
        assert torch.tensor(row["margins"])[view.masked[0]].mean() == pytest.approx(row["gbar_masked"])
        assert torch.tensor(row["margins"]).mean() == pytest.approx(row["gbar_all"])
        assert bool(whole.watched(view).all())
        if row["exit"]:
            assert decision.write[0].nonzero()[:, 0].tolist() == [cell for cell, _ in row["fill"]]
    assert row["step"] == table["forwards"]


@pytest.mark.golden
def test_a_confident_block_alone_does_not_exit() -> None:
    table = example(6)["blocks"]
    margins, masked = table["margins_step3"], table["masked_step3"]
    policy = SchED(high=7.5, low=2.5, schedule="linear", steps=table["T"])
    for low, tau in ((2.5, "tau_linear_paper_p3_8"), (0.0, "tau_low0")):
        lower = replace(policy, low=low)
        assert float(lower.bar(torch.tensor([3]), torch.tensor([8]))) == pytest.approx(table[tau])
        _, memory, _ = look(lower, [0.0] * 8, masked)
        memory = replace(memory, taken=memory.taken + 1)
        assert leaves(lower, margins, masked, memory=memory) == table["exit_whole_span"]
        # A forward of the block alone says nothing, however sure it is ...
        block = range(table["block_length"])
        assert not leaves(lower, [99.0] * 8, masked, memory=memory, predicted=block)
        # ... unless margins from earlier forwards may stand in for the rest.
        early = replace(lower, stale=True)
        assert leaves(early, [99.0] * 8, masked, memory=memory, predicted=block)


def test_rows_exit_on_their_own() -> None:
    view, prediction = scene([[0.5, 0.5], [0.5, 0.5]], logit_margin=[[9.0, 9.0], [1.0, 1.0]])
    nothing = Decision(torch.zeros_like(view.masked), prediction.token)
    policy = SchED(high=5.0, low=5.0)
    decision, _ = policy.finish(view, prediction, nothing, policy.begin(view))
    assert decision.stop is not None and decision.stop.tolist() == [True, False]
    assert decision.write.tolist() == [[True, True], [False, False]]


def test_t_is_the_length_unless_given() -> None:
    """An unreachable bar that falls to 0 at the end is met by the last forward of T."""
    falling: dict[str, Any] = {"high": 1e9, "low": 0.0, "schedule": "linear"}
    model = tiny("llada")
    for steps, forwards in ((None, 8), (5, 5)):
        result = decode(model, TopK() | SchED(**falling, steps=steps), [1, 2], max_new_tokens=8, block_length=4)
        assert result.nfe[0] == forwards
        assert len(commits(result)[-1]) == 8 - forwards + 1


def test_caches() -> None:
    policy = SchED()
    with pytest.raises(PolicyError, match="use cache='prefix' or 'none', or stale=True"):
        policy.bind(replace(SETTING, cache="dual"))
    for fine in (
        replace(SETTING, cache="prefix"),
        replace(SETTING, cache="dual", block_length=8),
        replace(SETTING, cache="dual", block_length=None),
    ):
        assert policy.bind(fine) == policy
    assert replace(policy, stale=True).bind(replace(SETTING, cache="dual")).scope == Scope.REST
    # Forwards that cover every mask judge, cached or not; stale margins do under a cache of blocks.
    low: dict[str, Any] = {"high": 2.0, "low": 0.1}
    model = tiny("llada", 3)
    runs = [
        decode(
            model, TopK() | SchED(**low, stale=cache == "dual"), [4, 5, 6], cache, max_new_tokens=12, block_length=12
        )
        for cache in ("none", "prefix", "dual")
    ]
    assert all(run.nfe[0] < 12 and MASK not in run.sequences[0] for run in runs)
    stale = decode(model, TopK() | SchED(**low, stale=True), [4, 5, 6], "dual", max_new_tokens=12, block_length=4)
    assert stale.nfe[0] < 12 and MASK not in stale.sequences[0]


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"high": 1.0, "low": 2.0}, "give high >= low >= 0"),
        ({"low": -1.0}, "give high >= low >= 0"),
        ({"schedule": "step"}, "schedule is 'step'; choose linear, cosine or exp"),
        ({"k": 0.0}, "k is 0.0; give a number above 0"),
        ({"progress": "code"}, "progress is 'code'; choose paper or released"),
        ({"steps": 0}, "steps is 0; give a whole number from 1 up"),
        ({"region": "answer"}, "region is 'answer'; choose masked or all"),
        ({"max_change": 1.5}, "max_change is 1.5; give a number from 0 to 1"),
        ({"max_change": 0.0, "patience": -1}, "patience is -1"),
        ({"patience": 2}, "belong to the gate; give max_change too"),
        ({"min_progress": 0.5}, "belong to the gate; give max_change too"),
    ],
)
def test_wrong_parameters(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(PolicyError, match=said):
        SchED(**fields)
