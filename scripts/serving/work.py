"""What a server owes those who ask decently: equal answers, soon, and to each his share."""

from __future__ import annotations

import asyncio
import random
import statistics
import time
from collections.abc import Callable
from typing import Any

import typer

from dllm_decode.config import GenerationConfig
from dllm_decode.engine.sampler import DiffusionSampler
from dllm_decode.engine.scheduler import Limits, Scheduler
from dllm_decode.tasks import samples
from scripts.serving.client import Answer, ask
from scripts.serving.host import Host

POLICIES = ("threshold", "topk:k=2", "adablock+localleap", "freedave:drafts=2", "wino", "factor")
CACHES = ("none", "prefix", "dual")
#: bundled tasks whose answers take more than one forward
TASKS = ("lines", "latin4", "chain", "word", "shuffle", "kv_json")
Failures = list[str]


def prompts(count: int, seed: int = 0) -> list[str]:
    """Prompts of the bundled tasks."""
    found = [s.prompt for name in TASKS for s in samples(name, "test", 1 + count // len(TASKS), seed)]
    random.Random(seed).shuffle(found)
    return found[:count]


def body(prompt: str, **more: Any) -> dict[str, Any]:
    """An ask as a chat."""
    return {"messages": [{"role": "user", "content": prompt}], "max_tokens": 32, **more}


async def spread(port: int, bodies: list[dict[str, Any]], concurrency: int, **options: Any) -> list[Answer]:
    """Ask all of it, so many at a time."""
    gate = asyncio.Semaphore(concurrency)

    async def one(given: dict[str, Any]) -> Answer:
        async with gate:
            return await ask(port, given, **options)

    return list(await asyncio.gather(*(one(given) for given in bodies)))


def equal(host: Host, requests: int, concurrency: int) -> Failures:
    """Every answer under load equals the same request alone; a tenth of the clients hang up."""
    draw, bodies = random.Random(1), []
    for prompt in prompts(requests):
        own: dict[str, Any] = {"policy": draw.choice(POLICIES), "cache": draw.choice(CACHES), "block_length": 16}
        bodies.append(
            body(
                prompt,
                max_tokens=draw.choice((5, 16, 24, 40)),
                seed=draw.randrange(100),
                dllm=own,
                stream=draw.random() < 0.5,
                temperature=0.0 if own["policy"].startswith("freedave") else draw.choice((0.0, 0.7)),
            )
        )
    cut = {i for i in range(requests) if draw.random() < 0.1}
    gate = asyncio.Semaphore(concurrency)

    async def one(i: int) -> Answer | None:
        async with gate:
            return await ask(host.port, bodies[i], hang_up=draw.random() * 0.2 if i in cut else None)

    async def run() -> list[Answer | None]:
        return list(await asyncio.gather(*(one(i) for i in range(requests))))

    found = asyncio.run(run())
    wrong: Failures = []
    compared = 0
    for i, (given, answer) in enumerate(zip(bodies, found, strict=True)):
        if i in cut:
            continue
        own = given["dllm"]
        sampler = DiffusionSampler(host.model, own["policy"], own["cache"])
        alone = sampler.generate(
            given["messages"], max_new_tokens=given["max_tokens"], seed=given["seed"],
            temperature=given["temperature"], block_length=16,
        )  # fmt: skip
        want = alone.texts[0], alone.nfe[0], alone.tokens_forwarded[0]  # type: ignore[index]
        compared += 1
        if answer is None or answer.status != 200 or answer.facts != want:
            wrong.append(f"request {i} {given}: got {None if answer is None else answer.facts}, alone {want}")
    typer.echo(f"equal: {compared} compared, {len(cut)} cut off, {len(wrong)} differ")
    return wrong[:20]


def throughput(host: Host, requests: int, places: int) -> Failures:
    """Against offline decoding in fixed batches, alternating; wall, and CPU of the server's two threads."""
    listed = prompts(requests)
    sampler = DiffusionSampler(host.model, "threshold", "dual")

    def offline() -> None:
        for at in range(0, len(listed), places):
            sampler.generate(listed[at : at + places], max_new_tokens=32)

    def served() -> None:
        answers = asyncio.run(spread(host.port, [body(p) for p in listed], 2 * places))
        assert all(answer.status == 200 for answer in answers)

    offline()
    served()
    pairs = [(timed(host, offline), timed(host, served)) for _ in range(3)]
    wall = statistics.median(a["wall"] / b["wall"] for a, b in pairs)
    cpu = statistics.median((b["http"] + b["engine"]) / a["client"] for a, b in pairs)
    each = {n: 1000 * statistics.median(b[n] for _, b in pairs) / requests for n in ("http", "engine", "client")}
    alone = 1000 * statistics.median(a["client"] for a, _ in pairs) / requests
    typer.echo(
        f"throughput: wall {wall:.2f} of offline, CPU {cpu:.2f}x; ms per request: HTTP {each['http']:.2f} + engine "
        f"{each['engine']:.2f} against {alone:.2f} offline (the client's {each['client']:.2f} are not counted)"
    )
    return [*([f"wall {wall:.2f} < 0.9"] if wall < 0.9 else []), *([f"CPU {cpu:.2f} > 1.1"] if cpu > 1.1 else [])]


def timed(host: Host, task: Callable[[], object]) -> dict[str, float]:
    """Wall seconds, and CPU seconds of the server's, the engine's and this thread."""
    wall, before = time.perf_counter(), host.cpu()
    task()
    after = host.cpu()
    return {"wall": time.perf_counter() - wall, **{name: after[name] - before[name] for name in after}}


def overhead(host: Host, requests: int) -> Failures:
    """At concurrency 1: what HTTP adds to a request in process."""
    listed = prompts(requests)
    sampler = DiffusionSampler(host.model, "threshold", "dual")
    alone: list[dict[str, float]] = []
    served: list[dict[str, float]] = []
    for prompt in (*listed[:20], *listed):
        alone.append(timed(host, lambda: sampler.run(sampler.requests(prompt, max_new_tokens=32))))  # noqa: B023
        served.append(timed(host, lambda: asyncio.run(ask(host.port, body(prompt)))))  # noqa: B023
    del alone[:20], served[:20]  # the first ones warm up

    def each(found: list[dict[str, float]], name: str) -> float:
        return 1000 * sum(one[name] for one in found) / requests

    more = 1000 * (statistics.median(s["wall"] for s in served) - statistics.median(a["wall"] for a in alone))
    http, engine, offline = each(served, "http"), each(served, "engine"), each(alone, "client")
    spent = http + engine - offline
    typer.echo(
        f"overhead: {spent:.2f} ms CPU per request (HTTP {http:.2f}, engine {engine:.2f}, in process {offline:.2f}; "
        f"the client's {each(served, 'client'):.2f} are not counted), p50 {more:+.2f} ms against in process"
    )
    return [*([f"CPU {spent:.2f} ms > 2"] if spent > 2 else []), *([f"p50 {more:.2f} ms > 5"] if more > 5 else [])]


def first(host: Host, requests: int) -> Failures:
    """When the first settled text comes, as a share of the request's time."""
    found = []

    async def one() -> None:
        for prompt in prompts(requests):
            given = body(prompt, max_tokens=64, stream=True, dllm={"policy": "threshold", "block_length": 16})
            answer = await ask(host.port, given)
            if answer.first is not None and answer.facts[1] > 1:
                found.append(answer.first / answer.seconds)

    asyncio.run(one())
    share = statistics.median(found)
    typer.echo(f"first: p50 {share:.2f} of the request's time, over {len(found)} requests of more than one forward")
    return [f"{share:.2f} > 0.6"] if share > 0.6 else []


def fair(host: Host) -> Failures:
    """Long prompts beside running streams, and a flood in one of three pools."""
    ticks: list[float] = []
    host.on_tick(ticks.append)
    long = ("a b c d e f g " * 40).strip()
    codec = host.model.tokenizer
    assert codec is not None
    ids = codec.encode(long)[:280]
    stream = body("copy: a b c", max_tokens=200, stream=True, dllm={"policy": "topk:k=1"})

    async def long_prompts() -> tuple[float, float]:
        running = [asyncio.ensure_future(ask(host.port, stream)) for _ in range(8)]
        while host.scheduler.running < 8:
            await asyncio.sleep(0.005)
        del ticks[:]
        while len(ticks) < 30:
            await asyncio.sleep(0.005)
        before = statistics.median(ticks[10:])
        at = len(ticks)
        given = {"prompt": ids, "max_tokens": 16, "dllm": {"policy": "topk:k=1"}}
        late = [asyncio.ensure_future(ask(host.port, given)) for _ in range(16)]
        done = await asyncio.gather(*late)
        worst = max(ticks[at:])
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        assert all(answer.status == 200 for answer in done)
        return before, worst

    before, worst = asyncio.run(long_prompts())
    host.settle()
    opened = opening_ticks(host, ids)

    async def lone(flood: bool) -> float:
        noise = []
        if flood:
            for _ in range(48):
                given = body("copy: a b c", max_tokens=64, dllm={"policy": "topk:k=1"})
                noise.append(asyncio.ensure_future(ask(host.port, given)))
            other = body("sort: c b a", max_tokens=64, dllm={"policy": "factor"})
            noise.append(asyncio.ensure_future(ask(host.port, other)))
            await asyncio.sleep(0.3)
        began = time.perf_counter()
        await ask(host.port, body("copy: a b c d", max_tokens=64, dllm={"policy": "topk:k=2"}))
        spent = time.perf_counter() - began
        for task in noise:
            task.cancel()
        await asyncio.gather(*noise, return_exceptions=True)
        return spent

    quiet = statistics.median(asyncio.run(lone(False)) for _ in range(5))
    host.settle()
    flooded = []
    for _ in range(5):
        flooded.append(asyncio.run(lone(True)))
        host.settle()
    times = statistics.median(flooded) / quiet
    typer.echo(
        f"fair: slowest tick {worst / before:.1f}x the median before; 16 opened within {opened} ticks; a lone request "
        f"{times:.1f}x beside a flood"
    )
    return [
        *([f"slowest tick {worst / before:.1f}x > 8x"] if worst > 8 * before else []),
        *([f"{opened} ticks > 32"] if opened > 32 else []),
        *([f"lone request {times:.1f}x > 3x"] if times > 3 else []),
    ]


def opening_ticks(host: Host, ids: list[int]) -> int:
    """Ticks until 16 long prompts beside 8 running rows have had their first forward, counted without a clock."""
    scheduler = Scheduler(host.model, Limits(places=24, opening_budget=512))
    sampler = DiffusionSampler(host.model, "topk:k=1", "dual", GenerationConfig(max_new_tokens=200))
    for request in sampler.requests([[5, 6, 7]] * 8):
        scheduler.submit(request)
    for _ in range(5):
        scheduler.tick()
    late = [scheduler.submit(request) for request in sampler.requests([ids] * 16, max_new_tokens=16)]
    ticks = 0
    while ticks < 100:
        scheduler.tick()
        ticks += 1
        (lane,) = [lane for lane in scheduler.lanes if any(ticket in lane.live.values() for ticket in late)]
        assert lane.pool is not None
        steps = lane.pool.batch.rows.step.tolist()
        if all(ticket.place is not None and steps[ticket.place] > 0 for ticket in late):
            break
    return ticks
