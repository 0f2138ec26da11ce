"""The server below the client: raw bodies, headers, cuts, floods, failures, and leaving."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from dllm_decode.engine.scheduler import Limits

ROOT = Path(__file__).parents[3]
openai = pytest.importorskip("openai")
from tests.dllm_decode.serve.conftest import Running  # noqa: E402


def send(url: str, body: Any = None, headers: dict[str, str] | None = None, method: str | None = None) -> Any:
    """Status, headers and text of one request."""
    data = None if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
    head = {} if data is None else {"Content-Type": "application/json"}
    request = urllib.request.Request(url, data, {**head, **(headers or {})}, method=method)
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, dict(answer.headers), answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, dict(error.headers), error.read().decode()


def test_plain_pages(running: Running) -> None:
    assert json.loads(send(running.url + "/health")[2])["status"] == "ready"
    assert "version" in json.loads(send(running.url + "/version")[2])
    status, _, page = send(running.url + "/")
    assert status == 200 and "connect-src &#x27;self&#x27;" in page and "http:" not in page.split("<style>")[0]
    send(running.url + "/v1/completions", {"prompt": "copy: a"})
    text = send(running.url + "/metrics")[2]
    for name in (
        "dllm_requests_running", "num_requests_waiting", "dllm_forwards_total", "dllm_places", "dllm_tick_seconds",
        "dllm_tokens_forwarded_total", "generation_tokens_total", "request_success_total", "dllm_requests_total",
        "dllm_tokens_per_forward_count", "dllm_queue_seconds_count", "dllm_cache_bytes",
    ):  # fmt: skip
        assert name in text, name


@pytest.mark.parametrize(
    ("path", "body", "headers", "method", "status"),
    [
        ("/nowhere", None, {}, None, 404),
        ("/v1/completions", None, {}, None, 405),
        ("/v1/completions", b"{", {}, None, 400),
        ("/v1/completions", b"[]", {}, None, 400),
        ("/v1/completions", b'{"prompt": NaN}', {}, None, 400),
        ("/v1/completions", b"[" * 100_000, {}, None, 400),
        ("/v1/completions", b'{"prompt": "\\ud800"}', {}, None, 400),
        ("/v1/completions", {"prompt": ""}, {}, None, 400),
        ("/v1/completions", {"prompt": [0]}, {}, None, 400),
        ("/v1/completions", {"prompt": [10**9]}, {}, None, 400),
        ("/v1/completions", {"prompt": "a " * 2000}, {}, None, 400),
        ("/v1/completions", {"prompt": "a", "dllm": {"x": 1}}, {}, None, 400),
        ("/v1/completions", b'{"prompt": "a"}', {"Content-Type": "text/plain"}, None, 415),
        ("/v1/completions", b" " * (1 << 20) + b"{}", {}, None, 413),
        ("/v1/completions", {"prompt": "a"}, {"Host": "evil.example"}, None, 403),
        ("/v1/dllm/replay", {"trace": [{"a": 1}]}, {}, None, 400),
        ("/v1/dllm/replay", {"trace": 3}, {}, None, 400),
    ],
)
def test_errors_have_one_shape(running: Running, path: str, body: Any, headers: Any, method: Any, status: int) -> None:
    found, _, text = send(running.url + path, body, headers, method)
    error = json.loads(text)["error"]
    assert found == status and set(error) == {"message", "type", "param", "code"} and error["message"]


def test_keys(model: Any) -> None:
    with Running(model, keys=("secret", "other")) as running:
        for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "Basic secret"}):
            status, head, text = send(running.url + "/v1/models", headers=headers)
            assert status == 401 and json.loads(text)["error"]["code"] == "invalid_api_key"
        assert send(running.url + "/v1/models", headers={"Authorization": "Bearer other"})[0] == 200
        assert send(running.url + "/health")[0] == 200
        with pytest.raises(openai.AuthenticationError):
            running.client().models.list()


def test_the_default_cache_is_exact_where_there_is_one(model: Any) -> None:
    from dllm_decode.models import load_model
    from dllm_decode.serve.settings import Serving

    block = load_model("tiny-block", device="cpu")
    assert [Serving("x", cache=c).cache_of(m) for m in (model, block) for c in (None, "auto", "prefix")] == [
        "dual", "none", "prefix", "block", "block", "prefix",
    ]  # fmt: skip
    with Running(block) as running:
        found = json.loads(send(running.url + "/v1/completions", {"prompt": "copy: a b"})[2])
        assert found["dllm"]["cache"] == "block"
    assert Running(model).service.serving.cache_of(model) == "dual"


def test_strict_refuses_what_it_does_not_know(model: Any) -> None:
    with Running(model, strict=True, page=False) as running:
        status, _, text = send(running.url + "/v1/completions", {"prompt": "a", "foo": 1})
        assert status == 400 and json.loads(text)["error"]["code"] == "unknown_parameter"
        assert send(running.url + "/")[0] == 404


async def cut(port: int, body: dict[str, Any], after: float) -> None:
    """Ask, and hang up after some seconds."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    data = json.dumps(body).encode()
    head = "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    head += f"Content-Length: {len(data)}\r\n\r\n"
    writer.write(head.encode() + data)
    await writer.drain()
    await asyncio.sleep(after)
    writer.close()


def test_clients_that_hang_up_free_their_places(running: Running) -> None:
    async def many() -> None:
        body = {"prompt": "copy: a b", "max_tokens": 300, "dllm": {"policy": "topk:k=1"}}
        await asyncio.gather(*(cut(running.port, {**body, "stream": i % 2 == 0}, i % 5 * 0.01) for i in range(30)))

    asyncio.run(many())
    running.settle()
    scheduler = running.service.engine.scheduler
    assert scheduler is not None and all(len(lane.pool.free) == 4 for lane in scheduler.pools if lane.pool is not None)
    assert send(running.url + "/v1/completions", {"prompt": "copy: a"})[0] == 200


def test_a_full_queue_is_429_and_patient_clients_get_all(model: Any) -> None:
    with Running(model, Limits(places=2, queue=3)) as running:

        async def flood() -> list[Any]:
            async with openai.AsyncOpenAI(base_url=running.url + "/v1", api_key="x", max_retries=0) as client:
                asks = (client.completions.create(model="tiny", prompt="copy: a b") for _ in range(24))
                return await asyncio.gather(*asks, return_exceptions=True)

        found = asyncio.run(flood())
        full = [one for one in found if isinstance(one, openai.RateLimitError)]
        assert full and len(full) + sum(hasattr(one, "choices") for one in found) == 24
        assert all(int(one.response.headers["retry-after"]) >= 1 for one in full)
        assert all(one.code == "queue_full" for one in full)


def test_one_bad_row_fails_alone(model: Any) -> None:
    """A model that raises for one prompt: 500 for it, the others as alone."""
    hidden = model.hidden
    raises = model.tokenizer.encode("zebra")[0]

    def poisoned(inp: Any, cells: Any) -> Any:
        if bool((inp.tokens[:, :1] == raises).any()):
            raise RuntimeError("poison")
        return hidden(inp, cells)

    with Running(model) as running:
        alone = json.loads(send(running.url + "/v1/completions", {"prompt": "copy: a b"})[2])["choices"][0]
        model.hidden = poisoned
        try:

            async def all_of_them() -> list[Any]:
                async with openai.AsyncOpenAI(base_url=running.url + "/v1", api_key="x", max_retries=0) as client:
                    ids = [raises, *model.tokenizer.encode("copy: a b")]
                    prompts: list[Any] = ["copy: a b"] * 5 + [ids] + ["copy: a b"] * 2
                    asks = [client.completions.create(model="tiny", prompt=prompt) for prompt in prompts]
                    return await asyncio.gather(*asks, return_exceptions=True)

            found = asyncio.run(all_of_them())
            streamed = send(running.url + "/v1/completions", {"prompt": [raises, 5], "stream": True})[2]
        finally:
            del model.hidden
        assert (
            isinstance(found[5], openai.InternalServerError) and found[5].response.headers["x-should-retry"] == "false"
        )
        for one in [*found[:5], *found[6:]]:
            assert (one.choices[0].text, one.choices[0].dllm) == (alone["text"], alone["dllm"])
        assert '"error"' in streamed and "[DONE]" not in streamed and 'finish_reason":"' not in streamed


async def until(url: str, right: Callable[[int, dict[str, Any]], bool]) -> None:
    """Wait until ``/health`` says what is waited for."""
    end = time.monotonic() + 90
    while True:
        with suppress(OSError):  # nobody listens yet
            status, _, text = await asyncio.to_thread(send, url + "/health")
            if right(status, json.loads(text)):
                return
        assert time.monotonic() < end, "the server never said so"
        await asyncio.sleep(0.05)


@pytest.mark.slow
def test_sigterm_drains(tmp_path: Path) -> None:
    """What was admitted ends well, what comes is told so, and the exit code is 0."""
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "dllm_decode", "serve", "--port", str(port)]
    process = subprocess.Popen(command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, stderr=subprocess.PIPE)
    url = f"http://127.0.0.1:{port}"
    try:
        asyncio.run(until(url, lambda status, _: status == 200))

        async def drain() -> tuple[Any, int]:
            async with openai.AsyncOpenAI(base_url=url + "/v1", api_key="x", max_retries=0) as client:
                long = asyncio.ensure_future(
                    client.completions.create(model="tiny", prompt="copy: a", max_tokens=200,
                                              logit_bias={"1": -100}, extra_body={"dllm": {"policy": "topk:k=1"}})
                )  # fmt: skip
                await until(url, lambda _, said: said["running"] > 0)  # the client's first request may take seconds
                process.send_signal(signal.SIGTERM)
                await until(url, lambda _, said: said["status"] == "draining")
                try:
                    await client.completions.create(model="tiny", prompt="copy: a")
                    late = 200
                except openai.APIStatusError as error:
                    late = error.status_code
                return await long, late

        answer, late = asyncio.run(drain())
        assert answer.choices[0].finish_reason in ("stop", "length") and late == 503
        assert process.wait(30) == 0
    finally:
        process.kill()
        process.wait()
        if process.stderr is not None:
            process.stderr.close()
