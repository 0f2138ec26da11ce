"""FreeDave: drafts, chains, cost, refusals.  That it is lossless is tested in tests/scripts/test_check_lossless.py."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor

from dllm_decode import DiffusionSampler, GenerationConfig
from samplers import (
    CCD,
    AdaBlock,
    Decision,
    EosStop,
    FreeDave,
    FreeDavePlus,
    LocalLeap,
    Policy,
    PolicyError,
    Prediction,
    SchED,
    Scope,
    Setting,
    Threshold,
    TopK,
    View,
    parse_policy,
    spell,
)
from samplers.contract.select import top
from samplers.freedave.budget import Budget
from samplers.freedave.chain import furthest
from samplers.freedave.drafts import Drafts, in_line
from samplers.freedave.stochastic import StochasticFreeDave
from tests.toys import EOS, FAMILIES, MASK, VOCAB, commits, decode, scene, tiny

SETTING = Setting(mask_id=MASK, eos_ids=(EOS,), vocab_size=VOCAB, block_length=4, max_new_tokens=8)


def opened(policy: FreeDave, sure: list[float | None], tokens: list[int], **more: Any) -> tuple[Any, Drafts, Any]:
    """The view after the decision on a plain forward, and what is drafted."""
    view, prediction = scene([sure], tokens=[tokens], **more)
    decision, drafts = policy.decide(view, prediction, policy.begin(view))
    return view.after(decision.write, decision.values), drafts, decision


def canvases(drafts: Drafts, view: View, count: int) -> Tensor:
    """What is asked for."""
    inside = replace(view, block_step=view.block_step + 1)
    query = drafts.query(inside, torch.tensor([count]), cross_block=False)
    assert query is not None
    drawn = query.canvases
    assert drawn is not None
    return drawn


def test_drafts_follow_the_rule_on_the_same_prediction() -> None:
    view, drafts, decision = opened(FreeDave(drafts=3), [0.5, 0.9, 0.7, 0.6], [4, 5, 6, 7])
    assert decision.write[0].tolist() == [False, True, False, False]
    query = drafts.query(view, torch.tensor([3]), cross_block=False)
    assert query.canvases is not None and query.used is not None
    m = MASK
    assert query.canvases[0].tolist() == [[m, 5, m, m], [m, 5, 6, m], [m, 5, 6, 7]]
    assert query.used.tolist() == [[True, True, True]]
    # A draft that leaves nothing to predict is not forwarded.
    query = drafts.query(replace(view, end=torch.tensor([3])), torch.tensor([3]), cross_block=False)
    assert query.used is not None and query.used.tolist() == [[True, True, True]]
    _, left, _ = opened(FreeDave(drafts=8), [None, 0.9, 0.7, 0.6], [1, 5, 6, 7])
    view = view.after(torch.tensor([[True, False, False, False]]), torch.tensor([[1, 0, 0, 0]]))
    query = left.query(view, torch.tensor([8]), cross_block=False)
    assert query.used is not None and query.used.tolist() == [[True, True] + [False] * 6]


def test_drafts_of_two_cells_a_step() -> None:
    view, drafts, _ = opened(FreeDave(TopK(k=2), drafts=2), [0.1, 0.9, 0.7, 0.6, 0.5], [4, 5, 6, 7, 8])
    m = MASK
    assert canvases(drafts, view, 2)[0].tolist() == [[m, 5, 6, m, m], [m, 5, 6, 7, 8]]


def test_drafts_that_another_part_overruled_are_still_drafts() -> None:
    """BlindFirst commits cell 0 instead of cell 1: the step's choice becomes the first draft."""
    view, prediction = scene([[0.5, 0.9, 0.7, 0.6]], tokens=[[4, 5, 6, 7]])
    policy = FreeDave(drafts=3)
    _, drafts = policy.decide(view, prediction, policy.begin(view))
    view = view.after(torch.tensor([[True, False, False, False]]), torch.tensor([[9, 0, 0, 0]]))
    m = MASK
    assert canvases(drafts, view, 3)[0].tolist() == [[9, m, m, m], [9, 5, m, m], [9, 5, 6, m]]


def test_left_to_right_and_across_blocks() -> None:
    score, where = torch.tensor([[0.1, 0.9, 0.5, 0.8]]), torch.ones(1, 4, dtype=torch.bool)
    view, _ = scene([[0.1, 0.9, 0.5, 0.8]], block=(0, 2))
    assert in_line(view, score, where, across=False).tolist() == [[3, 0, 2, 1]]
    assert in_line(view, score, where, across=True).tolist() == [[1, 0, 3, 2]]
    model = tiny("llada", 2)
    run = decode(model, FreeDave(order="left_to_right"), [1, 2], max_new_tokens=8, block_length=4)
    assert [cell for step in commits(run) for cell in step] == list(range(8))


def test_the_chain_stops_where_the_step_leaves_the_drafts() -> None:
    policy = FreeDave(drafts=3)
    view, drafts, _ = opened(policy, [0.5, 0.9, 0.7, 0.6], [4, 5, 6, 7])
    view = replace(view, block_step=torch.tensor([1]))
    drawn = canvases(drafts, view, 3)
    masks = drawn == MASK

    def verify(first: list[float], second: list[float], third: list[float], tokens: list[int]) -> list[list[int]]:
        sure = torch.tensor([first, second, third]) * masks[0]
        token = torch.tensor([tokens]).expand(3, 4)
        open_ = masks[0]
        said = Prediction(token, sure, open_, open_, branches=3, canvases=drawn)
        decision, _ = policy.decide(view, said, drafts)
        assert decision.turn is not None and decision.order is not None
        order = decision.order[0]
        cells = sorted(decision.write[0].nonzero()[:, 0].tolist(), key=lambda cell: float(order[cell]))
        return [[cell, int(decision.values[0, cell]), int(decision.turn[0, cell])] for cell in cells]

    agree = [0.1, 0.0, 0.9, 0.5]
    # Every step leads to the next draft; the last one takes its step too.
    assert verify(agree, agree, agree, [4, 5, 6, 7]) == [[2, 6, 0], [3, 7, 1], [0, 4, 2]]
    # The first draft holds, the second does not: another cell.
    assert verify(agree, [0.9, 0.0, 0.0, 0.5], agree, [4, 5, 6, 7]) == [[2, 6, 0], [0, 4, 1]]
    # Another token: one commit, as without drafts.
    assert verify(agree, agree, agree, [4, 5, 8, 7]) == [[2, 8, 0]]


def test_agreement_can_skip_drafts() -> None:
    m = MASK
    canvases = torch.tensor([[[1, m, m], [1, 2, m], [1, 2, 3]]])
    part = canvases == m

    def onward(*reached: list[int], part: Tensor | None = None, first: int = 0) -> list[int]:
        return furthest(canvases, torch.tensor([reached]), first, part)[0].tolist()

    assert onward([1, 2, 3]) == [2] and onward([1, 2, 4]) == [0]
    assert onward([1, 2, 4], part=part) == [1] and onward([1, 4, 3], part=part) == [0]
    assert onward([1, 2, m], [1, 2, 3], [1, 2, 3]) == [1, 2, 2]
    assert onward([1, 2, 4], first=1) == [1]


@pytest.mark.parametrize("across", [False, True])
@pytest.mark.parametrize(
    "step", [Threshold(0.4), TopK(k=2), LocalLeap(0.5, 0.3, 1)], ids=lambda step: type(step).__name__
)
def test_all_branches_at_once_are_one_after_the_other(step: Policy, across: bool) -> None:
    """A step without a memory is taken on all branches together: with the outcome of taking it on one at a time."""

    @dataclass(frozen=True)
    class Remembers(type(step)):  # type: ignore[misc]
        """The same rule with a memory: every step's number, in all and in its block."""

        def begin(self, view: View) -> Tensor:
            return torch.zeros_like(view.start)

        def decide(self, view: View, prediction: Prediction, memory: Any) -> Any:
            decision, _ = super().decide(view, prediction, None)
            return decision, memory

    skipped = 0
    for seed in range(6):
        runs = [
            decode(
                tiny("llada", seed),
                FreeDave(rule, drafts=5, cross_block=across),
                [[5, 6, 7], [8], [9, 2]],
                max_new_tokens=14,
                block_length=4 if across else 7,
            )
            for rule in (step, Remembers(**vars(step)))
        ]
        for once, slowly in zip(runs[0].trace, runs[1].trace, strict=True):
            assert once.steps == slowly.steps
            skipped += any(len(s.cells) > 1 for s in once.steps)
    assert skipped


def test_steps_are_counted_along_the_way() -> None:
    """A rule that reads how many forwards there were sees on each branch what it would see without drafts."""

    @dataclass(frozen=True)
    class Alternating(Policy):
        """Two cells at every third forward of the row or second of the block, else one."""

        def decide(self, view: View, prediction: Prediction, memory: Any) -> Any:
            many = (view.step % 3 == 2) | (view.block_step % 2 == 1)
            write = top(prediction.confidence, prediction.open, torch.where(many, 2, 1))
            return Decision(write, prediction.token), memory

    saved = 0
    for seed in range(6):
        for across in (False, True):
            pair = [
                decode(tiny("llada", seed), rule, [[5, 6, 7], [8], [9, 2]], max_new_tokens=14, block_length=4)
                for rule in (Alternating(), FreeDave(Alternating(), drafts=5, cross_block=across))
            ]
            assert pair[0].sequences == pair[1].sequences
            assert [trace.order() for trace in pair[0].trace] == [trace.order() for trace in pair[1].trace]
            saved += sum(pair[0].nfe) - sum(pair[1].nfe)
    assert saved > 0


@pytest.mark.parametrize("branches", ["tree", "expand"])
@pytest.mark.parametrize("cache", ["none", "prefix", "dual"])
@pytest.mark.parametrize("family", FAMILIES)
def test_cost_is_counted(family: str, cache: str, branches: str) -> None:
    model, block, cells = tiny(family, 1), 6, 18
    run = decode(
        model, FreeDave(drafts=4), [3, 4, 5], cache, max_new_tokens=cells, block_length=block, branches=branches
    )
    static = decode(model, TopK(), [3, 4, 5], cache, max_new_tokens=cells, block_length=block)
    assert run.sequences == static.sequences and run.nfe[0] < static.nfe[0] == cells
    done = 0
    for step in run.trace[0].steps:
        rows = 1 if step.opening else min(4, step.end - done)
        window = 3 + cells
        if cache != "none" and not step.opening:
            owed = family == "dream" and step.tokens % (block + 1) == 0 and cache == "dual"
            window = block + owed if cache == "dual" else step.tokens // rows
        assert step.tokens == rows * window
        assert step.rows == (rows if branches == "expand" else 1)
        done += len(step.cells)
    assert run.tokens_forwarded[0] > static.tokens_forwarded[0]


def test_one_draft_is_the_plain_rule() -> None:
    model = tiny("llada", 4)
    runs = [decode(model, p, [1, 2, 3], max_new_tokens=10, block_length=5) for p in (TopK(), FreeDave(drafts=1))]
    assert commits(runs[0]) == commits(runs[1]) and runs[0].tokens_forwarded == runs[1].tokens_forwarded


def test_no_mask_left_to_draft() -> None:
    """More drafts than cells, blocks of one cell, a canvas of one cell."""
    model = tiny("dream", 4)
    for cells, block in ((1, 4), (3, 1), (2, 2)):
        run = decode(model, FreeDave(drafts=8), [[1], [2, 3]], "prefix", max_new_tokens=cells, block_length=block)
        assert all(MASK not in row and len(row) == cells for row in run.sequences)


def test_stopping_parts_see_every_step() -> None:
    """The row stops where static decoding would: nothing decided later in the same forward is kept."""
    seen = 0
    for seed in range(12):
        model = tiny("llada", seed)
        for beside in (EosStop(), SchED(high=2.0, low=0.1)):
            pair = [
                decode(model, policy | beside, [[5, 6, 7], [8]], max_new_tokens=16, block_length=8)
                for policy in (TopK(), FreeDave(drafts=4))
            ]
            assert pair[0].sequences == pair[1].sequences
            assert [trace.order() for trace in pair[0].trace] == [trace.order() for trace in pair[1].trace]
            seen += any(len(trace.steps) < 16 for trace in pair[0].trace)
    assert seen > 12


def test_plus_is_not_lossless() -> None:
    """It says so, and it is: some run ends elsewhere than the threshold."""
    assert "Not lossless" in (FreeDavePlus.__doc__ or "")
    differ = saved = 0
    for threshold in (0.2, 0.5):
        for seed in range(8):
            pair = [
                decode(tiny("dream", seed), policy, [[5, 6, 7], [8]], max_new_tokens=16, block_length=16)
                for policy in (Threshold(threshold), FreeDavePlus(Threshold(threshold)))
            ]
            assert all(MASK not in row for row in pair[1].sequences)
            differ += pair[0].sequences != pair[1].sequences
            saved += sum(pair[0].nfe) - sum(pair[1].nfe)
    assert differ > 1 and saved > 0


def test_plus_goes_on_from_part_of_a_step() -> None:
    """The threshold takes three cells; the draft of the best alone still holds, where FreeDave's would not."""
    view, prediction = scene([[0.5, 0.9, 0.8, 0.7]], tokens=[[4, 5, 6, 7]])
    plus, exact = FreeDavePlus(Threshold(0.6), drafts=2), FreeDave(Threshold(0.6), drafts=2)
    drafts = plus.draft(view, view, prediction, plus.begin(view).seen, None)
    drawn = canvases(drafts, view, 2)
    m = MASK
    assert drawn[0].tolist() == [[m, m, m, m], [m, 5, m, m]]
    taken = torch.tensor([[m, 5, 6, 7]])
    for policy, onward in ((plus, 1), (exact, 0)):
        part = policy.unjudged(drawn, m)
        assert furthest(drawn, taken[:, None], 0, part).tolist() == [[onward]]


def test_plus_in_a_batch_whose_rows_have_fewer_drafts() -> None:
    """A canvas without a draft of its own, beside a row that has one, is nothing a chain can lead to."""
    for seed in range(4):
        for cache in ("none", "prefix"):
            policy, prompts = FreeDavePlus(Threshold(0.4), drafts=3), [[1, 2, 3], [4], [5, 6]]
            settings: dict[str, Any] = {"max_new_tokens": 7, "block_length": 3}
            batch = decode(tiny("llada", seed), policy, prompts, cache, **settings)
            for row, prompt in enumerate(prompts):
                assert commits(batch, row) == commits(decode(tiny("llada", seed), policy, [prompt], cache, **settings))


def test_what_it_asks_of_the_engine() -> None:
    assert FreeDave().scope == Scope.OPEN and FreeDave(cross_block=True).scope == Scope.REST
    assert FreeDave(TopK(score="entropy")).needs == {"entropy"}
    bound = FreeDave(CCD()).bind(replace(SETTING, family="dream"))
    assert bound.needs == {"entropy", "logits"}
    sampled = FreeDave(drafts=3).bind(replace(SETTING, temperature=0.5))
    assert sampled == StochasticFreeDave(Budget(3), "confidence", False)


def test_spelling() -> None:
    policy = parse_policy("freedave:step=(localleap:radius=2),drafts=8")
    assert policy == FreeDave(LocalLeap(radius=2), drafts=8)
    assert parse_policy(spell(policy)) == policy
    assert spell(FreeDave()) == "freedave" and spell(FreeDavePlus()) == "freedaveplus"


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: FreeDave(drafts=0), "drafts is 0; give a whole number from 1 up"),
        (lambda: FreeDave(order="random"), "order is 'random'; choose confidence or left_to_right"),  # type: ignore[arg-type]
        (lambda: FreeDave(TopK(score="random")), "TopK ranks cells at random; use step=TopK"),
        (lambda: FreeDave(TopK(steps=4, schedule="time")), "forwards without committing any"),
        (lambda: FreeDave(EosStop()), "EosStop decides nothing"),
        (lambda: FreeDave(FreeDave()), "also plays query, which belongs beside FreeDave"),
        (lambda: FreeDave(TopK() | EosStop()), "also plays finish, which belongs beside FreeDave"),
        (lambda: FreeDave("topk"), "step is 'topk'; give a Policy"),  # type: ignore[arg-type]
        (lambda: FreeDave(Threshold(), order="left_to_right"), "but the step is Threshold"),
        (lambda: FreeDave(cross_block=True).bind(replace(SETTING, cache="prefix")), "use cache='none' or cross_block"),
        (lambda: FreeDave(TopK(k=2)).bind(replace(SETTING, temperature=1.0)), "use step=TopK"),
    ],
)
def test_refusals(make: Any, said: str) -> None:
    with pytest.raises(PolicyError, match=said):
        make()


@pytest.mark.parametrize(
    ("policy", "cache", "said"),
    [
        (FreeDave(cross_block=True), "dual", "cross_block=False"),
        (FreeDave() | TopK(), "none", "FreeDave and TopK both decide what to commit"),
        (AdaBlock(delimiters=(3,)) | FreeDave(cross_block=True), "none", "use FreeDave inside blocks"),
    ],
)
def test_clashes_are_found_at_construction(policy: Policy, cache: str, said: str) -> None:
    with pytest.raises(PolicyError, match=said):
        DiffusionSampler(tiny("llada"), policy, cache, GenerationConfig(max_new_tokens=8))
