"""Steps begun before the policy has decided: right or wrong, they never show in a result."""

from __future__ import annotations

import time
from unittest.mock import PropertyMock, patch

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from dllm_decode.config import GenerationConfig
from dllm_decode.engine.capture.ahead import CREDIT, Lookahead, Request, foresee
from dllm_decode.engine.capture.graphs import graphs_of
from dllm_decode.engine.result import GenerationResult
from dllm_decode.engine.sampler import DiffusionSampler
from dllm_decode.interface.cache import KVCache
from dllm_decode.interface.scoring import Draws, ScoreRule, Scores
from dllm_decode.models import ForwardInput
from samplers import AdaBlock, DeferEos, EosStop, EoTP, Factor, Policy, SchED, Threshold, TopK
from samplers.contract.policy import Forecast
from tests.dllm_decode.engine.capture.test_graphs import PROMPTS, Repeater, recorded
from tests.dllm_decode.tiny import tiny

RULES = st.one_of(
    st.floats(0.02, 1.1).map(Threshold),
    st.integers(1, 4).map(TopK),
    st.floats(0.02, 0.5).map(lambda t: Threshold(t) | AdaBlock(delimiters=(7, 8))),
    st.floats(0.02, 0.5).map(lambda t: Threshold(t) | EoTP(ids=(5, 11), reach="block")),  # cuts rows
    st.floats(0.02, 0.5).map(lambda t: Threshold(t) | EoTP(ids=(5, 11), reach="block")),
)
FORECASTS = st.one_of(
    st.none(),
    st.tuples(st.just("threshold"), st.floats(0.02, 1.1)),
    st.tuples(st.just("top"), st.integers(1, 4)),
)


def run(model: object, policy: Policy, cache: str, prompts: list[list[int]], **changes: object) -> GenerationResult:
    config = GenerationConfig(max_new_tokens=12, block_length=6, **changes)  # type: ignore[arg-type]
    return DiffusionSampler(model, policy, cache, config).generate(prompts)  # type: ignore[arg-type]


def same(one: GenerationResult, other: GenerationResult) -> None:
    """Tokens, every counter, and the whole trace but the last digits of confidences."""
    for name in ("sequences", "nfe", "full_forwards", "rows_forwarded", "tokens_forwarded", "canvas_tokens", "calls"):
        assert getattr(one, name) == getattr(other, name), name
    for mine, theirs in zip(one.trace, other.trace, strict=True):
        assert mine.order() == theirs.order()
        for a, b in zip(mine.steps, theirs.steps, strict=True):
            assert (a.start, a.end, a.cells, a.new, a.rows, a.tokens) == (
                b.start,
                b.end,
                b.cells,
                b.new,
                b.rows,
                b.tokens,
            )
            assert a.confidence == pytest.approx(b.confidence, abs=2e-5)


@settings(max_examples=60)
@given(
    family=st.sampled_from(["llada", "dream"]),
    cache=st.sampled_from(["prefix", "dual"]),
    policy=RULES,
    told=FORECASTS,
    prompts=st.lists(st.lists(st.integers(0, 38), min_size=1, max_size=9), min_size=1, max_size=3),
    refresh=st.sampled_from([1, 1, 1, 2, "window"]),
    eos=st.sampled_from([(), (5, 11)]),
)
@example("llada", "dual", Threshold(0.05) | EoTP(ids=(5, 11)), ("top", 3), PROMPTS, 1, ())
def test_forecasts_never_show(
    family: str,
    cache: str,
    policy: Policy,
    told: tuple[str, float] | None,
    prompts: list[list[int]],
    refresh: int | str,
    eos: tuple[int, ...],
) -> None:
    """``told`` is a forecast that has nothing to do with the policy; ``None`` = its own. ``eos`` stops rows early."""
    refresh = 1 if "block_length" in policy.roles else refresh
    model, recorder = recorded(family)
    eager = tiny(family)
    eager.eos_ids = model.eos_ids = eos
    expected = run(eager, policy, cache, prompts, refresh=refresh)
    lie = PropertyMock(return_value=told)
    with patch.object(Lookahead, "pays", True):
        if told is None:
            got = run(model, policy, cache, prompts, refresh=refresh)
        else:
            with patch.object(Threshold, "forecast", lie), patch.object(TopK, "forecast", lie):
                got = run(model, policy, cache, prompts, refresh=refresh)
    same(got, expected)
    assert graphs_of(model)._ahead is None, "nothing is left at work"
    assert recorder.waited == graphs_of(model).replayed + got.discarded_forwards, "all that was done is told"
    if refresh != 1:
        assert got.discarded_forwards == 0


@pytest.mark.parametrize("family", ["llada", "dream"])
@pytest.mark.parametrize("cache", ["prefix", "dual"])
@pytest.mark.parametrize("policy", [Threshold(0.9), TopK(2)], ids=["threshold", "topk"])
def test_right_forecasts_spare_every_wait(family: str, cache: str, policy: Policy) -> None:
    model, recorder = recorded(family)
    looks: list[Lookahead] = []
    with patch.object(Lookahead, "hit", lambda look, _: looks.append(look)):
        got = run(model, policy, cache, PROMPTS[:1])
    assert graphs_of(model) is not None
    # All but the first step of each of the two blocks were under way when they were asked for.
    assert looks and len(looks) == graphs_of(model).replayed - 2
    assert got.discarded_forwards == 0 and recorder.waited == graphs_of(model).replayed


def test_rows_that_join_are_waited_for() -> None:
    # Rows open their blocks at different times: a step is begun ahead only when no row opens one in the same round.
    model, _ = recorded("llada")
    with patch.object(Lookahead, "pays", True):
        got = run(model, TopK(2), "dual", PROMPTS)
        assert got.discarded_forwards == 0
        uneven = run(model, Threshold(0.2), "dual", PROMPTS)
    same(uneven, run(tiny("llada"), Threshold(0.2), "dual", PROMPTS))
    assert uneven.discarded_forwards <= 1


def test_steps_that_stop_midway_leave_nothing_at_work() -> None:
    model, _ = recorded("llada")
    sampler = DiffusionSampler(model, TopK(1), "dual", GenerationConfig(max_new_tokens=12, block_length=6))
    events = sampler.stream(PROMPTS[0])
    for _ in range(3):
        next(events)
    assert graphs_of(model)._ahead is not None
    events.close()  # type: ignore[attr-defined]
    assert graphs_of(model)._ahead is None
    same(sampler.generate(PROMPTS), DiffusionSampler(tiny("llada"), TopK(1), "dual", sampler.config).generate(PROMPTS))


def test_two_runs_take_turns() -> None:
    model, _ = recorded("llada")
    sampler = DiffusionSampler(model, TopK(1), "dual", GenerationConfig(max_new_tokens=12, block_length=6))
    finals: list[tuple[int, ...]] = [(), ()]
    with patch.object(Lookahead, "pays", True):
        for pair in zip(*(sampler.stream(p) for p in PROMPTS[:2]), strict=True):
            finals = [event.tokens for event in pair]
    fresh = DiffusionSampler(tiny("llada"), TopK(1), "dual", sampler.config)
    assert [list(f) for f in finals] == [fresh.generate(p).sequences[0] for p in PROMPTS[:2]]


def test_weights_that_move_while_a_step_is_at_work() -> None:
    model, _ = recorded("llada")
    sampler = DiffusionSampler(model, TopK(1), "dual", GenerationConfig(max_new_tokens=12, block_length=6))
    events = sampler.stream(PROMPTS[0])
    for _ in range(3):
        next(events)
    head = model.module.get_output_embeddings()
    head.weight = torch.nn.Parameter(-head.weight.detach())  # type: ignore[union-attr, operator]
    assert graphs_of(model)._ahead is None


class Slow(Repeater):
    """A device that takes its time."""

    def wait(self) -> None:
        time.sleep(0.004)
        super().wait()


def test_wrong_forecasts_are_given_up() -> None:
    model, recorder = recorded("llada")
    slow = graphs_of(model).recorder = Slow()  # type: ignore[union-attr]
    with patch.object(TopK, "forecast", PropertyMock(return_value=("top", 2))):
        config = GenerationConfig(max_new_tokens=64, block_length=32)
        got = DiffusionSampler(model, TopK(1), "dual", config).generate(PROMPTS[:1])
    assert got.nfe == [64] and 1 <= got.discarded_forwards <= CREDIT / 0.004 + 1
    assert slow.waited == graphs_of(model).replayed + got.discarded_forwards  # type: ignore[union-attr]


def test_what_pays() -> None:
    look = Lookahead(("top", 1), usual=0.004)
    look.hit(3.0)  # the user looked at the result for three seconds: one step was saved, no more
    assert look.saved == 0.004 and look.pays
    look.miss(CREDIT + 0.003)
    assert look.pays
    look.miss(0.002)
    assert not look.pays and (look.used, look.discarded) == (1, 2)


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        (Threshold(0.7), ("threshold", 0.7)),
        (TopK(3), ("top", 3)),
        (TopK(2, score="entropy"), None),
        (TopK(steps=4), None),
        (Factor(), None),
        (Threshold(0.7) | EosStop(), ("threshold", 0.7)),
        (Threshold(0.7) | SchED(), None),  # cells beyond the block are scored too
        (Threshold(0.7) | DeferEos(), None),  # confidences are changed before they are compared
    ],
    ids=str,
)
def test_what_policies_forecast(policy: Policy, expected: Forecast | None) -> None:
    assert (policy | AdaBlock(delimiters=(7,))).forecast == expected


def request(tokens: list[list[int]], queries: list[int], cells: list[int], draws: Draws | None = None) -> Request:
    count, width = len(tokens), len(tokens[0])
    first, rows = torch.tensor([4, 9, 2])[:count], torch.arange(count)
    positions = first[:, None] + torch.arange(width)
    cache = KVCache(layers=1, rows=count, kv_heads=1, slots=30, head_dim=2)
    inp = ForwardInput(
        torch.tensor(tokens), positions, torch.tensor(queries), torch.tensor([20] * count), cache=cache, rows=rows
    )
    return Request(inp, torch.tensor(cells), ScoreRule(99), draws)


def test_the_next_step_of_two_rows() -> None:
    keys = Draws(*(torch.arange(4) + n for n in (10, 20, 30, 40)))
    now = request([[99, 5, 99, 6], [99, 99, 7, 0]], [4, 3], [0, 2, 4, 5], keys)
    scores = Scores(torch.tensor([1, 2, 3, 4]), torch.tensor([0.5, 0.5, 0.1, 0.2]))
    after = foresee(now, scores, ("top", 1), 0)
    assert after is not None and after.draws is not None
    assert after.inp.tokens.tolist() == [[1, 5, 99, 6], [99, 4, 7, 0]], "ties go to the lower position"
    assert after.cells.tolist() == [2, 4]
    assert after.draws.seed.tolist() == [11, 12] and after.draws.step.tolist() == [22, 23]
    assert now.inp.tokens[0, 0] == 99, "the step just done is left as it was"


def test_rows_that_are_done_take_their_columns_along() -> None:
    now = request([[99, 5, 99, 6], [99, 99, 7, 0]], [4, 3], [0, 2, 4, 5])
    scores = Scores(torch.tensor([1, 2, 3, 4]), torch.tensor([0.5, 0.6, 0.1, 0.2]))
    after = foresee(now, scores, ("threshold", 0.5), 0)
    assert after is not None and after.inp.rows is not None
    assert after.inp.tokens.tolist() == [[99, 4, 7]] and after.inp.rows.tolist() == [1]
    assert after.inp.positions.tolist() == [[9, 10, 11]] and after.cells.tolist() == [0]
    assert foresee(now, scores, ("threshold", 0.05), 0) is None, "nobody has a cell left"


def test_shifted_cells_are_written_behind_their_columns() -> None:
    after = foresee(
        request([[5, 99, 99]], [3], [0, 1]), Scores(torch.tensor([1, 2]), torch.tensor([0.2, 0.9])), ("top", 1), 1
    )
    assert after is not None and after.inp.tokens.tolist() == [[5, 99, 2]] and after.cells.tolist() == [0]


def test_requests_are_the_same_number_for_number() -> None:
    keys = Draws(*(torch.arange(2) for _ in range(4)))
    one = request([[99, 5, 99]], [3], [0, 2], keys)
    again = Request(one.inp, one.cells.clone(), one.rule, Draws(*(torch.arange(2) for _ in range(4))))
    assert one.same(again)
    assert not one.same(Request(one.inp, one.cells, one.rule))
    assert not one.same(Request(one.inp, one.cells, one.rule, Draws(keys.seed, keys.step + 1, keys.cell, keys.branch)))
    assert not one.same(Request(one.inp, one.cells, ScoreRule(98), keys))
    assert not one.same(request([[99, 5, 99]], [3], [0, 2], keys)), "another cache"


@pytest.mark.parametrize(("rows", "kept"), [([1], False), ([0], True)])
def test_a_step_is_not_used_when_its_rows_went_elsewhere_meanwhile(rows: list[int], kept: bool) -> None:
    model, _ = recorded("llada")
    graphs, cache, rule = graphs_of(model), model.new_cache(2, 20), ScoreRule(39)
    assert graphs is not None

    def step(row: list[int], **settings: object) -> Scores | None:
        one = torch.ones(len(row)).long()
        inp = ForwardInput(
            torch.full((len(row), 4), 39), torch.arange(4).repeat(len(row), 1), one * 4, one * 9,
            cache=cache, rows=torch.tensor(row),
        )  # fmt: skip
        return graphs.run(inp, torch.arange(4 * len(row)), rule, **settings)  # type: ignore[arg-type]

    look = Lookahead(("top", 1))
    assert step([1], look=look) is not None and graphs._ahead is not None
    assert step(rows, guided=True) is None, "guidance runs eagerly"
    assert (graphs._ahead is not None) is kept and look.discarded == (not kept)
