"""The scheduler on a clock of its own: who is admitted, who is ticked, who waits no longer than the rule allows."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dllm_decode import DiffusionSampler, GenerationConfig
from dllm_decode.engine.request import Outcome, Request
from dllm_decode.engine.scheduler import DeadlinePassed, Limits, NeverFits, QueueFull, Scheduler
from tests.toys import tiny


class Desk:
    """A scheduler, its clock, and what came back."""

    def __init__(self, **limits: Any) -> None:
        self.now = 0.0
        self.model = tiny("llada")
        self.scheduler = Scheduler(self.model, Limits(**limits), clock=lambda: self.now)
        self.done: list[Outcome] = []

    def request(self, policy: str = "topk:k=1", cells: int = 8, prompt: int = 2, **settings: Any) -> Request:
        sampler = DiffusionSampler(self.model, policy, "dual", GenerationConfig(max_new_tokens=cells, block_length=4))
        return sampler.requests([[1] * prompt], on_done=self.done.append, **settings)[0]

    def run(self) -> int:
        ticks = 0
        while self.scheduler.tick():
            ticks += 1
            assert ticks < 10_000
        return ticks


def test_everybody_is_served_and_equals_generate() -> None:
    desk = Desk(places=3)
    requests = [desk.request(policy, cells) for policy in ("topk:k=1", "threshold") for cells in (3, 8, 11, 5)]
    for request in requests:
        desk.scheduler.submit(request)
    assert desk.scheduler.waiting == 8
    desk.run()
    assert (desk.scheduler.waiting, desk.scheduler.running, len(desk.done)) == (0, 0, 8)
    assert len(desk.scheduler.pools) == 2, "lengths share a pool, policies do not"
    for outcome in desk.done:
        request = outcome.request
        alone = DiffusionSampler(desk.model, request.policy, "dual", request.config).generate(request.ids[:2])
        assert (outcome.tokens, outcome.nfe, outcome.tokens_forwarded) == (
            alone.sequences[0], alone.nfe[0], alone.tokens_forwarded[0],
        )  # fmt: skip
    spent = desk.scheduler.spent
    assert spent["tokens_opening"] + spent["tokens_block"] == sum(o.tokens_forwarded for o in desk.done)


def test_the_queue_is_bounded() -> None:
    desk = Desk(places=1, queue=2, queue_tokens=10)
    desk.scheduler.submit(desk.request(prompt=20))  # one may always wait
    with pytest.raises(QueueFull, match="1 requests of 20 prompt tokens wait already"):
        desk.scheduler.submit(desk.request())
    desk.scheduler.tick()
    for _ in range(2):
        desk.scheduler.submit(desk.request())
    with pytest.raises(QueueFull, match="no more than 2 of 10 may; try again later"):
        desk.scheduler.submit(desk.request(prompt=1))
    desk.run()
    assert len(desk.done) == 3


def test_deadlines_pass_waiting_and_running() -> None:
    desk = Desk(places=1)
    for deadline in (5.0, 2.0, None):
        desk.scheduler.submit(desk.request(), deadline)
    desk.scheduler.tick()
    desk.now = 3.0
    desk.scheduler.tick()
    assert [type(o.error) for o in desk.done] == [DeadlinePassed] and desk.done[0].nfe == 0
    desk.now = 6.0
    desk.scheduler.tick()
    assert isinstance(desk.done[1].error, DeadlinePassed) and desk.done[1].nfe == 2 and desk.done[1].settled <= 8
    desk.run()
    assert desk.done[2].error is None and len(desk.done) == 3


def test_who_cancels_is_gone_at_once() -> None:
    desk = Desk(places=1)
    running, waiting, last = (desk.scheduler.submit(desk.request()) for _ in range(3))
    desk.scheduler.tick()
    desk.scheduler.cancel(waiting)
    desk.scheduler.cancel(running)
    assert (desk.scheduler.waiting, desk.scheduler.running) == (1, 0)
    desk.run()
    assert [o.request for o in desk.done] == [last.request]
    desk.scheduler.cancel(last)  # too late, and harmless


def test_a_flood_costs_another_setting_its_share() -> None:
    """A lone request in a pool of its own gets every other token, not every other tick of the whole queue."""
    desk = Desk(places=8)
    for _ in range(40):
        desk.scheduler.submit(desk.request("topk:k=1", 16, 8))
    for _ in range(5):
        desk.scheduler.tick()
    desk.scheduler.submit(desk.request("threshold", 8))
    ticks = before = 0
    while not any("Threshold" in str(o.request.policy) for o in desk.done):
        before = desk.scheduler.spent["tokens_block"] + desk.scheduler.spent["tokens_opening"] if not ticks else before
        desk.scheduler.tick()
        ticks += 1
    spent = desk.scheduler.spent["tokens_block"] + desk.scheduler.spent["tokens_opening"] - before
    own = next(o for o in desk.done if "Threshold" in str(o.request.policy)).tokens_forwarded
    largest = 8 * 24  # tokens of the widest tick of the other pool
    assert spent <= 2 * own + 2 * largest


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_an_opening_waits_for_no_more_turns_than_there_are_places(data: st.DataObject) -> None:
    """Whatever the lengths and the budget: rows of one setting share turns, and the oldest opening is always made."""
    places = data.draw(st.integers(2, 8))
    desk = Desk(places=places, opening_budget=data.draw(st.integers(1, 100)))
    number = data.draw(st.integers(1, places - 1))
    running = [desk.request(cells=40, prompt=data.draw(st.integers(1, 30))) for _ in range(number)]
    for request in running:
        desk.scheduler.submit(request)
    for _ in range(data.draw(st.integers(1, 12))):
        desk.scheduler.tick()
    late = [
        desk.scheduler.submit(desk.request(cells=data.draw(st.sampled_from((4, 40))), prompt=40))
        for _ in range(places - number)
    ]
    for _ in range(places):
        desk.scheduler.tick()
    assert len(desk.scheduler.lanes) == 1, "sizes share the pool that is at work"
    ended = [outcome.request for outcome in desk.done]
    (lane,) = desk.scheduler.lanes
    assert lane.pool is not None
    steps = lane.pool.batch.rows.step.tolist()
    assert all(t.request in ended or (t.place is not None and steps[t.place] > 0) for t in late)


def test_a_short_request_gets_a_pool_of_its_size_where_the_long_one_is_full() -> None:
    desk = Desk(places=2)
    desk.scheduler.submit(desk.request(cells=150))
    desk.scheduler.tick()
    for _ in range(2):
        desk.scheduler.submit(desk.request(cells=4))
    assert [lane.cells for lane in desk.scheduler.lanes] == [256, 128]
    desk.run()
    assert len(desk.done) == 3 and all(outcome.error is None for outcome in desk.done)


def test_idle_time_earns_nothing() -> None:
    desk = Desk(places=2)
    desk.scheduler.submit(desk.request("threshold"))
    desk.run()
    for _ in range(6):
        desk.scheduler.submit(desk.request("topk:k=1", 12))
    desk.scheduler.tick()
    desk.scheduler.submit(desk.request("threshold"))
    desk.scheduler.tick()
    served = [lane.served for lane in desk.scheduler.pools]
    assert max(served) - min(served) < 100


def test_pools_give_their_memory_back() -> None:
    desk = Desk(places=2, idle_seconds=10)
    desk.scheduler.submit(desk.request())
    desk.run()
    assert len(desk.scheduler.pools) == 1 and desk.scheduler.cache_bytes > 0
    desk.now = 11.0
    desk.scheduler.tick()
    assert not desk.scheduler.pools and not desk.scheduler.lanes and desk.scheduler.cache_bytes == 0


def test_what_never_fits_is_refused_and_what_does_not_fit_now_waits() -> None:
    one = Desk(places=2)
    one.scheduler.submit(one.request())
    size = one.scheduler.lanes[0].bytes
    desk = Desk(places=2, bytes=size + 1, idle_seconds=1e9)
    for policy in ("topk:k=1", "topk:k=2", "topk:k=1", "topk:k=4"):
        desk.scheduler.submit(desk.request(policy))
    while desk.scheduler.tick():
        assert len(desk.scheduler.pools) <= 1 and desk.scheduler.cache_bytes <= size + 1
    assert len(desk.done) == 4
    tight = Desk(places=2, bytes=size - 1)
    with pytest.raises(NeverFits, match="ask for fewer tokens, or for another policy or cache"):
        tight.scheduler.submit(tight.request())


def test_a_setting_without_a_pool_gets_one_though_the_others_never_rest() -> None:
    desk = Desk(places=2, pools=1, queue=1000)
    for _ in range(6):
        desk.scheduler.submit(desk.request("topk:k=1"))
    desk.scheduler.tick()
    desk.scheduler.submit(desk.request("threshold"))
    ticks = 0
    while ticks < 60:
        ticks += 1
        desk.scheduler.submit(desk.request("topk:k=1"))  # they keep coming
        desk.scheduler.tick()
        if any("Threshold" in str(o.request.policy) for o in desk.done):
            break
    assert ticks < 60


def test_out_of_memory_halves_the_budget() -> None:
    desk = Desk(places=4, opening_budget=512)
    hidden = desk.model.hidden

    def small(inp: Any, cells: Any) -> Any:
        if len(inp.tokens) > 1:
            raise RuntimeError("not enough memory: you tried to allocate memory")
        return hidden(inp, cells)

    desk.model.hidden = small  # type: ignore[method-assign]
    try:
        for _ in range(4):
            desk.scheduler.submit(desk.request(cells=4))
        desk.run()
    finally:
        del desk.model.hidden
    assert all(o.error is None for o in desk.done) and len(desk.done) == 4
    assert desk.scheduler.memory_errors >= 1 and desk.scheduler.budget < 512
