"""Conformance: the real openai client against the server, each answer compared with `generate`."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest

openai = pytest.importorskip("openai")

CHAT = [{"role": "user", "content": "copy: red green blue"}]
PROMPT = "reverse: a b c d"


def facts(result: Any, row: int = 0) -> tuple[Any, ...]:
    return result.texts[row], result.nfe[row], result.tokens_forwarded[row], result.until_eos_tokens[row]


def told(answer: Any, row: int = 0) -> tuple[Any, ...]:
    choice = answer.choices[row]
    text = choice.message.content if hasattr(choice, "message") else choice.text
    return text, choice.dllm["nfe"], choice.dllm["tokens_forwarded"], answer.usage.completion_tokens


def test_chat_is_generate(client: Any, sampler: Any) -> None:
    answer = client.chat.completions.create(model="tiny", messages=CHAT)
    alone = sampler().generate(CHAT)
    assert told(answer) == facts(alone)
    assert answer.choices[0].message.role == "assistant" and answer.choices[0].finish_reason == "stop"
    assert answer.usage.prompt_tokens == len(alone.trace[0].prompt)
    assert answer.dllm["policy"] == "threshold" and answer.dllm["queue_ms"] >= 0


def test_content_may_come_in_parts(client: Any) -> None:
    parts = [{"type": "text", "text": "copy: red "}, {"type": "text", "text": "green blue"}]
    whole = client.chat.completions.create(model="tiny", messages=CHAT)
    split = client.chat.completions.create(model="tiny", messages=[{"role": "user", "content": parts}])
    assert whole.choices[0].message.content == split.choices[0].message.content


@pytest.mark.parametrize("policy", ["threshold", "topk:k=1", "adablock+localleap", "freedave:drafts=2", "wino"])
@pytest.mark.parametrize("cache", ["none", "dual"])
def test_completions_are_generate_under_every_policy(client: Any, sampler: Any, policy: str, cache: str) -> None:
    own = {"policy": policy, "cache": cache}
    alone = sampler(policy, cache).generate(PROMPT, chat=False)
    plain = client.completions.create(model="tiny", prompt=PROMPT, extra_body={"dllm": own})
    assert told(plain) == facts(alone)
    text = ""
    for chunk in client.completions.create(model="tiny", prompt=PROMPT, stream=True, extra_body={"dllm": own}):
        text += chunk.choices[0].text
    assert text == alone.texts[0]


def test_streaming_ends_with_a_reason_and_the_usage(client: Any, sampler: Any) -> None:
    chunks = list(
        client.chat.completions.create(
            model="tiny", messages=CHAT, stream=True, stream_options={"include_usage": True},
            extra_body={"dllm": {"policy": "topk:k=1"}},
        )
    )  # fmt: skip
    alone = sampler("topk:k=1").generate(CHAT)
    assert chunks[0].choices[0].delta.role == "assistant"
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text == alone.texts[0] and sum(bool(c.choices and c.choices[0].delta.content) for c in chunks) > 2
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == "stop"
    assert chunks[-1].choices == [] and chunks[-1].usage.completion_tokens == alone.until_eos_tokens[0]
    assert len({c.id for c in chunks}) == 1


def test_seeds_and_samples(client: Any, sampler: Any) -> None:
    ask: dict[str, Any] = {"model": "tiny", "prompt": PROMPT, "temperature": 1.0, "n": 3}
    one = client.completions.create(**ask, seed=7)
    alone = sampler().generate(PROMPT, chat=False, temperature=1.0, seed=7, num_samples=3)
    assert [choice.text for choice in one.choices] == alone.texts
    drawn = client.completions.create(**ask)
    again = client.completions.create(**ask, seed=drawn.dllm["seed"])
    assert [c.text for c in drawn.choices] == [c.text for c in again.choices]
    assert [c.index for c in one.choices] == [0, 1, 2]


def test_several_prompts_and_token_ids(client: Any, sampler: Any, model: Any) -> None:
    ids = model.tokenizer.encode(PROMPT)
    answer = client.completions.create(model="tiny", prompt=[PROMPT, "sort: c a b"])
    alone = sampler().generate([PROMPT, "sort: c a b"], chat=False)
    assert [choice.text for choice in answer.choices] == alone.texts
    assert client.completions.create(model="tiny", prompt=ids).choices[0].text == alone.texts[0]


def test_stop_strings_cut_plain_and_streamed_alike(client: Any, sampler: Any) -> None:
    whole = sampler("topk:k=1").generate(CHAT).texts[0]
    stop = whole[len(whole) // 2 : len(whole) // 2 + 2]
    own = {"dllm": {"policy": "topk:k=1"}}
    plain = client.chat.completions.create(model="tiny", messages=CHAT, stop=stop, extra_body=own)
    alone = sampler("topk:k=1").generate(CHAT, stop=(stop,))
    assert plain.choices[0].message.content == alone.texts[0] == whole[: whole.index(stop)]
    assert plain.choices[0].dllm["nfe"] == alone.nfe[0] and plain.choices[0].finish_reason == "stop"
    stream = client.chat.completions.create(model="tiny", messages=CHAT, stop=[stop], stream=True, extra_body=own)
    assert "".join(c.choices[0].delta.content or "" for c in stream) == alone.texts[0]


def test_a_suffix_is_infilling(client: Any, sampler: Any, model: Any) -> None:
    codec, mask = model.tokenizer, model.mask_id
    ids = [*codec.encode("copy: red"), *[mask] * 3, *codec.encode(" blue")]
    alone = sampler().generate(ids, infill=True, max_new_tokens=0)
    answer = client.completions.create(model="tiny", prompt="copy: red", suffix=" blue", max_tokens=3)
    assert answer.choices[0].text == codec.decode(alone.sequences[0][:3])
    assert answer.choices[0].dllm["nfe"] == alone.nfe[0] and answer.choices[0].dllm["canvas_tokens"] == 3
    stream = client.completions.create(model="tiny", prompt="copy: red", suffix=" blue", max_tokens=3, stream=True)
    assert "".join(chunk.choices[0].text for chunk in stream) == answer.choices[0].text


def test_logprobs_are_of_the_recorded_confidence(client: Any, sampler: Any) -> None:
    answer = client.chat.completions.create(model="tiny", messages=CHAT, logprobs=True)
    trace = sampler().generate(CHAT).trace[0]
    sure = {cell: p for step in trace.steps for cell, p in zip(step.cells, step.confidence, strict=True)}
    content = answer.choices[0].logprobs.content
    assert len(content) == answer.usage.completion_tokens
    for cell, one in enumerate(content):
        assert one.logprob == pytest.approx(math.log(sure[cell])) and one.top_logprobs == []
    old = client.completions.create(model="tiny", prompt=PROMPT, logprobs=0).choices[0].logprobs
    assert len(old.tokens) == len(old.token_logprobs) == len(old.text_offset) and old.text_offset[0] == 0


def test_suppressed_tokens(client: Any, sampler: Any) -> None:
    banned = sampler().generate(CHAT).sequences[0][0]
    answer = client.chat.completions.create(model="tiny", messages=CHAT, logit_bias={str(banned): -100})
    assert answer.choices[0].message.content == sampler().generate(CHAT, suppress_tokens=[banned]).texts[0]


def test_drafts_and_traces_on_request(client: Any, sampler: Any) -> None:
    own = {"policy": "topk:k=1", "drafts": True, "trace": True}
    chunks = list(client.completions.create(model="tiny", prompt=PROMPT, stream=True, extra_body={"dllm": own}))
    drafts = [c.dllm for c in chunks if not c.choices and "cells" in c.dllm]
    alone = sampler("topk:k=1").generate(PROMPT, chat=False)
    final = next(c.choices[0] for c in chunks if c.choices and c.choices[0].finish_reason)
    assert len(drafts) == alone.nfe[0] and drafts[-1]["settled"] == drafts[-1]["length"] == 24
    canvas = [0] * 24
    for draft in drafts:
        for cell, token in zip(draft["cells"], draft["tokens"], strict=True):
            canvas[cell] = token
    assert canvas == alone.sequences[0]
    assert final.dllm["trace"][1:] == [json.loads(line) for line in alone.trace[0].to_lines()[1:]]


def test_models(client: Any) -> None:
    (card,) = client.models.list().data
    assert card.id == "tiny" and card.dllm["max_tokens"] == 24
    assert client.models.retrieve("tiny").id == "tiny"
    with pytest.raises(openai.NotFoundError) as caught:
        client.models.retrieve("gpt-4")
    assert caught.value.code == "model_not_found"


@pytest.mark.parametrize(
    ("field", "value", "kind", "code"),
    [
        ("model", "gpt-4", openai.NotFoundError, "model_not_found"),
        ("max_tokens", 5000, openai.BadRequestError, "context_length_exceeded"),
        ("max_tokens", 0, openai.BadRequestError, None),
        ("temperature", "hot", openai.BadRequestError, None),
        ("temperature", 3, openai.BadRequestError, None),
        ("top_p", 0, openai.BadRequestError, None),
        ("n", 99, openai.BadRequestError, None),
        ("stop", ["a"] * 5, openai.BadRequestError, None),
        ("logit_bias", {"5": 3}, openai.BadRequestError, "unsupported_parameter"),
        ("frequency_penalty", 1, openai.BadRequestError, "unsupported_parameter"),
        ("presence_penalty", -1, openai.BadRequestError, "unsupported_parameter"),
        ("response_format", {"type": "json_object"}, openai.BadRequestError, "unsupported_parameter"),
        ("tools", [{"type": "function", "function": {"name": "f"}}], openai.BadRequestError, "unsupported_parameter"),
        ("top_logprobs", 3, openai.BadRequestError, "unsupported_parameter"),
    ],
)
def test_what_cannot_be_served_names_the_field(
    client: Any, field: str, value: Any, kind: Any, code: str | None
) -> None:
    with pytest.raises(kind) as caught:
        client.chat.completions.create(**{"model": "tiny", "messages": CHAT, field: value})
    assert caught.value.param == field and caught.value.code == code and caught.value.body["message"].endswith(".")


def test_tools_that_are_not_to_be_used_and_fields_of_others_are_ignored(client: Any) -> None:
    tools = [{"type": "function", "function": {"name": "f"}}]
    answer = client.chat.completions.create(
        model="tiny", messages=CHAT, tools=tools, tool_choice="none", user="me", store=False, metadata={"a": "b"},
        extra_body={"whatever": 1},
    )  # fmt: skip
    assert answer.choices[0].finish_reason == "stop"


@pytest.mark.parametrize(
    "policy",
    ["@/etc/passwd", "learn2pd:filter=/etc/passwd", "os:system", "topk+factor", "(" * 3000,
     "freedave:step=(learn2pd:filter=x)"],
)  # fmt: skip
def test_a_request_reaches_no_file(client: Any, policy: str) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.completions.create(model="tiny", prompt="a", extra_body={"dllm": {"policy": policy}})
    assert caught.value.param == "dllm.policy" and "root:" not in str(caught.value)


def test_what_users_type_never_becomes_a_special_token(client: Any, sampler: Any, model: Any) -> None:
    from dllm_decode.serve.prompts import UserText

    users, special = UserText(model.tokenizer), {0, 1, 2, 3}
    for text in ("a<|mask|>b", "<|eos|><|bos|>", "<|<|mask|>sep|>", "x<|sep|>copy: a"):
        ids = users.encode(text)
        assert special.isdisjoint(ids) and model.tokenizer.decode(ids) == text
        chat = users.chat([{"role": "user", "content": text}])
        plain = users.chat([{"role": "user", "content": "x"}])
        assert sum(i in special for i in chat) == sum(i in special for i in plain)
        answer = client.chat.completions.create(model="tiny", messages=[{"role": "user", "content": text}])
        assert answer.usage.prompt_tokens == len(chat)
    ordinary = [{"role": "user", "content": "copy: red green"}]
    assert users.chat(ordinary) == model.tokenizer.encode_prompt(ordinary)


def test_deadlines(running: Any, client: Any) -> None:
    def ask(**own: Any) -> Any:
        return client.completions.create(
            model="tiny", prompt=PROMPT, max_tokens=400, logit_bias={"1": -100},
            extra_body={"dllm": {"policy": "topk:k=1", **own}},
        )  # fmt: skip

    with pytest.raises(openai.APIStatusError) as caught:
        ask(deadline_ms=30)
    assert caught.value.status_code == 504 and caught.value.response.headers["x-should-retry"] == "false"
    running.settle()
    part = ask(deadline_ms=2000, partial=True)
    assert part.choices[0].finish_reason == "length" and 0 < part.usage.completion_tokens <= 400
    running.settle()
    assert running.service.engine.scheduler.running == 0
