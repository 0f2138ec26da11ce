"""When each forward of a run began, and what the same forwards cost on their own."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from dllm_decode.engine.canvas import Rows
from dllm_decode.engine.sampler import DiffusionSampler
from samplers.contract.policy import Forecast


class Enough(Exception):
    """Stops a run that has been measured long enough."""


@dataclass
class Clock:
    """A run's forwards: when each began, and what the model was asked for.

    Attributes:
        most: stop before the next forward. ``marks``: seconds, and whether it opened a block; one more for the end.
        asked: arguments of ``ModelStep.run``, by kind of forward, while it runs. ``bare``: seconds of one of each kind
            on its own, ``repeats`` times.
        discarded: steps begun ahead and thrown away.
    """

    most: int
    repeats: int = 5
    marks: list[tuple[float, bool]] = field(default_factory=list)
    asked: dict[bool, list[tuple[Any, ...]]] = field(default_factory=lambda: {True: [], False: []})
    bare: dict[bool, list[float]] = field(default_factory=lambda: {True: [], False: []})
    discarded: int = 0

    def run(
        self, sampler: DiffusionSampler, prompts: list[list[int]], forecast: Callable[[Rows], Forecast] | None = None
    ) -> None:
        """Decode the prompts; ``forecast`` replaces the policy's own, forward by forward."""
        feed = sampler.feed(sampler.requests(prompts))
        forwarder, step = feed.pool.batch.forwarder, feed.pool.batch.forwarder.step
        predict, ask = forwarder.predict, step.run

        def timed(group: Rows, *rest: Any) -> Any:
            # A forward ends with the download of its scores: between two beginnings lies all of a step.
            self.marks.append((time.perf_counter(), bool((group.block_step == 0).all())))
            if len(self.marks) > self.most:
                raise Enough
            if forecast is not None and step.look is not None:
                step.look.forecast = forecast(group)
            return predict(group, *rest)

        def kept(*arguments: Any) -> Any:
            self.asked[self.marks[-1][1]].append(arguments)
            return ask(*arguments)

        forwarder.predict = timed  # type: ignore[method-assign, assignment]
        step.run = kept  # type: ignore[method-assign, assignment]
        try:
            for _ in feed.ticks():
                pass
        except Enough:
            pass
        else:
            self.marks.append((time.perf_counter(), False))
        finally:
            del forwarder.predict, step.run  # they hold what holds them, and the run's cache with it
        self.discarded = step.discarded
        for opening, calls in self.asked.items():
            if calls:
                arguments = calls[len(calls) // 2][:5]  # without the last: nothing is begun ahead
                call = lambda arguments=arguments: ask(*arguments)  # type: ignore[misc]  # noqa: E731
                self.bare[opening] = walls(call, self.repeats)
                calls.clear()  # they hold the cache

    def steps(self, opening: bool) -> list[float]:
        """Seconds of each step of a kind."""
        return [b[0] - a[0] for a, b in zip(self.marks, self.marks[1:], strict=False) if a[1] == opening]


def walls(call: Callable[[], object], repeats: int = 5) -> list[float]:
    """Seconds of a call that waits for its result."""
    out = []
    for _ in range(repeats):
        began = time.perf_counter()
        call()
        out.append(time.perf_counter() - began)
    return out
