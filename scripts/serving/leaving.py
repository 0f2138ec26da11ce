"""A server in a process of its own that is told to leave, once and twice."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from scripts.serving.client import Answer, ask
from scripts.serving.host import free_port

#: some two hundred forwards: seconds on an idle machine
LONG = {
    "prompt": "copy: a b c",
    "max_tokens": 200,
    "logit_bias": {"1": -100},
    "dllm": {"policy": "topk:k=1", "block_length": 32},
}


@contextmanager
def process(port: int) -> Iterator[subprocess.Popen[bytes]]:
    """``dllm-decode serve`` on a port, killed if it does not leave."""
    command = [sys.executable, "-m", "dllm_decode", "serve", "--port", str(port), "--places", "4"]
    found = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    try:
        yield found
    finally:
        found.kill()
        found.wait()


async def health(port: int, right: Callable[[dict[str, Any]], bool]) -> None:
    """Wait until ``/health`` says what is waited for."""

    def look() -> dict[str, Any]:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=30) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            with error:
                return json.load(error)

    until = time.monotonic() + 120
    while time.monotonic() < until:
        with suppress(OSError):  # nobody listens yet
            if right(await asyncio.to_thread(look)):
                return
        await asyncio.sleep(0.05)
    raise RuntimeError("the server never came to what was waited for")


async def _asked_to_leave(port: int, child: subprocess.Popen[bytes], count: int) -> list[asyncio.Task[Answer]]:
    """Requests that a server has taken, and has been told to leave over."""
    await health(port, lambda said: said["status"] == "ready")
    tasks = [asyncio.ensure_future(ask(port, {**LONG, "stream": i % 2 == 0})) for i in range(count)]
    await health(port, lambda said: said["running"] + said["waiting"] == count)
    child.send_signal(signal.SIGTERM)
    await health(port, lambda said: said["status"] == "draining")
    return tasks


async def _gone(child: subprocess.Popen[bytes], seconds: float) -> int | None:
    until = time.monotonic() + seconds
    while child.poll() is None and time.monotonic() < until:
        await asyncio.sleep(0.05)
    return child.poll()


async def once() -> list[str]:
    """Admitted requests end with 200, new ones get 503, exit code 0."""
    port, wrong = free_port(), []
    with process(port) as child:
        tasks = await _asked_to_leave(port, child, 4)
        late = await ask(port, {"prompt": "copy: a"})
        if late.status != 503 or not late.retry_after:
            wrong.append(f"a late request got {late.status}")
        for answer in await asyncio.gather(*tasks):
            if answer.status != 200 or answer.last.get("finish_reason") not in ("stop", "length"):
                wrong.append(f"an admitted request got {answer.status} {answer.text[-200:]}")
        code = await _gone(child, 20)
        if code != 0:
            wrong.append(f"exit code {code}")
    return wrong


async def twice() -> list[str]:
    """A second SIGTERM ends at once, with error events in the streams."""
    port, wrong = free_port(), []
    with process(port) as child:
        tasks = await _asked_to_leave(port, child, 8)
        child.send_signal(signal.SIGTERM)
        began = time.monotonic()
        code = await _gone(child, 10)
        if code != 0 or time.monotonic() - began > 5:
            wrong.append(f"exit code {code} after {time.monotonic() - began:.1f} s")
        for answer in await asyncio.gather(*tasks, return_exceptions=True):
            if isinstance(answer, Answer) and not answer.ended and "error" not in answer.text and answer.status != 200:
                wrong.append(f"a request ended without a word: {answer.status}")
    return wrong
