"""What Prometheus reads: counters of the engine, histograms of requests; never a user's text in a label."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

from dllm_decode.engine.request import Outcome
from dllm_decode.engine.scheduler import DeadlinePassed, Scheduler
from samplers import spell

if TYPE_CHECKING:
    from dllm_decode.serve.engine import Engine
    from dllm_decode.serve.job import Job

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)


class Metrics:
    """A registry of one server; names as vLLM's where it has them, ``dllm_`` for what only a diffusion model has."""

    def __init__(self, model: str) -> None:
        self.registry = CollectorRegistry()
        self.labels = {"model": model}
        self.engine: Engine | None = None
        self.registry.register(self)

        def histogram(name: str, text: str, buckets: tuple[float, ...] = SECONDS) -> Any:
            return Histogram(name, text, ["model"], buckets=buckets, registry=self.registry).labels(model)

        def counter(name: str, text: str, *more: str) -> Any:
            return Counter(name, text, ["model", *more], registry=self.registry)

        self.tick = histogram("dllm_tick_seconds", "Seconds of an engine tick")
        self.queued = histogram("dllm_queue_seconds", "Seconds until a request had a place")
        self.first = histogram("dllm_time_to_first_settled_seconds", "Seconds until the first cell was final")
        self.whole = histogram("dllm_request_seconds", "Seconds of a request")
        self.per_forward = histogram(
            "dllm_tokens_per_forward",
            "Tokens of an answer per forward of its row",
            (1, 1.5, 2, 3, 4, 6, 8, 12, 16, 32),
        )
        self._status = counter("dllm_requests", "Requests by HTTP status", "status")
        self._success = counter("request_success", "Answers by reason of their end", "finished_reason")
        self._prompt = counter("prompt_tokens", "Tokens of prompts").labels(model)
        self._generated = counter("generation_tokens", "Tokens of answers").labels(model)

    def status(self, status: int) -> None:
        """A request was answered."""
        self._status.labels(self.labels["model"], str(status)).inc()

    def ended(self, job: Job, outcome: Outcome, reason: str, count: int) -> None:
        """A row has its answer."""
        self._success.labels(self.labels["model"], reason).inc()
        self._generated.inc(count)
        self.per_forward.observe(count / max(1, outcome.nfe))
        if outcome is job.channel.outcomes.get(0):
            self._prompt.inc(job.prompt_tokens)
            self._times(job)

    def failed(self, job: Job, outcome: Outcome) -> None:
        """A row has failed."""
        reason = "deadline" if isinstance(outcome.error, DeadlinePassed) else "error"
        self._success.labels(self.labels["model"], reason).inc()

    def _times(self, job: Job) -> None:
        self.whole.observe(time.monotonic() - job.came)
        began = job.tickets[0].began
        if began is not None:
            self.queued.observe(began - job.tickets[0].came)
        if job.channel.first is not None:
            self.first.observe(job.channel.first - job.came)

    def text(self) -> bytes:
        """The page."""
        return generate_latest(self.registry)

    def collect(self) -> Iterator[Any]:
        """Read the engine's own numbers."""
        scheduler = None if self.engine is None else self.engine.scheduler
        if scheduler is None:
            return
        yield from _gauges(scheduler, self.labels["model"])


def _gauges(scheduler: Scheduler, model: str) -> Iterable[Any]:
    def gauge(name: str, text: str, rows: Iterable[tuple[list[str], float]], *labels: str) -> Any:
        family = GaugeMetricFamily(name, text, labels=["model", *labels])
        for values, number in rows:
            family.add_metric([model, *values], number)
        return family

    def counter(name: str, text: str, rows: Iterable[tuple[list[str], float]], *labels: str) -> Any:
        family = CounterMetricFamily(name, text, labels=["model", *labels])
        for values, number in rows:
            family.add_metric([model, *values], number)
        return family

    running, waiting, spent = scheduler.running, scheduler.waiting, scheduler.spent
    pools = list(scheduler.pools)
    places = scheduler.limits.places * len(pools)
    for prefix in ("num_requests", "dllm_requests"):
        yield gauge(f"{prefix}_running", "Rows with a place", [([], running)])
        yield gauge(f"{prefix}_waiting", "Rows without a place", [([], waiting)])
    yield gauge("dllm_places", "Places of all pools", [(["busy"], running), (["free"], places - running)], "state")
    yield gauge("kv_cache_usage_perc", "Share of the places that are busy", [([], running / max(1, places))])
    yield gauge("dllm_pools", "Pools", [([], len(pools))])
    yield gauge("dllm_cache_bytes", "Bytes of a pool", [([_short(lane), str(i)], lane.bytes) for i, lane in
                enumerate(pools)], "pool", "number")  # fmt: skip
    yield gauge("dllm_opening_budget_tokens", "Tokens openings may take per tick", [([], scheduler.budget)])
    yield counter("dllm_memory_errors", "Ticks that did not fit in memory", [([], scheduler.memory_errors)])
    phases = ("opening", "block")
    yield counter("dllm_forwards", "Forwards", [([p], spent[f"forwards_{p}"]) for p in phases], "phase")
    yield counter("dllm_tokens_forwarded", "Tokens forwarded", [([p], spent[f"tokens_{p}"]) for p in phases], "phase")
    yield counter("dllm_tokens_committed", "Cells committed", [([], spent["committed"])])


def _short(lane: Any) -> str:
    """A pool's name: eight letters that say nothing about users."""
    key = f"{spell(lane.like.policy)}/{lane.like.cache}/{lane.slots}/{lane.cells}"
    return hashlib.sha256(key.encode()).hexdigest()[:8]
