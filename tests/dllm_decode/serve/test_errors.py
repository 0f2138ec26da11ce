"""Every row of the error table, as the real openai client sees it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from dllm_decode.engine.scheduler import Limits

openai = pytest.importorskip("openai")
from tests.dllm_decode.serve.conftest import Running  # noqa: E402

PICTURE = [{"type": "image_url", "image_url": {"url": "data:,"}}]
SCHEMA = {"type": "json_schema", "json_schema": {"name": "a", "schema": {}}}
BAD, UNSERVED = openai.BadRequestError, "unsupported_parameter"


def text(client: Any, **fields: Any) -> Any:
    return client.completions.create(model="tiny", **{"prompt": "copy: a", "extra_body": fields})


def chat(client: Any, **fields: Any) -> Any:
    messages = fields.pop("messages", [{"role": "user", "content": "copy: a"}])
    return client.chat.completions.create(model="tiny", messages=messages, extra_body=fields)


def raw(path: str, method: str = "post", **options: Any) -> Callable[..., Any]:
    def ask(client: Any, **body: Any) -> Any:
        given = {"body": body} if method == "post" else {}
        return getattr(client.with_options(**options), method)(path, cast_to=object, **given)

    return ask


@pytest.mark.parametrize(
    ("ask", "fields", "kind", "status", "param", "code"),
    [
        (text, {"best_of": 2}, BAD, 400, "best_of", UNSERVED),
        (text, {"echo": True}, BAD, 400, "echo", UNSERVED),
        (text, {"logprobs": 5}, BAD, 400, "logprobs", UNSERVED),
        (text, {"prompt": [0]}, BAD, 400, "prompt", None),
        (text, {"prompt": [5, 6], "suffix": "b"}, BAD, 400, "suffix", None),
        (text, {"prompt": ["a"] * 65}, BAD, 400, "prompt", None),
        (text, {"seed": -1}, BAD, 400, "seed", None),
        (text, {"max_tokens": 490, "prompt": "a " * 30}, BAD, 400, "max_tokens", "context_length_exceeded"),
        (text, {"dllm": {"policy": "treshold"}}, BAD, 400, "dllm.policy", None),
        (text, {"dllm": {"cache": "ram"}}, BAD, 400, "dllm.cache", None),
        (text, {"dllm": {"block_length": 0}}, BAD, 400, "dllm.block_length", None),
        (text, {"dllm": {"deadline_ms": "1"}}, BAD, 400, "dllm.deadline_ms", None),
        (text, {"dllm": {"policies": 1}}, BAD, 400, "dllm", "unknown_parameter"),
        (chat, {"messages": []}, BAD, 400, "messages", None),
        (chat, {"messages": [{"role": "tool", "content": "a"}]}, BAD, 400, "messages", None),
        (chat, {"messages": [{"role": "user", "content": PICTURE}]}, BAD, 400, "messages", None),
        (chat, {"response_format": SCHEMA}, BAD, 400, "response_format", UNSERVED),
        (chat, {"logprobs": True, "top_logprobs": 1}, BAD, 400, "top_logprobs", UNSERVED),
        (chat, {"tools": [{"type": "function"}], "tool_choice": "auto"}, BAD, 400, "tools", UNSERVED),
        (chat, {"logit_bias": {"5": 100}}, BAD, 400, "logit_bias", UNSERVED),
        (chat, {"presence_penalty": 0.1}, BAD, 400, "presence_penalty", UNSERVED),
        (chat, {"model": "other"}, openai.NotFoundError, 404, "model", "model_not_found"),
        (raw("/nowhere"), {"a": 1}, openai.NotFoundError, 404, None, "not_found"),
        (raw("/completions", "get"), {}, openai.APIStatusError, 405, None, None),
        (text, {"prompt": "a" * (1 << 20)}, openai.APIStatusError, 413, None, "body_too_large"),
        (text, {"prompt": "a" * (1 << 24)}, openai.APIStatusError, 413, None, "body_too_large"),
        (raw("/completions", default_headers={"Content-Type": "text/plain"}), {"prompt": "a"},
         openai.APIStatusError, 415, None, "wrong_content_type"),
        (raw("/completions", default_headers={"Host": "evil.example"}), {"prompt": "a"},
         openai.PermissionDeniedError, 403, None, "host_not_allowed"),
        (text, {"dllm": {"deadline_ms": 1, "policy": "topk:k=1"}, "max_tokens": 400, "logit_bias": {"1": -100}},
         openai.InternalServerError, 504, "deadline_ms", "deadline_exceeded"),
    ],
)  # fmt: skip
def test_what_is_refused(
    client: Any, ask: Any, fields: dict[str, Any], kind: Any, status: int, param: str | None, code: str | None
) -> None:
    with pytest.raises(kind) as caught:
        ask(client, **fields)
    error = caught.value
    assert (error.status_code, error.param, error.code) == (status, param, code)
    assert error.body["message"].endswith(".") and error.type
    assert error.response.headers.get("x-should-retry") == ("false" if status == 504 else None)


def test_keys_and_who_has_none(model: Any) -> None:
    with Running(model, keys=("right",)) as running:
        with pytest.raises(openai.AuthenticationError) as caught:
            text(running.client(api_key="wrong"))
        assert caught.value.code == "invalid_api_key" and caught.value.type == "authentication_error"
        assert text(running.client(api_key="right")).choices


def test_not_now(model: Any) -> None:
    """Loading, draining and full: each with the time after which to come back."""
    with Running(model, Limits(places=1, queue=1)) as running:
        engine = running.service.engine
        for code in ("loading", "draining"):
            engine.state = "loading" if code == "loading" else "ready"
            running.service.draining = code == "draining"
            with pytest.raises(openai.InternalServerError) as caught:
                text(running.client())
            assert (caught.value.status_code, caught.value.code) == (503, code)
            assert int(caught.value.response.headers["retry-after"]) >= 1
        running.service.draining = False
        with pytest.raises(openai.RateLimitError) as full:
            text(running.client(), prompt=["copy: a"] * 2)
        assert full.value.code == "queue_full" and int(full.value.response.headers["retry-after"]) >= 1
        assert text(running.client()).choices


def test_an_error_within_a_stream_is_raised(running: Running, client: Any) -> None:
    own = {"policy": "topk:k=1", "deadline_ms": 60}
    stream = client.completions.create(
        model="tiny", prompt="copy: a", max_tokens=400, stream=True, logit_bias={"1": -100}, extra_body={"dllm": own}
    )
    with pytest.raises(openai.APIError, match="deadline") as caught:
        reasons = [choice.finish_reason for chunk in stream for choice in chunk.choices]
        assert not any(reasons)
    assert caught.value.code == "deadline_exceeded"
    running.settle()


def test_what_is_taken_as_it_comes(client: Any) -> None:
    """Other spellings of the same request, and what is ignored."""
    plain = text(client, max_tokens=8).choices[0].text
    for fields in (
        {"max_completion_tokens": 8},
        {"max_tokens": 8, "best_of": 1, "echo": False, "frequency_penalty": 0, "suffix": None},
        {"max_tokens": 8, "user": "a", "metadata": {"a": "b"}, "service_tier": "auto", "unheard_of": 1},
        {"max_tokens": 8, "prompt": ["copy: a"], "temperature": 0, "stop": [], "logit_bias": {}},
    ):
        assert text(client, **fields).choices[0].text == plain
    said = chat(client, max_tokens=8).choices[0].message.content
    developer = [{"role": "developer", "content": "x"}, {"role": "user", "content": "copy: a"}]
    system = [{"role": "system", "content": "x"}, {"role": "user", "content": "copy: a"}]
    assert (
        chat(client, messages=developer).choices[0].message.content
        == chat(client, messages=system).choices[0].message.content
    )
    assert chat(client, max_tokens=8, response_format={"type": "text"}).choices[0].message.content == said
