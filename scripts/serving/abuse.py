"""What a server owes itself: nothing left behind, nothing down, whatever is sent."""

from __future__ import annotations

import asyncio
import json
import random
import resource
import time
from collections import Counter
from pathlib import Path
from typing import Any

import torch
import typer

from scripts.serving.client import ask
from scripts.serving.host import Host
from scripts.serving.leaving import once, twice
from scripts.serving.work import Failures, body, equal, prompts, spread


def soak(host: Host, requests: int, tokens: int) -> Failures:
    """Memory and descriptors after many requests."""
    listed = prompts(200)
    sizes, descriptors = [], []
    for at in range(0, requests, 500):
        count = min(500, requests - at)
        bodies = [body(listed[(at + i) % 200], max_tokens=tokens, stream=i % 3 == 0) for i in range(count)]
        answers = asyncio.run(spread(host.port, bodies, 32))
        if any(answer.status != 200 for answer in answers):
            return [f"an answer was {Counter(answer.status for answer in answers)}"]
        sizes.append(resident())
        descriptors.append(len(list(Path("/proc/self/fd").iterdir())))
    host.settle()
    early, late = sizes[min(1, len(sizes) - 1)], sizes[-1]
    grown = f"RSS {early / 2**20:.0f} MiB after 1 000, {late / 2**20:.0f} MiB at the end"
    typer.echo(f"soak: {requests} requests, {grown}; descriptors {descriptors[0]} to {descriptors[-1]}")
    return [
        *([f"RSS grew by {(late - early) / 2**20:.0f} MiB"] if late > early + 16 * 2**20 else []),
        *([f"descriptors {descriptors}"] if descriptors[-1] > descriptors[0] + 2 else []),
        *host.busy_places(),
    ]


def resident() -> int:
    """Bytes of this process in memory."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * resource.getpagesize()


def abort(host: Host, requests: int) -> Failures:
    """Clients that hang up at random leave nothing behind."""
    draw = random.Random(2)

    async def run() -> None:
        gate = asyncio.Semaphore(48)

        async def one(i: int) -> None:
            async with gate:
                given = body("copy: a b c", max_tokens=200, stream=i % 2 == 0, dllm={"policy": "topk:k=1"})
                await ask(host.port, given, hang_up=draw.random() * 0.3)

        await asyncio.gather(*(one(i) for i in range(requests)))

    asyncio.run(run())
    time.sleep(2)
    left = host.scheduler.running + host.scheduler.waiting
    wrong = [f"{left} still run or wait"] if left else []
    wrong += host.busy_places()
    wrong += equal(host, 60, 16)
    typer.echo(f"abort: {requests} cut, {left} left after 2 s")
    return wrong


def fuzz(host: Host, cases: int, seed: int) -> Failures:
    """Odd bodies: no 5xx, always the error object, and the server lives."""
    draw, wrong, seen = random.Random(seed), [], Counter[int]()
    odd: list[Any] = [
        None, True, False, 0, -1, 1, 2**63, 1e308, -0.5,
        0.5, "", "a", "\x00", "\ud800", "<|mask|>", [], [[]], [1], [0],
        ["a", 1], [None], {}, {"a": 1}, {"type": "text"}, "threshold", "@/etc/passwd", "none", "é" * 3000, [5] * 700,
    ]  # fmt: skip
    names = (
        "model", "prompt", "messages", "max_tokens", "max_completion_tokens", "temperature", "top_p", "top_k", "seed",
        "n", "stop", "stream", "stream_options", "suffix", "logprobs", "top_logprobs", "logit_bias", "best_of", "echo",
        "dllm", "tools", "response_format", "frequency_penalty", "user", "nonsense",
    )  # fmt: skip
    inner = (
        "policy",
        "cache",
        "block_length",
        "refresh",
        "guidance",
        "trace",
        "drafts",
        "deadline_ms",
        "partial",
        "x",
    )

    def case() -> tuple[str, bytes]:
        path = draw.choice(("/v1/completions", "/v1/chat/completions"))
        given: Any = {"max_tokens": 4}
        given |= {"messages": [{"role": "user", "content": "copy: a"}]} if "chat" in path else {"prompt": "copy: a"}
        for _ in range(draw.randint(1, 3)):
            given[draw.choice(names)] = draw.choice(odd)
        if draw.random() < 0.3:
            given["dllm"] = {draw.choice(inner): draw.choice(odd) for _ in range(2)}
        if draw.random() < 0.2:
            given["messages"] = [{draw.choice(("role", "content", "x")): draw.choice((*odd, "user"))}]
        data = json.dumps(draw.choice(odd) if draw.random() < 0.05 else given).encode()
        if draw.random() < 0.1:
            at = draw.randrange(len(data) + 1)
            data = data[:at] + bytes(draw.randrange(256) for _ in range(3)) + data[at:]
        return path, data

    async def run() -> None:
        gate = asyncio.Semaphore(16)

        async def one(path: str, data: bytes) -> None:
            async with gate:
                answer = await ask(host.port, data, path=path)
            seen[answer.status] += 1
            if answer.status >= 500 or (answer.status >= 400 and not answer.message):
                wrong.append(f"{answer.status} for {path} {data[:200]!r}: {answer.text[:200]}")

        await asyncio.gather(*(one(*case()) for _ in range(cases)))

    asyncio.run(run())
    alive = asyncio.run(ask(host.port, body("copy: a"))).status
    large = asyncio.run(ask(host.port, b"[" + b"1," * 600_000 + b"1]")).status
    typer.echo(f"fuzz: {cases} bodies, {dict(seen)}; a large body gets {large}")
    return [*wrong[:20], *([f"then {alive}"] if alive != 200 else []), *([f"large: {large}"] if large != 413 else [])]


def flood(host: Host, concurrency: int) -> Failures:
    """More than fits: 200, or 429 with Retry-After; a client that tries again gets all."""
    bodies = [body("copy: a b c") for _ in range(2 * concurrency)]
    answers = asyncio.run(spread(host.port, bodies, concurrency))
    seen = Counter(answer.status for answer in answers)
    wrong = [f"{seen}"] if set(seen) - {200, 429} else []
    wrong += ["429 without Retry-After"] if any(a.status == 429 and not a.retry_after for a in answers) else []

    async def patient() -> int:
        import openai

        async with openai.AsyncOpenAI(
            base_url=f"http://127.0.0.1:{host.port}/v1", api_key="x", max_retries=20
        ) as client:
            asks = (
                client.completions.create(model="tiny", prompt="copy: a b", max_tokens=16) for _ in range(concurrency)
            )
            return len(await asyncio.gather(*asks))

    got = asyncio.run(patient())
    typer.echo(f"flood: {dict(seen)}; the openai client with retries got {got} of {concurrency}")
    return wrong


def poison(host: Host) -> Failures:
    """A model that raises, or says NaN, for one row."""
    model, codec = host.model, host.model.tokenizer
    assert codec is not None
    hidden, bad = model.hidden, codec.encode("copy: a")[-1]
    wrong: Failures = []
    good = [body(prompt) for prompt in prompts(30)]
    want = [answer.facts for answer in asyncio.run(spread(host.port, good, 8))]
    for kind in ("raises", "NaN"):

        def broken(inp: Any, cells: torch.Tensor, kind: str = kind) -> torch.Tensor:
            hit = (inp.tokens[:, 0] == bad) & (inp.positions[:, 0] == 0)
            if kind == "raises" and bool(hit.any()):
                raise RuntimeError("poison")
            out = hidden(inp, cells)
            return out.masked_fill(hit[cells // inp.tokens.shape[1]][:, None], torch.nan)

        model.hidden = broken  # type: ignore[method-assign]
        try:
            mixed = [*good[:15], {"prompt": [bad, bad], "max_tokens": 8}, *good[15:]]
            answers = asyncio.run(spread(host.port, mixed, 16))
        finally:
            del model.hidden
        one = answers.pop(15)
        if one.status != 500 or one.headers.get("x-should-retry") != "false":
            wrong.append(f"{kind}: the bad row got {one.status}")
        differ = sum(a.facts != w for a, w in zip(answers, want, strict=True))
        wrong += [f"{kind}: {differ} of the others differ"] if differ else []
    typer.echo(f"poison: {len(wrong)} faults")
    return wrong


def drain() -> Failures:
    """A process of its own: SIGTERM once, and twice."""
    wrong = [*asyncio.run(once()), *asyncio.run(twice())]
    typer.echo(f"drain: {len(wrong)} faults")
    return wrong
